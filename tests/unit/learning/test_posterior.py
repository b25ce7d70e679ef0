"""The posterior: the prior where nothing was seen, the truth where much was, and widths that cover it."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.learning.format import load_learning
from recommendation_service.learning.posterior import believed_matrices, mean_precisions, posterior
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
    """Against a regression with one more column of ones, whose prior is as good as flat.

    The mean follows from the precision that it was found to have, and from its length being a guess; the width from the
    precision that is given.
    """
    kinds, X, rewards, times = observations(2, 400, 60)
    sums = empty()
    sums.add(np.zeros_like(kinds), X, rewards, times, np.ones(len(times)))
    known = sums.at(NOW)
    theta, A, _ = posterior(known, MODEL)
    [of_mean, *_] = mean_precisions(known, MODEL)
    assert of_mean != MODEL.precision

    weights = np.exp2((times - NOW) / (30 * DAY))
    points, noise = MODEL.points[0], MODEL.points[0] * MODEL.noise
    full = np.column_stack((X, np.ones(len(X))))
    mean = np.append(MODEL.mean[0], 0.0)
    believed = np.eye(D) / of_mean + np.outer(MODEL.mean[0], MODEL.mean[0])
    wide = []
    for covariance in (believed, np.eye(D) / MODEL.precision):
        precision = np.zeros((D + 1, D + 1))
        precision[:D, :D], precision[D, D] = np.linalg.inv(covariance), 1e-12
        wide.append(precision + (full * weights[:, None]).T @ full / noise**2)
    rest = full.T @ (weights * (points * rewards - full @ mean)) / noise**2
    assert theta[0] == pytest.approx((mean + np.linalg.solve(wide[0], rest))[:D], rel=1e-6, abs=1e-6)
    for matrix, expected in zip((believed_matrices(known, MODEL)[0], A[0]), wide, strict=True):
        assert np.linalg.inv(matrix) == pytest.approx(np.linalg.inv(expected)[:D, :D], rel=1e-6, abs=1e-8)


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
    assert learned_problems(learned, load_policy().file) == []
    assert np.isfinite(Policy(PRIOR.file, *learned).arrays.precision_root).all()


def test_how_far_the_prior_is_believed_is_what_makes_the_rewards_most_probable() -> None:
    """Against the density of the rewards themselves, of which the sums have no trace but the sums."""
    draw = np.random.default_rng(5)
    model = MODEL._replace(mean=draw.normal(size=MODEL.mean.shape))
    kinds, X, rewards, times = observations(5, 120, 1)
    sums = empty()
    sums.add(np.zeros_like(kinds), X, rewards, np.full_like(times, NOW), np.ones(len(times)))
    points, noise = model.points[0], model.points[0] * model.noise
    level = np.eye(len(X)) - 1 / len(X)
    rest = level @ (points * rewards - X @ model.mean[0])

    def likely(precision: float) -> float:
        prior = np.eye(D) / precision + np.outer(model.mean[0], model.mean[0])
        covariance = noise**2 * np.eye(len(X)) + level @ X @ prior @ X.T @ level
        usual = np.log(precision / model.precision) / np.log(10.0)
        return float(-rest @ np.linalg.solve(covariance, rest) - np.linalg.slogdet(covariance)[1] - usual**2) / 2

    tried = model.precision * np.geomspace(0.01, 100, 41)
    found = mean_precisions(sums.at(NOW), model)
    assert found[0] == pytest.approx(tried[np.argmax([likely(one) for one in tried])])
    assert found[1:] == pytest.approx(model.precision)


@pytest.mark.parametrize("length", [1.0, 0.3])
@pytest.mark.parametrize(("off", "believed"), [(0.0, "more"), (3.0, "less")])
def test_a_prior_that_predicts_is_believed_more_and_one_that_does_not_less(
    length: float, off: float, believed: str
) -> None:
    """Whatever a point of its score is worth, from which no order follows."""
    draw = np.random.default_rng(6)
    X = draw.normal(size=(20_000, D))
    true = length * MODEL.mean[1] + off * draw.normal(size=D)
    rewards = X @ true / MODEL.points[1] + MODEL.noise * draw.normal(size=len(X))
    sums = empty()
    sums.add(np.ones(len(X), int), X, rewards, np.full(len(X), NOW), np.ones(len(X)))
    found = mean_precisions(sums.at(NOW), MODEL)[1]
    assert found > 3 * MODEL.precision if believed == "more" else found < MODEL.precision / 3
    as_given = MODEL._replace(factor=1.0)
    assert mean_precisions(sums.at(NOW), as_given) == pytest.approx(MODEL.precision)
