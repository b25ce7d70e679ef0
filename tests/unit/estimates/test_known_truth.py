"""What estimates promise, on simulated logs whose truth is known, in its quick form: 50 logs of each kind and length.

`make evidence` has the long one, docs/quality.md its figures. It takes 9 s of processor time, which is what
drawing and weighing 300 logs takes.
"""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.estimates.estimate import FEW
from tests.support.known_truth import REWARD_KINDS, TRUTHS, RewardKind, Seen, World, see, true_values

RUNS = 50
# Enough for an effective sample of 300 in all slots, where the policies are close.
FEEDS = {6: 1_500, 24: 1_500}


@pytest.fixture(scope="module")
def seen() -> dict[tuple[int, RewardKind, str], list[Seen]]:
    """By length, kind of rewards and target."""
    found: dict[tuple[int, RewardKind, str], list[Seen]] = {}
    for slots, feeds in FEEDS.items():
        world = World(slots)
        for kind in REWARD_KINDS:
            for run in range(RUNS):
                for target, one in see(world, TRUTHS[slots], kind, feeds, seed=run).items():
                    found.setdefault((slots, kind, target), []).append(one)
    return found


Found = dict[tuple[int, RewardKind, str], list[Seen]]


def test_the_sequence_misses_the_truth_in_at_most_one_of_twenty_logs(seen: Found) -> None:
    for key, some in seen.items():
        assert sum(one.sequence_is_missed for one in some) <= 0.05 * RUNS, key


def test_intervals_hold_the_truth_where_every_slot_has_support(seen: Found) -> None:
    """.93 and more: so few logs allow one of 150 to be off by 2.5 standard errors."""
    for slots in FEEDS:
        for kind in REWARD_KINDS:
            covered = [
                one.is_covered
                for (of_slots, of_kind, _), some in seen.items()
                for one in some
                if (of_slots, of_kind) == (slots, kind) and one.least_ess >= FEW
            ]
            assert len(covered) >= 0.8 * RUNS
            assert np.mean(covered) >= 0.93 - 2.5 * np.sqrt(0.93 * 0.07 / len(covered)), (slots, kind)


def test_the_guardrails_lower_bound_is_above_the_truth_in_at_most_one_of_twenty_logs(seen: Found) -> None:
    for slots in FEEDS:
        above = [
            one.guardrail_is_above
            for (of_slots, _, _), some in seen.items()
            for one in some
            if of_slots == slots and not one.is_refused
        ]
        assert np.mean(above) <= 0.05, slots


def test_the_ratio_of_each_slot_alone_is_wrong_and_looks_precise(seen: Found) -> None:
    for slots in FEEDS:
        for kind in REWARD_KINDS:
            some = seen[slots, kind, "small"]
            assert np.mean([one.single_is_covered for one in some]) < 0.6, (slots, kind)
            assert np.mean([one.single_error for one in some]) > 0.2 * np.mean([one.difference for one in some])


def test_what_is_too_far_away_is_refused(seen: Found) -> None:
    for kind in REWARD_KINDS:
        assert all(one.is_refused for one in seen[24, kind, "large"])
        assert not any(one.is_refused for one in seen[24, kind, "small"])


def test_the_truth_is_what_is_written_down() -> None:
    for slots in FEEDS:
        found = true_values(World(slots), 6_000, seed=2)
        for ranker in ("first", "small", "worse"):
            for kind in REWARD_KINDS:
                assert found[ranker][kind] == pytest.approx(TRUTHS[slots][ranker][kind], rel=0.04)
