"""A learner among simulated people, in its quick form; `make regret` has the long one, docs/learning.md its figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.learning.format import load_learning
from tests.support.tastes import DRIFT, HALF_LIFE, PRIOR_IS_RIGHT, Course, Pools, Tastes, coverage, real_pools, regrets

FILE = load_learning()
COURSE = Course(feeds=12_000)
RUNS = 2


KINDS = ("VMP", "FW")


@pytest.fixture(scope="module")
def pools_by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pools]:
    return dict(zip(KINDS, real_pools(tmp_path_factory.mktemp("catalog"), KINDS, people=40, videos=800), strict=True))


@pytest.fixture(scope="module", params=KINDS)
def pools(request: pytest.FixtureRequest, pools_by_kind: dict[str, Pools]) -> Pools:
    return pools_by_kind[request.param]


def share_of_the_priors(pools: Pools, tastes: Tastes) -> npt.NDArray[np.float64]:
    """(feeds,) the learner's cumulative regret over the prior's, of means over the runs."""
    found = [regrets(pools, tastes, FILE, seed, COURSE) for seed in range(RUNS)]
    learned, prior = (np.mean([run[which] for run in found], axis=0) for which in (0, 1))
    return np.asarray(learned[999:] / prior[999:])


def test_where_tastes_drift_regret_is_at_most_half_and_never_above_the_priors(pools: Pools) -> None:
    shares = share_of_the_priors(pools, Tastes())
    assert shares[-1] <= 0.5
    assert shares.max() <= 1.05


def test_where_the_prior_is_right_nothing_is_lost(pools: Pools) -> None:
    assert share_of_the_priors(pools, PRIOR_IS_RIGHT).max() <= 1.02


def test_widths_cover_the_truth_with_and_without_drift(pools: Pools) -> None:
    """With the drift that the discount is made for as promised, without one more often: never too narrow."""
    assert coverage(pools, DRIFT, HALF_LIFE) >= 0.93
    assert coverage(pools, 0.0, HALF_LIFE) >= 0.98
