"""A worker's scratch space for one feed: made once for a catalog version, used by every request.

Clearing arrays as large as the catalog would make a feed's cost follow the catalog. So every stage
notes what it touched, and the next request begins by clearing just that; the notes are part of the
memory, so a request that was broken off half-way leaves nothing behind for the next.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import SKILL_PLACES, Bytes, CatalogArrays, Int64
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import Place, inlined
from recommendation_service.ranking.kept_pools import KEPT_TIMES, NO_SLOTS, KeptPools, make_kept_pools
from recommendation_service.ranking.packed_columns import PackingMemory
from recommendation_service.ranking.packed_slots import make_slot_packing
from recommendation_service.ranking.randomness import State
from recommendation_service.ranking.settled import SettledEntries, make_settled

LARGEST_FEED = 100
SEEN_CAPACITY = 4096  # entries that are remembered of a user, see seen.py
LIVE_SESSIONS = 8  # of one user at once; what an older one was served is kept for the ordinary time
OWN_HISTORY = 1024  # of a user who is not in the catalog: interactions, ...
OWN_NETWORK = 4096  # ... connections, ...
OWN_TOKENS = 64  # ... tokens of the profile
OFFERED = 64  # items that retrieval scores side by side
NEVER = -1_000_000
NOTHING = -1  # in place of an item

# What is known of an item during a feed (bits of ``flags``).
EXCLUDED = np.uint8(1)  # the caller excluded it
SEEN = np.uint8(2)  # the user interacted with it
USED = np.uint8(4)  # it is in the feed
POOLED = np.uint8(8)  # it is in a pool
EXPLORED = np.uint8(16)  # it is in the exploration sample
DISLIKED = np.uint8(32)  # the user hid it
KEPT = np.uint8(64)  # of ``seen_judged`` alone: the entry is still remembered

# Places of ``counts``.
TOUCHED_ITEMS = 0
TOUCHED_TOKENS = 1
TOUCHED_CITIES = 2
TOUCHED_CREATORS = 3
TOUCHED_NETWORK = 4
FEED_SKILLS = 5  # skills in the feed so far
HAS_TOKENS = 6  # 1 where the user has history or profile
HAS_NETWORK = 7
SLOTS = 8  # items in the feed
SCANNED = 9  # items that retrieval scored, for metrics
RELAXED = 10  # bits of all rules that gave way
SEEN_ITEMS = 11  # places of ``seen_items`` that hold, 0 before anything seen had to come back
REMEMBERED = 12  # entries of ``remembered``
PACKED = 13  # bytes of ``packing.packed``: the slots as a record has them
NEIGHBOURS = 14  # places of ``neighbours`` that hold
SEEN_CREATORS = 15  # entries of what is remembered that are creators', ...
SEEN_ACTED = 16  # ... and that are of what the user acted on
COUNTS = 17


class Scoring(NamedTuple):
    """Scores of P candidates under one policy, and what they are made of."""

    mean: npt.NDArray[np.float64]  # (P,) θᵀx
    width: npt.NDArray[np.float64]  # (P,) √(xᵀA⁻¹x)
    projected: npt.NDArray[np.float64]  # (4, P) four entries of R⁻¹x of each candidate
    score: npt.NDArray[np.float64]  # (P,) what is not a number is -∞
    weight: npt.NDArray[np.float64]  # (P,) softmax numerators


def make_scoring(candidates: int) -> Scoring:
    sizes = Scoring(candidates, candidates, (4, candidates), candidates, candidates)  # type: ignore[arg-type]
    return Scoring(*(np.zeros(size) for size in sizes))


class WorkingMemory(NamedTuple):
    """S = 100 slots, P = candidates of all pools together, E = exploration sample."""

    counts: npt.NDArray[np.int64]  # (COUNTS,)
    random: State  # (1,)
    flags: npt.NDArray[np.uint8]  # (M,)
    scored: npt.NDArray[np.uint16]  # (M,) bits of the kinds whose retrieval has looked at the item
    touched_items: npt.NDArray[np.int32]  # (M + 1,) the last is for what is written before it is known to count
    allowed: npt.NDArray[np.int32]  # (n,) the items that a feed may hold, ascending, where they are few; (0,): all
    # The user.
    skill_count: npt.NDArray[np.float64]  # (T + 1,) u's skill counts
    match_weight: npt.NDArray[np.float64]  # (T + 1,) feature 6's weight of each token that u has
    has_token: Bytes  # (T + 1,) 1 for each token of the user
    touched_tokens: npt.NDArray[np.int32]  # (T + 1,)
    closeness_scale: npt.NDArray[np.float64]  # (1,) what features 5 and 6 are times: 1, or of a profile its weight
    similarity_scale: npt.NDArray[np.float64]  # (6,) turns Σ counts of a video's n skills into feature 5, ...
    similarity_least: npt.NDArray[np.float64]  # (6,) ... to which this is added
    user_city: npt.NDArray[np.uint8]  # (cities,)
    touched_cities: npt.NDArray[np.int32]
    in_network: npt.NDArray[np.uint8]  # (creators,)
    touched_network: npt.NDArray[np.int32]
    reach: npt.NDArray[np.float64]  # (1,) feature 13
    top_counts: npt.NDArray[np.float64]  # (5,) the user's most frequent skills' counts
    held_kinds: npt.NDArray[np.int64]  # (4,) how many skills, knowledges, tools, languages the user has
    largest_match: npt.NDArray[np.float64]  # (1,) the most that feature 6 can be for the user
    strongest: npt.NDArray[np.int64]  # (policy's pruning.skills,) the user's most frequent skills
    latest: npt.NDArray[np.int32]  # (L,) items that the user took, the latest first
    collaborative: npt.NDArray[np.float64]  # (M,) how much an item is to be expected after those
    neighbours: npt.NDArray[np.int32]  # (M,) the items of which that is more than 0
    # What is remembered of the user, as it came, and as it is after the feed.
    seen_entries: npt.NDArray[np.int64]  # (SEEN_CAPACITY, 2)
    seen_numbers: npt.NDArray[np.int64]  # (2 SEEN_CAPACITY,) the same memory, so that loops see how far its numbers lie
    seen_rows: npt.NDArray[np.int32]  # (SEEN_CAPACITY,) the entries' items
    seen_judged: Bytes  # (SEEN_CAPACITY,) bits of ``flags`` that the entries give their items, and KEPT
    settled: SettledEntries  # where a feed takes them by a summary
    remembered: npt.NDArray[np.int64]  # (SEEN_CAPACITY + S, 2)
    remembered_numbers: npt.NDArray[np.int64]  # (2 (SEEN_CAPACITY + S),) likewise
    lifetimes: npt.NDArray[np.int64]  # (4,) seconds, see seen.Lifetimes
    live_sessions: npt.NDArray[np.int64]
    live_count: npt.NDArray[np.int64]  # (1,)
    seen_when: npt.NDArray[np.int32]  # (M,) when the user saw an item that is flagged SEEN, seconds since 1970
    seen_items: npt.NDArray[np.int32]  # (M,) those items, longest ago first
    # A user who is not in the catalog.
    own_history: npt.NDArray[np.int64]  # (OWN_HISTORY, 2) item key, seconds since 1970; latest first
    own_network: npt.NDArray[np.int64]  # (OWN_NETWORK,) numbers of connected users
    own_tokens: npt.NDArray[np.int32]  # (OWN_TOKENS,)
    # The pools.
    kept: KeptPools
    pool_offsets: npt.NDArray[np.int64]  # (K + 1,)
    pool_items: npt.NDArray[np.int32]  # (P,)
    pool_kinds: Bytes  # (P,)
    heap_scores: npt.NDArray[np.float64]  # (KEPT_TIMES largest pool,)
    heap_items: npt.NDArray[np.int32]
    block_items: npt.NDArray[np.int32]  # (OFFERED,) what may be among the best of a block that is offered
    block_scores: npt.NDArray[np.float64]  # (OFFERED,)
    block_close: npt.NDArray[np.float64]  # (OFFERED,) feature 5 of all of the block
    X: npt.NDArray[np.float64]  # (d, P) features of the candidates: what goes through all of them adds up side by side
    scoring: Scoring
    # The slate.
    pinned: npt.NDArray[np.int32]  # (S,) of each slot the item that editors put there, or NOTHING; kernels only read it
    held: npt.NDArray[np.int32]  # (S,) that of it which this feed may show
    candidate_creator: npt.NDArray[np.int32]  # (P,)
    creators_slot: npt.NDArray[np.int32]  # (P,) last slot of the candidate's creator
    skill_marks: npt.NDArray[np.uint64]  # (2, P) a bit for each of the candidate's skills
    feed_marks: npt.NDArray[np.uint64]  # (2,) those of the feed
    may_be_old: Bytes  # (P,) by those
    is_old: Bytes  # (P,) the candidate brings no new skill to the feed
    eligible: Bytes  # (S, P) whether the slot could hold the candidate; of the pool that it was drawn from
    masked_weight: npt.NDArray[np.float64]  # (P,) the candidate's weight, or 0 where the slot may not hold it
    running: npt.NDArray[np.float64]  # (P,) running sums of those, by blocks
    explore_eligible: npt.NDArray[np.int32]  # (E,)
    kind_group: npt.NDArray[np.int64]  # (K,) each kind's group of items: of one type, or of all
    group_rows: npt.NDArray[np.int64]  # (G, 2) the catalog's rows of a group, the first and the one after the last
    explore: npt.NDArray[np.int32]  # (G, E) samples of each group
    explore_count: npt.NDArray[np.int64]  # (G,) -1: not yet drawn
    spent: npt.NDArray[np.uint8]  # (G, 2) nothing left to explore; nothing with a new skill
    feed_skill: npt.NDArray[np.uint8]  # (T + 2,)
    creator_last: npt.NDArray[np.int32]  # (creators,) last slot of the creator
    touched_creators: npt.NDArray[np.int32]  # (S,)
    # The feed.
    slot_item: npt.NDArray[np.int32]  # (S,)
    slot_number: npt.NDArray[np.int64]  # (S,) the operator's number of the item
    slot_key: npt.NDArray[np.int64]  # (S,) the items' keys
    slot_kind: Bytes  # (S,) the kind that the pattern asks for
    slot_pool: Bytes  # (S,) the kind whose pool it came from, or EXPLORATION, SEEN_POOL, PINNED
    slot_candidate: npt.NDArray[np.int32]  # (S,) the place of what was drawn from a pool
    slot_eligible: npt.NDArray[np.int32]  # (S,) among how many of the pool's candidates it was drawn
    slot_relaxed: Bytes  # (S,) bits of the rules that gave way
    slot_propensity: npt.NDArray[np.float64]  # (S,)
    slot_X: npt.NDArray[np.float64]  # (d, S)
    packing: PackingMemory


def make_working_memory(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    kind_rows: Sequence[tuple[int, int]],
    kept_slots: Int64 = NO_SLOTS,
) -> WorkingMemory:
    """``kind_rows``: of each kind the catalog's rows that its items are among, the first and the one after the last.
    ``kept_slots``: where pools are kept."""
    groups = {rows: place for place, rows in enumerate(dict.fromkeys(kind_rows))}
    items, tokens = len(catalog.item_id), len(catalog.token_kind)
    largest, candidates = int(policy.pool.max()), int(policy.pool.sum())
    features = policy.theta.shape[1]
    creators, cities = max(1, catalog.creators), max(1, catalog.cities)
    seen_numbers = np.zeros(2 * SEEN_CAPACITY, np.int64)
    remembered_numbers = np.zeros(2 * (SEEN_CAPACITY + LARGEST_FEED), np.int64)
    return WorkingMemory(
        counts=np.zeros(COUNTS, np.int64),
        random=np.zeros(1, np.uint64),
        flags=np.zeros(items, np.uint8),
        scored=np.zeros(items, np.uint16),
        touched_items=np.zeros(items + 1, np.int32),
        allowed=np.zeros(0, np.int32),
        skill_count=np.zeros(tokens),
        match_weight=np.zeros(tokens),
        has_token=np.zeros(tokens, np.uint8),
        touched_tokens=np.zeros(tokens, np.int32),
        closeness_scale=np.ones(1),
        similarity_scale=np.zeros(SKILL_PLACES + 1),
        similarity_least=np.zeros(SKILL_PLACES + 1),
        user_city=np.zeros(cities, np.uint8),
        touched_cities=np.zeros(cities, np.int32),
        in_network=np.zeros(creators, np.uint8),
        touched_network=np.zeros(creators, np.int32),
        reach=np.zeros(1),
        top_counts=np.zeros(SKILL_PLACES),
        held_kinds=np.zeros(4, np.int64),
        largest_match=np.zeros(1),
        strongest=np.zeros(policy.prune_skills, np.int64),
        latest=np.zeros(len(policy.latest_weight), np.int32),
        collaborative=np.zeros(items),
        neighbours=np.zeros(items, np.int32),
        seen_entries=seen_numbers.reshape(-1, 2),
        seen_numbers=seen_numbers,
        seen_rows=np.zeros(SEEN_CAPACITY, np.int32),
        seen_judged=np.zeros(SEEN_CAPACITY, np.uint8),
        settled=make_settled(SEEN_CAPACITY),
        remembered=remembered_numbers.reshape(-1, 2),
        remembered_numbers=remembered_numbers,
        lifetimes=np.zeros(4, np.int64),
        live_sessions=np.zeros(LIVE_SESSIONS, np.int64),
        live_count=np.zeros(1, np.int64),
        seen_when=np.zeros(items, np.int32),
        seen_items=np.zeros(items, np.int32),
        own_history=np.zeros((OWN_HISTORY, 2), np.int64),
        own_network=np.zeros(OWN_NETWORK, np.int64),
        own_tokens=np.zeros(OWN_TOKENS, np.int32),
        kept=make_kept_pools(kept_slots),
        pool_offsets=np.zeros(len(policy.pool) + 1, np.int64),
        pool_items=np.zeros(candidates, np.int32),
        pool_kinds=np.zeros(candidates, np.uint8),
        heap_scores=np.zeros(KEPT_TIMES * largest),
        heap_items=np.zeros(KEPT_TIMES * largest, np.int32),
        block_items=np.zeros(OFFERED, np.int32),
        block_scores=np.zeros(OFFERED),
        block_close=np.zeros(OFFERED),
        X=np.zeros((features, candidates)),
        scoring=make_scoring(candidates),
        pinned=np.full(LARGEST_FEED, NOTHING, np.int32),
        held=np.full(LARGEST_FEED, NOTHING, np.int32),
        candidate_creator=np.zeros(candidates, np.int32),
        creators_slot=np.zeros(candidates, np.int32),
        skill_marks=np.zeros((2, candidates), np.uint64),
        feed_marks=np.zeros(2, np.uint64),
        may_be_old=np.zeros(candidates, np.uint8),
        is_old=np.zeros(candidates, np.uint8),
        eligible=np.zeros((LARGEST_FEED, candidates), np.uint8),
        masked_weight=np.zeros(candidates),
        running=np.zeros(candidates),
        explore_eligible=np.zeros(policy.exploration_size, np.int32),
        kind_group=np.array([groups[rows] for rows in kind_rows], np.int64),
        group_rows=np.array(list(groups), np.int64),
        explore=np.zeros((len(groups), policy.exploration_size), np.int32),
        explore_count=np.full(len(groups), -1, np.int64),
        spent=np.zeros((len(groups), 2), np.uint8),
        feed_skill=np.zeros(tokens + 1, np.uint8),
        creator_last=np.full(creators, NEVER, np.int32),
        touched_creators=np.zeros(LARGEST_FEED, np.int32),
        slot_item=np.zeros(LARGEST_FEED, np.int32),
        slot_number=np.zeros(LARGEST_FEED, np.int64),
        slot_key=np.zeros(LARGEST_FEED, np.int64),
        slot_kind=np.zeros(LARGEST_FEED, np.uint8),
        slot_pool=np.zeros(LARGEST_FEED, np.uint8),
        slot_candidate=np.zeros(LARGEST_FEED, np.int32),
        slot_eligible=np.zeros(LARGEST_FEED, np.int32),
        slot_relaxed=np.zeros(LARGEST_FEED, np.uint8),
        slot_propensity=np.zeros(LARGEST_FEED),
        slot_X=np.zeros((features, LARGEST_FEED)),
        packing=make_slot_packing(LARGEST_FEED, features),
    )


@inlined
def clear(memory: WorkingMemory) -> None:
    """Undo what the previous request noted."""
    counts, flags, scored, touched = memory.counts, memory.flags, memory.scored, memory.touched_items
    for i in range(counts[TOUCHED_ITEMS]):
        flags[Place(touched[i])] = 0
    if counts[SCANNED] > 0:
        for i in range(counts[TOUCHED_ITEMS]):
            scored[Place(touched[i])] = 0
    skill_count, match_weight, touched_tokens = memory.skill_count, memory.match_weight, memory.touched_tokens
    has_token = memory.has_token
    for i in range(counts[TOUCHED_TOKENS]):
        has_token[touched_tokens[i]] = 0
        skill_count[touched_tokens[i]] = 0.0
        match_weight[touched_tokens[i]] = 0.0
    user_city, touched_cities = memory.user_city, memory.touched_cities
    for i in range(counts[TOUCHED_CITIES]):
        user_city[touched_cities[i]] = 0
    in_network, touched_network = memory.in_network, memory.touched_network
    for i in range(counts[TOUCHED_NETWORK]):
        in_network[touched_network[i]] = 0
    collaborative, neighbours = memory.collaborative, memory.neighbours
    for i in range(counts[NEIGHBOURS]):
        collaborative[neighbours[i]] = 0.0
    creator_last, touched_creators = memory.creator_last, memory.touched_creators
    for i in range(counts[TOUCHED_CREATORS]):
        creator_last[touched_creators[i]] = NEVER
    memory.feed_skill[:] = 0
    counts[:] = 0
    memory.explore_count[:] = -1
    memory.spent[:] = 0
    memory.pool_offsets[:] = 0
    memory.largest_match[0] = 0.0
    memory.closeness_scale[0] = 1.0


@inlined
def touch(
    item: int,
    flags: Bytes,
    scored: npt.NDArray[np.uint16],
    touched: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Note an item, once, before anything is written about it."""
    if flags[item] == 0 and scored[item] == 0:
        touched[counts[TOUCHED_ITEMS]] = item
        counts[TOUCHED_ITEMS] += 1


@inlined
def flag(memory: WorkingMemory, item: int, bit: np.uint8) -> None:
    """Set a bit of an item."""
    touch(item, memory.flags, memory.scored, memory.touched_items, memory.counts)
    memory.flags[item] |= bit
