"""Part of stage 1: what a user is to be expected to take next, from what people took after the user's latest items.

The catalog has for each item those that people take after it (catalog/collaborative.py). A candidate's number is the
sum of its entries at the user's L latest items, the item before last counting less than the last, and so on (SLIST:
Choi, Kim, Lee, Lee & Lee, WWW 2021, section 3.4). Latest are what the tables say, as of the catalog's build, and what
is remembered of the user since: so what a session did counts in its next feed.
"""

from recommendation_service.model.columns import CatalogArrays, Int32
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import inlined
from recommendation_service.ranking.kept_pools import add_to_state
from recommendation_service.ranking.places import find_item
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import ACTED, when_of
from recommendation_service.ranking.working_memory import DISLIKED, NEIGHBOURS, SEEN_ACTED, WorkingMemory

NEVER_HAPPENED = -1


@inlined
def load_collaborative(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory
) -> None:
    """Fill ``collaborative`` and ``neighbours``; after ``load_seen``, which finds the items of what is remembered."""
    if len(policy.latest_weight) == 0 or len(catalog.neighbour_items) == 0:
        return
    latest, weights = memory.latest, policy.latest_weight
    offsets, items, values = catalog.neighbour_offsets, catalog.neighbour_items, catalog.neighbour_weight
    collaborative, neighbours, count = memory.collaborative, memory.neighbours, 0
    for place in range(_find_latest(catalog, request, memory)):
        for i in range(offsets[latest[place]], offsets[latest[place] + 1]):
            item = items[i]
            if collaborative[item] == 0.0:
                neighbours[count] = item
                count += 1
            collaborative[item] += weights[place] * values[i]
        add_to_state(memory.kept, latest[place])
    memory.counts[NEIGHBOURS] = count


@inlined
def _find_latest(catalog: CatalogArrays, request: RankingRequest, memory: WorkingMemory) -> int:
    """Two lists as one, each item once: what is remembered, the latest last, and the history, the latest first; how
    many there are. What the user hid is left out."""
    entries, rows, flags, latest = memory.seen_entries, memory.seen_rows, memory.flags, memory.latest
    row, own = request.user_row, memory.own_history
    history, end = 0, request.history
    if row >= 0:
        history, end = catalog.history_offsets[row], catalog.history_offsets[row + 1]
    entry, found = request.seen - 1 if memory.counts[SEEN_ACTED] > 0 else -1, 0
    while found < len(latest):
        while entry >= 0 and (rows[entry] < 0 or entries[entry, 1] & 15 != ACTED):
            entry -= 1
        remembered = when_of(entries[entry, 1]) if entry >= 0 else NEVER_HAPPENED
        recorded = NEVER_HAPPENED
        if history < end:
            recorded = catalog.history_when[history] if row >= 0 else own[history, 1]
        if entry >= 0 and remembered >= recorded:
            item = rows[entry]
            entry -= 1
        elif history < end:
            item = catalog.history_items[history] if row >= 0 else find_item(catalog, own[history, 0])
            history += 1
        else:
            break
        if item >= 0 and flags[item] & DISLIKED == 0 and not _is_among(latest, found, item):
            latest[found] = item
            found += 1
    return found


@inlined
def _is_among(items: Int32, count: int, item: int) -> bool:
    found = False
    for i in range(count):
        found = found or items[i] == item
    return found
