"""Bounds of the difference that hold at every moment, however often one looks and while the logging policy learns.

Of the unnormalised products, cut at a bound, with rewards shifted to 0 and above, what is cut off can only make the
target look worse (Waudby-Smith et al. 2022, "Anytime-valid off-policy inference for contextual bandits",
arXiv:2210.10768). What a feed brings in is then bounded below, and whatever is bounded below has an empirical-Bernstein
supermartingale (Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Ann. Statist.).
Its factor is fixed beforehand, a mixture of many, so that it bounds the mean of all feeds so far also where that moves.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.estimates.logged import Floats, LoggedFeeds
from recommendation_service.estimates.weights import CUT, by_slot

# Factors of the mixture, as shares of the largest that is allowed: from one for ten feeds to one for 10⁹.
_FACTORS = np.geomspace(0.5, 5e-6, 24)
_STEPS = 40  # at most, of the search for a bound; some seven are enough


class Bounds(NamedTuple):
    """Of the mean difference of a feed; infinite where nothing can be told."""

    lower: float
    upper: float


def lower_bound(gains: Floats, largest_loss: float, error: float) -> float:
    """Of the mean of the conditional expectations of ``gains`` (n,), in the order in which they came, none below
    −``largest_loss``. It is missed at any moment with a probability of ``error`` at most."""
    n = len(gains)
    if n == 0 or not largest_loss > 0 or not np.isfinite(gains).all():
        return -np.inf
    scaled = gains / largest_loss
    mean, squares = float(scaled.mean()), float(np.square(scaled).sum())
    factors = _FACTORS
    # exp(λ Σ(x − m) − ψ(λ) Σ x²), ψ(λ) = −log(1 − λ) − λ, starts at 1 and falls in expectation as long as x ≥ −1.
    spent = (-np.log1p(-factors) - factors) * squares
    wanted = np.log(len(factors) / error)
    # The mixture reaches 1/error where one of its parts alone does, at the latest. From there Newton's steps come near
    # from below, as its logarithm is convex in m: none of them passes the bound.
    low = mean - float(((wanted + spent) / (factors * n)).min())
    for _ in range(_STEPS):
        exponents = factors * n * (mean - low) - spent
        largest = exponents.max()
        parts = np.exp(exponents - largest)
        whole = parts.sum()
        step = (largest + np.log(whole) - wanted) * whole / (n * (factors @ parts))
        if not step > abs(low) * 1e-14:
            break
        low += float(step)
    return float(low * largest_loss)


class Gains:
    """What each feed brings in more under the target than was logged, at least, and what it loses less, at least."""

    def __init__(self, feeds: LoggedFeeds, slots: int, bounds: tuple[float, float] | None) -> None:
        """``bounds``: the least and the most that a slot may bring, None: that one of these slots did."""
        shown = feeds.rewards[:, :slots]
        least, most = bounds or (float(np.nanmin(shown, initial=np.inf)), float(np.nanmax(shown, initial=-np.inf)))
        weights = feeds.weights / feeds.weights.mean() if feeds.feeds else feeds.weights
        self._largest_loss = slots * (most - least) * float(weights.max(initial=0.0))
        self._of_reward, self._of_loss = np.zeros(feeds.feeds), np.zeros(feeds.feeds)
        for slot in by_slot(feeds, slots):
            more = weights[slot.rows] * (np.minimum(slot.products, CUT) - 1.0)
            self._of_reward[slot.rows] += more * (slot.rewards - least)
            self._of_loss[slot.rows] += more * (most - slot.rewards)

    def bounds(self, confidence: float, first: int | None = None) -> Bounds:
        """Of all feeds, or of the first so many. Each side is missed half as often as both."""
        error = (1.0 - confidence) / 2
        return Bounds(
            lower_bound(self._of_reward[:first], self._largest_loss, error),
            -lower_bound(self._of_loss[:first], self._largest_loss, error),
        )
