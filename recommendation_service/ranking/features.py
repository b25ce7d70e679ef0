"""Stage 3: the features of user and item; those of the item alone come ready from the catalog."""

from recommendation_service.model.columns import SKILL_PLACES, TOKEN_PLACES, Bytes, CatalogArrays, Float64, Int32
from recommendation_service.model.features import COLLABORATIVE, FEATURES, HAND_SET, TRENDING
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, inlined, part
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import (
    HAS_TOKENS,
    WorkingMemory,
)


@inlined
def similarity_of(
    item: int,
    item_tokens: Int32,
    item_skill_count: Bytes,
    user_skill_count: Float64,
    similarity_scale: Float64,
    has_tokens: bool,
    without_history: float,
    without_skills: float,
) -> float:
    """Feature 5."""
    if not has_tokens:
        return without_history
    n = item_skill_count[item]
    if n == 0:
        return without_skills
    total = 0.0
    for place in range(SKILL_PLACES):
        total += user_skill_count[item_tokens[item, place]]
    return total * similarity_scale[n]


@inlined
def match_of(item: int, item_tokens: Int32, match_weight: Float64, cap: float) -> float:
    """Feature 6."""
    # Two sums side by side: one alone would wait for each addition.
    even, odd = 0.0, 0.0
    for place in range(0, TOKEN_PLACES, 2):
        even += match_weight[item_tokens[item, place]]
        odd += match_weight[item_tokens[item, place + 1]]
    return min(cap, even + odd)


@part
def write_features(
    catalog: CatalogArrays,
    policy: PolicyArrays,
    memory: WorkingMemory,
    items: Int32,
    kinds: Bytes,
    start: int,
    end: int,
    X: Float64,
) -> None:
    """The features of items[start:end] for the user in memory, each in the column of its place in ``X`` (d, n): the 18,
    the collaborative ones where the policy has them, and those that it adds; ``kinds`` says whose hand-set sum feature
    17 is.

    The arrays are taken out of their tuples first: inside a loop each use would count references.
    """
    static, hand, tokens, skill_count = catalog.features, catalog.hand, catalog.tokens, catalog.skill_count
    city, creator, worded = catalog.city, catalog.creator, catalog.worded
    user_skills, match_weight, scale = memory.skill_count, memory.match_weight, memory.similarity_scale
    user_city, in_network = memory.user_city, memory.in_network
    weight_similarity, weight_match = policy.weight_similarity, policy.weight_match
    weight_network, hand_scale = policy.weight_network, policy.hand_scale
    cap = policy.match_cap * memory.closeness_scale[0]
    has_tokens = memory.counts[HAS_TOKENS] > 0
    without_history, without_skills = policy.similarity[2], policy.similarity[3]
    reach, added_term, first_added = memory.reach[0], policy.added_term, policy.first_added
    collaborative, trending = memory.collaborative, catalog.trending
    weight_collaborative = policy.weight_collaborative
    for place in range(start, end):
        item, kind = items[place], kinds[place]
        for i in range(FEATURES):
            X[i, place] = static[item, i]
        similarity, match, same_city = 0.0, 0.0, 0.0
        if item < worded:
            similarity = similarity_of(
                item, tokens, skill_count, user_skills, scale, has_tokens, without_history, without_skills
            )
            match = match_of(item, tokens, match_weight, cap)
            same_city = float(user_city[city[item]])
        network = float(in_network[creator[item]])
        expected = collaborative[item]
        X[5, place] = similarity
        X[6, place] = match
        X[7, place] = same_city
        X[8, place] = network
        X[13, place] = reach
        X[HAND_SET, place] = (
            hand[item, kind]
            + weight_similarity[kind] * similarity
            + weight_match[kind] * match
            + weight_network[kind] * network
            + weight_collaborative[kind] * expected
        ) / hand_scale
        if first_added > FEATURES:
            X[COLLABORATIVE, place] = expected
            X[TRENDING, place] = trending[item]
        for added in range(len(added_term)):
            value, term = float(static[item, FEATURES + added]), added_term[added]
            if term == 1:
                value *= similarity
            elif term == 2:
                value *= match
            elif term == 3:
                value *= network
            elif term == 4:
                value *= expected
            X[first_added + added, place] = value


@compiled
def candidate_features(frame: Frame, request: RankingRequest) -> None:
    """Stage 3: X of all candidates."""
    catalog, policy, memory = frame.catalog, frame.policy, frame.memory
    offsets, kinds = memory.pool_offsets, memory.pool_kinds
    for kind in range(len(policy.pool)):
        for c in range(offsets[kind], offsets[kind + 1]):
            kinds[c] = kind
    candidates = offsets[len(policy.pool)]
    write_features(catalog, policy, memory, memory.pool_items, kinds, 0, candidates, memory.X)
