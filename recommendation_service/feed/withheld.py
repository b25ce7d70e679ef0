"""What a feed could not hold because of its request or its user, as its decision keeps it: for whoever misses an item.

ranking/slate_withheld.py packs it, in the order in which it was found; docs/events.md has the bits.

Older releases wrote a byte 2, and zlib of three columns of n, each with the same byte of all numbers side by side,
little-endian: keys (8 bytes), when (8), why (1). After a byte 1, keys ascend and are differences.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, Int64
from recommendation_service.ranking.packed_columns import Reader
from recommendation_service.ranking.slate_withheld import BLOCK, FORM, LOWER_BITS

_OF_BYTES, _OF_DIFFERENCES = 2, 1
_COLUMNS: tuple[np.dtype[Any], ...] = (np.dtype("<i8"), np.dtype("<i8"), np.dtype("u1"))
_WIDTH = sum(form.itemsize for form in _COLUMNS)  # bytes of an item


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


def unpack_withheld(packed: bytes) -> Withheld:
    """Raises ValueError for what is none."""
    form = packed[0] if packed else 0
    if form == FORM:
        keys, when, why = _of_bits(packed)
    elif form in (_OF_BYTES, _OF_DIFFERENCES):
        keys, when, why = _of_bytes(packed[1:])
        if form == _OF_DIFFERENCES:
            keys = np.cumsum(keys, dtype=np.int64)
    else:
        raise ValueError("it is of another form")
    order = keys.argsort()
    return Withheld(keys[order], when[order], why[order])


def _of_bits(packed: bytes) -> tuple[Int64, Int64, Bytes]:
    reader = Reader(packed)
    reader.take(8)
    count, runs = reader.integers(2)
    if not runs <= count <= 8 * len(packed):  # different keys take a bit each
        raise ValueError("it has other numbers of items and runs than it could hold")
    upper, lower = _column(reader, count), _column(reader, count)
    lengths, when, why = (_column(reader, runs) for _ in range(3))
    reader.finish()
    if sum(lengths) != count or max(why, default=0) > 255 or max((*upper, *lower, *when), default=0) >> 64:
        raise ValueError("its runs are none of its items, or a number is too large")
    keys = np.array(upper, np.uint64) << np.uint64(LOWER_BITS) | np.array(lower, np.uint64)
    times = np.array(when, np.uint64).view(np.int64)
    return keys.view(np.int64), times.repeat(lengths), np.array(why, np.uint8).repeat(lengths)


def _column(reader: Reader, count: int) -> list[int]:
    return [value for start in range(0, count, BLOCK) for value in reader.integers(min(BLOCK, count - start))]


def _of_bytes(compressed: bytes) -> tuple[Int64, Int64, Bytes]:
    try:
        content = zlib.decompress(compressed)
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
    return keys, when, why
