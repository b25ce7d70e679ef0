"""The sums that a kind's model follows from, discounted by the time of each observation itself.

An observation of time t weighs 2^((t - T)/h) at time T, h being the half-life: γ^(T - t). The sums are kept at a whole
number of half-lives since 1970, their epoch. To move them to another epoch is to multiply by a power of two, which
rounds nothing, and an observation has the same significant digits in whatever epoch it is added. So sums of any number
of learners, in any order and with any delay, add up to those of one. (To discount them event by event would count the
same observation twice as heavily with the learner that has fewer.)
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.exact import add_exactly

Floats = npt.NDArray[np.float64]

_LEVEL, _REWARD = "", "reward"  # of z, beside the features
BESIDE = 2  # how many these are
CHUNK = 128  # rows that are added up by one product; so few that its rounding stays below that of a number


class Sums:
    """Of K kinds: Σ γ^(T-t) z zᵀ with z = (x, 1, r), of d features, an intercept and the reward.

    ``total`` + ``low`` (K, d + 2, d + 2): the sums at ``epoch``, ``low`` being what ``total`` has no digits for.
    """

    def __init__(self, kinds: Sequence[str], features: Sequence[str], half_life_seconds: float) -> None:
        self.kinds = tuple(kinds)
        self.features = tuple(features)
        self.half_life_seconds = half_life_seconds
        self.epoch = 0
        size = len(self.features) + BESIDE
        self.total = np.zeros((len(self.kinds), size, size))
        self.low = np.zeros_like(self.total)

    def add(self, kinds: npt.NDArray[np.integer], X: Floats, rewards: Floats, times: Floats, signs: Floats) -> None:
        """n observations: ``X`` (n, d), ``times`` (n,) seconds since 1970; ``signs`` (n,): 1, or -1 to take one back.

        Where n is 0 nothing happens.
        """
        if len(times) == 0:
            return
        halves = times / self.half_life_seconds
        epochs = np.floor(halves)
        self.advance(int(epochs.max()))
        weights = signs * np.ldexp(np.exp2(halves - epochs), (epochs - self.epoch).astype(np.int64))
        Z = np.column_stack((X, np.ones(len(X)), rewards))
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            for start in range(0, len(rows), CHUNK):
                some = rows[start : start + CHUNK]
                z = Z[some]
                product = (z * weights[some, None]).T @ z
                add_exactly(self.total[kind], self.low[kind], (product + product.T) / 2)

    def merge(self, others: Self) -> None:
        """Add another learner's. Raises ValueError where they are of other kinds, features or another half-life."""
        mine = (self.kinds, self.features, self.half_life_seconds)
        if mine != (others.kinds, others.features, others.half_life_seconds):
            raise ValueError("sums of other kinds, features or of another half-life cannot be merged")
        self.advance(others.epoch)
        behind = others.epoch - self.epoch
        add_exactly(self.total, self.low, np.ldexp(others.total, behind))
        self.low += np.ldexp(others.low, behind)

    def advance(self, epoch: int) -> None:
        """To a later epoch; to an earlier one nothing happens."""
        if epoch > self.epoch:
            for array in (self.total, self.low):
                np.ldexp(array, self.epoch - epoch, out=array)
            self.epoch = epoch

    def at(self, seconds: float) -> Floats:
        """(K, d + 2, d + 2) as they are at a time since 1970."""
        halves = seconds / self.half_life_seconds
        behind = max(-1e6, min(1e6, self.epoch - halves))  # what is further is 0 anyway
        whole = np.floor(behind)
        return np.asarray(np.ldexp((self.total + self.low) * np.exp2(behind - whole), int(whole)))

    def take(self, earlier: Self, now: float) -> None:
        """Take over, into empty sums, those of fewer kinds or features, or of another half-life.

        What was added since was never seen, so its sums are 0. Under another half-life all is discounted by the one
        before until ``now``, seconds since 1970. Raises ValueError where kinds or features are gone.
        """
        gone = [name for name in (*earlier.kinds, *earlier.features) if name not in (*self.kinds, *self.features)]
        if gone:
            raise ValueError(f"it was learned with {', '.join(gone)}, which this release does not have")
        names = (*self.features, _LEVEL, _REWARD)
        places = [names.index(name) for name in (*earlier.features, _LEVEL, _REWARD)]
        kinds = [self.kinds.index(name) for name in earlier.kinds]
        if earlier.half_life_seconds == self.half_life_seconds:
            self.epoch, total, low = earlier.epoch, earlier.total, earlier.low
        else:
            halves = now / self.half_life_seconds
            self.epoch = int(np.floor(halves))
            total = earlier.at(now) * np.exp2(halves - self.epoch)
            low = np.zeros_like(total)
        self.total[np.ix_(kinds, places, places)] = total
        self.low[np.ix_(kinds, places, places)] = low
