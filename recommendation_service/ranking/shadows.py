"""Shadows: how likely policies that do not serve were to fill each slot as it was filled.

A shadow draws from the pools of the policy that serves, under its limits, with its own weights and floor. What each
slot could hold given the slots before it depends on what was chosen and on no score, so a shadow's probability of the
choice is the share of its weight in what the slate noted as eligible, over its floor. Exploration, and what was seen
before, is drawn without regard to scores: there all policies have the propensity that was served.

What ranking/decisions.py computes of a recorded decision, this computes of every feed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, Float32, Float64, Int64
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined, summed
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.linucb import (
    VANISHING,
    best_of_eligible,
    over_floor,
    score_pool,
    weight_against,
)
from recommendation_service.ranking.working_memory import (
    LARGEST_FEED,
    SLOTS,
    Scoring,
    make_scoring,
)


class ShadowArrays(NamedTuple):
    """N policies of K kinds and d features; as PolicyArrays has them."""

    theta: Float64  # (N, K, d)
    precision_root: Float64  # (N, K, d, d)
    alpha: Float64  # (N, K)
    temperature: Float64  # (N, K)
    floor: Float64  # (N,)


class ShadowMemory(NamedTuple):
    scoring: Scoring
    slots: Int64  # (LARGEST_FEED,) of one pool
    propensity: Float32  # (N, LARGEST_FEED)


def stack_shadows(policies: Sequence[PolicyArrays]) -> ShadowArrays:
    """Of one policy or more."""
    return ShadowArrays(*(np.stack([getattr(policy, name) for policy in policies]) for name in ShadowArrays._fields))


def make_shadow_memory(shadows: ShadowArrays, candidates: int) -> ShadowMemory:
    return ShadowMemory(
        scoring=make_scoring(candidates),
        slots=np.zeros(LARGEST_FEED, np.int64),
        propensity=np.zeros((len(shadows.alpha), LARGEST_FEED), np.float32),
    )


@compiled
def weigh_shadows(frame: Frame, shadows: ShadowArrays, shadow: ShadowMemory) -> None:
    """``shadow.propensity`` of each policy and slot of the feed that is in the frame's memory."""
    memory = frame.memory
    policies, filled, pools = len(shadows.alpha), memory.counts[SLOTS], len(frame.policy.pool)
    for slot in range(filled):
        if memory.slot_pool[slot] >= pools:
            for n in range(policies):
                shadow.propensity[n, slot] = memory.slot_propensity[slot]
    for pool in range(pools):
        count = 0
        for slot in range(filled):
            if memory.slot_pool[slot] == pool:
                shadow.slots[count] = slot
                count += 1
        if count == 0:
            continue
        start, end = memory.pool_offsets[pool], memory.pool_offsets[pool + 1]
        for n in range(policies):
            temperature = shadows.temperature[n, pool]
            score_pool(
                memory.X,
                start,
                end,
                shadows.theta[n, pool],
                shadows.precision_root[n, pool],
                shadows.alpha[n, pool],
                temperature,
                shadow.scoring,
            )
            for i in range(count):
                slot = shadow.slots[i]
                eligible, chosen = memory.eligible[slot], memory.slot_candidate[slot]
                share = _share(shadow.scoring, eligible, start, end, chosen, temperature)
                shadow.propensity[n, slot] = over_floor(share, shadows.floor[n], memory.slot_eligible[slot])


@summed
def _sum_of_eligible(weights: Float64, eligible: Bytes) -> float:
    total = 0.0
    for c in range(len(weights)):
        total += weights[c] if eligible[c] else 0.0
    return total


@inlined
def _share(scoring: Scoring, eligible: Bytes, start: int, end: int, chosen: int, temperature: float) -> float:
    """The softmax's share of the chosen candidate, as the slate takes it."""
    total = _sum_of_eligible(scoring.weight[start:end], eligible[start:end])
    if total > VANISHING:
        return scoring.weight[chosen] / total
    best, total = best_of_eligible(scoring.score, eligible, start, end), 0.0
    for c in range(start, end):
        if eligible[c]:
            total += weight_against(scoring.score[c], best, temperature)
    return weight_against(scoring.score[chosen], best, temperature) / total
