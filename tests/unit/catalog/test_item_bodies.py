"""What a field of an item holds becomes JSON, whatever a database has it as."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.catalog.mapped import _encode, _field

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.decimals(),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(ANYTHING)
def test_nothing_that_a_database_gives_ends_a_build(value: Any) -> None:
    json.loads(_encode({"field": _field(value)}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("7.50"), 7.5),
        (Decimal("1E+2"), 100),
        (10**25, 10**25),
        (Decimal("Infinity"), None),
        (Decimal("sNaN"), None),
        (Decimal("1E+400"), None),
        (float("nan"), None),
        (b"caf\xc3\xa9", "café"),
        ("half \ud800", "half ?"),
        (datetime(2026, 11, 24, 12, 0, 30), "2026-11-24T12:00:30"),  # noqa: DTZ001 - as the tables have it
        (date(2026, 11, 24), "2026-11-24"),
        (time(12, 30), "12:30:00"),
        (timedelta(minutes=3), 180),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (["a", Decimal(2), None], ["a", 2, None]),
        ({"size": {"w": Decimal("1.5")}, "tags": []}, {"size": {"w": 1.5}, "tags": []}),
    ],
    ids=repr,
)
def test_a_field_is_what_json_has_for_it(value: Any, expected: Any) -> None:
    assert json.loads(_encode(_field(value))) == expected
