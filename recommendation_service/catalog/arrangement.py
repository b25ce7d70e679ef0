"""What a catalog is computed from, and the columns that follow from it: the same whatever the operator's tables are."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.measuring import Traits
from recommendation_service.catalog.orderings import hash_table, kind_orderings, pair_lists, token_lists
from recommendation_service.catalog.people import Interactions, People, places
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.vocabulary import Vocabulary
from recommendation_service.model.columns import SKILL_PLACES, CatalogArrays, Float64, Int32, Int64, keys_of
from recommendation_service.model.features import COLLABORATIVE, FEATURE_NAMES, TRENDING
from recommendation_service.policies.policy import Policy
from recommendation_service.policies.terms import static_hand_sum, static_terms
from recommendation_service.sources.lists import UNKNOWN_CITY

DAY_SECONDS = 86400.0
POPULARITY = FEATURE_NAMES.index("popularity")


@dataclass
class Contents:
    """An operator's items and people, cleaned and numbered: M items, by type and number, those with tokens first."""

    item_types: dict[str, int]  # numbers by name, in the order of their rows
    type_offsets: Int64  # (Y + 1,)
    worded: int  # items of the types that bear tokens
    item_id: Int64  # (M,)
    created: Float64  # (M,) seconds since 1970
    creators: Int64  # (M,) the creator's number
    cities: list[str]  # (M,)
    tokens: Int32  # (M, 14) as ``vocabulary`` numbers them
    features: Float64  # (M, d) of the item alone; the collaborative ones are added here
    vocabulary: Vocabulary
    interactions: Interactions  # by which people are known
    taken: Interactions  # by which is told what people take together: those, and older ones
    people: People

    @property
    def type_number(self) -> Int64:
        return np.array([*self.item_types.values()], np.int64)

    @property
    def keys(self) -> Int64:
        return keys_of(self.type_number, self.type_offsets, self.item_id)


def arranged(
    contents: Contents, policy: Policy, now: float, kept: KeptLists, report: BuildReport, *, collaborative: bool
) -> tuple[CatalogArrays, dict[str, Any]]:
    """The columns, and the names of tokens and cities by number. ``now``: seconds since 1970; ``kept``: of the builds
    before; ``collaborative``: whether the operator has it on."""
    tokens, people, interactions = contents.tokens, contents.people, contents.interactions
    file, absent, worded, keys = policy.file, len(contents.vocabulary), contents.worded, contents.keys
    section = file.collaborative
    traits = _traits(contents, policy)
    together = kept.of(contents.taken, keys, now, section, traits, wanted=collaborative)
    report.collaborative, report.measured = together.report, together.measured
    X, age_days = contents.features, (now - contents.created) / DAY_SECONDS
    if together.popularity is not None:
        X[:, POPULARITY] = together.popularity
    if section is not None:
        X[:, TRENDING] = together.trending
    terms = static_terms(X, age_days, file)
    kinds = file.kind_names
    hand = np.zeros((len(tokens), len(kinds)), np.float32)
    for name, kind in file.kinds.items():
        hand[:, kinds.index(name)] = static_hand_sum(terms, kind)
    rows_of_type = dict(zip(contents.item_types, pairwise(contents.type_offsets.tolist()), strict=True))
    order_offsets, order_items = kind_orderings(hand, X[:, 12], age_days, rows_of_type, file)
    similar = next((n for n, weight in enumerate(policy.arrays.weight_similarity) if weight > 0), 0)
    token_offsets, token_items = token_lists(tokens[:worded], absent, hand[:worded, similar])
    pair_key, pair_offsets, pair_items = np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32)
    if worded > file.pruning.exact_up_to_videos and file.pruning.entries_per_pair > 0:
        pair_key, pair_offsets, pair_items = pair_lists(tokens[:worded], absent, hand[:worded, similar])
    creator_ids = np.unique(contents.creators)
    creator = places(creator_ids, contents.creators).astype(np.int32)
    city_numbers, city_names = _number_cities(contents.cities)
    hash_key, hash_item = hash_table(keys)
    token_hash, token_of_hash = contents.vocabulary.hashes()
    arrays = CatalogArrays(
        item_id=contents.item_id,
        type_number=contents.type_number,
        type_offsets=contents.type_offsets,
        features=(X if section is None else np.delete(X, [COLLABORATIVE, TRENDING], axis=1)).astype(np.float32),
        hand=hand,
        tokens=tokens,
        skill_count=(tokens[:, :SKILL_PLACES] != absent).sum(axis=1).astype(np.uint8),
        created=contents.created,
        creator=creator,
        city=city_numbers,
        hash_key=hash_key,
        hash_item=hash_item,
        creator_id=creator_ids,
        creator_offsets=np.concatenate([[0], np.cumsum(np.bincount(creator, minlength=len(creator_ids)))]),
        creator_items=np.argsort(creator, kind="stable").astype(np.int32),
        order_offsets=order_offsets,
        order_items=order_items,
        token_offsets=token_offsets.astype(np.int64),
        token_items=token_items,
        pair_key=pair_key,
        pair_offsets=pair_offsets,
        pair_items=pair_items,
        token_hash=token_hash,
        token_of_hash=token_of_hash,
        token_kind=contents.vocabulary.kinds(),
        user_id=people.user_id,
        history_offsets=people.history_offsets.astype(np.int64),
        history_items=interactions.item,
        history_weight=interactions.weight,
        history_when=interactions.when,
        network_offsets=people.network_offsets.astype(np.int64),
        network_creators=people.network_creators,
        connections=people.connections,
        profile_offsets=people.profile_offsets.astype(np.int64),
        profile_tokens=people.profile_tokens,
        neighbour_offsets=together.lists.offsets,
        neighbour_items=together.lists.items,
        neighbour_weight=together.lists.weight,
        trending=together.trending,
        worded=worded,
        creators=len(creator_ids),
        cities=len(city_names),
    )
    return arrays, {"tokens": contents.vocabulary.names(), "cities": city_names}


def _traits(contents: Contents, policy: Policy) -> Traits | None:
    """What is needed to measure how much each signal should count; by the first kind that has them."""
    file, arrays = policy.file, policy.arrays
    if file.measuring is None:
        return None
    kind = next((n for n, weight in enumerate(arrays.weight_similarity + arrays.weight_collaborative) if weight > 0), 0)
    return Traits(
        settings=file.measuring,
        created=contents.created,
        creator=contents.creators,
        tokens=contents.tokens,
        token_kind=contents.vocabulary.kinds(),
        similarity=float(arrays.weight_similarity[kind]),
        match=float(arrays.weight_match[kind]),
        match_weight=arrays.match_weight,
        match_cap=arrays.match_cap,
        similarity_of=arrays.similarity[:2],
        together=float(arrays.weight_collaborative[kind]),
        latest_weight=arrays.latest_weight,
        people=contents.people,
    )


def _number_cities(cities: list[str]) -> tuple[Any, list[str]]:
    """City numbers of the items; 0 is the unknown city, which is the same as no other."""
    names = [UNKNOWN_CITY]
    numbers = {UNKNOWN_CITY: 0}
    for city in cities:
        if city not in numbers:
            numbers[city] = len(names)
            names.append(city)
    return np.array([numbers[city] for city in cities], np.int32), names
