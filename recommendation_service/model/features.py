"""Names of what a candidate is scored by: the features, and the terms of the hand-set sums.

A policy has these 18 features; then, where it has a section for what people take together, two of that; and after them
those that its file adds: what the catalog knows of an item, as it is or times a term of the user.
"""

FEATURES = 18  # that every policy has
HAND_SET = 17  # the one that is each kind's own
MOST_FEATURES = 32
FEATURE_NAMES = (
    "engagement",
    "recency",
    "quality",
    "popularity",
    "attribute_count",
    "skill_similarity",
    "attribute_match",
    "same_city",
    "creator_in_network",
    "views",
    "average_rating",
    "skill_rarity",
    "quality_gate",
    "reach",
    "ratings",
    "saves",
    "exhibitions",
    "hand_set_score",
)

COLLABORATIVE, TRENDING = 18, 19  # of a policy that has the section
COLLABORATIVE_NAMES = ("collaborative", "trending")

# Terms of a kind's hand-set sum that do not depend on the user, and those that do.
STATIC_TERMS = (
    "engagement",
    "recency",
    "quality",
    "popularity",
    "attribute_count",
    "rarity",
    "fresh",
    "boost",
    "days_left",
    "share_left",
    "trending",
)
USER_TERMS = ("similarity", "match", "network", "collaborative")


def names_of(count: int, names: tuple[str, ...] = FEATURE_NAMES) -> list[str]:
    """Of so many features: as ``names`` has them, and what is beyond by its place."""
    return [*names[:count], *(f"feature_{place}" for place in range(len(names), count))]
