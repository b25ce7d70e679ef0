"""Bodies of feedback: the contract's fields and the bad input that it must survive, rule by rule."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recommendation_service.api import event_bodies
from recommendation_service.api.event_bodies import EARLIEST_MS, FUTURE_MS, MOST_PROBLEMS, read_events
from recommendation_service.core.errors import InvalidRequest, NotJson, ServiceError
from recommendation_service.log.records import FeedbackRecord, Flag
from recommendation_service.model.item_keys import ITEM_TYPES, LARGEST_ITEM
from recommendation_service.model.words import EVENT_NAMES, FIRST_WORDS, OwnEvent, Words, own_words

NOW_MS = 1_795_000_000_000
LARGEST_ID = 2**63 - 1
EVENT = {"event": "view", "user_id": 4711, "item_type": "resume", "item_id": 812}
# Makes the careful way be taken, and changes nothing.
CAREFULLY = {"item_id": "812"}


def event(**fields: Any) -> dict[str, Any]:
    return {**EVENT, **fields}


def read(*events: object) -> list[FeedbackRecord]:
    return read_events(json.dumps(list(events)).encode(), NOW_MS)


def read_one(**fields: Any) -> FeedbackRecord:
    """Of an event alone; the list of it must be the same."""
    given_event = {"event_id": "an id", **event(**fields)}
    [alone] = read_events(json.dumps(given_event).encode(), NOW_MS)
    assert read(given_event) == [alone]
    return alone


def problems_of(body: object) -> list[tuple[str, str]]:
    """(field, problem) of a body that is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read_events(json.dumps(body).encode(), NOW_MS)
    assert refused.value.status == 422
    assert all(set(detail) == {"field", "problem"} for detail in refused.value.details)
    return [(detail["field"], detail["problem"]) for detail in refused.value.details]


def problem(**fields: Any) -> str:
    """The only one of an event."""
    [(field, said)] = problems_of(event(**fields))
    assert field in fields
    [(in_list, same)] = problems_of([event(), event(**fields)])
    assert (in_list, same) == (f"[1].{field}", said)
    return said


# What is accepted.


@pytest.mark.parametrize("careful", [{}, CAREFULLY], ids=["plain", "careful"])
def test_an_event_keeps_all_that_is_known_of_it(careful: dict[str, Any]) -> None:
    fields = {
        "event": "rating", "item_type": "challenge", "request_id": "0f" * 16, "session_id": "tab 1", "position": 3,
        "value": 4.5, "watch_seconds": 12.25, "timestamp": 1_794_999_000, "event_id": "mine",
    }  # fmt: skip
    assert read_one(**fields, **careful) == FeedbackRecord(
        event_id="mine",
        event="rating",
        user_id=4711,
        item_type=ITEM_TYPES.index("challenge"),
        item_id=812,
        happened_ms=1_794_999_000_000,
        received_ms=NOW_MS,
        request_id="0f" * 16,
        session_id="tab 1",
        position=3,
        value=4.5,
        watch_seconds=12.25,
    )


@pytest.mark.parametrize("careful", [{}, CAREFULLY], ids=["plain", "careful"])
def test_what_is_not_known_may_be_left_out_or_null(careful: dict[str, Any]) -> None:
    optional = ("request_id", "session_id", "position", "value", "watch_seconds", "timestamp")
    record = read_one(**careful)
    assert record == read_one(**dict.fromkeys(optional), **careful)
    assert (record.happened_ms, record.flags, record.slot_kind) == (NOW_MS, 0, 0)
    assert all(getattr(record, name) is None for name in optional if name != "timestamp")


def test_events_without_an_id_get_one_each_and_no_two_the_same() -> None:
    ids = [record.event_id for record in read(*[event()] * 500, event(event_id=None))]
    assert len(set(ids)) == 501
    assert all(len(event_id) == 32 for event_id in ids)


@pytest.mark.parametrize("name", EVENT_NAMES)
@pytest.mark.parametrize("item_type", ["resume", "challenge"])
def test_every_event_of_every_kind_of_item_is_taken(name: str, item_type: str) -> None:
    record = read_one(event=name, item_type=item_type, value=0)
    assert (record.event, ITEM_TYPES[record.item_type]) == (name, item_type)


def test_a_creator_can_be_hidden_and_nothing_else() -> None:
    assert ITEM_TYPES[read_one(event="hide", item_type="creator").item_type] == "creator"
    for name in set(EVENT_NAMES) - {"hide"}:
        [(field, said)] = problems_of(event(event=name, item_type="creator", value=1))
        assert (field, said) == ("item_type", "creator goes only with the event hide")


@pytest.mark.parametrize(
    ("given_id", "number"), [(1, 1), ("1", 1), ("0812", 812), (812.0, 812), (LARGEST_ITEM, LARGEST_ITEM)], ids=str
)
def test_ids_are_integers_or_strings_of_digits(given_id: object, number: int) -> None:
    assert read_one(item_id=given_id).item_id == number
    assert read_one(user_id=given_id).user_id == number


def test_the_largest_numbers_of_users_and_items_are_taken() -> None:
    assert read_one(user_id=LARGEST_ID).user_id == read_one(user_id=str(LARGEST_ID)).user_id == LARGEST_ID
    assert read_one(item_id=str(LARGEST_ITEM)).item_id == LARGEST_ITEM
    assert str(LARGEST_ITEM) in problem(item_id=LARGEST_ITEM + 1)


def test_user_0_is_anonymous() -> None:
    assert read_one(user_id=0).user_id == read_one(user_id="0").user_id == 0


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    for value in (None, 5, "text", [1, None], {"event": "deep"}):
        assert read_one(something=value, Event=value) == read_one()


def test_a_thousand_events_are_taken_in_their_order() -> None:
    for careful in ({}, CAREFULLY):
        records = read(*[event(event_id=str(number), **careful) for number in range(1000)])
        assert [record.event_id for record in records] == [str(number) for number in range(1000)]


# When it happened.


@pytest.mark.parametrize("careful", [{}, CAREFULLY], ids=["plain", "careful"])
@pytest.mark.parametrize(
    ("timestamp", "milliseconds"),
    [
        (946_684_800, EARLIEST_MS),
        (1_794_999_999.123, 1_794_999_999_123),
        (1_794_999_999_123, 1_794_999_999_123),
        ("2026-11-17T23:06:40Z", 1_794_956_800_000),
        ("2026-11-17T18:06:40.5-05:00", 1_794_956_800_500),
        ("2026-11-17 23:06:40", 1_794_956_800_000),
        ("2026-11-17", 1_794_873_600_000),
        ("2026-11-17t23:06:40z", 1_794_956_800_000),
        ("20261117T230640Z", 1_794_956_800_000),
        ("1712052391530", 1_712_052_391_530),  # a date parser sees a year in it
        ("1794956800", 1_794_956_800_000),
        ("1794956800.25", 1_794_956_800_250),
        ("0001794956800", 1_794_956_800_000),
        (NOW_MS / 1000, NOW_MS),
        ((NOW_MS + FUTURE_MS) / 1000, NOW_MS + FUTURE_MS),  # the client's clock may be a little ahead
    ],
    ids=str,
)
def test_times_are_seconds_milliseconds_or_text(timestamp: object, milliseconds: int, careful: dict[str, Any]) -> None:
    record = read_one(timestamp=timestamp, **careful)
    assert (record.happened_ms, record.flags) == (milliseconds, 0)


@pytest.mark.parametrize("careful", [{}, CAREFULLY], ids=["plain", "careful"])
@pytest.mark.parametrize(
    ("timestamp", "clamped_ms"),
    [
        (0, EARLIEST_MS),
        (-5, EARLIEST_MS),
        (-1e300, EARLIEST_MS),
        (946_684_799, EARLIEST_MS),
        ("1999-12-31T23:59:59Z", EARLIEST_MS),
        ("0001-01-01T00:00:00+14:00", EARLIEST_MS),
        ((NOW_MS + FUTURE_MS) / 1000 + 1, NOW_MS),
        (10**30, NOW_MS),
        (1e300, NOW_MS),
        ("9999-12-31T23:59:59-14:00", NOW_MS),
        ("1796012341530", NOW_MS),
        ("1712052391530000", NOW_MS),  # microseconds
        (1_712_052_391_530_000_000, NOW_MS),  # nanoseconds
        ("9" * 300, NOW_MS),
        ("20240402", EARLIEST_MS),  # seconds, as all digits are, of August 1970
        ("-5", EARLIEST_MS),
    ],
    ids=str,
)
def test_times_before_2000_and_in_the_future_are_clamped_and_flagged(
    timestamp: object, clamped_ms: int, careful: dict[str, Any]
) -> None:
    record = read_one(timestamp=timestamp, **careful)
    assert (record.happened_ms, record.flags) == (clamped_ms, Flag.TIME_CLAMPED)


@settings(max_examples=200)
@given(
    timestamp=st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(10**25), 10**25),
        st.integers(-(10**25), 10**25).map(str),
        st.datetimes().map(str),
    )
)
def test_every_time_lies_between_2000_and_now(timestamp: float | str) -> None:
    record = read_one(timestamp=timestamp)
    assert EARLIEST_MS <= record.happened_ms <= NOW_MS + FUTURE_MS


# What is refused.


def test_an_unknown_event_names_the_allowed_ones() -> None:
    some_wrong: tuple[object, ...] = ("vieww", "", "VIEW", 7, None, ["view"], {}, True)
    for wrong in some_wrong:
        said = dict(problems_of(event(event=wrong)))["event"]
        assert all(name in said for name in EVENT_NAMES), said


def test_an_unknown_item_type_names_the_allowed_ones() -> None:
    some_wrong: tuple[object, ...] = ("video", "", 0, None, {})
    for wrong in some_wrong:
        said = dict(problems_of(event(item_type=wrong)))["item_type"]
        assert all(name in said for name in ITEM_TYPES), said


def test_every_field_that_must_be_there_is_named_where_it_is_missing() -> None:
    assert [field for field, _ in problems_of({})] == ["event", "item_type", "item_id", "user_id"]
    assert [field for field, _ in problems_of([{}, event()])] == [
        "[0].event", "[0].item_type", "[0].item_id", "[0].user_id",
    ]  # fmt: skip


WRONG: dict[str, tuple[object, ...]] = {
    "item_id": (0, -1, 1.5, "x", "1x", "-1", "", "١", True, [], 2**63, 10**30),
    "user_id": (-1, 0.5, "x", "", False, {}, 2**63),
    "position": (-1, 1.5, "3", 10_001, True),
    "value": (-0.1, "5", True, 10**30),
    "watch_seconds": (-1, "12", 86_401),
    "timestamp": (
        *("yesterday", "", True, [], {}, 10**400, "9" * 400, "NaN", "Infinity", "-inf", "1e9", "0x10", "1_000"),
        *(" 1795000000", "1795000000 ", "1795000000\n", "+1795000000", "1795000000.", ".5", "1,5", "١٧٩٥", "--5"),
        *("1712052391530Z", "1712052391,530", "17120523T", "2024-02-30", "2024-13-01", "23:06", "2024-04-02X10:00"),
        *("Tue, 17 Nov 2026 23:06:40 GMT", "2026/11/17", "2026-11", "2026-11-17T23:06:40 Z Z"),
    ),
    "request_id": (7, "r" * 129, []),
    "session_id": (7, "s" * 129),
    "event_id": (7, "", "e" * 129),
}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [(field, wrong) for field, values in WRONG.items() for wrong in values],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_field_is_named_with_what_it_must_be(field: str, wrong: object) -> None:
    assert "must" in problem(**{field: wrong})


def test_a_time_that_is_none_is_told_with_its_rule() -> None:
    assert problem(timestamp="17 Nov") == 'must be seconds or milliseconds since 1970, or ISO 8601, but is "17 Nov"'


def test_a_rating_needs_its_value() -> None:
    assert problems_of(event(event="rating")) == [("value", "is missing: a rating needs it")]
    assert read_one(event="rating", value=0).value == 0


def test_everything_wrong_in_all_events_is_named_at_once() -> None:
    body = [
        event(),
        event(event="vieww", item_id=0, position=-1),
        "no event",
        event(item_type="creator"),
        event(user_id="x", timestamp="x"),
        None,
        {"event": "rating"},
    ]
    assert [field for field, _ in problems_of(body)] == [
        "[1].event", "[1].item_id", "[1].position", "[2]", "[3].item_type", "[4].user_id", "[4].timestamp", "[5]",
        "[6].item_type", "[6].item_id", "[6].user_id", "[6].value",
    ]  # fmt: skip


def test_of_very_many_problems_the_first_are_named_and_the_others_counted() -> None:
    problems = problems_of([event(item_id=0, user_id=-1)] * 1000)
    assert len(problems) == MOST_PROBLEMS + 1
    assert problems[0][0] == "[0].item_id"
    assert problems[-1] == ("body", f"and {2000 - MOST_PROBLEMS} more problems")


@pytest.mark.parametrize("count", [0, 1001, 5000])
def test_a_list_has_from_1_to_1000_events(count: int) -> None:
    [(field, said)] = problems_of([event()] * count)
    assert field == "body"
    assert said == f"must have from 1 to 1000 events, but has {count}"


@pytest.mark.parametrize("body", [7, "text", None, True])
def test_json_that_is_no_event_is_refused(body: object) -> None:
    [(field, said)] = problems_of(body)
    assert field == "body"
    assert "must be an object" in said


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[{]", b"event=view", b"\xff", b'{"event":"\xff"}', b"[" * 100_000, b'{"event":' * 50_000,
        b'{"event_id":"\\ud800"}', b'{"item_id":1e400}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(NotJson):
        read_events(body, NOW_MS)


# Both ways of reading agree, and nothing breaks them.

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def without_made_up_id(record: FeedbackRecord) -> FeedbackRecord:
    return msgspec.structs.replace(record, event_id="") if len(record.event_id) == 32 else record


ALMOST_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(EVENT_NAMES) | ANY_JSON,
        "item_type": st.sampled_from(ITEM_TYPES) | ANY_JSON,
        "item_id": st.integers(1, 2**64) | st.integers(1, 2**64).map(str) | ANY_JSON,
        "user_id": st.integers(0, 2**64) | ANY_JSON,
        "position": st.integers(0, 10_002) | ANY_JSON,
        "value": st.floats(0, 6) | ANY_JSON,
        "watch_seconds": st.floats(0, 90_000) | ANY_JSON,
        "timestamp": st.integers(-10, 2**41) | st.datetimes().map(str) | ANY_JSON,
        "event_id": st.text(max_size=130) | ANY_JSON,
        "request_id": st.text(max_size=130) | ANY_JSON,
        "session_id": st.text(max_size=130) | ANY_JSON,
    },
)


SONG = {"event": "play", "user_id": "u-1", "item_id": "a song", "item_type": "song"}
SONGS = Words(
    {"song": 3},
    own_words({"song": 3}, {"play": OwnEvent("like", ("song",))}),
    users_are_text=True,
    text_types=frozenset({"song", "creator"}),
)
ALMOST_SONGS = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["play", "hide"]) | ANY_JSON,
        **{name: st.just(SONG[f"{name}_id"]) | ANY_JSON for name in ("user", "item")},
        **{f"{name}_id": st.just(SONG[f"{name}_id"]) | ANY_JSON for name in ("user", "item")},
        **{name: st.just("song") | ANY_JSON for name in ("type", "item_type")},
        **{name: st.text(max_size=5) | ANY_JSON for name in ("request", "request_id", "session", "session_id")},
        **{name: st.integers(0, 2**41) | ANY_JSON for name in ("time", "timestamp")},
    },
)


@pytest.mark.parametrize("careful", [{}, {"timestamp": "1795000000"}], ids=["plain", "careful"])
def test_a_mappings_event_may_have_short_names_and_long_ones_at_once(careful: dict[str, Any]) -> None:
    short = {"request": "r", "session": "s", "time": 1_795_000_000, "session_id": None}
    [record] = read_events(json.dumps(SONG | short | careful).encode(), NOW_MS, SONGS)
    assert (record.request_id, record.session_id, record.happened_ms) == ("r", "s", 1_795_000_000_000)
    [record] = read_events(json.dumps(SONG | short | {"request_id": "long"}).encode(), NOW_MS, SONGS)
    assert record.request_id == "long"


@settings(max_examples=300, deadline=None)
@given(
    body=st.one_of(ALMOST_EVENTS, st.lists(ALMOST_EVENTS, max_size=3), ALMOST_SONGS, ANY_JSON),
    words=st.sampled_from([FIRST_WORDS, SONGS]),
)
def test_any_json_is_read_or_refused_and_the_quick_way_never_decides_otherwise(body: object, words: Words) -> None:
    encoded = json.dumps(body).replace("Infinity", "1e308").encode()
    outcomes: list[tuple[type, list[object]]] = []
    for read_body in (read_events, event_bodies._read_carefully):
        try:
            records = read_body(encoded, NOW_MS, words)
        except ServiceError as error:
            outcomes.append((type(error), list(error.details)))
        else:
            outcomes.append((FeedbackRecord, [without_made_up_id(record) for record in records]))
    assert outcomes[0] == outcomes[1]


@settings(max_examples=200)
@given(body=st.binary(max_size=60))
@example(b'\xef\xbb\xbf{"event":"view"}')
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(ServiceError):
        read_events(body, NOW_MS)
