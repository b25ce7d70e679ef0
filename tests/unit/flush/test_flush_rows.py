"""Records as rows, and rows as SQL: the fast way of writing them agrees with the slow one."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymysql.converters import escape_string

from recommendation_service.flush.export import event_of_record
from recommendation_service.flush.literals import feedback_literals, plain_feed_literals, quote_plain, row_literals
from recommendation_service.flush.rows import (
    FEED_COLUMNS,
    FEEDBACK_COLUMNS,
    are_plain,
    can_hold,
    feed_of_row,
    feed_row,
    feedback_row,
    properties_of,
    shown_of_row,
    text_of,
)
from recommendation_service.log.records import FeedbackRecord, FeedRecord, ShadowRecord, decode, encode
from recommendation_service.model.words import EVENT_NAMES
from tests.support.events import feed, feedback
from tests.support.older_records import AS_READ, IN_ITS_ROW

unhurried = settings(deadline=None)
ids = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
milliseconds = st.integers(946_684_800_000, 2_000_000_000_000)
records = st.builds(
    FeedbackRecord,
    event_id=texts,
    event=st.sampled_from(EVENT_NAMES),
    user_id=ids,
    item_type=st.integers(0, 2),
    item_id=ids,
    happened_ms=milliseconds,
    received_ms=milliseconds,
    request_id=st.none() | texts,
    session_id=st.none() | texts,
    position=st.none() | st.integers(0, 10_000),
    value=st.none() | numbers,
    watch_seconds=st.none() | numbers,
    slot_kind=st.integers(0, 5),
    flags=st.integers(0, 7),
)


def escape(value: str) -> str:
    return f"'{escape_string(value)}'"


@unhurried
@given(st.lists(records, max_size=5))
def test_feedback_is_written_out_as_its_row_is_but_for_times_as_numbers(some: list[FeedbackRecord]) -> None:
    expected = []
    for row in (feedback_row(record, 5) for record in some):
        (text,) = row_literals([row[:12]], escape)
        happened, received = (str(moment).translate(str.maketrans("", "", "-: ")) for moment in row[12:14])
        (rest,) = row_literals([row[14:]], escape)
        expected.append(f"{text[:-1]},{happened},{received},{rest[1:]}")
    assert feedback_literals(some, 5, escape) == expected


def escape_as_needed(value: str) -> str:
    """What has to be escaped within single quotes, and nothing else."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


plain = st.text("abc XYZ_-.:019", max_size=20)
odd_names = st.text("ab1'\"\\é🌱", max_size=8)
feeds = st.builds(
    feed,
    st.integers(0, 30),
    user_id=ids,
    session_id=st.none() | plain,
    endpoint=st.integers(0, 2),
    happened_ms=milliseconds,
    catalog_version=odd_names,
    policy_version=odd_names,
    personal=st.booleans(),
    arm=st.sampled_from(["", "bolder:control", "bolder:bold"]),
    seed=ids,
    shadows=st.lists(st.builds(ShadowRecord, odd_names, st.binary(max_size=12)), max_size=2).map(tuple),
)


@unhurried
@given(st.lists(feeds, max_size=5))
def test_plain_feeds_are_written_out_as_their_rows_are_but_for_times_as_numbers(some: list[FeedRecord]) -> None:
    expected = []
    for row in (feed_row(record, 5) for record in some):
        (text,) = row_literals([row[:7]], escape_as_needed)
        happened, received = (str(moment).translate(str.maketrans("", "", "-: ")) for moment in row[7:9])
        (rest,) = row_literals([row[9:]], escape_as_needed)
        expected.append(f"{text[:-1]},{happened},{received},{rest[1:]}")
    assert plain_feed_literals(some, 5, escape_as_needed) == expected


@pytest.mark.parametrize(
    ("odd", "error"),
    [({"packed": b""}, ValueError), ({"packed": b"\x18\xff"}, ValueError), ({"endpoint": 9}, IndexError)],
)
def test_a_feed_that_no_row_can_hold_is_refused_as_it_is_in_a_row(odd: dict[str, Any], error: type[Exception]) -> None:
    one = msgspec.structs.replace(feed(), **odd)
    with pytest.raises(error):
        feed_row(one, 5)
    with pytest.raises(error):
        plain_feed_literals([feed(), one], 5, escape_as_needed)


@unhurried
@given(st.lists(records, max_size=3))
def test_plain_texts_are_those_that_sql_and_json_quote_as_they_are(some: list[FeedbackRecord]) -> None:
    quoted = [text for record in some for text in (record.event_id, record.request_id, record.session_id) if text]
    as_they_are = all(escape(text) == f"'{text}'" and json.dumps(text) == f'"{text}"' for text in quoted)
    assert are_plain(some) <= as_they_are
    if are_plain(some):
        assert feedback_literals(some, 5, quote_plain) == feedback_literals(some, 5, escape)


@pytest.mark.parametrize("odd", ["'", '"', "\\", "\n", "\x00", "\x7f", "é", "🌱"])
@pytest.mark.parametrize("name", ["event_id", "request_id", "session_id"])
def test_one_text_that_wants_escaping_makes_a_batch_odd(name: str, odd: str) -> None:
    assert are_plain([feedback(), feed()])
    assert not are_plain([feedback(), feedback(**{name: f"a{odd}b"})])
    assert not are_plain([feed(session_id=odd)])


@pytest.mark.parametrize(
    ("character_set", "held"),
    [
        (None, "aé€я🦊"),  # a JSON column of MySQL
        ("utf8mb4", "aé€я🦊"),
        ("utf8mb3", "aé€я"),
        ("latin1", "aé€"),
        ("koi8r", "a"),  # not looked into
    ],
)
def test_what_a_character_set_can_hold(character_set: str | None, held: str) -> None:
    found = {letter for letter in "aé€я🦊" if can_hold(character_set, feedback(session_id=f"tab {letter}"))}
    assert found == set(held)
    assert {letter for letter in "aé€я🦊" if can_hold(character_set, feed(session_id=letter))} == set(held)


@unhurried
@given(records)
def test_properties_are_ascii_and_say_what_the_record_says(record: FeedbackRecord) -> None:
    written = properties_of(record)
    assert (written is None) == are_plain([record])
    if written is not None:
        assert written.isascii()
        content = json.loads(written)
        assert list(content)[:2] == ["event", "event_id"]
        assert (content["event_id"], content.get("session_id")) == (record.event_id, record.session_id)
        assert (content.get("value"), content.get("flags", 0)) == (record.value, record.flags)


def test_rows_have_a_value_for_each_column() -> None:
    assert len(feedback_row(feedback(), 1)) == len(FEEDBACK_COLUMNS)
    assert len(feed_row(feed(), 1)) == len(FEED_COLUMNS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        feedback_literals([feedback(value=value)], 1, escape)
    with pytest.raises(ValueError, match="no number"):
        row_literals([(value,)], escape)


def test_bytes_are_written_in_hexadecimal() -> None:
    assert row_literals([(b"\x00'\\", None, 7, 0.5, "a'")], escape) == ["(X'00275c',NULL,7,0.5,'a\\'')"]


@given(milliseconds)
def test_times_are_text_to_the_millisecond(moment: int) -> None:
    read = datetime.fromisoformat(text_of(moment)).replace(tzinfo=UTC)
    assert round(read.timestamp() * 1000) == moment


def test_a_time_that_no_calendar_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        text_of(10**18)


def row_of(record: FeedRecord) -> dict[str, Any]:
    """As a database gives it back."""
    return dict(zip(FEED_COLUMNS, feed_row(record, 1), strict=True))


@pytest.mark.parametrize("session_id", [None, "tab-1", '«é» "items":"9 VMP"}'])
@pytest.mark.parametrize("size", [0, 1, 24, 100])
def test_a_feed_is_read_from_its_row_as_it_was_recorded(size: int, session_id: str | None) -> None:
    shown = feed(size, session_id=session_id)
    read = feed_of_row(row_of(shown))
    assert [column.tolist() for column in read.slots()] == [column.tolist() for column in shown.slots()]
    assert msgspec.structs.replace(read, packed=shown.packed) == shown
    row = row_of(shown)
    assert shown_of_row(row["properties"], row["slots"]) == list(shown.shown())


SHADOWS = (ShadowRecord("20261129T101500.000000Z-5d41402abc4b2a76", np.float32([0.5, 0.25, 0.0]).tobytes()),) * 4


@pytest.mark.parametrize("session_id", [None, '«é» "items":"9 VMP"}'])
def test_a_feed_comes_back_from_its_row_with_its_shadows(session_id: str | None) -> None:
    shown = feed(3, session_id=session_id, shadows=SHADOWS)
    read = feed_of_row(row_of(shown))
    assert msgspec.structs.replace(read, packed=shown.packed) == shown
    assert [column.tolist() for column in read.slots()] == [column.tolist() for column in shown.slots()]
    assert row_of(shown)["properties"] == row_of(feed(3, session_id=session_id))["properties"]
    assert (
        event_of_record(shown)["shadows"]
        == [{"policy": SHADOWS[0].policy_version, "propensities": [0.5, 0.25, 0.0]}] * 4
    )
    assert event_of_record(feed(3))["shadows"] is None


@pytest.mark.parametrize("session_id", [None, "🦊"])
@pytest.mark.parametrize("shadows", [(), (ShadowRecord("p", b"abcd"),)])
def test_a_feed_comes_back_from_its_row_as_one_that_was_not_personal(
    session_id: str | None, shadows: tuple[ShadowRecord, ...]
) -> None:
    record = feed(session_id=session_id, shadows=shadows, personal=False)
    row = dict(zip(FEED_COLUMNS, feed_row(record, 1), strict=True))
    assert feed_of_row(row).personal is False
    assert json.loads(str(row["properties"]))["personal"] is False
    assert event_of_record(record)["personal"] is False
    others = dict(zip(FEED_COLUMNS, feed_row(feed(), 1), strict=True))
    assert "personal" not in str(others["properties"])


@pytest.mark.parametrize("session_id", [None, "😀'"])
def test_a_feed_comes_back_from_its_row_with_the_arm_that_made_it(session_id: str | None) -> None:
    record = feed(session_id=session_id, arm="bolder:bold")
    row = row_of(record)
    assert feed_of_row(row).arm == "bolder:bold"
    assert event_of_record(record)["arm"] == "bolder:bold"
    assert event_of_record(feed())["arm"] is None
    assert "arm" not in json.loads(str(row_of(feed())["properties"]))


@pytest.mark.parametrize("cut", [1, 9, 10, 11, 30])
def test_a_row_whose_shadows_are_cut_is_refused(cut: int) -> None:
    row = row_of(feed(3, shadows=SHADOWS[:1]))
    with pytest.raises(ValueError, match=r"."):
        feed_of_row(row | {"slots": row["slots"][:cut]}).slots()


def test_a_feeds_row_says_in_words_what_was_shown() -> None:
    said = json.loads(row_of(feed(3))["properties"])
    assert said == {
        "catalog": "20261124T064235.000000Z",
        "policy": "starting-1",
        "items": "100 AU,101 AU,102c FW",
    }


@pytest.mark.parametrize(
    "damage",
    [
        {"slots": b""},
        {"slots": b"\x03abc"},
        {"slots": b"\x01"},
        {"slots": b"\x01" + IN_ITS_ROW[1:-5]},
        {"properties": None},
        {"properties": "{}"},
        {"properties": '{"catalog":"","policy":"","items":"x VMP"}'},
        {"properties": '{"catalog":"","policy":"","items":"5 XYZ"}'},
        {"properties": '{"catalog":"","policy":"","items":"99999999999999999999 VMP"}'},
        {"request_id": "no hexadecimal"},
        {"happened_at": "yesterday"},
    ],
    ids=str,
)
def test_a_row_that_no_release_wrote_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        feed_of_row(row_of(feed()) | damage).slots()


def test_a_feed_that_an_older_release_brought_into_the_database_is_read() -> None:
    assert feed_of_row({"slots": IN_ITS_ROW, "properties": '{"event":"feed"}'}) == AS_READ
    assert shown_of_row('{"event":"feed"}', IN_ITS_ROW) == [(2002, 0), (155, 3), (4400, 1)]


def test_records_come_back_from_their_bytes() -> None:
    for record in (feedback(), feed()):
        assert decode(encode(record)) == record
