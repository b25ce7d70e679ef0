"""The policy that a mapping begins with: its kinds and feeds, over the constants of the policy that ships.

Later versions live in the store, as those of any policy do.
"""

import json
import tomllib
from typing import Any

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.model.kinds import KINDS, MOST_KINDS
from recommendation_service.policies.format import PolicyFile
from recommendation_service.policies.policy import SHIPPED, Policy
from recommendation_service.sources.mapping.format import Kind
from recommendation_service.sources.mapping.mapping import Mapping

# What a weight of 1 comes to, of which ten are one in natural logarithms of the chance that an item is taken: as
# popularity is, so that its sum with the others is a product of chances, and a temperature a share of one. The build
# measures how much lists and closeness tell beside popularity (catalog/measuring.py), and scales what it gives
# accordingly.
SIGNALS = {
    "popularity": {"popularity": 10.0},
    "closeness": {"similarity": 2.0, "match": 1.0},
    "together": {"collaborative": 30.0},
    "friends": {"network": 10.0},
    "newness": {"recency": 2.0},
}
# What docs/quality.md says they cost is what they may: 3 % of what popularity finds for people without a past.
POOL, ALPHA, TEMPERATURE, FLOOR = 120, 0.0, 0.02, 0.01
LEAST_INTERACTIONS = 20  # from so many on it is looked at what people take together
NO_LIMIT = 2**31 - 1
MEASURING = {
    "windows": [0.4, 0.5, 0.6, 0.7, 0.8],
    "window": 0.2,
    "half_lives_days": [0.5, 1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0, 36500.0],
    "plain_half_lives_days": [14.0, 36500.0],
    "untold_half_life_days": 60.0,
    "evergreen": [0.3, 0.6],
    "together": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    "closeness": [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0],
    "untold_weights": [0.3, 0.5],
    "weights_cut": 0.85,
    "profile": [0.125, 0.25, 0.5, 1.0, 2.0, 4.0],
    "untold_profile": 0.25,
    "profile_cut": 0.7,
    "least_people": 30,
}
CREATOR_WINDOW, CREATORS_EACH = 4, 12.0  # where no feed asks for a window
# Of a shared term, by the kind of its vocabulary, where the vocabulary's weight is 1.
MATCH_OF_A_TERM = ("match_skill", "match_knowledge", "match_tool", "match_language")
MATCH = 15.0


def starting_policy(mapping: Mapping) -> Policy:
    """Raises as ``starting_content``."""
    return Policy(PolicyFile.model_validate(starting_content(mapping)))


def starting_file(mapping: Mapping) -> bytes:
    """The same as a policy file. Raises as ``starting_content``."""
    return toml_of(starting_content(mapping)).encode()


def toml_of(content: dict[str, Any], name: str = "") -> str:
    """What `tomllib` reads as the same again. What TOML writes of a value, JSON does as well."""
    own = {key: value for key, value in content.items() if not isinstance(value, dict)}
    inner = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"[{name}]\n"] if name and (own or not inner) else []
    lines += [f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in own.items()]
    dotted = f"{name}." if name else ""
    return "".join([*lines, *(toml_of(value, f"{dotted}{json.dumps(key)}") for key, value in inner.items())])


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(one)}" for key, one in value.items()) + "}"
    return f"[{', '.join(map(_toml_value, value))}]" if isinstance(value, list) else json.dumps(value)


def starting_content(mapping: Mapping) -> dict[str, Any]:
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
        name: _kind(name, kind, len(KINDS) + place, mapping) for place, (name, kind) in enumerate(mapping.kinds.items())
    }
    content["feeds"] = {name: list(feed.pattern) for name, feed in mapping.feeds.items()}
    content["collaborative"]["least_interactions"] = LEAST_INTERACTIONS
    content["exploration"]["floor"] = FLOOR
    content["features"] |= _features(mapping)
    content["limits"] |= _limits(mapping)
    is_asked = any(feed.limits.creator_window is not None for feed in mapping.feeds.values())
    content["measuring"] = MEASURING | ({} if is_asked else {"creators_each": CREATORS_EACH})
    return content


def _kind(name: str, kind: Kind, number: int, mapping: Mapping) -> dict[str, Any]:
    types = list(mapping.content.items)
    weights: dict[str, float] = {}
    for signal, weight in kind.weights.items():
        for term, scale in SIGNALS[signal].items():
            weights[term] = weight * scale
    if "similarity" in weights:  # it is of the first vocabulary's terms alone
        weights["similarity"] *= next(iter(_vocabulary_weights(mapping)), 1.0)
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


def _vocabulary_weights(mapping: Mapping) -> list[float]:
    """Of vocabularies and numbers, in the order of the kinds of their terms."""
    content = mapping.content
    vocabularies = [one.weight for one in content.vocabularies.values()]
    return vocabularies + [one.weight for one in content.numbers.values()]


def _features(mapping: Mapping) -> dict[str, float]:
    """What a shared term counts by its kind, of which the last is that of all further vocabularies: there the heaviest
    counts, and the weights decide which terms an item has. And of who has no terms the similarity says nothing."""
    weights, last = _vocabulary_weights(mapping), len(MATCH_OF_A_TERM) - 1
    counts = [*weights[:last], max(weights[last:], default=0.0)]
    matches = dict(zip(MATCH_OF_A_TERM, [MATCH * count for count in counts], strict=False))
    return matches | {"similarity_without_history": 0.0, "similarity_without_skills": 0.0}


def _limits(mapping: Mapping) -> dict[str, int]:
    """One for all feeds: the strictest that any of them asks for."""
    asked = [feed.limits for feed in mapping.feeds.values()]
    windows = [limits.creator_window for limits in asked if limits.creator_window is not None]
    novelty = [limits.novelty_after_terms for limits in asked if limits.novelty_after_terms is not None]
    return {
        "creator_window": max(windows, default=CREATOR_WINDOW),
        "novelty_after_skills": min(novelty, default=NO_LIMIT),
    }
