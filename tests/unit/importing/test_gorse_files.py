"""Rows of Gorse's exports, of each release's form."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from recommendation_service.importing.gorse_files import (
    Feedback,
    Item,
    User,
    Wrong,
    feedback_of,
    item_of,
    lines_of,
    time_of,
    user_of,
)

MOMENT = datetime.fromisoformat("2022-02-24T08:01:02")


def rows(text: str, kind: str, read: Callable[[dict[str, Any]], Any]) -> tuple[list[Any], list[tuple[int, str]]]:
    refused: list[tuple[int, str]] = []
    lines = text.encode().splitlines(keepends=True)
    found = lines_of(lines, kind, not text.lstrip("\ufeff").startswith("{"), lambda n, why: refused.append((n, why)))
    return [read(fields) for _, fields in found], refused


@pytest.mark.parametrize(
    "text",
    [
        "2022-02-24T08:01:02Z",
        "2022-02-24T08:01:02.123456789Z",
        "2022-02-24 08:01:02.000000001 +0000 UTC",
        "2022-02-24 16:01:02 +0800 CST",
        "2022-02-24 05:01:02 -0300 -03",
        "2022-02-24 13:31:02 +0530 +0530",
        "2022-02-24 08:01:02.5 +0000 UTC m=+0.000012345",
        "2022-02-24T03:01:02-05:00",
        "2022-02-24 08:01:02",
    ],
)
def test_times_of_go_and_of_rfc_3339_are_utc(text: str) -> None:
    assert time_of(text) == MOMENT


def test_the_year_1_is_no_time_and_what_is_none_is_told() -> None:
    assert time_of("0001-01-01 00:00:00 +0000 UTC") is None
    assert time_of(None) is None
    assert time_of("2022-02-24") == datetime.fromisoformat("2022-02-24")
    for text in ("2022-13-01", "yesterday", "2022-02-24 25:00:00", 1645689662):
        with pytest.raises(Wrong, match="no time"):
            time_of(text)


def test_json_lines_of_items_have_labels_as_terms() -> None:
    text = (
        '{"ItemId":"1","IsHidden":false,"Categories":["x","y"],"Timestamp":"2022-02-24T08:01:02Z",'
        '"Labels":{"genre":["comedy","sci-fi"],"by":{"year":1994},"embedding":'
        + str([0.5] * 65)
        + '},"Comment":"o,n,e"}\n'
        '\n{"ItemId":"3","IsHidden":true,"Categories":null,"Timestamp":"0001-01-01T00:00:00Z","Labels":null,"Comment":""}\n'
    )
    found, refused = rows(text, "items", item_of)

    assert refused == []
    assert found == [
        Item("1", False, ["x", "y"], MOMENT, ["genre: comedy", "genre: sci-fi", "by.year: 1994"], "o,n,e"),
        Item("3", True, [], None, [], ""),
    ]


def test_csv_of_each_release_is_read_by_its_header() -> None:
    of_0_4 = (
        "item_id,is_hidden,categories,time_stamp,labels,description\r\n"
        '1,false,x|y,2022-02-24 08:01:02 +0000 UTC,"{""genre"":[""comedy""]}","t\r\nwo, ""three"""\r\n'
    )
    of_0_1 = "\ufeffitem_id,time_stamp,labels\n1,2022-02-24 08:01:02 +0000 UTC,a|b\n"

    assert rows(of_0_4, "items", item_of)[0] == [
        Item("1", False, ["x", "y"], MOMENT, ["genre: comedy"], 't\r\nwo, "three"')
    ]
    assert rows(of_0_1, "items", item_of)[0] == [Item("1", False, [], MOMENT, ["a", "b"], "")]
    assert rows("7,a|b\n", "users", user_of)[0] == [User("7", ["a", "b"], "")]


def test_feedback_has_a_value_where_its_release_has_them() -> None:
    csv = "feedback_type,user_id,item_id,time_stamp\r\nstar,u,i,2022-02-24 08:01:02 +0000 UTC\r\n"
    lines = '{"FeedbackType":"rate","UserId":"u","ItemId":"i","Value":4.5,"Timestamp":"2022-02-24T08:01:02Z"}'

    assert rows(csv, "feedback", feedback_of)[0] == [Feedback("star", "u", "i", 0, MOMENT)]
    assert rows(lines, "feedback", feedback_of)[0] == [Feedback("rate", "u", "i", 4.5, MOMENT)]


def test_what_is_wrong_with_a_line_is_told_by_its_number() -> None:
    _, refused = rows('{"UserId":"1"}\nbroken\n[1]\n{"UserId":"2"}\n', "users", user_of)
    assert refused == [(2, "is not JSON"), (3, "is no JSON object; of JSON each line has to be one")]
    _, refused = rows("user_id,labels\n1,a,b\n2,c\n", "users", user_of)
    assert refused == [(2, "has 3 fields, and not 2: user_id, labels")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "has no item_id"),
        ({"item_id": "x" * 192}, "has 192 characters, and at most 191"),
        ({"item_id": "1", "is_hidden": "maybe"}, "is_hidden is 'maybe'"),
        ({"item_id": "1", "labels": "{broken"}, "and no JSON"),
        ({"item_id": "1", "time_stamp": "soon"}, "'soon' is no time"),
    ],
)
def test_an_item_that_cannot_be_taken_says_why(row: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        item_of(row)


def test_half_of_a_letter_is_told_from_none_wherever_it_stands() -> None:
    """JSON may have one; no database takes it."""
    text = r'{"UserId":"\ud800u","Labels":{"likes\ud800":["\udfffx"]},"Comment":"c\ud800"}'
    assert rows(text, "users", user_of)[0] == [User("?u", ["likes?: ?x"], "c?")]
    assert rows(r'{"UserId":"u","Labels":"a\ud800|b"}', "users", user_of)[0] == [User("u", ["a?", "b"], "")]


@pytest.mark.parametrize("value", ["much", float("nan"), [1], "1_000", 10**400])
def test_a_value_that_is_no_number_is_told(value: Any) -> None:
    with pytest.raises(Wrong, match="no number"):
        feedback_of({"feedback_type": "rate", "user_id": "u", "item_id": "i", "value": value})


def test_what_reads_other_csv_in_the_process_keeps_its_limit() -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert rows(f"user_id,labels\na,{long}\n", "users", user_of)[1] == []
    assert csv.field_size_limit() == before
