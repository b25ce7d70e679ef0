"""Intervals of 95 % by a bootstrap over users: what one user did hangs together, so users are drawn and not events.

The same draws serve all methods, so that the difference of two is an interval of its own, narrower than theirs.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse

from recommendation_service.evaluation.interaction_log import Float64, Int64

DRAWS = 1_000
_LOW, _HIGH = 2.5, 97.5
_WIDTH = 1.96
_AT_ONCE = 50  # draws, whose counts of all items are in memory together


class Estimate(NamedTuple):
    value: float  # nan where nothing can be told
    low: float
    high: float


class Bootstrap:
    """Draws of all users who were asked for."""

    def __init__(self, users: Int64, seed: int) -> None:
        self._users = np.unique(users)
        n = len(self._users)
        self._draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), DRAWS).astype(np.float64)

    def means(self, user: Int64, values: Float64) -> Float64:
        """(1 + DRAWS,) the mean itself, and that of each draw. ``user``, ``values``: (n,), nan is left out."""
        known = ~np.isnan(values)
        place = np.searchsorted(self._users, user[known])
        sums = np.bincount(place, weights=values[known], minlength=len(self._users))
        counts = np.bincount(place, minlength=len(self._users)).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.concatenate([[sums.sum() / counts.sum()], (self._draws @ sums) / (self._draws @ counts)])

    def of_lists(
        self, user: Int64, shown: Int64, items: int, statistics: Mapping[str, Callable[[Float64], Float64]]
    ) -> dict[str, Float64]:
        """(1 + DRAWS,) each: statistics of how often each item was shown, in all and in each draw.

        ``shown``: (n, k), -1 is none. A statistic is of (d, items), and gives (d,).
        """
        rows = np.repeat(np.searchsorted(self._users, user), shown.shape[1])[shown.ravel() >= 0]
        columns = shown.ravel()[shown.ravel() >= 0]
        by_user = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(self._users), items))
        parts = [by_user.sum(axis=0), *(draws @ by_user for draws in np.array_split(self._draws, DRAWS // _AT_ONCE))]
        return {
            name: np.concatenate([statistic(np.asarray(part)) for part in parts])
            for name, statistic in statistics.items()
        }


def percentiles(replicates: Float64) -> Estimate:
    """Of a mean: between what 2.5 % and 97.5 % of the draws give."""
    with np.errstate(invalid="ignore"):
        drawn = replicates[1:][~np.isnan(replicates[1:])]
    if np.isnan(replicates[0]) or not len(drawn):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [_LOW, _HIGH])
    return Estimate(float(replicates[0]), float(low), float(high))


def spread(replicates: Float64) -> Estimate:
    """Of what fewer different users make smaller, as coverage: around the value, as wide as the draws scatter."""
    value, width = float(replicates[0]), _WIDTH * float(replicates[1:].std())
    return Estimate(value, max(0.0, value - width), min(1.0, value + width))
