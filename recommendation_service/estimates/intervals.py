"""Self-normalised means and their difference to what was logged, with intervals clustered by user.

An interval comes from the jackknife over users (Tukey 1958; of clusters: Cameron and Miller 2015): all is estimated
once without each of them. Where weights are heavy in their tail it is wider than what linearising gives, and covers
better.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.logged import Floats, Integers


class Estimate(NamedTuple):
    """Of a feed's reward; nan where nothing can be told."""

    value: float
    difference: float  # to what was logged
    lower: float  # bounds of the difference
    upper: float


NOTHING = Estimate(np.nan, np.nan, np.nan, np.nan)


class Mean(NamedTuple):
    value: float
    without: Floats  # (users,) the same without each of them


class Users:
    """Whose feeds they are: ``of`` (n,) numbers them from 0."""

    def __init__(self, users: Integers) -> None:
        names, of = np.unique(users, return_inverse=True)
        self.count = len(names)
        self._of = of.astype(np.int32)

    def of(self, rows: Integers) -> npt.NDArray[np.int32]:
        """(m,) the numbers of those whose feeds these are."""
        return self._of if len(rows) == len(self._of) else self._of[rows]

    def mean(self, of: npt.NDArray[np.int32], weights: Floats, values: Floats) -> Mean:
        """Self-normalised: the weights' own sum stands below, so that rewards that are shifted give what is shifted."""
        above = np.bincount(of, weights * values, self.count)
        below = np.bincount(of, weights, self.count)
        sum_above, sum_below = above.sum(), below.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            return Mean(float(sum_above / sum_below), (sum_above - above) / (sum_below - below))


class Sum:
    """Over slots, of one estimate and of what was logged."""

    def __init__(self, users: Users) -> None:
        self._value = 0.0
        self._difference = 0.0
        self._without = np.zeros(users.count)

    def add(self, share: float, mean: Mean, logged: Mean) -> None:
        """``share``: of the feeds, that have the slot."""
        self._value += share * mean.value
        self._difference += share * (mean.value - logged.value)
        self._without += share * (mean.without - logged.without)

    def estimate(self, confidence: float) -> Estimate:
        users, without = len(self._without), self._without
        if users < 2 or not np.isfinite(self._difference) or not np.isfinite(without).all():
            return NOTHING
        error = float(np.sqrt((users - 1) / users * np.square(without - without.mean()).sum()))
        width = NormalDist().inv_cdf((1 + confidence) / 2) * error
        return Estimate(self._value, self._difference, self._difference - width, self._difference + width)
