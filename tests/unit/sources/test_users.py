"""What is kept of a user outside the catalog: bytes and back, within a limit, and cleaned as the catalog's users."""

from __future__ import annotations

import math
from datetime import UTC

import msgspec
import numpy as np
import pytest

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.report import BuildReport
from recommendation_service.mappings.interacpedia import user_reader
from recommendation_service.sources import users
from recommendation_service.sources.users import UserFacts, decode_facts, encode_facts
from tests.unit.sources.operator_database import NOW, ZERO_DATE, ago, flipped

FACTS = UserFacts(
    np.array([[7 << 1, 1_700_000_000], [(2**62 - 1) << 1 | 1, 1_600_000_000]], np.int64),
    np.array([3, 2**63 - 1], np.int64),
    5,
    (("canto", "teoría 🎥"), (), ("piano",), ()),
)
NOBODY = UserFacts(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), 0, ((), (), (), ()))


def same(one: UserFacts | None, other: UserFacts) -> bool:
    return one is not None and (
        np.array_equal(one.history, other.history)
        and np.array_equal(one.network, other.network)
        and one[2:] == other[2:]
        and (one.history.dtype, one.network.dtype) == (np.dtype(np.int64), np.dtype(np.int64))
    )


@pytest.mark.parametrize("facts", [FACTS, NOBODY], ids=["much", "nothing"])
def test_facts_come_back_as_they_were(facts: UserFacts) -> None:
    assert same(decode_facts(encode_facts(facts)), facts)


def test_facts_are_compact() -> None:
    history = np.arange(160, dtype=np.int64).reshape(80, 2)
    assert len(encode_facts(NOBODY._replace(history=history))) < 80 * 16 + 40


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"null",
        b"\xc1",
        encode_facts(FACTS)[:-1],
        encode_facts(FACTS) + b"\0",
        msgspec.msgpack.encode([users.ENCODING_VERSION + 1, b"", b"", 0, [[], [], [], []]]),
        msgspec.msgpack.encode([users.ENCODING_VERSION, b"\0" * 24, b"", 0, [[], [], [], []]]),
        msgspec.msgpack.encode([users.ENCODING_VERSION, b"", b"\0" * 9, 0, [[], [], [], []]]),
        msgspec.msgpack.encode([users.ENCODING_VERSION, b"", b"", 0, [[], [], []]]),
        msgspec.msgpack.encode({"version": 1}),
    ],
)
def test_damaged_and_foreign_bytes_are_no_facts(damaged: bytes) -> None:
    assert decode_facts(damaged) is None


def test_no_flipped_bit_raises() -> None:
    encoded = encode_facts(FACTS)
    for position in range(len(encoded)):
        decode_facts(flipped(encoded, position))


def test_a_user_with_too_much_is_cut_to_the_latest() -> None:
    history = np.stack([np.arange(5000), np.arange(5000, 0, -1)], 1).astype(np.int64)
    much = UserFacts(history, np.arange(100, dtype=np.int64), 20_000, FACTS.attributes)

    kept = decode_facts(encode_facts(much))

    assert kept is not None
    assert len(encode_facts(much)) <= users.LARGEST_ENTRY_BYTES
    assert 0 < len(kept.history) < 5000
    assert np.array_equal(kept.history, history[: len(kept.history)])
    assert np.array_equal(kept.network, much.network)
    assert kept[2:] == much[2:]


def test_whatever_the_tables_hold_an_entry_has_its_limit() -> None:
    names = tuple("🎥" * user_reader.MOST_CHARACTERS + str(i) for i in range(1000))
    endless = UserFacts(
        np.zeros((100_000, 2), np.int64), np.zeros(100_000, np.int64), 2**40, (names, names, names, names)
    )
    assert len(encode_facts(endless)) <= users.LARGEST_ENTRY_BYTES

    largest = UserFacts(
        np.zeros((user_reader.MOST_INTERACTIONS, 2), np.int64),
        np.zeros(user_reader.MOST_CONNECTIONS, np.int64),
        2 * user_reader.MOST_CONNECTIONS,
        FACTS.attributes,
    )
    assert same(decode_facts(encode_facts(largest)), largest)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        b"",
        "null",
        "[",
        '"Canto"',
        '{"a": 1}',
        '{"0": "Canto", "2": "Baile", "10": "Ñandú", "3": null}',
        '"[\\"Canto\\", \\"Baile\\"]"',
        '"[\\"Canto"',
        "[null, 3, [], {}]",
        '["  Canto  Coral ", "canto coral", "CANTO CORAL", "", "   ", "Ñandú", "İstanbul", "</script>", "🎥"]',
        b'["bytes"]',
        b'["\xff"]',
        '["\\ud800"]',
        "[" * 100_000,
        '["a","b","c","d","e","f","g","h","i","j"]',
        12,
    ],
)
def test_names_are_cleaned_as_those_of_the_catalogs_users(value: object) -> None:
    expected = cleaning.tokens(cleaning.text_list(value, "skills", BuildReport()), user_reader.MOST_NAMES)

    assert list(user_reader._names(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        ZERO_DATE,
        "1970-01-01 23:59:59",
        "1970-01-02 00:00:01",
        "2026-02-30 00:00:00",
        "2026-11-24",
        ago(days=1),
        ago(minutes=-4),
        ago(minutes=-6),
        ago(days=-3),
        "2026-11-23 10:00:00.250000",
        "2026-11-23T10:00:00+02:00",
        "9999-12-31 23:59:59",
    ],
)
def test_times_are_cleaned_as_those_of_the_catalogs_interactions(value: object) -> None:
    now = NOW.timestamp()
    (expected,) = cleaning.epoch_seconds([value], "created_at", now, BuildReport())

    assert user_reader._seconds(value, now, UTC) == (None if math.isnan(expected) else int(expected))
