"""Ask every method every question of a plan."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recommendation_service.evaluation.interaction_log import Int64
from recommendation_service.evaluation.protocol import LIST_LENGTH, Method, Plan, Stretch

NOTHING = -1
Advance = Callable[[int], None]  # baskets that were asked for since the last call


@dataclass(frozen=True)
class Answers:
    """Of one method: a row for each basket of the plan, in its order."""

    name: str
    lists: Int64  # (baskets, LIST_LENGTH) the best first, NOTHING where a list is shorter
    fit_seconds: float
    rank_seconds: float


def replay(plan: Plan, methods: Sequence[Method], advance: Advance = lambda _: None) -> list[Answers]:
    """All methods side by side, a question after the other, so that what they share is never ahead of a question."""
    lists = [np.full((plan.baskets, LIST_LENGTH), NOTHING) for _ in methods]
    fitting, ranking = [0.0] * len(methods), [0.0] * len(methods)
    row = 0
    for stretch in plan.stretches:
        for number, method in enumerate(methods):
            started = time.perf_counter()
            method.fit(stretch.past)
            fitting[number] += time.perf_counter() - started
        for basket in stretch.baskets:
            for number, method in enumerate(methods):
                started = time.perf_counter()
                answer = method.rank(basket.question)
                ranking[number] += time.perf_counter() - started
                lists[number][row, : len(answer)] = answer
            row += 1
        for method, answers in zip(methods, lists, strict=True):
            _check(method.name, stretch, answers[row - len(stretch.baskets) : row])
        advance(len(stretch.baskets) * len(methods))
    return [
        Answers(method.name, lists[number], fitting[number], ranking[number]) for number, method in enumerate(methods)
    ]


def _check(name: str, stretch: Stretch, lists: Int64) -> None:
    """A method that breaks the rules has no figures: what a user had is easily found again."""
    for basket, answer in zip(stretch.baskets, lists, strict=True):
        given = answer[answer != NOTHING]
        if len(np.unique(given)) < len(given):
            raise RuntimeError(f"{name} gave an item twice")
        if np.isin(given, basket.question.history).any():
            raise RuntimeError(f"{name} gave an item that the user had")
        if not np.isin(given, stretch.past.candidates).all():
            raise RuntimeError(f"{name} gave an item that was not there yet")
