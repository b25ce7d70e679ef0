"""Ask every method every question of a plan."""

import time
from collections.abc import Callable
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


def replay(plan: Plan, method: Method, advance: Advance = lambda _: None) -> Answers:
    lists = np.full((plan.baskets, LIST_LENGTH), NOTHING)
    row, fitting, ranking = 0, 0.0, 0.0
    for stretch in plan.stretches:
        started = time.perf_counter()
        method.fit(stretch.past)
        fitted = time.perf_counter()
        for basket in stretch.baskets:
            answer = method.rank(basket.question)
            lists[row, : len(answer)] = answer
            row += 1
        ranking += time.perf_counter() - fitted
        fitting += fitted - started
        _check(method.name, stretch, lists[row - len(stretch.baskets) : row])
        advance(len(stretch.baskets))
    return Answers(method.name, lists, fitting, ranking)


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
