"""A decision as a line that Vowpal Wabbit reads as it is meant: keys in the order that it needs, floats, no nulls.

Single slots: ``_label*`` before ``c``, else it loses the reward without a word. CCB: ``_outcomes`` behind ``c``, else
it refuses each line. Slates: it stops reading at a null or a negative whole number among features, without a word. The
order of features within ``c`` is free.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from recommendation_service.dsjson.decision import Decision, Features, Form, Slot

_encode = msgspec.json.Encoder().encode


def line_of(decision: Decision) -> bytes:
    """Without its end of line."""
    write = {Form.SINGLE: _single, Form.CCB: _ccb, Form.SLATES: _slates}[decision.form]
    return _encode(write(decision) | ({"pdrop": decision.dropped} if decision.dropped > 0 else {}))


def _single(decision: Decision) -> dict[str, Any]:
    (slot,), (reward,) = decision.slots, decision.rewards
    others = [action for action in slot.free if action != slot.shown]
    return {
        "_label_cost": _cost(reward),
        "_label_probability": slot.propensity,
        "_label_Action": slot.shown + 1,
        "_labelIndex": slot.shown,
        **_head(decision),
        "a": [action + 1 for action in slot.ranking or [slot.shown, *others]],
        "c": _context(decision),
        **({"p": _propensities(slot)} if slot.propensities else {}),
    }


def _ccb(decision: Decision) -> dict[str, Any]:
    outcomes = [
        {"_label_cost": _cost(reward), **_choice(slot)}
        for slot, reward in zip(decision.slots, decision.rewards, strict=True)
    ]
    return {**_head(decision), "c": _context(decision), "_outcomes": outcomes}


def _slates(decision: Decision) -> dict[str, Any]:
    outcomes = [_choice(slot) for slot in decision.slots]
    return {
        "_label_cost": _cost(decision.rewards[0]),
        **_head(decision),
        "c": _context(decision),
        "_outcomes": outcomes,
    }


def _choice(slot: Slot) -> dict[str, Any]:
    return {"_a": list(slot.ranking), "_p": _propensities(slot)}


def _propensities(slot: Slot) -> list[float]:
    """The first is what the estimates go by: what a converter had multiplied by 1 − pdrop is right here."""
    return [slot.propensity, *slot.propensities[1:]]


def _cost(reward: float) -> float:
    return 0.0 - reward


def _head(decision: Decision) -> dict[str, str]:
    time = decision.timestamp or datetime.fromtimestamp(0, UTC)
    return {
        "Timestamp": f"{time:%Y-%m-%dT%H:%M:%S.%f}Z",
        "Version": "1",
        "EventId": decision.event_id or "",
    }


def _context(decision: Decision) -> Features:
    """What says how slots and actions belong together keeps its whole numbers."""
    actions = [_features(action) for action in decision.actions]
    if decision.form is Form.SLATES:
        actions = [{"_slot_id": owner} | action for owner, action in zip(decision.owners, actions, strict=True)]
    context = _features(decision.context) | {"_multi": actions}
    if decision.form is Form.SINGLE:
        return context
    return context | {"_slots": [_place(place) for place in decision.places]}


def _place(place: Features) -> Features:
    included = place.get("_inc")
    return ({} if included is None else {"_inc": included}) | _features(place)


def _features(features: Features) -> Features:
    return {
        name: value
        for name, given in features.items()
        if (not name.startswith("_") or name in {"_text", "_tag"}) and (value := _value(given)) is not None
    }


def _value(value: object) -> Any:
    """None: it is nothing. Of lists only numbers and objects can be read; of numbers the place counts."""
    if isinstance(value, dict):
        return _features(value)
    if isinstance(value, list):
        return _list(value)
    if isinstance(value, str):
        return value
    # Beyond that it is infinite to Vowpal Wabbit, which has 32 bits.
    return float(value) if isinstance(value, int | float) and 0 < abs(value) < 1e38 else None


def _list(values: list[Any]) -> list[Any] | None:
    if all(isinstance(each, dict) for each in values):
        return [_features(each) for each in values]
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return [_value(each) or 0.0 for each in values]
    return None
