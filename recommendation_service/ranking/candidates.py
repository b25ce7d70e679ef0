"""Stage 2: for each kind of the feed, the best n items by its hand-set sum.

Where no term of a kind's sum depends on the user, its pool is the head of an ordering made at build
time. Otherwise what the user is to be expected to take next is scored first, where the kind's sum has that term, and
then the ordering is searched: exactly, with an early stop, up to a policy's number of
videos; beyond that, only the heads of the user's inverted lists and of the ordering are scored, so
that the cost follows the candidates and not the catalog (docs/decisions/0005).
"""

import numpy as np

from recommendation_service.model.columns import ATTRIBUTE_PLACES, SKILL_PLACES, CatalogArrays, Float64, Int32
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import Place, compiled, inlined, part
from recommendation_service.ranking.features import match_of, write_similarity
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.kept_pools import (
    CAPACITY,
    FIRST_ITEM,
    IS_WHOLE,
    KEPT_TIMES,
    copy_kept,
    keep,
    who_of,
)
from recommendation_service.ranking.places import find
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import SCROLLING_SECONDS, when_of
from recommendation_service.ranking.settled import HEADS
from recommendation_service.ranking.working_memory import (
    EXCLUDED,
    HAS_NETWORK,
    HAS_TOKENS,
    LARGEST_FEED,
    NEIGHBOURS,
    POOLED,
    SCANNED,
    SEEN,
    SEEN_CAPACITY,
    TOUCHED_ITEMS,
    TOUCHED_TOKENS,
    WorkingMemory,
    touch,
)

HIDDEN = EXCLUDED | SEEN
ZERO = np.int64(0)  # to begin with: a plain 0 is a type of its own to Numba, which compiles twice what takes it


@compiled
def candidate_pools(frame: Frame, request: RankingRequest) -> None:
    """Fill ``pool_items`` for the kinds that the endpoint's pattern names."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    place = int(ZERO)
    for kind in range(len(policy.pool)):
        memory.pool_offsets[kind] = place
        wanted = False
        for slot in range(policy.pattern_length[request.endpoint]):
            wanted = wanted or policy.pattern[request.endpoint, slot] == kind
        if wanted:
            place = _pool_of_kind(catalog, policy, request, memory, kind, place)
    memory.pool_offsets[len(policy.pool)] = place
    _flag_pooled(memory, place)


@inlined
def _pool_of_kind(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory, kind: int, place: int
) -> int:
    """Fill ``pool_items`` from ``place`` on; where the pool ends."""
    size, kept = policy.pool[kind], memory.kept
    is_kept = _may_be_kept(policy, request, memory, kind)
    who = who_of(kept, request.user_row, kind)
    if is_kept:
        end = _take_kept(request, memory, who, size, place)
        if end >= 0:
            return end
    bound = _user_bound(catalog, policy, memory, kind)
    neighbours = memory.counts[NEIGHBOURS] if policy.weight_collaborative[kind] > 0.0 else 0
    if bound == 0.0 and neighbours == 0:
        return _head_of_ordering(catalog, policy, request, memory, kind, place)
    limit = min(KEPT_TIMES * size, CAPACITY) if is_kept else size
    found = _search(catalog, policy, memory, kind, neighbours, bound, limit)
    items, pool = memory.heap_items, memory.pool_items
    if is_kept:
        _sort_best_first(memory.heap_scores, items, found)
        if len(request.excluded) == 0:  # what this request excludes the next one may have
            keep(kept, who, request.user_row, request.now, items, found, found < limit)
    end = place + min(size, found)
    for i in range(end - place):
        pool[place + i] = items[i]
    return end


@inlined
def _may_be_kept(policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory, kind: int) -> bool:
    """A pool that depends on a user of the catalog who scrolls, as two feeds from it pay for the larger search. None is
    kept of a user of whom entries have to give way to others."""
    depends = (
        policy.weight_similarity[kind] > 0.0
        or policy.weight_match[kind] > 0.0
        or policy.weight_network[kind] > 0.0
        or policy.weight_collaborative[kind] > 0.0
    )
    has_all = 0 < request.seen <= SEEN_CAPACITY - LARGEST_FEED
    is_on = len(memory.kept.slots) > 0 and policy.pool[kind] < CAPACITY
    if not (is_on and depends and has_all and request.user_row >= 0):
        return False
    return request.now - when_of(memory.seen_numbers[2 * request.seen - 1]) < SCROLLING_SECONDS


@inlined
def _take_kept(request: RankingRequest, memory: WorkingMemory, who: int, size: int, place: int) -> int:
    """Fill ``pool_items`` from the kept pool with what the user may still have; where that ends, or -1: too little is
    left, or nothing is kept."""
    kept, flags, pool = memory.kept, memory.flags, memory.pool_items
    count = copy_kept(kept, who, request.now)
    items, end, full = kept.copied_items, place, place + size
    for i in range(count):
        if end == full:
            break
        item = items[2 * FIRST_ITEM + i]
        # Without a branch: what is hidden is overwritten by the next.
        pool[end] = item
        end += int(flags[Place(item)] & HIDDEN == 0)
    return end if end == full or (count >= 0 and kept.copied[IS_WHOLE] != 0) else -1


@inlined
def _flag_pooled(memory: WorkingMemory, candidates: int) -> None:
    """As working_memory.flag does of one item, without a branch."""
    pool, flags, scored, touched = memory.pool_items, memory.flags, memory.scored, memory.touched_items
    count = Place(memory.counts[TOUCHED_ITEMS])
    for c in range(candidates):
        item = Place(pool[c])
        touched[count] = pool[c]
        count += Place(flags[item] == 0) & Place(scored[item] == 0)
        flags[item] |= POOLED
    memory.counts[TOUCHED_ITEMS] = np.int64(count)


@inlined
def _user_bound(catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, kind: int) -> float:
    """The most that the user's terms can add to a static sum of this kind, but for the collaborative one, which is of
    few items; 0 where they add the same to every item, and the static ordering is the answer."""
    bound = 0.0
    if policy.weight_network[kind] > 0.0 and memory.counts[HAS_NETWORK] > 0:
        bound += policy.weight_network[kind]
    if memory.counts[HAS_TOKENS] == 0:
        return bound
    if policy.weight_similarity[kind] > 0.0:
        bound += policy.weight_similarity[kind] * _largest_similarity(policy, memory)
    if policy.weight_match[kind] > 0.0:
        bound += policy.weight_match[kind] * _largest_match(catalog, policy, memory)
    return bound


@inlined
def _largest_similarity(policy: PolicyArrays, memory: WorkingMemory) -> float:
    """Feature 5 of the best imaginable video: one whose skills are the user's most frequent ones."""
    top = memory.top_counts
    top[:] = 0.0
    for i in range(memory.counts[TOUCHED_TOKENS]):
        count = memory.skill_count[memory.touched_tokens[i]]
        for place in range(SKILL_PLACES):
            if count > top[place]:
                top[place], count = count, top[place]
    largest, total = policy.similarity[3], 0.0
    for place in range(SKILL_PLACES):
        total += top[place]
        largest = max(largest, total * memory.similarity_scale[place + 1])
    return largest


@inlined
def _largest_match(catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> float:
    """Feature 6 of the best imaginable video: every place filled with something that the user has."""
    held = memory.held_kinds
    held[:] = 0
    for i in range(memory.counts[TOUCHED_TOKENS]):
        held[catalog.token_kind[memory.touched_tokens[i]]] += 1
    total = policy.match_weight[0] * min(held[0], SKILL_PLACES)
    for kind in range(1, 4):
        total += policy.match_weight[kind] * min(held[kind], ATTRIBUTE_PLACES)
    memory.largest_match[0] = memory.closeness_scale[0] * min(policy.match_cap, total)
    return memory.largest_match[0]


@inlined
def _head_of_ordering(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory, kind: int, place: int
) -> int:
    order, flags, pool = catalog.order_items, memory.flags, memory.pool_items
    full = place + policy.pool[kind]
    start = catalog.order_offsets[kind]
    if request.is_settled:
        start += max(np.int32(0), memory.settled.rows[2 * HEADS + kind])
    for i in range(start, catalog.order_offsets[kind + 1]):
        if place == full:
            break
        # Without a branch, which nobody could foretell: what is hidden is overwritten by the next.
        pool[place] = order[i]
        place += int(flags[Place(order[i])] & HIDDEN == 0)
    return place


@part
def _search(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    kind: int,
    neighbours: int,
    bound: float,
    limit: int,
) -> int:
    """The best ``limit`` by the whole hand-set sum, in a heap whose root is the worst of them; how many there are."""
    start, end = catalog.order_offsets[kind], catalog.order_offsets[kind + 1]
    size = int(ZERO)
    if memory.counts[HAS_TOKENS] == 0:  # then the similarity is the same for each item, and not 0
        bound += policy.weight_similarity[kind] * policy.similarity[2]
    prune = end - start > policy.exact_up_to_videos and policy.weight_similarity[kind] > 0.0
    if neighbours > 0:
        expected, first = memory.neighbours, int(ZERO)
        size = _offer(catalog, policy, memory, kind, expected, first, neighbours, True, False, bound, limit, size)
    if prune:
        size = _search_inverted_lists(catalog, policy, memory, kind, limit, size)
        end = min(end, start + policy.static_entries)
    once = prune or neighbours > 0
    return _offer(catalog, policy, memory, kind, catalog.order_items, start, end, once, True, bound, limit, size)


@part
def _search_inverted_lists(
    catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, kind: int, limit: int, size: int
) -> int:
    """Offer the heads of the inverted lists of the user's most frequent skills, and of their pairs."""
    strongest = memory.strongest
    strongest[:] = -1
    counts = memory.skill_count
    wanted = len(strongest)
    for i in range(memory.counts[TOUCHED_TOKENS]):
        token = np.int64(memory.touched_tokens[i])
        for rank in range(wanted):
            held = strongest[rank]
            if token >= 0 and counts[token] > 0.0 and (held < 0 or counts[token] > counts[held]):
                strongest[rank], token = token, held
    tokens = len(catalog.token_kind) - 1
    for rank in range(wanted):
        token = strongest[rank]
        if token < 0:
            break
        for other_rank in range(rank):
            other = strongest[other_rank]
            key = min(token, other) * tokens + max(token, other)
            pair = find(catalog.pair_key, key, 0, len(catalog.pair_key))
            if pair >= 0:
                first, last = catalog.pair_offsets[pair], catalog.pair_offsets[pair + 1]
                last = min(last, first + policy.entries_per_pair)
                pairs = catalog.pair_items
                size = _offer(catalog, policy, memory, kind, pairs, first, last, True, True, np.inf, limit, size)
        first, last = catalog.token_offsets[token], catalog.token_offsets[token + 1]
        last = min(last, first + policy.entries_per_skill)
        entries = catalog.token_items
        size = _offer(catalog, policy, memory, kind, entries, first, last, True, True, np.inf, limit, size)
    return size


@part
def _offer(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    kind: int,
    offered: Int32,
    start: int,
    end: int,
    once: bool,
    ordered: bool,
    bound: float,
    limit: int,
    size: int,
) -> int:
    """Score offered[start:end] and keep what is among the best so far.

    ``bound``: the most that the user's terms can add, but for the collaborative one; what does not reach the worst item
    kept with it is passed over. ``ordered``: best static sum first, so that nothing after such an item can either, and
    each item once; else there may be items of other types. ``once``: an item may stand in several lists, and only its
    first time counts.
    Gives the number of items kept.

    Block by block: which items can still be among the best is asked of all of a block, without a branch, as nobody
    could foretell the answers; then what is left of it is scored, and then kept or not. The arrays are taken out of
    their tuples first: inside a loop each use would count references.
    """
    hand, creator, tokens = catalog.hand, catalog.creator, catalog.tokens
    flags, scored, match_weight = memory.flags, memory.scored, memory.match_weight
    in_network, scores, items = memory.in_network, memory.heap_scores, memory.heap_items
    block_items, block_scores, block_close = memory.block_items, memory.block_scores, memory.block_close
    collaborative, weight_collaborative = memory.collaborative, policy.weight_collaborative[kind]
    weight_similarity, weight_match = policy.weight_similarity[kind], policy.weight_match[kind]
    weight_network = policy.weight_network[kind]
    cap = policy.match_cap * memory.closeness_scale[0]
    most_more = weight_match * memory.largest_match[0] + weight_network  # beside what is closest
    worded, group = catalog.worded, memory.kind_group[kind]
    bit = np.uint16(1 << kind) if once else np.uint16(0)
    first_row, last_row = memory.group_rows[group, 0], memory.group_rows[group, 1]
    has_tokens = memory.counts[HAS_TOKENS] > 0
    for begin in range(start, end, len(block_items)):
        block = offered[begin : min(begin + len(block_items), end)]
        worst = scores[0] if size == limit else -np.inf
        if ordered and float(hand[Place(block[0]), Place(kind)]) + bound <= worst:
            break
        shown = Place(0)
        for i in range(len(block)):
            block_items[shown] = block[i]
            shown += (
                Place(flags[Place(block[i])] & HIDDEN == 0)
                & Place(scored[Place(block[i])] & bit == 0)
                & Place(ordered or first_row <= block[i] < last_row)
            )
        write_similarity(catalog, memory, block_items[:shown], block_close)
        left = Place(0)
        for i in range(shown):
            item = Place(block_items[i])
            static = float(hand[item, Place(kind)]) + weight_collaborative * collaborative[item]
            score = static + weight_similarity * block_close[i]
            block_items[left], block_scores[left] = block_items[i], score
            left += Place(static + bound > worst) & Place(score + most_more > worst)
        memory.counts[SCANNED] += np.int64(left)
        if once:
            left = _mark_scored(memory, left, bit)
        for i in range(left):
            item = Place(block_items[i])
            if has_tokens and block_items[i] < worded:
                block_scores[i] += weight_match * match_of(item, tokens, match_weight, cap)
            block_scores[i] += weight_network * in_network[Place(creator[item])]
        for i in range(left):
            if size < limit:
                scores[size], items[size] = block_scores[i], block_items[i]
                size += 1
                _sift_up(scores, items, size - 1)
            elif block_scores[i] > scores[0]:
                scores[0], items[0] = block_scores[i], block_items[i]
                _sift_down(scores, items, size)
    return size


@inlined
def _mark_scored(memory: WorkingMemory, count: Place, bit: np.uint16) -> Place:
    """Note the block's items as scored, and leave out those that stand in it twice; how many are left."""
    items, block_scores, scored, left = memory.block_items, memory.block_scores, memory.scored, Place(0)
    for i in range(count):
        item = items[i]
        if scored[item] & bit == 0:
            touch(item, memory.flags, scored, memory.touched_items, memory.counts)
            scored[item] |= bit
            items[left], block_scores[left] = item, block_scores[i]
            left += Place(1)
    return left


@inlined
def _sift_up(scores: Float64, items: Int32, place: int) -> None:
    score, item = scores[place], items[place]
    while place > 0:
        parent = (place - 1) >> 1
        if scores[parent] <= score:
            break
        scores[place], items[place] = scores[parent], items[parent]
        place = parent
    scores[place], items[place] = score, item


@inlined
def _sift_down(scores: Float64, items: Int32, size: int) -> None:
    """Which of two children is the smaller is anybody's guess, so it is added and not branched on."""
    score, item = scores[0], items[0]
    place, child = 0, 1
    while child < size:
        if child + 1 < size:
            child += int(scores[child + 1] < scores[child])
        if score <= scores[child]:
            break
        scores[place], items[place] = scores[child], items[child]
        place = child
        child = 2 * place + 1
    scores[place], items[place] = score, item


@part
def _sort_best_first(scores: Float64, items: Int32, size: int) -> None:
    """A heap: its worst goes to the end, until all are in order; of equals the lower row first."""
    for end in range(size - 1, 0, -1):
        scores[0], scores[end] = scores[end], scores[0]
        items[0], items[end] = items[end], items[0]
        _sift_down(scores, items, end)
    for i in range(1, size):
        at, item = i, items[i]
        while at > 0 and scores[at - 1] == scores[i] and items[at - 1] > item:
            items[at] = items[at - 1]
            at -= 1
        items[at] = item
