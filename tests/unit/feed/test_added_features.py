"""A policy file may add features: what the catalog knows of an item, as it is or times a term of the user."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from numba.core import event

from recommendation_service.catalog.item_features import ItemStatistics
from recommendation_service.core.errors import PolicyError
from recommendation_service.feed.explain import choice_of, unweighed_why, why
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.features import (
    COLLABORATIVE,
    COLLABORATIVE_NAMES,
    FEATURE_NAMES,
    FEATURES,
    USER_TERMS,
)
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.format import ItemColumn, UserTerm
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import propensities_under, recorded_propensities, unpack_decision
from recommendation_service.ranking.packed_columns import CLOSE_RELATIVE_ERROR, RELATIVE_ERROR
from recommendation_service.ranking.packed_slots import unpack_slots
from recommendation_service.ranking.working_memory import SLOTS
from tests.support.catalogs import make_catalog
from tests.support.policies import policy_file
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

Floats = npt.NDArray[np.float64]

WORLD = random_world(5, videos=300, challenges=40, users=8)
ADDED: list[dict[str, Any]] = [
    {"name": "age_in_months", "column": "age_days", "scale": 30.0},
    *({"name": f"views_times_{term}", "column": "views", "scale": 100.0, "times": term} for term in USER_TERMS),
    {"name": "saved_how_often", "column": "saves"},
]
BEFORE = FEATURES + len(COLLABORATIVE_NAMES)
D = BEFORE + len(ADDED)
ENOUGH = {"collaborative__least_interactions": 20}
WITHOUT = Policy(policy_file(**ENOUGH))


def policy_of(seed: int | None = None, added: list[dict[str, Any]] = ADDED) -> Policy:
    """With θ and A, where there is a seed, as if they had been learned."""
    file = policy_file(**ENOUGH, added_features=added)
    if seed is None:
        return Policy(file)
    draw = np.random.default_rng(seed)
    prior, d = Policy(file).arrays, BEFORE + len(added)
    root = draw.normal(0, 1, (len(KINDS), d, d))
    return Policy(
        file, prior.theta + draw.normal(0, 0.3, prior.theta.shape), np.eye(d) + root @ root.transpose(0, 2, 1)
    )


CATALOG = make_catalog(WORLD, policy_of())


def pipeline_of(policy: Policy, *shadows: Policy) -> FeedPipeline:
    return FeedPipeline(Generation(CATALOG, policy, shadows), seed=11)


def requests(count: int = 9) -> list[FeedRequest]:
    return [request_for(FIRST_USER + n % 8, ENDPOINTS[n % 3], 24, f"{n:032x}") for n in range(count)]


def test_what_a_file_may_name_is_what_there_is() -> None:
    assert get_args(ItemColumn) == ItemStatistics._fields
    assert get_args(UserTerm) == USER_TERMS


def test_the_catalog_has_each_items_part() -> None:
    static, arrays = CATALOG.arrays.features, CATALOG.arrays
    assert static.shape == (340, FEATURES + len(ADDED))
    assert static[:, :FEATURES].tolist() == make_catalog(WORLD, WITHOUT).arrays.features.tolist()
    ages = (CATALOG.built_at - arrays.created) / 86400
    assert static[:, FEATURES] == pytest.approx(ages / 30, rel=1e-6)
    views = np.expm1(static[:300, FEATURE_NAMES.index("views")].astype(float) * 10)
    assert static[:300, FEATURES + 1] == pytest.approx(views / 100, rel=1e-4)
    assert not static[300:, FEATURES + 1 :].any()
    assert CATALOG.added_features[0] == "age_in_months = age_days / 30.0"


def test_a_candidate_has_them_times_the_users_terms() -> None:
    pipeline = pipeline_of(policy_of(1))
    memory, static, seen = pipeline.memory, CATALOG.arrays.features, np.zeros(len(ADDED))
    for request in requests():
        pipeline.rank(request)
        end = memory.pool_offsets[-1]
        X, items = memory.X[:, :end], memory.pool_items[:end]
        terms = {None: np.ones(end), "similarity": X[5], "match": X[6], "network": X[8]}
        terms["collaborative"] = X[COLLABORATIVE]
        for place, added in enumerate(ADDED):
            expected = static[items, FEATURES + place] * terms[added.get("times")]
            assert X[BEFORE + place] == pytest.approx(expected, rel=1e-12)
            seen[place] += np.abs(expected).sum()
    assert (seen > 0).all()


def test_records_and_explanations_have_them() -> None:
    policy = policy_of(2)
    pipeline = pipeline_of(policy)
    for request in requests():
        slots = unpack_slots(pipeline.rank(request).packed)
        exact = pipeline.memory.slot_X[:, : len(slots.items)].T
        assert slots.features == pytest.approx(exact, rel=RELATIVE_ERROR, abs=0)
        reason = why(policy, choice_of(pipeline.memory, 0), 0, None)
        assert list(reason.features) == [*FEATURE_NAMES, *COLLABORATIVE_NAMES, *(added["name"] for added in ADDED)]
        start = pipeline.memory.pool_offsets[reason_pool := int(slots.pools[0])]
        candidate = pipeline.memory.slot_candidate[0]
        assert reason_pool < len(KINDS)
        assert candidate >= start
        assert reason.score == pytest.approx(pipeline.memory.scoring.score[candidate], rel=1e-9)


def test_an_explanation_by_a_policy_of_other_features_names_what_it_can() -> None:
    pipeline = pipeline_of(policy_of(2))
    pipeline.rank(requests()[0])
    found = unweighed_why(WITHOUT, choice_of(pipeline.memory, 0), 0, "en").features
    before = [*FEATURE_NAMES, *COLLABORATIVE_NAMES]
    assert list(found) == [*before, *(f"feature_{place}" for place in range(BEFORE, D))]


def test_decisions_and_shadows_have_them() -> None:
    policy, shadow = policy_of(3), policy_of(4)
    pipeline = pipeline_of(policy, shadow, policy)
    for request in requests():
        slate = pipeline.rank(request, wants_decision=lambda *_: True)
        served = pipeline.memory.slot_propensity[: pipeline.memory.counts[SLOTS]]
        decision = unpack_decision(slate.decision)
        assert recorded_propensities(decision) == pytest.approx(served, rel=0, abs=1e-9)
        weighed = [propensities_under(decision, one) for one in (shadow.arrays, policy.arrays)]
        shadows = [np.frombuffer(propensities, "<f4") for _, propensities in slate.shadows]
        for found, expected in zip(shadows, weighed, strict=True):
            assert found == pytest.approx(expected, rel=0, abs=2e-4)
        assert shadows[1].tolist() == served.astype(np.float32).tolist()
        for kind, pool in enumerate(decision.pools):
            start, end = pipeline.memory.pool_offsets[kind], pipeline.memory.pool_offsets[kind + 1]
            exact = np.sort(pipeline.memory.X[:, start:end], axis=1)
            assert pool.X.shape == (end - start, D)
            assert np.sort(pool.X.T, axis=1) == pytest.approx(exact, rel=CLOSE_RELATIVE_ERROR, abs=0)


def test_a_policy_without_them_makes_the_same_feeds_from_either_catalog() -> None:
    plain = FeedPipeline(Generation(make_catalog(WORLD, WITHOUT), WITHOUT), seed=11)
    for request in requests():
        assert pipeline_of(WITHOUT).rank(request).packed == plain.rank(request).packed


@pytest.mark.parametrize("change", [{"scale": 31.0}, {"column": "ratings"}, {"name": "months"}])
def test_a_policy_of_other_features_than_the_catalogs_is_refused(change: dict[str, Any]) -> None:
    other = policy_of(added=[ADDED[0] | change, *ADDED[1:]])
    with pytest.raises(PolicyError, match=r"which lacks .* / "):
        pipeline_of(other)
    with pytest.raises(PolicyError, match=r"age_in_months = age_days / 30\.0"):
        FeedPipeline(Generation(make_catalog(WORLD, WITHOUT), policy_of()))


def test_their_number_compiles_nothing() -> None:
    request = requests()[0]
    pipeline_of(WITHOUT, WITHOUT).rank(request, wants_decision=lambda *_: True)
    with event.install_recorder("numba:compile") as recorder:
        for count in (1, 3, len(ADDED)):
            policy = policy_of(count, ADDED[:count])
            pipeline_of(policy, policy).rank(request, wants_decision=lambda *_: True)
    assert [happened.data for _, happened in recorder.buffer] == []
