"""Of each feed it is recorded how likely policies that do not serve were to make it: what the feed's decision says, and
to the last digit what was served where a shadow is the policy that serves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from numba.core import event

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import Decision, propensities_under, unpack_decision
from recommendation_service.ranking.working_memory import SLOTS
from tests.support.catalogs import make_catalog
from tests.support.policies import FEATURES, policy_file
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(5, videos=300, challenges=40, users=8)
SMALL = random_world(6, videos=20, challenges=5, users=4)
Floats = npt.NDArray[np.float64]

SERVED = Policy(policy_file())
OVER_A_FLOOR = Policy(policy_file(exploration__floor=0.2))
# So little that rules give way, what was seen comes back, and slots hold what is in no pool.
OF_LITTLE = Policy(policy_file(**{f"kinds__{kind}__pool": 4 for kind in KINDS}))


def learned(policy: Policy, seed: int) -> Policy:
    """Other θ and a dense A, learned from nothing in particular, and other temperatures."""
    draw = np.random.default_rng(seed)
    root = draw.normal(0, 1, (len(KINDS), FEATURES, FEATURES))
    kinds = {}
    for name in KINDS:
        kind = policy.file.kind(name)
        kinds[name] = kind.model_copy(update={"alpha": draw.uniform(0, 3), "temperature": draw.uniform(0.15, 3)})
    file = policy.file.model_copy(update={"kinds": policy.file.kinds | kinds})
    theta = policy.arrays.theta + draw.normal(0, 0.3, policy.arrays.theta.shape)
    return Policy(file, theta, np.eye(FEATURES) + root @ root.transpose(0, 2, 1), version=f"learned-{seed}")


def with_theta(policy: Policy, theta: Floats | float, **changes: object) -> Policy:
    return Policy(policy_file(**changes) if changes else policy.file, np.full_like(policy.arrays.theta, theta))


def pipeline_of(policy: Policy, *shadows: Policy) -> FeedPipeline:
    world = SMALL if policy is OF_LITTLE else WORLD
    return FeedPipeline(Generation(make_catalog(world, policy), policy, shadows), seed=11)


def requests(count: int = 12) -> list[FeedRequest]:
    return [
        request_for(FIRST_USER + number % 8, ENDPOINTS[number % 3], (24, 24, 100, 7)[number % 4], f"{number:032x}")
        for number in range(count)
    ]


def ranked(pipeline: FeedPipeline, request: FeedRequest) -> tuple[Slate, Decision, npt.NDArray[np.float32]]:
    """A feed, its decision, and the propensities that it was drawn with, as a record has them."""
    slate = pipeline.rank(request, wants_decision=lambda *_: True)
    served = pipeline.memory.slot_propensity[: pipeline.memory.counts[SLOTS]].astype(np.float32)
    return slate, unpack_decision(slate.decision), served


def shadow_of(slate: Slate, place: int = 0) -> npt.NDArray[np.float32]:
    return np.frombuffer(slate.shadows[place][1], "<f4")


@pytest.mark.parametrize(
    "policy",
    [SERVED, OF_LITTLE, OVER_A_FLOOR, learned(SERVED, 1), learned(OVER_A_FLOOR, 1)],
    ids=["starting", "of little", "over a floor", "learned", "learned over a floor"],
)
def test_a_shadow_of_what_serves_has_just_its_propensities(policy: Policy) -> None:
    pipeline, pools = pipeline_of(policy, learned(policy, 2), policy), set[int]()
    for request in requests():
        slate, decision, served = ranked(pipeline, request)
        assert shadow_of(slate, 1).tolist() == served.tolist()
        pools |= {slot.pool for slot in decision.slots}
    assert pools >= ({0, 1, 2, 3, 4, 100} if policy is OF_LITTLE else {0, 1, 2, 3, 4})


@pytest.mark.parametrize("policy", [SERVED, OF_LITTLE, OVER_A_FLOOR], ids=["starting", "of little", "over a floor"])
def test_shadows_are_what_the_decision_of_the_same_feed_says(policy: Policy) -> None:
    shadows = [learned(policy, seed) for seed in range(3)] + [learned(OVER_A_FLOOR, 3)]
    pipeline = pipeline_of(policy, *shadows)
    for request in requests():
        slate, decision, served = ranked(pipeline, request)
        assert [version for version, _ in slate.shadows] == [shadow.version for shadow in shadows]
        for place, shadow in enumerate(shadows):
            found, arrays = shadow_of(slate, place), shadow.arrays
            weighed = propensities_under(decision, arrays)
            assert found == pytest.approx(weighed, rel=0, abs=1e-4)
            drawn_without_scores = [slot.chosen < 0 for slot in decision.slots]
            assert found[drawn_without_scores].tolist() == served[drawn_without_scores].tolist()
    assert not np.allclose(found, served)


def as_numpy_has_it(pipeline: FeedPipeline, shadow: Policy, slot: int) -> tuple[float, float]:
    """Of a slot that was drawn from a pool: the shadow's propensity, and by how much the best that was left is below
    the pool's best, over the temperature."""
    memory, arrays = pipeline.memory, shadow.arrays
    pool = memory.slot_pool[slot]
    start, end = memory.pool_offsets[pool], memory.pool_offsets[pool + 1]
    X = memory.X[:, start:end].T
    scores = X @ arrays.theta[pool] + arrays.alpha[pool] * np.linalg.norm(X @ arrays.precision_root[pool], axis=1)
    scores /= arrays.temperature[pool]
    left = scores[memory.eligible[slot, start:end].astype(bool)]
    chosen = scores[memory.slot_candidate[slot] - start]
    share = np.exp(chosen - left.max()) / np.exp(left - left.max()).sum()
    return float((1 - arrays.floor) * share + arrays.floor / len(left)), float(scores.max() - left.max())


def test_shadows_are_as_exact_as_their_form() -> None:
    shadow = learned(SERVED, 7)
    pipeline = pipeline_of(SERVED, shadow)
    for request in requests():
        slate, decision, _ = ranked(pipeline, request)
        for slot, found in enumerate(shadow_of(slate)):
            if decision.slots[slot].chosen >= 0:
                assert found == pytest.approx(as_numpy_has_it(pipeline, shadow, slot)[0], rel=1e-6)


def test_a_shadow_without_a_score_that_is_a_number_draws_evenly() -> None:
    pipeline = pipeline_of(SERVED, with_theta(SERVED, np.nan), with_theta(SERVED, np.inf))
    for request in requests(6):
        slate, decision, _ = ranked(pipeline, request)
        expected = [1 / slot.eligible.sum() if slot.chosen >= 0 else slot.propensity for slot in decision.slots]
        assert shadow_of(slate, 0) == pytest.approx(expected, rel=1e-6)
        assert shadow_of(slate, 1) == pytest.approx(expected, rel=1e-6)


def test_where_all_weights_of_a_shadow_vanish_it_weighs_among_what_is_left() -> None:
    """What is left is further below the pool's best than an exponential reaches."""
    shadow = with_theta(SERVED, 3.0, **{f"kinds__{kind}__temperature": 0.001 for kind in KINDS})
    pipeline, vanished = pipeline_of(SERVED, shadow), 0
    for request in requests():
        slate, decision, _ = ranked(pipeline, request)
        for slot, found in enumerate(shadow_of(slate)):
            if decision.slots[slot].chosen >= 0:
                expected, below = as_numpy_has_it(pipeline, shadow, slot)
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-30)
                vanished += below > 700
    assert vanished > 0


def test_nothing_is_estimated_from_a_feed_that_is_not_personal() -> None:
    pipeline = pipeline_of(SERVED, learned(SERVED, 1))
    request = requests()[0]
    assert pipeline.rank(request).shadows
    assert pipeline.rank(request.but(personal=False)).shadows == ()


def test_shadows_change_no_feed_and_without_them_nothing_is_recorded() -> None:
    alone, beside = pipeline_of(SERVED), pipeline_of(SERVED, *(learned(SERVED, seed) for seed in range(4)))
    for request in requests():
        without = alone.rank(request)
        assert without.shadows == ()
        assert beside.rank(request).packed == without.packed


def test_another_shadow_compiles_nothing() -> None:
    pipeline_of(SERVED, learned(SERVED, 1)).rank(requests()[0])
    with event.install_recorder("numba:compile") as recorder:
        for count in (1, 2, 4):
            shadows = [learned(SERVED, 10 + seed) for seed in range(count)]
            assert len(pipeline_of(SERVED, *shadows).rank(requests()[0]).shadows) == count
    assert [happened.data for _, happened in recorder.buffer] == []
