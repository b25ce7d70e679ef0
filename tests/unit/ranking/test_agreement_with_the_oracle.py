"""The kernels give the features, scores and pools of today's ranking, as the oracle computes them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy
from tests.support.catalogs import Challenge, Interaction, User, Video, World, make_catalog
from tests.support.policies import FEATURES, policy_file
from tests.support.slates import candidate_features, candidate_scores, pool_of, ranked, request_for, tokens_noted
from tests.support.worlds import FIRST_USER, random_world
from tests.unit.ranking.oracle import KIND_TYPE, Floats, Oracle

TOLERANCE = 1e-5
ANONYMOUS, UNKNOWN = 0, 999_999_999
KINDS_OF = {"total": ("VMP", "AU", "NU", "FW"), "discover": ("VMP", "AU", "NU"), "flow": ("FLOW",)}


class Setting(NamedTuple):
    world: World
    pipeline: FeedPipeline
    oracle: Oracle


def setting(world: World, theta: Floats | None = None, A: Floats | None = None) -> Setting:
    policy = Policy(policy_file(), theta, A)
    return Setting(world, FeedPipeline(Generation(make_catalog(world), policy)), Oracle(world, policy.file, theta, A))


def learned_models(seed: int) -> tuple[Floats, Floats]:
    """What feedback might have made of the prior: any θ, and any positive definite A."""
    draw = np.random.default_rng(seed)
    G = draw.normal(size=(len(KINDS), FEATURES, FEATURES))
    return draw.normal(scale=3.0, size=(len(KINDS), FEATURES)), np.eye(FEATURES) + G @ G.transpose(0, 2, 1)


def assert_close(found: Floats, expected: Floats) -> None:
    """To 1e-5 of the value, and of 1 where the value is smaller."""
    assert np.shape(found) == np.shape(expected)
    error = np.abs(np.subtract(found, expected)) / np.maximum(1.0, np.abs(expected))
    assert np.max(error, initial=0.0) <= TOLERANCE


def assert_agrees(case: Setting, user_id: int, endpoint: str = "total", excluded: tuple[int, ...] = ()) -> None:
    """Candidates, their features and scores, and those of the chosen slots."""
    world, pipeline, oracle = case
    slots = ranked(pipeline, world, request_for(user_id, endpoint, excluded=excluded))
    for kind in KINDS_OF[endpoint]:
        items = pool_of(pipeline, world, kind)
        best = oracle.pool(kind, user_id, excluded)
        # Items of equal sums are exchangeable at a pool's edge, so pools are compared by their sums.
        sums = sorted(oracle.hand_set_sum(item, user_id, kind) for item in items)
        assert_close(np.array(sums), np.array(sorted(oracle.hand_set_sum(item, user_id, kind) for item in best)))
        assert len({item.key for item in items}) == len(items)
        assert all(oracle.may_hold(kind, item) and item.id not in excluded for item in items)
        if items:
            expected = np.array([oracle.features(item, user_id, kind) for item in items])
            assert_close(candidate_features(pipeline, kind), expected)
            scores = np.array([oracle.score(item, user_id, kind) for item in items])
            assert_close(candidate_scores(pipeline, kind), scores)
    for slot in slots:
        if slot.item.key[0] == KIND_TYPE[slot.kind]:
            assert_close(slot.features, oracle.features(slot.item, user_id, slot.kind))
            assert_close(np.array(slot.score), np.array(oracle.score(slot.item, user_id, slot.kind)))


@pytest.mark.parametrize("learned", [False, True], ids=["prior", "learned"])
@pytest.mark.parametrize("endpoint", ["total", "discover", "flow"])
@pytest.mark.parametrize("seed", [1, 2])
def test_features_scores_and_pools_are_the_documents(seed: int, endpoint: str, learned: bool) -> None:
    world = random_world(seed, videos=400, challenges=60, users=9, longest_history=60)
    case = setting(world, *(learned_models(seed) if learned else ()))
    for user_id in (ANONYMOUS, UNKNOWN, *(user.id for user in world.users)):
        assert_agrees(case, user_id, endpoint)


@pytest.mark.parametrize("endpoint", ["total", "flow"])
def test_a_pool_is_refilled_with_the_next_best_where_its_head_is_excluded(endpoint: str) -> None:
    world = random_world(4, videos=500, challenges=60, users=6)
    case = setting(world)
    for user in world.users:
        assert_agrees(case, user.id, endpoint, excluded=tuple(range(1, 150)))


@pytest.mark.parametrize("learned", [False, True], ids=["prior", "learned"])
def test_a_catalog_smaller_than_its_pools_is_a_candidate_whole(learned: bool) -> None:
    world = random_world(5, videos=12, challenges=3, users=5, creators=6, skills=8, longest_history=4)
    case = setting(world, *(learned_models(5) if learned else ()))
    for user in world.users:
        assert_agrees(case, user.id)


def test_the_kernels_agree_with_numbers_worked_out_by_hand() -> None:
    liked = Video(1, creator=1, skills=("Python", "SQL"), tools=("git",), city="Bogota", age_days=50)
    video = Video(
        2, creator=2, skills=("SQL", "sales"), languages=("es",), city="Bogotá D.C.", age_days=28,
        average=4.0, ratings=10, matches=1, saves=3, exhibitions=1, views=19,
    )  # fmt: skip
    user = User(9, (Interaction(1),))
    world = World([liked, video], [], [user], [(2, 9), (9, 3)])
    pipeline = setting(world).pipeline
    (first,) = [slot for slot in ranked(pipeline, world, request_for(9, "discover")) if slot.item == video]
    recency = np.exp(-1.0)
    popularity = 0.40 * np.log(20) + 0.35 * 4 + 0.25 * np.log(2)
    quality = 0.7 * 4 * 0.5 + 0.3 * np.log(2)
    assert first.kind == "VMP"
    assert_close(
        first.features,
        np.array([
            0.35 + 0.40 * 0.8 + 0.25, 1.5 * recency, quality, popularity, 2 / 15,
            0.6 * 0.5 + 0.4 * 0.5, 0.15, 1, 1, np.log(20) / 10, 0.8, (1 / 3 + 1 / 2) / 2, 1,
            np.log(3) / 10, 10 / 11, 3 / 4, 1 / 2,
            (2.2 * 0.92 + 1.6 * popularity + 1.8 * quality + 1.4) / 10, 0, 0,
        ]),
    )  # fmt: skip


def videos_of_many_skills(how_many: int) -> list[Video]:
    return [Video(n, creator=n, skills=(f"skill {n % 7}", f"skill {n % 11}"), age_days=n) for n in range(1, how_many)]


def test_only_the_latest_80_videos_of_a_history_count() -> None:
    videos = [*videos_of_many_skills(200), Video(900, creator=900, skills=("early",), city="Quito")]
    early = (Interaction(900, days_ago=80), Interaction(1, 1, "view", "challenge"))
    history = tuple(Interaction(n, days_ago=n / 10) for n in range(1, 121))
    candidate = Video(901, creator=901, skills=("early",), city="Quito")
    world = World([*videos, candidate], [Challenge(1, creator=5)], [User(1, early + history)])
    assert Oracle(world, policy_file()).similarity(candidate, 1) == 0
    assert_agrees(setting(world), 1)


def test_interactions_with_challenges_do_not_use_up_the_80() -> None:
    challenges = [Challenge(n, creator=n) for n in range(1, 41)]
    viewed = tuple(Interaction(n, n / 100, "view", "challenge") for n in range(1, 41))
    history = tuple(Interaction(n, days_ago=1 + n / 10) for n in range(1, 81))
    world = World(videos_of_many_skills(200), challenges, [User(1, viewed + history)])
    assert_agrees(setting(world), 1)
    assert_agrees(setting(world), 1, "flow")


def test_a_video_counts_once_however_often_the_user_came_back_to_it() -> None:
    history = (
        Interaction(1, 3, "save"),
        Interaction(1, 1, "view"),
        Interaction(1, 2, "rating"),
        Interaction(2, 9),
    )
    world = World(videos_of_many_skills(30), [], [User(1, history)])
    assert_agrees(setting(world), 1, "discover")


PROFILE_CASES = {
    "a history with tokens hides the profile": (Interaction(2),),
    "a history without tokens leaves the profile": (Interaction(1),),
    "interactions with what is no longer there leave the profile": (Interaction(12345),),
    "no history at all leaves the profile": (),
}


@pytest.mark.parametrize("history", PROFILE_CASES.values(), ids=PROFILE_CASES.keys())
@pytest.mark.parametrize("recent", [True, False], ids=["recent", "not recent"])
def test_the_profile_counts_only_where_the_history_gives_no_tokens(
    history: tuple[Interaction, ...], recent: bool
) -> None:
    videos = [Video(1, creator=1), *videos_of_many_skills(30)[1:]]
    user = User(1, history, skills=("skill 3", "skill 4", "skill 3"), languages=("es",), recent=recent)
    assert_agrees(setting(World(videos, [], [user], [(1, 77)])), 1, "discover")


@pytest.mark.parametrize("weight", [0.0, 0.25, 4.0])
def test_a_profile_counts_as_much_as_its_weight_says_and_a_history_as_ever(weight: float) -> None:
    users = [User(1, (), skills=("skill 3", "skill 4"), languages=("es",), recent=True), User(2, (Interaction(7),))]
    world = World(videos_of_many_skills(400), [], users)
    policy = Policy(policy_file())
    policy.arrays = policy.arrays._replace(profile_weight=weight)
    oracle = Oracle(world, policy.file)
    oracle.profile_weight = weight
    case = Setting(world, FeedPipeline(Generation(make_catalog(world), policy)), oracle)

    for user in users:
        assert_agrees(case, user.id, "discover")


def test_a_user_with_tokens_but_no_skills_is_similar_to_nothing_and_still_matches() -> None:
    videos = [
        Video(1, creator=1, tools=("git",)),
        Video(2, creator=2, skills=("a",), tools=("GIT ",)),
        Video(3, 3),
    ]
    world = World(videos, [], [User(1, (Interaction(1),))])
    oracle = Oracle(world, policy_file())
    assert [oracle.similarity(video, 1) for video in videos[1:]] == [0, 0.3]
    assert_agrees(setting(world), 1, "discover")


def test_one_word_is_a_different_token_as_a_skill_and_as_a_tool() -> None:
    videos = [
        Video(1, creator=1, skills=("git",)),
        Video(2, creator=2, tools=("git",)),
        Video(3, 3, ("git",)),
    ]
    assert_agrees(setting(World(videos, [], [User(1, (Interaction(1),))])), 1, "discover")


def test_lists_are_brought_to_one_spelling_before_they_are_cut() -> None:
    untidy = ("Python", " python ", "PYTHON", "machine  learning", "Straße", "c", "d", "cut off")
    tidy = ("python", "machine learning", "STRASSE", "c", "d")
    videos = [Video(1, creator=1, skills=untidy), Video(2, creator=2, skills=tidy), Video(3, 3, ("cut off",))]
    world = World(videos, [], [User(1, (Interaction(1),))])
    assert Oracle(world, policy_file()).similarity(videos[1], 1) == pytest.approx(1.0)
    assert_agrees(setting(world), 1, "discover")


def test_a_match_is_at_most_1() -> None:
    abc = tuple("abc")
    videos = [Video(n, n, skills=tuple("abcde"), knowledges=abc, tools=abc, languages=abc) for n in (1, 2, 3)]
    world = World(videos, [], [User(1, (Interaction(1),))])
    assert Oracle(world, policy_file()).match(videos[1], 1) == 1
    assert_agrees(setting(world), 1, "discover")


def test_the_unknown_city_is_the_same_as_no_other() -> None:
    cities = ("", "  ", "Unknown", "Quito", "quito ", "Medellin", "Medellín")
    videos = [Video(n, creator=n, city=city) for n, city in enumerate([*cities, *cities], start=1)]
    history = tuple(Interaction(n) for n in (1, 2, 6))
    assert_agrees(setting(World(videos, [], [User(1, history)])), 1, "discover")


def test_a_connection_holds_both_ways_and_all_count_for_the_reach() -> None:
    videos = [Video(n, creator=n) for n in range(1, 6)]
    challenges = [Challenge(n, creator=n) for n in range(1, 6)]
    connections = [(9, 1), (2, 9), (9, 2), (9, 9), (9, 700), (701, 9), (3, 4)]
    world = World(videos, challenges, [User(9)], connections)
    assert Oracle(world, policy_file()).reader(9).connections == {1, 2, 700, 701}
    for endpoint in ("total", "flow"):
        for user_id in (9, 3, 700):
            assert_agrees(setting(world), user_id, endpoint)


def test_ages_at_the_edges_of_the_document_fall_on_its_side() -> None:
    ages = (0, 13.9999, 14, 14.0001, 29.9999, 30, 30.0001, 44.9999, 45, 45.0001, 59, 60, 61, 89, 90, 91, 359)
    videos = [Video(n, creator=n, age_days=age) for n, age in enumerate(ages, start=1)]
    challenges = [Challenge(n, creator=n, age_days=age) for n, age in enumerate(ages, start=1)]
    case = setting(World(videos, challenges))
    assert_agrees(case, ANONYMOUS)
    assert_agrees(case, ANONYMOUS, "flow")


def test_engagement_at_the_edges_of_the_gate_falls_on_its_side() -> None:
    old = Video(1, creator=1, age_days=100)
    changes = [
        {"average": 2.99, "ratings": 1}, {"average": 3.0, "ratings": 1}, {"average": 1.0, "ratings": 2},
        {"views": 19}, {"views": 20}, {"matches": 1}, {"matches": 2}, {"saves": 99}, {"exhibitions": 99},
    ]  # fmt: skip
    videos = [replace(old, id=n, creator=n, **change) for n, change in enumerate(changes, start=1)]  # type: ignore[arg-type]
    case = setting(World(videos))
    assert_agrees(case, ANONYMOUS)
    assert {video.id for video in pool_of(case.pipeline, case.world, "VMP")} == {2, 3, 5, 7}


def test_a_catalog_without_any_engagement_has_no_engagement_features() -> None:
    assert_agrees(setting(World(videos_of_many_skills(40))), ANONYMOUS, "discover")


def test_flow_ranks_challenges_of_the_network_first() -> None:
    world = random_world(6, videos=20, challenges=90, users=8, creators=60)
    case = setting(world)
    assert any(case.oracle.reader(user.id).connections for user in world.users)
    for user in world.users:
        assert_agrees(case, user.id, "flow")
    assert_agrees(case, FIRST_USER, "flow", excluded=tuple(range(1, 60)))


def test_a_policy_may_give_a_kind_of_token_no_weight() -> None:
    """The list of what a user has holds each token once, even where a match of it counts nothing."""
    policy = Policy(policy_file(features__match_knowledge=0.0))
    videos = [Video(n, creator=n, skills=(f"a{n}", f"b{n}"), knowledges=("law",)) for n in range(1, 40)]
    world = World(videos, [], [User(1, tuple(Interaction(n) for n in range(1, 21)))])
    pipeline = FeedPipeline(Generation(make_catalog(world, policy), policy))
    ranked(pipeline, world, request_for(1, "discover"))
    noted = tokens_noted(pipeline)
    assert len(noted) == len(set(noted)) == 41
