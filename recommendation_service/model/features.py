"""Names of what a candidate is scored by: the features, and the terms of the hand-set sums."""

FEATURES = 18
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
)
USER_TERMS = ("similarity", "match", "network")
