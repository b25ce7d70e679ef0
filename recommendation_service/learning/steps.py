"""Steps that can be weighed: how far towards what was learned a candidate may go from the policy that serves.

Weights of feeds are products over their slots, so that their effective sample size falls steeply with a feed's length
and with how far apart two policies are. A candidate beyond that would stay in shadow for ever; so what is far away is
reached by several promoted steps. How large one may be follows from what the latest decisions could have held: with p
what serves and q what is weighed, a slot's mean square weight is Σ q²/p, and a feed's the product over its slots.

Where a candidate makes a share s of the feeds itself, no weight is above 1/s, and all of the way can be weighed: at
worst as by s of the feeds. A step that is short is told from more feeds, and has less to tell. Of the two that is tried
whose gain is the larger beside its noise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.variety import scores_of
from recommendation_service.policies.policy import Learned, Policy

Floats = npt.NDArray[np.float64]
Feed = Sequence[tuple[int, Floats]]  # of each slot that was drawn from a pool: whose, and (m, d) what it could hold

# A candidate that has no verdict yet gives way to one from which so many times as much is expected.
MUCH_BETTER = 1.5
HALVINGS = 12  # of the search for a step's size


class Step(NamedTuple):
    learned: Learned
    share: float  # of the way, 1: all of it
    support: float  # effective sample size that is expected, as a share of the feeds
    gain: float  # of a feed, in rewards, that is expected

    @property
    def power(self) -> float:
        """Its gain beside its noise, which is as the spread of the weights: their mean square is 1/support."""
        return float(self.gain / np.sqrt(max(1.0 / self.support - 1.0, 1e-9)))


def next_step(
    serves: Policy,
    learned: Learned,
    feeds: Sequence[Feed],
    least_support: float,
    points: Floats,
    live_share: float = 0.0,
) -> Step:
    """The longest whose expected support is enough; or all of the way, where the candidate makes ``live_share`` of the
    feeds itself and they tell more of that. Where no decisions were recorded, all of the way: the evidence will tell,
    or refuse to. ``points`` (K,): of the score, that a reward of 1 is worth."""

    served = probabilities(serves, feeds)

    def at(share: float) -> Step:
        one = learned if share == 1.0 else towards(serves, learned, share)
        return Step(one, share, expected_support(served, Policy(serves.file, *one), feeds), 0.0)

    def told(step: Step) -> Step:
        """Far away a feed counts for nothing or 1/live_share, and near by all count alike."""
        gain = expected_gain(serves, Policy(serves.file, *step.learned), feeds, learned.theta, points)
        return step._replace(support=live_share + (1.0 - live_share) * step.support, gain=gain)

    whole = at(1.0)
    if whole.support >= least_support:
        return told(whole)
    low, high, found = 0.0, 1.0, whole
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        step = at(middle)
        if step.support >= least_support:
            low, found = middle, step
        else:
            high = middle
    part = told(found if low > 0.0 else at(high))
    return max(part, told(whole), key=lambda step: step.power) if live_share > 0.0 else part


def towards(serves: Policy, learned: Learned, share: float) -> Learned:
    """A policy on the way: the mean and its precision go straight, the temperature by equal factors."""
    arrays = serves.arrays
    A = np.linalg.inv(arrays.precision_root @ arrays.precision_root.transpose(0, 2, 1))
    A = (A + A.transpose(0, 2, 1)) / 2
    wanted = Policy(serves.file, *learned).arrays.temperature
    return Learned(
        arrays.theta + share * (learned.theta - arrays.theta),
        A + share * (learned.A - A),
        arrays.temperature * (wanted / arrays.temperature) ** share,
    )


def expected_support(served: Sequence[Sequence[Floats]], other: Policy, feeds: Sequence[Feed]) -> float:
    """Share of the feeds that their effective sample size will be, of the slot where it is least. Slots that feeds
    are seldom long enough for have no say, as in the estimates. ``served``: ``probabilities`` of what serves."""
    longest = max(map(len, feeds), default=0)
    squares = np.full((len(feeds), longest), np.nan)
    for row, feed in enumerate(feeds):
        product = 1.0
        for place, (pool, X) in enumerate(feed):
            weighed = _probabilities(other, pool, X)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                squared = np.where(weighed > 0, weighed**2 / served[row][place], 0.0)
                product = min(product * float(np.sum(squared)), 1e100)
            squares[row, place] = product
    has = [column[~np.isnan(column)] for column in squares.T]
    means = [float(column.mean()) for column in has if len(column) >= 0.1 * len(feeds)]
    return 1.0 / max(means, default=1.0)


def expected_gain(serves: Policy, other: Policy, feeds: Sequence[Feed], theta: Floats, points: Floats) -> float:
    """What a feed of another policy brings more than one of what serves, in rewards, if ``theta`` (K, d) is right;
    ``points`` (K,): of the score, that a reward of 1 is worth."""
    total = 0.0
    for feed in feeds:
        for pool, X in feed:
            more = _probabilities(other, pool, X) - _probabilities(serves, pool, X)
            total += float(more @ (X @ theta[pool])) / points[pool]
    return total / max(1, len(feeds))


def probabilities(policy: Policy, feeds: Sequence[Feed]) -> list[list[Floats]]:
    """Of each feed and slot, (m,) of what it could hold."""
    return [[_probabilities(policy, pool, X) for pool, X in feed] for feed in feeds]


def _probabilities(policy: Policy, pool: int, X: Floats) -> Floats:
    arrays, scores = policy.arrays, scores_of(policy, pool, X)
    weights = np.exp((scores - scores.max()) / arrays.temperature[pool])
    return np.asarray((1.0 - arrays.floor) * weights / weights.sum() + arrays.floor / len(X))
