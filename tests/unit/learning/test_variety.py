"""Temperatures of learned policies: as even a draw as before, and never a more even one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recommendation_service.learning.variety import as_varied, evenness, recorded_slots
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.model.kinds import KINDS

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
    assert recorded_slots(tmp_path / "none", len(FEATURE_NAMES)) == [[] for _ in KINDS]
    assert as_varied([], [], 0.8) == 0.8


def test_scores_that_are_all_alike_have_a_temperature_all_the_same() -> None:
    assert 0 < as_varied(SCORES, [0 * scores for scores in SCORES], 0.8) < 0.8
