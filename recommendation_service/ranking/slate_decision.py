"""What else each slot of a feed could have held: of a share of feeds, whose probability under any policy follows.

Of each slot ``slate.assemble`` notes which candidates of its pool were left. The candidates have their features, each
item once, and their weights. ranking/decisions.py reads it; docs/events.md has the bits.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import CatalogArrays, Int32
from recommendation_service.model.features import HAND_SET
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.decisions import FRACTION_BITS
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.packed_columns import (
    CLOSELY,
    PackingMemory,
    Stream,
    Word,
    begin,
    finish,
    make_packing_memory,
    put,
    put_bits,
    put_floats,
    put_integers,
)
from recommendation_service.ranking.packed_slots import GROWING_STEPS
from recommendation_service.ranking.places import key_at
from recommendation_service.ranking.working_memory import (
    LARGEST_FEED,
    SLOTS,
    WorkingMemory,
)

# As far below its pool's best as a score can be; what is no number is.
FARTHEST = 2.0**30


class DecisionMemory(NamedTuple):
    """P candidates of all pools together, M items of the catalog."""

    place: Int32  # (M,) 1 more than an item's place among the different candidates; 0: it is none
    rows: Int32  # (P,) the different candidates: one of them in the pools, for its features
    candidate: Int32  # (P,) of the pool being written, by the item's place; -1: it is not in that pool
    ordered: Int32  # (P,) the candidates of each pool by their items' places
    packing: PackingMemory


def make_decision_memory(catalog: CatalogArrays, policy: PolicyArrays) -> DecisionMemory:
    candidates, features = int(policy.pool.sum()), policy.theta.shape[1]
    return DecisionMemory(
        place=np.zeros(len(catalog.item_id), np.int32),
        rows=np.zeros(candidates, np.int32),
        candidate=np.zeros(candidates, np.int32),
        ordered=np.zeros(candidates, np.int32),
        packing=make_packing_memory(
            candidates, 64 + candidates * (features // 2 + 4) + LARGEST_FEED * (4 + candidates // 64)
        ),
    )


@compiled
def pack_decision(frame: Frame, decision: DecisionMemory) -> int:
    """Of the feed that is in the frame's memory. The number of bytes that ``decision.packing.packed`` then has."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    packing, floats, X, rows = decision.packing, decision.packing.floats, memory.X, decision.rows
    different = _find_different(memory, decision)
    stream = put(packing.packed, begin(), Word(different), Word(16))
    for i in range(different):
        packing.integers[i] = Word(key_at(catalog, memory.pool_items[rows[i]]))
    stream = put_integers(packing, stream, Word(different))
    stream = put(packing.packed, stream, Word(len(X) + GROWING_STEPS), Word(8))
    for feature in range(len(X)):
        if feature != HAND_SET:
            for i in range(different):
                floats[i] = np.float32(X[feature, rows[i]]).view(np.uint32)
            stream = put_floats(packing, stream, Word(different), CLOSELY)
    stream = put(packing.packed, stream, Word(len(policy.pool)), Word(8))
    for kind in range(len(policy.pool)):
        stream = _put_pool(policy, memory, decision, stream, kind, different)
    stream = _put_slots(memory, decision, stream, policy.floor)
    for i in range(different):
        decision.place[memory.pool_items[rows[i]]] = 0
    return finish(packing.packed, stream)


@inlined
def _find_different(memory: WorkingMemory, decision: DecisionMemory) -> int:
    different = 0
    for c in range(memory.pool_offsets[len(memory.pool_offsets) - 1]):
        item = memory.pool_items[c]
        if decision.place[item] == 0:
            decision.rows[different] = c
            different += 1
            decision.place[item] = different
    return different


@inlined
def _put_pool(
    policy: PolicyArrays,
    memory: WorkingMemory,
    decision: DecisionMemory,
    stream: Stream,
    kind: int,
    different: int,
) -> Stream:
    """Which of the candidates are in a kind's pool, their hand-set sum, which is the kind's own, and their weights."""
    packing, candidate, ordered = decision.packing, decision.candidate, decision.ordered
    floats, scores = packing.floats, memory.scoring.score
    start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
    stream = put(packing.packed, stream, Word(end - start), Word(16))
    if start == end:
        return stream
    candidate[:different] = -1
    best = -np.inf
    for c in range(start, end):
        candidate[decision.place[memory.pool_items[c]] - 1] = c
        best = max(best, scores[c])
    members = start
    for i in range(different):
        packing.bits[i] = candidate[i] >= 0
        if candidate[i] >= 0:
            ordered[members] = candidate[i]
            members += 1
    stream = put_bits(packing, stream, Word(different))
    for i in range(end - start):
        floats[i] = np.float32(memory.X[HAND_SET, ordered[start + i]]).view(np.uint32)
    stream = put_floats(packing, stream, Word(end - start), CLOSELY)
    for i in range(end - start):
        below = 0.0 if best == -np.inf else (best - scores[ordered[start + i]]) / policy.temperature[kind]
        packing.integers[i] = Word(min(below, FARTHEST) * 2.0**FRACTION_BITS + 0.5)
    return put_integers(packing, stream, Word(end - start))


@inlined
def _put_slots(memory: WorkingMemory, decision: DecisionMemory, stream: Stream, floor: float) -> Stream:
    """``floor``: of the draws; where there is one, it is at the end."""
    packing, packed, ordered = decision.packing, decision.packing.packed, decision.ordered
    slots = memory.counts[SLOTS]
    stream = put(packed, stream, Word(slots), Word(8))
    for slot in range(slots):
        pool, eligible = memory.slot_pool[slot], memory.eligible[slot]
        stream = put(packed, stream, Word(memory.slot_kind[slot]), Word(8))
        stream = put(packed, stream, Word(pool), Word(8))
        stream = put(packed, stream, Word(memory.slot_relaxed[slot]), Word(4))
        stream = put(packed, stream, Word(memory.slot_key[slot]), Word(64))
        stream = put(packed, stream, Word(np.float64(memory.slot_propensity[slot]).view(np.uint64)), Word(64))
        if pool < len(memory.pool_offsets) - 1:
            start, members = memory.pool_offsets[pool], memory.pool_offsets[pool + 1] - memory.pool_offsets[pool]
            for i in range(members):
                packing.bits[i] = eligible[ordered[start + i]]
            stream = put_bits(packing, stream, Word(members))
    return stream if floor == 0.0 else put(packed, stream, Word(np.float64(floor).view(np.uint64)), Word(64))
