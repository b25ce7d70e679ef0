"""The policy that a mapping begins with: its kinds and feeds, over the constants of the policy that ships.

Later versions live in the store, as those of any policy do.
"""

import tomllib
from typing import Any

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.model.kinds import KINDS, MOST_KINDS
from recommendation_service.policies.format import PolicyFile
from recommendation_service.policies.policy import SHIPPED, Policy
from recommendation_service.sources.mapping.format import Kind
from recommendation_service.sources.mapping.mapping import Mapping

# What a weight of 1 comes to: each signal's terms of the hand-set sum; the strongest signal adds a few.
SIGNALS = {
    "popularity": {"trending": 8.0},
    "closeness": {"similarity": 3.5, "match": 2.0},
    "together": {"collaborative": 500.0},
    "friends": {"network": 2.0},
    "newness": {"recency": 2.0},
}
POOL, ALPHA, TEMPERATURE = 200, 0.5, 0.2
LEAST_INTERACTIONS = 20  # from so many on it is looked at what people take together, and what is taken lately
CREATOR_WINDOW = 4
NO_LIMIT = 2**31 - 1


def starting_policy(mapping: Mapping) -> Policy:
    """Raises ConfigurationError with everything of the mapping's kinds and feeds that no policy can do."""
    problems = []
    if len(mapping.kinds) > MOST_KINDS - len(KINDS):
        problems.append(f"{mapping.path}: there are {len(mapping.kinds)} kinds; at most {MOST_KINDS - len(KINDS)} fit")
    types = list(mapping.content.items)
    for name, kind in mapping.kinds.items():
        if kind.items is not None and len(kind.items) > 1 and set(kind.items) != set(types):
            problems.append(f"{mapping.path}, kinds.{name}: items must be one type, or all: {', '.join(types)}")
        if kind.max_age_days is not None and kind.weights.get("together"):
            problems.append(f"{mapping.path}, kinds.{name}: a kind with together can have no max_age_days")
        if name in KINDS:
            problems.append(f"{mapping.path}, kinds.{name}: the name is taken; name it otherwise")
    if problems:
        raise ConfigurationError(problems)
    content: dict[str, Any] = tomllib.loads(SHIPPED.read_text("utf-8"))
    content["version"] = "mapping-1"
    content["kinds"] = {
        name: _kind(name, kind, len(KINDS) + place, types) for place, (name, kind) in enumerate(mapping.kinds.items())
    }
    content["feeds"] = {name: list(feed.pattern) for name, feed in mapping.feeds.items()}
    content["collaborative"]["least_interactions"] = LEAST_INTERACTIONS
    content["limits"] = content["limits"] | _limits(mapping)
    return Policy(PolicyFile.model_validate(content))


def _kind(name: str, kind: Kind, number: int, types: list[str]) -> dict[str, Any]:
    weights: dict[str, float] = {}
    for signal, weight in kind.weights.items():
        for term, scale in SIGNALS[signal].items():
            weights[term] = weight * scale
    found: dict[str, Any] = {
        "number": number,
        "label": name,
        "pool": POOL,
        "alpha": ALPHA,
        "temperature": TEMPERATURE,
        "weights": weights,
    }
    if kind.items is not None and len(kind.items) == 1 and len(types) > 1:
        found["item"] = kind.items[0]
    if kind.max_age_days is not None:
        found["max_age_days"] = kind.max_age_days
    return found


def _limits(mapping: Mapping) -> dict[str, int]:
    """One for all feeds: the strictest that any of them asks for."""
    asked = [feed.limits for feed in mapping.feeds.values()]
    windows = [limits.creator_window for limits in asked if limits.creator_window is not None]
    novelty = [limits.novelty_after_terms for limits in asked if limits.novelty_after_terms is not None]
    return {
        "creator_window": max(windows, default=CREATOR_WINDOW),
        "novelty_after_skills": min(novelty, default=NO_LIMIT),
    }
