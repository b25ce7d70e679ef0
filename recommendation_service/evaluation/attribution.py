"""Which feed what people did belongs to, and what each of its slots brought: of all feeds at once.

As the learner does it for a feed at a time (``learning.rewards.rewards_of``), to the last bit.
"""

from array import array
from collections.abc import Iterator, Sequence
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
# Events whose items are looked for together: what is computed of them stays in a processor's cache.
_AT_ONCE = 1 << 17


class Shown:
    """What n feeds showed."""

    def __init__(self, items: "array[int]", begins: Int64, lengths: Int64) -> None:
        """``items``: keys, of one feed after the other; ``begins``, ``lengths``: (n,) where each feed's are."""
        self._items = np.frombuffer(items, f"i{items.itemsize}" if items.typecode == "q" else f"u{items.itemsize}")
        self._begins, self._lengths = begins, lengths

    def slots_of(self, feeds: Int64, items: Int64) -> Int64:
        """(m,) the slot in which each feed showed the item, the last where there are several; -1: it did not."""
        found = np.full(len(feeds), -1, np.int64)
        for some in _blocks(len(feeds)):
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


def attribute(
    rewards: Float32, shown: Shown, made_ms: Int64, deeds: Deeds, names: Sequence[str], file: LearningFile
) -> None:
    """Write what each slot brought into ``rewards`` (n, s), which has 0 there: what nobody has seen brought 0.

    Each event of an item of a feed counts once, the first of several, within its hours. ``made_ms``: (n,) of feeds.
    """
    rules: list[EventReward] = [file.rules[name] for name in names]
    hours = np.array([rule.hours_ms for rule in rules], np.int64)
    shows = np.array([rule.shows for rule in rules], np.bool_)
    kept = np.flatnonzero(deeds.feeds >= 0)
    kept = kept[deeds.happened_ms[kept] - made_ms[deeds.feeds[kept]] <= hours[deeds.name[kept]]]
    slots = shown.slots_of(deeds.feeds[kept], deeds.items[kept])
    kept, slots = kept[slots >= 0], slots[slots >= 0]
    order = np.lexsort((deeds.rewards[kept], deeds.happened_ms[kept], deeds.feeds[kept]))
    kept, slots = kept[order], slots[order]
    cells = deeds.feeds[kept] * rewards.shape[1] + slots
    _, first = np.unique(cells * max(len(rules), 1) + deeds.name[kept], return_index=True)
    first.sort()  # sums are of their order
    kept, slots, cells = kept[first], slots[first], cells[first]
    only_seen = shows[deeds.name[kept]]
    _mark_seen(rewards, deeds.feeds[kept], slots, only_seen, file.default)
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


def _blocks(count: int) -> Iterator[slice]:
    for begin in range(0, count, _AT_ONCE):
        yield slice(begin, begin + _AT_ONCE)
