"""What is asked, and what a method may know when it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.interaction_log import Int64
from recommendation_service.evaluation.protocol import (
    DAY_SECONDS,
    Past,
    Plan,
    Question,
    consumptions_of,
    last_item,
    prequential,
)
from recommendation_service.evaluation.replay import replay
from tests.unit.evaluation.logs import log_of, sequences


def questions(plan: Plan) -> list[tuple[Past, Question, Int64]]:
    return [(stretch.past, basket.question, basket.taken) for stretch in plan.stretches for basket in stretch.baskets]


@pytest.mark.parametrize("plan", [prequential, last_item], ids=["prequential", "last item"])
def test_nobody_knows_what_happened_at_or_after_the_moment_of_the_question(plan: object) -> None:
    for past, question, taken in questions(plan(sequences(), 0)):  # type: ignore[operator]
        assert (past.consumptions.when < past.moment).all()
        assert past.moment <= question.when
        assert (question.history_when < question.when).all()
        assert not np.isin(taken, question.history).any()


def test_a_refit_comes_with_each_midnight_and_knows_all_that_was_before() -> None:
    log = sequences()
    plan = prequential(log, 0)
    moments = [stretch.past.moment for stretch in plan.stretches]
    assert moments[0] == plan.stretches[0].baskets[0].question.when
    assert all(moment % DAY_SECONDS == 0 for moment in moments[1:])
    for stretch in plan.stretches:
        assert len(stretch.past.consumptions) == (log.when < stretch.past.moment).sum()
        days = {basket.question.when // DAY_SECONDS for basket in stretch.baskets}
        assert days == {stretch.past.moment // DAY_SECONDS}


def test_a_users_history_grows_within_the_day_while_what_is_fitted_waits() -> None:
    log = log_of([(1, 1, 0), (2, 2, 0), (3, 3, 0), (1, 2, 1), (2, 1, 2.0), (9, 1, 4.1), (9, 2, 4.2), (9, 3, 4.3)])
    asked = [
        (question.history.tolist(), len(past.consumptions)) for past, question, _ in questions(prequential(log, 0, 0.6))
    ]
    assert asked == [([1], 4), ([], 5), ([0], 5), ([0, 1], 5)]


def test_what_a_user_took_in_one_second_is_one_basket_asked_with_what_was_before() -> None:
    log = log_of([(1, item, 0) for item in range(6)] + [(2, 0, 1)] + [(2, item, 2) for item in (1, 2, 3)])
    ((_, question, taken),) = questions(prequential(log, 0, 0.75))
    assert question.history.tolist() == [0]
    assert sorted(taken.tolist()) == [1, 2, 3]


def test_the_order_within_a_second_is_the_seeds_and_not_the_files() -> None:
    log = log_of([(1, item, 0) for item in range(20)] + [(2, 0, 1)])
    orders = [consumptions_of(log, seed).item[:20].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert list(range(20)) not in orders


def test_an_item_is_consumed_once() -> None:
    assert len(consumptions_of(log_of([(1, 1, 0), (1, 1, 1), (2, 1, 2)]), 0)) == 2


def test_an_item_that_was_not_there_at_the_refit_is_counted_and_not_asked_for() -> None:
    log = log_of([(1, 1, 0), (2, 2, 0), (3, 1, 0), (4, 1, 0), (1, 3, 5), (2, 1, 5.1)])
    plan = prequential(log, 0, 0.67)
    assert plan.unknown_items == 1
    assert [log.titles[item] for _, _, taken in questions(plan) for item in taken] == ["1"]


def test_the_last_item_of_each_user_after_the_split_is_asked_for() -> None:
    plan = last_item(sequences(), 0)
    users = [question.user for _, question, _ in questions(plan)]
    assert len(users) == len(set(users)) == 3
    assert all(len(question.history) == 7 for _, question, _ in questions(plan))


class Cheat:
    """Gives what a method must not give."""

    name = "cheat"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def fit(self, past: Past) -> None:
        self._past = past

    def rank(self, question: Question) -> Int64:
        unknown = np.setdiff1d(np.arange(self._past.items), self._past.candidates)
        fresh = np.setdiff1d(self._past.candidates, question.history)
        return {"had": question.history[:1], "twice": fresh[[0, 0]], "unknown": unknown[:1]}[self._kind]


@pytest.mark.parametrize("kind", ["had", "twice", "unknown"])
def test_a_method_that_breaks_the_rules_has_no_figures(kind: str) -> None:
    log = log_of([(user, user % 5, user / 10) for user in range(40)] + [(1, 3, 9), (1, 4, 9.1), (1, 99, 9.2)])
    with pytest.raises(RuntimeError, match="cheat gave an item"):
        replay(prequential(log, 0, 0.95), [Cheat(kind)])


def test_a_log_that_is_too_short_is_refused() -> None:
    with pytest.raises(EvaluationError, match="too short"):
        prequential(log_of([(1, 1, 0), (2, 2, 1)]), 0)
