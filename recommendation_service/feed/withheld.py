"""What a feed could not hold because of its request or its user, as its decision keeps it: for whoever misses an item.

Packed: a byte 2, and zlib of three columns of n, each with the same byte of all numbers side by side, little-endian:
the items' keys (8 bytes), when (8), why (1). They are in the order in which they were found, most of them as the user
saw them: times hardly change from one to the next then. After a byte 1, as older releases wrote it, keys ascend and
are differences.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Bytes, Int64
from recommendation_service.ranking.slate_withheld import WithheldMemory

_FORM, _OLDER_FORM = b"\x02", b"\x01"
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


def pack_withheld(found: WithheldMemory, count: int) -> bytes:
    """The first ``count`` of what was collected."""
    if not count:
        return _NOTHING
    side_by_side, place = np.empty((_WIDTH, count), np.uint8), 0
    columns: tuple[npt.NDArray[Any], ...] = found
    for column, form in zip(columns, _COLUMNS, strict=True):
        of_item = column[:count].astype(form, copy=False).view(np.uint8).reshape(-1, form.itemsize)
        side_by_side[place : place + form.itemsize] = of_item.T
        place += form.itemsize
    return _FORM + zlib.compress(side_by_side.data, _LEVEL)


def unpack_withheld(packed: bytes) -> Withheld:
    """Raises ValueError for what is none."""
    if packed[:1] not in (_FORM, _OLDER_FORM):
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
    keys, when, why = columns
    if packed[:1] == _OLDER_FORM:
        return Withheld(np.cumsum(keys, dtype=np.int64), when, why)
    order = keys.argsort()
    return Withheld(keys[order], when[order], why[order])
