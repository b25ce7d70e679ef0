"""How the summary of a user's entries is made (settled.py): from a feed that took all of them."""

from recommendation_service.model.columns import Int32, Int64
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.kept_pools import NEVER_ENDS
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import ACTED, HIDDEN, SCROLLING_SECONDS, all_stay, lifetime_of, when_of
from recommendation_service.ranking.settled import CARRIED, ENTRIES, FIRST_WORD, LATEST, MOST_CARRIED, ROWS, UNTIL
from recommendation_service.ranking.working_memory import SEEN_CREATORS

HOLDS_SECONDS = 60  # at least, or it is not worth the writing
NO_SUMMARY = 0


@compiled
def summarise(frame: Frame, request: RankingRequest) -> int:
    """Write the summary of the ``request.seen`` entries that the feed in the frame's memory began with, but for its
    source, to ``memory.settled``; how many words that are, or NO_SUMMARY: they have not settled.

    So it is of who does not scroll, where entries have expired or will at once, where something seen came back, and
    where a creator is hidden.
    """
    memory, now = frame.memory, request.now
    numbers, rows, lifetimes = memory.seen_numbers, memory.seen_rows, memory.lifetimes
    words, places = memory.settled.words, memory.settled.rows
    count = request.seen
    if count == 0 or memory.counts[SEEN_CREATORS] > 0 or not all_stay(request, memory):
        return NO_SUMMARY
    until, latest = NEVER_ENDS, 0
    for i in range(count):
        when = when_of(numbers[2 * i + 1])
        latest = max(latest, when)
        if numbers[2 * i + 1] & 15 != HIDDEN:
            until = min(until, when + lifetime_of(numbers[2 * i + 1], lifetimes))
    if until < now + HOLDS_SECONDS or not now - SCROLLING_SECONDS < latest <= now:
        return NO_SUMMARY
    carried = _carry(numbers, rows, count, words)
    first = 2 * (FIRST_WORD + 2 * carried)
    place = first
    for i in range(count):
        if rows[i] >= 0:
            places[place] = -1 - rows[i] if numbers[2 * i + 1] & 15 == HIDDEN else rows[i]
            place += 1
    if place & 1:
        places[place] = 0  # the half of a word that is left
    words[UNTIL], words[LATEST], words[ENTRIES] = until, latest, count
    words[CARRIED], words[ROWS] = carried, place - first
    return (place + 1) // 2


@inlined
def _carry(numbers: Int64, rows: Int32, count: int, words: Int64) -> int:
    """The latest of what the user acted on, in the entries' order; how many."""
    carried, begin = 0, count
    while begin > 0 and carried < MOST_CARRIED:
        begin -= 1
        carried += int(rows[begin] >= 0 and numbers[2 * begin + 1] & 15 == ACTED)
    place = FIRST_WORD
    for i in range(begin, count):
        if rows[i] >= 0 and numbers[2 * i + 1] & 15 == ACTED:
            words[place], words[place + 1] = numbers[2 * i], numbers[2 * i + 1]
            place += 2
    return carried
