"""Temperatures of learned policies: as even a draw as before, and never a more even one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recommendation_service.learning.variety import as_varied, evenness, recorded_feeds, shares, slots_by_kind, unknown
from recommendation_service.model.kinds import KINDS
from tests.support.policies import ALL_FEATURE_NAMES as FEATURE_NAMES

DRAW = np.random.default_rng(1)
SCORES = [DRAW.normal(size=count) for count in (3, 10, 40, 40)]


@pytest.mark.parametrize("shrunk", [0.5, 0.1, 0.02])
def test_scores_that_moved_together_are_drawn_at_a_temperature_as_much_lower(shrunk: float) -> None:
    after = [shrunk * scores + 7.0 for scores in SCORES]
    temperature = as_varied(SCORES, after, 0.8)
    assert temperature == pytest.approx(shrunk * 0.8, rel=1e-6)
    assert evenness(after, temperature) == pytest.approx(evenness(SCORES, 0.8), rel=1e-6)


def test_a_temperature_is_never_raised() -> None:
    assert as_varied(SCORES, [5 * scores for scores in SCORES], 0.8) == 0.8


def test_without_decisions_temperatures_stay(tmp_path: Path) -> None:
    assert slots_by_kind(recorded_feeds(tmp_path / "none", len(FEATURE_NAMES)), len(KINDS)) == [[] for _ in KINDS]
    assert as_varied([], [], 0.8) == 0.8


def test_scores_that_are_all_alike_have_a_temperature_all_the_same() -> None:
    assert 0 < as_varied(SCORES, [0 * scores for scores in SCORES], 0.8) < 0.8


def test_the_less_is_unknown_of_what_sets_items_apart_the_less_evenly_they_are_drawn() -> None:
    """Only the first two features differ within a slot; what is known of the others says nothing."""
    slots = [np.column_stack((DRAW.normal(size=(20, 2)), np.full((20, 1), place))) for place in range(30)]
    nothing, of_others, half, all_known = (np.diag(one) for one in ([2, 2, 2], [2, 2, 99], [4, 4, 2], [1e9, 1e9, 2]))
    left = [unknown(slots, A, 2.0) for A in (nothing, of_others, half, all_known)]
    assert left == pytest.approx([1.0, 1.0, 0.5, 0.0], abs=1e-6)
    assert unknown(slots, np.diag([1.0, 1.0, 1.0]), 2.0) == 1.0, "what was doubted is not more than all unknown"
    assert unknown([np.ones((5, 3))], all_known, 2.0) == 1.0, "items that are all alike"
    found = shares([slots, [], slots], np.array([half, all_known, all_known]), 2.0, 0.8)
    assert found == pytest.approx([0.9, 1.0, 0.8])


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_draws_have_that_share_of_the_evenness_before(share: float) -> None:
    after = [0.1 * scores for scores in SCORES]
    temperature = as_varied(SCORES, after, 0.8, share)
    assert evenness(after, temperature) == pytest.approx(share * evenness(SCORES, 0.8), rel=1e-6)
