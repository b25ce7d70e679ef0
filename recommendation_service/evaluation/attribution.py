"""Which feed what people did belongs to, and what each of its slots brought: of all feeds at once.

As the learner does it for a feed at a time (``learning.rewards.rewards_of``), to the last bit.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.format import EventReward, LearningFile

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint16]

# Of a user's feeds, how many are looked through for an item whose event names none.
LATEST_FEEDS = 20
# What is computed of so many at once stays in a processor's cache, and is little beside the columns of a million feeds.
_FEEDS_AT_ONCE = 1 << 15
_DEEDS_AT_ONCE = 1 << 17


class Shown:
    """What n feeds showed."""

    def __init__(self, items: "array[int]", begins: Int64, lengths: Int64) -> None:
        """``items``: keys, of one feed after the other; ``begins``, ``lengths``: (n,) where each feed's are."""
        self._items = np.frombuffer(items, f"i{items.itemsize}" if items.typecode == "q" else f"u{items.itemsize}")
        self._begins, self._lengths = begins, lengths

    def slots_of(self, feeds: Int64, items: Int64) -> Int64:
        """(m,) the slot in which each feed showed the item, the last where there are several; -1: it did not."""
        found = np.full(len(feeds), -1, np.int64)
        for some in blocks(len(feeds)):
            begins, lengths, wanted = self._begins[feeds[some]], self._lengths[feeds[some]], items[some]
            for slot in range(int(lengths.max(initial=0))):
                rows = np.flatnonzero(lengths > slot)
                found[some][rows[self._items[begins[rows] + slot] == wanted[rows]]] = slot
        return found


class Deeds(NamedTuple):
    """What people did, m times."""

    feeds: Int64  # (m,) of which feed each is, -1: of none
    items: Int64  # (m,) keys
    happened_ms: Int64  # (m,)
    rewards: Floats  # (m,)
    name: Codes  # (m,) index into the names of events

    def of(self, some: Int64) -> "Deeds":
        return Deeds(self.feeds[some], self.items[some], self.happened_ms[some], self.rewards[some], self.name[some])


def attribute(
    rewards: Float32, shown: Shown, made_ms: Int64, deeds: Deeds, names: Sequence[str], file: LearningFile
) -> None:
    """Write what each slot brought into ``rewards`` (n, s), which has 0 there: what nobody has seen brought 0.

    Each event of an item of a feed counts once, the first of several, within its hours. ``made_ms``: (n,) of feeds.
    """
    order = np.argsort(deeds.feeds, kind="stable")
    ends = np.searchsorted(deeds.feeds, np.arange(0, len(rewards) + _FEEDS_AT_ONCE, _FEEDS_AT_ONCE), sorter=order)
    rules = [file.rules[name] for name in names]
    for begin, end in pairwise(ends.tolist()):
        _attribute(rewards, shown, made_ms, deeds.of(order[begin:end]), rules, file)


def _attribute(
    rewards: Float32, shown: Shown, made_ms: Int64, deeds: Deeds, rules: Sequence[EventReward], file: LearningFile
) -> None:
    hours = np.array([rule.hours_ms for rule in rules], np.int64)
    shows = np.array([rule.shows for rule in rules], np.bool_)
    slots = shown.slots_of(deeds.feeds, deeds.items)
    kept = np.flatnonzero((slots >= 0) & (deeds.happened_ms - made_ms[deeds.feeds] <= hours[deeds.name]))
    kept = kept[np.lexsort((deeds.rewards[kept], deeds.happened_ms[kept], deeds.feeds[kept]))]
    cells = deeds.feeds[kept] * rewards.shape[1] + slots[kept]
    _, first = np.unique(cells * max(len(rules), 1) + deeds.name[kept], return_index=True)
    first.sort()  # sums are of their order
    kept, cells = kept[first], cells[first]
    only_seen = shows[deeds.name[kept]]
    _mark_seen(rewards, deeds.feeds[kept], slots[kept], only_seen, file.default)
    acted, number = np.unique(cells[~only_seen], return_inverse=True)
    brought = np.bincount(number, deeds.rewards[kept[~only_seen]], len(acted))
    rewards.reshape(-1)[acted] = np.clip(brought, file.least, file.most)


def _mark_seen(rewards: Float32, feeds: Int64, slots: Int64, only_seen: npt.NDArray[np.bool_], default: float) -> None:
    """``feeds``: in their order."""
    if not len(feeds):
        return
    begins = np.flatnonzero(np.diff(feeds, prepend=-1))
    is_told = np.logical_or.reduceat(only_seen, begins)
    told = np.repeat(is_told, np.diff(begins, append=len(feeds)))
    rewards[feeds[told], slots[told]] = default
    others, furthest = feeds[begins[~is_told]], np.maximum.reduceat(slots, begins)[~is_told]
    for slot in range(rewards.shape[1]):
        rewards[others[furthest >= slot], slot] = default


def latest_that_showed(
    users: Int64, made_ms: Int64, shown: Shown, whose: Int64, items: Int64, happened_ms: Int64
) -> Int64:
    """(m,) of each event that names no feed, the user's latest by then that showed the item; -1: none of the last few.

    ``users``, ``made_ms``: (n,) of feeds, in the order in which they were made; ``whose``: 0 where nobody is known.
    """
    order = np.argsort(users, kind="stable")  # within a user by time, as feeds are
    names, begins = np.unique(users[order], return_index=True)
    if not len(names):
        return np.full(len(whose), -1, np.int64)
    number = np.minimum(np.searchsorted(names, whose), len(names) - 1)
    is_known = (names[number] == whose) & (whose != 0)
    # A user's feeds up to a moment end where those of all before it would come among them.
    until = np.searchsorted(made_ms, happened_ms, side="right")
    places = np.repeat(np.arange(len(names)), np.diff(begins, append=len(order))) * (len(order) + 1) + order
    ends = np.searchsorted(places, number * (len(order) + 1) + until)
    found = np.full(len(whose), -1, np.int64)
    for back in range(1, LATEST_FEEDS + 1):
        left = np.flatnonzero(is_known & (found < 0) & (ends - back >= begins[number]))
        feeds = order[ends[left] - back]
        is_there = shown.slots_of(feeds, items[left]) >= 0
        found[left[is_there]] = feeds[is_there]
    return found


def blocks(count: int) -> Iterator[slice]:
    """Of so many deeds, those that are looked at together."""
    for begin in range(0, count, _DEEDS_AT_ONCE):
        yield slice(begin, begin + _DEEDS_AT_ONCE)
