"""Names in few bytes: each comes back as it was, whatever it is."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.log.names import session_name, short_session, short_version, version_name


def version_of(microseconds: int, digits: int) -> str:
    """As the stores make it."""
    return f"{EPOCH + timedelta(microseconds=microseconds):%Y%m%dT%H%M%S.%fZ}-{digits:016x}"


EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
versions = st.builds(version_of, st.integers(-(2**54), 2**57), st.integers(0, 2**64 - 1))
odd_versions = st.sampled_from(
    [
        "starting-2",
        "",
        "20261129T201054.333484Z-404E70bdbd62eaab",
        "20261329T201054.333484Z-404e70bdbd62eaab",
        "20261129T206054.333484Z-404e70bdbd62eaab",
        "٢0261129T201054.333484Z-404e70bdbd62eaab",
    ]
)
odd_sessions = st.sampled_from(
    [
        "5D41402A-bc4b-4a76-b971-9d911017c592",
        "5d41402abc4b4a76b9719d911017c592----",
        "5d41402a-bc4b-4a76-b971-9d911017c59_",
        "5d41402a-bc4b-4a76-b971-9d911017c59\n",
        "s" * 36,
    ]
)


@given(st.text(max_size=50) | versions | odd_versions)
def test_any_version_comes_back(name: str) -> None:
    assert version_name(short_version(name)) == name


@given(st.none() | st.text(max_size=50) | st.uuids().map(str) | odd_sessions)
def test_any_session_comes_back(name: str | None) -> None:
    assert session_name(short_session(name)) == name


@given(st.integers(0, 2**57), st.integers(0, 2**64 - 1), st.uuids())
def test_usual_names_are_numbers(microseconds: int, digits: int, session: object) -> None:
    name = version_of(microseconds, digits)
    assert short_version(name) == (microseconds, digits)
    assert version_name((microseconds, digits)) == name
    assert isinstance(short_session(str(session)), tuple)


def test_a_time_that_is_in_no_year_is_refused() -> None:
    with pytest.raises(ValueError, match="no year"):
        version_name((2**63, 0))
