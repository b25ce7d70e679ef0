"""Baselines on logs whose best answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recommendation_service.evaluation.baselines import EASE, SLIST, Popularity, PopularityDecayed, user_items
from recommendation_service.evaluation.interaction_log import InteractionLog
from recommendation_service.evaluation.measures import measure
from recommendation_service.evaluation.methods import baselines_by_name, tuned, validation_plan
from recommendation_service.evaluation.protocol import Plan, Question, Stretch, last_item, prequential
from recommendation_service.evaluation.replay import replay
from tests.unit.evaluation.logs import log_of, sequences

ALL = sorted(baselines_by_name(0))
# Items 0 to 19 come in pairs: whoever takes one takes the other on the day after.
PAIRS = log_of(
    [
        (user, 2 * ((user * 7 + turn * 3) % 10) + step, user + 20 * turn + step)
        for user in range(60)
        for turn in range(3)
        for step in (0, 1)
    ]
)


def second_halves(plan: Plan) -> Plan:
    """Questions after the first item of a pair."""
    stretches = [
        Stretch(
            stretch.past, [basket for basket in stretch.baskets if len(basket.taken) == 1 and basket.taken[0] % 2 == 1]
        )
        for stretch in plan.stretches
    ]
    return Plan(plan.protocol, [stretch for stretch in stretches if stretch.baskets], 0)


@pytest.mark.parametrize("name", ["item_knn", "als", "ease", "slist"])
def test_who_has_one_of_a_pair_is_given_the_other_first(name: str) -> None:
    plan = second_halves(prequential(PAIRS, 0))
    method = baselines_by_name(0)[name].make(**({"factors": 16} if name == "als" else {}))
    found = measure(plan, PAIRS, replay(plan, [method])[0]).values["ndcg_10"]
    assert found.mean() == pytest.approx(1.0, abs=0.1 if name == "als" else 1e-9)


def test_slist_knows_what_comes_next_where_order_is_all_there_is() -> None:
    log = sequences(users=60, items=12, length=6)
    plan = last_item(log, 0)
    first = {
        method.name: measure(plan, log, replay(plan, [method])[0]).values["ndcg_10"].mean()
        for method in (SLIST(position=1.0, recency=0.5, age_days=1000.0, regularization=1.0), EASE(), Popularity())
    }
    assert first["slist"] == 1.0
    assert first["ease"] < 0.9
    assert first["popularity"] < 0.7


def test_popularity_with_decay_follows_what_is_taken_now() -> None:
    log = log_of(
        [(user, 1, 0) for user in range(20)] + [(100 + user, 2, 50) for user in range(9)] + [(999, 1, 51), (999, 2, 52)]
    )
    plan = prequential(log, 0, 0.95)
    firsts = [replay(plan, [method])[0].lists[0, 0] for method in (Popularity(), PopularityDecayed(7.0))]
    assert [log.titles[item] for item in firsts] == ["1", "2"]


@pytest.mark.parametrize("name", ["item_knn", "als", "ease", "slist"])
def test_who_had_nothing_is_given_what_most_had(name: str) -> None:
    past = prequential(PAIRS, 0).stretches[0].past
    method, popularity = baselines_by_name(0)[name].make(), Popularity()
    nobody = Question(0, past.moment, np.zeros(0, np.int64), np.zeros(0, np.int64))
    for each in (method, popularity):
        each.fit(past)
    assert method.rank(nobody).tolist() == popularity.rank(nobody).tolist()


def test_ease_solves_its_problem() -> None:
    """The gradient of ‖X − XB‖² + λ‖B‖² is 0 but on the diagonal, where B is (Steck 2019, section 3.1)."""
    past = prequential(PAIRS, 0).stretches[0].past
    method = EASE(regularization=3.0)
    method.fit(past)
    X, B = user_items(past).toarray(), method._B
    gradient = X.T @ (X @ B - X) + 3.0 * B
    np.fill_diagonal(gradient, 0.0)
    assert np.abs(gradient).max() < 1e-9
    assert np.abs(np.diag(B)).max() == 0.0


def slow_slist(past: Any, regularization: float, alpha: float, position: float, age_days: float) -> Any:
    """The matrices of the paper, row by row."""
    rows: list[tuple[float, Any, Any]] = []
    for user in range(past.users):
        mine = past.consumptions.user == user
        items, when = past.consumptions.item[mine], past.consumptions.when[mine]
        if not len(items):
            continue
        weight = np.exp(-(past.moment - when[-1]) / 86_400 / age_days)
        whole = np.bincount(items, minlength=past.items).astype(float)
        rows.append((weight * alpha, whole, whole))
        for cut in range(1, len(items)):
            S, T = np.zeros(past.items), np.zeros(past.items)
            S[items[:cut]] = np.exp(-np.arange(cut)[::-1] / position)
            T[items[cut:]] = np.exp(-np.arange(len(items) - cut) / position)
            rows.append((weight * (1 - alpha), S, T))
    left = sum(weight * np.outer(S, S) for weight, S, _ in rows)
    right = sum(weight * np.outer(S, T) for weight, S, T in rows)
    return np.linalg.solve(left + regularization * np.eye(past.items), right)


def test_slist_in_closed_form_and_grown_day_by_day_is_that_of_the_paper() -> None:
    given = {"regularization": 2.0, "alpha": 0.3, "position": 3.0, "age_days": 20.0}
    method = SLIST(recency=1.0, **given)
    for stretch in prequential(PAIRS, 0).stretches[:8]:
        method.fit(stretch.past)
        assert np.abs(method._B - slow_slist(stretch.past, **given)).max() < 1e-9


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_lists(name: str) -> None:
    plan = prequential(PAIRS, 0)
    once, again = (replay(plan, [baselines_by_name(0)[name].make()])[0].lists for _ in range(2))
    assert (once == again).all()


@pytest.mark.parametrize(("protocol", "test"), [("prequential", prequential), ("last_item", last_item)])
def test_hyperparameters_are_chosen_where_the_test_part_is_not_seen(
    protocol: str, test: Callable[[InteractionLog, int], Plan]
) -> None:
    plan = validation_plan(PAIRS, 0, protocol)
    latest = max(basket.question.when for stretch in plan.stretches for basket in stretch.baskets)
    assert latest < test(PAIRS, 0).stretches[0].past.moment
    assert set(tuned(baselines_by_name(0)["ease"], plan)) == {"regularization"}
