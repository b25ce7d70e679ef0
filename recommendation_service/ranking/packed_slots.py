"""A feed's slots in few bytes, as its record in the log holds them: packed by a kernel, unpacked by Python.

Most of a feed's record are the features of each slot. A feature is kept to five parts in 10⁵ of itself, and a
propensity as float32 (packed_columns.py). docs/events.md has the bits.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Bytes
from recommendation_service.model.kinds import PINNED
from recommendation_service.ranking.compiled import compiled
from recommendation_service.ranking.packed_columns import (
    AS_IT_IS,
    BASE_OF_ONE,
    CHOICES_WIDTH,
    EXACTLY,
    IN_STEPS,
    OLDER_BASE,
    WITHOUT_ZEROS,
    PackingMemory,
    Reader,
    Word,
    Writer,
    begin,
    finish,
    make_packing_memory,
    put,
    put_floats,
    put_integers,
)

# Added to the number of features where their steps grow with them; in an older release's they were all of one size.
GROWING_STEPS = 128
_OLDER_STEP = 832


class Slots(NamedTuple):
    """A feed's slots, as arrays of n."""

    items: npt.NDArray[np.int64]  # keys
    kinds: Bytes  # index into KINDS: what the pattern asked for
    pools: Bytes  # index into KINDS, or slate.EXPLORATION, seen.SEEN_POOL, kinds.PINNED
    relaxed: Bytes  # bits of slate.RULES that gave way for the slot
    propensities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]  # (n, d)


class Draws(NamedTuple):
    """Of a feed's slots, from where each was filled and how likely that was, as arrays of n; as ``Slots`` has them."""

    pools: Bytes
    propensities: npt.NDArray[np.float32]


def make_slot_packing(slots: int, features: int) -> PackingMemory:
    """For feeds of up to so many slots."""
    return make_packing_memory(slots, 16 + slots * (4 + features // 2) + features)


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
    """The first ``slots`` of each column, each row of ``X`` (d, S) too; how many bytes ``memory.packed`` then has."""
    packed, integers, floats = memory.packed, memory.integers, memory.floats
    n, d = Word(slots), Word(X.shape[0])
    stream = put(packed, begin(), n, Word(8))
    for column in range(4):
        for i in range(n):
            if column == 0:
                integers[i] = Word(items[i])
            elif column == 1:
                integers[i] = Word(kinds[i])
            elif column == 2:
                integers[i] = Word(0) if pools[i] == kinds[i] else Word(pools[i]) + Word(1)
            else:
                integers[i] = Word(relaxed[i])
        stream = put_integers(memory, stream, n)
    stream = put(packed, stream, d + Word(GROWING_STEPS), Word(8))
    for i in range(n):
        floats[i] = np.float32(propensities[i]).view(np.uint32)
    stream = put_floats(memory, stream, n, EXACTLY)
    for feature in range(d):
        for i in range(n):
            floats[i] = np.float32(X[feature, i]).view(np.uint32)
        stream = put_floats(memory, stream, n, IN_STEPS)
    return finish(packed, stream)


def unpack_slots(packed: bytes | memoryview) -> Slots:
    """Raises ValueError for what no feed was packed into."""
    reader = Reader(packed)
    items, kinds, pools, relaxed = _columns(reader)
    count = len(items)
    features, propensities = _propensities_of(reader, count)
    if features >= GROWING_STEPS:
        features -= GROWING_STEPS
        columns = [reader.floats(count, IN_STEPS) for _ in range(features)]
    else:
        columns = [reader.older_floats(count, _OLDER_STEP) for _ in range(features)]
    reader.finish()
    return Slots(
        np.array(items, np.uint64).view(np.int64),
        np.array(kinds, np.uint8),
        np.array(pools, np.uint8),
        np.array(relaxed, np.uint8),
        np.array(propensities, np.uint32).view(np.float32),
        np.array(columns, np.uint32).reshape(features, count).T.copy().view(np.float32),
    )


def unpack_draws(packed: bytes | memoryview) -> Draws:
    """The same without features, which are most of a record: in a tenth of the time. Raises ValueError where what is
    before them is of no feed."""
    reader = Reader(packed)
    items, _, pools, _ = _columns(reader)
    _, propensities = _propensities_of(reader, len(items))
    return Draws(np.array(pools, np.uint8), np.array(propensities, np.uint32).view(np.float32))


def _columns(reader: Reader) -> tuple[list[int], list[int], list[int], list[int]]:
    """Items, kinds, pools and relaxed rules."""
    count = reader.take(8)
    items, kinds, pools, relaxed = (reader.integers(count) for _ in range(4))
    pools = [kind if pool == 0 else pool - 1 for pool, kind in zip(pools, kinds, strict=True)]
    if max((*kinds, *pools, *relaxed), default=0) > 255 or max(items, default=0) >= 1 << 64:
        raise ValueError("the slots are none of a feed")
    return items, kinds, pools, relaxed


def _propensities_of(reader: Reader, count: int) -> tuple[int, list[int]]:
    """How many features there are, with GROWING_STEPS, and the bits of each propensity."""
    features = reader.take(8)
    propensities = reader.floats(count, EXACTLY) if features >= GROWING_STEPS else reader.older_floats(count, 1)
    return features, propensities


def unpack_shown(packed: bytes | memoryview) -> tuple[list[int], list[int], bytes]:
    """Items and kinds of the slots, and the other columns, which ``pack_shown`` takes. Raises ValueError."""
    reader = Reader(packed)
    count = reader.take(8)
    items, kinds = reader.integers(count), reader.integers(count)
    return [item - (1 << 64) if item >> 63 else item for item in items], kinds, reader.rest()


# Of 64 bits that begin at a byte, so many are left from any bit of it on: wider values are not looked at together.
_WIDEST_TOGETHER = 57


def unpack_shown_of_each(packed: Sequence[bytes]) -> Iterator[tuple[list[int], list[int], bytes]]:
    """``unpack_shown`` of each of many feeds, in a third of the time: items and kinds of all are taken out together.

    Raises ValueError when it comes to one that no feed was packed into.
    """
    joined = b"".join(packed) + bytes(8)
    words = np.ndarray((len(joined) - 7,), np.dtype("<u8"), joined, strides=(1,))  # the 64 bits from each byte on
    lengths = np.array([8 * len(one) for one in packed], np.uint64)
    begins = np.cumsum(lengths, dtype=np.uint64) - lengths
    counts = np.where(lengths > Word(0), _bits_at(words, begins) & Word(255), Word(0))
    items, place, are_narrow = _integers_of_each(words, begins + Word(8), counts)
    kinds, place, are_narrow_too = _integers_of_each(words, place, counts)
    is_read = are_narrow & are_narrow_too & (lengths > Word(0)) & (place <= begins + lengths)
    columns = (items.tolist(), kinds.tolist(), (place - begins).tolist(), counts.tolist(), is_read.tolist())
    for one, items_of, kinds_of, at, count, was_read in zip(packed, *columns, strict=True):
        if was_read:
            others = (int.from_bytes(one, "little") >> at).to_bytes((8 * len(one) - at + 7) // 8, "little")
            yield items_of[:count], kinds_of[:count], others
        else:
            yield unpack_shown(one)


def unpack_propensities_of_each(others: Sequence[bytes], counts: Sequence[int]) -> list[npt.NDArray[np.float32]]:
    """Of each of many feeds, so many slots each, from what ``unpack_shown`` leaves; all are taken out together.

    Raises ValueError where one is of no feed.
    """
    words, begins, lengths, slots = _side_by_side(others, counts)
    _, place, are_narrow = _integers_of_each(words, begins, slots)
    _, place, are_narrow_too = _integers_of_each(words, place, slots)
    found, place, are_plain = _floats_of_each(words, place + Word(8), slots)
    is_read = are_narrow & are_narrow_too & are_plain & (place <= begins + lengths)
    return [
        row[:count] if was_read else _propensities(one, count)
        for one, count, row, was_read in zip(others, counts, found, is_read.tolist(), strict=True)
    ]


def pinned_of_each(others: Sequence[bytes], counts: Sequence[int]) -> npt.NDArray[np.bool_]:
    """(B, s) which slots of each editors gave; ``others`` as ``unpack_propensities_of_each`` reads them."""
    words, begins, _, slots = _side_by_side(others, counts)
    pools, _, are_narrow = _integers_of_each(words, begins, slots)
    has = np.arange(pools.shape[1], dtype=np.uint64) < slots[:, np.newaxis]
    return np.asarray(has & are_narrow[:, np.newaxis] & (pools == Word(PINNED + 1)))


def _side_by_side(
    others: Sequence[bytes], counts: Sequence[int]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """64 bits from each byte on, and of each feed the bit where it begins, how many it has, and its slots."""
    joined = b"".join(others) + bytes(8)
    words = np.ndarray((len(joined) - 7,), np.dtype("<u8"), joined, strides=(1,))
    lengths = np.array([8 * len(one) for one in others], np.uint64)
    return words, np.cumsum(lengths, dtype=np.uint64) - lengths, lengths, np.array(counts, np.uint64)


def _propensities(others: bytes, count: int) -> npt.NDArray[np.float32]:
    reader = Reader(others)
    for _ in range(2):
        reader.integers(count)
    reader.take(8)
    return np.array(reader.floats(count, EXACTLY), np.uint32).view(np.float32)


def _floats_of_each(
    words: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A column of floats, exactly, of each of B feeds, as ``_integers_of_each`` has one of integers; one with zeros is
    not read. Older releases wrote such a column the same way."""
    form, head = _bits_at(words, place) & Word(3), _bits_at(words, place + Word(2))
    as_it_is = form == Word(AS_IT_IS)
    width = np.where(as_it_is, Word(32), head & Word(31))
    base_width = np.where(width > Word(0), Word(OLDER_BASE), Word(BASE_OF_ONE))
    base = (head >> Word(5) & _ones(base_width)) << (Word(32) - base_width)
    place = place + Word(2) + np.where(as_it_is, Word(0), Word(5) + base_width)
    by_choice = ~as_it_is & (width > Word(0)) & (_bits_at(words, place) & Word(1) > Word(0))
    place = place + np.where(~as_it_is & (width > Word(0)), Word(1), Word(0))
    last = np.where(by_choice, _bits_at(words, place) & _ones(np.full_like(place, CHOICES_WIDTH)), Word(0))
    choices = place + Word(CHOICES_WIDTH)
    place = np.where(by_choice, choices + (last + Word(1)) * width, place)
    own_width = np.where(by_choice, np.frexp(last.astype(np.float64))[1].astype(np.uint64), width)
    slots = np.arange(counts.max(initial=0), dtype=np.uint64)
    at = (place[:, np.newaxis] + own_width[:, np.newaxis] * slots).astype(np.uint64)
    values = _bits_at(words, at) & _ones(own_width)[:, np.newaxis]
    if by_choice.any():
        chosen = choices[by_choice, np.newaxis] + values[by_choice] * width[by_choice, np.newaxis]
        values[by_choice] = _bits_at(words, chosen) & _ones(width[by_choice])[:, np.newaxis]
    values += np.where(as_it_is, Word(0), base)[:, np.newaxis]
    is_read = as_it_is | (form == Word(WITHOUT_ZEROS))
    end = (place + own_width * counts).astype(np.uint64)
    return values.astype(np.uint32).view(np.float32), end, is_read


def _integers_of_each(
    words: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A column of integers of each of B feeds, which begins at bit ``place`` (B,): its values (B, the most of them),
    where it ends, and whether it could be read so. What is no column of a feed gives anything."""
    head = _bits_at(words, place)
    width, least_width = head & Word(127), head >> Word(7) & Word(127)
    are_narrow = (width <= _WIDEST_TOGETHER) & (least_width <= _WIDEST_TOGETHER)
    place = place + Word(14)
    least = _bits_at(words, place) & _ones(least_width)
    place = place + least_width
    at = place[:, np.newaxis] + width[:, np.newaxis] * np.arange(counts.max(initial=0)).astype(np.uint64)
    values = (_bits_at(words, at) & _ones(width)[:, np.newaxis]) + least[:, np.newaxis]
    return values, place + width * counts, are_narrow


def _bits_at(words: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """At least 57 bits from each place on; beyond the end, any."""
    return words[np.minimum(place >> Word(3), Word(len(words) - 1))] >> (place & Word(7))


def _ones(width: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (Word(1) << np.minimum(width, Word(_WIDEST_TOGETHER))) - Word(1)


def pack_shown(items: Sequence[int], kinds: Sequence[int], others: bytes) -> bytes:
    """What ``unpack_shown`` took apart."""
    writer = Writer()
    writer.put(len(items), 8)
    writer.integers([item & (1 << 64) - 1 for item in items])
    writer.integers(kinds)
    writer.put(int.from_bytes(others, "little"), 8 * len(others))
    return writer.finish()


def pack_as_they_are(slots: Slots) -> bytes:
    """With features that are not rounded: of a record that an older release wrote."""
    writer = Writer()
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
