"""What a feed could not hold because of its request or its user: of the feeds of which a decision is recorded.

Collected, and packed (packed_columns.py). feed/withheld.py reads it; docs/events.md has the bits.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, Int64
from recommendation_service.ranking.compiled import compiled
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.packed_columns import (
    PackingMemory,
    Word,
    begin,
    finish,
    make_packing_memory,
    put,
    put_integers,
)
from recommendation_service.ranking.places import find_item, key_at, pack_key
from recommendation_service.ranking.seen import EPOCH, HIDDEN
from recommendation_service.ranking.slate_decision import DecisionMemory
from recommendation_service.ranking.working_memory import DISLIKED, EXCLUDED, SEEN, TOUCHED_ITEMS

# Why, beside the states of ranking/seen.py, 1 to 4.
BY_REQUEST, CREATOR_HIDDEN, TAKEN = 5, 6, 7
FORM = 3  # the first byte of what is packed; others were older releases'
# Of a key: above those are the types of other operators' items, which a catalog has few of (model/item_keys.py).
LOWER_BITS = 54
LOWER = (1 << LOWER_BITS) - 1
# So many numbers of a column have a least one and a width of their own, which one that is far off makes large.
BLOCK = 128
_MOST_BITS = 192  # of an item with a run of its own, and its share of what a block of each column begins with


class WithheldMemory(NamedTuple):
    """Of up to M items."""

    keys: Int64  # (M,)
    when: Int64  # (M,) seconds since 1970; 0: not known
    why: Bytes  # (M,)
    begins: Int64  # (M + 1,) where those begin that have ``when`` and ``why`` of the one before not
    packing: PackingMemory


def make_withheld_memory(items: int) -> WithheldMemory:
    return WithheldMemory(
        keys=np.zeros(items, np.int64),
        when=np.zeros(items, np.int64),
        why=np.zeros(items, np.uint8),
        begins=np.zeros(items + 1, np.int64),
        packing=make_packing_memory(BLOCK, (items + BLOCK) * _MOST_BITS // 64),
    )


@compiled
def collect_withheld(
    frame: Frame, decision: DecisionMemory, excluded: Int64, entries: int, withheld: WithheldMemory
) -> int:
    """Of the feed that is in the frame's memory: how many items there are. There is to be room for all that the feed
    touched. ``excluded``: the numbers that the request names; ``entries``: how many were remembered of the user;
    ``decision``: for its places, which are 0 before and after."""
    catalog, memory, place = frame.catalog, frame.memory, decision.place
    touched, flags, seen_when = memory.touched_items, memory.flags, memory.seen_when
    rows, entry_of = memory.seen_rows, memory.seen_entries
    keys, when, why = withheld.keys, withheld.when, withheld.why
    found = 0
    for entry in range(entries):
        row = rows[entry]
        if row < 0:
            continue
        state, moment = entry_of[entry, 1] & 15, (entry_of[entry, 1] >> 32) + EPOCH
        is_hidden, is_excluded = flags[row] & DISLIKED != 0, flags[row] & EXCLUDED != 0
        # Not what has expired, or is kept away by something else besides.
        is_why = is_hidden if state == HIDDEN else flags[row] & SEEN != 0 and moment == seen_when[row]
        if is_why and (is_hidden or not is_excluded):
            if place[row] == 0:
                found += 1
                place[row] = found
            at = place[row] - 1
            keys[at], when[at], why[at] = entry_of[entry, 0], moment, state
    for i in range(memory.counts[TOUCHED_ITEMS]):
        row = touched[i]
        if flags[row] & (EXCLUDED | SEEN) and place[row] == 0:
            keys[found], when[found], why[found] = key_at(catalog, row), 0, 0
            if flags[row] & EXCLUDED and not flags[row] & DISLIKED:
                why[found] = CREATOR_HIDDEN
            elif flags[row] & SEEN:
                when[found], why[found] = seen_when[row], TAKEN
            found += 1
            place[row] = found
    for number in excluded:
        for item_type in catalog.type_number:
            row = find_item(catalog, pack_key(item_type, number))
            if row >= 0 and place[row] > 0 and why[place[row] - 1] == CREATOR_HIDDEN:
                why[place[row] - 1] = BY_REQUEST
    for i in range(memory.counts[TOUCHED_ITEMS]):
        place[touched[i]] = 0
    return found


@compiled
def pack_withheld(withheld: WithheldMemory, count: int) -> int:
    """The first ``count`` of what was collected. The number of bytes that ``withheld.packing.packed`` then has."""
    keys, when, why, begins = withheld.keys, withheld.when, withheld.why, withheld.begins
    packing, integers = withheld.packing, withheld.packing.integers
    n, runs = Word(count), Word(0)
    for i in range(n):
        begins[runs] = i
        runs += Word(i == Word(0) or when[i] != when[i - Word(1)] or why[i] != why[i - Word(1)])
    begins[runs] = n
    stream = put(packing.packed, begin(), Word(FORM), Word(8))
    integers[0], integers[1] = n, runs
    stream = put_integers(packing, stream, Word(2))
    for column in range(5):
        length = n if column < 2 else runs
        for start in range(Word(0), length, Word(BLOCK)):
            some = min(Word(BLOCK), length - start)
            for i in range(some):
                place = start + i
                if column == 0:
                    integers[i] = Word(keys[place]) >> Word(LOWER_BITS)
                elif column == 1:
                    integers[i] = Word(keys[place]) & Word(LOWER)
                elif column == 2:
                    integers[i] = Word(begins[place + Word(1)] - begins[place])
                elif column == 3:
                    integers[i] = Word(when[begins[place]])
                else:
                    integers[i] = Word(why[begins[place]])
            stream = put_integers(packing, stream, some)
    return finish(packing.packed, stream)
