"""Why an item is in its slot: the pool it was drawn from, with what probability, and what its score is made of."""

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.store import Catalog
from recommendation_service.model.features import COLLABORATIVE, TRENDING, names_of
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy
from recommendation_service.policies.terms import static_terms
from recommendation_service.ranking.seen import SEEN_POOL
from recommendation_service.ranking.slate import EXPLORATION, RULES
from recommendation_service.ranking.working_memory import WorkingMemory

DAY_SECONDS = 86400.0


class Why(msgspec.Struct):
    """What ``explain`` adds to an item."""

    position: int  # 0 is the first slot
    slot: str  # what the pattern asks for
    pool: str  # where the item was drawn from: a kind, "exploration" or "seen"
    propensity: float  # probability of this choice given the choices before it
    score: float  # expected + bonus
    expected: float  # θᵀx
    bonus: float  # α √(xᵀA⁻¹x)
    terms: dict[str, float]  # the hand-set sum by term, each weight × value
    features: dict[str, float]
    relaxed: list[str]  # rules that gave way for this item


_encode = msgspec.json.Encoder().encode


class Choice(NamedTuple):
    """A slot of a feed, as the working memory or a record of the feed has it."""

    kind: int  # index into KINDS
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


def explained(catalog: Catalog, policy: Policy, item: int, choice: Choice, position: int) -> bytes:
    """The explanation of one slot as JSON; ``item``: its row in the catalog."""
    age_days = (catalog.built_at - float(catalog.arrays.created[item])) / DAY_SECONDS
    return _encode(why(policy, choice, position, age_days))


def why(policy: Policy, choice: Choice, position: int, age_days: float | None) -> Why:
    """``policy``: that of the feed, or else one of any features, whose scores are none of the feed's.

    ``age_days``: of the item when the feed was made; None where that is not known any more: then without terms.
    """
    kind, x = choice.kind, choice.x.astype(np.float64)
    common = min(len(x), len(policy.feature_names))
    expected = float(policy.arrays.theta[kind, :common] @ x[:common])
    root = policy.arrays.precision_root[kind, :common, :common]
    bonus = float(policy.arrays.alpha[kind] * np.linalg.norm(x[:common] @ root))
    return Why(
        position=position,
        slot=policy.label(kind),
        pool={EXPLORATION: "exploration", SEEN_POOL: "seen"}.get(choice.pool) or policy.label(choice.pool),
        propensity=choice.propensity,
        score=expected + bonus,
        expected=expected,
        bonus=bonus,
        terms=hand_terms(policy, x, kind, age_days) if age_days is not None else {},
        features=dict(zip(names_of(len(x), policy.feature_names), x.tolist(), strict=True)),
        relaxed=[rule for bit, rule in enumerate(RULES) if choice.relaxed >> bit & 1],
    )


def hand_terms(policy: Policy, x: npt.NDArray[np.float64], kind: int, age_days: float) -> dict[str, float]:
    """The kind's hand-set sum, term by term; the terms add up to 10 × feature 17."""
    terms = static_terms(x[None, :], np.array([age_days]), policy.file)
    values = {name: float(value[0]) for name, value in terms.items()}
    values |= {"similarity": float(x[5]), "match": float(x[6]), "network": float(x[8])}
    # Of a record by an earlier policy nothing is known of it.
    values["collaborative"] = float(x[COLLABORATIVE]) if policy.file.collaborative and len(x) > TRENDING else 0.0
    weights = policy.file.kind(KINDS[kind]).weights
    return {term: weight * values[term] for term, weight in weights.items()}
