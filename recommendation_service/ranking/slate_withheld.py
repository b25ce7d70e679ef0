"""What a feed could not hold because of its request or its user: of the feeds of which a decision is recorded.

feed/withheld.py packs it.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, Int64
from recommendation_service.ranking.compiled import compiled
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.places import find_item, key_at, pack_key
from recommendation_service.ranking.seen import EPOCH, HIDDEN
from recommendation_service.ranking.slate_decision import DecisionMemory
from recommendation_service.ranking.working_memory import DISLIKED, EXCLUDED, SEEN, TOUCHED_ITEMS

# Why, beside the states of ranking/seen.py, 1 to 4.
BY_REQUEST, CREATOR_HIDDEN, TAKEN = 5, 6, 7


class WithheldMemory(NamedTuple):
    """Of up to so many items."""

    keys: Int64
    when: Int64  # seconds since 1970; 0: not known
    why: Bytes


def make_withheld_memory(items: int) -> WithheldMemory:
    return WithheldMemory(np.zeros(items, np.int64), np.zeros(items, np.int64), np.zeros(items, np.uint8))


@compiled
def collect_withheld(
    frame: Frame, decision: DecisionMemory, excluded: Int64, entries: int, withheld: WithheldMemory
) -> int:
    """Of the feed that is in the frame's memory: how many items there are. Where that is more than there is room for,
    nothing was noted. ``excluded``: the numbers that the request names; ``entries``: how many were remembered of the
    user; ``decision``: for its places, which are 0 before and after."""
    catalog, memory, place = frame.catalog, frame.memory, decision.place
    touched, flags = memory.touched_items, memory.flags
    found = 0
    for i in range(memory.counts[TOUCHED_ITEMS]):
        if flags[touched[i]] & (EXCLUDED | SEEN):
            found += 1
    if found > len(withheld.keys):
        return found
    found = 0
    for i in range(memory.counts[TOUCHED_ITEMS]):
        row = touched[i]
        if flags[row] & (EXCLUDED | SEEN):
            is_seen = flags[row] & SEEN != 0
            withheld.keys[found] = key_at(catalog, row)
            withheld.when[found] = memory.seen_when[row] if is_seen else 0
            withheld.why[found] = TAKEN if is_seen else 0
            if flags[row] & EXCLUDED and not flags[row] & DISLIKED:
                withheld.when[found], withheld.why[found] = 0, CREATOR_HIDDEN
            found += 1
            place[row] = found
    for number in excluded:
        for item_type in catalog.type_number:
            row = find_item(catalog, pack_key(item_type, number))
            if row >= 0 and place[row] > 0 and withheld.why[place[row] - 1] == CREATOR_HIDDEN:
                withheld.why[place[row] - 1] = BY_REQUEST
    for entry in range(entries):
        row = memory.seen_rows[entry]
        if row >= 0 and place[row] > 0:
            at = place[row] - 1
            state, moment = memory.seen_entries[entry, 1] & 15, (memory.seen_entries[entry, 1] >> 32) + EPOCH
            is_hidden = flags[row] & DISLIKED != 0
            is_barred = flags[row] & EXCLUDED and not is_hidden
            # Not what has expired.
            counts = is_hidden if state == HIDDEN else flags[row] & SEEN != 0 and moment == memory.seen_when[row]
            if counts and not is_barred:
                withheld.why[at], withheld.when[at] = state, moment
    for i in range(memory.counts[TOUCHED_ITEMS]):
        place[touched[i]] = 0
    return found
