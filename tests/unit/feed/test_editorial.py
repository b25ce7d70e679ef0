"""What editors ruled, in feeds: pinned to its place, drawn nowhere, and without a trace once it is over."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from recommendation_service.catalog.filter_columns import FilterColumn, listed, ordered, value_number
from recommendation_service.editors.rulings import Action, Ruling
from recommendation_service.feed.editorial import placed
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.item_keys import pack
from recommendation_service.model.kinds import PINNED
from recommendation_service.policies.experiment import Arm, Experiment
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.ranking.packed_slots import (
    pinned_of_each,
    unpack_propensities_of_each,
    unpack_shown,
    unpack_slots,
)
from recommendation_service.ranking.seen import HIDDEN, IMPRESSED, pack_detail
from tests.support.catalogs import Challenge, Interaction, User, Video, World, make_catalog
from tests.support.policies import policy_file
from tests.support.slates import request_for

NOW = 1_795_000_000
VIDEOS = [Video(n, n % 20 + 1, skills=(f"skill {n % 11}", f"skill {n % 7 + 20}"), views=n) for n in range(1, 121)]
CHALLENGES = [Challenge(n, n % 9 + 30) for n in range(1, 41)]
USER, TAKEN = 77, 33
WORLD = World(VIDEOS, CHALLENGES, [User(USER, (Interaction(TAKEN, 3.0, "rating"),), skills=("skill 1",))])
CATALOG, POLICY = make_catalog(WORLD), load_policy()


def ruling(action: Action, number: int, feed: str = "", place: int = 0, kind: str = "resume") -> Ruling:
    key = pack(RESUME if kind == "resume" else CHALLENGE, number)
    return Ruling(action, kind, number, key, "ana", "a reason", NOW, feed, place, NOW + 60)


def pin(number: int, place: int = 1, feed: str = "total", kind: str = "resume") -> Ruling:
    return ruling("pin", number, feed, place, kind)


def pipeline(*rulings: Ruling, catalog=CATALOG, policy=POLICY) -> FeedPipeline:  # type: ignore[no-untyped-def]
    return FeedPipeline(Generation(catalog, policy, rulings=rulings))


def keys(feeds: FeedPipeline, request: FeedRequest, seen: bytes = b"") -> list[int]:
    return list(feeds.rank(request, seen).keys.tolist())


def resume(number: int) -> int:
    return pack(RESUME, number)


def entries(*of: tuple[int, int]) -> bytes:
    """(key, state) of each, remembered a minute ago."""
    return np.array([(key, pack_detail(NOW - 60, 0, 1, state)) for key, state in of], np.int64).tobytes()


def test_a_pinned_item_is_at_its_place_and_the_others_are_drawn_around_it() -> None:
    feeds = pipeline(pin(5), pin(90, 4), pin(7, 3, kind="challenge"))

    for request_id in ("one", "two", "three"):
        slate = feeds.rank(request_for(USER, "total", 24, request_id))
        shown = slate.keys.tolist()
        assert (shown[0], shown[3], shown[2]) == (resume(5), resume(90), pack(CHALLENGE, 7))
        assert len(set(shown)) == 24
        assert slate.pinned == 3
        assert len(feeds.rank(request_for(USER, "discover", 24, request_id)).keys) == 24
    assert not any(feeds.rank(request_for(USER, feed, 24)).pinned for feed in ("discover", "flow"))


def test_the_record_of_a_feed_says_which_slots_nothing_was_drawn_for() -> None:
    feeds = pipeline(pin(5, 2))
    packed = [feeds.rank(request_for(USER, "total", size, "a")).packed for size in (10, 1, 24)]
    slots = unpack_slots(packed[0])

    assert np.flatnonzero(slots.pools == PINNED).tolist() == [1]
    assert slots.propensities[1] == 1.0
    others, counts = [unpack_shown(one)[2] for one in packed], [10, 1, 24]
    assert [np.flatnonzero(row).tolist() for row in pinned_of_each(others, counts)] == [[1], [], [1]]
    assert [len(one) for one in unpack_propensities_of_each(others, counts)] == counts


def test_a_pin_is_shown_to_a_person_once_and_never_what_was_excluded_taken_or_hidden() -> None:
    feeds, request = pipeline(pin(5)), request_for(USER, "total", 10).but(now=NOW)
    first = feeds.rank(request)
    remembered = first.remembered

    assert first.pinned == 1
    assert resume(5) not in keys(feeds, request.but(request_id="again"), remembered)
    assert resume(5) not in keys(feeds, request.but(excluded=np.array([5])))
    for state in (IMPRESSED, HIDDEN):
        assert resume(5) not in keys(feeds, request, entries((resume(5), state)))
    assert resume(5) not in keys(feeds, request, entries((-VIDEOS[4].creator, HIDDEN))), "its creator is hidden"
    assert resume(TAKEN) not in keys(pipeline(pin(TAKEN)), request)
    assert keys(feeds, request_for(0, "total", 10))[0] == resume(5), "nobody is known to have seen it"


def test_a_pin_that_a_filter_bars_is_not_shown() -> None:
    colours = ["red" if row % 2 else "blue" for row in range(len(WORLD.items))]
    values = listed([(one,) for one in colours])
    column = FilterColumn("colour", "equal", False, [(0, len(VIDEOS))], values, None, ordered(values))
    feeds = pipeline(pin(5), ruling("takedown", 4), catalog=replace(CATALOG, filters=(column,)))
    plain = pipeline(pin(5), ruling("takedown", 4))
    own = colours[CATALOG.row_of(resume(5))]
    request = request_for(USER, "total", 60)

    for asked in ("red", "blue", "red"):
        filtered = request.but(filters=(("colour", (value_number(asked),)),))
        rows = feeds.rank(filtered).items.tolist()
        assert all(colours[row] == asked for row in rows if row < len(VIDEOS))
        assert (CATALOG.row_of(resume(5)) in rows) == (own == asked)
        assert CATALOG.row_of(resume(4)) not in rows
        assert feeds.feed(request) == plain.feed(request), "a mask leaves nothing behind"


def test_a_pin_of_a_type_that_the_feed_has_not_is_not_shown() -> None:
    feeds = pipeline(pin(7, 1, "discover", kind="challenge"))

    assert all(key & 1 == RESUME for key in keys(feeds, request_for(USER, "discover", 24)))


def test_a_pin_beyond_the_size_is_not_shown_and_one_beyond_the_end_ends_the_feed() -> None:
    assert resume(5) not in keys(pipeline(pin(5, 20)), request_for(USER, "total", 10))
    few = make_catalog(World([Video(n, n) for n in range(1, 7)], [], []))
    shown = keys(pipeline(pin(3, 50, "discover"), pin(4, 60, "discover"), catalog=few), request_for(0, "discover", 80))
    assert len(shown) == 6
    assert shown[4:] == [resume(3), resume(4)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 120), st.integers(1, 24)), max_size=4, unique_by=(lambda o: o[0], lambda o: o[1])
    ),
    st.integers(1, 24),
    st.text("abcdef", min_size=1, max_size=4),
)
def test_the_limits_count_what_is_pinned(places: list[tuple[int, int]], size: int, request_id: str) -> None:
    feeds = pipeline(*[pin(number, place) for number, place in places])
    slate = feeds.rank(request_for(0, "total", size, request_id))
    slots, window = unpack_slots(slate.packed), POLICY.file.limits.creator_window
    creators = CATALOG.arrays.creator[slate.items].tolist()

    assert len(set(slate.keys.tolist())) == size
    for number, place in places:
        assert place > size or slots.items[place - 1] == resume(number)
    for slot in np.flatnonzero((slots.pools != PINNED) & (slots.relaxed & 2 == 0)).tolist():
        near = [creators[at] for at in range(size) if at < slot and slot - at < window]
        near += [creators[at] for at in range(slot + 1, size) if slots.pools[at] == PINNED and at - slot < window]
        assert creators[slot] not in near


def test_what_is_buried_or_taken_down_is_in_no_feed_that_it_holds_for() -> None:
    liked = keys(pipeline(), request_for(USER, "total", 24))
    taken, buried = liked[0], liked[3]
    feeds = pipeline(*[replace_key(ruling("takedown", 0), taken), replace_key(ruling("bury", 0, "total"), buried)])

    for size in (24, 100):
        for request_id in ("a", "b", "c"):
            request = request_for(USER, "total", size, request_id)
            assert not {taken, buried} & set(keys(feeds, request))
            everything = np.array([n for n in range(1, 121) if resume(n) not in (taken, buried)])
            assert not {taken, buried} & set(keys(feeds, request.but(excluded=everything)))
            assert taken not in keys(feeds, request.but(endpoint="discover"))
    shown = {key for n in range(20) for key in keys(feeds, request_for(USER, "discover", 100, f"{n}"))}
    assert buried in shown or buried & 1 == CHALLENGE, "it is buried in one feed"


def replace_key(one: Ruling, key: int) -> Ruling:
    return Ruling(one.action, "resume", key >> 1, key, one.who, one.why, one.when, one.feed, one.place, one.until)


def test_answers_that_were_given_under_other_takedowns_are_others() -> None:
    """Whichever was made first: the clocks of machines differ."""

    def named(*rulings: Ruling) -> bytes:
        return placed(rulings, CATALOG).takedowns

    one, early = ruling("takedown", 5), structs.replace(ruling("takedown", 6), when=NOW - 100)
    assert named() == named(ruling("bury", 5), pin(6)) == b""
    assert named(one, early) == named(early, one)
    assert len({b"", named(one), named(early), named(one, early), named(structs.replace(one, when=NOW + 1))}) == 5


def test_what_is_over_leaves_nothing_behind() -> None:
    feeds, untouched = pipeline(), pipeline()
    requests = [request_for(user, feed, 24, "r") for user in (USER, 0) for feed in ("total", "discover", "flow")]
    before = [untouched.feed(request) for request in requests]
    for rulings in ((pin(5), ruling("takedown", 9)), (ruling("bury", 5, "flow"), ruling("bury", 8)), (pin(9, 2),), ()):
        feeds.rule(rulings)
        for request in requests:
            feeds.feed(request)
    assert [feeds.feed(request) for request in requests] == before


def test_arms_of_an_experiment_show_what_is_pinned_alike() -> None:
    served, bold = Policy(policy_file(), version="served"), Policy(policy_file(kinds__AU__alpha=3.0), version="bold")
    named = tuple(Arm(policy.version, policy.version, 0.5) for policy in (served, bold))
    experiment = Experiment("test", "salt", named, "2026-11-29T10:00:00+00:00", "ana", "")
    feeds = FeedPipeline(Generation(CATALOG, served, (), experiment, (served, bold), (pin(4),)))
    assert feeds.arms is not None
    for held, first in (((pin(4),), 4), ((pin(5), ruling("takedown", 4)), 5)):
        feeds.rule(held)
        assert {keys(arm, request_for(USER, "total", 24))[0] for arm in feeds.arms.pipelines} == {resume(first)}
    feeds.rule(())
    assert all(arm.editorial is None for arm in feeds.arms.pipelines)


def test_an_explanation_says_that_an_editor_pinned_it_and_gives_no_other_reason() -> None:
    feeds = pipeline(pin(5, 2))
    for language, text in (("en", "Pinned to this place by an editor."), ("es", "Fijado en este lugar por un editor.")):
        request = request_for(USER, "total", 6, explain=True).but(language=language)
        why = [item["why"] for item in json.loads(feeds.feed(request))["body"]["items"]]
        assert (why[1]["pool"], why[1]["propensity"]) == ("editor", None)
        assert [sentence["text"] for sentence in why[1]["sentences"]] == [text]
        assert all(one["pool"] != "editor" and one["propensity"] for one in (why[0], why[2]))
