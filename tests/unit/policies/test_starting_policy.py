"""The policy file that ships says what today's ranking does; the oracle's tests do the same for its weights."""

from __future__ import annotations

import numpy as np

from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import load_policy

FILE = load_policy().file


def test_the_slot_patterns_are_the_documents() -> None:
    assert FILE.feeds["total"] == ["VMP", "AU", "AU", "VMP", "NU", "FW"]
    assert FILE.feeds["discover"] == ["VMP", "AU", "AU", "VMP", "NU"]
    assert [FILE.kind(kind).label for kind in FILE.feeds["flow"]] == ["FW"]


def test_the_limits_are_the_documents() -> None:
    assert (FILE.limits.creator_window, FILE.limits.novelty_after_skills) == (12, 3)


def test_a_pool_holds_as_many_as_the_document_draws_from() -> None:
    assert {name: FILE.kind(name).pool for name in KINDS} == {
        "VMP": 220,
        "AU": 170,
        "NU": 190,
        "FW": 40,
        "FLOW": 40,
    }
    assert FILE.exploration.size == 75


def test_the_exploration_bonus_is_the_documents() -> None:
    kinds = FILE.kinds
    assert (kinds["VMP"].alpha, kinds["AU"].alpha, kinds["NU"].alpha) == (1.5, 1.3, 1.8)


def test_au_is_drawn_at_a_lower_temperature_than_nu_and_fw() -> None:
    kinds = FILE.kinds
    assert kinds["AU"].temperature < min(kinds["NU"].temperature, kinds["FW"].temperature)


def test_the_prior_is_a_mean_of_10_on_the_hand_set_score_and_the_identity() -> None:
    arrays = load_policy().arrays
    expected = np.zeros((len(KINDS), 20))
    expected[:, 17] = 10.0
    np.testing.assert_array_equal(arrays.theta, expected)
    np.testing.assert_array_equal(arrays.precision_root, np.broadcast_to(np.eye(20), (len(KINDS), 20, 20)))
