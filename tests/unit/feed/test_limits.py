"""The limits of a feed (docs/architecture.md), for any catalog, user, exclusions, endpoint and size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import IDS_FIELDS, FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.policies.policy import Policy
from tests.support.catalogs import (
    Challenge,
    Interaction,
    Item,
    Key,
    User,
    Video,
    World,
    days_before,
    make_catalog,
)
from tests.support.policies import policy_file
from tests.support.rules import ORDER, VIDEO_KINDS, FeedSoFar, Pools, weight_of
from tests.support.slates import Slot, pool_of, slots_of

PATTERNS = {
    "total": ("VMP", "AU", "AU", "VMP", "NU", "FW"),
    "discover": ("VMP", "AU", "AU", "VMP", "NU"),
    "flow": ("FLOW",),
}
TYPES = {"total": ("resume", "challenge"), "discover": ("resume",), "flow": ("challenge",)}
KINDS = ("VMP", "AU", "NU", "FW", "FLOW")
USER, STRANGER = 77, 78
MOST_ITEMS = 45


def _policy(pool: int, exploration: int) -> Policy:
    pools = {f"kinds__{kind}__pool": pool for kind in KINDS}
    return Policy(policy_file(**pools, exploration__size=exploration))


# The shipped sizes hold a small catalog whole; the others are spent early, so that exploration and every
# rule's giving way are reached.
POLICIES = {
    "shipped": Policy(policy_file()),
    "pools of 6, exploration of 9": _policy(6, 9),
    "pools of 2, exploration of 3": _policy(2, 3),
    "pools of 1, exploration of 1": _policy(1, 1),
}


class Feed:
    """A feed and all that it was made from. Made once, then only read."""

    def __init__(self, world: World, pipeline: FeedPipeline, request: FeedRequest) -> None:
        self.world, self.request = world, request
        self.answer: dict[str, Any] = json.loads(pipeline.feed(request))["body"]
        self.slots: list[Slot] = slots_of(pipeline, world)
        # Read now: the pipeline's memory is the next feed's.
        self.pools = {kind: {item.key for item in pool_of(pipeline, world, kind)} for kind in KINDS}
        self.pool_sizes = pipeline.policy.arrays.pool.tolist()

    def __repr__(self) -> str:
        return f"Feed({self.world}, pools of {self.pool_sizes}, {self.request})"

    @cached_property
    def eligible(self) -> list[Item]:
        """What the endpoint may show at all: its types, without what the caller excluded."""
        excluded = set(self.request.excluded.tolist())
        types = TYPES[self.request.endpoint]
        return [item for item in self.world.items if item.key[0] in types and item.id not in excluded]

    @cached_property
    def last_seen(self) -> dict[Key, datetime]:
        """When the user last interacted with each item."""
        latest: dict[Key, datetime] = {}
        for user in self.world.users:
            for interaction in user.history if user.id == self.request.user_id else ():
                moment = days_before(interaction.days_ago)
                latest[interaction.key] = max(moment, latest.get(interaction.key, moment))
        return latest

    def replay(self) -> Iterator[tuple[Slot, FeedSoFar]]:
        """Each slot with the feed as it was before that slot was filled."""
        so_far = FeedSoFar(Pools(self.pools, self.last_seen))
        for slot in self.slots:
            yield slot, so_far
            so_far.place(slot.item)


# Of an item or event all is drawn as one string of bytes, each field of it from a byte: to draw each field by itself
# took three quarters of the test's time. Zeros, to which examples shrink, are the plainest item.
LETTERS, TOOLS = "abcdefghij", "tu"
MOST_NAMES = 6


def _names(letters: str, drawn: bytes) -> tuple[str, ...]:
    """Up to six, some of them twice."""
    return tuple(letters[byte % len(letters)] for byte in drawn[1 : 1 + drawn[0] % (MOST_NAMES + 1)])


def _video(number: int, drawn: bytes) -> Video:
    creator, city, age, views, saves, *names = drawn
    skills, tools = bytes(names[: MOST_NAMES + 1]), bytes(names[MOST_NAMES + 1 :])
    return Video(
        id=number,
        creator=1 + creator % 9,
        skills=_names(LETTERS, skills),
        tools=_names(TOOLS, tools),
        city=("", "Quito")[city % 2],
        age_days=(1, 20, 40, 50, 200)[age % 5],
        views=(0, 5, 500)[views % 3],
        saves=saves % 4,
    )


def _challenge(number: int, drawn: bytes) -> Challenge:
    return Challenge(id=number, creator=7 + drawn[0] % 8, age_days=drawn[1] % 81)


def _interaction(drawn: bytes) -> Interaction:
    is_video, item_id, days_ago = drawn[0] % 2 == 0, 1 + drawn[1] % MOST_ITEMS, drawn[2] % 26
    return Interaction(item_id, days_ago) if is_video else Interaction(item_id, days_ago, "view", "challenge")


# Strategies are made once: examples are many, and checking one takes longer than drawing from it.
def _bytes(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


_video_bytes, _challenge_bytes, _profile_bytes = _bytes(5 + 2 * (1 + MOST_NAMES)), _bytes(2), _bytes(1 + MOST_NAMES)
_interactions = _bytes(3).map(_interaction)
_few, _many = st.lists(_interactions, max_size=20), st.lists(_interactions, min_size=40, max_size=90)
_histories = st.one_of(_few, _few, _many)
_video_counts, _challenge_counts = st.integers(0, MOST_ITEMS), st.integers(0, 15)
_networks = st.sets(st.integers(1, 14), max_size=4)
_policies = st.sampled_from(list(POLICIES))
_users = st.sampled_from((USER, USER, USER, STRANGER, 0))
_sizes = st.one_of(st.sampled_from((1, 24, 100)), st.integers(1, 100))
_numbers = st.integers(0, 1000)
_exclusions = st.lists(st.integers(0, MOST_ITEMS + 5), max_size=20)


@st.composite
def feeds(draw: st.DrawFn) -> list[Feed]:
    """All endpoints' feeds of one user; videos and challenges are both numbered from 1, so that numbers meet."""
    videos = [_video(n, draw(_video_bytes)) for n in range(1, draw(_video_counts) + 1)]
    challenges = [_challenge(n, draw(_challenge_bytes)) for n in range(1, draw(_challenge_counts) + 1)]
    user = User(USER, tuple(draw(_histories)), skills=_names("abc", draw(_profile_bytes)))
    world = World(videos, challenges, [user], [(USER, n) for n in draw(_networks)])
    policy = POLICIES[draw(_policies)]
    user_id = draw(_users)
    size = draw(_sizes)
    request_id = f"request-{draw(_numbers)}"
    excluded = np.array(draw(_exclusions), np.int64)
    pipeline = FeedPipeline(Generation(make_catalog(world, policy), policy))
    return [Feed(world, pipeline, FeedRequest(endpoint, user_id, size, request_id, excluded)) for endpoint in PATTERNS]


def no_item_comes_twice_and_no_excluded_one_ever(feed: Feed) -> None:
    keys = [slot.item.key for slot in feed.slots]
    assert len(set(keys)) == len(keys)
    excluded = set(feed.request.excluded.tolist())
    assert not [key for key in keys if key[1] in excluded]


def a_feed_is_full_while_there_are_items_and_holds_all_of_them_otherwise(feed: Feed) -> None:
    assert len(feed.slots) == min(feed.request.size, len(feed.eligible))
    assert {slot.item.key for slot in feed.slots} <= {item.key for item in feed.eligible}


def nothing_seen_comes_back_unless_that_rule_gave_way(feed: Feed) -> None:
    for slot in feed.slots:
        assert (slot.item.key in feed.last_seen) == ("seen" in slot.relaxed)
        assert (slot.pool == "seen") == ("seen" in slot.relaxed)


def no_creator_comes_twice_within_12_items_unless_that_rule_gave_way(feed: Feed) -> None:
    for place, slot in enumerate(feed.slots):
        window = feed.slots[max(0, place - 11) : place]
        repeated = slot.item.creator in {earlier.item.creator for earlier in window}
        assert repeated == ("creator_window" in slot.relaxed)


def from_three_skills_on_a_video_brings_a_new_one_unless_that_rule_gave_way(feed: Feed) -> None:
    in_feed: set[str] = set()
    for slot in feed.slots:
        skills = set(list(dict.fromkeys(slot.item.skills))[:5]) if isinstance(slot.item, Video) else set()
        nothing_new = isinstance(slot.item, Video) and len(in_feed) >= 3 and skills <= in_feed
        assert nothing_new == ("skill_novelty" in slot.relaxed)
        in_feed |= skills


def slots_follow_the_pattern_unless_that_rule_gave_way(feed: Feed) -> None:
    pattern = PATTERNS[feed.request.endpoint]
    for place, slot in enumerate(feed.slots):
        assert slot.kind == pattern[place % len(pattern)]
        if "slot_kind" not in slot.relaxed:
            assert slot.pool in (slot.kind, "exploration", "seen")
            assert slot.item.key[0] == ("resume" if slot.kind in VIDEO_KINDS else "challenge")
        else:
            assert slot.pool != slot.kind


def the_answer_names_the_rules_that_gave_way_lightest_first(feed: Feed) -> None:
    broken = set().union(*(slot.relaxed for slot in feed.slots))
    assert feed.answer["relaxed"] == [rule for rule in ORDER if rule in broken]
    assert feed.answer["request_id"] == feed.request.request_id
    assert feed.answer[IDS_FIELDS[feed.request.endpoint]] == [str(slot.item.id) for slot in feed.slots]
    assert [(item["type"], item["id"]) for item in feed.answer["items"]] == [slot.item.key for slot in feed.slots]


def no_rule_gives_way_where_lighter_ones_would_have_done(feed: Feed) -> None:
    for slot, so_far in feed.replay():
        broken = so_far.broken_by(slot.item, slot.kind)
        assert slot.relaxed == broken
        if broken:  # nothing is lighter than no rule
            left = [item for item in feed.eligible if item.key not in so_far.keys]
            assert weight_of(broken) == min(weight_of(so_far.broken_by(item, slot.kind)) for item in left)


def what_was_seen_longest_ago_comes_back_first(feed: Feed) -> None:
    for slot, so_far in feed.replay():
        if "seen" in slot.relaxed:
            allowed = [
                item
                for item in so_far.eligible(feed.eligible, slot.kind, slot.relaxed)
                if item.key in feed.last_seen and so_far.broken_by(item, slot.kind) == slot.relaxed
            ]
            assert feed.last_seen[slot.item.key] == min(feed.last_seen[item.key] for item in allowed)


def propensities_are_probabilities(feed: Feed) -> None:
    assert all(0 < slot.propensity <= 1 for slot in feed.slots)


LIMITS = (
    no_item_comes_twice_and_no_excluded_one_ever,
    a_feed_is_full_while_there_are_items_and_holds_all_of_them_otherwise,
    nothing_seen_comes_back_unless_that_rule_gave_way,
    no_creator_comes_twice_within_12_items_unless_that_rule_gave_way,
    from_three_skills_on_a_video_brings_a_new_one_unless_that_rule_gave_way,
    slots_follow_the_pattern_unless_that_rule_gave_way,
    the_answer_names_the_rules_that_gave_way_lightest_first,
    no_rule_gives_way_where_lighter_ones_would_have_done,
    what_was_seen_longest_ago_comes_back_first,
    propensities_are_probabilities,
)


# The same examples in every run, however slow the machine.
@settings(
    max_examples=450,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(feeds=feeds())
def test_every_feed_keeps_the_limits(feeds: list[Feed]) -> None:
    for feed in feeds:
        for limit in LIMITS:
            limit(feed)
        for source in {slot.pool for slot in feed.slots}:
            event(f"{feed.request.endpoint}: filled from {source}")
        event(f"{feed.request.endpoint}: relaxed {feed.answer['relaxed']}")
