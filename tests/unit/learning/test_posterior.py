"""The posterior: the prior where nothing was seen, the truth where much was, and widths that cover it."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.learning.format import load_learning
from recommendation_service.learning.posterior import posterior
from recommendation_service.learning.publishing import model_of
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy, learned_problems, load_policy
from tests.unit.learning.test_sums import DAY, NOW, D, add, empty, observations

PRIOR = load_policy()
MODEL = model_of(PRIOR, load_learning())


def test_what_nobody_has_seen_has_the_weights_and_the_widths_of_the_prior() -> None:
    sums = empty()
    kinds, X, rewards, times = observations(1, 500, 10)
    sums.add(np.zeros_like(kinds), X, rewards, times, np.ones(len(times)))

    policy = Policy(PRIOR.file, *posterior(sums.at(NOW), MODEL))

    for kind in range(1, len(KINDS)):
        assert np.array_equal(policy.arrays.theta[kind], PRIOR.arrays.theta[kind])
        assert np.array_equal(policy.arrays.precision_root[kind], PRIOR.arrays.precision_root[kind])
    assert not np.allclose(policy.arrays.theta[0], PRIOR.arrays.theta[0])


def test_the_posterior_is_that_of_the_textbook_with_a_level_of_its_own() -> None:
    """Against a regression with one more column of ones, whose prior is as good as flat."""
    kinds, X, rewards, times = observations(2, 400, 60)
    sums = empty()
    sums.add(np.zeros_like(kinds), X, rewards, times, np.ones(len(times)))
    theta, A, _ = posterior(sums.at(NOW), MODEL)

    weights = np.exp2((times - NOW) / (30 * DAY))
    points, noise = MODEL.points[0], MODEL.points[0] * MODEL.noise
    full = np.column_stack((X, np.ones(len(X))))
    precision = np.diag([MODEL.precision] * D + [1e-12])
    wide = precision + (full * weights[:, None]).T @ full / noise**2
    b = precision @ np.append(MODEL.mean[0], 0.0) + full.T @ (weights * points * rewards) / noise**2
    assert theta[0] == pytest.approx(np.linalg.solve(wide, b)[:D], rel=1e-8, abs=1e-8)
    assert np.linalg.inv(A[0]) == pytest.approx(np.linalg.inv(wide)[:D, :D], rel=1e-6, abs=1e-10)


def test_the_level_of_the_rewards_moves_no_weight() -> None:
    kinds, X, rewards, times = observations(3, 400, 60)
    low, high = empty(), empty()
    add(low, (kinds, X, rewards, times))
    add(high, (kinds, X, rewards + 0.5, times))
    one, other = posterior(low.at(NOW), MODEL).theta, posterior(high.at(NOW), MODEL).theta
    assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("count", [1, 10, 10_000])
@pytest.mark.parametrize("days", [0.0, 30.0, 3_000.0, 100_000.0])
def test_a_kernel_may_read_it_however_much_and_long_ago(count: int, days: float) -> None:
    """Features that never differ, as the gate in VMP, are the hard case: about their mean only rounding is left."""
    sums = empty()
    kinds, X, rewards, times = observations(4, count, 1)
    X[:, 12] = 1.0
    X[:, 3] = X[:, 2]
    add(sums, (kinds, X, rewards, times))
    learned = posterior(1_000.0 * sums.at(NOW + days * DAY), MODEL)
    assert learned_problems(learned, D) == []
    assert np.isfinite(Policy(PRIOR.file, *learned).arrays.precision_root).all()
