"""Whatever a column holds, something usable comes out, nothing raises, and what was set aside is counted."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.report import BuildReport

# As drivers hand them on: without a zone.
EARLIEST, LATEST = datetime(1971, 1, 1), datetime(2026, 11, 1)  # noqa: DTZ001
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()

# A slow machine is no failure.
unhurried = settings(deadline=None)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
json_texts = st.one_of(
    st.lists(st.text()).map(lambda value: msgspec.json.encode([v for v in value if v.isascii()]).decode()),
    json_values.map(repr),
    st.text(st.sampled_from('[]{}",:\\nulltrefas0123456789.eE+-ud8 '), max_size=40),
)
# Characters as a driver may hand them on, lone surrogates included.
any_text = st.text(st.characters(codec=None)) | json_texts
timestamps = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S"))
near_timestamps = st.from_regex(
    r"\A[0-9]{1,5}-[0-9]{1,2}-[0-9]{1,2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?(\.[0-9]+)?(Z|[+-][0-9:]+)?)?\Z"
)
zones = st.timezones() | st.just(UTC)
anything = st.one_of(
    st.none(),
    any_text,
    st.binary(),
    st.integers(),
    st.integers(min_value=2**63 - 2, max_value=2**64),
    st.floats(),
    st.decimals(),
    st.booleans(),
    st.datetimes(),
    st.datetimes(timezones=zones),
    timestamps,
    near_timestamps,
    st.sampled_from(["0000-00-00 00:00:00", "now", "today", "NaT", "", "2026-02-30 00:00:00"]),
)
columns = st.lists(anything, max_size=6)


@unhurried
@given(anything)
def test_any_value_gives_text_that_json_can_hold(value: Any) -> None:
    text = cleaning.text(value)

    assert msgspec.json.decode(msgspec.json.encode(text)) == text


@unhurried
@given(anything)
@example("[" * 100_000)
@example("[1e999]")
@example('["\\ud800"]')
@example("\ud800")
def test_any_value_gives_a_list_of_texts(value: Any) -> None:
    report = BuildReport()

    kept = cleaning.text_list(value, "column", report)

    assert all(isinstance(entry, str) and entry == entry.strip() != "" for entry in kept)
    assert {column for column, _ in report.set_aside} <= {"column"}
    msgspec.json.encode(kept)


@unhurried
@given(st.lists(st.text() | st.none() | st.integers(-9, 9) | st.booleans() | st.lists(st.text(), max_size=2)))
def test_of_a_list_the_texts_are_kept_and_the_others_counted(entries: list[Any]) -> None:
    report = BuildReport()

    kept = cleaning.text_list(msgspec.json.encode(entries), "column", report)

    assert kept == [entry.strip() for entry in entries if isinstance(entry, str) and entry.strip()]
    assert report.set_aside["column", "entry not text"] == len(entries) - len(kept)


@unhurried
@given(columns)
@example(["2026-01-01T00:00:00Z"])
@example(["2026-01-01 00:00:00+05:00", None])
@example([10**30])
@example(["now"])
@example(["-9223372036854775808"])
def test_any_column_gives_times_that_are_past_or_nan(values: list[Any]) -> None:
    report = BuildReport()

    seconds = cleaning.epoch_seconds(values, "column", NOW, report)

    assert seconds.shape == (len(values),)
    assert seconds.dtype == np.float64
    known = ~np.isnan(seconds)
    assert np.all((seconds[known] > 86400) & (seconds[known] <= NOW))
    assert sum(report.set_aside.values()) == int((~known).sum())


@unhurried
@given(columns)
def test_any_column_gives_identifiers_or_zero(values: list[Any]) -> None:
    report = BuildReport()

    numbers = cleaning.ids(values, "column", report)

    assert numbers.shape == (len(values),)
    assert numbers.dtype == np.int64
    assert np.all(numbers >= 0)
    assert report.set_aside["column", "not an identifier"] == int((numbers == 0).sum())


@unhurried
@given(columns)
@example([10**400])
@example([Decimal("sNaN")])
@example([1 + 0j])
def test_any_column_gives_finite_numbers(values: list[Any]) -> None:
    report = BuildReport()

    numbers = cleaning.numbers(values, "column", report)

    assert numbers.shape == (len(values),)
    assert np.all(np.isfinite(numbers) & (numbers >= 0))


@unhurried
@given(st.lists(st.datetimes(EARLIEST, LATEST), max_size=5), columns)
def test_a_bad_time_takes_no_good_one_with_it(good: list[datetime], bad: list[Any]) -> None:
    texts = [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in good]

    seconds = cleaning.epoch_seconds([*texts, *bad], "column", NOW, BuildReport())

    expected = [int(moment.replace(tzinfo=UTC).timestamp()) for moment in good]
    assert seconds[: len(good)].tolist() == expected


@unhurried
@given(st.lists(st.integers(1, 2**63 - 1), max_size=5), columns)
def test_a_bad_identifier_takes_no_good_one_with_it(good: list[int], bad: list[Any]) -> None:
    assert cleaning.ids([*good, *bad], "column", BuildReport())[: len(good)].tolist() == good


@unhurried
@given(st.lists(st.floats(0, 1e9), max_size=5), columns)
def test_a_bad_number_takes_no_good_one_with_it(good: list[float], bad: list[Any]) -> None:
    assert cleaning.numbers([*good, *bad], "column", BuildReport())[: len(good)].tolist() == good


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-02 00:00:01", 86401.0),
        ("2026-11-24 12:00:00", NOW),
        ("2026-11-24 12:04:59", NOW),  # another machine's clock
        (datetime(2026, 11, 24, 11, 0), NOW - 3600),  # noqa: DTZ001
        (datetime(2026, 11, 24, 6, 0, tzinfo=timezone(timedelta(hours=-5))), NOW - 3600),
        ("2026-11-24 11:00:00.999", NOW - 3600),
    ],
)
def test_times_are_utc(value: Any, seconds: float) -> None:
    for column in ([value], [value, "no time"]):  # at once, and one by one
        found = cleaning.epoch_seconds(column, "column", NOW, BuildReport())[0]
        assert math.floor(found) == seconds


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no date"),
        ("", "zero date or no date"),
        ("0000-00-00 00:00:00", "zero date or no date"),
        ("1970-01-01 00:00:00", "zero date or no date"),
        ("1970-01-02 00:00:00", "zero date or no date"),
        ("yesterday", "zero date or no date"),
        ("2026-02-30 00:00:00", "zero date or no date"),
        ("2026-11-24 12:05:01", "date in the future"),
        ("9999-12-31 23:59:59", "date in the future"),
    ],
)
def test_a_time_is_set_aside_for_one_reason(value: Any, reason: str) -> None:
    report = BuildReport()

    seconds = cleaning.epoch_seconds([value, "2026-11-24 11:00:00"], "column", NOW, report)

    assert np.isnan(seconds).tolist() == [True, False]
    assert report.set_aside == {("column", reason): 1}


def test_the_time_of_reading_is_no_date() -> None:
    """NumPy takes these words for the machine's clock."""
    report = BuildReport()

    assert np.isnan(cleaning.epoch_seconds(["now", "today"], "column", 4e9, report)).all()


def test_a_time_that_may_be_absent_is_not_counted_where_it_is() -> None:
    report = BuildReport()

    cleaning.epoch_seconds([None], "column", NOW, report, required=False)

    assert report.set_aside == {}


@pytest.mark.parametrize(
    ("value", "identifier"),
    [(7, 7), ("7", 7), (2**63 - 1, 2**63 - 1), (2**63, 0), (0, 0), (-7, 0), (None, 0), ("x", 0), ("", 0)],
)
def test_an_identifier_is_a_number_above_zero_of_63_bits(value: Any, identifier: int) -> None:
    assert cleaning.ids([value], "column", BuildReport()).tolist() == [identifier]
    assert cleaning.ids([value, None], "column", BuildReport()).tolist() == [identifier, 0]


@pytest.mark.parametrize(
    ("value", "number"),
    [(2, 2.0), (Decimal("2.5"), 2.5), ("2.5", 2.5), (-1, 0.0), (math.nan, 0.0), (math.inf, 0.0), (None, 0.0)],
)
def test_a_number_is_finite_and_not_negative(value: Any, number: float) -> None:
    assert cleaning.numbers([value], "column", BuildReport()).tolist() == [number]


@pytest.mark.parametrize(
    ("entries", "most", "tokens"),
    [
        (["Canto", "  canto ", "CANTO"], 5, ["canto"]),
        (["After  Effects", "after\teffects"], 5, ["after effects"]),
        (["a", "A", "b", "c"], 2, ["a", "b"]),
        (["Straße", "STRASSE"], 5, ["strasse"]),
        (["Fotografía", "fotografia"], 5, ["fotografía", "fotografia"]),
        ([], 5, []),
    ],
)
def test_tokens_are_the_first_different_entries_in_one_spelling(
    entries: Sequence[str], most: int, tokens: list[str]
) -> None:
    assert cleaning.tokens(entries, most) == tokens


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("José Núñez", "jose-nunez"),
        ("José Núñez 🎥", "jose-nunez"),
        ("  Ana--María  ", "ana-maria"),
        ("O'Higgins </script>", "o-higgins-script"),
        ("李", ""),
        ("🎬", ""),
        ("", ""),
    ],
)
def test_a_slug_has_lower_case_letters_digits_and_single_hyphens(name: str, slug: str) -> None:
    assert cleaning.slug(name) == slug


@unhurried
@given(st.text())
def test_any_slug_is_safe_in_an_address(name: str) -> None:
    assert set(cleaning.slug(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (("prueba", "test"), "Una PRUEBA más", True),
        (("prueba", "test"), "testimonio, contest, aprueba, pruebas", False),
        (("a.b",), "axb", False),
        (("a.b",), "x a.b y", True),
        (("año",), "Fin de AÑO", True),
        (("c++",), "curso de c++", True),
        (("[demo]",), "video [demo] uno", True),
    ],
)
def test_whole_words_are_found_in_any_case(words: tuple[str, ...], text: str, found: bool) -> None:
    pattern = cleaning.whole_words(words)

    assert pattern is not None
    assert bool(pattern.search(text)) is found


def test_no_words_match_nothing() -> None:
    assert cleaning.whole_words(()) is None
