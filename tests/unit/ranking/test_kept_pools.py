"""Feeds from pools that were kept are those of a search anew, whatever happened to the user in between."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from recommendation_service.catalog.filter_columns import FilterColumn, listed, ordered, value_number
from recommendation_service.editors.rulings import Ruling
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.memory.entries import as_entries
from recommendation_service.model.item_keys import pack
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.kept_pools import SUM, WHO, drop_of_user, make_slots
from recommendation_service.ranking.seen import (
    ACTED,
    HIDDEN,
    IMPRESSED,
    SCROLLING_SECONDS,
    Lifetimes,
    pack_detail,
    session_number,
)
from recommendation_service.ranking.working_memory import SEEN_CAPACITY
from tests.support.catalogs import NOW, make_catalog
from tests.support.policies import policy_file
from tests.support.slates import items_scored, request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(41, videos=400, challenges=40, users=40)
FEW = {"collaborative__least_interactions": 20, "collaborative__closed_form__regularization": 2.0}
POLICY = Policy(policy_file(**FEW, kinds__AU__pool=24))
POLICIES = {
    "exact": POLICY,
    "pruned": Policy(policy_file(**FEW, kinds__AU__pool=24, pruning__exact_up_to_videos=100, pruning__skills=3)),
    "larger than what is left": Policy(policy_file(**FEW, kinds__AU__pool=300)),
}
CATALOG = make_catalog(WORLD, POLICY)
MOMENT = int(NOW.timestamp())
LIFETIMES = Lifetimes(served=1800, session=3600, impressed=4000, acted=8000)
USERS = range(FIRST_USER, FIRST_USER + 40, 3)
SESSIONS = (None, "a", "b")


class Pair:
    """A pipeline that keeps pools, and one whose kept ones are gone at each feed."""

    def __init__(self, policy: Policy = POLICY, megabytes: int = 1) -> None:
        self.slots, self.none = make_slots(megabytes), make_slots(megabytes)
        generation = Generation(CATALOG, policy)
        self.keeping = FeedPipeline(generation, lifetimes=LIFETIMES, kept_slots=self.slots)
        self.anew = FeedPipeline(generation, lifetimes=LIFETIMES, kept_slots=self.none)
        self.feeds = self.hits = 0

    def same_feed(self, request: FeedRequest, seen: bytes) -> bytes:
        """What is remembered afterwards."""
        self.none[:] = 0
        expected, found = self.anew.rank(request, seen), self.keeping.rank(request, seen)
        scored_anew = items_scored(self.anew)
        self.feeds += scored_anew > 0
        self.hits += scored_anew > 0 and items_scored(self.keeping) == 0
        assert found.items.tolist() == expected.items.tolist()
        assert found.packed == expected.packed
        assert found.remembered == expected.remembered
        return found.remembered

    def scrolled(self, user: int) -> bytes:
        """What is remembered of a user for whom a pool has just been kept."""
        return self.same_feed(request_of(user, 1), self.same_feed(request_of(user, 0), b""))


def after_event(seen: bytes, key: int, state: int, now: int, session: int) -> bytes:
    """With the item at the end, in a state that is no lower than before."""
    rows = as_entries(seen).tolist()
    state = max([state, *(detail & 15 for item, detail in rows if item == key)])
    rows = [row for row in rows if row[0] != key]
    return np.array([*rows, (key, pack_detail(now, session, 0, state))], np.int64).tobytes()


def request_of(user: int, number: int, **changes: object) -> FeedRequest:
    return request_for(user, request_id=f"r{number}").but(now=MOMENT, **changes)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("seed", range(8))
def test_a_feed_is_that_of_a_search_anew(policy: Policy, seed: int) -> None:
    """People scroll, do things, pause until what they were shown counts no more, exclude, are forgotten."""
    draw, pair, now = random.Random(seed), Pair(policy), MOMENT
    seen = dict.fromkeys(USERS, b"")
    for number in range(400):
        user = draw.choice(USERS[:5])
        name = SESSIONS[user % 3] if draw.random() < 0.9 else draw.choice(SESSIONS)
        now += draw.choice((1, 2, 5, 5, 20)) if draw.random() < 0.97 else draw.choice((400, 2500, 5000, -300))
        excluded = draw.sample(range(1, 400), 3) if draw.random() < 0.1 else []
        endpoint = draw.choice(("total", "total", "discover", "flow"))
        request = request_for(user, endpoint, draw.choice((6, 24)), f"r{number}", excluded)
        request = request.but(now=now, session=session_number(name), session_id=name)
        seen[user] = pair.same_feed(request, seen[user])
        shown = as_entries(seen[user])[-6:, 0].tolist()
        chance = draw.random()
        if chance < 0.15:
            state = draw.choice((IMPRESSED, IMPRESSED, ACTED, HIDDEN))
            seen[user] = after_event(seen[user], draw.choice(shown), state, now, session_number(name))
        elif chance < 0.17:
            seen[user] = b""
            drop_of_user(pair.slots, pair.keeping.user_row(user))
    assert pair.hits > 0.3 * pair.feeds > 30


def test_people_who_scroll_hardly_ever_wait_for_a_search() -> None:
    pair = Pair()
    for user in USERS:
        seen = b""
        for page in range(5):
            seen = pair.same_feed(request_of(user, page), seen)
    assert pair.hits > 0.5 * pair.feeds > 30


def test_what_was_torn_by_another_writer_is_not_taken() -> None:
    draw, pair = np.random.default_rng(3), Pair()
    for user in USERS:
        seen = b""
        for page in range(4):
            seen = pair.same_feed(request_of(user, page), seen)
            for slot in np.flatnonzero(pair.slots[:, WHO]):
                place = draw.integers(SUM, 20)
                pair.slots[slot, place] ^= 1 << int(draw.integers(20))
    assert pair.hits == 0


def test_one_worker_takes_what_another_kept() -> None:
    pair = Pair()
    other = FeedPipeline(Generation(CATALOG, POLICY), lifetimes=LIFETIMES, kept_slots=pair.slots)
    user = USERS[2]
    seen = pair.scrolled(user)
    slate = other.rank(request_of(user, 2), seen)
    assert items_scored(other) == 0
    packed = slate.packed
    assert pair.anew.rank(request_of(user, 2), seen).packed == packed


def test_another_catalog_or_policy_has_pools_of_its_own() -> None:
    pair, user = Pair(), USERS[2]
    seen = pair.scrolled(user)
    others = [
        Generation(replace(CATALOG, version="another"), POLICY),
        Generation(CATALOG, Policy(policy_file(**FEW, kinds__AU__pool=24, kinds__AU__weights__match=9.0))),
    ]
    for generation in others:
        pipeline = FeedPipeline(generation, lifetimes=LIFETIMES, kept_slots=pair.slots)
        pipeline.rank(request_of(user, 2), seen)
        assert items_scored(pipeline) > 0
    pair.same_feed(request_of(user, 3), seen)
    assert pair.hits == 1


def test_what_editors_take_out_is_out_at_once_and_comes_back_with_the_end_of_that() -> None:
    pair, user = Pair(), USERS[2]
    seen = pair.scrolled(user)
    number = int(pair.keeping.rank(request_of(user, 2), seen).numbers[0])
    ruling = Ruling("takedown", "resume", number, pack(RESUME, number), "ana", "a reason", MOMENT, "", 0, MOMENT + 60)
    for rulings in ((), (ruling,), (), (ruling,)):
        for pipeline in (pair.keeping, pair.anew):
            pipeline.rule(rulings)
        for page in range(3):
            pair.same_feed(request_of(user, page), seen)
    assert pair.hits > 4


def test_filters_are_not_answered_from_what_was_kept_of_all() -> None:
    colours = listed([("red" if number % 3 == 0 else "blue",) for number in range(len(WORLD.items))])
    column = FilterColumn("colour", "equal", False, [(0, len(WORLD.videos))], colours, None, ordered(colours))
    catalog, slots, user = replace(CATALOG, filters=(column,)), make_slots(1), USERS[2]
    keeping, plain = (
        FeedPipeline(Generation(catalog, POLICY), kept_slots=slots),
        FeedPipeline(Generation(catalog, POLICY)),
    )
    seen = Pair().scrolled(user)
    keeping.rank(request_of(user, 1), seen)
    kept = slots.copy()
    assert kept.any()
    asked = request_of(user, 2, filters=(("colour", (value_number("red"),)),))
    assert keeping.rank(asked, seen).packed == plain.rank(asked, seen).packed
    assert (slots == kept).all()
    keeping.rank(request_of(user, 3), seen)
    assert items_scored(keeping) == 0


def test_nothing_is_kept_of_who_is_not_in_the_catalog_nor_where_entries_gave_way() -> None:
    pair = Pair()
    for user in (0, FIRST_USER - 5):
        pair.scrolled(user)
    full = np.array([(pack(RESUME, 10_000 + n), pack_detail(MOMENT, 0, 0, IMPRESSED)) for n in range(SEEN_CAPACITY)])
    for page in range(3):
        pair.same_feed(request_of(USERS[2], page), full.tobytes())
    assert not pair.slots.any()
    assert pair.hits == 0


def test_of_many_users_the_latest_are_kept() -> None:
    """A megabyte holds 512 pools."""
    pair = Pair()
    for user in USERS[1:]:
        seen = pair.scrolled(user)
        for moment in range(60):  # as if they were others: by catalogs
            pair.keeping.memory.kept.source[0] += 1
            pair.keeping.rank(request_of(user, 1).but(now=MOMENT + moment), seen)
    assert np.count_nonzero(pair.slots[:, WHO]) > 400
    pair.keeping.rank(request_of(USERS[-1], 1).but(now=MOMENT + 60), seen)
    assert items_scored(pair.keeping) == 0


def test_who_does_not_scroll_has_the_candidates_as_they_were_found_and_nothing_is_kept() -> None:
    pair, plain = Pair(), FeedPipeline(Generation(CATALOG, POLICY), lifetimes=LIFETIMES)
    user = USERS[2]
    first = pair.keeping.rank(request_of(user, 1))
    packed, remembered = first.packed, first.remembered
    assert packed == plain.rank(request_of(user, 1)).packed
    late = request_of(user, 2).but(now=MOMENT + SCROLLING_SECONDS)
    packed = pair.keeping.rank(late, remembered).packed
    assert packed == plain.rank(late, remembered).packed
    assert not pair.slots.any()


def test_without_room_nothing_is_kept_and_candidates_are_as_they_were_found() -> None:
    off, plain = Pair(megabytes=0), FeedPipeline(Generation(CATALOG, POLICY), lifetimes=LIFETIMES)
    seen = off.same_feed(request_of(USERS[2], 1), b"")
    off.same_feed(request_of(USERS[2], 2), seen)
    assert off.hits == 0
    assert off.keeping.rank(request_of(USERS[2], 3)).packed == plain.rank(request_of(USERS[2], 3)).packed
