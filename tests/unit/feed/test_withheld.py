"""What a feed could not hold because of its request or its user, as a decision keeps it."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.feed.withheld import unpack_withheld
from recommendation_service.model.columns import Int64
from recommendation_service.model.item_keys import pack
from recommendation_service.ranking.packed_columns import Writer
from recommendation_service.ranking.slate_withheld import make_withheld_memory, pack_withheld

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50, unique=True)
TIMES = st.sampled_from([0, 1_790_000_000, 1_790_000_020, -1, 2**63 - 1, -(2**63)])


def packed(keys: Int64, when: Int64, why: npt.NDArray[np.uint8], room: int = 3) -> bytes:
    found = make_withheld_memory(len(keys) + room)
    for column, values in zip((found.keys, found.when, found.why), (keys, when, why), strict=True):
        column[: len(values)] = values
    length = pack_withheld(found, len(keys))
    return found.packing.packed.data.cast("B")[:length].tobytes()


@given(KEYS, st.data(), st.integers(0, 3))
def test_what_is_packed_is_unpacked(keys: list[int], data: st.DataObject, room: int) -> None:
    told = {key: (data.draw(st.integers(1, 7)), data.draw(TIMES)) for key in keys}
    why, when = (np.array([of[place] for of in told.values()], np.int64) for place in range(2))
    again = unpack_withheld(packed(np.array(keys, np.int64), when, why.astype(np.uint8), room))
    assert {key: again.of(key) for key in keys} == told
    assert again.keys.tolist() == sorted(keys)
    if 17 not in keys:
        assert again.of(17) is None


def in_bytes(form: int, keys: list[int], when: list[int], why: list[int]) -> bytes:
    columns = b"".join(np.array(column, "<i8").view(np.uint8).reshape(-1, 8).T.tobytes() for column in (keys, when))
    return bytes([form]) + zlib.compress(columns + bytes(why), 1)


@pytest.mark.parametrize(
    "packed_before",
    [in_bytes(1, [-5, 8, 4], [10, 0, 300], [1, 5, 2]), in_bytes(2, [7, -5, 3], [300, 10, 0], [2, 1, 5])],
    ids=["differences", "keys as they were found"],
)
def test_what_older_releases_packed_is_unpacked(packed_before: bytes) -> None:
    again = unpack_withheld(packed_before)
    assert [again.of(key) for key in (-5, 3, 7, 4)] == [(1, 10), (5, 0), (2, 300), None]
    assert again.keys.tolist() == [-5, 3, 7]


@pytest.mark.parametrize("form", [1, 2])
def test_nothing_of_an_older_release_is_nothing(form: int) -> None:
    assert len(unpack_withheld(in_bytes(form, [], [], [])).keys) == 0


def in_bits(count: int, runs: int, *columns: list[int]) -> bytes:
    writer = Writer()
    writer.put(3, 8)
    writer.integers([count, runs])
    for column in columns:
        for start in range(0, len(column), 128):
            writer.integers(column[start : start + 128])
    return writer.finish()


def test_its_bits_are_those_of_the_documentation() -> None:
    keys, when, why = [2**54 + 8, *range(200)], [30, *[7] * 200], [1, *[5] * 200]
    columns = [1, *[0] * 200], [8, *range(200)], [1, 200], [30, 7], [1, 5]
    assert packed(np.array(keys), np.array(when), np.array(why, np.uint8)) == in_bits(201, 2, *columns)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x04" + zlib.compress(b""),
        b"\x02none",
        b"\x01" + zlib.compress(b"x" * 18),
        b"\x03",
        in_bits(2**32 - 1, 1, []),
        in_bits(2, 3, [0, 0], [1, 2], [1, 1, 0], [0, 0, 0], [1, 1, 1]),
        in_bits(2, 1, [0, 0], [1, 2], [1], [0], [1]),
        in_bits(1, 1, [0], [1], [1], [0], [256]),
        in_bits(1, 1, [0], [1], [1], [2**64], [1]),
        in_bits(1, 1, [0], [1], [1], [0], [1]) + b"..",
        packed(np.arange(9), np.arange(9), np.ones(9, np.uint8))[:-1],
    ],
)
def test_what_is_none_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_withheld(broken)


def seen_by_24(count: int) -> tuple[Int64, npt.NDArray[np.uint8]]:
    """When and why, in the order in which it was seen."""
    draw = np.random.default_rng(1)
    when = 1_790_000_000 + np.sort(draw.integers(0, 30 * 86_400, count // 24 + 1)).repeat(24)[:count]
    return when, np.ones(count, np.uint8)


def test_a_user_who_has_seen_much_takes_little() -> None:
    numbers = np.random.default_rng(2).choice(200_000, 1_000, replace=False)
    assert len(packed(numbers << 1, *seen_by_24(1_000))) < 2_600


def test_items_of_another_operators_types_take_no_more() -> None:
    """A few bits tell the types from one another, which are far apart as keys."""
    numbers = np.random.default_rng(2).choice(200_000, 1_000, replace=False)
    keys = numbers + np.array([pack(3 + number % 2, 0) for number in numbers])
    assert len(packed(keys, *seen_by_24(1_000))) < 2_650
