"""The flush, whatever a server is set up like, and whoever stands before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.export import Selection, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.lookup import find_feed
from recommendation_service.flush.migrations import (
    migrate,
)
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.flush.tables import make_writing_engine
from tests.servers import PrivateMariaDB
from tests.support.database_proxies import NarrowProxy
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment
from tests.support.flushed import (
    DATABASE,
    assert_each_is_there_once,
    prepared,
    rows,
    settings_for,
)
from tests.support.old_tables import make_table_of

ODD = "«o'Higgins» \"\\ 🌱\n\x00%s :x"


@contextmanager
def set_globally(server: PrivateMariaDB, name: str, value: str) -> Iterator[None]:
    with server._connect(5) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT @@global.{name}")
        ((before,),) = cursor.fetchall()
        cursor.execute(f"SET GLOBAL {name} = %s", (value,) if not value.isdigit() else (int(value),))
        try:
            yield
        finally:
            cursor.execute(f"SET GLOBAL {name} = %s", (before,))


EVERY_MODE = (
    "ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES",
    "ANSI,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE,IGNORE_SPACE,REAL_AS_FLOAT,PAD_CHAR_TO_FULL_LENGTH",
    "TRADITIONAL,NO_ZERO_DATE,NO_ZERO_IN_DATE,ONLY_FULL_GROUP_BY,NO_UNSIGNED_SUBTRACTION",
    "ORACLE,EMPTY_STRING_IS_NULL,NO_AUTO_VALUE_ON_ZERO,NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
    "MSSQL",
    "",
)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_everything_works_in_every_sql_mode(mariadb_settings: Settings, server: PrivateMariaDB, mode: str) -> None:
    if server.mysqld and ("ORACLE" in mode or "MSSQL" in mode):
        pytest.skip("MySQL has no such mode")
    odd = feedback(event_id="id '\"\\", session_id=ODD, user_id=124)
    old = feedback(event_id="old", happened_ms=HAPPENED_MS - 401 * 86_400_000)
    records: list[Event] = [feedback(event_id="new", happened_ms=HAPPENED_MS), odd, old, feed(user_id=124)]
    with set_globally(server, "sql_mode", mode):
        owner = make_writing_engine(mariadb_settings)
        metadata.tables["activity_log"].create(owner)
        migrate(owner)
        make_table_of(owner, "5484959")
        write_segment(mariadb_settings.events_dir, records)
        flusher = Flusher(mariadb_settings, owner, now_ms=lambda: HAPPENED_MS)
        assert flusher.flush_all(), flusher.status.error
        assert_each_is_there_once(owner, records)
        (row,) = rows(owner, "SELECT session_id FROM recs_events WHERE event_id LIKE 'id%'")
        assert row["session_id"] == ODD
        assert len(list(read_events(owner, Selection()))) == 4
        flusher.step()  # retention
        assert forget_user(owner, mariadb_settings.events_dir, 124)["events"] == 2
        assert [row["event_id"] for row in rows(owner, "SELECT event_id FROM recs_events")] == ["new"]
        reading = make_engine(mariadb_settings)
        assert find_feed(reading, mariadb_settings.events_dir, "0" * 32) is None
        reading.dispose()
        owner.dispose()


@pytest.mark.parametrize("character_set", ["utf8mb3", "latin1", "ascii"])
def test_text_that_the_operators_table_cannot_hold_is_there_in_escapes(
    mariadb_settings: Settings, server: PrivateMariaDB, character_set: str
) -> None:
    records: list[Event] = [
        feedback(event_id=f"🦊-{number}", session_id="tab 🦊", request_id="ñ") for number in range(30)
    ]
    records += [feed(session_id="tab 🦊"), feedback(event_id="plain")]
    assert mariadb_settings.database_url is not None
    url = f"{mariadb_settings.database_url.get_secret_value()}?charset=latin1"
    settings = mariadb_settings.model_copy(update={"database_url": SecretStr(url)})
    with (
        set_globally(server, "init_connect", "SET NAMES latin1"),
        set_globally(server, "character_set_server", "latin1"),
        prepared(settings) as engine,
    ):
        server.execute(f"ALTER TABLE {DATABASE}.activity_log CONVERT TO CHARACTER SET {character_set}")
        write_segment(settings.events_dir, records)
        flusher = Flusher(settings, engine)
        assert flusher.flush_all(), flusher.status.error
        assert (flusher.status.dead_letters, flusher.status.escaped) == (0, 31)
        assert_each_is_there_once(engine, records)
        (row,) = rows(engine, "SELECT session_id FROM recs_events WHERE event = 'feed'")
        assert row["session_id"] == "tab 🦊"
        (row,) = rows(engine, "SELECT properties FROM activity_log WHERE url = '/api/search/total'")
        assert json.loads(row["properties"])["session_id"] == "tab 🦊"


def test_statements_are_as_long_as_the_server_takes_them(mariadb_settings: Settings, server: PrivateMariaDB) -> None:
    records: list[Event] = [
        feedback(event_id="🦊" * 115 + f"{number:05}", session_id="🦊" * 120, request_id="🦊" * 120)
        for number in range(1_200)
    ]
    for packet in (1 << 20, 1 << 16):
        with set_globally(server, "max_allowed_packet", str(packet)), prepared(mariadb_settings) as engine:
            outcome = EventWriter(engine).write([*records, *(feed(100) for _ in range(50))])
            assert (outcome.problem, outcome.refused, outcome.retries) == ("", [], 0)
            assert outcome.inserted == {"impression": 1_200, "feed": 50}
            with engine.begin() as connection:
                for table in ("recs_events", "recs_schema", "activity_log"):
                    connection.exec_driver_sql(f"DROP TABLE {table}")


def test_a_row_that_is_longer_than_the_server_takes_is_a_dead_letter_and_those_behind_it_go_on(
    mariadb_settings: Settings, server: PrivateMariaDB
) -> None:
    long = feed(100)
    records: list[Event] = [feed(3), long, feed(3), feedback()]
    with set_globally(server, "max_allowed_packet", "8192"), prepared(mariadb_settings) as engine:
        write_segment(mariadb_settings.events_dir, records)
        flusher = Flusher(mariadb_settings, engine)
        assert flusher.flush_all(), flusher.status.error
        assert_each_is_there_once(engine, [record for record in records if record is not long])
    (letter,) = DeadLetters(mariadb_settings.events_dir).all()
    assert letter.event_id == event_id_of(long)
    assert "max_allowed_packet" in letter.reason


def test_what_somebody_on_the_way_does_not_let_through_is_halved(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    """A proxy that takes statements of 100 kB at most, and says nothing of it but to hang up."""
    records: list[Event] = [feedback() for _ in range(1_500)]
    proxy = NarrowProxy(server.port, 100_000)
    settings = settings_for(server.url(DATABASE).set(port=proxy.port), tmp_path, mysql_tls="off")
    engine = make_writing_engine(settings)
    writer = EventWriter(engine)
    outcome = writer.write(records)
    assert (outcome.problem, outcome.refused) == ("", [])
    assert proxy.cuts > 1
    assert_each_is_there_once(mariadb_engine, records)
    engine.dispose()
    proxy.close()
