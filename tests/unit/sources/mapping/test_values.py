"""Whatever a database gives, columns of one kind come of it, and what is none is counted by its reason."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.sources.mapping import values

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECONDS = NOW.timestamp()
BOGOTA = ZoneInfo("America/Bogota")

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.datetimes(),
    st.dates(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.integers()),
)


@given(st.lists(ANYTHING, max_size=20))
def test_nothing_that_a_database_gives_raises(given_values: list[Any]) -> None:
    count = len(given_values)
    for form in ("integer", "text"):
        found = values.ids(given_values, form, Counter())
        assert len(found) == count
    times = values.times(given_values, SECONDS, UTC, Counter())
    assert len(times) == count
    assert not (times > SECONDS).any()
    numbers = values.numbers(given_values, Counter(), may_be_negative=False)
    assert not (numbers < 0).any()
    for form in ("term", "json", "commas", "words"):
        for terms in values.terms_of_all(given_values, form, Counter()):
            assert all(term and weight > 0 for term, weight in terms)
    assert all(isinstance(values.several(value), tuple) for value in given_values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        ("12", 12),
        (Decimal(9), 9),
        (3.0, 3),
        (2**62 - 1, 2**62 - 1),
        (None, 0),
        (0, 0),
        (-4, 0),
        (2**62, 0),
        (2.5, 0),
        (True, 0),
        ("a7", 0),
        ("1_0", 0),
        (b"1_0", 0),
    ],
)
def test_whole_numbers_above_zero_are_ids(value: Any, expected: int) -> None:
    reasons: Counter[str] = Counter()
    assert values.ids([value], "integer", reasons).tolist() == [expected]
    assert bool(reasons) == (expected == 0)


def test_numbers_are_what_databases_write_as_numbers() -> None:
    reasons: Counter[str] = Counter()
    found = values.numbers(["1.5", Decimal("2e3"), b"7", "1_000", b"1_000", "inf", None], reasons)
    assert found[:3].tolist() == [1.5, 2000.0, 7.0]
    assert np.isnan(found[3:]).all()
    assert reasons == {values.NOT_A_NUMBER: 3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a-slug", "a-slug"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (17, "17"),
        ("ñandú".encode(), "ñandú"),
        (None, ""),
        ("", ""),
        (b"\xff\x00", ""),
        ("two\nlines", ""),
        ("x" * 256, ""),
        (["a"], ""),
    ],
)
def test_texts_are_ids_as_they_stand(value: Any, expected: str) -> None:
    reasons: Counter[str] = Counter()
    assert values.ids([value], "text", reasons).tolist() == [expected]
    assert bool(reasons) == (expected == "")


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 20, 5, 0),  # noqa: DTZ001 - as the tables have it
        datetime(2026, 11, 20, 10, 0, tzinfo=UTC),
        datetime(2026, 11, 20, 12, 0, tzinfo=timezone(timedelta(hours=2))),
        "2026-11-20 05:00:00",
        "2026-11-20T10:00:00Z",
        " 2026-11-20 05:00 ",
        1795168800,
        1795168800000,
        1795168800000000,
        "1795168800",
        Decimal(1795168800),
    ],
    ids=repr,
)
def test_a_time_is_one_moment_in_all_its_forms(value: Any) -> None:
    found = values.times([value, None], SECONDS, BOGOTA, Counter())
    assert found[0] == datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
    assert math.isnan(found[1])


def test_a_day_begins_at_midnight_of_the_tables_zone() -> None:
    found = values.times([date(2026, 11, 20), "2026-11-20"], SECONDS, BOGOTA, Counter())
    assert found.tolist() == [datetime(2026, 11, 20, 5, tzinfo=UTC).timestamp()] * 2


def test_what_is_no_time_is_counted_by_its_reason() -> None:
    reasons: Counter[str] = Counter()
    given_values = [None, "0000-00-00 00:00:00", "yesterday", "2030-01-01", 0, True]
    assert np.isnan(values.times(given_values, SECONDS, UTC, reasons)).all()
    assert reasons == {values.NO_TIME: 1, values.ZERO: 2, values.NOT_A_TIME: 2, values.FUTURE: 1}


def test_a_clock_that_is_a_little_ahead_is_now() -> None:
    assert values.times(["2026-11-24 12:04:00"], SECONDS, UTC, Counter()).tolist() == [SECONDS]


def test_terms_come_in_four_forms() -> None:
    reasons: Counter[str] = Counter()
    assert values.terms(" hard   rock ", "term", reasons) == [("hard rock", 1.0)]
    assert values.terms("rock, jazz,rock", "commas", reasons) == [("rock", 1.0), ("jazz", 1.0)]
    assert values.terms("The Sea, the 3 SEAS of it", "words", reasons) == [("the", 1.0), ("sea", 1.0), ("seas", 1.0)]
    assert values.terms('["a", "b"]', "json", reasons) == [("a", 1.0), ("b", 1.0)]
    assert values.terms('{"a": 0.5, "b": 0}', "json", reasons) == [("a", 0.5)]
    assert not reasons
    assert values.terms('{"a": "b"}', "json", reasons) == []
    assert values.terms("x" * 101, "term", reasons) == []
    assert sum(reasons.values()) == 2


def test_what_comes_again_is_counted_again() -> None:
    reasons: Counter[str] = Counter()
    assert values.terms_of_all(["no json", "no json", None], "json", reasons) == [[], [], []]
    assert sum(reasons.values()) == 3
