"""Importance weights of a feed that was drawn slot by slot: products of the ratios of conditional propensities.

A choice changes what may follow it, so what a slot brought is weighed by all choices up to it (RIPS: McInerney et al.
2020, "Counterfactual evaluation of slate recommendations with sequential reward interactions", KDD).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recommendation_service.estimates.logged import Floats, Integers, LoggedFeeds

# Of the products, for the guardrail and the sequence.
CUT = 10.0


class Slot(NamedTuple):
    """One place of the feeds that have it: m of them."""

    place: int
    rows: Integers  # (m,) which feeds
    base: Floats  # (m,) how many feeds each stands for
    rewards: Floats  # (m,)
    ratios: Floats  # (m,) of the slot alone
    products: Floats  # (m,) of all ratios up to it


def by_slot(feeds: LoggedFeeds, slots: int) -> Iterator[Slot]:
    """The first so many, in their order. A slot at a time, so that a million feeds need no further table."""
    products = np.ones(feeds.feeds)
    for place in range(slots):
        rewards = feeds.rewards[:, place].astype(np.float64)
        rows = np.flatnonzero(~np.isnan(rewards))
        # Of a place that all feeds have, as most are, nothing is looked up by row.
        some = slice(None) if len(rows) == feeds.feeds else rows
        with np.errstate(over="ignore"):
            ratios = feeds.target[some, place].astype(np.float64) / feeds.logged[some, place]
            # As large as that is as useless as infinite, and squares of it are still numbers.
            now = np.minimum(products[some] * ratios, 1e100)
        products[some] = now
        yield Slot(place, rows, feeds.weights[some], rewards[some], ratios, now)


def whole_feed_weights(feeds: LoggedFeeds, slots: int) -> Floats:
    """(n,) the product over all slots of each feed."""
    found = np.ones(feeds.feeds)
    for slot in by_slot(feeds, slots):
        found[slot.rows] = slot.products
    return found


def effective_sample_size(weights: Floats) -> float:
    """Kish's: of how many feeds with even weights a mean would be about as exact."""
    largest = weights.max(initial=0.0)
    if largest <= 0.0:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / np.square(scaled).sum())
