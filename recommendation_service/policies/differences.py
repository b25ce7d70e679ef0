"""What one policy has learned beside another, in words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from recommendation_service.policies.policy import Policy

# Smaller moves of a weight are none to a reader.
LEAST = 0.005


class Value(NamedTuple):
    """Of the policy file."""

    name: str
    before: object
    after: object


class Move(NamedTuple):
    """A weight of a kind that another policy has otherwise."""

    kind: str
    feature: str
    before: float
    after: float

    @property
    def by(self) -> float:
        return self.after - self.before

    def __str__(self) -> str:
        return f"{self.kind} {self.feature} {self.by:+.2f}"


def moves(before: Policy, after: Policy) -> list[Move]:
    """The largest first."""
    names = max((before.file.kind_names, after.file.kind_names), key=len)
    found = [
        Move(kind, feature, _weight(before, k, feature), _weight(after, k, feature))
        for k, kind in enumerate(names)
        for feature in dict.fromkeys((*before.feature_names, *after.feature_names))
    ]
    return sorted((move for move in found if abs(move.by) >= LEAST), key=lambda move: -abs(move.by))


def _weight(policy: Policy, kind: int, feature: str) -> float:
    """0 of a kind or a feature that the policy has not."""
    names, theta = policy.feature_names, policy.arrays.theta
    return float(theta[kind, names.index(feature)]) if feature in names and kind < len(theta) else 0.0


def in_words(found: Sequence[Move], most: int) -> str:
    """The largest moves in one line."""
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return (", ".join(map(str, found[:most])) or "no weight moved") + more


def changed_values(before: Policy, after: Policy) -> list[Value]:
    """Of the policy files, in their order, and the temperatures that were learned; None: the other has it not."""
    one, other = _values(before), _values(after)
    names = [*one, *(name for name in other if name not in one)]
    return [
        Value(name, one.get(name), other.get(name))
        for name in names
        if name != "version" and one.get(name) != other.get(name)
    ]


def _values(policy: Policy) -> dict[str, Any]:
    values = _flat(policy.file.model_dump())
    for kind, temperature in zip(policy.file.kind_names, policy.arrays.temperature.tolist(), strict=True):
        if kind in policy.file.kinds:
            values[f"kinds.{kind}.temperature"] = round(temperature, 6)
    return values


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
