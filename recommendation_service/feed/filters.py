"""Which items a request's filters keep out: a byte an item, to lay over the working memory's flags before a feed.

What a request asks is the same for many, so masks are kept; a feed with a filter costs what it takes to lay one over.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recommendation_service.catalog.filter_columns import FilterColumn, Listed
from recommendation_service.model.columns import Bytes
from recommendation_service.ranking.working_memory import EXCLUDED

# What a filter asks: of at_most a number, else the numbers of the texts of which an item has to have one.
Asked = float | tuple[int, ...]
KEPT = 64  # masks, of a byte an item


class Filters:
    """Of one catalog of M items. Not safe for several threads, as its pipeline."""

    def __init__(self, columns: Sequence[FilterColumn], items: int) -> None:
        self._columns = columns
        self._items = items
        self._masks: OrderedDict[tuple[str, Asked], Bytes] = OrderedDict()

    def barred(self, asked: Mapping[str, Asked], user_row: int) -> Bytes | None:
        """(M,) EXCLUDED where an item may not be shown; None: all may. What a request does not ask, the user's own
        values do; ``user_row``: -1 for one who is not in the catalog."""
        masks = []
        for column in self._columns:
            wanted = asked.get(column.name)
            if wanted is None and user_row >= 0:
                wanted = _own(column, user_row)
            if wanted is not None:
                masks.append(self._mask(column, wanted))
        if len(masks) < 2:
            return masks[0] if masks else None
        together: Bytes = np.bitwise_or.reduce(masks)
        return together

    def _mask(self, column: FilterColumn, asked: Asked) -> Bytes:
        key = (column.name, asked)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self._made(column, asked)
            if len(self._masks) > KEPT:
                self._masks.popitem(last=False)
        else:
            self._masks.move_to_end(key)
        return mask

    def _made(self, column: FilterColumn, asked: Asked) -> Bytes:
        passes = np.ones(self._items, bool)
        own = _passing(column, asked)
        for start, end in column.applies:
            passes[start:end] = own[start:end]
        return np.where(passes, np.uint8(0), EXCLUDED).astype(np.uint8)


def _passing(column: FilterColumn, asked: Asked) -> Any:
    """(M,) bool."""
    values = column.items
    if isinstance(values, Listed):
        holds = np.isin(values.values, np.array(asked if isinstance(asked, tuple) else (), np.int64))
        sums = np.concatenate([[0], np.cumsum(holds)])
        passes = sums[values.offsets[1:]] > sums[values.offsets[:-1]]
        missing = values.offsets[1:] == values.offsets[:-1]
    else:
        with np.errstate(invalid="ignore"):
            passes = values <= asked
        missing = np.isnan(values)
    return np.where(missing, column.passes_missing, passes)


def _own(column: FilterColumn, row: int) -> Asked | None:
    """What the user's own values ask for; None: there are none."""
    users = column.users
    if users is None:
        return None
    if isinstance(users, Listed):
        own = users.values[users.offsets[row] : users.offsets[row + 1]]
        return tuple(own.tolist()) or None
    return None if np.isnan(users[row]) else float(users[row])
