"""What a feed could not hold because of its request or its user, as its decision keeps it: for whoever misses an item.

Packed: a byte 1, and zlib of three columns of n, each with the same byte of all numbers side by side, little-endian:
the items' keys, ascending, as differences (8 bytes), when (8), why (1).
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Bytes, CatalogArrays, Int64, rows_of
from recommendation_service.model.item_keys import item_keys
from recommendation_service.ranking.seen import EPOCH, HIDDEN
from recommendation_service.ranking.working_memory import (
    DISLIKED,
    EXCLUDED,
    SEEN,
    TOUCHED_ITEMS,
    WorkingMemory,
)

# Beside the states of ranking/seen.py, 1 to 4.
BY_REQUEST, CREATOR_HIDDEN, TAKEN = 5, 6, 7
_FORM = b"\x01"
_COLUMNS: tuple[np.dtype[Any], ...] = (np.dtype("<i8"), np.dtype("<i8"), np.dtype("u1"))
# Of zlib: the least work, as a worker does it while feeds wait.
_LEVEL = 1
_NOTHING = _FORM + zlib.compress(b"", _LEVEL)


class Withheld(NamedTuple):
    keys: Int64  # (n,) ascending
    when: Int64  # (n,) seconds since 1970; 0: not known
    why: Bytes  # (n,) a state of ranking/seen.py, or one of those above

    def of(self, key: int) -> tuple[int, int] | None:
        """Why, and since when."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        return int(self.why[place]), int(self.when[place])


def withheld_from(catalog: CatalogArrays, memory: WorkingMemory, excluded: Int64, entries: int) -> Withheld:
    """Of the feed that is in the memory. ``excluded``: the numbers that its request names; ``entries``: how many were
    remembered of the user."""
    touched = memory.touched_items[: memory.counts[TOUCHED_ITEMS]]
    rows = np.sort(touched[memory.flags[touched] & (EXCLUDED | SEEN) != 0])
    if not len(rows):
        return Withheld(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    flags = memory.flags[rows]
    seen, hidden = flags & SEEN != 0, flags & DISLIKED != 0
    when = np.where(seen, memory.seen_when[rows].astype(np.int64), 0)
    why = np.where(seen, TAKEN, 0).astype(np.uint8)
    of_entries = memory.seen_rows[:entries]
    there = np.flatnonzero(of_entries >= 0)
    place = np.searchsorted(rows, of_entries[there])
    known = place < len(rows)
    place, there = place[known], there[known]
    same = rows[place] == of_entries[there]
    place, details = place[same], memory.seen_entries[there[same], 1]
    states, moments = details & 15, (details >> 32) + EPOCH
    counts = np.where(states == HIDDEN, hidden[place], moments == when[place])  # not what has expired
    why[place[counts]], when[place[counts]] = states[counts], moments[counts]
    barred = (flags & EXCLUDED != 0) & ~hidden
    if barred.any():
        named = np.isin(catalog.item_id[rows], excluded)
        why[barred], when[barred] = np.where(named, BY_REQUEST, CREATOR_HIDDEN)[barred], 0
    keys = _keys_at(catalog, rows)
    order = np.argsort(keys)
    return Withheld(keys[order], when[order], why[order])


def _keys_at(catalog: CatalogArrays, rows: npt.NDArray[np.int32]) -> Int64:
    keys = np.zeros(len(rows), np.int64)
    for item_type in catalog.type_number.tolist():
        start, end = rows_of(catalog, item_type)
        there = (rows >= start) & (rows < end)
        if there.any():
            keys[there] = item_keys(item_type, catalog.item_id[rows[there]])
    return keys


def pack_withheld(withheld: Withheld) -> bytes:
    if not len(withheld.keys):
        return _NOTHING
    columns: tuple[npt.NDArray[Any], ...] = (np.diff(withheld.keys, prepend=0), withheld.when, withheld.why)
    parts = [_bytes_side_by_side(column, form) for column, form in zip(columns, _COLUMNS, strict=True)]
    return _FORM + zlib.compress(b"".join(parts), _LEVEL)


def unpack_withheld(packed: bytes) -> Withheld:
    """Raises ValueError for what is none."""
    if packed[:1] != _FORM:
        raise ValueError("it is of another form")
    try:
        content = zlib.decompress(packed[1:])
    except zlib.error as error:
        raise ValueError(str(error)) from None
    width = sum(form.itemsize for form in _COLUMNS)
    count, rest = divmod(len(content), width)
    if rest:
        raise ValueError("its columns are not of one length")
    columns, place = [], 0
    for form in _COLUMNS:
        part = np.frombuffer(content, np.uint8, count * form.itemsize, place).reshape(form.itemsize, count)
        columns.append(np.ascontiguousarray(part.T).reshape(-1).view(form))
        place += count * form.itemsize
    differences, when, why = columns
    return Withheld(np.cumsum(differences, dtype=np.int64), when, why)


def _bytes_side_by_side(column: npt.NDArray[Any], form: np.dtype[Any]) -> bytes:
    return column.astype(form).view(np.uint8).reshape(-1, form.itemsize).T.tobytes()
