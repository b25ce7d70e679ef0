from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.estimates.sequences import lower_bound


def missed_at_any_moment(generator: np.random.Generator, feeds: int, error: float) -> bool:
    """Whether the bound is above the truth at one of many looks. Gains are skewed: most lose little, few win much."""
    truth = -0.05
    gains = np.where(generator.random(feeds) < 0.05, 5.0, -6.0 / 19 * (1 + 0.1 * generator.standard_normal(feeds)))
    gains = np.maximum(gains, -1.0)
    return any(lower_bound(gains[:n], 1.0, error) > truth for n in np.unique(np.geomspace(10, feeds, 30).astype(int)))


def test_the_bound_is_missed_at_any_of_many_looks_no_more_often_than_allowed() -> None:
    generator = np.random.default_rng(1)
    assert sum(missed_at_any_moment(generator, 2_000, 0.1) for _ in range(100)) <= 0.1 * 100


def test_the_bound_closes_in_on_the_mean() -> None:
    gains = np.random.default_rng(2).normal(0.2, 0.2, 100_000).clip(-1, 1)
    widths = [gains[:n].mean() - lower_bound(gains[:n], 1.0, 0.025) for n in (100, 10_000, 100_000)]
    assert widths[0] > 4 * widths[1] > 8 * widths[2]
    assert widths[2] < 5 * 0.28 / np.sqrt(100_000)


def test_gains_that_are_all_alike_bound_little_while_they_are_few() -> None:
    assert lower_bound(np.full(5, 0.1), 1.0, 0.05) < -1.0


@pytest.mark.parametrize("gains", [np.zeros(0), np.array([np.nan, 1.0])])
def test_of_nothing_nothing_is_said(gains: np.ndarray) -> None:
    assert lower_bound(gains, 1.0, 0.05) == -np.inf
