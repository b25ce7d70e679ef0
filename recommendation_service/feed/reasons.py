"""Which sentences are true of an item in its slot: how it came there, what speaks for it, which rules gave way.

What speaks for an item is what its estimate is made of: of the hand-set score its terms, and of each other feature its
value times what was learned for it. The largest come first. A sentence says no more than its feature does.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from recommendation_service.feed.sentences import Sentence, Value, say
from recommendation_service.model.features import HAND_SET
from recommendation_service.model.kinds import PINNED
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.seen import SEEN_POOL
from recommendation_service.ranking.slate import EXPLORATION

MOST_REASONS = 3
# Of what speaks for an item, less than this share is no reason.
LEAST_SHARE = 0.05
# What was learned, and the doubt, are named from this share of the estimate on.
NOTABLE_SHARE = 0.1
# Values of a record are rounded to a few parts in 10⁵.
CLOSE = 1e-3

# The sentence that a term of the hand-set sums, or a feature, leads to. The quality gate and the person's reach are the
# same for most; the hand-set score is its terms.
_SENTENCE_OF = {
    "similarity": "skills_close",
    "skill_similarity": "skills_close",
    "match": "shared_attributes",
    "attribute_match": "shared_attributes",
    "network": "network",
    "creator_in_network": "network",
    "same_city": "same_city",
    "collaborative": "taken_after",
    "trending": "trending",
    "engagement": "watched_and_rated",
    "popularity": "watched_and_rated",
    "views": "watched_and_rated",
    "quality": "watched_and_rated",
    "average_rating": "watched_and_rated",
    "recency": "new",
    "fresh": "new",
    "boost": "new",
    "days_left": "new",
    "share_left": "new",
    "rarity": "rare_skills",
    "skill_rarity": "rare_skills",
    "attribute_count": "much_told",
}
_SILENT = {"quality_gate", "reach", "hand_set_score"}


def came_by(language: str, slot: str, pool: str, place: int, propensity: float) -> Sentence:
    """``slot``, ``pool``: names of kinds; ``place``: the pool's number, or EXPLORATION, SEEN_POOL, PINNED."""
    if place == EXPLORATION:
        return say(language, "explored", count=max(1, round(1.0 / propensity)) if propensity > 0 else 1)
    if place == PINNED:
        return say(language, "pinned")
    if place == SEEN_POOL:
        return say(language, "seen_again")
    if slot == pool:
        return say(language, "drawn", slot=slot, propensity=propensity)
    return say(language, "drawn_elsewhere", slot=slot, pool=pool, propensity=propensity)


def gave_way(language: str, relaxed: list[str]) -> list[Sentence]:
    return [say(language, f"relaxed_{rule}") for rule in relaxed if rule != "seen"]  # which its pool says


def speaks_for(
    language: str,
    policy: Policy,
    features: Mapping[str, float],
    contributions: Mapping[str, float],
    terms: Mapping[str, float],
    age_days: float | None,
) -> list[Sentence]:
    """``contributions``: of each feature to the estimate; ``terms``: of the hand-set sum, each weight × value."""
    scale = contributions.get("hand_set_score", 0.0)
    total = sum(terms.values())
    amounts: dict[str, float] = defaultdict(float)
    for name, amount in contributions.items():
        if name not in _SILENT:
            amounts[name] += amount
    for name, amount in terms.items():
        amounts[name] += amount * scale / total if total else 0.0
    least = LEAST_SHARE * sum(amount for amount in amounts.values() if amount > 0)
    by_sentence: dict[tuple[str, str], float] = defaultdict(float)
    for name, amount in amounts.items():
        code = _SENTENCE_OF.get(name, "speaks_for")
        by_sentence[code, name if code == "speaks_for" else ""] += amount
    reasons: list[Sentence] = []
    for (code, name), amount in sorted(by_sentence.items(), key=lambda one: -one[1]):
        if amount <= least or len(reasons) == MOST_REASONS:
            break
        said = _true_of(code, name, policy, features, age_days)
        if said is not None:
            reasons.append(say(language, said[0], **said[1]))
    return reasons


def _true_of(
    code: str, name: str, policy: Policy, features: Mapping[str, float], age_days: float | None
) -> tuple[str, dict[str, Value]] | None:
    """The sentence that the features bear out, and its values; None: none does."""
    if code == "speaks_for":
        return code, {"feature": name.replace("_", " ")}
    if code == "watched_and_rated":
        return _watched_and_rated(features)
    if code == "new":
        return _new(policy, age_days)
    similarity = features.get("skill_similarity", 0.0)
    if code == "skills_close":
        constants = policy.file.features
        # What stands there where the person, or the item, has no skills.
        without = (constants.similarity_without_history, constants.similarity_without_skills)
        is_constant = any(abs(similarity - one) < CLOSE for one in without)
        return None if is_constant or similarity <= 0 else (code, {"similarity": similarity})
    values: dict[str, dict[str, Value]] = {
        "shared_attributes": {"match": features.get("attribute_match", 0.0)},
        "trending": {"trending": features.get("trending", 0.0)},
    }
    return code, values.get(code, {})


def _watched_and_rated(features: Mapping[str, float]) -> tuple[str, dict[str, Value]] | None:
    views = round(math.expm1(min(50.0, 10.0 * features.get("views", 0.0))))
    average = 5.0 * features.get("average_rating", 0.0)
    if views > 0 and average > 0:
        return "watched_and_rated", {"views": views, "average": average}
    if views > 0:
        return "watched", {"views": views}
    if average > 0:
        return "rated", {"average": average}
    return ("matched", {}) if features.get("quality", 0.0) > 0 else None


def _new(policy: Policy, age_days: float | None) -> tuple[str, dict[str, Value]] | None:
    if age_days is None or age_days > policy.file.terms.fresh_days:
        return None
    days = math.floor(max(0.0, age_days))
    return ("new", {"days": days}) if days else ("new_today", {})


def learned(language: str, policy: Policy, x: np.ndarray, expected: float) -> list[Sentence]:
    """What was learned moves the estimate away from the prior mean, which is of the hand-set score alone."""
    amount = expected - policy.file.prior.hand_feature_mean * float(x[HAND_SET])
    if abs(amount) < NOTABLE_SHARE * abs(expected):
        return []
    code = "learned_for" if amount > 0 else "learned_against"
    return [say(language, code, amount=amount, expected=expected)]


def doubted(language: str, bonus: float, score: float) -> list[Sentence]:
    """The doubt brings an item forward, where it is much of the score (Li et al. 2010)."""
    if bonus <= 0 or bonus < NOTABLE_SHARE * abs(score):
        return []
    return [say(language, "uncertain", bonus=bonus, score=score)]
