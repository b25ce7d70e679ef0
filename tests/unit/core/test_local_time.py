"""Times of a wall's clock: there and back, and the two nights a year on which it is set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.local_time import local_text, offsets_between, seconds_of_local, zone_of

MADRID, BOGOTA, NEPAL = zone_of("Europe/Madrid"), zone_of("America/Bogota"), zone_of("Asia/Kathmandu")
ZONES = [UTC, zone_of("+02:00"), zone_of("-05:00"), MADRID, BOGOTA, NEPAL, zone_of("Australia/Lord_Howe")]


def seconds(text: str, zone: tzinfo) -> float:
    local = np.array([text], "datetime64[s]").astype(np.int64).astype(np.float64)
    return float(seconds_of_local(local, zone)[0])


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("UTC", UTC),
        ("utc", UTC),
        ("+02:00", timezone(timedelta(hours=2))),
        ("-5:30", timezone(timedelta(hours=-5, minutes=-30))),
        ("+00:00", timezone(timedelta())),
        ("+14:00", timezone(timedelta(hours=14))),
    ],
)
def test_a_zone_is_a_name_or_an_offset(name: str, zone: tzinfo) -> None:
    assert zone_of(name) == zone
    assert load_settings(mysql_time_zone=name).database_zone == zone


@pytest.mark.parametrize("name", ["Europe", "Madrid", "../etc/passwd", "+2", "+15:00", "SYSTEM", "+02:75", "ñ", "\0"])
def test_what_is_no_zone_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"MYSQL_TIME_ZONE: .*(neither an offset|at most 14:00)"):
        load_settings(mysql_time_zone=name)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)), st.sampled_from(ZONES))  # noqa: DTZ001
def test_a_time_comes_back_from_the_wall_or_as_the_first_of_two(naive: datetime, zone: tzinfo) -> None:
    moment = naive.replace(tzinfo=UTC, microsecond=0)
    back = seconds(local_text(moment, zone), zone)

    assert back == moment.timestamp() or (
        back < moment.timestamp() and local_text(datetime.fromtimestamp(back, UTC), zone) == local_text(moment, zone)
    )


def test_of_the_hour_that_is_there_twice_a_time_counts_as_of_the_first() -> None:
    assert seconds("2026-10-25 02:30:00", MADRID) == utc("2026-10-25 00:30:00")
    assert seconds("2026-10-25 03:00:00", MADRID) == utc("2026-10-25 02:00:00")


def test_what_is_not_known_stays_so_and_far_times_are_no_error() -> None:
    given = np.array([np.nan, -62135596800.0, 253402300799.0, 0.0])

    found = seconds_of_local(given, MADRID)

    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()
    assert seconds_of_local(np.zeros(0), MADRID).tolist() == []


@pytest.mark.parametrize("zone", ZONES)
def test_offsets_between_two_moments_are_those_of_each_second(zone: tzinfo) -> None:
    first, last = int(utc("2000-01-01")), int(utc("2026-11-28"))
    found = offsets_between(first, last, zone)

    assert found[0][0] == first
    assert [since for since, _ in found] == sorted(since for since, _ in found)
    for since, offset in found:
        here = datetime.fromtimestamp(since, zone).utcoffset()
        assert here is not None
        assert here.total_seconds() == offset
    for (since, offset), (_, before) in zip(found[1:], found, strict=False):
        assert offset != before
        just_before = datetime.fromtimestamp(since - 1, zone).utcoffset()
        assert just_before is not None
        assert just_before.total_seconds() == before
    assert len(offsets_between(last - 60, last, zone)) == 1
