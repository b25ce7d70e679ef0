"""How the summary of a user's entries is made (settled.py): from a feed that took all of them."""

import numpy as np

from recommendation_service.model.columns import CatalogArrays, Int32, Int64
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import Place, compiled, inlined
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.kept_pools import NEVER_ENDS
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import (
    ACTED,
    HIDDEN,
    SCROLLING_SECONDS,
    all_stay,
    carried,
    lifetime_of,
    when_of,
)
from recommendation_service.ranking.settled import (
    CARRIED,
    ENTRIES,
    FIRST_WORD,
    HEADS,
    LATEST,
    MOST_CARRIED,
    ROWS,
    UNTIL,
)
from recommendation_service.ranking.working_memory import EXCLUDED, SEEN, SEEN_CREATORS, WorkingMemory

HOLDS_SECONDS = 60  # at least, or it is not worth the writing
NO_SUMMARY = 0
ZERO = np.int64(0)  # to begin with, see candidates.py


@compiled
def summarise(frame: Frame, request: RankingRequest) -> int:
    """Write the summary of the entries that the feed in the frame's memory began with, but for its source, to
    ``memory.settled``: of ``request.seen`` entries, or of those and of what the summary there is of. How many words
    that are, or NO_SUMMARY: they have not settled.

    So it is of who does not scroll, where entries have expired or will at once, where something seen came back, and
    where a creator is hidden.
    """
    memory, now, count, known = frame.memory, request.now, request.seen, carried(request, frame.memory)
    numbers, rows, lifetimes = memory.seen_numbers, memory.seen_rows, memory.lifetimes
    words, places = memory.settled.words, memory.settled.rows
    if count == known or memory.counts[SEEN_CREATORS] > 0 or not all_stay(request, memory):
        return NO_SUMMARY
    until, latest, entries, place = NEVER_ENDS, int(ZERO), int(ZERO), int(ZERO)
    if request.is_settled:
        until, latest, entries, place = words[UNTIL], words[LATEST], words[ENTRIES], words[ROWS]
    for i in range(known, count):
        when = when_of(numbers[2 * i + 1])
        latest = max(latest, when)
        if numbers[2 * i + 1] & 15 != HIDDEN:
            until = min(until, when + lifetime_of(numbers[2 * i + 1], lifetimes))
    if until < now + HOLDS_SECONDS or not now - SCROLLING_SECONDS < latest <= now:
        return NO_SUMMARY
    first, before = 2 * (FIRST_WORD + 2 * _acted(numbers, rows, count)), 2 * (FIRST_WORD + 2 * known)
    for i in range(place):  # more were acted on than before: what is there makes room for them, from its end on
        places[first + place - 1 - i] = places[before + place - 1 - i]
    words[CARRIED] = _carry(numbers, rows, count, words)
    place += first
    for i in range(known, count):
        if rows[i] >= 0:
            places[place] = -1 - rows[i] if numbers[2 * i + 1] & 15 == HIDDEN else rows[i]
            place += 1
    if place & 1:
        places[place] = 0  # the half of a word that is left
    _find_heads(frame.catalog, frame.policy, request, memory)
    words[UNTIL], words[LATEST], words[ENTRIES], words[ROWS] = until, latest, entries + count - known, place - first
    return (place + 1) // 2


@inlined
def _find_heads(catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory) -> None:
    """None where the request, or a fact that is not the catalog's, keeps something away as well."""
    flags, order, places = memory.flags, catalog.order_items, memory.settled.rows
    if not request.is_settled:
        memory.settled.words[HEADS:FIRST_WORD] = 0
    if len(request.excluded) > 0 or request.history > 0:
        return
    for kind in range(len(policy.pool)):
        place = catalog.order_offsets[kind] + places[2 * HEADS + kind]
        while place < catalog.order_offsets[kind + 1] and flags[Place(order[place])] & (EXCLUDED | SEEN) != 0:
            place += 1
        places[2 * HEADS + kind] = place - catalog.order_offsets[kind]


@inlined
def _acted(numbers: Int64, rows: Int32, count: int) -> int:
    """How many entries are carried."""
    found = 0
    for i in range(count):
        found += int(rows[i] >= 0 and numbers[2 * i + 1] & 15 == ACTED)
    return min(found, MOST_CARRIED)


@inlined
def _carry(numbers: Int64, rows: Int32, count: int, words: Int64) -> int:
    """The latest of what the user acted on, in the entries' order; how many."""
    found = _acted(numbers, rows, count)
    left, place = found, FIRST_WORD + 2 * found
    for back in range(count):
        i = count - 1 - back
        if left > 0 and rows[i] >= 0 and numbers[2 * i + 1] & 15 == ACTED:
            left, place = left - 1, place - 2
            words[place], words[place + 1] = numbers[2 * i], numbers[2 * i + 1]
    return found
