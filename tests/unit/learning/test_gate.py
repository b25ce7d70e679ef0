"""When the gate looks, what it says, and how far a step may go."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np
import pytest

from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.learning.gate import Rules, due, error_of, judge, looks
from recommendation_service.learning.steps import Offered, Way, expected_support, next_step
from recommendation_service.learning.weighed import WeighedFeeds, mixed
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.evidence import Look
from recommendation_service.policies.policy import Learned, Policy, load_policy
from tests.support.policies import FEATURES, policy_file

RULES = Rules(4_000, 0.99, 0.0)
NOW = datetime(2026, 11, 1, tzinfo=UTC)
CHOICES = 5
POINTS = np.full(len(KINDS), 10.0)


def simulated(gain: float, feeds: int, seed: int, slots: int = 4, users: int = 400, tilt: float = 0.35) -> LoggedFeeds:
    """Of a policy that draws items evenly, and a target that draws the better ones oftener; ``gain``: what the best
    brings more than the worst, whatever slot it is in."""
    draw = np.random.default_rng(seed)
    target = np.exp(tilt * np.linspace(-1, 1, CHOICES))
    target /= target.sum()
    chosen = draw.integers(CHOICES, size=(feeds, slots))
    chance = 0.15 + gain * np.linspace(-0.5, 0.5, CHOICES)
    rewards = (draw.random((feeds, slots)) < chance[chosen]).astype(float)
    persons = draw.integers(users, size=feeds)
    return LoggedFeeds(rewards, np.full((feeds, slots), 1 / CHOICES), target[chosen], persons, np.ones(feeds))


def partly_live(gain: float, feeds: int, seed: int, share: float, slots: int = 24, tilt: float = 1.5) -> WeighedFeeds:
    """As ``simulated``, where the target makes that share of the feeds itself."""
    draw = np.random.default_rng(seed)
    target = np.exp(tilt * np.linspace(-1, 1, CHOICES))
    target /= target.sum()
    live = draw.random(feeds) < share
    by_target = draw.choice(CHOICES, p=target, size=(feeds, slots))
    chosen = np.where(live[:, np.newaxis], by_target, draw.integers(CHOICES, size=(feeds, slots)))
    chance = 0.15 + gain * np.linspace(-0.5, 0.5, CHOICES)
    rewards = (draw.random((feeds, slots)) < chance[chosen]).astype(float)
    logged = np.full((feeds, slots), 1 / CHOICES)
    return mixed(rewards, logged, target[chosen], draw.integers(400, size=feeds), live)


def look_at(feeds: LoggedFeeds | WeighedFeeds, rules: Rules = RULES) -> Look:
    weighed = feeds if isinstance(feeds, WeighedFeeds) else WeighedFeeds(feeds, 0.0)
    return judge(weighed, weighed.logged.feeds, rules, "serves", NOW, "the gate")


@pytest.mark.parametrize("most", [500, 4_000, 50_000, 777])
def test_all_looks_together_err_as_often_as_is_allowed(most: int) -> None:
    rules = RULES._replace(most_feeds=most)
    planned = looks(most)
    assert planned[-1] == most
    assert planned[0] >= 500
    draw = np.random.default_rng(1)
    steps = np.diff(planned, prepend=0)
    found = np.zeros(200_000, bool)
    at = np.zeros(len(found))
    for look, step in zip(planned, steps, strict=True):
        at += draw.normal(scale=step**0.5, size=len(found))
        error = error_of(look, rules)
        assert error >= 0.01 * step / most - 1e-9, "what adding up would leave, at least"
        found |= at / look**0.5 > NormalDist().inv_cdf(1 - error)
    assert found.mean() == pytest.approx(0.01, rel=0.1)


def test_a_look_is_due_once_and_those_that_were_missed_are_left_out() -> None:
    assert looks(4_000) == [500, 1_000, 2_000, 4_000]
    assert due(499, 0, 4_000) is None
    assert due(500, 0, 4_000) == 500
    assert due(999, 500, 4_000) is None
    assert due(9_999, 500, 4_000) == 4_000
    assert due(9_999, 4_000, 4_000) is None


def test_a_better_policy_is_found_and_a_worse_one_never_is() -> None:
    assert [look_at(simulated(0.25, 4_000, seed)).verdict for seed in range(10)] == ["better"] * 10
    assert [look_at(simulated(-0.25, 4_000, seed)).verdict for seed in range(10)] == ["worse"] * 10


def test_one_that_is_no_better_is_found_to_be_as_seldom_as_is_said() -> None:
    """Of 200 runs 10 are expected, and more than 22 are one chance in some thousand."""
    rules = RULES._replace(most_feeds=500, confidence=0.95)
    found = [look_at(simulated(0.0, 500, seed), rules).verdict for seed in range(200)]
    assert found.count("better") <= 22


def test_a_loss_that_is_tolerated_is_enough_where_nothing_is_gained() -> None:
    same = simulated(0.0, 4_000, 1, tilt=0.05)
    assert look_at(same).verdict == "open"
    assert look_at(same, RULES._replace(tolerated_loss=0.1)).verdict == "better"
    assert look_at(simulated(-0.5, 4_000, 1), RULES._replace(tolerated_loss=0.01)).verdict == "worse"


def test_too_little_support_is_refused_and_too_few_people_are_not_enough() -> None:
    far = look_at(simulated(0.25, 4_000, 1, slots=24, tilt=1.5))
    assert far.verdict == "refused"
    assert "effective sample size" in far.words
    assert far.difference is None
    few = look_at(simulated(0.5, 4_000, 1, users=20))
    assert (few.verdict, few.words[:14]) == ("open", "Too few people")
    thin = look_at(simulated(0.5, 1_000, 1, slots=8, tilt=0.7))
    assert 100 < thin.effective_sample_size < 300
    assert thin.verdict == "open"


def test_what_is_too_far_away_for_a_shadow_is_told_from_feeds_that_it_makes_itself() -> None:
    """The same policies: from the log alone they are refused."""
    better, worse = (partly_live(gain, 4_000, 1, 0.2) for gain in (0.1, -0.1))
    weights = better.logged.target.prod(axis=1) / better.logged.logged.prod(axis=1)
    assert weights.max() <= 1 / better.live_share + 1e-6
    assert weights.mean() == pytest.approx(1.0, abs=0.1)
    found = look_at(better)
    shares = np.exp(1.5 * np.linspace(-1, 1, CHOICES))
    more = 24 * 0.1 * float(shares @ np.linspace(-0.5, 0.5, CHOICES)) / float(shares.sum())
    assert found.verdict == "better"
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < more < found.upper, "beside what serves, not beside what was shown"
    assert found.logged == pytest.approx(24 * 0.15, rel=0.03), "of what serves alone"
    assert found.effective_sample_size > 0.9 * 0.2 * 4_000
    assert look_at(worse).verdict == "worse"


def test_a_far_one_that_is_as_good_is_promoted_as_seldom_as_is_said() -> None:
    rules = RULES._replace(most_feeds=2_000, confidence=0.9)
    found = [look_at(partly_live(0.0, 2_000, seed, 0.3, slots=6), rules).verdict for seed in range(100)]
    assert found.count("better") <= 12, "of 100 runs 5 are expected at the last look"


def test_where_nobody_does_anything_nothing_is_better() -> None:
    feeds = simulated(0.0, 4_000, 1)
    nothing = LoggedFeeds(np.zeros_like(feeds.rewards), feeds.logged, feeds.target, feeds.users, feeds.weights)
    assert look_at(nothing).verdict == "open"
    assert look_at(nothing, RULES._replace(tolerated_loss=0.1)).verdict == "open"


# Steps.


def feeds_of(slots: int, seed: int = 1) -> list[list[tuple[int, np.ndarray]]]:  # type: ignore[type-arg]
    draw = np.random.default_rng(seed)
    return [[(k % 3, draw.normal(0.3, 0.3, (30, FEATURES))) for k in range(slots)] for _ in range(30)]


SERVES = Policy(policy_file())


def support_of(other: Policy, feeds: list[list[tuple[int, np.ndarray]]]) -> float:  # type: ignore[type-arg]
    offered = Offered(feeds)
    return expected_support(offered.probabilities(SERVES), other, offered)


def far_away() -> Learned:
    theta = SERVES.arrays.theta + np.random.default_rng(2).normal(0, 1.5, SERVES.arrays.theta.shape)
    A = np.broadcast_to(np.eye(FEATURES) * 50.0, (len(KINDS), FEATURES, FEATURES)).copy()
    return Learned(theta, A, SERVES.arrays.temperature * 0.8)


def test_a_step_is_as_long_as_its_support_allows_and_shorter_where_feeds_are_longer() -> None:
    shares = []
    for slots in (2, 8, 24):
        step = next_step(SERVES, far_away(), Offered(feeds_of(slots)), 0.3, POINTS)
        assert 0 < step.share < 1
        assert step.support == pytest.approx(0.3, abs=0.02)
        found = support_of(Policy(SERVES.file, *step.learned), feeds_of(slots))
        assert found == pytest.approx(step.support)
        shares.append(step.share)
    assert shares == sorted(shares, reverse=True)


def test_what_is_near_is_reached_in_one_step_and_several_reach_what_is_far() -> None:
    learned, feeds = far_away(), Offered(feeds_of(4))
    serves, steps = SERVES, 0
    while (step := next_step(serves, learned, feeds, 0.3, POINTS)).share < 1:
        assert step.support >= 0.3
        serves, steps = Policy(SERVES.file, *step.learned), steps + 1
        assert steps < 50
    assert step.learned is learned
    assert steps > 1
    assert next_step(serves, learned, Offered([]), 0.3, POINTS).learned is learned


def test_what_makes_feeds_itself_goes_all_of_the_way_where_these_tell_more() -> None:
    """Far more is gained there, and a tenth of the feeds is enough to see it."""
    learned, feeds = far_away(), Offered(feeds_of(24))
    whole = next_step(SERVES, learned, feeds, 0.3, POINTS, 0.1)
    assert (whole.share, whole.learned) == (1.0, learned)
    assert whole.support == pytest.approx(0.1, abs=0.02)
    part = next_step(SERVES, learned, feeds, 0.3, POINTS)
    assert part.share < 1
    assert whole.gain > part.gain > 0
    assert whole.power > part.power


def test_the_way_goes_from_what_serves_to_what_was_learned() -> None:
    learned = far_away()
    way = Way(SERVES, learned)
    begin, end = way.policy(0.0), way.policy(1.0)
    for one, other in ((begin, SERVES), (end, Policy(SERVES.file, *learned))):
        for name in ("theta", "precision_root", "temperature"):
            assert getattr(one.arrays, name) == pytest.approx(getattr(other.arrays, name), abs=1e-9)
    without = Learned(learned.theta, learned.A)
    assert Way(SERVES, without).policy(1.0).arrays.temperature == pytest.approx(load_policy().arrays.temperature)
    half = Way(SERVES, learned)
    for name in ("theta", "precision_root", "temperature"):
        one, other = half.policy(0.5).arrays, Policy(SERVES.file, *half.at(0.5)).arrays
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name


def test_the_support_that_is_expected_is_what_feeds_have() -> None:
    """Of draws from what serves, with slots that do not depend on each other."""
    other, draw = Way(SERVES, far_away()).policy(0.05), np.random.default_rng(3)
    feeds = feeds_of(3)
    weights = []
    for _ in range(200):
        for feed in feeds:
            weight = 1.0
            for pool, X in feed:
                p, q = (drawn_with(policy, pool, X) for policy in (SERVES, other))
                chosen = draw.choice(len(p), p=p)
                weight *= q[chosen] / p[chosen]
            weights.append(weight)
    found = np.sum(weights) ** 2 / np.sum(np.square(weights)) / len(weights)
    assert support_of(other, feeds) == pytest.approx(found, rel=0.1)


def drawn_with(policy: Policy, pool: int, X: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    arrays = policy.arrays
    scores = X @ arrays.theta[pool] + arrays.alpha[pool] * np.linalg.norm(X @ arrays.precision_root[pool], axis=1)
    weights = np.exp((scores - scores.max()) / arrays.temperature[pool])
    return np.asarray((1 - arrays.floor) * weights / weights.sum() + arrays.floor / len(X))
