"""The sums: whoever adds what, in whatever order, they are the same; and they stay numbers for months."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.learning.sums import Sums
from recommendation_service.model.kinds import KINDS
from tests.support.policies import ALL_FEATURE_NAMES as FEATURE_NAMES

Floats = npt.NDArray[np.float64]
DAY = 86400.0
NOW = 1_790_000_000.0
D = len(FEATURE_NAMES)
Rows = tuple[npt.NDArray[np.integer[Any]], Floats, Floats, Floats]


def empty(half_life_days: float = 30.0) -> Sums:
    return Sums(KINDS, FEATURE_NAMES, half_life_days * DAY)


def observations(seed: int, count: int, days: float) -> Rows:
    """Kinds, features as float32 has them, rewards and times."""
    draw = np.random.default_rng(seed)
    X = draw.gamma(1.0, 1.0, (count, D)).astype(np.float32).astype(np.float64)
    return draw.integers(len(KINDS), size=count), X, draw.uniform(-1, 1, count), NOW - days * DAY * draw.random(count)


def add(sums: Sums, rows: Rows, places: Any = slice(None), sign: float = 1.0) -> None:
    kinds, X, rewards, times = (column[places] for column in rows)
    sums.add(kinds, X, rewards, times, np.full(len(times), sign))


def furthest(one: Floats, other: Floats) -> float:
    """The largest difference, relative to the largest number of its kind."""
    return float((np.abs(one - other).max(axis=(1, 2)) / np.abs(one).max(axis=(1, 2))).max())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    learners=st.integers(1, 9),
    shares=st.sampled_from(("even", "a tenth")),
    half_life=st.sampled_from((0.01, 1.0, 30.0, 36500.0)),
)
def test_any_split_order_and_delay_merges_to_the_model_of_one(
    seed: int, learners: int, shares: str, half_life: float
) -> None:
    """Also where one learner has nine tenths, and where some are told of things weeks late."""
    rows = observations(seed, 2_000, 60 * half_life)
    one = empty(half_life)
    order = np.argsort(rows[3])
    for start in range(0, len(order), 24):
        add(one, rows, order[start : start + 24])

    draw = np.random.default_rng(seed + 1)
    owner = draw.integers(learners, size=len(order))
    if shares == "a tenth":
        owner[draw.random(len(order)) < 0.9] = 0
    merged = empty(half_life)
    for learner in draw.permutation(learners):
        theirs = empty(half_life)
        mine = draw.permutation(np.flatnonzero(owner == learner))
        while len(mine):
            size = int(draw.integers(1, 300))
            add(theirs, rows, mine[:size])
            mine = mine[size:]
        merged.merge(theirs)

    assert furthest(one.at(NOW), merged.at(NOW)) < 1e-15


def test_an_observation_weighs_by_its_own_time() -> None:
    sums = empty(half_life_days=10)
    x = np.ones((1, D))
    for days, kind in ((0, 0), (10, 1), (20, 2)):
        sums.add(np.array([kind]), x, np.ones(1), np.array([NOW - days * DAY]), np.ones(1))
    assert sums.at(NOW)[:3, 0, 0] == pytest.approx([1, 1 / 2, 1 / 4], rel=1e-14)
    assert sums.at(NOW + 10 * DAY)[:3, 0, 0] == pytest.approx([1 / 2, 1 / 4, 1 / 8], rel=1e-14)


def test_what_is_taken_back_was_never_there() -> None:
    rows, more = observations(1, 500, 30), observations(2, 300, 90)
    sums, alone = empty(), empty()
    add(alone, rows)
    add(sums, more)
    add(sums, rows)
    add(sums, more, sign=-1.0)
    assert furthest(alone.at(NOW), sums.at(NOW)) < 1e-15


def test_ten_million_observations_lose_no_digits() -> None:
    """The same 10,000 a thousand times: their sums are known. Of 8 features: what is added up of two does not go by how
    many others there are."""
    few = 8
    sums, once = (Sums(KINDS, FEATURE_NAMES[:few], 36500 * DAY) for _ in range(2))
    kinds, X, *others = observations(3, 10_000, 1)
    rows = (kinds, X[:, :few], *others)
    add(once, rows)
    for _ in range(1_000):
        add(sums, rows)
    assert furthest(1_000 * once.at(NOW), sums.at(NOW)) < 1e-14


def test_years_of_silence_leave_nothing_and_one_feed_of_the_past_is_nothing() -> None:
    sums = empty()
    add(sums, observations(4, 1_000, 30))
    assert np.isfinite(sums.at(NOW + 100_000 * DAY)).all()
    assert not sums.at(NOW + 100_000 * DAY).any()
    before = sums.at(NOW)
    sums.add(np.zeros(1, int), np.ones((1, D)), np.ones(1), np.zeros(1), np.ones(1))  # 1970
    assert np.array_equal(sums.at(NOW), before)


def test_features_and_kinds_that_were_added_begin_at_nothing() -> None:
    rows = observations(5, 200, 10)
    earlier = Sums(KINDS[:3], FEATURE_NAMES[1:], 30 * DAY)
    kinds, X, rewards, times = rows
    earlier.add(kinds % 3, X[:, 1:], rewards, times, np.ones(len(times)))
    taken = empty()

    taken.take(earlier, NOW)

    found, known = taken.at(NOW), earlier.at(NOW)
    assert np.array_equal(found[:3, 1:, 1:], known)
    assert not found[3:].any()
    assert not found[:, 0].any()


def test_sums_of_a_feature_that_is_gone_are_refused() -> None:
    earlier = Sums(KINDS, (*FEATURE_NAMES, "moon_phase"), 30 * DAY)
    with pytest.raises(ValueError, match="moon_phase, which this release does not have"):
        empty().take(earlier, NOW)


def test_another_half_life_holds_from_now_on() -> None:
    earlier, taken = empty(30), empty(7)
    add(earlier, observations(6, 300, 60))
    taken.take(earlier, NOW)
    assert furthest(earlier.at(NOW), taken.at(NOW)) < 1e-12
    assert furthest(earlier.at(NOW) / 2, taken.at(NOW + 7 * DAY)) < 1e-12


@pytest.mark.parametrize("others", [Sums(KINDS[:2], FEATURE_NAMES, 30 * DAY), empty(29)])
def test_sums_that_do_not_fit_are_not_merged(others: Sums) -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        empty().merge(others)


def test_nothing_is_added_of_nothing() -> None:
    sums = empty()
    nothing: Sequence[Any] = (np.zeros(0, int), np.zeros((0, D)), np.zeros(0), np.zeros(0), np.zeros(0))
    sums.add(*nothing)
    assert not sums.at(NOW).any()
