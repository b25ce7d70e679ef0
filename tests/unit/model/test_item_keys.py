"""Keys are one to one with types and numbers, and those that earlier releases stored mean what they meant."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.columns import EMPTY
from recommendation_service.model.item_keys import (
    CREATOR,
    ITEM_TYPES,
    LARGEST_ITEM,
    LARGEST_OTHER,
    LARGEST_TYPE,
    item_key,
    item_keys,
    pack,
    unpack,
    unpack_all,
)
from recommendation_service.ranking.places import pack_key


@numba.njit
def _packed(item_type: int, number: int) -> int:
    return pack_key(item_type, number)


_unpacked = numba.njit(unpack)


NAMED = st.tuples(st.integers(RESUME, CHALLENGE), st.integers(0, LARGEST_ITEM))
CREATORS = st.tuples(st.just(CREATOR), st.integers(1, LARGEST_ITEM))
OTHERS = st.tuples(st.integers(CREATOR + 1, LARGEST_TYPE), st.integers(0, LARGEST_OTHER))
ITEMS = NAMED | CREATORS | OTHERS
EDGES = [
    *((item_type, number) for item_type in (RESUME, CHALLENGE) for number in (0, 1, LARGEST_ITEM)),
    *((CREATOR, number) for number in (1, LARGEST_ITEM)),
    *((item_type, number) for item_type in (CREATOR + 1, LARGEST_TYPE) for number in (0, 1, LARGEST_OTHER)),
]


@given(st.lists(ITEMS, unique=True))
def test_items_and_keys_are_one_to_one(items: list[tuple[int, int]]) -> None:
    keys = [item_key(*item) for item in items]
    assert [unpack(key) for key in keys] == items
    assert len(set(keys)) == len(items)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    types, numbers = unpack_all(np.array(keys, np.int64))
    assert list(zip(types.tolist(), numbers.tolist(), strict=True)) == items


@given(st.integers(-(2**63), 2**63 - 1).filter(lambda key: key != -(2**62)))
def test_every_number_of_64_bits_but_one_is_a_key(key: int) -> None:
    assert item_key(*unpack(key)) == key


@given(st.integers(1, 2**62 - 1))
def test_what_earlier_releases_stored_means_what_it_meant(number: int) -> None:
    assert [ITEM_TYPES[item_type] for item_type in (RESUME, CHALLENGE, CREATOR)] == ["resume", "challenge", "creator"]
    assert item_key(RESUME, number) == number << 1
    assert item_key(CHALLENGE, number) == number << 1 | 1
    assert item_key(CREATOR, number) == -number


@given(ITEMS.flatmap(lambda item: st.tuples(st.just(item[0]), st.lists(st.just(item[1]) | st.integers(1, 99)))))
def test_keys_of_an_array_are_those_of_its_numbers(items: tuple[int, list[int]]) -> None:
    item_type, numbers = items
    keys = item_keys(item_type, np.array(numbers, np.int64))
    assert keys.dtype == np.int64
    assert keys.tolist() == [item_key(item_type, number) for number in numbers]


@pytest.mark.parametrize(("item_type", "number"), EDGES)
def test_kernels_make_and_read_the_same_keys(item_type: int, number: int) -> None:
    assert _packed(item_type, number) == pack(item_type, number) == item_key(item_type, number)
    assert _unpacked(pack(item_type, number)) == (item_type, number)


@given(NAMED | OTHERS)
def test_no_items_key_is_the_mark_of_an_empty_place(item: tuple[int, int]) -> None:
    assert item_key(*item) != EMPTY


@pytest.mark.parametrize(
    ("item_type", "number", "problem"),
    [
        (-1, 1, "type is from 0 to 258, and not -1"),
        (LARGEST_TYPE + 1, 1, "type is from 0 to 258, and not 259"),
        (RESUME, -1, f"from 0 to {LARGEST_ITEM}, and not -1"),
        (CHALLENGE, LARGEST_ITEM + 1, f"from 0 to {LARGEST_ITEM}, and not {LARGEST_ITEM + 1}"),
        (CREATOR, 0, f"type 2 is from 1 to {LARGEST_ITEM}, and not 0"),
        (3, LARGEST_OTHER + 1, f"type 3 is from 0 to {LARGEST_OTHER}, and not {LARGEST_OTHER + 1}"),
    ],
)
def test_what_no_key_can_hold_is_refused_by_name(item_type: int, number: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        item_key(item_type, number)
    with pytest.raises(ValueError, match=problem):
        item_keys(item_type, np.array([1, number], np.int64))
