"""Bodies of feed requests: the contract's table of fields, rule by rule."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recommendation_service.core.errors import InvalidRequest, NotJson, ServiceError
from recommendation_service.feed.request import FeedFields
from recommendation_service.mappings.interacpedia import feed_body
from recommendation_service.mappings.interacpedia.feed_body import read_feed_body

USER_SPELLINGS = ("SELF_ID", "user_id")
SIZE_SPELLINGS = ("N_VIDEOS", "MAX_SIZE", "size")
EXCLUDED_SPELLINGS = ("EXCLUDED_IDS", "excluded_ids", "LAST_IDS", "videos_excluidos")

LARGEST_ID = 2**63 - 1
# An item's number cannot be so large, or below 1; naming one excludes nothing.
BEYOND_ANY_ITEM = 2**64


def read(**fields: Any) -> FeedFields:
    return read_feed_body(json.dumps(fields).encode())


def excluded(**fields: Any) -> list[int]:
    return [int(number) for number in read(**fields).excluded]


def wrong_fields(body: bytes) -> dict[str, str]:
    """Problem by field, of a body that is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read_feed_body(body)
    assert refused.value.status == 422
    details = refused.value.details
    assert all(set(detail) == {"field", "problem"} for detail in details)
    named = {detail["field"]: detail["problem"] for detail in details}
    assert len(named) == len(details)
    return named


def problems(**fields: Any) -> dict[str, str]:
    return wrong_fields(json.dumps(fields).encode())


# Defaults, and what is ignored.


def test_an_empty_object_is_an_anonymous_request_for_24_items() -> None:
    body = read()
    assert (body.user_id, body.size, body.session_id, body.explain) == (0, 24, None, False)
    assert len(body.excluded) == 0
    assert body.excluded.dtype == np.int64


@pytest.mark.parametrize(
    "field", [*USER_SPELLINGS, *SIZE_SPELLINGS, *EXCLUDED_SPELLINGS, "session_id", "explain"], ids=str
)
def test_null_is_the_same_as_absent(field: str) -> None:
    body = read(**{field: None})
    assert (body.user_id, body.size, len(body.excluded), body.session_id, body.explain) == (0, 24, 0, None, False)


@pytest.mark.parametrize("value", [None, 5, -1.5, "text", [1, "x", None], {"SELF_ID": "deep"}, True])
def test_unknown_fields_are_ignored_whatever_they_hold(value: object) -> None:
    body = read(SELF_ID=7, something=value, n_videos=value, Self_Id=value)
    assert (body.user_id, body.size) == (7, 24)


# SELF_ID


@pytest.mark.parametrize("field", USER_SPELLINGS)
@pytest.mark.parametrize(
    ("given_value", "user"),
    [
        (0, 0),
        (4711, 4711),
        ("4711", 4711),
        ("0", 0),
        ("0004711", 4711),
        (4711.0, 4711),
        (LARGEST_ID, LARGEST_ID),
        (str(LARGEST_ID), LARGEST_ID),
    ],
)
def test_user_is_an_integer_or_a_string_of_digits(field: str, given_value: object, user: int) -> None:
    assert read(**{field: given_value}).user_id == user


@pytest.mark.parametrize("field", USER_SPELLINGS)
@pytest.mark.parametrize(
    "value",
    [
        *(-1, LARGEST_ID + 1, 10**30, 1e300, 7.5, True, False, [7], {"id": 7}),
        *("-1", str(LARGEST_ID + 1), "9" * 400, "+1", "", " 7", "7 ", "7.0", "0x7", "1e3", "siete", "٧", "7_0"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_user_that_is_no_number_or_out_of_range_is_refused(field: str, value: object) -> None:
    assert list(problems(**{field: value})) == [field]


# N_VIDEOS


@pytest.mark.parametrize("field", SIZE_SPELLINGS)
@pytest.mark.parametrize(("given_value", "size"), [(1, 1), (24, 24), (100, 100), (24.0, 24), (1e2, 100)])
def test_size_is_an_integer_from_1_to_100(field: str, given_value: object, size: int) -> None:
    assert read(**{field: given_value}).size == size


@pytest.mark.parametrize("field", SIZE_SPELLINGS)
@pytest.mark.parametrize(
    "value", [0, -1, 101, 10**30, 1e300, 0.5, 24.5, "24", "", True, False, [24], {"n": 24}, -(2**63), 2**63]
)
def test_size_of_another_type_or_range_is_refused(field: str, value: object) -> None:
    assert list(problems(**{field: value})) == [field]


def test_the_problem_says_the_rule_and_what_was_given() -> None:
    assert problems(N_VIDEOS=0) == {"N_VIDEOS": "must be from 1 to 100, but is 0"}
    assert problems(N_VIDEOS="24") == {"N_VIDEOS": 'must be an integer, but is "24"'}


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, ["x" * 100_000], 10**4000, 1e300, "9" * 100_000],
    ids=["text", "list", "integer", "float", "digits"],
)
@pytest.mark.parametrize("field", ["SELF_ID", "N_VIDEOS", "EXCLUDED_IDS", "explain"])
def test_the_problem_does_not_repeat_a_long_value(field: str, value: object) -> None:
    if field == "EXCLUDED_IDS" and isinstance(value, int | float):
        value = [[value]]
    assert len(problems(**{field: value})[field]) < 200


# EXCLUDED_IDS


@pytest.mark.parametrize("field", EXCLUDED_SPELLINGS)
@pytest.mark.parametrize(
    ("given_value", "ids"),
    [
        ([], []),
        ([812, 105], [812, 105]),
        (["812", "105"], [812, 105]),
        ([812, "105"], [812, 105]),
        ([812.0], [812]),
        ([812, 812], [812, 812]),
        ("812,105", [812, 105]),
        ("812", [812]),
        (" 812 , 105 ,", [812, 105]),
        ("", []),
        (",", []),
    ],
)
def test_excluded_is_a_list_or_a_comma_separated_string(field: str, given_value: object, ids: list[int]) -> None:
    assert excluded(**{field: given_value}) == ids


@pytest.mark.parametrize("field", EXCLUDED_SPELLINGS)
@pytest.mark.parametrize(
    "value",
    [
        *(812, True, {"812": 1}, "812;105", "812 105", "uno", "1,dos"),
        *([None], [True], ["uno"], [1.5], [[812]], ["-1x"], [{"id": 812}], [""]),
    ],
)
def test_excluded_of_another_type_is_refused(field: str, value: object) -> None:
    assert list(problems(**{field: value})) == [field]


def test_the_problem_says_which_entry_is_wrong() -> None:
    assert "entry 2" in problems(EXCLUDED_IDS=[1, 2, "x", 4])["EXCLUDED_IDS"]


@pytest.mark.parametrize(
    "entries", [[BEYOND_ANY_ITEM, 5], ["5", BEYOND_ANY_ITEM], [-BEYOND_ANY_ITEM, 5], [5, 2**63], [5, str(2**63)]]
)
def test_a_number_that_no_item_can_have_excludes_nothing_and_disturbs_nothing(entries: list[object]) -> None:
    assert excluded(EXCLUDED_IDS=entries) == [5]


@pytest.mark.parametrize("field", EXCLUDED_SPELLINGS)
@pytest.mark.parametrize("as_given", [list, lambda ids: [str(i) for i in ids], lambda ids: ",".join(map(str, ids))])
def test_excluded_has_at_most_10000_entries(field: str, as_given: Any) -> None:
    ids = list(range(1, 10_001))
    assert excluded(**{field: as_given(ids)}) == ids
    assert "10000" in problems(**{field: as_given([*ids, 10_001])})[field]


# session_id, explain


def test_session_id_is_a_string_of_up_to_128_characters() -> None:
    assert read(session_id="").session_id == ""
    assert read(session_id="é" * 128).session_id == "é" * 128
    assert read(session_id="😀" * 128).session_id == "😀" * 128
    assert list(problems(session_id="x" * 129)) == ["session_id"]
    for value in (7, 7.5, True, ["a"], {"a": 1}):
        assert list(problems(session_id=value)) == ["session_id"]


def test_explain_is_a_boolean() -> None:
    assert read(explain=True).explain is True
    assert read(explain=False).explain is False
    for value in (0, 1, "true", "", [], {}):
        assert list(problems(explain=value)) == ["explain"]


def test_a_feed_is_personal_unless_the_request_says_otherwise() -> None:
    for fields in ({}, {"personal": True}, {"personal": None}, {"personal": None, "SELF_ID": "7"}):
        assert read(**fields).personal is True
    for fields in ({"personal": False}, {"personal": False, "SELF_ID": "7"}):
        assert read(**fields).personal is False
    for value in (0, 1, "false", "", [], {}):
        assert list(problems(personal=value)) == ["personal"]


# Several fields, several spellings.


def test_every_wrong_field_is_named_at_once() -> None:
    assert set(
        problems(SELF_ID=-1, N_VIDEOS=0, EXCLUDED_IDS="x", session_id="y" * 129, explain="yes", something="ignored")
    ) == {"SELF_ID", "N_VIDEOS", "EXCLUDED_IDS", "session_id", "explain"}


def test_every_wrong_spelling_is_named_even_beside_a_right_one() -> None:
    assert set(problems(SELF_ID=7, user_id="x", N_VIDEOS=5, MAX_SIZE=0, size=True, LAST_IDS={})) == {
        "user_id", "MAX_SIZE", "size", "LAST_IDS",
    }  # fmt: skip
    # Also where all have the documented type, so that the fast way reads them.
    assert set(problems(SELF_ID=7, user_id=-7, N_VIDEOS=5, MAX_SIZE=0, size=101)) == {"user_id", "MAX_SIZE", "size"}


@pytest.mark.parametrize(
    ("spellings", "attribute"), [(USER_SPELLINGS, "user_id"), (SIZE_SPELLINGS, "size")], ids=["user", "size"]
)
def test_of_several_spellings_the_documented_one_counts(spellings: tuple[str, ...], attribute: str) -> None:
    for first in range(len(spellings)):
        given_fields = {name: place + 5 for place, name in reversed(list(enumerate(spellings))) if place >= first}
        assert getattr(read(**given_fields), attribute) == first + 5


def test_of_several_spellings_of_excluded_the_documented_one_counts() -> None:
    for first in range(len(EXCLUDED_SPELLINGS)):
        given_fields = {name: [place + 5] for place, name in enumerate(EXCLUDED_SPELLINGS) if place >= first}
        assert excluded(**given_fields) == [first + 5]


FLOW_ORDERS = {  # as today's clients of flow know it
    "user": ("user_id", "SELF_ID"),
    "size": ("N_VIDEOS", "size", "MAX_SIZE"),
    "excluded": ("EXCLUDED_IDS", "excluded_ids", "videos_excluidos", "LAST_IDS"),
}


@pytest.mark.parametrize("careful", [{}, {"session_id": "a", "explain": False}], ids=["alone", "beside others"])
def test_flow_has_an_order_of_spellings_of_its_own(careful: dict[str, Any]) -> None:
    for spellings in FLOW_ORDERS.values():
        for first in range(len(spellings)):
            there = {name: place + 5 for place, name in enumerate(spellings) if place >= first}
            fields = {
                name: [value] if "EX" in name.upper() or "LAST" in name else value for name, value in there.items()
            }
            body = read_feed_body(json.dumps({**fields, **careful}).encode(), "flow")
            assert first + 5 in {body.user_id, body.size, *body.excluded.tolist()}, fields


@pytest.mark.parametrize("endpoint", ["total", "discover"])
def test_the_other_endpoints_keep_to_the_documented_order(endpoint: str) -> None:
    fields = {"user_id": 8, "SELF_ID": 7, "size": 8, "MAX_SIZE": 7, "videos_excluidos": [8], "LAST_IDS": [7]}
    body = read_feed_body(json.dumps(fields).encode(), endpoint)
    assert (body.user_id, body.size, body.excluded.tolist()) == (7, 7, [7])


def test_flow_without_a_size_has_24() -> None:
    assert read_feed_body(b"{}", "flow").size == 24


def test_a_documented_spelling_that_is_null_leaves_the_word_to_the_next() -> None:
    assert read(SELF_ID=None, user_id=7).user_id == 7
    assert read(N_VIDEOS=None, MAX_SIZE=None, size=7).size == 7
    assert excluded(EXCLUDED_IDS=None, LAST_IDS=["7"]) == [7]


# What is not JSON, and JSON that is no object.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"SELF_ID": 7',
        b'{"SELF_ID": 7,}',
        b"{'SELF_ID': 7}",
        b"{SELF_ID: 7}",
        b"SELF_ID=7",
        b'{"SELF_ID": NaN}',
        b'{"SELF_ID": Infinity}',
        b'{"SELF_ID": 07}',
        b'{"SELF_ID": 7} {}',
        b"\xff\xfe",
        b"\x00",
        b"\xef\xbb\xbf{}",
        b'{"session_id": "\xff"}',
        b'{"session_id": "\\ud800"}',
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"SELF_ID":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_not_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(NotJson) as refused:
        read_feed_body(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"unknown":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"SELF_ID": 7, "unknown": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
    ],
    ids=["arrays", "objects", "beside-a-known-field"],
)
def test_deep_nesting_in_an_unknown_field_is_the_clients_error_or_ignored(body: bytes) -> None:
    with contextlib.suppress(NotJson):
        read_feed_body(body)


@pytest.mark.parametrize("known", [b'"SELF_ID": 7', b'"SELF_ID": "7"'], ids=["fast", "careful"])
def test_bytes_that_are_not_utf8_are_not_json_wherever_they_stand(known: bytes) -> None:
    with pytest.raises(NotJson):
        read_feed_body(b"{" + known + b', "unknown": "\xff"}')


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"null", b"true", b'[{"SELF_ID": 7}]'])
def test_json_that_is_no_object_is_refused_as_a_whole(body: bytes) -> None:
    assert list(wrong_fields(body)) == ["body"]


@pytest.mark.parametrize("depth", [100, 900, 990, 1000, 2000])
@pytest.mark.parametrize("field", ["SELF_ID", "N_VIDEOS", "EXCLUDED_IDS", "session_id", "explain"])
def test_a_deep_value_of_a_known_field_is_the_clients_error(field: str, depth: int) -> None:
    with pytest.raises((InvalidRequest, NotJson)):
        read_feed_body(b'{"%b":%b%b}' % (field.encode(), b"[" * depth, b"]" * depth))


@pytest.mark.parametrize("digits", [19, 20, 309, 310, 4000, 4300, 4301, 100_000])
@pytest.mark.parametrize("field", ["SELF_ID", "N_VIDEOS", "session_id", "explain"])
@pytest.mark.parametrize("sign", [b"", b"-"])
def test_a_huge_number_is_the_clients_error(field: str, digits: int, sign: bytes) -> None:
    body = b'{"%b":%b%b}' % (field.encode(), sign, b"9" * digits)
    with pytest.raises((InvalidRequest, NotJson)):
        read_feed_body(body)


@pytest.mark.parametrize("exponent", [20, 308, 309, 400, 100_000])
@pytest.mark.parametrize("field", ["SELF_ID", "N_VIDEOS", "session_id", "explain"])
def test_a_huge_exponent_is_the_clients_error(field: str, exponent: int) -> None:
    with pytest.raises((InvalidRequest, NotJson)):
        read_feed_body(b'{"%b":1e%d}' % (field.encode(), exponent))


# The fast way and the careful way are one.

numbers = (
    st.integers(-2, 103)
    | st.integers()
    | st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-2, 103).map(float)
)
texts = (
    st.text(max_size=6)
    | st.integers(0, 10**20).map(str)
    | st.lists(st.integers(-1, 10**6).map(str), max_size=4).map(",".join)
    | st.sampled_from(["x" * 128, "x" * 129, "é" * 128, "", " ", "7 ", "٧"])
)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.lists(scalars, max_size=5) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
known_names = st.sampled_from(
    [*USER_SPELLINGS, *SIZE_SPELLINGS, *EXCLUDED_SPELLINGS, "session_id", "explain", "personal"],
)
objects = st.dictionaries(known_names | st.text(max_size=8), values, max_size=8)
# Mostly what clients send, so that the fast way is the one taken.
plain_objects = st.fixed_dictionaries(
    {},
    optional={
        "SELF_ID": st.integers(-1, LARGEST_ID + 1),
        "user_id": st.integers(0, 9),
        "N_VIDEOS": st.integers(0, 101),
        "size": st.integers(1, 100) | st.none(),
        "EXCLUDED_IDS": st.lists(st.integers(), max_size=5),
        "LAST_IDS": st.lists(st.integers(1, 9), max_size=5) | st.none(),
        "session_id": st.text(max_size=130),
        "explain": st.booleans(),
        "personal": st.booleans(),
        "unknown": values,
    },
)


def outcome(read_body: Any, body: bytes) -> object:
    """What a reader makes of a body, in a form that can be compared."""
    try:
        answer: FeedFields = read_body(body)
    except ServiceError as error:
        return type(error), error.message, error.details
    return msgspec.structs.astuple(answer.but(excluded=answer.excluded.tolist())), answer.excluded.dtype


@settings(max_examples=1000, deadline=None)
@given(objects | plain_objects)
@example({"EXCLUDED_IDS": [2**64, 5]})
@example({"EXCLUDED_IDS": [-(2**64), -5]})
@example({"N_VIDEOS": 24.0, "SELF_ID": -0.0})
@example({"SELF_ID": None, "user_id": 7})
def test_the_fast_way_answers_as_the_careful_way_does(content: dict[str, Any]) -> None:
    body = json.dumps(content, ensure_ascii=False).encode()
    assert outcome(read_feed_body, body) == outcome(feed_body._read_carefully, body)
    fast, careful = (partial(way, endpoint="flow") for way in (read_feed_body, feed_body._read_carefully))
    assert outcome(fast, body) == outcome(careful, body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_give_a_request_or_an_error_for_the_client(body: bytes) -> None:
    with contextlib.suppress(NotJson, InvalidRequest):
        read_feed_body(body)


@settings(max_examples=500, deadline=None)
@given(objects | plain_objects)
def test_whatever_is_accepted_is_within_the_rules(content: dict[str, Any]) -> None:
    try:
        body = read_feed_body(json.dumps(content).encode())
    except InvalidRequest:
        return
    assert 0 <= body.user_id <= LARGEST_ID
    assert 1 <= body.size <= 100
    assert len(body.excluded) <= 10_000
    assert body.session_id is None or len(body.session_id) <= 128
    assert isinstance(body.explain, bool)
