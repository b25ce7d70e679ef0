"""A feed's slots in few bytes, as its record in the log holds them: packed by a kernel, unpacked by Python.

Most of a feed's record are the features of each slot. Within a feed each feature is 0, or one of few values, or within
a few octaves; so of each column the least value is written, and of each slot how far it is above that, in as many bits
as the largest needs, or which of the few it is. A feature is kept to five parts in 10⁵ of itself, whatever its range,
and a propensity as float32; a column with what that is not made for (a negative number, one beyond 2¹²⁶, infinity, no
number) is float32 as it is.

The bits are those of docs/events.md, the lowest of the first byte first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import HASH_FACTOR, Bytes
from recommendation_service.ranking.compiled import compiled, inlined

Word = np.uint64
Words = npt.NDArray[np.uint32]

# A float32 has 2²³ steps an octave. A feature is rounded to so many of them: by half of that, and by the rounding to
# float32, it is off. A propensity is not rounded further.
STEP = 832
RELATIVE_ERROR = 5e-5

# The two bits that a column of floats begins with.
ALL_ZERO, WITHOUT_ZEROS, WITH_ZEROS, AS_IT_IS = 0, 1, 2, 3
_NOT_AS_STEPS = 0x7E800000  # 2¹²⁶ as float32: from here on, and with a sign, the next step may be no number

# Bits of what says how long a value is.
_INTEGER_WIDTH, _FLOAT_WIDTH = 7, 5
# A column of so few different values has them once, and of each slot which it is.
MOST_CHOICES = 16
_CHOICES_WIDTH = 4
# How much of the least value is written: more where it stands for all.
_BASE_OF_ONE, _BASE_OF_SEVERAL = 24, 16


class Slots(NamedTuple):
    """A feed's slots, as arrays of n."""

    items: npt.NDArray[np.int64]  # keys
    kinds: Bytes  # index into KINDS: what the pattern asked for
    pools: Bytes  # index into KINDS, or slate.EXPLORATION, seen.SEEN_POOL
    relaxed: Bytes  # bits of slate.RULES that gave way for the slot
    propensities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]  # (n, d)


class PackingMemory(NamedTuple):
    """What ``pack_slots`` works in, for feeds of up to S slots with d features."""

    integers: npt.NDArray[np.uint64]  # (S,) a column
    choices: npt.NDArray[np.uint64]  # (MOST_CHOICES,) its different values
    floats: Words  # (S, d + 1) features and propensity as float32, bit by bit
    bounds: Words  # (3, d + 1) of each column: what is below the least that is not 0; the largest; how many are 0
    packed: Words  # room for the longest


def make_packing_memory(slots: int, features: int) -> PackingMemory:
    return PackingMemory(
        integers=np.zeros(slots, np.uint64),
        choices=np.zeros(MOST_CHOICES, np.uint64),
        floats=np.zeros((slots, features + 1), np.uint32),
        bounds=np.zeros((3, features + 1), np.uint32),
        packed=np.zeros(16 + slots * (6 + features) + features, np.uint32),
    )


@compiled
def pack_slots(
    items: npt.NDArray[np.int64],
    kinds: Bytes,
    pools: Bytes,
    relaxed: Bytes,
    propensities: npt.NDArray[np.float64],
    X: npt.NDArray[np.float64],
    slots: int,
    memory: PackingMemory,
) -> int:
    """The first ``slots`` of each column; the number of bytes that ``memory.packed`` then has of them."""
    integers, floats, packed = memory.integers, memory.floats, memory.packed
    n, d = Word(slots), Word(X.shape[1])
    stream = _put(packed, (Word(0), Word(0), Word(0)), n, Word(8))
    for column in range(4):
        least, most = Word(0xFFFFFFFFFFFFFFFF), Word(0)
        for i in range(n):
            if column == 0:
                integers[i] = Word(items[i])
            elif column == 1:
                integers[i] = Word(kinds[i])
            elif column == 2:
                integers[i] = Word(0) if pools[i] == kinds[i] else Word(pools[i]) + Word(1)
            else:
                integers[i] = Word(relaxed[i])
            least, most = min(least, integers[i]), max(most, integers[i])
        least = min(least, most)
        width, least_width = _bit_length(most - least), _bit_length(least)
        stream = _put(packed, stream, width | least_width << Word(_INTEGER_WIDTH), Word(2 * _INTEGER_WIDTH))
        stream = _put_long(packed, stream, least, least_width)
        for i in range(n):
            stream = _put_long(packed, stream, integers[i] - least, width)
    stream = _put(packed, stream, d, Word(8))
    _look_at_floats(propensities, X, n, floats, memory.bounds)
    stream = _put_floats(memory, stream, n, d, True)
    for feature in range(d):
        stream = _put_floats(memory, stream, n, Word(feature), False)
    held, bits, at = stream
    packed[at] = held & Word(0xFFFFFFFF)
    return int(at * Word(4) + (bits + Word(7)) // Word(8))


@inlined
def _look_at_floats(
    propensities: npt.NDArray[np.float64], X: npt.NDArray[np.float64], n: np.uint64, floats: Words, bounds: Words
) -> None:
    """Row by row, as they lie in memory."""
    d = Word(X.shape[1])
    bounds[0, :], bounds[1, :], bounds[2, :] = 0xFFFFFFFF, 0, 0
    for i in range(n):
        for column in range(d):
            floats[i, column] = np.float32(X[i, column]).view(np.uint32)
        floats[i, d] = np.float32(propensities[i]).view(np.uint32)
        for column in range(d + Word(1)):
            word = floats[i, column]
            bounds[0, column] = min(bounds[0, column], np.uint32(word - np.uint32(1)))  # of a 0 the largest number
            bounds[1, column] = max(bounds[1, column], word)
            bounds[2, column] += np.uint32(word == np.uint32(0))


@inlined
def _put_floats(
    memory: PackingMemory,
    stream: tuple[np.uint64, np.uint64, np.uint64],
    n: np.uint64,
    column: np.uint64,
    exactly: bool,
) -> tuple[np.uint64, np.uint64, np.uint64]:
    packed, floats, bounds, above = memory.packed, memory.floats, memory.bounds, memory.integers
    zeros = Word(bounds[2, column])
    if zeros == n:
        return _put(packed, stream, Word(ALL_ZERO), Word(2))
    if bounds[1, column] >= _NOT_AS_STEPS:
        stream = _put(packed, stream, Word(AS_IT_IS), Word(2))
        for i in range(n):
            stream = _put(packed, stream, Word(floats[i, column]), Word(32))
        return stream
    least, most = Word(bounds[0, column]) + Word(1), Word(bounds[1, column])
    base_width = Word(_BASE_OF_ONE)
    base = least >> (Word(32) - base_width)
    width = _bit_length(_steps(most - (base << (Word(32) - base_width)), exactly))
    if width > Word(0):
        base_width = Word(_BASE_OF_SEVERAL)
        base = least >> (Word(32) - base_width)
        width = _bit_length(_steps(most - (base << (Word(32) - base_width)), exactly))
    stream = _put(packed, stream, Word(WITH_ZEROS if zeros > Word(0) else WITHOUT_ZEROS) | width << Word(2), Word(7))
    stream = _put(packed, stream, base, base_width)
    base <<= Word(32) - base_width
    present = Word(0)
    for i in range(n):
        if zeros > Word(0):
            stream = _put(packed, stream, Word(floats[i, column] == np.uint32(0)), Word(1))
        above[present] = _steps(Word(floats[i, column]) - base, exactly)
        present += Word(floats[i, column] != np.uint32(0))
    if width == Word(0):
        return stream
    choices = _find_choices(above, present, memory.choices)
    which = _bit_length(choices - Word(1))
    if choices == Word(0) or Word(_CHOICES_WIDTH) + choices * width + present * which >= present * width:
        stream = _put(packed, stream, Word(0), Word(1))
        for i in range(present):
            stream = _put(packed, stream, above[i], width)
        return stream
    stream = _put(packed, stream, Word(1) | choices - Word(1) << Word(1), Word(1 + _CHOICES_WIDTH))
    for place in range(choices):
        stream = _put(packed, stream, memory.choices[place], width)
    for i in range(present):
        choice = Word(0)
        while memory.choices[choice] != above[i]:
            choice += Word(1)
        stream = _put(packed, stream, choice, which)
    return stream


@inlined
def _find_choices(values: npt.NDArray[np.uint64], count: np.uint64, choices: npt.NDArray[np.uint64]) -> np.uint64:
    """How many different values there are, in ``choices``; 0: too many. Most columns are told by a look at each value:
    different ones rarely share one of 64 places."""
    places = Word(0)
    for i in range(count):
        places |= Word(1) << (values[i] * HASH_FACTOR >> Word(58))
    if _ones(places) > Word(MOST_CHOICES - 4):
        return Word(0)
    found = Word(0)
    for i in range(count):
        choice = Word(0)
        while choice < found and choices[choice] != values[i]:
            choice += Word(1)
        if choice == found:
            if found == Word(MOST_CHOICES):
                return Word(0)
            choices[found] = values[i]
            found += Word(1)
    return found


@inlined
def _ones(places: np.uint64) -> np.uint64:
    ones = Word(0)
    while places > Word(0):
        places &= places - Word(1)
        ones += Word(1)
    return ones


@inlined
def _steps(above: np.uint64, exactly: bool) -> np.uint64:
    return above if exactly else (above + Word(STEP // 2)) // Word(STEP)


@inlined
def _put_long(
    packed: Words, stream: tuple[np.uint64, np.uint64, np.uint64], value: np.uint64, width: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64]:
    if width <= Word(32):
        return _put(packed, stream, value, width)
    stream = _put(packed, stream, value & Word(0xFFFFFFFF), Word(32))
    return _put(packed, stream, value >> Word(32), width - Word(32))


@inlined
def _put(
    packed: Words, stream: tuple[np.uint64, np.uint64, np.uint64], value: np.uint64, width: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Up to 32 bits. A stream is what the word being filled holds, how many bits that are, and the word's place."""
    held, bits, at = stream
    held |= value << bits
    bits += width
    packed[at] = held & Word(0xFFFFFFFF)
    full = bits >> Word(5)
    return held >> (full << Word(5)), bits & Word(31), at + full


@inlined
def _bit_length(value: np.uint64) -> np.uint64:
    length = Word(0)
    while value > Word(0):
        value >>= Word(1)
        length += Word(1)
    return length


class _Writer:
    def __init__(self) -> None:
        self._bits = 0
        self._length = 0

    def put(self, value: int, width: int) -> None:
        self._bits |= value << self._length
        self._length += width

    def integers(self, values: Sequence[int]) -> None:
        least, most = min(values, default=0), max(values, default=0)
        width = (most - least).bit_length()
        self.put(width, _INTEGER_WIDTH)
        self.put(least.bit_length(), _INTEGER_WIDTH)
        self.put(least, least.bit_length())
        for value in values:
            self.put(value - least, width)

    def finish(self) -> bytes:
        return self._bits.to_bytes((self._length + 7) // 8, "little")


class _Reader:
    def __init__(self, packed: bytes | memoryview) -> None:
        self._bits = int.from_bytes(packed, "little")
        self._length = 8 * len(packed)
        self.place = 0

    def take(self, width: int) -> int:
        """Raises ValueError where there is no more."""
        if self.place + width > self._length:
            raise ValueError("the slots are cut short")
        value = self._bits >> self.place & (1 << width) - 1
        self.place += width
        return value

    def integers(self, count: int) -> list[int]:
        width, least_width = self.take(_INTEGER_WIDTH), self.take(_INTEGER_WIDTH)
        least = self.take(least_width)
        return [least + above for above in self.values(count, width)]

    def values(self, count: int, width: int) -> list[int]:
        together, mask = self.take(count * width), (1 << width) - 1
        return [together >> place & mask for place in range(0, count * width, width)] if width else [0] * count

    def floats(self, count: int, step: int) -> list[int]:
        """As the bits of float32."""
        form = self.take(2)
        if form == ALL_ZERO:
            return [0] * count
        if form == AS_IT_IS:
            return self.values(count, 32)
        width = self.take(_FLOAT_WIDTH)
        base_width = _BASE_OF_SEVERAL if width else _BASE_OF_ONE
        base = self.take(base_width) << 32 - base_width
        is_zero = self.values(count, 1) if form == WITH_ZEROS else [0] * count
        present = count - sum(is_zero)
        if width and self.take(1):
            choices = self.values(self.take(_CHOICES_WIDTH) + 1, width)
            above = [choices[which] for which in self.values(present, (len(choices) - 1).bit_length())]
        else:
            above = self.values(present, width)
        values = iter(above)
        return [0 if zero else base + step * next(values) for zero in is_zero]

    def rest(self) -> bytes:
        return (self._bits >> self.place).to_bytes((self._length - self.place + 7) // 8, "little")

    def finish(self) -> None:
        """Raises ValueError where more is there than fills up a byte, or two where the beginning was written anew."""
        if self._length - self.place >= 16:
            raise ValueError("the slots are longer than what they hold")


def unpack_slots(packed: bytes | memoryview) -> Slots:
    """Raises ValueError for what no feed was packed into."""
    reader = _Reader(packed)
    count = reader.take(8)
    items, kinds, pools, relaxed = (reader.integers(count) for _ in range(4))
    features = reader.take(8)
    propensities = reader.floats(count, 1)
    columns = [reader.floats(count, STEP) for _ in range(features)]
    reader.finish()
    pools = [kind if pool == 0 else pool - 1 for pool, kind in zip(pools, kinds, strict=True)]
    if max((*kinds, *pools, *relaxed), default=0) > 255 or max(items, default=0) >= 1 << 64:
        raise ValueError("the slots are none of a feed")
    return Slots(
        np.array(items, np.uint64).view(np.int64),
        np.array(kinds, np.uint8),
        np.array(pools, np.uint8),
        np.array(relaxed, np.uint8),
        np.array(propensities, np.uint32).view(np.float32),
        np.array(columns, np.uint32).reshape(features, count).T.copy().view(np.float32),
    )


def unpack_shown(packed: bytes | memoryview) -> tuple[list[int], list[int], bytes]:
    """Items and kinds of the slots, and the other columns, which ``pack_shown`` takes. Raises ValueError."""
    reader = _Reader(packed)
    count = reader.take(8)
    items, kinds = reader.integers(count), reader.integers(count)
    return [item - (1 << 64) if item >> 63 else item for item in items], kinds, reader.rest()


def pack_shown(items: Sequence[int], kinds: Sequence[int], others: bytes) -> bytes:
    """What ``unpack_shown`` took apart."""
    writer = _Writer()
    writer.put(len(items), 8)
    writer.integers([item & (1 << 64) - 1 for item in items])
    writer.integers(kinds)
    writer.put(int.from_bytes(others, "little"), 8 * len(others))
    return writer.finish()


def pack_as_they_are(slots: Slots) -> bytes:
    """With features that are not rounded: of a record that an older release wrote."""
    writer = _Writer()
    writer.put(len(slots.items), 8)
    writer.integers([item & (1 << 64) - 1 for item in slots.items.tolist()])
    writer.integers(slots.kinds.tolist())
    writer.integers(np.where(slots.pools == slots.kinds, 0, slots.pools.astype(int) + 1).tolist())
    writer.integers(slots.relaxed.tolist())
    writer.put(slots.features.shape[1], 8)
    for column in (slots.propensities, *slots.features.T):
        writer.put(AS_IT_IS, 2)
        for word in np.ascontiguousarray(column, np.float32).view(np.uint32).tolist():
            writer.put(word, 32)
    return writer.finish()
