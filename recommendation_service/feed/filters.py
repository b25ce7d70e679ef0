"""What a request's filters leave of the catalog: which items pass, and a frame in which a feed of them is ranked.

Its cost follows what passes and not the catalog (docs/decisions/0054). Where few items pass, they are looked for among
themselves: the orderings and what is explored are theirs alone, and all of them are scored. Where many do, the flags of
the others keep these away, and as the heads of the lists thin out, so many more of their entries are looked at.
What a request asks is the same for many, so what was found is kept.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.filter_columns import FilterColumn, Listed
from recommendation_service.model.columns import Bytes, CatalogArrays, Int32
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.kept_pools import NO_SLOTS
from recommendation_service.ranking.working_memory import EXCLUDED, WorkingMemory

# What a filter asks: of at_most a number, else the numbers of the texts of which an item has to have one.
Asked = float | tuple[int, ...]
FEW = 32_768  # items that are scored whole
MOST_TIMES = 4  # so many more entries of a list at most
KEPT_BYTES = 64 << 20
FRAME_BYTES = 16 << 10  # about what one takes, beside its arrays
_NOBODY = np.array([-1], np.int32)


class Frames(NamedTuple):
    personal: Frame
    impersonal: Frame  # what is remembered keeps items away, and says nothing of what the user likes

    @classmethod
    def of(cls, catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> Self:
        return cls(Frame(catalog, policy, memory), Frame(catalog, _impersonal(policy), memory))

    def with_others(self, catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> "Frames":
        frame = self.personal
        return Frames(
            frame.with_others(catalog, policy, memory), frame.with_others(catalog, _impersonal(policy), memory)
        )


def _impersonal(policy: PolicyArrays) -> PolicyArrays:
    return policy._replace(latest_weight=np.zeros(0))


class Passing(NamedTuple):
    """Of M items those that pass."""

    frames: Frames
    rows: Int32 | None  # (n,) ascending; None: they are many
    barred: Bytes | None  # (M,) then EXCLUDED where an item does not pass
    size: int  # bytes

    def lay(self, flags: Bytes) -> None:
        """``flags``: (M,) of all items, whatever is in them."""
        if self.barred is not None:
            flags[:] = self.barred
        elif self.rows is not None:
            flags[:] = EXCLUDED
            flags[self.rows] = 0

    def mask(self, items: int) -> Bytes:
        """(M,) EXCLUDED where an item does not pass. To be read only."""
        if self.barred is not None:
            return self.barred
        mask = np.empty(items, np.uint8)
        self.lay(mask)
        return mask


class Filters:
    """Of one catalog of M items. Not safe for several threads, as its pipeline."""

    def __init__(self, columns: Sequence[FilterColumn], frames: Frames) -> None:
        """``frames``: of feeds without filters."""
        self._columns = {column.name: column for column in columns}
        self._frames = frames
        catalog, self._policy, memory = frames.personal.catalog, frames.personal.policy, frames.personal.memory
        self._without_kept = memory._replace(kept=memory.kept._replace(slots=NO_SLOTS))  # these are of what all pass
        self._catalog = catalog
        self._always = {column.name: _always(column, len(catalog.item_id)) for column in columns}
        self._places = _places_in_orderings(catalog)
        self._kept: OrderedDict[tuple[tuple[str, Asked], ...], Passing] = OrderedDict()
        self._size = 0

    def passing(self, asked: Mapping[str, Asked], user_row: int) -> Passing | None:
        """None: all items do. What a request does not ask, the user's own values do; ``user_row``: -1 for who is not
        in the catalog."""
        wanted = []
        for column in self._columns.values():
            value = asked.get(column.name)
            if value is None and user_row >= 0:
                value = _own(column, user_row)
            if value is not None:
                wanted.append((column.name, value))
        if not wanted:
            return None
        key = tuple(wanted)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        found = self._kept[key] = self._found(key)
        self._size += found.size
        while self._size > KEPT_BYTES and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].size
        return found

    def _found(self, wanted: Sequence[tuple[str, Asked]]) -> Passing:
        """By the filter that fewest items pass, and of those that do by the others."""
        spans = {name: _spans(self._columns[name], asked) for name, asked in wanted}
        sizes = {name: sum(b - a for a, b in spans[name]) + len(self._always[name]) for name in spans}
        first = min(sizes, key=sizes.__getitem__)
        parts = [self._columns[first].ordered.rows[a:b] for a, b in spans[first]]
        # Of runs that ascend, which np.unique sorts as if they were in no order.
        rows: Int32 = np.sort(np.concatenate([self._always[first], *parts]), kind="stable")
        rows = rows[np.diff(rows, prepend=-1) > 0]
        for name, asked in wanted:
            if name != first:
                rows = rows[_passes(self._columns[name], asked, rows)]
        return self._of_few(rows) if len(rows) <= FEW else self._of_many(rows)

    def _of_few(self, rows: Int32) -> Passing:
        offsets, orders = [0], []
        # Several times as quick as self._places[rows]; and the places alone are sorted, which say whose they are.
        of_kinds = self._places.take(rows, axis=0, mode="clip").T
        for places, start in zip(of_kinds, self._catalog.order_offsets.tolist(), strict=False):
            in_order = np.sort(places.compress(places >= 0)) + start
            orders.append(self._catalog.order_items.take(in_order, mode="clip"))
            offsets.append(offsets[-1] + len(orders[-1]))
        # As they are of a catalog's, which are mapped: what a kernel was compiled for goes by that, too.
        order_offsets, order_items = np.array(offsets, np.int64), np.concatenate([np.zeros(0, np.int32), *orders])
        order_offsets.flags.writeable = order_items.flags.writeable = False
        frames = self._frames.with_others(
            self._catalog._replace(order_offsets=order_offsets, order_items=order_items),
            self._policy._replace(exact_up_to_videos=max(self._policy.exact_up_to_videos, FEW)),
            # To the kernels an empty list is the whole catalog.
            self._without_kept._replace(allowed=rows if len(rows) else _NOBODY),
        )
        return Passing(frames, rows, None, rows.nbytes + order_items.nbytes + 2 * FRAME_BYTES)

    def _of_many(self, rows: Int32) -> Passing:
        items = len(self._catalog.item_id)
        barred = np.full(items, EXCLUDED)
        barred[rows] = 0
        times, policy = min(MOST_TIMES, items / len(rows)), self._policy
        policy = policy._replace(
            entries_per_skill=int(policy.entries_per_skill * times),
            entries_per_pair=int(policy.entries_per_pair * times),
            static_entries=int(policy.static_entries * times),
        )
        frames = self._frames.with_others(self._catalog, policy, self._without_kept)
        return Passing(frames, None, barred, barred.nbytes + 2 * FRAME_BYTES)


def _always(column: FilterColumn, items: int) -> Int32:
    """Rows that pass whatever is asked, ascending: of other types, and, where the filter lets them, those without a
    value."""
    always = np.ones(items, bool)
    for start, end in column.applies:
        always[start:end] = _missing(column)[start:end] if column.passes_missing else False
    return np.flatnonzero(always).astype(np.int32)


def _missing(column: FilterColumn) -> npt.NDArray[np.bool_]:
    values = column.items
    return values.offsets[1:] == values.offsets[:-1] if isinstance(values, Listed) else np.isnan(values)


def _places_in_orderings(catalog: CatalogArrays) -> Int32:
    """(M, K) of each item its place in each kind's ordering; -1: it is not in it. An item's places are side by side, as
    what takes time is to fetch them from memory."""
    spans = list(pairwise(catalog.order_offsets.tolist()))
    found = np.full((len(catalog.item_id), len(spans)), -1, np.int32)
    for kind, (start, end) in enumerate(spans):
        found[catalog.order_items[start:end], kind] = np.arange(end - start, dtype=np.int32)
    return found


def _spans(column: FilterColumn, asked: Asked) -> list[tuple[int, int]]:
    """Where the values that pass are among the ordered ones."""
    values = column.ordered.values
    if isinstance(asked, tuple):
        wanted = np.array(asked, np.int64)
        begins, ends = np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")
        return list(zip(begins.tolist(), ends.tolist(), strict=True))
    return [(0, int(np.searchsorted(values, asked, "right")))]


def _passes(column: FilterColumn, asked: Asked, rows: Int32) -> Any:
    """(n,) bool, of these rows."""
    applies = np.zeros(len(rows), bool)
    for start, end in column.applies:
        applies |= (rows >= start) & (rows < end)
    values = column.items
    if isinstance(values, Listed):
        begins = values.offsets[rows]
        sizes = values.offsets[rows + 1] - begins
        whose = np.repeat(np.arange(len(rows)), sizes)
        places = np.arange(len(whose)) + np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
        holds = np.isin(values.values[places], np.array(asked, np.int64))
        passes, missing = np.bincount(whose[holds], minlength=len(rows)) > 0, sizes == 0
    else:
        with np.errstate(invalid="ignore"):
            passes = values[rows] <= asked
        missing = np.isnan(values[rows])
    return ~applies | np.where(missing, column.passes_missing, passes)


def _own(column: FilterColumn, row: int) -> Asked | None:
    """What the user's own values ask for; None: there are none."""
    users = column.users
    if users is None:
        return None
    if isinstance(users, Listed):
        own = users.values[users.offsets[row] : users.offsets[row + 1]]
        return tuple(own.tolist()) or None
    return None if np.isnan(users[row]) else float(users[row])
