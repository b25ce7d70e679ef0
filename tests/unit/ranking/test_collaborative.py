"""What people take together in a feed, against sums that are made item by item."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.catalog.store import Catalog
from recommendation_service.feed.explain import explained
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.model.columns import LATER_COLUMNS
from recommendation_service.model.features import COLLABORATIVE, HAND_SET, TRENDING
from recommendation_service.model.item_keys import item_key
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import recorded_propensities, unpack_decision
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED, SERVED, pack_detail
from recommendation_service.ranking.working_memory import SLOTS
from tests.support.catalogs import NOW, World, frozen, make_catalog
from tests.support.policies import policy_file, shipped_content
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(9, videos=260, challenges=30, users=60)
MOMENT = int(NOW.timestamp())
AU = KINDS.index("AU")
FEW = {"collaborative__least_interactions": 20, "collaborative__closed_form__regularization": 2.0}
POLICY = Policy(policy_file(**FEW))
CATALOG = make_catalog(WORLD, POLICY)
USERS = range(FIRST_USER, FIRST_USER + 60, 4)


def without_section() -> Policy:
    """The policy as it was before there was anything collaborative."""
    content = shipped_content()
    del content["collaborative"]
    for term in ("collaborative", "trending"):
        del content["kinds"]["AU"]["weights"][term]
    return Policy(type(POLICY.file).model_validate(content))


def entry(item: int, state: int, seconds_ago: int = 60) -> tuple[int, int]:
    """What is remembered of a video."""
    return item_key(RESUME, int(CATALOG.arrays.item_id[item])), pack_detail(MOMENT - seconds_ago, 0, 0, state)


def remembered(*entries: tuple[int, int]) -> bytes:
    return np.array(entries, np.int64).tobytes()


def request_of(user: int, **changes: Any) -> FeedRequest:
    return request_for(user).but(now=MOMENT, **changes)


def latest_of(user: int) -> list[int]:
    arrays = CATALOG.arrays
    row = int(np.searchsorted(arrays.user_id, user))
    start, end = arrays.history_offsets[row : row + 2]
    return [int(item) for item in arrays.history_items[start:end]]


def expected_of(latest: list[int]) -> npt.NDArray[np.float64]:
    """(M,) from the catalog's lists, the latest first."""
    arrays, section = CATALOG.arrays, POLICY.file.collaborative
    assert section is not None
    total = np.zeros(len(arrays.item_id))
    for place, item in enumerate(latest[: section.latest_items]):
        start, end = arrays.neighbour_offsets[item], arrays.neighbour_offsets[item + 1]
        total[arrays.neighbour_items[start:end]] += arrays.neighbour_weight[start:end] * np.exp(
            -place / section.recency_items
        )
    return total


def candidates(pipeline: FeedPipeline) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    memory = pipeline.memory
    end = memory.pool_offsets[-1]
    return memory.pool_items[:end], memory.X[:, :end]


def assert_expects(pipeline: FeedPipeline, latest: list[int]) -> None:
    items, X = candidates(pipeline)
    np.testing.assert_allclose(X[COLLABORATIVE], expected_of(latest)[items], rtol=1e-12)
    np.testing.assert_array_equal(X[TRENDING], CATALOG.arrays.trending[items])


def test_a_catalog_with_enough_has_lists_and_says_how() -> None:
    report = CATALOG.manifest["report"]["collaborative"]
    assert report["method"] == "slist"
    assert report["interactions"] > 20
    assert len(CATALOG.arrays.neighbour_items) > 500


def test_a_candidate_is_expected_after_the_users_latest_items() -> None:
    pipeline, total = FeedPipeline(Generation(CATALOG, POLICY)), 0.0
    for user in USERS:
        pipeline.rank(request_of(user))
        assert_expects(pipeline, latest_of(user))
        total += candidates(pipeline)[1][COLLABORATIVE].sum()
    assert total > 1


def test_what_a_session_did_counts_in_the_next_feed_and_what_was_only_shown_does_not() -> None:
    pipeline, user = FeedPipeline(Generation(CATALOG, POLICY)), FIRST_USER + 8
    new = [item for item in range(100) if item not in latest_of(user)][:5]
    seen = [entry(new[0], ACTED, 90), entry(new[1], SERVED), entry(new[2], IMPRESSED), entry(new[3], ACTED, 30)]
    pipeline.rank(request_of(user), remembered(*seen))
    assert_expects(pipeline, [new[3], new[0], *latest_of(user)])
    pipeline.rank(request_of(user))
    assert_expects(pipeline, latest_of(user))


def test_a_feed_that_is_not_personal_goes_by_nothing_that_the_user_took() -> None:
    pipeline = FeedPipeline(Generation(CATALOG, POLICY))
    pipeline.rank(request_of(FIRST_USER + 8, personal=False), remembered(entry(3, ACTED)))
    assert_expects(pipeline, [])
    assert 3 not in pipeline.memory.slot_item[: pipeline.memory.counts[SLOTS]]


def test_an_item_of_both_counts_once_where_it_was_last() -> None:
    pipeline, user = FeedPipeline(Generation(CATALOG, POLICY)), FIRST_USER + 12
    latest = latest_of(user)
    pipeline.rank(request_of(user), remembered(entry(latest[1], ACTED)))
    assert_expects(pipeline, [latest[1], latest[0], *latest[2:]])


def test_what_was_hidden_is_no_sign_of_liking() -> None:
    pipeline, user = FeedPipeline(Generation(CATALOG, POLICY)), FIRST_USER + 12
    latest = latest_of(user)
    pipeline.rank(request_of(user), remembered(entry(latest[0], HIDDEN)))
    assert_expects(pipeline, latest[1:])


@pytest.mark.parametrize("user_id", [0, 7_777])
def test_a_stranger_is_known_by_what_is_remembered_and_an_outsider_by_the_tables(user_id: int) -> None:
    pipeline = FeedPipeline(Generation(CATALOG, POLICY))
    pipeline.rank(request_of(user_id), remembered(entry(3, ACTED), entry(5, ACTED)))
    assert_expects(pipeline, [5, 3])
    history = np.array([[item_key(RESUME, 10), MOMENT - 50], [item_key(RESUME, 900_000), 0]], np.int64)
    outsider = pipeline.outsider(history, np.zeros(0, np.int64), 0, [])
    pipeline.rank(request_of(7_777, outsider=outsider), remembered(entry(3, ACTED, 60), entry(5, ACTED, 40)))
    assert_expects(pipeline, [5, 9, 3])


@pytest.mark.parametrize("exact_up_to", [8000, 50])
def test_the_pool_is_the_best_by_the_whole_sum(exact_up_to: int) -> None:
    """Whatever the catalog's size: what is expected is scored beside the heads of the orderings."""
    pipeline = FeedPipeline(Generation(CATALOG, Policy(policy_file(**FEW, pruning__exact_up_to_videos=exact_up_to))))
    everybody = FeedPipeline(Generation(CATALOG, Policy(policy_file(**FEW, kinds__AU__pool=1000))))
    differing = 0
    for user in USERS:
        seen = remembered(entry(3, ACTED), entry(5, ACTED))
        everybody.rank(request_of(user), seen)
        pipeline.rank(request_of(user), seen)
        start, end = everybody.memory.pool_offsets[AU : AU + 2]
        items, hand = everybody.memory.pool_items[start:end], everybody.memory.X[HAND_SET, start:end]
        best = set(items[np.argsort(-hand, kind="stable")[:170]].tolist())
        start, end = pipeline.memory.pool_offsets[AU : AU + 2]
        found = pipeline.memory.pool_items[start:end].tolist()
        assert len(set(found)) == len(found) == 170
        assert set(found) == best
        content = hand - 500 * everybody.memory.X[COLLABORATIVE, : len(hand)] / 10
        differing += len(best - set(items[np.argsort(-content)[:170]].tolist()))
    assert differing > 0


def test_explanations_add_up_and_decisions_give_the_propensities() -> None:
    pipeline = FeedPipeline(Generation(CATALOG, POLICY), seed=3)
    for user in USERS:
        slate = pipeline.rank(request_of(user, explain=True), wants_decision=lambda *_: True)
        served = pipeline.memory.slot_propensity[: pipeline.memory.counts[SLOTS]]
        assert recorded_propensities(unpack_decision(slate.decision)) == pytest.approx(served, rel=0, abs=1e-9)
        for position, (item, choice) in enumerate(zip(slate.items.tolist(), slate.choices, strict=True)):
            why = explained(CATALOG, POLICY, item, choice, position)
            terms = json.loads(why)["terms"]
            assert sum(terms.values()) == pytest.approx(10 * choice.x[HAND_SET], abs=1e-4)


def test_a_policy_or_a_catalog_without_ranks_as_before_to_the_last_bit() -> None:
    before = without_section()
    plain = FeedPipeline(Generation(make_catalog(WORLD, before), before), seed=11)
    beside = FeedPipeline(Generation(with_static_of(CATALOG, before, WORLD), before), seed=11)
    too_little = Policy(policy_file(collaborative__least_interactions=10**6))
    shipped = FeedPipeline(Generation(make_catalog(WORLD, too_little), too_little), seed=11)
    for number, user in enumerate(USERS):
        request = request_for(user, ENDPOINTS[number % 3], request_id=f"{number:032x}")
        expected = plain.rank(request)
        assert beside.rank(request).packed == expected.packed
        assert shipped.render(shipped.rank(request)) == plain.render(expected)
        slots = plain.memory.counts[SLOTS]
        for name in ("slot_item", "slot_pool", "slot_propensity"):
            np.testing.assert_array_equal(getattr(shipped.memory, name)[:slots], getattr(plain.memory, name)[:slots])


def with_static_of(catalog: Catalog, policy: Policy, world: World) -> Catalog:
    """``catalog`` with its lists, and with sums and orderings of another policy."""
    other = make_catalog(world, policy)
    lists = {name: getattr(catalog.arrays, name) for name in LATER_COLUMNS}
    return replace(other, arrays=other.arrays._replace(**lists))


def test_lists_that_say_nothing_are_no_lists() -> None:
    arrays = CATALOG.arrays
    empty = {
        "neighbour_offsets": frozen(np.zeros_like(arrays.neighbour_offsets)),
        "neighbour_items": frozen(np.zeros(0, np.int32)),
        "neighbour_weight": frozen(np.zeros(0, np.float32)),
    }
    bare = replace(CATALOG, version="bare", arrays=arrays._replace(**empty))
    pipeline = FeedPipeline(Generation(bare, POLICY))
    pipeline.rank(request_of(FIRST_USER + 12), remembered(entry(3, ACTED)))
    assert not candidates(pipeline)[1][COLLABORATIVE].any()
