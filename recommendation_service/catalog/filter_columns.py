"""What must hold of items that are shown, as a catalog has it: of each filter the items' values, and the users' own.

A text is the number of its hash (model/text_ids.py): filters only ask whether two are the same, so no dictionary is
needed, and what a request asks for needs no look-up.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Float64, Int32, Int64
from recommendation_service.model.text_ids import number_of_text

Rule = Literal["equal", "contained", "at_most"]
VALUE_BITS = 63


class Listed(NamedTuple):
    """Of n rows each one's values, none or several."""

    offsets: Int64  # (n + 1,)
    values: Int64


class Ordered(NamedTuple):
    """The n values of all rows, smallest first: what passes is found without a look at what does not."""

    values: Int64 | Float64  # (n,) no nan
    rows: Int32  # (n,) whose they are; of one value ascending


class FilterColumn(NamedTuple):
    """``items``, ``users``: by row of the catalog; for at_most the numbers, nan where there is none."""

    name: str
    rule: Rule
    passes_missing: bool  # what becomes of an item without a value
    applies: Sequence[tuple[int, int]]  # rows of the item types that it holds for; others pass
    items: Listed | Float64
    users: Listed | Float64 | None
    ordered: Ordered  # the items' values


def value_number(text: str) -> int:
    """As values are compared: whatever their case and blanks."""
    return number_of_text(" ".join(text.split()).casefold(), VALUE_BITS)


def listed(values: Iterable[Sequence[str]]) -> Listed:
    numbers = [[value_number(text) for text in own] for own in values]
    flat = [number for own in numbers for number in own]
    return Listed(np.cumsum([0, *map(len, numbers)], dtype=np.int64), np.array(flat, np.int64))


def kept_rows(column: FilterColumn, kept: npt.NDArray[np.bool_]) -> FilterColumn:
    """Of the items of ``kept`` (M,) alone."""
    values, before = column.items, np.concatenate([[0], np.cumsum(kept)])
    if isinstance(values, Listed):
        sizes = np.diff(values.offsets)
        values = Listed(
            np.concatenate([[0], np.cumsum(sizes[kept])]).astype(np.int64), values.values[np.repeat(kept, sizes)]
        )
    else:
        values = values[kept]
    applies = [(int(before[start]), int(before[end])) for start, end in column.applies]
    return column._replace(applies=applies, items=values, ordered=ordered(values))


def ordered(column: Listed | Float64) -> Ordered:
    if isinstance(column, Listed):
        values: Int64 | Float64 = column.values
        rows = np.repeat(np.arange(len(column.offsets) - 1, dtype=np.int32), np.diff(column.offsets))
    else:
        rows = np.flatnonzero(~np.isnan(column)).astype(np.int32)
        values = column[rows]
    order = np.argsort(values, kind="stable")
    return Ordered(values[order], rows[order])
