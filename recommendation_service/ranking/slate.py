"""Stage 5: draw the feed, slot by slot, under its limits (docs/architecture.md), with exact propensities.

A slot's item is drawn from the softmax over the eligible items of its kind's pool, and in a share of the
draws, the policy's floor, evenly from them; where the pool has none, evenly from an exploration sample of
the rest. Each draw's probability given what was chosen
before is its propensity (Plackett–Luce over a set that the rules shrink; drawn anew for each slot,
because reused Gumbel noise is no longer exact once a rule lets an item back in).

When nothing fits, rules give way. The order skill_novelty, creator_window, slot_kind, seen makes
a number of each set of broken rules, with the later rule the heavier bit; sets are tried in that
order, so a feed never breaks a heavier rule where breaking lighter ones would do.

What editors pinned is placed before anything is drawn, so that the limits count it for the slots before it, too.
"""

import numpy as np

from recommendation_service.model.columns import SKILL_PLACES, Bytes, CatalogArrays, Float64, Int32
from recommendation_service.model.kinds import PINNED
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import Place, compiled, inlined
from recommendation_service.ranking.features import write_features
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.linucb import VANISHING, best_of_eligible, over_floor, weight_against
from recommendation_service.ranking.packed_slots import pack_slots
from recommendation_service.ranking.places import key_at
from recommendation_service.ranking.randomness import below, uniform
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import SEEN_POOL, remember_feed
from recommendation_service.ranking.working_memory import (
    EXCLUDED,
    EXPLORED,
    FEED_SKILLS,
    LARGEST_FEED,
    NEVER,
    NOTHING,
    PACKED,
    POOLED,
    RELAXED,
    SEEN,
    SEEN_ITEMS,
    SLOTS,
    TOUCHED_CREATORS,
    TOUCHED_ITEMS,
    USED,
    WorkingMemory,
    flag,
)

RULES = ("skill_novelty", "creator_window", "slot_kind", "seen")
NOVELTY, WINDOW, KIND, SEEN_RULE = 1, 2, 4, 8

EXPLORATION = 100  # value of slot_pool beyond the kinds, as SEEN_POOL is

SPENT_REST, SPENT_NOVELTY = 0, 1  # columns of ``spent``
BLOCK = 8  # weights are added up by so many
USED_UP = np.int32(1 << 30)  # a slot after all: of a candidate that is in the feed
ALL_MARKS = np.uint64(0xFFFFFFFFFFFFFFFF)
SAMPLING_TRIES = 4  # rejection sampling gives up after so many tries a wanted item


@compiled
def assemble(frame: Frame, request: RankingRequest) -> None:
    """Fill the slots; fewer than asked for only where no item is left that was not excluded."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    candidates, items, tokens = memory.pool_offsets[len(policy.pool)], memory.pool_items, catalog.tokens
    candidate_creator, creator = memory.candidate_creator, catalog.creator
    # The absent token counts as being in the feed: an item without skills brings nothing new.
    absent = len(catalog.token_kind) - 1
    memory.feed_skill[absent] = 1
    memory.feed_marks[0], memory.feed_marks[1] = _mark(absent)
    lower, upper, worded = memory.skill_marks[0], memory.skill_marks[1], catalog.worded
    for c in range(candidates):
        candidate_creator[c] = creator[Place(items[c])]
    lower[:candidates] = ALL_MARKS
    upper[:candidates] = ALL_MARKS
    for c in range(candidates if worded > 0 else 0):
        has_skills = items[c] < worded
        row, of_lower, of_upper = Place(items[c]) if has_skills else Place(0), Place(0), Place(0)
        for place in range(SKILL_PLACES):
            one_of_lower, one_of_upper = _mark(tokens[row, place])
            of_lower |= one_of_lower
            of_upper |= one_of_upper
        lower[c] = of_lower if has_skills else ALL_MARKS
        upper[c] = of_upper if has_skills else ALL_MARKS
    memory.creators_slot[:candidates] = NEVER
    memory.is_old[:candidates] = 0
    length = policy.pattern_length[request.endpoint]
    held = memory.held
    for slot in range(request.size):
        held[slot] = NOTHING
        pinned = memory.pinned[slot]
        if pinned != NOTHING and memory.flags[pinned] & (EXCLUDED | SEEN | USED) == 0:
            held[slot] = pinned
            _count(catalog, memory, slot, pinned, candidates)
    for slot in range(request.size):
        kind = policy.pattern[request.endpoint, slot % length]
        item = held[slot]
        if item == NOTHING:
            for broken in range(16):
                item = _fill(catalog, policy, request, memory, slot, kind, broken)
                if item != NOTHING:
                    memory.slot_relaxed[slot] = broken
                    _count(catalog, memory, slot, item, candidates)
                    break
        if item == NOTHING:  # a feed that is short ends with what was pinned further down
            for later in range(slot + 1, request.size):
                if held[later] != NOTHING:
                    item, held[slot], held[later] = held[later], held[later], NOTHING
                    break
        if item == NOTHING:
            break
        if item == held[slot]:
            memory.slot_relaxed[slot] = 0
            memory.slot_propensity[slot] = 1.0
            memory.slot_pool[slot] = PINNED
        memory.slot_item[slot] = item
        memory.slot_kind[slot] = kind
        memory.counts[SLOTS] = slot + 1


@compiled
def describe(frame: Frame, request: RankingRequest) -> None:
    """Stage 6: features of what was chosen, for explanations and for learning, packed for the record of the feed; and
    what to remember."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    slots, kinds, X = memory.counts[SLOTS], memory.slot_kind, memory.slot_X
    write_features(catalog, policy, memory, memory.slot_item, kinds, 0, slots, X)
    for slot in range(slots):
        item = memory.slot_item[slot]
        memory.slot_number[slot] = catalog.item_id[item]
        memory.slot_key[slot] = key_at(catalog, item)
        memory.counts[RELAXED] |= memory.slot_relaxed[slot]
    memory.counts[PACKED] = pack_slots(
        memory.slot_key,
        kinds,
        memory.slot_pool,
        memory.slot_relaxed,
        memory.slot_propensity,
        X,
        slots,
        memory.packing,
    )
    remember_feed(request, memory)


@inlined
def _count(catalog: CatalogArrays, memory: WorkingMemory, slot: int, item: int, candidates: int) -> None:
    """An item is in the feed, at a slot: so its limits have it."""
    flag(memory, item, USED)
    creator = catalog.creator[item]
    if memory.creator_last[creator] < 0:
        memory.touched_creators[memory.counts[TOUCHED_CREATORS]] = creator
        memory.counts[TOUCHED_CREATORS] += 1
    memory.creator_last[creator] = max(memory.creator_last[creator], slot)  # what is pinned may stand further down
    # All candidates are gone through here, several at once, so that a draw need not ask for each one's creator.
    creators_slot, creators, items = memory.creators_slot, memory.candidate_creator, memory.pool_items
    this_slot, this_creator, this_item = np.int32(slot), np.int32(creator), np.int32(item)
    for c in range(candidates):
        last = max(creators_slot[c], this_slot) if creators[c] == this_creator else creators_slot[c]
        creators_slot[c] = USED_UP if items[c] == this_item else last
    for place in range(catalog.skill_count[item]):
        skill = catalog.tokens[item, place]
        if memory.feed_skill[skill] == 0:
            memory.feed_skill[skill] = 1
            memory.counts[FEED_SKILLS] += 1
            lower, upper = _mark(skill)
            memory.feed_marks[0] |= lower
            memory.feed_marks[1] |= upper


@inlined
def _mark(skill: int) -> tuple[np.uint64, np.uint64]:
    """One of 128 bits, which other skills may have too."""
    bit = np.uint64(1) << np.uint64(skill & 63)
    is_upper = np.uint64(skill >> 6 & 1)
    return bit * (np.uint64(1) - is_upper), bit * is_upper


@inlined
def _fill(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    request: RankingRequest,
    memory: WorkingMemory,
    slot: int,
    kind: int,
    broken: int,
) -> int:
    """An item for the slot with exactly the rules in ``broken`` out of force, or NOTHING."""
    own = memory.kind_group[kind]
    if broken & NOVELTY and memory.counts[FEED_SKILLS] < policy.novelty_after_skills:
        return NOTHING  # the rule is not yet in force, so breaking it opens nothing
    if broken & SEEN_RULE:
        return _longest_ago(catalog, policy, request, memory, slot, own, broken)
    # Its own pool and items, or all others; each of the two is called at one place, as that is its machine code again.
    others = broken & KIND != 0
    for pool in range(len(policy.pool)):
        if (pool != kind) == others:
            item = _draw_from_pool(catalog, policy, memory, slot, pool, broken)
            if item != NOTHING:
                return item
    for group in range(len(memory.group_rows)):
        if (group != own) == others and (not others or _endpoint_has_group(policy, request, memory, group)):
            item = _explore(catalog, policy, memory, slot, group, broken)
            if item != NOTHING:
                return item
    return NOTHING


@inlined
def _endpoint_has_group(policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory, group: int) -> bool:
    for slot in range(policy.pattern_length[request.endpoint]):
        if memory.kind_group[policy.pattern[request.endpoint, slot]] == group:
            return True
    return False


@inlined
def _endpoint_has_item(policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory, item: int) -> bool:
    for group in range(len(memory.group_rows)):
        start, end = memory.group_rows[group, 0], memory.group_rows[group, 1]
        if start <= item < end and _endpoint_has_group(policy, request, memory, group):
            return True
    return False


@inlined
def _new_skill(item: int, tokens: Int32, skill_count: Bytes, feed_skill: Bytes) -> int:
    """A skill of an item that is not yet in the feed, or the absent one."""
    for place in range(skill_count[item]):
        if feed_skill[tokens[item, place]] == 0:
            return tokens[item, place]
    return len(feed_skill) - 2


@inlined
def _draw_from_pool(
    catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, slot: int, pool: int, broken: int
) -> int:
    """Draw among the pool's eligible items, by the softmax or evenly: their weights are added up by blocks, and the
    item is looked for in the running sums of those."""
    start, end = memory.pool_offsets[pool], memory.pool_offsets[pool + 1]
    novelty = broken & NOVELTY == 0 and memory.counts[FEED_SKILLS] >= policy.novelty_after_skills
    blocked_after = slot - policy.creator_window if broken & WINDOW == 0 else LARGEST_FEED
    items, weights, running = memory.pool_items, memory.scoring.weight, memory.running
    eligible, masked = memory.eligible[slot], memory.masked_weight
    if novelty:
        _look_for_skills(catalog, memory, start, end)
    found = _mask(memory, slot, start, end, np.int32(blocked_after), np.uint8(not novelty))
    if found == 0:
        return NOTHING
    scores, temperature, best = memory.scoring.score, policy.temperature[pool], 0.0
    total = _add_up(masked, running, start, end)
    vanish = not total > VANISHING
    if vanish:
        best = best_of_eligible(scores, eligible, start, end)
        for c in range(start, end):
            masked[c] = weight_against(scores[c], best, temperature) if eligible[c] else 0.0
        total = _add_up(masked, running, start, end)
    floor, point = policy.floor, uniform(memory.random)
    if point < floor:
        low = _nth_eligible(eligible, start, min(int(point / floor * found), found - 1))
    else:
        target = (point - floor) / (1.0 - floor) * total
        block, sum_before = 0, 0.0
        while start + (block + 1) * BLOCK < end and not running[block] > target:
            sum_before = running[block]
            block += 1
        low = start + block * BLOCK
        last = min(low + BLOCK, end) - 1
        sum_before += masked[low]
        while low < last and not sum_before > target:
            low += 1
            sum_before += masked[low]
        while eligible[low] == 0:  # the target was rounded up to a sum: the last eligible item before it is meant
            low -= 1
    weight = weight_against(scores[low], best, temperature) if vanish else weights[low]
    memory.slot_propensity[slot] = over_floor(weight / total, floor, found)
    memory.slot_pool[slot] = pool
    memory.slot_candidate[slot] = low
    memory.slot_eligible[slot] = found
    return items[low]


@inlined
def _look_for_skills(catalog: CatalogArrays, memory: WorkingMemory, start: int, end: int) -> None:
    """Note the candidates that no longer bring a new skill. One with a mark that the feed has not brings one; only the
    others' skills are read."""
    is_old, items, may_be_old = memory.is_old[start:end], memory.pool_items[start:end], memory.may_be_old[start:end]
    lower, upper = memory.skill_marks[0, start:end], memory.skill_marks[1, start:end]
    free_lower, free_upper = ~memory.feed_marks[0], ~memory.feed_marks[1]
    for c in range(len(is_old)):
        may_be_old[c] = np.uint8((lower[c] & free_lower) | (upper[c] & free_upper) == 0) & np.uint8(is_old[c] == 0)
    for c in range(len(is_old)):
        if may_be_old[c] != 0 and not _brings_new_skill(catalog, memory, items[c]):
            is_old[c] = 1


@inlined
def _mask(memory: WorkingMemory, slot: int, start: int, end: int, blocked_after: np.int32, oldest: np.uint8) -> int:
    """Which candidates the slot may hold, their weights, and how many they are. Without a branch, and in numbers of one
    size, as the machine does several at once."""
    eligible, masked = memory.eligible[slot, start:end], memory.masked_weight[start:end]
    weights, last, is_old = memory.scoring.weight[start:end], memory.creators_slot[start:end], memory.is_old[start:end]
    for c in range(len(eligible)):
        eligible[c] = np.uint8(last[c] <= blocked_after) & np.uint8(is_old[c] <= oldest)
    found = 0
    for c in range(len(eligible)):
        masked[c] = weights[c] if eligible[c] != 0 else 0.0
        found += eligible[c]
    return found


@inlined
def _add_up(weights: Float64, running: Float64, start: int, end: int) -> float:
    """The sum of weights[start:end], and the running sums of their blocks."""
    total = 0.0
    for block in range((end - start + BLOCK - 1) // BLOCK):
        c = start + block * BLOCK
        if c + BLOCK <= end:
            w = weights[c : c + BLOCK]
            total += ((w[0] + w[1]) + (w[2] + w[3])) + ((w[4] + w[5]) + (w[6] + w[7]))
        else:
            for rest in range(c, end):
                total += weights[rest]
        running[block] = total
    return total


@inlined
def _nth_eligible(eligible: Bytes, start: int, n: int) -> int:
    place = start
    while eligible[place] == 0 or n > 0:
        n -= eligible[place]
        place += 1
    return place


@inlined
def _allows(
    catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, slot: int, item: int, broken: int
) -> bool:
    if broken & WINDOW == 0 and memory.creator_last[catalog.creator[item]] > slot - policy.creator_window:
        return False
    if broken & NOVELTY or memory.counts[FEED_SKILLS] < policy.novelty_after_skills:
        return True
    return _brings_new_skill(catalog, memory, item)


@inlined
def _brings_new_skill(catalog: CatalogArrays, memory: WorkingMemory, item: int) -> bool:
    """One of a type without tokens always does, as far as the rule goes."""
    absent = len(memory.feed_skill) - 2
    return item >= catalog.worded or absent != _new_skill(item, catalog.tokens, catalog.skill_count, memory.feed_skill)


@inlined
def _explore(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    slot: int,
    group: int,
    broken: int,
) -> int:
    """Even draw from what is in no pool: from a sample first, and where that has nothing that the rules
    allow, from all of the rest, so that no rule gives way while an item exists that keeps it."""
    novelty = broken & NOVELTY == 0 and memory.counts[FEED_SKILLS] >= policy.novelty_after_skills
    if memory.spent[group, SPENT_REST] or (novelty and memory.spent[group, SPENT_NOVELTY]):
        return NOTHING
    if memory.explore_count[group] < 0:
        _sample_rest(policy, memory, group)
    found = 0
    for i in range(memory.explore_count[group]):
        item = memory.explore[group, i]
        if memory.flags[item] & USED == 0 and _allows(catalog, policy, memory, slot, item, broken):
            memory.explore_eligible[found] = item
            found += 1
    memory.slot_pool[slot] = EXPLORATION
    if found > 0:
        memory.slot_propensity[slot] = 1.0 / found
        return memory.explore_eligible[below(memory.random, found)]
    return _explore_all(catalog, policy, memory, slot, group, broken)


@inlined
def _explore_all(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    slot: int,
    group: int,
    broken: int,
) -> int:
    """Reservoir draw of one item over the whole rest; notes what can no longer be found in this feed."""
    start, end = memory.group_rows[group, 0], memory.group_rows[group, 1]
    allowed, few = memory.allowed, len(memory.allowed)
    found, novel, rest, chosen = 0, 0, 0, NOTHING
    for i in range(few if few else end - start):
        item = int(allowed[i]) if few else start + i
        if not start <= item < end or memory.flags[item] & (EXCLUDED | SEEN | USED | POOLED):
            continue
        rest += 1
        if _brings_new_skill(catalog, memory, item):
            novel += 1
        if _allows(catalog, policy, memory, slot, item, broken):
            found += 1
            if below(memory.random, found) == 0:
                chosen = item
    memory.spent[group, SPENT_REST] = rest == 0
    memory.spent[group, SPENT_NOVELTY] = novel == 0 and memory.counts[FEED_SKILLS] >= policy.novelty_after_skills
    if found > 0:
        memory.slot_propensity[slot] = 1.0 / found
    return chosen


@inlined
def _sample_rest(policy: PolicyArrays, memory: WorkingMemory, group: int) -> None:
    """An even sample without repetition of the items in no pool: by rejection where they are many,
    by a reservoir over all where they are few."""
    start, end = memory.group_rows[group, 0], memory.group_rows[group, 1]
    allowed, few = memory.allowed, len(memory.allowed)
    wanted, count = policy.exploration_size, few if few else end - start
    taken = 0
    if count > wanted * SAMPLING_TRIES:
        for _ in range(wanted * SAMPLING_TRIES):
            if taken == wanted:
                break
            at = below(memory.random, count)
            item = int(allowed[at]) if few else start + at
            if start <= item < end and memory.flags[item] & (EXCLUDED | SEEN | USED | POOLED | EXPLORED) == 0:
                flag(memory, item, EXPLORED)
                memory.explore[group, taken] = item
                taken += 1
    if taken < wanted:
        taken = 0
        rest = 0
        for i in range(count):
            item = int(allowed[i]) if few else start + i
            if not start <= item < end or memory.flags[item] & (EXCLUDED | SEEN | USED | POOLED):
                continue
            rest += 1
            if taken < wanted:
                memory.explore[group, taken] = item
                taken += 1
            else:
                place = below(memory.random, rest)
                if place < wanted:
                    memory.explore[group, place] = item
    memory.explore_count[group] = taken


@inlined
def _longest_ago(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    request: RankingRequest,
    memory: WorkingMemory,
    slot: int,
    own: int,
    broken: int,
) -> int:
    """The allowed item that the user saw longest ago. Nothing is drawn, so its propensity is 1."""
    if memory.counts[SEEN_ITEMS] == 0:
        _order_seen(memory)
    for i in range(memory.counts[SEEN_ITEMS]):
        item = memory.seen_items[i]
        if memory.flags[item] & (EXCLUDED | USED):
            continue
        is_own = memory.group_rows[own, 0] <= item < memory.group_rows[own, 1]
        if is_own == (broken & KIND != 0):
            continue
        if not is_own and not _endpoint_has_item(policy, request, memory, item):
            continue
        if _allows(catalog, policy, memory, slot, item, broken):
            memory.slot_propensity[slot] = 1.0
            memory.slot_pool[slot] = SEEN_POOL
            return item
    return NOTHING


@inlined
def _order_seen(memory: WorkingMemory) -> None:
    """List what the user has seen, longest ago first: by Shell's method, since kernels make no arrays."""
    items, when, count = memory.seen_items, memory.seen_when, 0
    for i in range(memory.counts[TOUCHED_ITEMS]):
        if memory.flags[memory.touched_items[i]] & SEEN:
            items[count] = memory.touched_items[i]
            count += 1
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            item, place = items[i], i
            while place >= gap and (
                when[items[place - gap]] > when[item]
                or (when[items[place - gap]] == when[item] and items[place - gap] > item)
            ):
                items[place] = items[place - gap]
                place -= gap
            items[place] = item
        gap //= 2
    memory.counts[SEEN_ITEMS] = count
