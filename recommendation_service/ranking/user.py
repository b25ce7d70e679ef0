"""Stage 1: who asks, and what must not be shown: history, profile, network, exclusions."""

from math import log1p, sqrt

import numpy as np

from recommendation_service.model.columns import (
    SKILL_PLACES,
    TOKEN_PLACES,
    Bytes,
    CatalogArrays,
    Float64,
    Int32,
    Int64,
)
from recommendation_service.model.item_keys import CREATOR, LARGEST_ITEM, LARGEST_OTHER
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.collaborative import load_collaborative
from recommendation_service.ranking.compiled import compiled, inlined
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.places import find, find_item, pack_key
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.seen import load_seen, mark_seen
from recommendation_service.ranking.working_memory import (
    EXCLUDED,
    HAS_NETWORK,
    HAS_TOKENS,
    TOUCHED_CITIES,
    TOUCHED_NETWORK,
    TOUCHED_TOKENS,
    WorkingMemory,
    clear,
    flag,
)


@compiled
def load_user(frame: Frame, request: RankingRequest) -> None:
    """Clear the memory, then write down the user: tokens, cities, network, and what is seen or excluded."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    clear(memory)
    memory.random[0] = np.uint64(request.seed)
    for number in request.excluded:
        for item_type in catalog.type_number:
            if 0 < number <= (LARGEST_ITEM if item_type <= CREATOR else LARGEST_OTHER):
                item = find_item(catalog, pack_key(item_type, number))
                if item >= 0:
                    flag(memory, item, EXCLUDED)
    load_seen(catalog, request, memory)
    memory.kept.state[0] = request.session
    row = request.user_row
    memory.reach[0] = log1p(request.connections) / policy.reach_scale
    if row < 0:
        _load_outsider(catalog, policy, request, memory)
    else:
        _load_history(catalog, policy, row, memory)
        start, end = catalog.profile_offsets[row], catalog.profile_offsets[row + 1]
        _load_profile(catalog, policy, catalog.profile_tokens, start, end, memory)
        for i in range(catalog.network_offsets[row], catalog.network_offsets[row + 1]):
            _add_creator(memory, catalog.network_creators[i])
        memory.reach[0] = log1p(catalog.connections[row]) / policy.reach_scale
    load_collaborative(catalog, policy, request, memory)
    memory.counts[HAS_TOKENS] = int(memory.counts[TOUCHED_TOKENS] > 0)
    memory.counts[HAS_NETWORK] = int(memory.counts[TOUCHED_NETWORK] > 0)
    _scale_similarity(policy, memory)


@inlined
def _load_history(catalog: CatalogArrays, policy: PolicyArrays, row: int, memory: WorkingMemory) -> None:
    counted, most = 0, policy.history_items
    for i in range(catalog.history_offsets[row], catalog.history_offsets[row + 1]):
        item = catalog.history_items[i]
        mark_seen(memory, item, catalog.history_when[i])
        if item < catalog.worded and counted < most:
            counted += 1
            _learn_from(catalog, policy, memory, item)


@inlined
def _load_outsider(
    catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory
) -> None:
    """A user who is not in the catalog, from what was read of the operator's tables; nothing of an unknown one."""
    counted, most = 0, policy.history_items
    for i in range(request.history):
        item = find_item(catalog, memory.own_history[i, 0])
        if item < 0:
            continue
        mark_seen(memory, item, memory.own_history[i, 1])
        if item < catalog.worded and counted < most:
            counted += 1
            _learn_from(catalog, policy, memory, item)
    _load_profile(catalog, policy, memory.own_tokens, 0, request.tokens, memory)
    for i in range(request.network):
        creator = find(catalog.creator_id, memory.own_network[i], 0, len(catalog.creator_id))
        if creator >= 0:
            _add_creator(memory, creator)


@inlined
def _load_profile(
    catalog: CatalogArrays, policy: PolicyArrays, tokens: Int32, start: int, end: int, memory: WorkingMemory
) -> None:
    """What a user says, of whom nothing is known that the user did, by the policy's weight of that."""
    weight = policy.profile_weight
    if memory.counts[TOUCHED_TOKENS] > 0 or weight == 0.0:
        return
    memory.closeness_scale[0] = weight
    for i in range(start, end):
        _add_token(
            tokens[i],
            catalog.token_kind,
            memory.has_token,
            memory.skill_count,
            memory.match_weight,
            memory.touched_tokens,
            policy.match_weight,
            weight,
            memory.counts,
        )


@inlined
def _learn_from(catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, item: int) -> None:
    """Count the tokens and the city of an item that the user interacted with."""
    tokens, counts = catalog.tokens, memory.counts
    for place in range(TOKEN_PLACES):
        _add_token(
            tokens[item, place],
            catalog.token_kind,
            memory.has_token,
            memory.skill_count,
            memory.match_weight,
            memory.touched_tokens,
            policy.match_weight,
            1.0,
            counts,
        )
    city = catalog.city[item]
    if city > 0 and memory.user_city[city] == 0:
        memory.user_city[city] = 1
        memory.touched_cities[counts[TOUCHED_CITIES]] = city
        counts[TOUCHED_CITIES] += 1


@inlined
def _add_creator(memory: WorkingMemory, creator: int) -> None:
    if memory.in_network[creator] == 0:
        memory.in_network[creator] = 1
        memory.touched_network[memory.counts[TOUCHED_NETWORK]] = creator
        memory.counts[TOUCHED_NETWORK] += 1


@inlined
def _add_token(
    token: int,
    token_kind: Bytes,
    has_token: Bytes,
    skill_count: Float64,
    match_weight: Float64,
    touched: Int32,
    weights: Float64,
    scale: float,
    counts: Int64,
) -> None:
    kind = token_kind[token]
    if kind > 3:
        return
    if has_token[token] == 0:
        has_token[token] = 1
        touched[counts[TOUCHED_TOKENS]] = token
        counts[TOUCHED_TOKENS] += 1
    match_weight[token] = scale * weights[kind]
    if kind == 0:
        skill_count[token] += 1.0


@inlined
def _scale_similarity(policy: PolicyArrays, memory: WorkingMemory) -> None:
    """With D = Σ of u's counts over a video's n skills, feature 5 is D · scale[n]:
    .6 · D/(‖counts‖ √n) + .4 · D/Σ counts, times the weight of a profile. Without skills, of the user or the video, it
    is what the policy says."""
    total, squares, scale = 0.0, 0.0, memory.closeness_scale[0]
    skill_count, touched = memory.skill_count, memory.touched_tokens
    for i in range(memory.counts[TOUCHED_TOKENS]):
        count = skill_count[touched[i]]
        total += count
        squares += count * count
    has_tokens = memory.counts[TOUCHED_TOKENS] > 0
    for n in range(SKILL_PLACES + 1):
        memory.similarity_scale[n] = 0.0
        memory.similarity_least[n] = 0.0 if has_tokens else policy.similarity[2]
        if n > 0 and total > 0.0:
            of_one = policy.similarity[0] / (sqrt(squares) * sqrt(n)) + policy.similarity[1] / total
            memory.similarity_scale[n] = scale * of_one
    if has_tokens:
        memory.similarity_least[0] = policy.similarity[3]
