"""Each draw has the probability that its propensity states, and the propensity is the document's."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.format import PolicyFile
from recommendation_service.policies.policy import Policy
from tests.support.catalogs import Challenge, Item, Key, Video, World, frozen, make_catalog
from tests.support.policies import FEATURES, policy_file, shipped_content
from tests.support.rules import FeedSoFar, Pools
from tests.support.slates import Slot, exploration_sample, pool_of, ranked, request_for
from tests.support.worlds import random_world
from tests.unit.ranking.oracle import Floats, Oracle

DRAWS = 4000
FEED_KINDS = ("VMP", "AU", "NU", "FW", "FLOW")


def small_pools(**changes: object) -> PolicyFile:
    """Pools that a feed empties, so that exploration and the relaxed rules come into play."""
    sizes = {"VMP": 9, "AU": 7, "NU": 5, "FW": 4, "FLOW": 4}
    pools = {f"kinds__{kind}__pool": size for kind, size in sizes.items()}
    return policy_file(**{**pools, "exploration__size": 12, **changes})


def pipeline_of(world: World, policy: Policy) -> FeedPipeline:
    return FeedPipeline(Generation(make_catalog(world, policy), policy))


def assert_propensities_are_exact(
    world: World,
    pipeline: FeedPipeline,
    oracle: Oracle,
    user_id: int,
    endpoint: str,
    size: int,
    tolerance: float = 1e-5,
) -> Counter[str]:
    """Replay a feed slot by slot: each propensity is the probability among what the rules allowed then.

    Says from where the slots were filled.
    """
    slots = ranked(pipeline, world, request_for(user_id, endpoint, size))
    pools = {kind: pool_of(pipeline, world, kind) for kind in FEED_KINDS}
    keys = {kind: {item.key for item in pool} for kind, pool in pools.items()}
    so_far = FeedSoFar(Pools(keys, oracle.reader(user_id).history))
    for slot in slots:
        if slot.pool == "seen":
            assert slot.propensity == 1
        elif slot.pool == "exploration":
            allowed = so_far.eligible(explored_from(pipeline, world, slot, so_far, keys), slot.kind, slot.relaxed)
            assert slot.item in allowed
            assert slot.propensity == pytest.approx(1 / len(allowed))
        else:
            allowed = so_far.eligible(pools[slot.pool], slot.kind, slot.relaxed)
            expected = dict(zip(allowed, oracle.softmax(slot.pool, user_id, allowed), strict=True))
            assert slot.propensity == pytest.approx(expected[slot.item], abs=tolerance)
        so_far.place(slot.item)
    return Counter(slot.pool for slot in slots)


def explored_from(
    pipeline: FeedPipeline, world: World, slot: Slot, so_far: FeedSoFar, pools: dict[str, set[Key]]
) -> list[Item]:
    """The sample, and where the rules allow nothing of it, everything in no pool."""
    sample = exploration_sample(pipeline, world, slot.item.key[0])
    assert sample is not None
    if so_far.eligible(sample, slot.kind, slot.relaxed):
        return sample
    pooled = {key for pool in pools.values() for key in pool}
    return [
        item
        for item in world.items
        if item.key[0] == slot.item.key[0] and item.key not in pooled and item.key not in so_far.pools.seen
    ]


@pytest.mark.parametrize("endpoint", ["total", "discover", "flow"])
@pytest.mark.parametrize("learned", [False, True], ids=["prior", "learned"])
def test_a_propensity_is_the_softmax_over_what_was_eligible(endpoint: str, learned: bool) -> None:
    world = random_world(11, videos=300, challenges=50, users=8)
    theta, A = models(11) if learned else (None, None)
    policy = Policy(policy_file(), theta, A)
    oracle = Oracle(world, policy.file, theta, A)
    pipeline = pipeline_of(world, policy)
    for user in world.users:
        sources = assert_propensities_are_exact(world, pipeline, oracle, user.id, endpoint, 24)
        assert sources["exploration"] == sources["seen"] == 0


@pytest.mark.parametrize("endpoint", ["total", "discover", "flow"])
def test_propensities_stay_exact_when_pools_are_spent_and_rules_give_way(endpoint: str) -> None:
    world = random_world(12, videos=90, challenges=20, users=8, creators=25, skills=25, longest_history=25)
    policy = Policy(small_pools())
    oracle = Oracle(world, policy.file)
    sources: Counter[str] = Counter()
    pipeline = pipeline_of(world, policy)
    for user in world.users:
        sources += assert_propensities_are_exact(world, pipeline, oracle, user.id, endpoint, 100)
    assert sources["exploration"] > 0
    assert sources["seen"] > 0


@pytest.mark.parametrize("temperature", [0.8, 1e-6], ids=["soft", "vanishing"])
def test_propensities_are_exact_over_a_floor(temperature: float) -> None:
    world = random_world(12, videos=90, challenges=20, users=8, creators=25, skills=25, longest_history=25)
    temperatures = {f"kinds__{kind}__temperature": temperature for kind in FEED_KINDS}
    policy = Policy(small_pools(exploration__floor=0.2, **temperatures))
    oracle = Oracle(world, policy.file)
    sources: Counter[str] = Counter()
    pipeline = pipeline_of(world, policy)
    for user in world.users:
        sources += assert_propensities_are_exact(world, pipeline, oracle, user.id, "total", 100)
    assert sources["exploration"] > 0
    assert sources["seen"] > 0  # whose propensity stays 1


def test_nothing_that_is_drawn_from_a_pool_is_below_the_floor() -> None:
    world = random_world(11, videos=300, challenges=50, users=8)
    policy = Policy(policy_file(exploration__floor=0.1))
    pipeline = pipeline_of(world, policy)
    for number in range(50):
        for slot in ranked(pipeline, world, request_for(world.users[number % 8].id, request_id=f"{number}")):
            assert slot.propensity >= 0.1 / policy.file.kind(slot.pool).pool


def test_without_a_floor_feeds_are_as_before_there_was_one() -> None:
    """One number a slot decides as it did; these are the items of the release before."""
    world = random_world(11, videos=300, challenges=50, users=8)
    content = shipped_content()
    del content["exploration"]["floor"]
    older, none = Policy(PolicyFile.model_validate(content)), Policy(policy_file(exploration__floor=0.0))
    one, other = (pipeline_of(world, policy) for policy in (older, none))
    digest = hashlib.sha256()
    for number in range(20):
        request = request_for(world.users[number % 8].id, request_id=f"{number}")
        slate = one.rank(request)
        assert other.rank(request).packed == slate.packed
        digest.update(slate.keys.tobytes())
    assert digest.hexdigest()[:16] == "181a24dbd39e549e"


def test_propensities_stay_exact_among_scores_far_below_the_best() -> None:
    """Beside the best of the pool the others' weights are too small for a number."""
    world = random_world(13, videos=40, challenges=4, users=4, creators=30)
    theta = np.zeros((len(KINDS), FEATURES))
    theta[:, 17] = 1500.0
    policy = Policy(policy_file(), theta)
    oracle = Oracle(world, policy.file, theta)
    pipeline = pipeline_of(world, policy)
    for user in world.users:
        assert_propensities_are_exact(world, pipeline, oracle, user.id, "discover", 40, tolerance=2e-3)


@pytest.mark.parametrize("videos", [60, 1000], ids=["few", "many"])
def test_the_exploration_sample_holds_nothing_twice_and_nothing_of_a_pool(videos: int) -> None:
    world = random_world(14, videos=videos, users=3, creators=200)
    policy = Policy(small_pools(exploration__size=40))
    pipeline = pipeline_of(world, policy)
    oracle = Oracle(world, policy.file)
    user_id, excluded = world.users[2].id, list(range(1, 11))
    request = request_for(user_id, "discover", 40, excluded=excluded)
    slots = ranked(pipeline, world, request)
    assert "exploration" in {slot.pool for slot in slots}
    sample = exploration_sample(pipeline, world, "resume")
    assert sample is not None
    pooled = {item.key for kind in FEED_KINDS for item in pool_of(pipeline, world, kind)}
    sampled = {item.key for item in sample}
    hidden = {item.key for item in world.items if item.id in excluded} | set(oracle.reader(user_id).history)
    rest = {item.key for item in world.items} - hidden - pooled
    assert len(sample) == len(sampled) == min(40, len(rest))
    assert sampled <= rest


# Frequencies.


def models(seed: int) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    G = draw.normal(size=(len(KINDS), FEATURES, FEATURES))
    return draw.normal(scale=2.0, size=(len(KINDS), FEATURES)), np.eye(FEATURES) + G @ G.transpose(0, 2, 1)


def all_different(videos: int = 0, challenges: int = 0) -> World:
    """Items that no rule keeps apart: of different creators, with skills of their own."""
    return World(
        [
            Video(n, creator=n, skills=(f"a{n}", f"b{n}", f"c{n}"), age_days=n, views=n * n, saves=n)
            for n in range(1, videos + 1)
        ],
        [Challenge(n, creator=1000 + n, age_days=2 * n) for n in range(1, challenges + 1)],
    )


def drawn(
    world: World, policy: Policy, endpoint: str, size: int, read: Callable[[list[Slot]], Hashable]
) -> Counter[Hashable]:
    pipeline = FeedPipeline(Generation(make_catalog(world, policy), policy), seed=7)
    return Counter(
        read(ranked(pipeline, world, request_for(0, endpoint, size, f"request {number}"))) for number in range(DRAWS)
    )


def assert_frequencies_fit(counts: Counter[Hashable], probabilities: dict[Hashable, float]) -> None:
    """χ² with a threshold that a right generator passes all but once in some ten thousand seeds.

    Outcomes expected less than 5 times are counted together, as the test requires.
    """
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert set(counts) <= set(probabilities)
    cells: list[tuple[float, float]] = []
    rare_found, rare_expected = 0.0, 0.0
    for outcome, probability in probabilities.items():
        if probability * DRAWS >= 5:
            cells.append((counts[outcome], probability * DRAWS))
        else:
            rare_found += counts[outcome]
            rare_expected += probability * DRAWS
    if rare_expected >= 5:
        cells.append((rare_found, rare_expected))
    else:
        assert rare_found <= rare_expected + 5 * math.sqrt(rare_expected) + 1
    assert len(cells) > 2, "hardly anything was left to chance"
    statistic = sum((found - expected) ** 2 / expected for found, expected in cells)
    assert statistic < chi_square_quantile(len(cells) - 1, z=4.0)


def chi_square_quantile(degrees: int, z: float) -> float:
    """Wilson & Hilferty (1931): the cube root of χ²/k is nearly normal."""
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


def only(kind: str) -> dict[str, list[str]]:
    return {"feeds__flow" if kind in ("FW", "FLOW") else "feeds__discover": [kind]}


@pytest.mark.parametrize("kind", FEED_KINDS)
def test_a_kinds_items_are_drawn_as_often_as_its_softmax_says(kind: str) -> None:
    world = all_different(videos=25, challenges=12)
    policy = Policy(policy_file(**only(kind)))
    oracle = Oracle(world, policy.file)
    endpoint = "flow" if kind in ("FW", "FLOW") else "discover"
    pool = oracle.pool(kind, 0)
    probabilities: dict[Hashable, float] = {
        item.key: p for item, p in zip(pool, oracle.softmax(kind, 0, pool), strict=True)
    }
    counts = drawn(world, policy, endpoint, 1, lambda slots: slots[0].item.key)
    assert_frequencies_fit(counts, probabilities)


def test_over_a_floor_items_are_drawn_as_often_as_it_says() -> None:
    """From among those that the slot could hold: here not of the first slot's creator."""
    world = World(
        [Video(n, creator=1 + n // 3, skills=(f"a{n}", f"b{n}", f"c{n}"), views=n * n) for n in range(1, 13)], []
    )
    policy = Policy(policy_file(**only("AU"), exploration__floor=0.5, kinds__AU__temperature=0.02))
    oracle = Oracle(world, policy.file)
    pool = oracle.pool("AU", 0)
    seconds: dict[Hashable, float] = {}
    for item, p in zip(pool, oracle.softmax("AU", 0, pool), strict=True):
        others = [other for other in pool if other.creator != item.creator]
        for other, q in zip(others, oracle.softmax("AU", 0, others), strict=True):
            seconds[other.key] = seconds.get(other.key, 0.0) + p * q
    counts = drawn(world, policy, "discover", 2, lambda slots: slots[1].item.key)
    assert_frequencies_fit(counts, seconds)


def test_two_slots_together_are_drawn_without_replacement() -> None:
    world = all_different(videos=6)
    policy = Policy(policy_file(**only("AU")))
    oracle = Oracle(world, policy.file)
    pool = oracle.pool("AU", 0)
    pairs: dict[Hashable, float] = {}
    for item, p in zip(pool, oracle.softmax("AU", 0, pool), strict=True):
        others = [other for other in pool if other != item]
        for other, q in zip(others, oracle.softmax("AU", 0, others), strict=True):
            pairs[item.key, other.key] = p * q
    counts = drawn(world, policy, "discover", 2, lambda slots: (slots[0].item.key, slots[1].item.key))
    assert_frequencies_fit(counts, pairs)


@pytest.mark.parametrize(("videos", "sample"), [(6, 2), (400, 6)], ids=["reservoir", "rejection"])
def test_exploration_draws_each_of_the_rest_equally_often(videos: int, sample: int) -> None:
    world = all_different(videos=videos)
    policy = Policy(policy_file(**only("AU"), kinds__AU__pool=1, exploration__size=sample))
    oracle = Oracle(world, policy.file)
    (pooled,) = oracle.pool("AU", 0)
    rest = [item.key for item in world.items if item != pooled]
    counts = drawn(world, policy, "discover", 2, lambda slots: slots[1].item.key)
    assert_frequencies_fit(counts, dict.fromkeys(rest, 1 / len(rest)))


def test_exploration_past_its_sample_draws_each_of_the_rest_equally_often() -> None:
    """The sample of one is of the feed's first creator more often than not; then all of the rest is drawn from."""
    first = Video(1, creator=1, skills=("a", "b", "c"), views=10**6)
    same = [Video(n, creator=1, skills=(f"d{n}",)) for n in range(2, 12)]
    other = [Video(n, creator=n, skills=(f"d{n}",)) for n in range(12, 20)]
    world = World([first, *same, *other])
    policy = Policy(policy_file(**only("AU"), kinds__AU__pool=1, exploration__size=1))
    counts = drawn(world, policy, "discover", 2, lambda slots: slots[1].item.key)
    assert_frequencies_fit(counts, {video.key: 1 / len(other) for video in other})


# Scores that are not numbers.


def pipeline_with_broken_features(world: World, broken: Sequence[int], value: float) -> FeedPipeline:
    """A catalog in which a feature of the items at the places ``broken`` is ``value``."""
    catalog = make_catalog(world)
    features = catalog.arrays.features.copy()
    features[list(broken), 14] = value
    arrays = catalog.arrays._replace(features=frozen(features))
    theta = np.zeros((len(KINDS), FEATURES))
    theta[:, [14, 17]] = 1.0, 10.0
    policy = Policy(policy_file(**only("AU"), exploration__floor=0.0), theta)
    return FeedPipeline(Generation(replace(catalog, version="broken", arrays=arrays), policy))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_a_number_sinks(value: float) -> None:
    world = all_different(videos=6)
    pipeline = pipeline_with_broken_features(world, [2], value)
    for number in range(200):
        slots = ranked(pipeline, world, request_for(0, "discover", 6, f"request {number}"))
        assert [slot.item.id for slot in slots].index(3) == 5
        assert slots[5].propensity == 1
        assert all(0 < slot.propensity <= 1 for slot in slots)


def test_scores_none_of_which_is_a_number_are_drawn_evenly() -> None:
    world = all_different(videos=6)
    pipeline = pipeline_with_broken_features(world, range(6), math.nan)
    counts: Counter[Hashable] = Counter()
    for number in range(DRAWS):
        slots = ranked(pipeline, world, request_for(0, "discover", 6, f"request {number}"))
        assert [slot.propensity for slot in slots] == pytest.approx([1 / n for n in range(6, 0, -1)])
        counts[slots[0].item.key] += 1
    assert_frequencies_fit(counts, {item.key: 1 / 6 for item in world.items})


def test_a_model_that_is_not_a_number_still_gives_a_whole_feed() -> None:
    world = random_world(15, videos=200, challenges=30, users=3)
    policy = Policy(policy_file(), np.full((len(KINDS), FEATURES), math.nan))
    pipeline = FeedPipeline(Generation(make_catalog(world), policy))
    slots = ranked(pipeline, world, request_for(world.users[2].id))
    assert len({slot.item.key for slot in slots}) == 24
    assert all(0 < slot.propensity <= 1 for slot in slots)
