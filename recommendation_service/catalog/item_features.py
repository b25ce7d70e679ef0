"""The features and hand-set terms of an item alone: computed once, when a catalog is built.

Kept apart from the kernels, so that the process that builds catalogs need not load a compiler.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Float64
from recommendation_service.policies.format import PolicyFile


class ItemStatistics(NamedTuple):
    """What the catalog knows of n items; all (n,) float64. Items without terms have zeros but for their age."""

    age_days: Float64
    views: Float64
    average: Float64  # of the ratings, 0 to 5; 0 without ratings
    ratings: Float64
    matches: Float64
    saves: Float64
    exhibitions: Float64
    attribute_count: Float64  # skills + knowledges + tools
    rarity: Float64  # mean of 1/(uses of the skill + 1); 0 without skills


def item_features(items: ItemStatistics, policy: PolicyFile) -> Float64:
    """Features of the item alone: (n, d); places 5–8, 13 and 17 stay 0 until a user asks, and of those that the policy
    adds it is the item's part. The collaborative ones are left to who knows what people did."""
    c = policy.features
    log_views, log_matches = np.log1p(items.views), np.log1p(items.matches)
    X = np.zeros((len(items.age_days), len(policy.feature_names)))
    X[:, 0] = (
        c.engagement_views * _scaled(log_views)
        + c.engagement_rating * items.average / c.rating_scale
        + c.engagement_matches * _scaled(log_matches)
    )
    X[:, 1] = np.exp(-items.age_days / c.recency_days) * np.where(
        items.age_days <= c.recency_boost_days, c.recency_boost, 1.0
    )
    X[:, 2] = (
        c.quality_average * items.average * items.ratings / (items.ratings + c.quality_prior_ratings)
        + c.quality_matches * log_matches
    )
    X[:, 3] = c.popularity_views * log_views + c.popularity_average * items.average + c.popularity_matches * log_matches
    X[:, 4] = items.attribute_count / c.attribute_count_scale
    X[:, 9] = log_views / c.views_scale
    X[:, 10] = items.average / c.rating_scale
    X[:, 11] = items.rarity
    X[:, 12] = (
        (items.average >= c.gate_average)
        | (items.views >= c.gate_views)
        | (items.matches >= c.gate_matches)
        | (items.ratings >= c.gate_ratings)
        | (items.age_days < c.gate_age_days)
    )
    X[:, 14] = items.ratings / (items.ratings.max(initial=0.0) + 1.0)
    X[:, 15] = items.saves / (items.saves.max(initial=0.0) + 1.0)
    X[:, 16] = items.exhibitions / (items.exhibitions.max(initial=0.0) + 1.0)
    for place, added in enumerate(policy.added_features, X.shape[1] - len(policy.added_features)):
        X[:, place] = getattr(items, added.column) / added.scale
    return X


def _scaled(values: Float64) -> Float64:
    """0 to 1 over the catalog: each value over the largest."""
    largest = values.max(initial=0.0)
    return values / largest if largest > 0 else values
