"""A decision taken apart: what else each slot of a feed could have held, and how likely a policy makes the same feed.

A policy's probability of a feed that was drawn slot by slot is the product of what it gives to each slot, given the
slots before (docs/architecture.md). What a slot could hold given those before is recorded, so the record alone suffices
for any policy with the same pools, kinds, patterns and limits: other θ, A, α, temperatures and floor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.features import HAND_SET
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.packed_columns import CLOSELY, Reader
from recommendation_service.ranking.packed_slots import GROWING_STEPS

Floats = npt.NDArray[np.float64]
FRACTION_BITS = 29
# In an older release's features and weights.
_OLDER_STEP = 8
_OLDER_FRACTION_BITS = 32


class Pool(NamedTuple):
    """The candidates of a kind: m of the decision's items."""

    members: npt.NDArray[np.int64]  # (m,) places in ``items``
    X: npt.NDArray[np.float32]  # (m, d)
    below: Floats  # (m,) how far the score was below the pool's best, over the temperature


class DecidedSlot(NamedTuple):
    item: int  # its key
    kind: int
    pool: int  # whose pool it was drawn from; or slate.EXPLORATION, seen.SEEN_POOL, kinds.PINNED
    relaxed: int
    propensity: float  # as it was served
    chosen: int  # place among the pool's members; -1 where it is from no pool
    eligible: npt.NDArray[np.bool_]  # (m,) which of the pool's members the slot could hold


class Decision(NamedTuple):
    items: npt.NDArray[np.int64]  # (u,) keys of all candidates
    pools: list[Pool]  # of each kind
    slots: list[DecidedSlot]
    floor: float = 0.0  # share of the draws from a pool that were even


def unpack_decision(packed: bytes | memoryview) -> Decision:
    """Raises ValueError for what is none."""
    reader = Reader(packed)
    count = reader.take(16)
    items = np.array(reader.integers(count), np.uint64).view(np.int64)
    features = reader.take(8)
    is_older = features < GROWING_STEPS
    features %= GROWING_STEPS
    if features <= HAND_SET:
        raise ValueError(f"it has {features} features")
    if is_older:
        columns = [reader.older_floats(count, _OLDER_STEP) for _ in range(features - 1)]
    else:
        columns = [reader.floats(count, CLOSELY) for _ in range(features - 1)]
    X = np.array(columns, np.uint32).reshape(features - 1, count).view(np.float32).T
    pools = [_unpack_pool(reader, X, is_older) for _ in range(reader.take(8))]
    slots = [_unpack_slot(reader, items, pools) for _ in range(reader.take(8))]
    floor = _float(reader.take(64)) if reader.left >= 64 else 0.0
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"its floor is {floor}")
    reader.finish()
    return Decision(items, pools, slots, floor)


def _float(bits: int) -> float:
    return float(np.array(bits, np.uint64).view(np.float64))


def _unpack_pool(reader: Reader, X: npt.NDArray[np.float32], is_older: bool) -> Pool:
    count = reader.take(16)
    if count == 0:
        return Pool(np.zeros(0, np.int64), np.zeros((0, X.shape[1] + 1), np.float32), np.zeros(0))
    members = np.flatnonzero(reader.values(len(X), 1))
    if len(members) != count:
        raise ValueError("a pool has other members than it says")
    own = np.array(reader.older_floats(count, 1) if is_older else reader.floats(count, CLOSELY), np.uint32)
    below = np.array(reader.integers(count), np.float64) / (1 << (_OLDER_FRACTION_BITS if is_older else FRACTION_BITS))
    return Pool(members, np.insert(X[members], HAND_SET, own.view(np.float32), axis=1), below)


def _unpack_slot(reader: Reader, items: npt.NDArray[np.int64], pools: list[Pool]) -> DecidedSlot:
    kind, pool, relaxed, key = reader.take(8), reader.take(8), reader.take(4), reader.take(64)
    propensity = _float(reader.take(64))
    item = key - (1 << 64) if key >> 63 else key
    if pool >= len(pools):
        return DecidedSlot(item, kind, pool, relaxed, propensity, -1, np.zeros(0, bool))
    members = pools[pool].members
    eligible = np.array(reader.values(len(members), 1), bool)
    chosen = np.flatnonzero(items[members] == item)
    if len(chosen) != 1 or not eligible[chosen[0]]:
        raise ValueError("a slot holds what it could not hold")
    return DecidedSlot(item, kind, pool, relaxed, propensity, int(chosen[0]), eligible)


def recorded_propensities(decision: Decision) -> Floats:
    """(n,) of each slot, from the weights that are recorded."""
    return _propensities(decision, [pool.below for pool in decision.pools], decision.floor)


def propensities_under(decision: Decision, policy: PolicyArrays) -> Floats:
    """(n,) of each slot under another policy.

    Exploration, what was seen before and what editors pinned are there without regard to scores: these keep their
    propensity.
    """
    return _propensities(decision, _below(decision, policy), policy.floor)


def draws_under(decision: Decision, policy: PolicyArrays) -> list[Floats]:
    """Of each slot the probability of each member of its pool (m,) under another policy; (0,) where the slot was drawn
    without regard to scores."""
    below = _below(decision, policy)
    return [
        _draws(slot, below[slot.pool], policy.floor) if slot.chosen >= 0 else np.zeros(0) for slot in decision.slots
    ]


def recorded_draws(decision: Decision) -> list[Floats]:
    """The same under the policy that served."""
    return [
        _draws(slot, decision.pools[slot.pool].below, decision.floor) if slot.chosen >= 0 else np.zeros(0)
        for slot in decision.slots
    ]


def _below(decision: Decision, policy: PolicyArrays) -> list[Floats]:
    """As ``Pool.below``."""
    found = []
    for kind, pool in enumerate(decision.pools):
        X = pool.X.astype(np.float64)
        scores = X @ policy.theta[kind] + policy.alpha[kind] * np.linalg.norm(X @ policy.precision_root[kind], axis=1)
        scores[~np.isfinite(scores)] = -np.inf
        best = scores.max(initial=-np.inf)
        found.append((best - scores) / policy.temperature[kind] if best > -np.inf else np.zeros(len(scores)))
    return found


def _draws(slot: DecidedSlot, below: Floats, floor: float) -> Floats:
    """(m,) as ``_share`` of each."""
    least = below[slot.eligible].min()
    weights = slot.eligible * (np.exp(least - below) if least < np.inf else 1.0)
    return np.asarray((1.0 - floor) * weights / weights.sum() + floor * slot.eligible / slot.eligible.sum())


def _propensities(decision: Decision, below: Sequence[Floats], floor: float) -> Floats:
    slots = decision.slots
    return np.array([_share(slot, below[slot.pool], floor) if slot.chosen >= 0 else slot.propensity for slot in slots])


def _share(slot: DecidedSlot, below: Floats, floor: float) -> float:
    """Of the chosen one in the softmax over what the slot could hold, over the floor."""
    left = below[slot.eligible]
    least = left.min()
    if least == np.inf:
        return 1.0 / len(left)
    return float((1.0 - floor) * np.exp(least - below[slot.chosen]) / np.exp(least - left).sum() + floor / len(left))
