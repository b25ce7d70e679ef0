"""A line of a decision log taken apart. What cannot be weighed is refused, with the reason; nothing is guessed.

The order of keys means nothing here (to Vowpal Wabbit it does). Where a log says one thing twice, both have to agree.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from recommendation_service.dsjson.decision import Decision, Features, Form, Slot
from recommendation_service.dsjson.refusals import Reason, Refused

# Logs have probabilities in float32, with six digits.
_CLOSE = 1e-4
# A place more in one line would be one in each event's row of the arrays that are weighed.
_MOST_SLOTS = 100
# Of cost over probability: squares of it are still numbers.
_MOST = 1e150

_decode = msgspec.json.Decoder().decode


class Costs(StrEnum):
    """Which cost is meant in a log of apprentice mode: there ``_label_cost`` says whether the application's own choice
    was imitated, and what it brought is in ``_original_label_cost``."""

    ASK = "ask"  # refuse where the two differ
    LABEL = "label"
    ORIGINAL = "original"


def decision_of(line: bytes, costs: Costs = Costs.ASK) -> Decision:
    """Raises Refused."""
    try:
        event = _decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(Reason.NOT_JSON, str(error).split(" - ", 1)[0]) from None
    if not isinstance(event, dict):
        raise Refused(Reason.NOT_JSON, f"it is {_shown(event)}")
    for name in ("_skipLearn", "_deferred", "DeferredAction"):
        if event.get(name) is True:
            raise Refused(Reason.NOT_ACTIVATED, name)
    context = event.get("c")
    actions = context.get("_multi") if isinstance(context, dict) else None
    if (
        not isinstance(context, dict)
        or not isinstance(actions, list)
        or not actions
        or not all(isinstance(action, dict) for action in actions)
    ):
        raise Refused(Reason.ACTIONS, "c._multi has to be a list of objects, with one at least")
    if any("_slot_id" in action for action in actions):
        return _slates(event, context, actions, costs)
    if "_outcomes" in event or "_slots" in context:
        return _ccb(event, context, actions, costs)
    return _single(event, context, actions, costs)


def _single(event: Features, context: Features, actions: list[Features], costs: Costs) -> Decision:
    dropped = _dropped(event)
    ranking, propensities = _ranked(event, len(actions))
    shown = _shown_action(event, ranking, len(actions))
    probability = event.get("_label_probability")
    if probability is not None:
        probability = _probability("_label_probability", probability)
    reward = _reward(event, costs)
    if reward is None:
        raise Refused(Reason.NO_REWARD)
    if shown is None:
        raise Refused(Reason.INDEX, "none of _labelIndex, _label_Action and a says it")
    if probability is None:
        raise Refused(Reason.PROBABILITY, "_label_probability is missing")
    if propensities:
        probability = _undropped(probability, propensities[0], dropped)
    slot = Slot(range(len(actions)), shown, probability, ranking, propensities)
    return _decision(Form.SINGLE, event, context, [slot], [reward], dropped)


def _ranked(event: Features, count: int) -> tuple[Sequence[int], Sequence[float]]:
    """``a`` as places, and ``p``; each empty where it is absent."""
    ranking, propensities = event.get("a"), event.get("p")
    if ranking is not None:
        if not isinstance(ranking, list) or not all(_is_integer(number) for number in ranking):
            raise Refused(Reason.RANKING, "a has to be a list of whole numbers")
        if sorted(ranking) != list(range(1, count + 1)):
            raise Refused(Reason.RANKING, f"a is not each of 1 to {count} once")
    if propensities is not None:
        propensities = _probabilities("p", propensities)
        if len(propensities) != count:
            raise Refused(Reason.RANKING, f"p has {len(propensities)} of {count} probabilities")
    return [number - 1 for number in ranking or ()], propensities or ()


def _shown_action(event: Features, ranking: Sequence[int], count: int) -> int | None:
    index, action = event.get("_labelIndex"), event.get("_label_Action")
    said: dict[str, int] = {}
    for name, value, first in (("_labelIndex", index, 0), ("_label_Action", action, 1)):
        if value is None:
            continue
        if not _is_integer(value) or not first <= value < count + first:
            raise Refused(Reason.INDEX, f"{name} is {_shown(value)}, of {count} actions")
        said[name] = value - first
    if ranking:
        said["a"] = ranking[0]
    if len(set(said.values())) > 1:
        raise Refused(Reason.CONTRADICTION, ", ".join(f"{name} says {place}" for name, place in said.items()))
    return next(iter(said.values()), None)


def _undropped(probability: float, first: float, dropped: float) -> float:
    """The service's converter took the chance of dropping into ``_label_probability``, and wrote ``pdrop`` as well: who
    believes both corrects twice."""
    if math.isclose(probability, first, rel_tol=_CLOSE):
        return probability
    if dropped > 0 and math.isclose(probability, first * (1 - dropped), rel_tol=_CLOSE):
        return first
    raise Refused(Reason.CONTRADICTION, f"_label_probability is {probability:g} and p begins with {first:g}")


def _ccb(event: Features, context: Features, actions: list[Features], costs: Costs) -> Decision:
    dropped = _dropped(event)
    places = _places(context)
    if len(places) > len(actions):
        raise Refused(Reason.OUTCOMES, f"{len(places)} slots, and {len(actions)} actions")
    outcomes = _outcomes(event, len(places))
    if not any("_a" in outcome or _has_cost(outcome) for outcome in outcomes):
        raise Refused(Reason.NO_REWARD)
    taken: set[int] = set()
    slots, rewards = [], []
    for number, (place, outcome) in enumerate(zip(places, outcomes, strict=True), 1):
        ranking, propensities = _choice(outcome, number, len(actions))
        if ranking[0] in taken:
            raise Refused(Reason.TWICE, f"slot {number} shows action {ranking[0]}, as a slot before does")
        reward = _reward(outcome, costs)
        if reward is None:
            raise Refused(Reason.COST, f"slot {number} has an action and no cost")
        free = [action for action in _included(place, number, len(actions)) if action not in taken]
        if ranking[0] not in free:
            raise Refused(Reason.INDEX, f"slot {number} shows action {ranking[0]}, which its _inc lacks")
        taken.add(ranking[0])
        slots.append(Slot(free, ranking[0], propensities[0], ranking, propensities))
        rewards.append(reward)
    return _decision(Form.CCB, event, context, slots, rewards, dropped)


def _slates(event: Features, context: Features, actions: list[Features], costs: Costs) -> Decision:
    dropped = _dropped(event)
    places = _places(context)
    owners = [action["_slot_id"] for action in actions if "_slot_id" in action]
    if len(owners) < len(actions) or not all(_is_integer(owner) and 0 <= owner < len(places) for owner in owners):
        raise Refused(Reason.ACTIONS, f"each action of slates needs a _slot_id, 0 to {len(places) - 1}")
    outcomes = _outcomes(event, len(places))
    if any(_has_cost(outcome) for outcome in outcomes):
        raise Refused(Reason.FORM, "costs of slots, as CCB has them, and actions with _slot_id, as slates have them")
    reward = _reward(event, costs)
    if reward is None:
        raise Refused(Reason.NO_REWARD)
    slots = []
    for number, outcome in enumerate(outcomes):
        own = owners.count(number)
        if own == 0:
            raise Refused(Reason.ACTIONS, f"slot {number + 1} has none")
        ranking, propensities = _choice(outcome, number + 1, own)
        slots.append(Slot(range(own), ranking[0], propensities[0], ranking, propensities))
    return _decision(Form.SLATES, event, context, slots, [reward], dropped)


def _places(context: Features) -> list[Features]:
    places = context.get("_slots")
    if not isinstance(places, list) or not places or not all(isinstance(place, dict) for place in places):
        raise Refused(Reason.OUTCOMES, "c._slots has to be a list of objects, with one at least")
    if len(places) > _MOST_SLOTS:
        raise Refused(Reason.OUTCOMES, f"{len(places)} slots; {_MOST_SLOTS} can be read")
    return places


def _outcomes(event: Features, slots: int) -> list[Features]:
    outcomes = event.get("_outcomes")
    if not isinstance(outcomes, list) or not all(isinstance(outcome, dict) for outcome in outcomes):
        raise Refused(Reason.OUTCOMES, "_outcomes has to be a list of objects")
    if len(outcomes) != slots:
        raise Refused(Reason.OUTCOMES, f"{len(outcomes)} outcomes, and {slots} slots")
    return outcomes


def _choice(outcome: Features, number: int, count: int) -> tuple[list[int], Sequence[float]]:
    """``_a`` and ``_p`` of a slot; a plain number stands for a list of one."""
    ranking, propensities = (_listed(outcome.get(name)) for name in ("_a", "_p"))
    if not ranking:
        raise Refused(Reason.OUTCOMES, f"slot {number} has no action")
    if not all(_is_integer(action) and 0 <= action < count for action in ranking):
        raise Refused(Reason.INDEX, f"_a of slot {number} is not of 0 to {count - 1}")
    if len(set(ranking)) < len(ranking):
        raise Refused(Reason.TWICE, f"in _a of slot {number}")
    if len(ranking) != len(propensities):
        raise Refused(
            Reason.OUTCOMES, f"slot {number} has {len(ranking)} actions and {len(propensities)} probabilities"
        )
    return ranking, _probabilities(f"_p of slot {number}", propensities)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _included(place: Features, number: int, count: int) -> Sequence[int]:
    included = place.get("_inc")
    if included is None:
        return range(count)
    if not isinstance(included, list) or not all(_is_integer(each) and 0 <= each < count for each in included):
        raise Refused(Reason.INDEX, f"_inc of slot {number} is not of 0 to {count - 1}")
    return sorted(set(included))


def _probabilities(name: str, values: object) -> Sequence[float]:
    """The first was drawn by, and has to be above 0; the others may be 0."""
    if not isinstance(values, list) or not values:
        raise Refused(Reason.PROBABILITY, f"{name} has to be a list of numbers")
    others = [_number(value) for value in values[1:]]
    if not all(other is not None and 0 <= other <= 1 for other in others):
        raise Refused(Reason.PROBABILITY, f"{name} has one that is no number from 0 to 1")
    return [_probability(name, values[0]), *(other for other in others if other is not None)]


def _probability(name: str, value: object) -> float:
    number = _number(value)
    if number is None or not 0 < number <= 1:
        raise Refused(Reason.PROBABILITY, f"{name} is {_shown(value)}")
    return number


def _dropped(event: Features) -> float:
    value = event.get("pdrop")
    if value is None:
        return 0.0
    number = _number(value)
    # Above a float's last step before 1 the weight would be no number.
    if number is None or not 0 <= number < 1:
        raise Refused(Reason.DROPPED, f"pdrop is {_shown(value)}")
    return number


def _has_cost(labelled: Features) -> bool:
    return any(labelled.get(name) is not None for name in ("_label_cost", "_original_label_cost"))


def _reward(labelled: Features, costs: Costs) -> float | None:
    """None: it is not known, which is not 0."""
    cost, original = (_cost(labelled, name) for name in ("_label_cost", "_original_label_cost"))
    if costs is Costs.ORIGINAL and original is not None:
        cost = original
    elif costs is Costs.ASK and original is not None and original != cost:
        raise Refused(Reason.APPRENTICE, f"{_shown(cost)} and {original:g}")
    return None if cost is None else 0.0 - cost


def _cost(labelled: Features, name: str) -> float | None:
    value = labelled.get(name)
    if value is None:
        return None
    number = _number(value)
    if number is None:
        raise Refused(Reason.COST, f"{name} is {_shown(value)}")
    return number


def _decision(
    form: Form, event: Features, context: Features, slots: list[Slot], rewards: list[float], dropped: float
) -> Decision:
    likely = math.prod(slot.propensity for slot in slots) * (1 - dropped)
    if likely == 0 or max(1.0, *map(abs, rewards)) / likely > _MOST:
        raise Refused(Reason.TOO_MUCH, f"the decision has a probability of {likely:g}")
    places = context.get("_slots") if form is not Form.SINGLE else None
    actions = context["_multi"]
    return Decision(
        form,
        event_id=_text(event.get("EventId")),
        timestamp=_time(event.get("Timestamp")),
        slots=slots,
        rewards=rewards,
        dropped=dropped,
        context={name: value for name, value in context.items() if name not in {"_multi", "_slots"}},
        actions=actions,
        places=places or [],
        owners=[action["_slot_id"] for action in actions] if form is Form.SLATES else [],
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    """None where it says none: nothing that is weighed depends on it. More than six decimals are cut."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> float | None:
    """None: it is no finite number; ``true`` is none, and neither is a number that is written as text."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Short, whatever it is: lines of others may hold anything."""
    shown = repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
