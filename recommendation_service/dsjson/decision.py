"""What a line of such a log says, once it is checked: which actions there were, which was shown, and what it brought.

All places are 0-based, whatever the line has. Costs became rewards: cost = −reward everywhere in the format.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

Features = dict[str, Any]


class Form(StrEnum):
    """How a decision was made, and so how it is weighed."""

    SINGLE = "single"  # one action was shown
    CCB = "ccb"  # several, one after the other, each from what was left
    SLATES = "slates"  # several, each from actions of its own slot, with one reward for all


class Slot(NamedTuple):
    """One place, and what filled it."""

    free: Sequence[int]  # the actions that it could show, ascending, given what the slots before it show
    shown: int  # one of them
    propensity: float  # in (0, 1]
    ranking: Sequence[int]  # the actions as the log ranks them, the shown one first; empty where it says nothing
    propensities: Sequence[float]  # of each in ``ranking``; empty where the log has them not


class Decision(NamedTuple):
    """``rewards`` has one for each slot; of slates one for the whole."""

    form: Form
    event_id: str | None
    timestamp: datetime | None  # UTC
    slots: Sequence[Slot]
    rewards: Sequence[float]
    dropped: float  # the chance that the event was thrown away, in [0, 1)
    context: Features  # all of ``c`` but for the two that follow
    actions: Sequence[Features]  # of slates in the order of the file, whatever slot they are of
    places: Sequence[Features]  # what is known of each slot; of a single one nothing
    owners: Sequence[int]  # of slates, the slot that each action is of; else empty

    @property
    def weight(self) -> float:
        """How many events this one stands for."""
        return 1.0 / (1.0 - self.dropped)

    def action_of(self, slot: int, number: int) -> int:
        """The place in ``actions`` of what a slot calls ``number``: slates count within the slot's own."""
        if self.form is not Form.SLATES:
            return number
        return [place for place, owner in enumerate(self.owners) if owner == slot][number]
