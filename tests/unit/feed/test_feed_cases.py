"""Feeds of the people and catalogs that are not the normal case, what an answer holds, and what stays the same."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import IDS_FIELDS, TIMED_EVERY, FeedPipeline, feed_seed
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.features import COLLABORATIVE_NAMES, FEATURE_NAMES
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.stages import STAGES, rank
from recommendation_service.ranking.working_memory import make_working_memory
from tests.support.catalogs import Challenge, Interaction, User, Video, World, build, in_memory, make_catalog, published
from tests.support.http_contract import CHALLENGE_FIELDS, RESUME_FIELDS
from tests.support.policies import FEATURES, policy_file
from tests.support.slates import ranked, request_for
from tests.support.worlds import random_world

ANONYMOUS, UNKNOWN, LARGEST_ID = 0, 999_999_999, 2**63 - 1
EVERY_ENDPOINT = pytest.mark.parametrize("endpoint", ENDPOINTS)

WORLD = random_world(21, videos=400, challenges=60, users=20)
USERS = [user.id for user in WORLD.users]


def pipeline_of(world: World = WORLD, policy: Policy | None = None, seed: int = 0) -> FeedPipeline:
    if world is WORLD and policy is None:
        return FeedPipeline(generation_of_the_world(), seed)
    policy = policy or load_policy()
    return FeedPipeline(Generation(make_catalog(world, policy), policy), seed)


@cache
def generation_of_the_world() -> Generation:
    """It is only read."""
    policy = load_policy()
    return Generation(make_catalog(WORLD, policy), policy)


def body_of(pipeline: FeedPipeline, request: FeedRequest) -> dict[str, Any]:
    """The answer's body, decoded."""
    answer = json.loads(pipeline.feed(request))
    assert answer["statusCode"] == 200
    assert answer.keys() == {"statusCode", "body"}
    body: dict[str, Any] = answer["body"]
    return body


def keys_of(body: dict[str, Any]) -> list[tuple[str, int]]:
    return [(item["type"], item["id"]) for item in body["items"]]


# Who asks.


@EVERY_ENDPOINT
@pytest.mark.parametrize("user_id", [ANONYMOUS, UNKNOWN, 1, LARGEST_ID])
def test_who_is_not_in_the_catalog_gets_a_full_feed(user_id: int, endpoint: str) -> None:
    body = body_of(pipeline_of(), request_for(user_id, endpoint))
    assert len(set(keys_of(body))) == 24
    assert body["relaxed"] == []


def test_an_anonymous_feed_is_not_personal() -> None:
    """Even where interactions without a user are in the tables."""
    world = replace(WORLD, users=[*WORLD.users, User(0, (Interaction(1),), skills=("skill 1",))])
    pipeline = pipeline_of(world)
    for slot in ranked(pipeline, world, request_for(ANONYMOUS, "discover")):
        similarity, match, same_city, network = slot.features[5:9]
        assert (similarity, match, same_city, network, slot.features[13]) == (0.5, 0, 0, 0, 0)


@EVERY_ENDPOINT
def test_a_feed_that_is_not_personal_is_that_of_somebody_of_whom_nothing_is_known(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last draw, with what is remembered of either."""
    seen = pipeline_of().rank(request_for(USERS[0], endpoint)).remembered
    one, other, differ = pipeline_of(), pipeline_of(), 0
    monkeypatch.setattr(other, "user_row", lambda _user: -1)  # as of one who is in no catalog
    for user in USERS:
        for remembered in (b"", seen):
            request = request_for(user, endpoint, request_id=f"{user}")
            personal = one.rank(request, remembered).keys.tolist()
            slate = one.rank(request.but(personal=False), remembered)
            expected = other.rank(request, remembered)
            assert (slate.keys.tolist(), slate.packed) == (expected.keys.tolist(), expected.packed)
            assert not remembered or not set(slate.keys.tolist()) & set(np.frombuffer(seen, "<i8")[::2].tolist())
            differ += personal != slate.keys.tolist()
    assert differ


def test_what_the_tables_say_of_a_user_is_left_out_of_a_feed_that_is_not_personal() -> None:
    pipeline, request = pipeline_of(), request_for(UNKNOWN, "discover")
    creators = pipeline.catalog.arrays.creator_id[:5]
    history = np.array([[pipeline.catalog.arrays.item_id[0] << 1, 1]], np.int64)
    outsider = pipeline.outsider(history, np.asarray(creators), 5, (("skill 1",), (), (), ()))
    known, unknown = request.but(outsider=outsider), request
    assert pipeline.rank(known).packed != pipeline.rank(unknown).packed
    assert pipeline.rank(known.but(personal=False)).packed == pipeline.rank(unknown).packed


def everything(world: World) -> tuple[Interaction, ...]:
    """All items of a world, the higher numbers longer ago."""
    videos = (Interaction(video.id, days_ago=video.id / 10) for video in world.videos)
    challenges = (Interaction(c.id, c.id / 10 + 0.05, "view", "challenge") for c in world.challenges)
    return (*videos, *challenges)


@EVERY_ENDPOINT
def test_who_has_seen_everything_gets_what_was_seen_longest_ago(endpoint: str) -> None:
    videos = [Video(n, creator=n, skills=(f"a{n}", f"b{n}", f"c{n}")) for n in range(1, 101)]
    world = World(videos, [Challenge(n, creator=1000 + n) for n in range(1, 41)])
    world = replace(world, users=[User(9, everything(world))])
    body = body_of(pipeline_of(world), request_for(9, endpoint))
    videos_back = [("resume", n) for n in range(100, 0, -1)]
    challenges_back = [("challenge", n) for n in range(40, 0, -1)]
    expected = {
        "total": [key for i in range(4) for key in (*videos_back[5 * i : 5 * i + 5], challenges_back[i])],
        "discover": videos_back[:24],
        "flow": challenges_back[:24],
    }
    assert keys_of(body) == expected[endpoint]
    assert body["relaxed"] == ["seen"]


@EVERY_ENDPOINT
def test_who_has_seen_everything_and_excludes_some_never_gets_those(endpoint: str) -> None:
    world = replace(WORLD, users=[User(9, everything(WORLD))])
    body = body_of(pipeline_of(world), request_for(9, endpoint, 100, excluded=range(30, 500)))
    assert sorted({number for _, number in keys_of(body)}) == list(range(1, 30))
    assert len(keys_of(body)) == {"total": 58, "discover": 29, "flow": 29}[endpoint]


@EVERY_ENDPOINT
def test_who_excludes_everything_gets_an_empty_feed(endpoint: str) -> None:
    body = body_of(pipeline_of(), request_for(USERS[3], endpoint, excluded=range(1, 1000)))
    assert (body[IDS_FIELDS[endpoint]], body["items"], body["relaxed"]) == ([], [], [])


# What there is.


@EVERY_ENDPOINT
@pytest.mark.parametrize("user_id", [ANONYMOUS, UNKNOWN, 9])
def test_an_empty_catalog_gives_an_empty_feed(user_id: int, endpoint: str, tmp_path: Path) -> None:
    world = World(users=[User(9, (Interaction(1),), skills=("a",))], connections=[(9, 10)])
    ids = IDS_FIELDS[endpoint]
    for catalog in (in_memory(build(world)), published(build(world), tmp_path)):
        body = body_of(FeedPipeline(Generation(catalog, load_policy())), request_for(user_id, endpoint, explain=True))
        assert body == {ids: [], "items": [], "request_id": "request", "relaxed": []}


def test_without_challenges_videos_take_their_slots() -> None:
    pipeline = pipeline_of(replace(WORLD, challenges=[]))
    body = body_of(pipeline, request_for(USERS[5]))
    assert [item["type"] for item in body["items"]] == ["resume"] * 24
    assert body["relaxed"] == ["slot_kind"]
    assert body_of(pipeline, request_for(USERS[5], "flow"))["items"] == []
    assert body_of(pipeline, request_for(USERS[5], "discover"))["relaxed"] == []


def test_without_videos_challenges_take_their_slots() -> None:
    challenges = [Challenge(n, creator=n) for n in range(1, 41)]
    pipeline = pipeline_of(World([], challenges, [User(9, skills=("a",))]))
    body = body_of(pipeline, request_for(9))
    assert [item["type"] for item in body["items"]] == ["challenge"] * 24
    assert body["relaxed"] == ["slot_kind"]
    assert body_of(pipeline, request_for(9, "discover"))["items"] == []
    assert body_of(pipeline, request_for(9, "flow"))["relaxed"] == []


@pytest.mark.parametrize("item", [Video(1, creator=1), Video(1, 1, ("a",), age_days=200), Challenge(1, creator=1)])
def test_one_item_is_a_feed_of_one(item: Video | Challenge) -> None:
    world = World([item], []) if isinstance(item, Video) else World([], [item])
    pipeline = pipeline_of(world)
    for endpoint, types in (("total", "both"), ("discover", "resume"), ("flow", "challenge")):
        body = body_of(pipeline, request_for(9, endpoint))
        assert keys_of(body) == ([item.key] if types in ("both", item.key[0]) else [])


def test_one_creator_of_everything_still_fills_a_feed() -> None:
    videos = [Video(n, creator=1, skills=(f"a{n}",)) for n in range(1, 41)]
    body = body_of(pipeline_of(World(videos)), request_for(9, "discover"))
    assert len(set(keys_of(body))) == 24
    assert body["relaxed"] == ["creator_window"]


def test_videos_without_skills_fill_a_feed_and_say_which_rule_gave_way() -> None:
    three_skills = Video(1, creator=1, skills=("a", "b", "c"))
    bare = [Video(n, creator=n) for n in range(2, 41)]
    assert body_of(pipeline_of(World(bare)), request_for(9, "discover"))["relaxed"] == []
    body = body_of(pipeline_of(World([three_skills, *bare])), request_for(9, "discover", 40))
    assert len(keys_of(body)) == 40
    assert body["relaxed"] == ["skill_novelty"]


def test_a_feed_of_100_is_the_largest() -> None:
    world = random_world(22, videos=600, challenges=200, users=2, creators=300, skills=500)
    for endpoint in ENDPOINTS:
        body = body_of(pipeline_of(world), request_for(ANONYMOUS, endpoint, 100, explain=True))
        assert len(set(keys_of(body))) == 100


# Numbers.


def test_a_video_and_a_challenge_of_one_number_are_different_items() -> None:
    world = World([Video(7, creator=1)], [Challenge(7, creator=2)])
    body = body_of(pipeline_of(world), request_for(9))
    assert sorted(keys_of(body)) == [("challenge", 7), ("resume", 7)]
    assert body["mix_ids"] == ["7", "7"]


def test_a_number_excludes_the_video_and_the_challenge_that_bear_it() -> None:
    world = World([Video(7, creator=1), Video(8, creator=2)], [Challenge(7, creator=3), Challenge(9, creator=4)])
    body = body_of(pipeline_of(world), request_for(9, excluded=(7,)))
    assert sorted(keys_of(body)) == [("challenge", 9), ("resume", 8)]


def test_having_seen_the_video_of_a_number_leaves_the_challenge_unseen() -> None:
    videos = [Video(n, creator=n, skills=(f"a{n}", f"b{n}", f"c{n}")) for n in range(1, 7)]
    world = World(videos, [Challenge(n, 100 + n) for n in range(1, 7)], [User(9, (Interaction(3),))])
    pipeline = pipeline_of(world)
    assert body_of(pipeline, request_for(9, "flow", 6))["relaxed"] == []
    body = body_of(pipeline, request_for(9, "discover", 6))
    assert (keys_of(body)[-1], body["relaxed"]) == (("resume", 3), ["seen"])


def test_exclusions_may_be_repeated_unknown_or_no_numbers_of_items_at_all() -> None:
    pipeline = pipeline_of()
    excluded = [5, 5, 5, 0, -1, 10**15, LARGEST_ID, -LARGEST_ID]
    body = body_of(pipeline, request_for(USERS[4], size=100, excluded=excluded))
    assert 5 not in {number for _, number in keys_of(body)}
    assert len(keys_of(body)) == 100


def test_ten_thousand_exclusions_are_all_kept() -> None:
    excluded = range(20, 10_020)
    body = body_of(pipeline_of(), request_for(USERS[4], size=100, excluded=excluded))
    assert max(number for _, number in keys_of(body)) < 20


# What stays the same.


@EVERY_ENDPOINT
def test_the_same_seed_user_and_request_give_the_same_bytes(endpoint: str) -> None:
    request = request_for(USERS[6], endpoint, explain=True)
    assert pipeline_of(seed=3).feed(request) == pipeline_of(seed=3).feed(request)


@EVERY_ENDPOINT
def test_another_request_user_or_seed_gives_another_feed(endpoint: str) -> None:
    pipeline = pipeline_of(seed=3)
    feeds = [
        keys_of(body_of(of, request_for(user_id, endpoint, request_id=request_id)))
        for of, user_id, request_id in (
            (pipeline, ANONYMOUS, "one"),
            (pipeline, ANONYMOUS, "other"),
            (pipeline, UNKNOWN, "one"),
            (pipeline_of(seed=4), ANONYMOUS, "one"),
        )
    ]
    assert len({tuple(feed) for feed in feeds}) == 4


def test_a_published_catalog_gives_the_same_bytes_as_the_built_one(tmp_path: Path) -> None:
    built = build(WORLD)
    policy = load_policy()
    one = FeedPipeline(Generation(in_memory(built), policy))
    other = FeedPipeline(Generation(published(built, tmp_path), policy))
    for user_id in USERS[:5]:
        assert one.feed(request_for(user_id, explain=True)) == other.feed(request_for(user_id, explain=True))


@EVERY_ENDPOINT
@pytest.mark.parametrize("world", [WORLD, World(), World([Video(1, 1)])], ids=["many", "none", "one"])
def test_the_stages_one_by_one_give_what_the_fused_call_gives(world: World, endpoint: str) -> None:
    pipeline = pipeline_of(world)
    catalog, policy = pipeline.catalog.arrays, pipeline.policy.arrays
    rows = pipeline.policy.file.rows_of_kinds(pipeline.catalog.rows_of_type)
    fused, staged = (Frame(catalog, policy, make_working_memory(catalog, policy, rows)) for _ in range(2))
    for number, user_id in enumerate([ANONYMOUS, UNKNOWN, *USERS]):
        request = RankingRequest(
            user_row=pipeline.user_row(user_id),
            size=40,
            endpoint=ENDPOINTS.index(endpoint),
            seed=feed_seed(0, user_id, f"request {number}"),
            excluded=np.arange(number, dtype=np.int64),
        )
        rank(fused, request)
        for _, stage in STAGES:
            stage(staged, request)
        np.testing.assert_array_equal(fused.memory.counts, staged.memory.counts)
        for name in (field for field in fused.memory._fields if field.startswith("slot_")):
            np.testing.assert_array_equal(getattr(fused.memory, name), getattr(staged.memory, name), name)


def test_some_feeds_are_timed_by_stage_and_are_no_different_for_it() -> None:
    observed: list[tuple[str, float, int]] = []
    policy = load_policy()
    timed = FeedPipeline(Generation(make_catalog(WORLD), policy), observe_stage=lambda *stage: observed.append(stage))
    untimed = FeedPipeline(Generation(make_catalog(WORLD), policy))
    for number in range(2 * TIMED_EVERY):
        request = request_for(USERS[number % len(USERS)], request_id=f"request {number}", explain=True)
        assert timed.feed(request) == untimed.feed(request)
    assert [name for name, _, _ in observed] == [name for name, _ in STAGES] * 2
    assert all(seconds >= 0 and handled >= 0 for _, seconds, handled in observed)
    assert [handled for name, _, handled in observed if name == "slate"] == [24, 24]


@pytest.mark.parametrize("left_out", ["NU", "FW", "AU"])
def test_one_kind_fewer_is_a_file(left_out: str) -> None:
    """As if no pattern named the kind: what its section says, and its ordering in the catalog, count for nothing."""
    shipped = load_policy().file
    other = {"resume": "VMP", "challenge": "FLOW"}[shipped.kind(left_out).item or ""]
    patterns = {
        f"feeds__{endpoint}": [other if kind == left_out else kind for kind in shipped.feeds[endpoint]]
        for endpoint in ENDPOINTS
    }
    unnamed, fewer = Policy(policy_file(**patterns)), Policy(policy_file(**patterns, **{f"kinds__{left_out}": None}))
    number = KINDS.index(left_out)
    catalog = make_catalog(WORLD, fewer)
    one, two = FeedPipeline(Generation(make_catalog(WORLD, unnamed), unnamed)), FeedPipeline(Generation(catalog, fewer))
    for endpoint in ENDPOINTS:
        for user_id in (*USERS[:5], ANONYMOUS):
            request = request_for(user_id, endpoint, explain=True)
            assert two.feed(request) == one.feed(request)
    assert catalog.arrays.order_offsets[number] == catalog.arrays.order_offsets[number + 1]
    assert fewer.label(number) == left_out
    assert fewer.catalog_digest != unnamed.catalog_digest


def test_a_feed_leaves_nothing_behind_for_the_next_one() -> None:
    """Whatever came before, a feed is the one that a fresh memory gives."""
    small_pools = {f"kinds__{kind}__pool": 6 for kind in KINDS}
    for policy in (load_policy(), Policy(policy_file(**small_pools, exploration__size=7))):
        catalog = make_catalog(WORLD, policy)
        used = FeedPipeline(Generation(catalog, policy))
        for number, user_id in enumerate([*USERS, ANONYMOUS, *reversed(USERS), UNKNOWN]):
            endpoint = ENDPOINTS[number % 3]
            excluded = range(1, 40 * (number % 7))
            request = request_for(user_id, endpoint, 1 + 33 * (number % 4), f"request {number}", excluded, explain=True)
            assert used.feed(request) == FeedPipeline(Generation(catalog, policy)).feed(request)


def test_a_feed_that_was_broken_off_leaves_nothing_behind_either() -> None:
    policy = load_policy()
    catalog = make_catalog(WORLD, policy)
    request = request_for(USERS[7], explain=True)
    expected = FeedPipeline(Generation(catalog, policy)).feed(request)
    for stages in range(1, len(STAGES)):
        pipeline = FeedPipeline(Generation(catalog, policy))
        other = RankingRequest(pipeline.user_row(USERS[8]), 100, 0, 5, np.arange(50, dtype=np.int64))
        for _, stage in STAGES[:stages]:
            stage(Frame(catalog.arrays, policy.arrays, pipeline.memory), other)
        assert pipeline.feed(request) == expected


# What an answer holds.


@EVERY_ENDPOINT
def test_an_answer_has_the_contracts_fields(endpoint: str) -> None:
    body = body_of(pipeline_of(), request_for(USERS[5], endpoint, request_id="abc-123"))
    ids = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}[endpoint]
    assert body.keys() == {ids, "items", "request_id", "relaxed"}
    assert body[ids] == [str(item["id"]) for item in body["items"]]
    assert body["request_id"] == "abc-123"
    for item in body["items"]:
        assert item.keys() == (RESUME_FIELDS if item["type"] == "resume" else CHALLENGE_FIELDS).keys()
        assert None not in item.values()


def why_of(pipeline: FeedPipeline, request: FeedRequest) -> list[dict[str, Any]]:
    return [item["why"] for item in body_of(pipeline, request)["items"]]


def test_explain_adds_why_and_changes_nothing_else() -> None:
    pipeline = pipeline_of()
    explained = body_of(pipeline, request_for(USERS[5], explain=True))
    plain = body_of(pipeline, request_for(USERS[5]))
    for item in explained["items"]:
        assert item.pop("why").keys() == {
            "position", "slot", "pool", "propensity", "score", "expected", "bonus", "width", "terms", "features",
            "contributions", "relaxed", "sentences",
        }  # fmt: skip
    assert explained == plain


def learned_policy() -> Policy:
    draw = np.random.default_rng(1)
    G = draw.normal(size=(len(KINDS), FEATURES, FEATURES))
    return Policy(policy_file(), draw.normal(size=(len(KINDS), FEATURES)), np.eye(FEATURES) + G @ G.transpose(0, 2, 1))


@EVERY_ENDPOINT
@pytest.mark.parametrize("policy", [load_policy(), learned_policy()], ids=["prior", "learned"])
def test_an_explanation_adds_up(endpoint: str, policy: Policy) -> None:
    pipeline = pipeline_of(policy=policy)
    for user_id in USERS:
        for position, why in enumerate(why_of(pipeline, request_for(user_id, endpoint, explain=True))):
            assert why["position"] == position
            assert list(why["features"]) == [*FEATURE_NAMES, *COLLABORATIVE_NAMES]
            assert sum(why["terms"].values()) == pytest.approx(10 * why["features"]["hand_set_score"], abs=1e-5)
            assert why["expected"] + why["bonus"] == pytest.approx(why["score"], abs=1e-9)
            assert 0 < why["propensity"] <= 1


def test_the_explanations_of_a_feed_follow_the_slots() -> None:
    whys = why_of(pipeline_of(), request_for(USERS[5], explain=True))
    assert [why["slot"] for why in whys] == ["VMP", "AU", "AU", "VMP", "NU", "FW"] * 4
    assert {why["slot"] for why in why_of(pipeline_of(), request_for(USERS[5], "flow", explain=True))} == {"FW"}


@pytest.mark.parametrize(
    "world",
    [
        World([], [Challenge(n, creator=n, age_days=n) for n in range(1, 13)]),
        World([Video(n, creator=n, age_days=n, views=n) for n in range(1, 13)]),
    ],
    ids=["challenges in the videos' slots", "videos in the challenges' slots"],
)
def test_an_explanation_adds_up_where_the_slots_kind_gave_way(world: World) -> None:
    whys = why_of(pipeline_of(world), request_for(9, explain=True))
    assert any("slot_kind" in why["relaxed"] for why in whys)
    for why in whys:
        assert sum(why["terms"].values()) == pytest.approx(10 * why["features"]["hand_set_score"], abs=1e-5)


def test_an_explanation_names_exploration_and_what_was_seen() -> None:
    policy = Policy(policy_file(kinds__VMP__pool=1, kinds__AU__pool=1, kinds__NU__pool=1))
    videos = [Video(n, creator=n, skills=(f"a{n}", f"b{n}", f"c{n}")) for n in range(1, 9)]
    viewed = Video(20, creator=20, skills=("x",), age_days=60, views=10_000)
    newest = Video(21, creator=21, skills=("y",), knowledges=("k",), tools=("t",), age_days=0)
    similar = Video(22, creator=22, skills=("a8", "b8"))
    world = World([*videos, viewed, newest, similar], [], [User(9, (Interaction(8),))])
    whys = why_of(pipeline_of(world, policy), request_for(9, "discover", explain=True))
    assert {why["pool"] for why in whys} == {"VMP", "AU", "NU", "exploration", "seen"}
    assert [(why["pool"], why["relaxed"]) for why in whys][-1] == ("seen", ["seen"])
    assert {tuple(why["relaxed"]) for why in whys[:-1]} == {()}


def test_explanations_are_json_even_where_the_model_is_not_a_number() -> None:
    policy = Policy(policy_file(), np.full((len(KINDS), FEATURES), np.nan))
    whys = why_of(pipeline_of(policy=policy), request_for(USERS[5], explain=True))
    assert len(whys) == 24
    assert {why["score"] for why in whys} == {None}
