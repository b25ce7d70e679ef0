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

from recommendation_service.learning.variety import Slots, scores_of
from recommendation_service.policies.policy import Learned, Policy

Floats = npt.NDArray[np.float64]
Feed = Sequence[tuple[int, Floats]]  # of each slot that was drawn from a pool: whose, and (m, d) what it could hold

# A candidate that has no verdict yet gives way to one from which so many times as much is expected: each has to be
# loaded by all workers.
BETTER_BY = 1.05
HALVINGS = 12  # of the search for a step's size


class Offered:
    """What the slots of so many feeds could hold: of each kind all of its slots at once."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = len(feeds)
        self._longest = max(map(len, feeds), default=0)
        slots = [(pool, row, place, X) for row, feed in enumerate(feeds) for place, (pool, X) in enumerate(feed)]
        self._of_kind = []  # kind, where its slots are, how large, and what they could hold
        for kind in sorted({pool for pool, *_ in slots}):
            own = [each for each in slots if each[0] == kind]
            rows, places = (np.array([each[part] for each in own]) for part in (1, 2))
            sizes, X = Slots([len(each[3]) for each in own]), np.concatenate([each[3] for each in own])
            self._of_kind.append((kind, (rows, places), sizes, X))

    def probabilities(self, policy: Policy) -> list[Floats]:
        """By kind, of all that its slots could hold."""
        arrays, found = policy.arrays, []
        for kind, _, slots, X in self._of_kind:
            drawn = slots.drawn(scores_of(policy, kind, X), float(arrays.temperature[kind]))
            found.append((1.0 - arrays.floor) * drawn + np.repeat(arrays.floor / slots.sizes, slots.sizes))
        return found

    def by_slot(self, values: Sequence[Floats]) -> Floats:
        """(feeds, slots of the longest) sums of ``values``, by kind as ``probabilities`` has them; NaN: there is no
        such slot."""
        found = np.full((self.feeds, self._longest), np.nan)
        for (_, where, slots, _), of in zip(self._of_kind, values, strict=True):
            found[where] = slots.sums(of)
        return found

    def worths(self, theta: Floats, points: Floats) -> list[Floats]:
        """As ``probabilities``, in rewards, if ``theta`` (K, d) is right."""
        return [X @ theta[kind] / points[kind] for kind, _, _, X in self._of_kind]


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
    offered: Offered,
    least_support: float,
    points: Floats,
    live_share: float = 0.0,
) -> Step:
    """The longest whose expected support is enough; or all of the way, where the candidate makes ``live_share`` of the
    feeds itself and they tell more of that. Where no decisions were recorded, all of the way: the evidence will tell,
    or refuse to. ``points`` (K,): of the score, that a reward of 1 is worth."""

    served, way = offered.probabilities(serves), Way(serves, learned)

    def at(share: float) -> Step:
        return Step(way.at(share), share, expected_support(served, way.policy(share), offered), 0.0)

    def told(step: Step) -> Step:
        """Far away a feed counts for nothing or 1/live_share, and near by all count alike."""
        gain = expected_gain(serves, way.policy(step.share), offered, learned.theta, points)
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


class Way:
    """From what serves to what was learned: the mean and its precision go straight, the temperature by equal
    factors."""

    def __init__(self, serves: Policy, learned: Learned) -> None:
        root = serves.arrays.precision_root
        A = np.linalg.inv(root @ root.transpose(0, 2, 1))
        self._serves, self._learned = serves, learned
        self._A = (A + A.transpose(0, 2, 1)) / 2
        self._end = Policy(serves.file, *learned)

    def at(self, share: float) -> Learned:
        """``share``: of the way; at 1 what was learned itself."""
        if share == 1.0:
            return self._learned
        begins, ends, learned = self._serves.arrays, self._end.arrays, self._learned
        return Learned(
            begins.theta + share * (learned.theta - begins.theta),
            self._A + share * (learned.A - self._A),
            begins.temperature * (ends.temperature / begins.temperature) ** share,
        )

    def policy(self, share: float) -> Policy:
        return self._end if share == 1.0 else self._serves.relearned(self.at(share))


def expected_support(served: Sequence[Floats], other: Policy, offered: Offered) -> float:
    """Share of the feeds that their effective sample size will be, of the slot where it is least. Slots that feeds
    are seldom long enough for have no say, as in the estimates. ``served``: the probabilities of what serves."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        pairs = zip(offered.probabilities(other), served, strict=True)
        squared = offered.by_slot([np.where(weighed > 0, weighed**2 / of, 0.0) for weighed, of in pairs])
        products = np.minimum(np.cumprod(squared, axis=1), 1e100)
    has = [column[~np.isnan(column)] for column in products.T]
    means = [float(column.mean()) for column in has if len(column) >= 0.1 * offered.feeds]
    return 1.0 / max(means, default=1.0)


def expected_gain(serves: Policy, other: Policy, offered: Offered, theta: Floats, points: Floats) -> float:
    """What a feed of another policy brings more than one of what serves, in rewards, if ``theta`` (K, d) is right;
    ``points`` (K,): of the score, that a reward of 1 is worth."""
    both = (offered.probabilities(policy) for policy in (other, serves))
    gains = zip(*both, offered.worths(theta, points), strict=True)
    return float(sum((more - less) @ worth for more, less, worth in gains)) / max(1, offered.feeds)
