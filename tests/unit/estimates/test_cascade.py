from __future__ import annotations

import numpy as np

from recommendation_service.estimates.cascade import Draws, model_rewards
from recommendation_service.estimates.estimate import estimate
from recommendation_service.estimates.logged import LoggedFeeds


def linear_world(feeds: int, seed: int) -> tuple[LoggedFeeds, Draws]:
    """One slot, four items with a feature each; rewards follow the features, with little noise. Logged evenly."""
    generator = np.random.default_rng(seed)
    X = np.eye(4, dtype=np.float32)
    target = np.array([0.55, 0.25, 0.15, 0.05])
    chosen = generator.integers(0, 4, feeds)
    rewards = (0.1 + 0.2 * chosen + 0.05 * generator.standard_normal(feeds))[:, np.newaxis]
    draws = Draws(feeds, 1, 4)
    for feed, item in enumerate(chosen.tolist()):
        draws.note(feed, 0, 0, X[item], target @ X)
    logged = np.full((feeds, 1), 0.25)
    return LoggedFeeds(
        rewards, logged, target[chosen][:, np.newaxis], np.arange(feeds, dtype=np.int64), np.ones(feeds)
    ), draws


def test_a_model_that_fits_takes_most_of_the_noise_out() -> None:
    feeds, draws = linear_world(4_000, seed=1)
    modelled = model_rewards(feeds.rewards, feeds.users, draws)
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights, modelled))
    assert found.doubly_robust is not None
    truth = 0.1 + 0.2 * (0.25 + 2 * 0.15 + 3 * 0.05)
    assert abs(found.doubly_robust.value - truth) < 0.01
    assert abs(modelled.chosen - feeds.rewards).mean() < 0.06


def test_a_user_s_own_rewards_do_not_shape_what_is_expected_of_them() -> None:
    feeds, draws = linear_world(400, seed=2)
    before = model_rewards(feeds.rewards, feeds.users, draws)
    others = feeds.rewards.copy()
    others[::2] += 5.0  # of every second user, who are one half
    after = model_rewards(others, feeds.users, draws)
    np.testing.assert_array_equal(before.chosen[::2], after.chosen[::2])
    assert (before.chosen[1::2] != after.chosen[1::2]).all()


def test_what_is_drawn_without_scores_has_the_mean() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, np.nan]])
    modelled = model_rewards(rewards, np.array([1, 2]), Draws(2, 2, 3))
    assert modelled.chosen[0].tolist() == [0.0, 0.0]
    assert modelled.expected[1, 0] == 0.5
    assert np.isnan(modelled.chosen[1, 1])
