"""Figures of lists, compared with what a hand computes."""

from __future__ import annotations

from math import log, log2

import numpy as np
import pytest

from recommendation_service.evaluation.intervals import Bootstrap, percentiles
from recommendation_service.evaluation.measures import coverage, gini, measure
from recommendation_service.evaluation.protocol import LIST_LENGTH, prequential
from recommendation_service.evaluation.replay import NOTHING, Answers
from recommendation_service.evaluation.summary import Summaries
from tests.unit.evaluation.logs import log_of

# Before the test users 1 to 3 have item 0, user 1 has 1; user 9 has 2, and then takes 0 and 1 in one second.
LOG = log_of(
    [(1, 0, 0), (2, 0, 0), (3, 0, 0), (1, 1, 0), (4, 3, 0), (5, 4, 0), (9, 2, 1), (9, 0, 3), (9, 1, 3)],
    {"item_id": [0, 1, 2, 3, 4], "skills": ["a", "a|b", "c", "b", ""]},
)
PLAN = prequential(LOG, 0, 0.75)


def answers(*items: int) -> Answers:
    lists = np.full((1, LIST_LENGTH), NOTHING)
    lists[0, : len(items)] = items
    return Answers("service", lists, 0.0, 0.0)


def test_a_list_is_measured_as_by_hand() -> None:
    assert (PLAN.baskets, PLAN.taken) == (1, 2)
    found = {name: values.tolist() for name, values in measure(PLAN, LOG, answers(3, 0, 4)).values.items()}
    taken = PLAN.stretches[0].baskets[0].taken.tolist()
    assert found["ndcg_10"] == [1 / log2(3) if item == 0 else 0.0 for item in taken]
    assert found["recall_10"] == [float(item == 0) for item in taken]
    assert found["hit_10"] == [1.0]
    # Six users had something; of them item 3 was had by 1, item 0 by 3, item 4 by 1.
    assert found["novelty"] == [pytest.approx(-(log2(2 / 7) + log2(4 / 7) + log2(2 / 7)) / 3)]
    assert found["diversity"] == [1.0]  # {b} and {a} share nothing, and item 4 says nothing of itself
    # All of the history is c, of which the list has nothing but the hundredth that is mixed in.
    assert found["calibration"] == [pytest.approx(log(1 / 0.01))]


def test_what_comes_after_the_cutoff_counts_for_the_longer_list_alone() -> None:
    filler = [3, 4] * 5  # ten places; rules are the replay's matter
    found = measure(PLAN, LOG, answers(*filler, 0)).values
    assert found["ndcg_10"].sum() == 0.0
    assert found["ndcg_24"].sum() == pytest.approx(1 / log2(12))


def test_coverage_and_gini_are_as_by_hand() -> None:
    shown = np.array([[3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 4.0]])
    assert coverage(shown).tolist() == [0.5, 1.0, 0.25]
    assert gini(shown).tolist() == pytest.approx([0.625, 0.0, 0.75])


def test_users_are_drawn_and_not_events() -> None:
    """A thousand events of one user tell no more than one: with two users that differ, the interval spans both."""
    user = np.array([1] * 1000 + [2] * 1000)
    found = percentiles(Bootstrap(user, 0).means(user, (user == 1).astype(float)))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_the_difference_of_two_methods_is_paired() -> None:
    """Users differ much and methods hardly, by the same amount everywhere: that is known exactly."""
    user = np.arange(50)
    values = np.random.default_rng(0).random(50)
    bootstrap = Bootstrap(user, 0)
    one, other = bootstrap.means(user, values), bootstrap.means(user, values + 0.125)
    assert percentiles(other - one) == pytest.approx((0.125, 0.125, 0.125))
    assert percentiles(one).high - percentiles(one).low > 0.1


def test_a_summary_has_intervals_groups_and_the_difference_to_the_service() -> None:
    summaries = Summaries(PLAN, LOG, 0)
    service = summaries.of(answers(3, 0, 4), {}).as_json()
    other = summaries.of(Answers("other", answers(0, 1).lists, 0.0, 0.0), {"k": 1}).as_json()
    assert service["difference_to_service"] == {}
    assert other["difference_to_service"]["ndcg_10"]["value"] == pytest.approx((1 + 1 / log2(3) - 1 / log2(3)) / 2)
    assert (other["name"], other["protocol"], other["hit_10"], other["coverage"]) == ("other", "prequential", 1.0, 0.4)
    assert other["by_history"]["under_5"]["consumptions"] == 2
    assert other["by_history"]["0"]["ndcg_10"]["value"] is None
    assert other["intervals"]["ndcg_10"] == [other["ndcg_10"]] * 2  # of one user
