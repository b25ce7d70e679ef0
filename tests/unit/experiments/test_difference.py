"""The difference of two arms: its interval holds at every look, and what people did before makes it narrower."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.experiments.difference import (
    FEWEST_PEOPLE,
    Difference,
    People,
    anytime_radius,
    difference,
)

RUNS = 60
REWARD = 0.2  # of a feed, on average over people


class Audience:
    """People of different tastes and habits, who come again and again, in two arms."""

    def __init__(self, draw: np.random.Generator, people: int, share: float, effect: float) -> None:
        self._draw = draw
        self.taste, self.rate = draw.gamma(0.5, REWARD / 0.5, people), draw.gamma(1.0, 1.0, people) + 0.05
        self.in_arm = draw.random(people) < share
        self._brings = self.taste * (1 + effect * self.in_arm)
        self._arrives = draw.integers(0, 20, people)
        self.earlier = draw.poisson(10 * self.rate).astype(float)
        self.earlier_rewards = draw.poisson(self.taste * self.earlier).astype(float)
        self._feeds, self._rewards = np.zeros(people), np.zeros(people)

    def live(self, moment: int, *, knows_before: bool = True) -> tuple[People, People]:
        feeds = self._draw.poisson(self.rate * (self._arrives <= moment))
        self._feeds += feeds
        self._rewards += self._draw.poisson(self._brings * feeds)
        came, known = self._feeds > 0, float(knows_before)
        control, arm = (
            People(
                *(of[who] for of in (self._feeds, self._rewards, known * self.earlier, known * self.earlier_rewards))
            )
            for who in (came & ~self.in_arm, came & self.in_arm)
        )
        return control, arm


@pytest.mark.parametrize(("share", "effect", "people"), [(0.5, 0.0, 600), (0.5, 0.3, 600), (0.1, 0.0, 3_000)])
def test_the_interval_holds_at_every_look(share: float, effect: float, people: int) -> None:
    draw, missed, looks = np.random.default_rng(7), 0, 0
    for _ in range(RUNS):
        audience = Audience(draw, people, share, effect)
        found = [one for moment in range(40) if (one := difference(*audience.live(moment))) is not None]
        missed += any(not one.lower <= effect * REWARD <= one.upper for one in found)
        looks += len(found)
    assert missed <= 0.05 * RUNS
    assert looks > 20 * RUNS


def test_what_is_taken_for_feeds_that_were_drawn_one_by_one_is_wrong_far_more_often() -> None:
    """So people are what is compared: the test before would fail otherwise."""
    draw, missed = np.random.default_rng(7), 0
    for _ in range(RUNS):
        audience = Audience(draw, 600, 0.5, 0.0)
        for moment in range(40):
            pair = audience.live(moment)
        naive = sum(people.reward / people.feeds.sum() for people in pair)  # the rewards are Poisson's
        missed += abs(pair[1].reward - pair[0].reward) > 1.96 * naive**0.5
    assert missed > 0.3 * RUNS


def last(draw: np.random.Generator, *, knows_before: bool) -> Difference:
    audience = Audience(draw, 2_000, 0.5, 0.2)
    for moment in range(25):
        found = difference(*audience.live(moment, knows_before=knows_before))
    assert found is not None
    return found


def test_what_people_did_before_makes_it_narrower_and_moves_it_nowhere_on_average() -> None:
    plain, adjusted = (
        [last(np.random.default_rng(seed), knows_before=knows) for seed in range(12)] for knows in (False, True)
    )
    assert {one.explained for one in plain} == {0.0}
    assert min(one.explained for one in adjusted) > 0.5
    widths = [np.mean([one.upper - one.lower for one in some]) for some in (plain, adjusted)]
    assert widths[1] < 0.7 * widths[0]
    assert np.mean([one.value for one in adjusted]) == pytest.approx(0.2 * REWARD, abs=0.01)
    assert np.std([one.value for one in adjusted]) < 0.7 * np.std([one.value for one in plain])


def test_of_few_people_or_without_any_reward_nothing_is_said() -> None:
    n = FEWEST_PEOPLE
    nothing = np.zeros(n)
    feeds, rewards = np.ones(n), np.arange(n) % 2.0
    people = People(feeds, rewards, nothing, nothing)
    assert difference(people, People(*(of[1:] for of in people))) is None
    assert difference(People(feeds, nothing, nothing, nothing), People(feeds, nothing, nothing, nothing)) is None
    found = difference(people, people)
    assert found is not None
    assert found.value == 0
    assert found.lower == -found.upper < 0


def test_the_radius_is_that_of_the_normal_mixture() -> None:
    """Where it ends, the mixture's likelihood ratio is 1/α."""
    variance, scale, error = 0.04, 0.3, 0.05
    z = anytime_radius(variance, scale, error)
    effects = np.linspace(-4, 4, 80_001)
    prior = np.exp(-(effects**2) / (2 * scale**2)) / (scale * np.sqrt(2 * np.pi))
    ratio = np.exp((z * effects - effects**2 / 2) / variance)
    assert np.trapezoid(prior * ratio, effects) == pytest.approx(1 / error, rel=1e-6)
