"""What a feed could not hold because of its request or its user, as its decision keeps it: for whoever misses an item.

Packed: a byte 1, and zlib of three columns of n, each with the same byte of all numbers side by side, little-endian:
the items' keys, ascending, as differences (8 bytes), when (8), why (1).
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Bytes, Int64
from recommendation_service.ranking.slate_withheld import WithheldMemory

_FORM = b"\x01"
_COLUMNS: tuple[np.dtype[Any], ...] = (np.dtype("<i8"), np.dtype("<i8"), np.dtype("u1"))
_WIDTH = sum(form.itemsize for form in _COLUMNS)  # bytes of an item
# Of zlib: the least work, as a worker does it while feeds wait.
_LEVEL = 1
_NOTHING = _FORM + zlib.compress(b"", _LEVEL)


class Withheld(NamedTuple):
    keys: Int64  # (n,) ascending
    when: Int64  # (n,) seconds since 1970; 0: not known
    why: Bytes  # (n,) a state of ranking/seen.py, or one of ranking/slate_withheld.py

    def of(self, key: int) -> tuple[int, int] | None:
        """Why, and since when."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        return int(self.why[place]), int(self.when[place])


def withheld_of(memory: WithheldMemory, count: int) -> Withheld:
    """What was collected, in order."""
    order = memory.keys[:count].argsort()
    return Withheld(memory.keys[order], memory.when[order], memory.why[order])


def pack_withheld(withheld: Withheld) -> bytes:
    if not len(withheld.keys):
        return _NOTHING
    differences = withheld.keys.copy()
    differences[1:] -= withheld.keys[:-1]
    side_by_side, place = np.empty((_WIDTH, len(differences)), np.uint8), 0
    columns: tuple[npt.NDArray[Any], ...] = (differences, withheld.when, withheld.why)
    for column, form in zip(columns, _COLUMNS, strict=True):
        of_item = column.astype(form, copy=False).view(np.uint8).reshape(-1, form.itemsize)
        side_by_side[place : place + form.itemsize] = of_item.T
        place += form.itemsize
    return _FORM + zlib.compress(side_by_side.tobytes(), _LEVEL)


def unpack_withheld(packed: bytes) -> Withheld:
    """Raises ValueError for what is none."""
    if packed[:1] != _FORM:
        raise ValueError("it is of another form")
    try:
        content = zlib.decompress(packed[1:])
    except zlib.error as error:
        raise ValueError(str(error)) from None
    count, rest = divmod(len(content), _WIDTH)
    if rest:
        raise ValueError("its columns are not of one length")
    columns, place = [], 0
    for form in _COLUMNS:
        part = np.frombuffer(content, np.uint8, count * form.itemsize, place).reshape(form.itemsize, count)
        columns.append(np.ascontiguousarray(part.T).reshape(-1).view(form))
        place += count * form.itemsize
    differences, when, why = columns
    return Withheld(np.cumsum(differences, dtype=np.int64), when, why)
