"""Policies to weigh a log with: how likely each would have shown what was shown, given the slots before."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from recommendation_service.dsjson.decision import Decision, Slot
from recommendation_service.dsjson.learner import Learner

# Of a decision, the probability of what each slot shows. Called in the order of the log.
Weigher = Callable[[Decision], Sequence[float]]

DEFAULT = ("even", "index:0", "learner")
FORMS = {
    "even": "each action that a slot may show, alike",
    "index:K[,K...]": "always action K (from 0 on) in the first slot, the next K in the second; the first that is free "
    "where that is not",
    "mix:E": "as the log, but for a share E of decisions, which are even",
    "greedy[:E]": "the action that the log gave most probability; a share E is even",
    "learner": "this service's learner, taught by the log's decisions before",
}


class UnknownPolicy(ValueError):
    """The message says what there is."""


class NamedPolicy(NamedTuple):
    """As it was asked for."""

    name: str
    weigher: Weigher


def policy_named(name: str) -> NamedPolicy:
    """Raises UnknownPolicy."""
    word, _, given = name.partition(":")
    try:
        if word == "index" and given:
            return NamedPolicy(name, _Always([_place(each) for each in given.split(",")]))
        if word == "mix" and given:
            return NamedPolicy(name, _Mix(_share(given)))
        if word == "greedy":
            return NamedPolicy(name, _Greedy(_share(given) if given else 0.0))
    except ValueError as error:
        raise UnknownPolicy(f"{name}: {error}") from None
    if name == "even":
        return NamedPolicy(name, _Mix(1.0))
    if name == "learner":
        return NamedPolicy(name, Learner())
    raise UnknownPolicy(f"{name} is none of the policies: {', '.join(FORMS)}")


def _place(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f"{text!r} is no place of an action, counted from 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share from 0 to 1")
    return share


class _Mix:
    """The log's policy, but for a share that is drawn evenly."""

    def __init__(self, even: float) -> None:
        self._even = even

    def __call__(self, decision: Decision) -> Sequence[float]:
        return [self._even / len(slot.free) + (1 - self._even) * slot.propensity for slot in decision.slots]


class _Always:
    """A slot beyond the places that were given shows the first action that is free."""

    def __init__(self, places: Sequence[int]) -> None:
        self._places = places

    def __call__(self, decision: Decision) -> Sequence[float]:
        wanted = [*self._places, *[-1] * len(decision.slots)]
        return [
            float(slot.shown == (place if place in slot.free else slot.free[0]))
            for slot, place in zip(decision.slots, wanted, strict=False)
        ]


class CannotWeigh(Exception):
    """The log lacks what a policy goes by."""


class _Greedy:
    """What the log's policy liked best, but for a share that is drawn evenly; the first of what it liked alike."""

    def __init__(self, even: float) -> None:
        self._even = even

    def __call__(self, decision: Decision) -> Sequence[float]:
        return [
            self._even / len(slot.free) + (1 - self._even) * (slot.shown == _favourite(slot)) for slot in decision.slots
        ]


def _favourite(slot: Slot) -> int:
    if len(slot.propensities) < len(slot.free) or len(slot.ranking) < len(slot.free):
        raise CannotWeigh("it goes by the probabilities of all actions (a and p), which some events have not")
    best = max(slot.propensities)
    return min(action for action, share in zip(slot.ranking, slot.propensities, strict=True) if share == best)
