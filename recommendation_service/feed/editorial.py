"""What editors ruled, on one catalog and policy: of each feed the rows that it may not hold, and those of its places.

An item that is not in the catalog is in no feed; what was ruled of it holds again with a catalog that has it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from recommendation_service.catalog.store import Catalog
from recommendation_service.editors.rulings import BURY, EVERYWHERE, PIN, TAKEDOWN, Ruling
from recommendation_service.model.columns import Bytes, Int32
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.working_memory import EXCLUDED, LARGEST_FEED, NOTHING

NO_ROWS: Int32 = np.zeros(0, np.int32)
NO_PINS: Int32 = np.full(LARGEST_FEED, NOTHING, np.int32)


class OfFeed(NamedTuple):
    barred: Int32  # rows, ascending; the same object for feeds of which the same holds
    pins: Int32  # (LARGEST_FEED,) of each slot the row that it has, or NOTHING


NOTHING_RULED = OfFeed(NO_ROWS, NO_PINS)


class Placed(NamedTuple):
    """Rulings that hold, on one catalog, whatever the policy. ``takedowns``: names the set of them, and is empty where
    there are none: what was answered under another set is not given again."""

    rows: list[tuple[Ruling, int]]
    takedowns: bytes


def placed(rulings: Sequence[Ruling], catalog: Catalog) -> Placed:
    found = [(one, row) for one in rulings if (row := catalog.row_of(one.key)) >= 0]
    down = sorted((one.key, one.when) for one in rulings if one.action == TAKEDOWN)
    return Placed(found, hashlib.blake2b(repr(down).encode(), digest_size=16).digest() if down else b"")


class Editorial:
    def __init__(self, rulings: Placed, catalog: Catalog, policy: Policy) -> None:
        self._catalog = catalog
        self.takedowns = rulings.takedowns
        barred = [(one, row) for one, row in rulings.rows if one.action in (BURY, TAKEDOWN)]
        self.everywhere = _rows([row for one, row in barred if one.feed == EVERYWHERE])
        self._feeds: dict[str, OfFeed] = {}
        for feed in policy.file.feeds:
            own = [row for one, row in barred if one.feed == feed]
            rows = _rows([*self.everywhere.tolist(), *own]) if own else self.everywhere
            ranges = _ranges(policy, catalog.rows_of_type, feed)
            pins = [(one.place, row) for one, row in rulings.rows if one.action == PIN and one.feed == feed]
            self._feeds[feed] = OfFeed(rows, _pins([(at, row) for at, row in pins if _is_within(row, ranges)]))

    def of(self, feed: str) -> OfFeed:
        return self._feeds.get(feed, NOTHING_RULED)

    def laid_over(self, mask: Bytes | None) -> Bytes | None:
        """The mask (M,) of a list with what may be in none, not 0 there; None: all may."""
        if not len(self.everywhere):
            return mask
        if mask is None:
            return self._unlisted
        together = mask.copy()
        together[self.everywhere] = EXCLUDED
        return together

    @cached_property
    def _unlisted(self) -> Bytes:
        mask = np.zeros(len(self._catalog.arrays.item_id), np.uint8)
        mask[self.everywhere] = EXCLUDED
        return mask


def _rows(rows: Sequence[int]) -> Int32:
    return np.unique(np.array(rows, np.int32)) if rows else NO_ROWS


def _pins(places: Sequence[tuple[int, int]]) -> Int32:
    if not places:
        return NO_PINS
    pins = NO_PINS.copy()
    for place, row in places:
        if 1 <= place <= LARGEST_FEED:
            pins[place - 1] = row
    return pins


def _ranges(policy: Policy, rows_of_type: Mapping[str, tuple[int, int]], feed: str) -> list[tuple[int, int]]:
    """Rows of the items that the feed may hold at all: a pin brings none of another type in."""
    of_kinds = dict(zip(policy.file.kind_names, policy.file.rows_of_kinds(rows_of_type), strict=True))
    return [of_kinds[name] for name in dict.fromkeys(policy.file.feeds[feed])]


def _is_within(row: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= row < end for start, end in ranges)
