"""What people do as a habit is noise that can be taken out, and takes nothing of the difference with it."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.estimates.estimate import estimate
from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.estimates.people import without_habits


def logged(habits: float, seed: int = 0, feeds: int = 4_000) -> LoggedFeeds:
    """Of people of whom each does more or less of everything; the target draws the second of two items more often."""
    draw = np.random.default_rng(seed)
    users = draw.integers(100, size=feeds)
    level = np.exp(habits * draw.normal(size=100))[users]
    second = draw.random((feeds, 6)) < 0.5
    rewards = 0.2 * level[:, np.newaxis] * (1.0 + 0.3 * second) * draw.exponential(size=(feeds, 6))
    target = np.where(second, 0.65, 0.35)
    return LoggedFeeds(rewards, np.full((feeds, 6), 0.5), target, users, np.ones(feeds))


def test_an_interval_is_narrower_where_people_differ_and_about_the_same_where_they_do_not() -> None:
    for habits, least, most in ((1.0, 0.4, 0.85), (0.0, 0.97, 1.03)):
        feeds = logged(habits)
        plain, adjusted = estimate(feeds), estimate(without_habits(feeds))
        assert least < (adjusted.upper - adjusted.lower) / (plain.upper - plain.lower) < most


def test_the_difference_stays_what_it_is_and_intervals_hold_it() -> None:
    """6 slots of 0.2, of which 0.15 is drawn oftener by the target and brings 0.3 more; people's mean is e^(1/2)."""
    true = 6 * 0.2 * 0.15 * 0.3 * float(np.exp(0.5))
    found = [estimate(without_habits(logged(1.0, seed, 2_000))) for seed in range(40)]
    assert np.mean([one.difference for one in found]) == pytest.approx(true, rel=0.15)
    assert sum(one.lower < true < one.upper for one in found) >= 34


def satisfying(seed: int, people: int = 300, feeds: int = 3) -> LoggedFeeds:
    """Of people of whom some do much. Of two items one is worth as much as the other; after the second the person's
    next feed brings less, as what it would have shown was shown. The target draws the second."""
    draw = np.random.default_rng(seed)
    second = draw.random((people, feeds)) < 0.5
    before = np.concatenate([np.zeros((people, 1), bool), second[:, :-1]], axis=1)
    rewards = 3.0 * draw.exponential(size=(people, 1)) * np.where(before, 0.4, 1.0) + draw.normal(size=(people, feeds))
    target = np.where(second, 0.9, 0.1).reshape(-1, 1)
    users = np.repeat(np.arange(people), feeds)
    order = np.arange(people * feeds).reshape(people, feeds).T.ravel()  # everybody's first feeds, then the second ones
    logged = np.full((people * feeds, 1), 0.5)
    return LoggedFeeds(rewards.reshape(-1, 1)[order], logged, target[order], users[order], np.ones(people * feeds))


def test_what_a_feed_does_to_later_ones_is_no_gain_of_its_own() -> None:
    found = [estimate(without_habits(satisfying(seed))) for seed in range(60)]
    assert sum(one.lower > 0 for one in found) <= 5
    assert abs(float(np.mean([one.difference for one in found]))) < 0.1


def test_nothing_is_taken_from_one_persons_feeds_or_from_none() -> None:
    feeds = logged(0.0, feeds=50)
    alone = LoggedFeeds(feeds.rewards, feeds.logged, feeds.target, np.arange(50), feeds.weights)
    assert without_habits(alone) is alone
    nobody = LoggedFeeds(*(np.empty((0, 3)) for _ in range(3)), np.empty(0, np.int64), np.empty(0))
    assert without_habits(nobody) is nobody
    assert nobody.brought == 0.0
