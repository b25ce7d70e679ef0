"""Rows of a mapping's events are read on and on, each once, whatever their column of the time can tell apart."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import URL

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.learning.operator_rows import MOST_ROWS
from recommendation_service.learning.row_notes import RowMark, RowNotes, Seen
from recommendation_service.model.item_keys import item_key, unpack
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.rows import MappedRows
from recommendation_service.sources.mapping.words import FIRST_TYPE
from recommendation_service.sources.rows import OperatorRow

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
MAPPING = """
[users]
query = "SELECT 1 AS id"
[items.song]
query = "SELECT 1 AS id"
[events.play]
query = "SELECT listener AS user_id, song AS item_id, playedAt FROM plays"
time = "playedAt"
days = 3650
"""
# What the column is, and how a moment stands in it.
FORMS: dict[str, tuple[str, Callable[[datetime], Any]]] = {
    "moment": ("{moment}", lambda moment: moment.replace(tzinfo=None)),
    "date": ("DATE", lambda moment: moment.date()),
    "text of a day": ("VARCHAR(30)", lambda moment: f"{moment:%Y-%m-%d}"),
    "text of a minute": ("VARCHAR(30)", lambda moment: f"{moment:%Y-%m-%d %H:%M}"),
    "text with a zone": ("VARCHAR(30)", lambda moment: f"{moment:%Y-%m-%dT%H:%M:%SZ}"),
    "number": ("BIGINT", lambda moment: int(moment.timestamp() * 1000)),
    "text of a number": ("VARCHAR(30)", lambda moment: str(int(moment.timestamp()))),
}


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def url(request: pytest.FixtureRequest) -> URL:
    found: URL = request.getfixturevalue(f"{request.param}_url")
    return found


def notes_in(database: sqlite3.Connection) -> RowNotes:
    """In a ledger's file, which has what rows told already."""
    database.execute("CREATE TABLE IF NOT EXISTS happenings (item INTEGER, event TEXT, source TEXT)")
    return RowNotes(database)


class Plays:
    """The table, and a reader of it that goes on as the learner does."""

    def __init__(self, url: URL, folder: Path, form: str) -> None:
        self._writer = create_engine(url, poolclass=NullPool)
        self._column, self._form = FORMS[form]
        moment = "TIMESTAMP" if url.get_backend_name() == "postgresql" else "DATETIME"
        with self._writer.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE plays (listener INTEGER, song INTEGER, playedAt {self._column.format(moment=moment)})"
            )
        (folder / "mapping.toml").write_text(MAPPING)
        shown = SecretStr(url.render_as_string(hide_password=False))
        self.ledger = sqlite3.connect(":memory:")
        self.engine: Engine = make_engine(Settings(database_url=shown, data_dir=folder))
        self.rows = MappedRows(load_mapping(folder / "mapping.toml"), self.engine, self.engine.connect, UTC)

    def add(self, at: datetime, songs: range, listener: int = 1) -> None:
        value = self._form(at)
        value = str(value) if self.engine.dialect.name == "sqlite" and not isinstance(value, int) else value
        rows = [{"listener": listener, "song": song, "at": value} for song in songs]
        with self._writer.begin() as connection:
            connection.execute(text("INSERT INTO plays VALUES (:listener, :song, :at)"), rows)

    def read_to_the_end(self, most: int, mark: RowMark, now: datetime) -> tuple[list[int], RowMark]:
        """Songs of new rows, in looks of which each is settled."""
        songs: list[int] = []
        notes = notes_in(self.ledger)
        while True:
            with self.rows.moment(now) as moment:
                page = moment.read("play", mark.after, most)
            songs += [unpack(row.item or 0)[1] for row in page.rows if notes.take("play", row)]
            read_to = page.last_id if page.read_to is None else page.read_to
            seen = Seen(int(now.timestamp() * 1000), page.last_id)
            after = mark.looked(seen, read_to, 0).looked(seen, read_to, 0)  # the second look settles the first
            if page.read_to is None:
                return songs, after
            assert after.after > mark.after, "it goes on"
            mark = after


@pytest.fixture
def plays(url: URL, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    found = Plays(url, tmp_path, request.param)
    yield found
    found.engine.dispose()
    found.ledger.close()


@pytest.mark.parametrize("plays", FORMS, indirect=True)
def test_what_came_at_one_time_is_read_past_however_much_it_is(plays: Plays) -> None:
    """More than a look takes, of one second, one minute and one day; and then what comes after."""
    day = NOW - timedelta(hours=30)
    plays.add(day - timedelta(days=1), range(1, 4))
    plays.add(day, range(10, 40))
    plays.add(NOW - timedelta(hours=2), range(50, 53))
    begin = RowMark((int((day - timedelta(days=2)).timestamp()) << 22) - 1)

    found, mark = plays.read_to_the_end(10, begin, NOW)
    assert sorted(found) == [1, 2, 3, *range(10, 40), 50, 51, 52]
    later = NOW + timedelta(minutes=3)
    plays.add(later - timedelta(minutes=2), range(60, 62))
    again, _ = plays.read_to_the_end(10, mark, later)
    assert {60, 61} <= set(again) <= {50, 51, 52, 60, 61}, "of an unfinished day all is looked at again"


@pytest.mark.parametrize("plays", ["moment"], indirect=True)
def test_a_second_with_more_than_a_look_takes_is_read(plays: Plays) -> None:
    songs = range(1, MOST_ROWS + 50)
    plays.add(NOW - timedelta(minutes=1), songs)
    begin = RowMark((int((NOW - timedelta(days=1)).timestamp()) << 22) - 1)
    found, _ = plays.read_to_the_end(MOST_ROWS, begin, NOW)
    assert set(found) == set(songs)


@pytest.mark.parametrize("plays", ["date", "text of a day", "moment"], indirect=True)
def test_what_is_of_a_time_to_come_keeps_nothing_from_being_read(plays: Plays) -> None:
    plays.add(NOW + timedelta(days=5), range(100, 130))
    plays.add(NOW - timedelta(minutes=5), range(1, 4))
    begin = RowMark((int((NOW - timedelta(days=2)).timestamp()) << 22) - 1)

    found, mark = plays.read_to_the_end(10, begin, NOW)
    assert sorted(found) == [1, 2, 3]
    plays.add(NOW + timedelta(minutes=1), range(4, 6))
    found, _ = plays.read_to_the_end(10, mark, NOW + timedelta(minutes=2))
    assert {4, 5} <= set(found)


@pytest.mark.parametrize("plays", ["text of a minute"], indirect=True)
def test_a_latest_time_that_is_none_is_told(plays: Plays) -> None:
    plays.add(NOW, range(1, 3))
    with plays._writer.begin() as connection:
        connection.execute(text("INSERT INTO plays VALUES (1, 1, 'yesterday')"))
    with plays.rows.moment(NOW) as moment, pytest.raises(SourceError, match="the latest is 'yesterday'"):
        moment.read("play", 0, 10)


@pytest.mark.parametrize("plays", ["date", "moment"], indirect=True)
def test_events_of_one_time_that_share_their_number_are_each_taken_once(plays: Plays) -> None:
    by_number: dict[int, list[tuple[int, int]]] = {}
    for listener, song in itertools.product(range(1, 100), range(1, 1_000)):
        who = f"{listener} {item_key(FIRST_TYPE, song)}"
        by_number.setdefault(crc32(who.encode()) & (1 << 21) - 1, []).append((listener, song))
    one, other = next(pairs for pairs in by_number.values() if len(pairs) == 2 and pairs[0][1] != pairs[1][1])
    day = NOW - timedelta(days=1)
    begin = RowMark((int((day - timedelta(days=2)).timestamp()) << 22) - 1)
    plays.add(day, range(one[1], one[1] + 1), one[0])
    first, _ = plays.read_to_the_end(1_000, begin, NOW)
    plays.add(day, range(other[1], other[1] + 1), other[0])
    with plays.rows.moment(NOW) as moment:
        assert len({row.id for row in moment.read("play", begin.after, 1_000).rows}) == 1

    second, mark = plays.read_to_the_end(1_000, begin, NOW)
    assert (first, second) == ([one[1]], [other[1]])
    assert plays.read_to_the_end(1_000, mark, NOW)[0] == []


def test_what_a_release_before_noted_is_not_taken_again() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as ledger:
        ledger.execute("CREATE TABLE rows_taken (source TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (source, id))")
        ledger.execute("INSERT INTO rows_taken VALUES ('play', 7)")
        for _ in range(2):  # a start after another
            notes = notes_in(ledger)
        rows = [OperatorRow(number, 1, 2, "play", None, 0, "1 2") for number in (7, 8, 8)]
        assert [notes.take("play", row) for row in rows] == [False, True, False]
        assert [notes.take("others", row._replace(who="")) for row in rows] == [True, True, False]
