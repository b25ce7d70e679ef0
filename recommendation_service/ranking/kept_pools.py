"""Pools that depend on their user, kept from one feed of the user to the next.

While people scroll, what their next feed is drawn from is the pool of the one before, but for what that showed: same
user, same catalog, same policy. So twice the pool is looked for at once, best first, and kept; the next feeds take from
it what the user may still have, until too little is left.

A kept pool is that of a search anew (property test) as long as nothing that was hidden from the search may be shown
again, and nothing else is expected of the user: who, state and the time until then are kept with it, and where one of
them is another, the search is made anew. Where a memory that is full lets go of entries, their items are candidates
again with the next search. A pool is kept as rows of the catalog, and goes when its user is forgotten.

All workers share the memory. A slot is written without a lock, so whoever reads it copies it first and then looks
whether its sum is right; where it is not, the search is made anew, too.
"""

import mmap
from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Int32, Int64
from recommendation_service.ranking.compiled import inlined, part
from recommendation_service.ranking.randomness import mixed

KEPT_TIMES = 3  # a kept pool is so many times the policy's, where there is room for it
WAYS = 4  # slots in which a pool may be
SLOT_WORDS = 256
# Of a slot's words the first say whose it is.
SUM, WHO, USER_ROW, STATE, UNTIL, HIDDEN_ENTRIES, SIZE, IS_WHOLE, WRITTEN, FIRST_ITEM = range(10)
CAPACITY = 2 * (SLOT_WORDS - FIRST_ITEM)  # items, two to a word
NEVER_ENDS = 1 << 62


class KeptPools(NamedTuple):
    """n slots in sets of ``WAYS``, and what a kernel needs to use one."""

    slots: Int64  # (n, SLOT_WORDS); (0, SLOT_WORDS): nothing is kept
    copied: Int64  # (SLOT_WORDS,) a process's own copy of one
    copied_items: Int32  # (2 SLOT_WORDS,) the same memory
    source: Int64  # (1,) names what pools are looked for in: the catalog, the policy, and what editors took out
    state: Int64  # (1,) names what else a user's pools follow from: the latest items, and the session
    until: Int64  # (1,) seconds since 1970, when the first of what is remembered no longer hides its item
    hidden: Int64  # (1,) how many of the remembered entries hide one


def make_slots(megabytes: int) -> Int64:
    """Memory that workers share that are forked afterwards; it is taken as it is used."""
    sets = (megabytes << 20) // (8 * SLOT_WORDS * WAYS)
    if sets == 0:
        return NO_SLOTS
    return np.frombuffer(mmap.mmap(-1, sets * WAYS * SLOT_WORDS * 8), np.int64).reshape(-1, SLOT_WORDS)


NO_SLOTS: Int64 = np.zeros((0, SLOT_WORDS), np.int64)


def drop_of_user(slots: Int64, user_row: int) -> None:
    """What is kept of a user; of another catalog's with this row, too, who is looked for anew."""
    slots[(slots[:, USER_ROW] == user_row) & (slots[:, WHO] != 0)] = 0


def make_kept_pools(slots: Int64) -> KeptPools:
    copied = np.zeros(SLOT_WORDS, np.int64)
    return KeptPools(slots, copied, copied.view(np.int32), *(np.zeros(1, np.int64) for _ in range(4)))


@inlined
def who_of(kept: KeptPools, user_row: int, kind: int) -> int:
    """Names a user's pool of a kind, never 0."""
    return int(mixed(mixed(np.uint64(kept.source[0])) ^ np.uint64(user_row << 8 | kind)) >> np.uint64(1) | np.uint64(1))


@inlined
def add_to_state(kept: KeptPools, number: int) -> None:
    kept.state[0] = np.int64(mixed(np.uint64(kept.state[0]) ^ np.uint64(number)))


@inlined
def _slot_of(kept: KeptPools, who: int) -> int:
    """Where a pool is, or -1."""
    first = _first_of_set(kept, who)
    for slot in range(first, first + WAYS):
        if kept.slots[slot, WHO] == who:
            return slot
    return -1


@inlined
def _first_of_set(kept: KeptPools, who: int) -> int:
    sets = np.uint64(len(kept.slots) // WAYS)
    return int((np.uint64(who) >> np.uint64(1)) % sets) * WAYS


@inlined
def _sum_of(words: Int64, size: int) -> int:
    """Of all words but itself that are in use."""
    used, total = words[: FIRST_ITEM + (size + 1) // 2], 0
    for i in range(1, len(used)):
        total += used[i] * (2 * i + 1)
    return total


@part
def copy_kept(kept: KeptPools, who: int, now: int) -> int:
    """Have the pool in ``copied``; how many items it has, or -1: there is none that holds."""
    slot = _slot_of(kept, who)
    if slot < 0:
        return -1
    copied, words = kept.copied, kept.slots[slot]
    size = words[SIZE]
    if not 0 <= size <= CAPACITY:
        return -1
    for i in range(FIRST_ITEM + (size + 1) // 2):
        copied[i] = words[i]
    holds = (
        copied[WHO] == who
        and copied[SIZE] == size
        and copied[STATE] == kept.state[0]
        and copied[WRITTEN] <= now < copied[UNTIL]
        and copied[HIDDEN_ENTRIES] <= kept.hidden[0]
    )
    return size if holds and copied[SUM] == _sum_of(copied, size) else -1


@part
def keep(kept: KeptPools, who: int, user_row: int, now: int, items: Int32, size: int, is_whole: bool) -> None:
    """``is_whole``: nothing else could be in the pool. In place of what was written longest ago."""
    copied, copied_items = kept.copied, kept.copied_items
    copied[WHO], copied[USER_ROW], copied[STATE] = who, user_row, kept.state[0]
    copied[UNTIL], copied[HIDDEN_ENTRIES] = kept.until[0], kept.hidden[0]
    copied[SIZE], copied[IS_WHOLE], copied[WRITTEN] = size, int(is_whole), now
    if size & 1:
        copied_items[2 * FIRST_ITEM + size] = 0  # the half of a word that is left
    for i in range(size):
        copied_items[2 * FIRST_ITEM + i] = items[i]
    copied[SUM] = _sum_of(copied, size)
    slot = _slot_of(kept, who)
    if slot < 0:
        first = _first_of_set(kept, who)
        slot = first
        for other in range(first + 1, first + WAYS):
            if kept.slots[other, WRITTEN] < kept.slots[slot, WRITTEN]:
                slot = other
    words = kept.slots[slot]
    for i in range(FIRST_ITEM + (size + 1) // 2):
        words[i] = copied[i]
