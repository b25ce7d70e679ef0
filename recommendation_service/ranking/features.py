"""Stage 3: the features of user and item; those of the item alone come ready from the catalog."""

from recommendation_service.model.columns import (
    SKILL_PLACES,
    TOKEN_PLACES,
    Bytes,
    CatalogArrays,
    Float32,
    Float64,
    Int32,
)
from recommendation_service.model.features import COLLABORATIVE, FEATURES, HAND_SET, TRENDING
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import Place, compiled, inlined, part
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.working_memory import HAS_TOKENS, WorkingMemory

# Features that need the user; the other twelve come from the catalog, four columns at a time.
SIMILARITY, MATCH, SAME_CITY, NETWORK, REACH = 5, 6, 7, 8, 13


@inlined
def write_similarity(catalog: CatalogArrays, memory: WorkingMemory, items: Int32, similarity: Float64) -> None:
    """Feature 5 of n items; 0 for those of types without tokens. Without a branch, which nobody could foretell."""
    tokens, skill_count, worded = catalog.tokens, catalog.skill_count, catalog.worded
    user_skills, scale, least = memory.skill_count, memory.similarity_scale, memory.similarity_least
    if worded == 0:
        similarity[: len(items)] = 0.0
        return
    for place in range(len(items)):
        has_words = items[place] < worded
        item, total = Place(items[place]) if has_words else Place(0), 0.0
        n = Place(skill_count[item])
        for skill in range(SKILL_PLACES):
            total += user_skills[Place(tokens[item, skill])]
        similarity[place] = total * scale[n] + least[n] if has_words else 0.0


@inlined
def match_of(item: Place, item_tokens: Int32, match_weight: Float64, cap: float) -> float:
    """Feature 6."""
    # Two sums side by side: one alone would wait for each addition.
    even, odd = 0.0, 0.0
    for place in range(0, TOKEN_PLACES, 2):
        even += match_weight[Place(item_tokens[item, place])]
        odd += match_weight[Place(item_tokens[item, place + 1])]
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

    All items are gone through several times, for few features each: the machine has registers for no more.
    """
    items, kinds = items[start:end], kinds[start:end]
    _copy_static(catalog.features, items, X, start, (0, 1, 2, 3))
    _copy_static(catalog.features, items, X, start, (4, 9, 10, 11))
    _copy_static(catalog.features, items, X, start, (12, 14, 15, 16))
    X[REACH, start:end] = memory.reach[0]
    _write_closeness(catalog, policy, memory, items, X, start)
    network, expected = X[NETWORK, start:end], memory.collaborative
    in_network, creator = memory.in_network, catalog.creator
    for place in range(len(items)):
        network[place] = float(in_network[Place(creator[Place(items[place])])])
    similarity, match, hand_set = X[SIMILARITY, start:end], X[MATCH, start:end], X[HAND_SET, start:end]
    weight_similarity, weight_match = policy.weight_similarity, policy.weight_match
    weight_network, weight_collaborative = policy.weight_network, policy.weight_collaborative
    hand, hand_scale = catalog.hand, policy.hand_scale
    for place in range(len(items)):
        item, kind = Place(items[place]), Place(kinds[place])
        hand_set[place] = (
            hand[item, kind]
            + weight_similarity[kind] * similarity[place]
            + weight_match[kind] * match[place]
            + weight_network[kind] * network[place]
            + weight_collaborative[kind] * expected[item]
        ) / hand_scale
    if policy.first_added > FEATURES:
        collaborative, trending, trend = X[COLLABORATIVE, start:end], X[TRENDING, start:end], catalog.trending
        for place in range(len(items)):
            item = Place(items[place])
            collaborative[place], trending[place] = expected[item], trend[item]
    for added in range(len(policy.added_term)):
        term, column = policy.added_term[added], X[policy.first_added + added, start:end]
        for place in range(len(items)):
            item = Place(items[place])
            value = float(catalog.features[item, FEATURES + added])
            if term == 1:
                value *= similarity[place]
            elif term == 2:
                value *= match[place]
            elif term == 3:
                value *= network[place]
            elif term == 4:
                value *= expected[item]
            column[place] = value


@inlined
def _copy_static(static: Float32, items: Int32, X: Float64, start: int, features: tuple[int, int, int, int]) -> None:
    a, b, c, d = features
    end = start + len(items)
    of_a, of_b, of_c, of_d = X[a, start:end], X[b, start:end], X[c, start:end], X[d, start:end]
    for place in range(len(items)):
        row = static[Place(items[place])]
        of_a[place], of_b[place], of_c[place], of_d[place] = row[a], row[b], row[c], row[d]


@inlined
def _write_closeness(
    catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory, items: Int32, X: Float64, start: int
) -> None:
    """Features 5 to 7; 0 for items of types without tokens."""
    end = start + len(items)
    match, same_city = X[MATCH, start:end], X[SAME_CITY, start:end]
    write_similarity(catalog, memory, items, X[SIMILARITY, start:end])
    tokens, match_weight, city, worded = catalog.tokens, memory.match_weight, catalog.city, catalog.worded
    user_city, has_tokens = memory.user_city, memory.counts[HAS_TOKENS] > 0
    cap = policy.match_cap * memory.closeness_scale[0]
    match[:] = 0.0
    same_city[:] = 0.0
    if worded == 0:
        return
    for place in range(len(items)):
        has_words = items[place] < worded
        item = Place(items[place]) if has_words else Place(0)
        near = float(user_city[Place(city[item])])
        same_city[place] = near if has_words else 0.0
        if has_tokens:
            fits = match_of(item, tokens, match_weight, cap)
            match[place] = fits if has_words else 0.0


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
