"""What is remembered of a user, held against a slow and obvious version, and what feeds make of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import Outsider
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.memory.entries import as_entries
from recommendation_service.model.item_keys import CREATOR, LARGEST_TYPE, item_key
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.policies.policy import load_policy
from recommendation_service.ranking.seen import (
    ACTED,
    HIDDEN,
    IMPRESSED,
    SERVED,
    Lifetimes,
    merge_entries,
    remember_events,
    session_number,
)
from recommendation_service.ranking.working_memory import LIVE_SESSIONS, SEEN_CAPACITY
from tests.support.catalogs import Challenge, Item, Video, World, frozen, make_catalog
from tests.support.slates import Slot, ranked, request_for, slots_of
from tests.support.worlds import FIRST_USER, random_world

Entries = npt.NDArray[np.int64]

NOW = 1_795_000_000
LIFETIMES = Lifetimes(served=1800, session=3600, impressed=30 * 86400, acted=20 * 86400)
EPOCH = 1_577_836_800
STATES = (SERVED, IMPRESSED, ACTED, HIDDEN)

WORLD = random_world(77, videos=60, challenges=15, creators=25)
PLAIN = World(
    [Video(n, creator=n, skills=(f"a{n}", f"b{n}", f"c{n}")) for n in range(1, 41)],
    [Challenge(n, creator=1000 + n) for n in range(1, 21)],
)


# The slow version.


class Entry(NamedTuple):
    key: int
    when: int = NOW
    state: int = SERVED
    session: int = 0
    kind: int = 0


def as_array(entries: Sequence[Entry]) -> Entries:
    rows = [(e.key, (e.when - EPOCH) << 32 | e.session << 8 | e.kind << 4 | e.state) for e in entries]
    return np.array(rows, np.int64).reshape(-1, 2)


def as_list(entries: Entries) -> list[Entry]:
    return [
        Entry(key, (detail >> 32) + EPOCH, detail & 15, detail >> 8 & 0xFFFFFF, detail >> 4 & 15)
        for key, detail in entries.tolist()
    ]


def live_sessions(entries: Sequence[Entry], now: int, lifetimes: Lifetimes = LIFETIMES) -> set[int]:
    """The sessions that did something within their lifetime; of very many, the latest."""
    latest = [e.session for e in reversed(entries) if e.session and now - e.when <= lifetimes.session]
    return set(list(dict.fromkeys(latest))[:LIVE_SESSIONS])


def counts(entry: Entry, now: int, *, lives: bool, lifetimes: Lifetimes = LIFETIMES) -> bool:
    age = now - entry.when
    if entry.state == SERVED:
        return lives or age < lifetimes.served
    return entry.state == HIDDEN or age < (lifetimes.impressed if entry.state == IMPRESSED else lifetimes.acted)


def at_most(entries: Sequence[Entry], now: int) -> list[Entry]:
    """What was remembered by a clock that was ahead counts as of now."""
    return [e._replace(when=min(e.when, now)) for e in entries]


def kept(entries: Sequence[Entry], now: int) -> list[Entry]:
    entries = at_most(entries, now)
    live = live_sessions(entries, now)
    return [e for e in entries if counts(e, now, lives=e.session in live)]


def bounded(entries: Sequence[Entry]) -> list[Entry]:
    """Without those that are too many: the oldest served ones, then the oldest others, then the oldest hidden ones."""
    surplus = len(entries) - SEEN_CAPACITY
    ranks = {SERVED: 0, IMPRESSED: 1, ACTED: 1, HIDDEN: 2}
    going = sorted(range(len(entries)), key=lambda place: (ranks[entries[place].state], place))[: max(0, surplus)]
    return [entry for place, entry in enumerate(entries) if place not in set(going)]


def key_of(item: Item) -> int:
    return item_key(int(isinstance(item, Challenge)), item.id)


def kept_away(entries: Sequence[Entry], now: int, session: int) -> tuple[dict[int, int], set[int]]:
    """Keys that must not come back, with when they were seen; and keys, and creators' keys, that never may."""
    entries = at_most(entries, now)
    live = live_sessions(entries, now)
    hidden = {e.key for e in entries if e.state == HIDDEN}
    away = {
        e.key: e.when
        for e in entries
        if e.state != HIDDEN and counts(e, now, lives=e.session == session and session in live)
    }
    return away, hidden


def is_hidden(item: Item, hidden: set[int]) -> bool:
    return key_of(item) in hidden or item_key(CREATOR, item.creator) in hidden


def after_events(entries: Sequence[Entry], events: Sequence[Entry], now: int) -> tuple[list[Entry], list[int]]:
    result, kinds = kept(entries, now), []
    for event in events:
        old = next((e for e in result if e.key == event.key), None)
        if old is not None:
            result.remove(old)
        kind = old.kind if old else 0
        session = event.session or (old.session if old else 0)
        result.append(Entry(event.key, now, max(event.state, old.state if old else 0), session, kind))
        kinds.append(kind)
    return bounded(result), kinds


# Made up at random, with every time on both sides of every edge.

EDGES = [0, *(edge + step for edge in LIFETIMES for step in (-1, 0, 1))]
AHEAD = (-1, -86_400, -60 * 86_400, -450 * 86_400)  # a clock that was
SESSIONS = st.integers(0, LIVE_SESSIONS + 3)
ITEM_KEYS = st.builds(lambda number, is_challenge: item_key(int(is_challenge), number), st.integers(1, 65),
                      st.booleans())  # fmt: skip
CREATOR_KEYS = st.integers(1, 28).map(lambda number: item_key(CREATOR, number))
DRAWN_STATES = (SERVED, SERVED, SERVED, IMPRESSED, ACTED, HIDDEN)

# Of an entry all is drawn as one string of bytes: to draw each field by itself took half of these tests' time. They are
# less alike, so that there are a third more examples.
ENTRY_BYTES = 11
MOST_ENTRIES = 60


def _key(which: int, number: int) -> int:
    of_eight, type_ = which % 8, which // 8
    if of_eight < 6:
        return item_key(type_ % 2, 1 + number % 65)
    if of_eight == 6:  # in no catalog
        return item_key(CREATOR + 1 + type_ % (LARGEST_TYPE - CREATOR), 1 + number % 65)
    return item_key(CREATOR, 1 + number % 28)


def _entry(drawn: bytes) -> Entry:
    key, number = _key(int.from_bytes(drawn[:2]), drawn[2]), int.from_bytes(drawn[3:7])
    ages = (EDGES[number % len(EDGES)], number % (40 * 86400 + 1), number % 5001, AHEAD[number % len(AHEAD)])
    state = HIDDEN if key < 0 else DRAWN_STATES[drawn[7] % len(DRAWN_STATES)]
    kind = 0 if key < 0 else drawn[8] % (len(KINDS) + 1)
    return Entry(key, NOW - ages[drawn[9] % len(ages)], state, drawn[10] % (LIVE_SESSIONS + 4), kind)


@st.composite
def remembered_entries(draw: st.DrawFn) -> list[Entry]:
    """As the service keeps them: one an item, the latest last."""
    count = draw(ENTRY_COUNTS)
    drawn = draw(BYTES_OF_ENTRIES[count])
    entries = [_entry(drawn[at : at + ENTRY_BYTES]) for at in range(0, len(drawn), ENTRY_BYTES)]
    return sorted({entry.key: entry for entry in entries}.values(), key=lambda entry: entry.when)


ENTRY_COUNTS = st.integers(0, MOST_ENTRIES)
BYTES_OF_ENTRIES = [st.binary(min_size=n, max_size=n) for n in range(0, ENTRY_BYTES * (MOST_ENTRIES + 1), ENTRY_BYTES)]


@pytest.fixture(scope="module")
def pipeline() -> FeedPipeline:
    return pipeline_of(WORLD)


def pipeline_of(world: World, lifetimes: Lifetimes = LIFETIMES) -> FeedPipeline:
    policy = load_policy()
    return FeedPipeline(Generation(make_catalog(world, policy), policy), lifetimes=lifetimes)


def ranked_after(
    entries: Sequence[Entry] | Entries,
    pipeline: FeedPipeline,
    world: World = WORLD,
    *,
    user: int = 5,
    endpoint: str = "total",
    size: int = 24,
    request_id: str = "request",
    session: int = 0,
    now: int = NOW,
) -> list[Slot]:
    """The slots of a feed for a user of whom these entries are remembered."""
    seen = entries if isinstance(entries, np.ndarray) else as_array(entries)
    request = request_for(user, endpoint, size, request_id).but(session=session, now=now)
    return ranked(pipeline, world, request, seen.tobytes())


# What stays away.

TWO = World([Video(1, creator=1, skills=("a", "b", "c")), Video(2, creator=2, skills=("d", "e", "f"))])


@pytest.fixture(scope="module")
def two() -> FeedPipeline:
    return pipeline_of(TWO)


def came_back(two: FeedPipeline, entries: Sequence[Entry], session: int = 0) -> str:
    """How the first of the two videos came into a feed that has room for both: for want of others, or freely."""
    slots = ranked_after(entries, two, TWO, endpoint="discover", size=2, session=session)
    for slot in slots:
        if slot.item.id == 1:
            assert ("seen" in slot.relaxed) is (slot.pool == "seen")
            return "for want of others" if slot.pool == "seen" else "freely"
    return "never"


FIRST = item_key(RESUME, 1)


@pytest.mark.parametrize(
    ("state", "lifetime"),
    [(SERVED, LIFETIMES.served), (IMPRESSED, LIFETIMES.impressed), (ACTED, LIFETIMES.acted)],
    ids=["served", "impressed", "acted"],
)
def test_an_item_stays_away_for_its_states_lifetime_and_no_second_longer(
    two: FeedPipeline, state: int, lifetime: int
) -> None:
    assert came_back(two, [Entry(FIRST, NOW - lifetime + 1, state)]) == "for want of others"
    assert came_back(two, [Entry(FIRST, NOW - lifetime, state)]) == "freely"


@pytest.mark.parametrize("key", [FIRST, item_key(CREATOR, 1)], ids=["item", "creator"])
def test_what_is_hidden_never_comes_back_even_where_nothing_else_is_left(two: FeedPipeline, key: int) -> None:
    assert came_back(two, [Entry(key, EPOCH, HIDDEN)]) == "never"
    assert came_back(two, [Entry(key, NOW, HIDDEN), Entry(item_key(RESUME, 2), NOW)]) == "never"


def test_what_a_session_was_served_stays_away_from_it_until_it_ends(two: FeedPipeline) -> None:
    other = item_key(CHALLENGE, 99)
    served = Entry(FIRST, NOW - 3000, SERVED, session=7)
    last_feed = Entry(other, NOW - LIFETIMES.session + 700, SERVED, session=7)
    assert came_back(two, [served, last_feed], session=7) == "for want of others"
    assert came_back(two, [served, last_feed], session=8) == "freely", "the other session's half hour is over"
    assert came_back(two, [served, last_feed], session=0) == "freely"
    long_ago = served._replace(when=NOW - 86_400)
    assert came_back(two, [long_ago, last_feed], session=7) == "for want of others"
    ended = last_feed._replace(when=NOW - LIFETIMES.session - 1)
    assert came_back(two, [long_ago, ended], session=7) == "freely"


def test_two_sessions_of_one_user_keep_away_what_either_was_served_lately(two: FeedPipeline) -> None:
    for session in (0, 7, 8):
        assert came_back(two, [Entry(FIRST, NOW - 60, SERVED, session=7)], session) == "for want of others"


@settings(max_examples=200, deadline=None)
@given(
    entries=remembered_entries(),
    session=SESSIONS,
    endpoint=st.sampled_from(ENDPOINTS),
    size=st.integers(1, 100),
    number=st.integers(0, 10**6),
)
def test_a_feed_holds_what_is_kept_away_only_where_nothing_else_is_left_and_what_is_hidden_never(
    pipeline: FeedPipeline, entries: list[Entry], session: int, endpoint: str, size: int, number: int
) -> None:
    slots = ranked_after(entries, pipeline, session=session, endpoint=endpoint, size=size, request_id=str(number))
    away, hidden = kept_away(entries, NOW, session)
    there = [item for item in WORLD.items if endpoint == "total" or (endpoint == "flow") is isinstance(item, Challenge)]
    allowed = [item for item in there if not is_hidden(item, hidden)]
    fresh = {key_of(item) for item in allowed} - set(away)
    assert len(slots) == min(size, len(allowed))
    assert len({slot.item.key for slot in slots}) == len(slots)
    for place, slot in enumerate(slots):
        assert not is_hidden(slot.item, hidden)
        assert (slot.pool == "seen") is (key_of(slot.item) in away)
        assert (slot.pool == "seen") is ("seen" in slot.relaxed)
        if slot.pool == "seen":
            assert fresh <= {key_of(earlier.item) for earlier in slots[:place]}
    assert ("seen" in slots.slate.relaxed) is (size > len(fresh) and len(allowed) > len(fresh))


def test_what_was_seen_longest_ago_comes_back_first() -> None:
    pipeline = pipeline_of(PLAIN)
    order = random.Random(3).sample(PLAIN.videos, k=len(PLAIN.videos))
    states = (SERVED, IMPRESSED, ACTED)
    entries = [
        Entry(key_of(video), NOW - 1000 + place, states[place % 3], session=place % 4)
        for place, video in enumerate(order)
    ]
    slots = ranked_after(entries, pipeline, PLAIN, endpoint="discover", size=30)
    assert [slot.item for slot in slots] == order[:30]
    assert slots.slate.relaxed == ["seen"]


@pytest.mark.parametrize("ahead", [1, 86_400, 60 * 86_400, 450 * 86_400], ids=lambda seconds: f"{seconds} s")
def test_what_was_served_by_a_clock_that_was_ahead_stays_away_as_if_it_were_served_now(ahead: int) -> None:
    """Not until the clock is there again: a user would get the tail of the catalog for as long."""
    pipeline = pipeline_of(PLAIN)
    entries = [Entry(key_of(video), NOW + ahead, SERVED) for video in PLAIN.videos[:20]]
    first = ranked_after(entries, pipeline, PLAIN, endpoint="discover", size=10)
    assert {key_of(slot.item) for slot in first}.isdisjoint(entry.key for entry in entries)
    remembered = as_entries(first.slate.remembered)
    assert max(entry.when for entry in as_list(remembered)) == NOW
    later = NOW + LIFETIMES.served
    slots = ranked_after(remembered, pipeline, PLAIN, endpoint="discover", size=40, now=later)
    assert not any(slot.pool == "seen" for slot in slots), "half an hour later all of it may come back"


# What is remembered after a feed.


@settings(max_examples=200, deadline=None)
@given(
    entries=remembered_entries(),
    session=SESSIONS,
    endpoint=st.sampled_from(ENDPOINTS),
    size=st.integers(1, 100),
)
def test_after_a_feed_its_items_are_remembered_last_and_what_has_expired_is_not(
    pipeline: FeedPipeline, entries: list[Entry], session: int, endpoint: str, size: int
) -> None:
    slots = ranked_after(entries, pipeline, session=session, endpoint=endpoint, size=size)
    before = {entry.key: entry.state for entry in entries}
    in_feed = {key_of(slot.item) for slot in slots}
    expected = [entry for entry in kept(entries, NOW) if entry.key not in in_feed]
    expected += [
        Entry(
            key_of(slot.item),
            NOW,
            before[key_of(slot.item)] if slot.pool == "seen" else SERVED,  # a state never falls while it counts
            session,
            1 + KINDS.index(slot.kind),
        )
        for slot in slots
    ]
    assert as_list(as_entries(slots.slate.remembered)) == expected


def test_a_full_memory_keeps_the_latest_and_what_is_hidden(pipeline: FeedPipeline) -> None:
    entries = [Entry(item_key(RESUME, 10_000 + n), NOW - 10, SERVED) for n in range(SEEN_CAPACITY - 2)]
    entries = [
        Entry(item_key(CREATOR, 3), NOW - 90, HIDDEN),
        Entry(item_key(CHALLENGE, 5), NOW - 80, ACTED),
        *entries,
    ]
    slots = ranked_after(entries, pipeline, size=24)
    remembered = as_list(as_entries(slots.slate.remembered))
    assert len(remembered) == SEEN_CAPACITY
    assert remembered[:2] == entries[:2]
    assert remembered[2:-24] == entries[26:], "the oldest served ones went"
    assert [entry.key for entry in remembered[-24:]] == [key_of(slot.item) for slot in slots]


@pytest.mark.parametrize("session", [0, 9])
@pytest.mark.parametrize("seed", range(3))
def test_scrolling_through_a_whole_catalog_repeats_nothing_until_all_of_it_was_shown(
    pipeline: FeedPipeline, seed: int, session: int
) -> None:
    draw = random.Random(seed)
    hidden_item, hidden_creator = WORLD.items[seed], WORLD.items[-1].creator
    hidden = {key_of(hidden_item), item_key(CREATOR, hidden_creator)}
    memory = as_array([Entry(key, NOW - 7, HIDDEN) for key in sorted(hidden)])
    left = {item.key for item in WORLD.items if not is_hidden(item, hidden)}
    shown: list[tuple[str, int]] = []
    page = 0
    while left:
        page += 1
        slots = ranked_after(
            memory, pipeline, size=draw.randint(1, 30), endpoint=draw.choice(ENDPOINTS), request_id=f"{seed} {page}",
            session=session, now=NOW + page,
        )  # fmt: skip
        memory = as_entries(slots.slate.remembered)
        for slot in slots:
            assert (slot.item.key in left) is (slot.pool != "seen")
            left.discard(slot.item.key)
            shown.append(slot.item.key)
    assert hidden_item.key not in shown
    last_page = ranked_after(memory, pipeline, size=100, session=session, now=NOW + page + 1)
    assert {slot.item.key for slot in last_page} == set(shown)
    assert last_page.slate.relaxed[-1] == "seen"


def test_the_entries_of_one_user_are_not_left_for_the_next(pipeline: FeedPipeline) -> None:
    fresh = [slot.item for slot in ranked(pipeline, WORLD, request_for(5, size=30, request_id="the same"))]
    everything = [Entry(key_of(item), NOW - 5) for item in WORLD.items]
    assert ranked_after(everything, pipeline, size=30)
    again = ranked(pipeline, WORLD, request_for(5, size=30, request_id="the same"))
    assert [slot.item for slot in again] == fresh
    assert {entry.key for entry in as_list(as_entries(again.slate.remembered))} == {key_of(item) for item in fresh}


# What people do.


@settings(max_examples=260, deadline=None)
@given(
    entries=remembered_entries(),
    events=st.lists(
        st.builds(Entry, ITEM_KEYS | CREATOR_KEYS, st.just(NOW), st.sampled_from((IMPRESSED, ACTED, HIDDEN)), SESSIONS),
        max_size=30,
    ),
)
def test_events_move_items_to_the_end_with_the_higher_state_and_tell_the_kinds_they_were_served_with(
    entries: list[Entry], events: list[Entry]
) -> None:
    expected, kinds = after_events(entries, events, NOW)
    assert happened(entries, events) == (expected, kinds)


def happened(entries: Sequence[Entry], events: Sequence[Entry]) -> tuple[list[Entry], list[int]]:
    """What the kernel makes of it."""
    kinds = np.zeros(len(events), np.uint8)
    out = np.empty((SEEN_CAPACITY + len(events), 2), np.int64)
    size = remember_events(
        as_array(entries),
        len(entries),
        np.array([event.key for event in events], np.int64),
        np.array([event.state for event in events], np.uint8),
        np.array([event.session for event in events], np.int32),
        kinds,
        NOW,
        np.array(LIFETIMES, np.int64),
        np.zeros(LIVE_SESSIONS, np.int64),
        out,
    )
    return as_list(out[:size]), kinds.tolist()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(SEEN_CAPACITY - 3, SEEN_CAPACITY), events=st.integers(1, 200))
def test_of_too_many_the_oldest_served_go_first_then_the_oldest_others_and_what_is_hidden_last(
    seed: int, count: int, events: int
) -> None:
    draw = random.Random(seed)
    # Few of the states that go first, so that all of them are reached.
    weights = draw.choice(((900, 50, 50, 100), (1, 5, 5, 5000), (1, 30, 30, 5000), (0, 0, 0, 1)))
    entries = [
        Entry(item_key(RESUME, number), NOW - 1000 + number // 10, state, kind=number % 6)
        for number, state in enumerate(draw.choices(STATES, weights, k=count), 1)
    ]
    acts = [Entry(item_key(RESUME, 10_000 + n), NOW, draw.choice(STATES[1:])) for n in range(events)]
    expected, kinds = after_events(entries, acts, NOW)
    assert len(expected) == min(SEEN_CAPACITY, count + events)
    assert happened(entries, acts) == (expected, kinds)


def test_what_somebody_acted_on_stays_hidden_once_it_was_hidden() -> None:
    entries = [Entry(FIRST, NOW - 50, SERVED, session=3, kind=2)]
    hide, view = Entry(FIRST, NOW, HIDDEN), Entry(FIRST, NOW, ACTED, session=4)
    assert happened(entries, [hide, view]) == ([Entry(FIRST, NOW, HIDDEN, 4, 2)], [2, 2])
    assert happened(entries, [view, hide]) == ([Entry(FIRST, NOW, HIDDEN, 4, 2)], [2, 2])


# Two memories of one user.


@settings(max_examples=260, deadline=None)
@given(ours=remembered_entries(), theirs=remembered_entries())
def test_merging_takes_of_each_item_the_higher_state_and_the_later_time(ours: list[Entry], theirs: list[Entry]) -> None:
    merged = merge_entries(as_array(ours), as_array(theirs))
    by_key = {entry.key: entry for entry in as_list(merged)}
    assert len(by_key) == len(merged)
    assert by_key.keys() == {entry.key for entry in ours} | {entry.key for entry in theirs}
    for key, entry in by_key.items():
        both = [one for one in (*ours, *theirs) if one.key == key]
        assert entry.state == max(one.state for one in both)
        assert entry.when == max(one.when for one in both)
        assert (entry.session, entry.kind) in [(one.session, one.kind) for one in both if one.when == entry.when]
    assert [entry.when for entry in as_list(merged)] == sorted(entry.when for entry in by_key.values())


@settings(max_examples=130, deadline=None)
@given(ours=remembered_entries(), theirs=remembered_entries(), third=remembered_entries())
def test_merging_gives_the_same_in_any_order_and_any_number_of_times(
    ours: list[Entry], theirs: list[Entry], third: list[Entry]
) -> None:
    a, b, c = as_array(ours), as_array(theirs), as_array(third)
    merged = merge_entries(a, b)
    np.testing.assert_array_equal(merge_entries(b, a), merged)
    np.testing.assert_array_equal(merge_entries(merged, b), merged)
    np.testing.assert_array_equal(merge_entries(merged, merged), merged)
    np.testing.assert_array_equal(merge_entries(merged, c), merge_entries(a, merge_entries(b, c)))


def test_a_merged_memory_is_bounded_and_keeps_what_is_hidden() -> None:
    ours = as_array([Entry(item_key(RESUME, n), NOW - 9, SERVED) for n in range(1, SEEN_CAPACITY + 1)])
    theirs = [Entry(item_key(CHALLENGE, n), NOW - 99, HIDDEN if n % 2 else ACTED) for n in range(1, 1001)]
    merged = as_list(merge_entries(ours, as_array(theirs)))
    assert len(merged) == SEEN_CAPACITY
    assert [entry for entry in merged if entry.state != SERVED] == theirs


def test_nothing_merged_with_nothing_is_nothing() -> None:
    nothing = as_array([])
    assert merge_entries(nothing, nothing).shape == (0, 2)


def test_sessions_have_numbers_of_24_bits_and_none_has_that_of_no_session() -> None:
    numbers = {session_number(f"session {n}") for n in range(3000)}
    assert len(numbers) > 2990
    assert all(0 < number < 1 << 24 for number in numbers)
    assert session_number(None) == session_number("") == 0
    assert session_number("\ud800") > 0


# Users outside the catalog.


PEOPLED = random_world(31, videos=150, challenges=30, users=8, creators=30)


@pytest.fixture(scope="module")
def inside() -> FeedPipeline:
    return pipeline_of(PEOPLED)


@pytest.fixture(scope="module")
def outside(inside: FeedPipeline) -> FeedPipeline:
    """Its catalog differs only in that the users have other numbers."""
    others = inside.catalog.arrays._replace(user_id=frozen(inside.catalog.arrays.user_id + 10**9))
    return FeedPipeline(Generation(replace(inside.catalog, arrays=others), inside.policy))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("place", range(8))
def test_a_user_outside_the_catalog_gets_the_feed_that_they_would_get_in_it(
    inside: FeedPipeline, outside: FeedPipeline, place: int, endpoint: str
) -> None:
    """Those with nothing, with a profile only and with a history of untagged videos are among them."""
    user = FIRST_USER + place
    request = request_for(user, endpoint, 40, "the same").but(now=NOW)
    expected = ranked(inside, PEOPLED, request)
    assert outside.user_row(user) < 0
    as_told = request.but(outsider=told_of(inside, user))
    outside.rank(as_told)
    assert facts(slots_of(outside, PEOPLED)) == facts(expected)
    if place not in (0, 2):  # these two have nothing that a feed could follow
        outside.rank(request)
        assert facts(slots_of(outside, PEOPLED)) != facts(expected) or endpoint == "flow"


PEOPLED = random_world(31, videos=150, challenges=30, users=8, creators=30)


def told_of(pipeline: FeedPipeline, user: int) -> Outsider:
    """What the catalog has of a user, as the tables would tell it."""
    arrays, row = pipeline.catalog.arrays, pipeline.user_row(user)
    if row < 0:
        return Outsider(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), 0, np.zeros(0, np.int32))
    history = slice(arrays.history_offsets[row], arrays.history_offsets[row + 1])
    items = arrays.history_items[history]
    keys = arrays.item_id[items] << 1 | (items >= arrays.worded)
    network = slice(arrays.network_offsets[row], arrays.network_offsets[row + 1])
    profile = slice(arrays.profile_offsets[row], arrays.profile_offsets[row + 1])
    return Outsider(
        np.stack([keys, arrays.history_when[history]], axis=1),
        arrays.creator_id[arrays.network_creators[network]],
        int(arrays.connections[row]),
        arrays.profile_tokens[profile],
    )


def facts(slots: Sequence[Slot]) -> list[tuple[object, ...]]:
    return [(s.item.key, s.kind, s.pool, s.relaxed, s.propensity, s.score, *s.features.tolist()) for s in slots]


def test_the_catalog_is_right_about_a_user_whatever_else_is_told(inside: FeedPipeline) -> None:
    user = FIRST_USER + 5
    request = request_for(user, size=40, request_id="the same")
    expected = facts(ranked(inside, PEOPLED, request))
    assert facts(ranked(inside, PEOPLED, request.but(outsider=told_of(inside, FIRST_USER + 6)))) == expected


def test_a_user_with_more_than_there_is_room_for_gets_a_feed_too(outside: FeedPipeline) -> None:
    many = np.arange(1, 20_000, dtype=np.int64)
    outsider = Outsider(np.stack([many << 1, many], axis=1), many, 20_000, np.zeros(500, np.int32))
    slots = ranked(outside, PEOPLED, request_for(7, size=10).but(outsider=outsider, now=NOW))
    assert len(slots) == 10
