"""How much more one arm's feeds brought than another's, with an interval that holds however often one looks.

The reward of a feed is a ratio of two sums over people, and people are what was drawn: the variance is that of people's
residuals, whatever of theirs goes together (Deng, Knoblich, Lu 2018, "Applying the delta method in metric analytics").

What people did before the experiment says a part of what they do in it, and has nothing to do with their arm. That part
is taken out: CUPED (Deng, Xu, Kohavi, Walker 2013, "Improving the sensitivity of online controlled experiments by
utilizing pre-experiment data"), with the reward of earlier shown items, a ratio, too.

The interval is that of a test by a normal mixture (Robbins 1970; Johari, Koomen, Pekelis, Walsh 2017, "Peeking at A/B
tests"; Waudby-Smith et al. 2021, "Time-uniform central limit theory and asymptotic confidence sequences"): asymptotic,
so there is none before enough people came.
"""

from math import log, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# People of an arm, before whom there is no interval, and of whom something earlier has to be known to adjust by it.
FEWEST_PEOPLE = 100
# The mixture expects effects of such a part of a feed's reward: for these the interval is narrowest. It holds for all.
EXPECTED_EFFECT = 0.1


class People(NamedTuple):
    """Of an arm's n people."""

    feeds: Floats  # (n,) that were made for each
    rewards: Floats  # (n,) of these, together
    earlier_slots: Floats  # (n,) seen before the experiment; 0: nothing is known of that
    earlier_rewards: Floats  # (n,) of these, together

    @property
    def reward(self) -> float:
        """Of a feed."""
        return float(self.rewards.sum() / self.feeds.sum())


class Difference(NamedTuple):
    """Of the reward of a feed."""

    value: float
    lower: float
    upper: float
    explained: float  # which share of the variance earlier behaviour took out; 0: there was not enough of it


def difference(control: People, arm: People, error: float = 0.05) -> Difference | None:
    """``arm`` less ``control``. None: too few came.

    The interval ever misses it with a probability of ``error`` at most.
    """
    both = control, arm
    if min(len(people.feeds) for people in both) < FEWEST_PEOPLE:
        return None
    scale = EXPECTED_EFFECT * sum(np.abs(p.rewards).sum() for p in both) / sum(p.feeds.sum() for p in both)
    residuals = [_influence(people.rewards, people.feeds) for people in both]
    value, plain = arm.reward - control.reward, sum(map(_variance, residuals))
    if not scale > 0 or not plain > 0:
        return None
    variance = plain
    if min(np.count_nonzero(people.earlier_slots) for people in both) >= FEWEST_PEOPLE:
        earlier = [_influence(people.earlier_rewards, people.earlier_slots) for people in both]
        spread = sum(map(_variance, earlier))
        if spread > 0:
            # θ = cov(Y, X) / var(X), of the differences.
            together = sum(
                float((one * other).sum()) * _unbiased(len(one)) for one, other in zip(residuals, earlier, strict=True)
            )
            theta = together / spread
            of_control, of_arm = (float(each.earlier_rewards.sum() / each.earlier_slots.sum()) for each in both)
            gap = of_arm - of_control
            value -= theta * gap
            variance = sum(_variance(one - theta * other) for one, other in zip(residuals, earlier, strict=True))
    radius = anytime_radius(variance, scale, error)
    return Difference(value, value - radius, value + radius, max(0.0, 1 - variance / plain))


def anytime_radius(variance: float, scale: float, error: float) -> float:
    """Of an estimate with that variance, mixed over effects N(0, ``scale``²): V(V + s²)/s² · log((V + s²)/(V α²))."""
    wider = variance + scale**2
    return sqrt(variance * wider / scale**2 * log(wider / (variance * error**2)))


def _influence(amounts: Floats, counts: Floats) -> Floats:
    """(n,) of each person's part in the error of Σ amounts / Σ counts."""
    total = counts.sum()
    return np.asarray((amounts - amounts.sum() / total * counts) / total)


def _variance(influence: Floats) -> float:
    return float(np.square(influence).sum()) * _unbiased(len(influence))


def _unbiased(n: int) -> float:
    return n / (n - 1)
