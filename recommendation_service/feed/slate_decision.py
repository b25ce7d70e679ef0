"""What else each slot of a feed could have held: of a share of feeds, whose probability under any policy follows.

Which items a slot may hold depends on what was chosen before it, and on no score. So the limits are gone through once
more, with the feed as it came out, and of each slot is noted which candidates of its pool were left. The candidates
have their features, each item once, and their weights. ranking/decisions.py reads it; docs/events.md has the bits.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.feed.slate import NOVELTY, WINDOW, brings_new_skill
from recommendation_service.model.columns import CatalogArrays, Int32
from recommendation_service.model.features import FEATURES
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.decisions import FRACTION_BITS
from recommendation_service.ranking.packed_columns import (
    CLOSELY,
    EXACTLY,
    PackingMemory,
    Stream,
    Word,
    begin,
    finish,
    look_at_floats,
    make_packing_memory,
    put,
    put_floats,
    put_integers,
    put_long,
)
from recommendation_service.ranking.places import key_at
from recommendation_service.ranking.working_memory import (
    LARGEST_FEED,
    NEVER,
    SLOTS,
    TOUCHED_CREATORS,
    WorkingMemory,
)

# As far below its pool's best as a score can be; what is no number is.
FARTHEST = 2.0**30


class DecisionMemory(NamedTuple):
    """P candidates of all pools together, M items of the catalog."""

    place: Int32  # (M,) 1 more than an item's place among the different candidates; 0: it is none
    rows: Int32  # (P,) the different candidates: one of them in the pools, for its features
    candidate: Int32  # (P,) of the pool being written, by the item's place; -1: it is not in that pool
    packing: PackingMemory


def make_decision_memory(catalog: CatalogArrays, policy: PolicyArrays) -> DecisionMemory:
    candidates = int(policy.pool.sum())
    return DecisionMemory(
        place=np.zeros(len(catalog.item_id), np.int32),
        rows=np.zeros(candidates, np.int32),
        candidate=np.zeros(candidates, np.int32),
        packing=make_packing_memory(
            candidates, 1, 64 + candidates * (FEATURES + 6) + LARGEST_FEED * (8 + candidates // 32)
        ),
    )


@compiled
def pack_decision(catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, decision: DecisionMemory) -> int:
    """Of the feed that is in ``memory``, whose creators and skills come out as they were. The number of bytes that
    ``decision.packing.packed`` then has."""
    packing = decision.packing
    different = _find_different(memory, decision)
    stream = put(packing.packed, begin(), Word(different), Word(16))
    for i in range(different):
        item = memory.pool_items[decision.rows[i]]
        packing.integers[i] = Word(key_at(catalog, item))
    stream = put_integers(packing, stream, Word(different))
    stream = put(packing.packed, stream, Word(FEATURES), Word(8))
    for feature in range(FEATURES - 1):
        for i in range(different):
            packing.floats[i, 0] = np.float32(memory.X[feature, decision.rows[i]]).view(np.uint32)
        look_at_floats(packing, Word(different), Word(1))
        stream = put_floats(packing, stream, Word(different), Word(0), CLOSELY)
    stream = put(packing.packed, stream, Word(len(KINDS)), Word(8))
    for kind in range(len(KINDS)):
        stream = _put_pool(policy, memory, decision, stream, kind, different)
    stream = _put_slots(catalog, policy, memory, decision, stream, different)
    for i in range(different):
        decision.place[memory.pool_items[decision.rows[i]]] = 0
    return finish(packing.packed, stream)


@inlined
def _find_different(memory: WorkingMemory, decision: DecisionMemory) -> int:
    different = 0
    for c in range(memory.pool_offsets[len(KINDS)]):
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
    """Which of the candidates are in a kind's pool, their last feature, which is the kind's own, and their weights."""
    packing, candidate = decision.packing, decision.candidate
    start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
    stream = put(packing.packed, stream, Word(end - start), Word(16))
    if start == end:
        return stream
    for i in range(different):
        candidate[i] = -1
    best = -np.inf
    for c in range(start, end):
        candidate[decision.place[memory.pool_items[c]] - 1] = c
        best = max(best, memory.score[c])
    members = 0
    for i in range(different):
        c = candidate[i]
        stream = put(packing.packed, stream, Word(c >= 0), Word(1))
        if c >= 0:
            packing.floats[members, 0] = np.float32(memory.X[FEATURES - 1, c]).view(np.uint32)
            members += 1
    look_at_floats(packing, Word(members), Word(1))
    stream = put_floats(packing, stream, Word(members), Word(0), EXACTLY)
    members = 0
    for i in range(different):
        c = candidate[i]
        if c >= 0:
            below = 0.0 if best == -np.inf else (best - memory.score[c]) / policy.temperature[kind]
            packing.integers[members] = Word(min(below, FARTHEST) * 2.0**FRACTION_BITS + 0.5)
            members += 1
    return put_integers(packing, stream, Word(members))


@inlined
def _put_slots(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    decision: DecisionMemory,
    stream: Stream,
    different: int,
) -> Stream:
    """The limits once more, as ``slate.assemble`` goes through them: which candidates were left at each slot."""
    packed, place, creator_last = decision.packing.packed, decision.place, memory.creator_last
    feed_skill, slots = memory.feed_skill, memory.counts[SLOTS]
    for i in range(memory.counts[TOUCHED_CREATORS]):
        creator_last[memory.touched_creators[i]] = NEVER
    feed_skill[:] = 0
    feed_skill[len(feed_skill) - 2] = 1
    skills = 0
    stream = put(packed, stream, Word(slots), Word(8))
    for slot in range(slots):
        item, pool, broken = memory.slot_item[slot], memory.slot_pool[slot], memory.slot_relaxed[slot]
        stream = put(packed, stream, Word(memory.slot_kind[slot]), Word(8))
        stream = put(packed, stream, Word(pool), Word(8))
        stream = put(packed, stream, Word(broken), Word(4))
        stream = put_long(packed, stream, Word(memory.slot_key[slot]), Word(64))
        stream = put_long(packed, stream, Word(np.float64(memory.slot_propensity[slot]).view(np.uint64)), Word(64))
        if pool < len(KINDS):
            novelty = broken & NOVELTY == 0 and skills >= policy.novelty_after_skills
            blocked_after = slot - policy.creator_window if broken & WINDOW == 0 else slot
            start, end = memory.pool_offsets[pool], memory.pool_offsets[pool + 1]
            for i in range(different):
                decision.candidate[i] = -1
            for c in range(start, end):
                decision.candidate[place[memory.pool_items[c]] - 1] = c
            for i in range(different):
                c = decision.candidate[i]
                if c >= 0:
                    left = memory.pool_items[c]
                    last = creator_last[catalog.creator[left]]
                    may = last <= blocked_after and (last < 0 or not _is_used(memory, left, slot))
                    may = may and (not novelty or brings_new_skill(catalog, memory, left))
                    stream = put(packed, stream, Word(may), Word(1))
        creator_last[catalog.creator[item]] = slot
        for number in range(catalog.skill_count[item]):
            skill = catalog.tokens[item, number]
            if feed_skill[skill] == 0:
                feed_skill[skill] = 1
                skills += 1
    return stream


@inlined
def _is_used(memory: WorkingMemory, item: int, slots: int) -> bool:
    used = False
    for slot in range(slots):
        used = used or memory.slot_item[slot] == item
    return used
