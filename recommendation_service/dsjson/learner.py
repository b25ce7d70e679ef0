"""The service's learner on another system's log: what it would have done, had it learned from that log as it went on.

Each decision is weighed with what was learned from those before it, and only then learned from: no event judges what it
taught. The model is the service's (learning/posterior.py), of hashed features; scores are in standard deviations of
the reward, and actions are drawn by a softmax over their means, as feeds are. It has no bonus for what is uncertain:
that would pay off in decisions that a log does not have.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recommendation_service.dsjson.decision import Decision, Form
from recommendation_service.dsjson.features import COLUMNS, Hashed
from recommendation_service.learning.posterior import Model, posterior

Floats = npt.NDArray[np.float64]

# Of the softmax; actions that differ by so much of a reward's standard deviation are drawn e times as often.
TEMPERATURE = 0.1
PRECISION = 1.0
PRECISION_FACTOR = 100.0
# It learns anew after so many decisions, or where it has many, when it has so many times as many.
FIRST = 150
GROWTH = 1.25
_ROWS = 512  # gathered, and then added at once


class Learner:
    """Called with one decision after the other."""

    def __init__(self) -> None:
        self._hashed = Hashed()
        self._theta = np.zeros(COLUMNS)
        self._sums = np.zeros((COLUMNS + 2, COLUMNS + 2))  # of z = (x, 1, r)
        self._rows = np.zeros((_ROWS, COLUMNS + 2))
        self._gathered = 0
        self._seen = 0
        self._next = FIRST

    def __call__(self, decision: Decision) -> Sequence[float]:
        """The probability of what each slot shows, given the slots before; and learns from the decision."""
        if self._seen >= self._next:
            self._learn()
        shares, shown = [], []
        for number, slot in enumerate(decision.slots):
            actions = [decision.actions[decision.action_of(number, each)] for each in slot.free]
            X = self._hashed.vectors(actions, [decision.context, *decision.places[number : number + 1]])
            scores = X @ self._theta / TEMPERATURE
            odds = np.exp(scores - scores.max())
            place = slot.free.index(slot.shown)
            shares.append(float(odds[place] / odds.sum()))
            shown.append(X[place])
        self._seen += 1
        # The one reward of slates is that of each slot.
        rewards = [*decision.rewards] * (len(shown) if decision.form is Form.SLATES else 1)
        for x, reward in zip(shown, rewards, strict=True):
            self._add(x, reward, decision.weight)
        return shares

    def _add(self, x: Floats, reward: float, weight: float) -> None:
        row = self._rows[self._gathered]
        row[:COLUMNS], row[COLUMNS:] = x, (1.0, reward)
        row *= np.sqrt(weight)
        self._gathered += 1
        if self._gathered == _ROWS:
            self._gather()

    def _gather(self) -> None:
        rows = self._rows[: self._gathered]
        self._sums += rows.T @ rows
        self._gathered = 0

    def _learn(self) -> None:
        self._gather()
        self._next = max(self._seen + FIRST, int(self._seen * GROWTH))
        count, total, squares = self._sums[COLUMNS, COLUMNS], self._sums[COLUMNS, -1], self._sums[-1, -1]
        deviation = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))
        if deviation <= 1e-9 * float(np.sqrt(squares / count)):
            return  # all rewards are alike: nothing to choose by
        model = Model(np.zeros((1, COLUMNS)), PRECISION, PRECISION_FACTOR, np.array([1 / deviation]), deviation)
        self._theta = posterior(self._sums[None], model).theta[0]
