"""A decision is enough to weigh another policy: the propensities that were served follow from it, and so do those of a
policy that did not serve, without catalog, database or user."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.log.decisions import MOST_BYTES
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.ranking.decisions import (
    Decision,
    propensities_under,
    recorded_propensities,
    unpack_decision,
)
from recommendation_service.ranking.packed_columns import CLOSE_RELATIVE_ERROR
from recommendation_service.ranking.working_memory import SLOTS
from recommendation_service.serving.decisions import is_drawn
from tests.support.catalogs import make_catalog
from tests.support.older_records import DECISION_IN_STEPS_OF_ONE_SIZE, DECISION_READ
from tests.support.policies import FEATURES, policy_file
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(5, videos=300, challenges=40, users=8)
SMALL = random_world(6, videos=20, challenges=5, users=4)
POLICY = load_policy()
CATALOG = make_catalog(WORLD, POLICY)
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def pipeline() -> FeedPipeline:
    return FeedPipeline(Generation(CATALOG, POLICY), seed=11)


@pytest.fixture(scope="module")
def small() -> FeedPipeline:
    """So little that rules give way, what was seen comes back, and slots hold what is in no pool."""
    policy = _with_pools_of(4)
    return FeedPipeline(Generation(make_catalog(SMALL, policy), policy), seed=3)


@pytest.fixture(scope="module")
def floored() -> FeedPipeline:
    policy = Policy(policy_file(exploration__floor=0.3, kinds__AU__pool=7))
    return FeedPipeline(Generation(make_catalog(SMALL, policy), policy), seed=3)


def _with_pools_of(size: int) -> Policy:
    kinds = POLICY.file.kinds
    smaller = {name: kind.model_copy(update={"pool": size}) for name, kind in kinds.items()}
    return Policy(POLICY.file.model_copy(update={"kinds": smaller}))


def decided(pipeline: FeedPipeline, request: FeedRequest) -> tuple[Slate, Decision, Floats]:
    """A feed, its decision, and the propensities that it was drawn with."""
    slate = pipeline.rank(request, wants_decision=lambda *_: True)
    assert 0 < len(slate.decision) <= MOST_BYTES
    memory = pipeline.memory
    return slate, unpack_decision(slate.decision), memory.slot_propensity[: memory.counts[SLOTS]].copy()


def requests(count: int = 12) -> list[FeedRequest]:
    return [
        request_for(FIRST_USER + number % 8, ENDPOINTS[number % 3], (24, 24, 100, 7)[number % 4], f"{number:032x}")
        for number in range(count)
    ]


@pytest.mark.parametrize("request_", requests(), ids=str)
@pytest.mark.parametrize("which", ["pipeline", "small", "floored"])
def test_the_served_propensities_follow_from_the_recorded_weights(
    which: str, request_: FeedRequest, request: pytest.FixtureRequest
) -> None:
    slate, decision, served = decided(request.getfixturevalue(which), request_)
    assert recorded_propensities(decision) == pytest.approx(served, rel=0, abs=1e-9)
    assert [slot.item for slot in decision.slots] == slate.keys.tolist()
    assert [slot.propensity for slot in decision.slots] == served.tolist()


def test_every_way_of_filling_a_slot_is_recorded(small: FeedPipeline) -> None:
    pools, relaxed = set(), 0
    for request in requests(24):
        _, decision, _ = decided(small, request)
        pools |= {slot.pool for slot in decision.slots}
        for slot in decision.slots:
            relaxed |= slot.relaxed
    assert pools >= {0, 1, 2, 3, 4, 100}
    assert relaxed & 0b0111


def other_policy(seed: int, base: Policy = POLICY) -> Policy:
    """Other θ, A and α, learned from nothing in particular, and other temperatures."""
    draw = np.random.default_rng(seed)
    theta = base.arrays.theta + draw.normal(0, 0.3, base.arrays.theta.shape)
    root = draw.normal(0, 1, (len(KINDS), FEATURES, FEATURES))
    A = np.eye(FEATURES) + root @ root.transpose(0, 2, 1)
    kinds = {}
    for name in KINDS:
        kind = base.file.kinds[name]
        kinds[name] = kind.model_copy(update={"alpha": draw.uniform(0, 3), "temperature": draw.uniform(0.15, 3)})
    file = base.file.model_copy(update={"kinds": kinds})
    return Policy(file, theta, A)


@pytest.mark.parametrize("seed", range(4))
def test_another_policys_probability_is_what_its_own_run_gives(pipeline: FeedPipeline, seed: int) -> None:
    """Its own pipeline ranks the same request: from its scores follows how likely it is to make the recorded feed."""
    other = other_policy(seed)
    theirs = FeedPipeline(Generation(CATALOG, other), seed=11)
    arrays = other.arrays
    for request in requests():
        _, decision, _ = decided(pipeline, request)
        weighed = propensities_under(decision, arrays)
        theirs.rank(request)
        assert weighed == pytest.approx(_as_it_would_draw(theirs, decision), rel=0, abs=1e-4)
    assert len(weighed) > 0


@pytest.mark.parametrize("which", ["pipeline", "small"])
@pytest.mark.parametrize("seed", range(4))
def test_what_another_policy_draws_has_the_probability_that_it_is_served_with(
    seed: int, which: str, request: pytest.FixtureRequest
) -> None:
    """As long as its own run has chosen what was served, its next slot could hold the same: of whatever it chooses
    there, the decision tells with what probability."""
    pipeline, compared = request.getfixturevalue(which), 0
    other = other_policy(seed, pipeline.policy)
    theirs, arrays = FeedPipeline(Generation(pipeline.catalog, other), seed=11), other.arrays
    for each in requests():
        _, decision, _ = decided(pipeline, each)
        slate = theirs.rank(each)
        for place, (slot, key) in enumerate(zip(decision.slots, slate.keys.tolist(), strict=True)):
            if slot.chosen < 0 or slot.pool != theirs.memory.slot_pool[place]:
                break  # exploration has no weights
            members = decision.items[decision.pools[slot.pool].members].tolist()
            chosen = slot._replace(item=key, chosen=members.index(key))
            [weighed] = propensities_under(decision._replace(slots=[chosen]), arrays)
            assert weighed == pytest.approx(theirs.memory.slot_propensity[place], rel=0, abs=1e-4)
            compared += 1
            if key != slot.item:
                break
    assert compared >= len(requests())


def _as_it_would_draw(theirs: FeedPipeline, decision: Decision) -> Floats:
    """From the scores of the other pipeline's own candidates, which are the same."""
    memory, arrays = theirs.memory, theirs.catalog.arrays
    found = []
    for slot in decision.slots:
        if slot.chosen < 0:
            found.append(slot.propensity)
            continue
        start, end = memory.pool_offsets[slot.pool], memory.pool_offsets[slot.pool + 1]
        rows = memory.pool_items[start:end]
        keys = arrays.item_id[rows] << 1 | (rows >= arrays.worded)
        eligible = set(decision.items[decision.pools[slot.pool].members[slot.eligible]].tolist())
        scores = memory.scoring.score[start:end] / theirs.policy.arrays.temperature[slot.pool]
        weights = {int(key): np.exp(score - scores.max()) for key, score in zip(keys, scores, strict=True)}
        assert eligible <= weights.keys()
        floor = theirs.policy.arrays.floor
        share = weights[slot.item] / sum(weights[key] for key in eligible)
        found.append((1 - floor) * share + floor / len(eligible))
    return np.array(found)


def test_the_same_policy_gives_the_same_from_features(pipeline: FeedPipeline) -> None:
    arrays = POLICY.arrays
    for request in requests():
        _, decision, served = decided(pipeline, request)
        weighed = propensities_under(decision, arrays)
        assert weighed == pytest.approx(served, rel=0, abs=1e-4)


def test_candidates_have_their_features(pipeline: FeedPipeline) -> None:
    _, decision, _ = decided(pipeline, requests()[0])
    memory, arrays = pipeline.memory, CATALOG.arrays
    for kind, pool in enumerate(decision.pools):
        start, end = memory.pool_offsets[kind], memory.pool_offsets[kind + 1]
        rows = memory.pool_items[start:end]
        keys = (arrays.item_id[rows] << 1 | (rows >= arrays.worded)).tolist()
        exact = dict(zip(keys, memory.X.T[start:end], strict=True))
        for key, x in zip(decision.items[pool.members].tolist(), pool.X, strict=True):
            assert x == pytest.approx(exact[key], rel=CLOSE_RELATIVE_ERROR, abs=0)


def test_a_decision_says_the_floor_of_its_draws(floored: FeedPipeline) -> None:
    """Without one it is as before there were floors."""
    without = FeedPipeline(Generation(floored.catalog, Policy(policy_file(exploration__floor=0.0))), seed=3)
    for request in requests():
        _, decision, _ = decided(floored, request)
        assert decision.floor == 0.3
        slate, decision, _ = decided(without, request)
        assert decision.floor == 0.0
        with pytest.raises(ValueError, match="floor"):
            unpack_decision(slate.decision + b"\xff" * 8)


def test_recording_a_decision_changes_no_feed(pipeline: FeedPipeline) -> None:
    for request in requests():
        alone = pipeline.rank(request).packed
        with_decision = pipeline.rank(request, wants_decision=lambda *_: True)
        assert (with_decision.packed, pipeline.rank(request).packed) == (alone, alone)


def test_a_decision_of_the_release_before_is_read_as_it_read_it() -> None:
    decision = unpack_decision(DECISION_IN_STEPS_OF_ONE_SIZE)
    columns = [decision.items, *(column for pool in decision.pools for column in pool)]
    assert sha256(b"".join(column.tobytes() for column in columns)).hexdigest() == DECISION_READ
    served = [slot.propensity for slot in decision.slots]
    assert recorded_propensities(decision) == pytest.approx(served, rel=0, abs=1e-9)


def test_what_is_no_decision_is_refused(pipeline: FeedPipeline) -> None:
    slate, _, _ = decided(pipeline, requests()[0])
    for damaged in (b"", slate.decision[:-3], slate.decision + b"abc"):
        with pytest.raises(ValueError, match=r"."):
            unpack_decision(damaged)


def test_chance_draws_its_share_apart_from_the_feeds_own_draws() -> None:
    seeds = np.random.default_rng(1).integers(0, 2**63, 20_000).tolist()
    drawn = [is_drawn(seed, 0.05) for seed in seeds]
    assert sum(drawn) == pytest.approx(1000, abs=130)
    assert not any(is_drawn(seed, 0.0) for seed in seeds)
    assert all(is_drawn(seed, 1.0) for seed in seeds)
    assert drawn == [is_drawn(seed, 0.05) for seed in seeds]


def test_feeds_that_chance_draws_are_like_the_others(pipeline: FeedPipeline) -> None:
    """The draw is from the feed's seed, as its own draws are: these must not be others for it."""
    drawn, others = Counter[int](), Counter[int]()
    for number in range(3000):
        slate = pipeline.rank(request_for(FIRST_USER, "total", 1, f"{number:032x}"))
        (drawn if is_drawn(slate.seed, 0.2) else others)[int(slate.keys[0])] += 1
    seen = [item for item, count in others.items() if count >= 15]
    expected = np.array([others[item] / others.total() * drawn.total() for item in seen])
    found = np.array([drawn[item] for item in seen])
    chi = float((((found - expected) ** 2) / expected).sum())
    assert len(seen) >= 4
    assert chi < len(seen) + 5 * np.sqrt(2 * len(seen))
