"""Slots in few bytes: any feed comes back, its features within the stated error and all else exactly."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.model.features import FEATURES
from recommendation_service.ranking.packed_columns import RELATIVE_ERROR
from recommendation_service.ranking.packed_slots import (
    Slots,
    make_slot_packing,
    pack_as_they_are,
    pack_shown,
    pack_slots,
    unpack_draws,
    unpack_propensities_of_each,
    unpack_shown,
    unpack_shown_of_each,
    unpack_slots,
)
from recommendation_service.ranking.working_memory import LARGEST_FEED
from tests.support.older_records import SLOTS_IN_STEPS_OF_ONE_SIZE, SLOTS_READ

MEMORY = make_slot_packing(LARGEST_FEED, FEATURES)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

unhurried = settings(deadline=None)
sizes = st.integers(0, LARGEST_FEED)
seeds = st.integers(0, 2**32)
keys = st.sampled_from([(0, 1), (1, 2**13), (2**31, 2**40), (-(2**63), 2**63)])
# How a feature is drawn: what features are, and what they should never be.
COLUMNS = {
    "zero": lambda _, n: np.zeros(n),
    "one or zero": lambda draw, n: draw.integers(0, 2, n).astype(float),
    "one for all": lambda draw, n: np.full(n, draw.random()),
    "one of few": lambda draw, n: draw.random(12)[draw.integers(0, 12, n)],
    "a share": lambda draw, n: draw.random(n),
    "a share, often zero": lambda draw, n: draw.random(n) * draw.integers(0, 2, n),
    "beyond 1": lambda draw, n: np.exp(draw.normal(0, 3, n)),
    "of every magnitude": lambda draw, n: 10.0 ** draw.uniform(-45, 38, n),
    "with signs": lambda draw, n: draw.normal(0, 1, n),
    "no numbers": lambda draw, n: draw.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, 3.4e38, 1e300], n),
}


def slots_of(size: int, seed: int, span: tuple[int, int], forms: list[str]) -> tuple[npt.NDArray[np.float64], Slots]:
    """Features before they are packed, and a feed of them."""
    draw = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        X = np.stack([COLUMNS[form](draw, size) for form in forms], axis=1)
        slots = Slots(
            draw.integers(*span, size, dtype=np.int64),
            draw.integers(0, 5, size, dtype=np.uint8),
            draw.choice([0, 1, 2, 3, 4, 100, 101], size).astype(np.uint8),
            draw.integers(0, 16, size, dtype=np.uint8),
            draw.random(size).astype(np.float32),
            X.astype(np.float32),
        )
    return X, slots


def packed(slots: Slots, X: npt.NDArray[np.float64]) -> bytes:
    """By the kernel, from memory that holds something of another feed."""
    length = pack_slots(
        slots.items,
        slots.kinds,
        slots.pools,
        slots.relaxed,
        slots.propensities.astype(np.float64),
        np.ascontiguousarray(X.T),
        len(slots.items),
        MEMORY,
    )
    return MEMORY.packed.tobytes()[:length]


def assert_draws_are_those_of_the_slots(whole: bytes) -> None:
    draws, slots = unpack_draws(whole), unpack_slots(whole)
    for name in draws._fields:
        column, expected = getattr(draws, name), getattr(slots, name)
        assert column.dtype == expected.dtype
        np.testing.assert_array_equal(column, expected)


def assert_equal_but_for_features(found: Slots, slots: Slots) -> None:
    for name in ("items", "kinds", "pools", "relaxed", "propensities"):
        assert getattr(found, name).tolist() == getattr(slots, name).tolist(), name
        assert getattr(found, name).dtype == getattr(slots, name).dtype, name


forms = st.lists(st.sampled_from(list(COLUMNS)), min_size=FEATURES, max_size=FEATURES)


@unhurried
@given(size=sizes, seed=seeds, span=keys, forms=forms)
def test_any_feed_comes_back_within_the_stated_error(
    size: int, seed: int, span: tuple[int, int], forms: list[str]
) -> None:
    X, slots = slots_of(size, seed, span, forms)
    whole = packed(slots, X)
    assert_draws_are_those_of_the_slots(whole)
    found = unpack_slots(whole)
    assert_equal_but_for_features(found, slots)
    assert found.features.shape == (size, FEATURES)
    finite = np.isfinite(slots.features)
    assert np.array_equal(found.features[~finite], slots.features[~finite], equal_nan=True)
    assert ((found.features == 0) >= (X == 0)).all(), "0 stays 0"
    error = np.abs(found.features[finite].astype(np.float64) - X[finite])
    # What is smaller than any normal number has as few digits as float32 has there.
    assert (error <= np.maximum(RELATIVE_ERROR * np.abs(X[finite]), 2 * RELATIVE_ERROR * SMALLEST_NORMAL)).all()


@unhurried
@given(size=sizes, seed=seeds)
def test_what_is_one_for_all_or_one_and_zero_comes_back_exactly(size: int, seed: int) -> None:
    X, slots = slots_of(size, seed, (1, 5000), ["one or zero"] * 17 + ["zero"])
    X[:, 3] = 0.25
    assert unpack_slots(packed(slots, X)).features.tolist() == X.tolist()


@unhurried
@given(size=sizes, seed=seeds, span=keys, forms=forms)
def test_features_of_an_older_record_stay_as_they_are(
    size: int, seed: int, span: tuple[int, int], forms: list[str]
) -> None:
    _, slots = slots_of(size, seed, span, forms)
    found = unpack_slots(pack_as_they_are(slots))
    assert_equal_but_for_features(found, slots)
    assert np.array_equal(found.features, slots.features, equal_nan=True)


def test_slots_of_the_release_before_are_read_as_it_read_them() -> None:
    assert_draws_are_those_of_the_slots(SLOTS_IN_STEPS_OF_ONE_SIZE)
    slots = unpack_slots(SLOTS_IN_STEPS_OF_ONE_SIZE)
    assert slots.items.tolist() == [26, 20, 14, 24, 28, 5, 22, 2, 4]
    assert sha256(slots.propensities.tobytes() + slots.features.tobytes()).hexdigest() == SLOTS_READ


@unhurried
@given(size=sizes, seed=seeds, span=keys, forms=forms)
def test_what_was_shown_is_taken_out_and_put_back(
    size: int, seed: int, span: tuple[int, int], forms: list[str]
) -> None:
    X, slots = slots_of(size, seed, span, forms)
    whole = packed(slots, X)
    items, kinds, others = unpack_shown(whole)
    assert (items, kinds) == (slots.items.tolist(), slots.kinds.tolist())
    again = pack_shown(items, kinds, others)
    assert again.rstrip(b"\0") == whole.rstrip(b"\0")
    for column, expected in zip(unpack_slots(again), unpack_slots(whole), strict=True):
        assert np.array_equal(column, expected, equal_nan=True)


def test_what_is_cut_short_or_goes_on_is_refused() -> None:
    X, slots = slots_of(24, 1, (1, 5000), ["a share"] * FEATURES)
    whole = packed(slots, X)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="cut short"):
            unpack_slots(whole[:length])
    for length in range(40):
        with pytest.raises(ValueError, match="cut short"):
            unpack_draws(whole[:length])
    with pytest.raises(ValueError, match="longer"):
        unpack_slots(whole + b"abc")


def until_refused(taken_apart: Iterable[tuple[list[int], list[int], bytes]]) -> list[object]:
    """What is given, and what is said of the first that is refused."""
    found: list[object] = []
    try:
        found.extend(taken_apart)
    except ValueError as error:
        found.append(str(error))
    return found


def one_by_one(feeds: list[bytes]) -> list[object]:
    return until_refused(map(unpack_shown, feeds))


def together(feeds: list[bytes]) -> list[object]:
    return until_refused(unpack_shown_of_each(feeds))


@unhurried
@given(st.lists(st.tuples(st.integers(0, 40), seeds, keys), max_size=6), st.integers(0, 60))
def test_many_feeds_are_taken_apart_as_each_alone_is(feeds: list[tuple[int, int, tuple[int, int]]], cut: int) -> None:
    whole = [packed(slots, X) for X, slots in (slots_of(*feed, ["a share"] * FEATURES) for feed in feeds)]
    assert together(whole) == one_by_one(whole)
    if whole:
        cut_short = [*whole[:-1], whole[-1][:cut], whole[0]]
        assert together(cut_short) == one_by_one(cut_short)


@unhurried
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_many_of_any_bytes_are_taken_apart_or_refused_as_each_alone_is(some: list[bytes]) -> None:
    assert together(some) == one_by_one(some)


# Propensities as feeds have them, as a rule, and as they might.
FEW = st.sampled_from(["a share", "one for all", "one of few", "zero", "a share, often zero", "with signs"])


@unhurried
@given(st.lists(st.tuples(st.integers(0, 40), seeds, FEW), max_size=6), st.booleans())
def test_propensities_of_many_feeds_are_taken_out_as_they_went_in(
    feeds: list[tuple[int, int, str]], as_older_releases: bool
) -> None:
    expected, others = [], []
    for size, seed, form in feeds:
        X, slots = slots_of(size, seed, (0, 1), ["a share"] * FEATURES)
        slots = slots._replace(propensities=COLUMNS[form](np.random.default_rng(seed), size).astype(np.float32))
        whole = pack_as_they_are(slots) if as_older_releases else packed(slots, X)
        others.append(unpack_shown(whole)[2])
        expected.append(unpack_slots(whole).propensities)
    found = unpack_propensities_of_each(others, [size for size, _, _ in feeds])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_a_feed_that_is_cut_short_no_propensity_is_made_up() -> None:
    X, slots = slots_of(24, 1, (0, 1), ["a share"] * FEATURES)
    others = unpack_shown(packed(slots, X))[2]
    with pytest.raises(ValueError, match="cut short"):
        unpack_propensities_of_each([others, others[:20]], [24, 24])
