"""Columns of numbers in few bits: put together by kernels, taken apart by Python.

Of a column of integers the least value is written, and of each value how far it is above that, in as many bits as the
largest needs. A float becomes an integer by its float32's bits: the number of steps from 0 on. Each quarter of an
octave has steps of its own size, so what is rounded is rounded relative to itself, whatever the range. Zeros are a bit
each, and few different values are written once. A column with what the rounding is not made for (a negative number,
one beyond 2¹²⁶, infinity, no number) is float32 as it is.

The bits are those of docs/events.md, the lowest of the first byte first.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import HASH_FACTOR, Bytes
from recommendation_service.ranking.compiled import inlined, part

Word = np.uint64
Stream = tuple[np.uint64, np.uint64, np.uint64]
Words = npt.NDArray[np.uint64]

# How a column of floats is rounded: a propensity not beyond float32, a feature of a slot by at most RELATIVE_ERROR of
# itself, and a feature of a decision's candidates, from which scores are computed, by CLOSE_RELATIVE_ERROR; with the
# rounding to float32.
EXACTLY, IN_STEPS, CLOSELY = 0, 1, 2
RELATIVE_ERROR = 5e-5
CLOSE_RELATIVE_ERROR = 1.1e-6

# A float32 has 2²³ numbers an octave. Those of a step, for each form in each quarter of an octave: as what is rounded
# grows, so may the step.
STEPS = np.array([(1, 1, 1, 1), (832, 1040, 1248, 1456), (16, 20, 24, 28)], np.uint64)
_QUARTER_BITS = 21
_OCTAVE_BITS = 23
_IN_QUARTER = (1 << _QUARTER_BITS) - 1
_ODD_QUARTER, _UPPER_QUARTERS = np.uint64(1 << _QUARTER_BITS), np.uint64(2 << _QUARTER_BITS)
# How many steps a quarter has, those before it in its octave, and those of an octave.
_COUNTS = (np.uint64(_IN_QUARTER) + STEPS) // STEPS
_BEFORE = np.cumsum(_COUNTS, axis=1, dtype=np.uint64) - _COUNTS
_OF_OCTAVE = _COUNTS.sum(axis=1, dtype=np.uint64)
# Division by a step: exact below 2²², as 2²² × a step is less than 2⁴⁰.
_SHIFT = 40
_RECIPROCALS = (np.uint64((1 << _SHIFT) - 1) + STEPS) // STEPS
_HALVES = STEPS // np.uint64(2)
# What is added before the shift: to round, and the steps before the quarter.
_ADDED = _HALVES * _RECIPROCALS + (_BEFORE << np.uint64(_SHIFT))

# The two bits that a column of floats begins with.
ALL_ZERO, WITHOUT_ZEROS, WITH_ZEROS, AS_IT_IS = 0, 1, 2, 3
_NOT_AS_STEPS = 0x7E800000  # 2¹²⁶ as float32: from here on, and with a sign, the next step may be no number

# Bits of what says how long a value is.
_INTEGER_WIDTH, _FLOAT_WIDTH = 7, 5
# A column of so few different values has them once, and of each slot which it is.
MOST_CHOICES = 16
CHOICES_WIDTH = 4
# How much of the least value is written: where it stands for all, the upper bits of its float32; else of its step all
# but so many bits, by form.
BASE_OF_ONE = 24
_STEP_BITS = (32, 21, 27)
_LEFT_OUT = np.array([16, 9, 14], np.uint64)
_BASE_WIDTHS = np.array(_STEP_BITS, np.uint64) - _LEFT_OUT
# Older releases: the upper bits of its float32 in either case, and steps of one size.
OLDER_BASE = 16


class PackingMemory(NamedTuple):
    """Of columns of up to R rows."""

    integers: npt.NDArray[np.uint64]  # (R,) a column
    choices: npt.NDArray[np.uint64]  # (MOST_CHOICES,) its different values
    bits: Bytes  # (R,) a column of 0 and 1
    floats: npt.NDArray[np.uint32]  # (R,) a column of float32, bit by bit
    packed: Words  # room for the longest


def make_packing_memory(rows: int, words: int) -> PackingMemory:
    return PackingMemory(
        integers=np.zeros(rows, np.uint64),
        choices=np.zeros(MOST_CHOICES, np.uint64),
        bits=np.zeros(rows, np.uint8),
        floats=np.zeros(rows, np.uint32),
        packed=np.zeros(words, np.uint64),
    )


@part
def put_integers(memory: PackingMemory, stream: Stream, n: np.uint64) -> Stream:
    """The column in ``memory.integers``."""
    packed, integers = memory.packed, memory.integers
    least, most = Word(0xFFFFFFFFFFFFFFFF), Word(0)
    for i in range(n):
        least, most = min(least, integers[i]), max(most, integers[i])
    least = min(least, most)
    width, least_width = _bit_length(most - least), _bit_length(least)
    stream = put(packed, stream, width | least_width << Word(_INTEGER_WIDTH), Word(2 * _INTEGER_WIDTH))
    stream = put(packed, stream, least, least_width)
    for i in range(n if width > Word(0) else Word(0)):
        stream = put(packed, stream, integers[i] - least, width)
    return stream


@inlined
def begin() -> Stream:
    return Word(0), Word(0), Word(0)


@inlined
def finish(packed: Words, stream: Stream) -> int:
    """How many bytes were put."""
    held, bits, at = stream
    packed[at] = held
    return int(at * Word(8) + (bits + Word(7)) // Word(8))


@part
def put_floats(memory: PackingMemory, stream: Stream, n: np.uint64, form: int) -> Stream:
    """The column in ``memory.floats``."""
    packed, words, above, bits = memory.packed, memory.floats, memory.integers, memory.bits
    below, largest, zero = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(0)
    for i in range(n):
        below = min(below, np.uint32(words[i] - np.uint32(1)))  # of a 0 the largest number
        largest = max(largest, words[i])
        zero = np.uint32(zero + np.uint32(words[i] == np.uint32(0)))
    zeros = Word(zero)
    if zeros == n:
        return put(packed, stream, Word(ALL_ZERO), Word(2))
    if largest >= _NOT_AS_STEPS:
        stream = put(packed, stream, Word(AS_IT_IS), Word(2))
        for i in range(n):
            stream = put(packed, stream, Word(words[i]), Word(32))
        return stream
    least, most = Word(below) + Word(1), Word(largest)
    base_width = Word(BASE_OF_ONE)
    base = least >> (Word(32) - base_width)
    left_out, width = Word(0), Word(0)
    if most - (base << (Word(32) - base_width)) > _HALVES[form, 0]:
        base_width, left_out = _BASE_WIDTHS[form], _LEFT_OUT[form]
        base = _step_of(least, form) >> left_out
        # At least one: a width of 0 says that the base stands for all.
        width = max(_bit_length(_step_of(most, form) - (base << left_out)), Word(1))
    stream = put(packed, stream, Word(WITH_ZEROS if zeros > Word(0) else WITHOUT_ZEROS) | width << Word(2), Word(7))
    stream = put(packed, stream, base, base_width)
    if zeros > Word(0):
        for i in range(n):
            bits[i] = words[i] == np.uint32(0)
        stream = put_bits(memory, stream, n)
    if width == Word(0):
        return stream
    _write_steps(memory, n, form, base << left_out)
    present = n
    if zeros > Word(0):
        present = Word(0)
        for i in range(n):
            above[present] = above[i]
            present += Word(words[i] != np.uint32(0))
    choices = _find_choices(above, present, memory.choices)
    which = _bit_length(choices - Word(1))
    if choices == Word(0) or Word(CHOICES_WIDTH) + choices * width + present * which >= present * width:
        stream = put(packed, stream, Word(0), Word(1))
        for i in range(present):
            stream = put(packed, stream, above[i], width)
        return stream
    stream = put(packed, stream, Word(1) | choices - Word(1) << Word(1), Word(1 + CHOICES_WIDTH))
    for place in range(choices):
        stream = put(packed, stream, memory.choices[place], width)
    for i in range(present):
        choice = Word(0)
        while memory.choices[choice] != above[i]:
            choice += Word(1)
        stream = put(packed, stream, choice, which)
    return stream


@inlined
def _write_steps(memory: PackingMemory, n: np.uint64, form: int, base: np.uint64) -> None:
    """As ``_step_of``, above ``base``. What a quarter has is chosen by two bits, not looked up: the machine does then
    several rows at once."""
    words, above, of_octave = memory.floats, memory.integers, _OF_OCTAVE[form]
    times, added = _RECIPROCALS[form], _ADDED[form]
    times_0, times_1, times_2, times_3 = times[0], times[1], times[2], times[3]
    added_0, added_1, added_2, added_3 = added[0], added[1], added[2], added[3]
    for i in range(n):
        word = Word(words[i])
        is_odd, is_upper = word & _ODD_QUARTER != Word(0), word & _UPPER_QUARTERS != Word(0)
        by = (times_3 if is_odd else times_2) if is_upper else (times_1 if is_odd else times_0)
        to = (added_3 if is_odd else added_2) if is_upper else (added_1 if is_odd else added_0)
        within = (word & Word(_IN_QUARTER)) * by + to
        above[i] = (word >> Word(_OCTAVE_BITS)) * of_octave + (within >> Word(_SHIFT)) - base


@inlined
def put_bits(memory: PackingMemory, stream: Stream, n: np.uint64) -> Stream:
    """The column in ``memory.bits``, 64 rows at once."""
    bits = memory.bits
    for start in range(Word(0), n, Word(64)):
        some, word = min(Word(64), n - start), Word(0)
        for i in range(some):
            word |= Word(bits[start + i]) << i
        stream = put(memory.packed, stream, word, some)
    return stream


@inlined
def _find_choices(values: npt.NDArray[np.uint64], count: np.uint64, choices: npt.NDArray[np.uint64]) -> np.uint64:
    """How many different values there are, in ``choices``; 0: too many. Most columns are told by a look at each value:
    different ones rarely share one of 64 places."""
    places = Word(0)
    for start in range(Word(0), count, Word(32)):
        for i in range(start, min(start + Word(32), count)):
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
def _step_of(word: np.uint64, form: int) -> np.uint64:
    """The nearest step to a float32 that is not negative, counted from 0 on."""
    octave, quarter = word >> Word(_OCTAVE_BITS), (word >> Word(_QUARTER_BITS)) & Word(3)
    within = (word & Word(_IN_QUARTER)) * _RECIPROCALS[form, quarter] + _ADDED[form, quarter]
    return octave * _OF_OCTAVE[form] + (within >> Word(_SHIFT))


@inlined
def put(packed: Words, stream: Stream, value: np.uint64, width: np.uint64) -> Stream:
    """Up to 64 bits. A stream is what the word being filled holds, how many bits that are, and the word's place."""
    held, bits, at = stream
    held |= value << bits
    if bits + width < Word(64):
        return held, bits + width, at
    packed[at] = held
    # In two shifts, as there is none by 64.
    return value >> Word(1) >> (Word(63) - bits), bits + width - Word(64), at + Word(1)


@inlined
def _bit_length(value: np.uint64) -> np.uint64:
    length = Word(0)
    while value > Word(0):
        value >>= Word(1)
        length += Word(1)
    return length


class Writer:
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


class Reader:
    def __init__(self, packed: bytes | memoryview) -> None:
        self._bits = int.from_bytes(packed, "little")
        self._length = 8 * len(packed)
        self.place = 0

    def take(self, width: int) -> int:
        """Raises ValueError where there is no more."""
        if self.place + width > self._length:
            raise ValueError("it is cut short")
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

    def floats(self, count: int, form: int) -> list[int]:
        """As the bits of float32."""
        return self._floats(count, int(_BASE_WIDTHS[form]), int(_LEFT_OUT[form]), _numbers(form))

    def older_floats(self, count: int, step: int) -> list[int]:
        """Of an older release, whose steps were all of one size."""
        return self._floats(count, OLDER_BASE, 32 - OLDER_BASE, lambda base, above: base + step * above)

    def _floats(self, count: int, base_width: int, left_out: int, number: Callable[[int, int], int]) -> list[int]:
        form = self.take(2)
        if form == ALL_ZERO:
            return [0] * count
        if form == AS_IT_IS:
            return self.values(count, 32)
        width = self.take(_FLOAT_WIDTH)
        base = self.take(base_width) << left_out if width else self.take(BASE_OF_ONE) << 32 - BASE_OF_ONE
        is_zero = self.values(count, 1) if form == WITH_ZEROS else [0] * count
        present = count - sum(is_zero)
        if width == 0:
            return [0 if zero else base for zero in is_zero]
        if self.take(1):
            choices = self.values(self.take(CHOICES_WIDTH) + 1, width)
            choices = [number(base, above) for above in choices]
            values = iter([choices[which] for which in self.values(present, (len(choices) - 1).bit_length())])
        else:
            values = iter([number(base, above) for above in self.values(present, width)])
        return [0 if zero else next(values) for zero in is_zero]

    @property
    def left(self) -> int:
        """Bits."""
        return self._length - self.place

    def rest(self) -> bytes:
        return (self._bits >> self.place).to_bytes((self.left + 7) // 8, "little")

    def finish(self) -> None:
        """Raises ValueError where more is there than fills up a byte, or two where the beginning was written anew."""
        if self.left >= 16:
            raise ValueError("it is longer than what it holds")


@cache
def _numbers(form: int) -> Callable[[int, int], int]:
    """The bits of the float32 that a step is, counted from a base on."""
    of_octave = int(_OF_OCTAVE[form])
    if form == EXACTLY:
        return lambda base, above: base + above
    quarters = zip(STEPS[form].tolist(), _COUNTS[form].tolist(), strict=True)
    within = [
        (quarter << _QUARTER_BITS) + step * place
        for quarter, (step, count) in enumerate(quarters)
        for place in range(count)
    ]

    def number(base: int, above: int) -> int:
        octave, place = divmod(base + above, of_octave)
        return (octave << _OCTAVE_BITS) + within[place]

    return number
