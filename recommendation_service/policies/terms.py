"""What the terms of the hand-set sums come to for items: when a catalog is built, and when a slot is explained."""

import numpy as np

from recommendation_service.model.columns import Float64
from recommendation_service.model.features import TRENDING
from recommendation_service.policies.format import Kind, PolicyFile


def static_terms(X: Float64, age_days: Float64, policy: PolicyFile) -> dict[str, Float64]:
    """The terms of the hand-set sums that do not depend on the user, each (n,)."""
    terms = policy.terms
    return {
        "engagement": X[:, 0],
        "recency": np.exp(-age_days / policy.features.recency_days),
        "quality": X[:, 2],
        "popularity": X[:, 3],
        "attribute_count": X[:, 4],
        "rarity": X[:, 11],
        "fresh": (age_days <= terms.fresh_days).astype(np.float64),
        "boost": np.where(age_days <= terms.boost_days, terms.boost, 1.0),
        "days_left": terms.days_left_of - age_days,
        # Of a record by an earlier policy nothing is known of it.
        "trending": X[:, TRENDING] if policy.collaborative and X.shape[1] > TRENDING else np.zeros(len(X)),
        "share_left": np.maximum(0.0, terms.share_left_of - age_days) / terms.share_left_of,
    }


def static_hand_sum(terms: dict[str, Float64], kind: Kind) -> Float64:
    """The part of a kind's hand-set sum that does not depend on the user: (n,)."""
    total = np.zeros(len(terms["recency"]))
    for term, weight in kind.weights.items():
        if term in terms:
            total += weight * terms[term]
    return total
