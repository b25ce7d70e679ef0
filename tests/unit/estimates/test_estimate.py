from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.estimates.estimate import Estimates, estimate
from recommendation_service.estimates.logged import LoggedFeeds, Modelled
from tests.unit.estimates import oracle

NAMES = ("estimate", "guardrail", "whole_feed", "single")


def random_feeds(feeds: int, slots: int, *, apart: float = 0.5, seed: int = 0, users: int | None = None) -> LoggedFeeds:
    """Of different lengths, of users with several feeds each, thinned here and there."""
    generator = np.random.default_rng(seed)
    logged = generator.uniform(0.05, 0.5, (feeds, slots))
    target = np.clip(logged * np.exp(apart * generator.standard_normal((feeds, slots))), 0.0, 1.0)
    rewards = (generator.random((feeds, slots)) < 0.3) * generator.random((feeds, slots))
    beyond = np.arange(slots) >= generator.integers(1, slots + 1, feeds)[:, np.newaxis]
    for table in (logged, target, rewards):
        table[beyond] = np.nan
    who = generator.integers(0, users or feeds, feeds)
    return LoggedFeeds(rewards, logged, target, who, generator.choice([1.0, 4.0], feeds))


@pytest.mark.parametrize("name", NAMES)
def test_estimates_and_intervals_agree_with_the_slow_and_obvious(name: str) -> None:
    feeds = random_feeds(1_000, 3, apart=0.3, users=40)
    found = getattr(estimate(feeds), name)
    assert found.difference == pytest.approx(oracle.difference(feeds, name))
    assert (found.upper - found.lower) / 2 == pytest.approx(1.959964 * oracle.standard_error(feeds, name))


def test_a_target_that_is_the_policy_that_served_differs_by_nothing() -> None:
    feeds = random_feeds(1_000, 4, apart=0.0)
    found = estimate(feeds)
    for name in NAMES:
        of_name = getattr(found, name)
        assert of_name.value == pytest.approx(found.logged)
        assert of_name[1:] == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert -0.1 < found.sequence.lower < 0.0 < found.sequence.upper < 0.1
    assert (found.support == 1.0).all()


def test_the_logged_value_is_the_mean_reward_of_a_feed() -> None:
    feeds = random_feeds(2_000, 4, apart=0.3)
    of_each = np.nansum(feeds.rewards, axis=1)
    assert estimate(feeds).logged == pytest.approx(float(np.average(of_each, weights=feeds.weights)))


def test_rewards_that_are_all_shifted_leave_the_difference_as_it_is() -> None:
    feeds = random_feeds(2_000, 4, apart=0.3)
    shifted = LoggedFeeds(feeds.rewards + 7.0, feeds.logged, feeds.target, feeds.users, feeds.weights)
    for name in NAMES:
        assert getattr(estimate(shifted), name)[1:] == pytest.approx(getattr(estimate(feeds), name)[1:])
    assert estimate(shifted).sequence == pytest.approx(estimate(feeds).sequence)


def test_a_model_that_knows_all_leaves_nothing_to_the_weights() -> None:
    feeds = random_feeds(2_000, 4, apart=0.3)
    known = Modelled(feeds.rewards, np.where(np.isnan(feeds.rewards), np.nan, 0.25))
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights, known))
    shares = [feeds.weights[~np.isnan(column)].sum() / feeds.weights.sum() for column in feeds.rewards.T]
    assert found.doubly_robust is not None
    assert found.doubly_robust.value == pytest.approx(0.25 * sum(shares))


def test_a_model_that_says_nothing_gives_the_estimate_without_one() -> None:
    feeds = random_feeds(2_000, 4, apart=0.3)
    nothing = np.where(np.isnan(feeds.rewards), np.nan, 0.0)
    found = estimate(
        LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights, Modelled(nothing, nothing))
    )
    assert found.doubly_robust == pytest.approx(found.estimate)


def figures(found: Estimates) -> list[float]:
    return [value for name in NAMES for value in getattr(found, name)]


def test_under_an_effective_sample_of_100_there_is_no_figure_but_the_reason_and_a_way_out() -> None:
    feeds = random_feeds(3_000, 6, apart=1.5)
    found = estimate(feeds)
    enough = int(np.argmax(found.ess < 100))
    assert found.refusal is not None
    assert found.refusal.startswith("Slot 6 has an effective sample size of ")
    assert found.refusal.endswith(f"The first {enough} slots alone can be weighed.")
    assert np.isnan(figures(found)).all()
    assert np.isfinite(found.sequence).all()
    assert estimate(feeds, slots=enough).refusal is None
    assert estimate(feeds, slots=enough + 1).refusal is not None


def test_under_an_effective_sample_of_300_it_warns() -> None:
    found = estimate(random_feeds(800, 2, apart=0.5))
    assert 100 < found.ess.min() < 300
    assert "Go by the guardrail and the sequence." in found.warnings[0]
    assert np.isfinite(figures(found)).all()


def test_one_choice_that_was_all_but_impossible_takes_the_support_with_it() -> None:
    feeds = random_feeds(2_000, 1, apart=0.1)
    feeds.logged[7, 0] = 1e-6
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights))
    assert found.ess[0] < 3
    assert found.refusal is not None
    assert "alone can be weighed" not in found.refusal


def test_slots_that_hardly_any_feed_has_are_left_out_and_said_so() -> None:
    feeds = random_feeds(2_000, 3, apart=0.1)
    feeds.rewards[5:, 2] = feeds.logged[5:, 2] = feeds.target[5:, 2] = np.nan
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights))
    assert found.slots == 2
    assert "Slots from 3 on are left out: less than 1 % of the feeds has them." in found.warnings


def test_support_is_where_the_target_might_have_made_the_feed() -> None:
    feeds = random_feeds(2_000, 2, apart=0.1)
    feeds.target[:500, 0] = 0.0
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights))
    gone = feeds.weights[:500].sum() / feeds.weights.sum()
    assert found.support[0] == pytest.approx(1.0 - gone)


def test_nothing_and_a_single_user_are_refused() -> None:
    none = np.zeros((0, 3))
    empty = estimate(LoggedFeeds(none, none, none, np.zeros(0, np.int64), np.zeros(0)))
    assert empty.refusal == "There is no feed to weigh."
    alone = random_feeds(500, 2, users=1)
    assert "one user" in str(estimate(alone).refusal)


def test_where_hardly_any_reward_carries_the_estimate_it_warns() -> None:
    feeds = random_feeds(2_000, 1, apart=0.1)
    feeds.rewards[:] = 0.0
    feeds.rewards[:5] = 1.0
    found = estimate(LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, feeds.users, feeds.weights))
    assert 1 < found.effective_rewards <= 5
    assert any("carry the estimate" in warning for warning in found.warnings)
