"""Why an item is in its slot: the pool it was drawn from, with what probability, and what its score is made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.store import Catalog
from recommendation_service.feed.reasons import came_by, doubted, gave_way, learned, speaks_for
from recommendation_service.feed.sentences import DEFAULT_LANGUAGE, Sentence
from recommendation_service.model.features import COLLABORATIVE, TRENDING, names_of
from recommendation_service.model.kinds import PINNED
from recommendation_service.policies.policy import Policy
from recommendation_service.policies.terms import static_terms
from recommendation_service.ranking.seen import SEEN_POOL
from recommendation_service.ranking.slate import EXPLORATION, RULES
from recommendation_service.ranking.working_memory import WorkingMemory

DAY_SECONDS = 86400.0

# Of a mapping's items: features that its build has nothing for, which are 0; and what the others, and the terms, are
# called, by the weights that a mapping knows. Two terms are one of those.
_UNFILLED = frozenset({"quality", "same_city", "average_rating", "ratings", "saves", "exhibitions"})
_MAPPED_FEATURES = {
    "recency": "newness",
    "attribute_count": "term_count",
    "skill_similarity": "similar_terms",
    "attribute_match": "shared_terms",
    "creator_in_network": "friends",
    "views": "taken",
    "skill_rarity": "rarity",
    "collaborative": "together",
}
_MAPPED_TERMS = {
    "similarity": "closeness",
    "match": "closeness",
    "network": "friends",
    "recency": "newness",
    "collaborative": "together",
}


class Why(msgspec.Struct):
    """What ``explain`` adds to an item."""

    position: int  # 0 is the first slot
    slot: str  # what the pattern asks for
    pool: str  # where the item was drawn from: a kind, "exploration" or "seen"; or "editor", who pinned it
    propensity: float | None  # probability of this choice given the choices before it; None: it was none
    score: float  # expected + bonus
    expected: float  # the mean of the estimate: θᵀx
    bonus: float  # α × width
    width: float  # of the estimate: √(xᵀA⁻¹x)
    terms: dict[str, float]  # the hand-set sum by term, each weight × value
    features: dict[str, float]
    contributions: dict[str, float]  # of each feature to the mean: weight × value
    relaxed: list[str]  # rules that gave way for this item
    sentences: list[Sentence]  # all of it for people


_encode = msgspec.json.Encoder().encode


class Choice(NamedTuple):
    """A slot of a feed, as the working memory or a record of the feed has it."""

    kind: int  # its number
    pool: int
    relaxed: int  # bits of RULES
    propensity: float
    x: npt.NDArray[Any]  # (d,)


def choice_of(memory: WorkingMemory, slot: int) -> Choice:
    """A slot of the feed that is in ``memory``, copied."""
    return Choice(
        int(memory.slot_kind[slot]),
        int(memory.slot_pool[slot]),
        int(memory.slot_relaxed[slot]),
        float(memory.slot_propensity[slot]),
        memory.slot_X[:, slot].copy(),
    )


def explained(
    catalog: Catalog, policy: Policy, item: int, choice: Choice, position: int, language: str = DEFAULT_LANGUAGE
) -> bytes:
    """The explanation of one slot as JSON; ``item``: its row in the catalog."""
    age_days = (catalog.built_at - float(catalog.arrays.created[item])) / DAY_SECONDS
    return _encode(why(policy, choice, position, age_days, language, is_mapped=catalog.is_mapped))


def why(
    policy: Policy,
    choice: Choice,
    position: int,
    age_days: float | None,
    language: str = DEFAULT_LANGUAGE,
    *,
    is_mapped: bool = False,
) -> Why:
    """``policy``: that of the feed; ``is_mapped``: whether the item is a mapping's.

    ``age_days``: of the item when the feed was made; None where that is not known any more: then without terms.
    """
    kind, x = choice.kind, choice.x.astype(np.float64)
    names = names_of(len(x), policy.feature_names)
    weighted = policy.arrays.theta[kind] * x
    expected = float(policy.arrays.theta[kind] @ x)
    width = float(np.linalg.norm(x @ policy.arrays.precision_root[kind]))
    bonus = float(policy.arrays.alpha[kind]) * width
    terms = hand_terms(policy, x, kind, age_days) if age_days is not None else {}
    features, contributions = (
        dict(zip(names, x.tolist(), strict=True)),
        dict(zip(names, weighted.tolist(), strict=True)),
    )
    unweighed = unweighed_why(policy, choice, position, language, is_mapped=is_mapped)
    return Why(
        position=position,
        slot=unweighed.slot,
        pool=unweighed.pool,
        propensity=unweighed.propensity,
        score=expected + bonus,
        expected=expected,
        bonus=bonus,
        width=width,
        terms=_told(terms, _MAPPED_TERMS) if is_mapped else terms,
        features=unweighed.features,
        contributions=_told(contributions, _MAPPED_FEATURES) if is_mapped else contributions,
        relaxed=unweighed.relaxed,
        # What speaks for an item is no reason where an editor chose it.
        sentences=unweighed.sentences
        if choice.pool == PINNED
        else [
            unweighed.sentences[0],
            *speaks_for(language, policy, features, contributions, terms, age_days),
            *learned(language, policy, x, expected),
            *doubted(language, bonus, expected + bonus),
            *unweighed.sentences[1:],
        ],
    )


class UnweighedWhy(msgspec.Struct):
    """The same of a feed whose policy is not kept any more: what only that could tell is left out."""

    position: int
    slot: str
    pool: str
    propensity: float | None
    features: dict[str, float]
    relaxed: list[str]
    sentences: list[Sentence]


def unweighed_why(
    policy: Policy, choice: Choice, position: int, language: str, *, is_mapped: bool = False
) -> UnweighedWhy:
    """``policy``: any, for names."""
    slot = policy.label(choice.kind)
    pool = {EXPLORATION: "exploration", SEEN_POOL: "seen", PINNED: "editor"}.get(choice.pool) or policy.label(
        choice.pool
    )
    relaxed = [rule for bit, rule in enumerate(RULES) if choice.relaxed >> bit & 1]
    features = dict(zip(names_of(len(choice.x), policy.feature_names), choice.x.tolist(), strict=True))
    return UnweighedWhy(
        position,
        slot,
        pool,
        choice.propensity if choice.pool != PINNED else None,
        _told(features, _MAPPED_FEATURES) if is_mapped else features,
        relaxed,
        [came_by(language, slot, pool, choice.pool, choice.propensity), *gave_way(language, relaxed)],
    )


def _told(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """What a mapping has of them, in its words. Those of one name are a sum."""
    told: dict[str, float] = {}
    for name, value in values.items():
        if name not in _UNFILLED:
            own = names.get(name, name)
            own = name if own in values else own  # a feature that the policy adds may bear it
            told[own] = told.get(own, 0.0) + value
    return told


def hand_terms(policy: Policy, x: npt.NDArray[np.float64], kind: int, age_days: float) -> dict[str, float]:
    """The kind's hand-set sum, term by term; the terms add up to 10 × feature 17."""
    terms = static_terms(x[None, :], np.array([age_days]), policy.file)
    values = {name: float(value[0]) for name, value in terms.items()}
    values |= {"similarity": float(x[5]), "match": float(x[6]), "network": float(x[8])}
    # Of a record by an earlier policy nothing is known of it.
    values["collaborative"] = float(x[COLLABORATIVE]) if policy.file.collaborative and len(x) > TRENDING else 0.0
    weights = policy.file.kind(policy.file.kind_names[kind]).weights
    return {term: weight * values[term] for term, weight in weights.items()}
