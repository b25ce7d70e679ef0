"""What the weights of a mapping's kinds come to beside each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.catalog.measuring import logarithmic
from recommendation_service.feed.explain import hand_terms
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.policies.mapped import starting_policy
from recommendation_service.sources.mapping.mapping import load_mapping

MUSIC = Path(__file__).resolve().parents[3] / "examples" / "music" / "mapping.toml"


def test_an_item_of_somebody_whom_one_follows_ranks_as_one_that_is_taken_e_times_as_often() -> None:
    policy = starting_policy(load_mapping(MUSIC))
    kind = policy.file.kind_names.index("for_you")
    x = np.zeros((3, len(policy.feature_names)))
    x[:, FEATURE_NAMES.index("popularity")] = logarithmic(np.array([100.0, 100.0 * math.e, 10_000.0]))[[0, 1, 0]]
    x[2, FEATURE_NAMES.index("creator_in_network")] = 1.0
    plain, popular, followed = (sum(hand_terms(policy, of_item, kind, 10.0).values()) for of_item in x)
    assert popular > plain + 8
    assert followed == pytest.approx(popular, abs=0.3)  # of 10: what is least taken counts less
