"""Events from the log into real databases, which are killed, locked, read-only and short of privileges meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.demo.schema import metadata
from recommendation_service.flush import event_writer as flush
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.export import Selection, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.lookup import find_feed
from recommendation_service.flush.migrations import (
    MIGRATIONS,
    NAME_CHARACTERS,
    TEXT_ID_CHARACTERS,
    migrate,
    pending_migrations,
    statements,
)
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.flush.tables import delete_events, make_writing_engine
from recommendation_service.log.records import encode
from recommendation_service.log.segments import SUFFIX, SegmentFull, SegmentWriter
from recommendation_service.processes.registry import FLUSHER
from tests.end_to_end.service import REPOSITORY, Service, command_of, load_demo, recs
from tests.servers import LOOPBACK, PrivateMariaDB, find_program, free_port, wait_until
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment
from tests.support.old_tables import FORMS, Form, add_rows, make_table_of

PATIENCE_SECONDS = 60.0
DATABASE = "interacpedia"
# Connections that have inserted into recs_events and wait to copy.
WAITING = "SELECT id FROM information_schema.processlist WHERE info LIKE 'INSERT INTO activity_log%'"
ODD = "«o'Higgins» \"\\ 🌱\n\x00%s :x"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """Not the server of the whole run: it is killed here."""
    folder = tmp_path_factory.mktemp("flush-mariadb")
    with PrivateMariaDB(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def mariadb_settings(server: PrivateMariaDB, tmp_path: Path) -> Iterator[Settings]:
    server.start()
    server.execute(f"CREATE DATABASE {DATABASE}")
    yield settings_for(server.url(DATABASE), tmp_path)
    server.resume()
    server.start()
    server.execute(f"DROP DATABASE {DATABASE}")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection is tried again however long a slow machine took to lose it."""
    monkeypatch.setattr(flush, "ATTEMPTS_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(params=["mariadb", "sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "mariadb":
        found: Settings = request.getfixturevalue("mariadb_settings")
        return found
    path = tmp_path / "interacpedia.sqlite"
    path.touch()
    return settings_for(URL.create("sqlite", database=str(path)), tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with prepared(settings) as made:
        yield made


@pytest.fixture
def mariadb_engine(mariadb_settings: Settings) -> Iterator[Engine]:
    with prepared(mariadb_settings) as made:
        yield made


def settings_for(url: URL, folder: Path, **more: Any) -> Settings:
    return Settings(
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        data_dir=folder / "data",
        mysql_connect_timeout_seconds=2,
        **more,
    )


@contextmanager
def prepared(settings: Settings) -> Iterator[Engine]:
    """With the service's tables and the operator's activity_log."""
    made = make_writing_engine(settings)
    metadata.tables["activity_log"].create(made)
    migrate(made)
    yield made
    made.dispose()


def rows(engine: Engine, statement: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sqlalchemy.text(statement)).mappings()]


def counted(engine: Engine) -> tuple[Counter[str], Counter[str]]:
    """How often each event is in recs_events, and in activity_log."""
    ours = Counter(row["event_id"] for row in rows(engine, "SELECT event_id FROM recs_events"))
    theirs = Counter(
        json.loads(row["properties"])["event_id"] for row in rows(engine, "SELECT properties FROM activity_log")
    )
    return ours, theirs


def assert_each_is_there_once(engine: Engine, records: list[Event]) -> None:
    once = Counter(map(event_id_of, records))
    assert counted(engine) == (once, once)


# What an event becomes.


def test_feedback_is_appended_to_the_activity_log_as_the_contract_says(settings: Settings, engine: Engine) -> None:
    whole = feedback(
        event_id="e-1", event="rating", user_id=4711, request_id="ab12", session_id="tab-1", position=3, value=4.5,
        watch_seconds=12.25, slot_kind=2, flags=4, received_ms=HAPPENED_MS + 38_757,
    )  # fmt: skip
    challenge = feedback(event_id="e-2", event="view", item_type=1, user_id=0)
    creator = feedback(event_id="e-3", event="hide", item_type=2, item_id=9)
    assert EventWriter(engine).write([whole, challenge, creator]).inserted == {"rating": 1, "view": 1, "hide": 1}
    found = rows(engine, "SELECT * FROM activity_log ORDER BY id")
    assert [row["subject_type"] for row in found] == [
        r"App\Interacpedia\Resumes\Resume",
        r"App\Interacpedia\Challenges\Challenge",
        r"App\User",
    ]
    assert [row["causer_id"] for row in found] == [4711, None, 7]
    assert [row["description"] for row in found] == ["#video #view #AU", *["#video #view #UNKNOWN"] * 2]
    (times,) = rows(engine, "SELECT happened_at, received_at FROM recs_events WHERE event_id = 'e-1'")
    assert [str(moment)[:23] for moment in times.values()] == ["2026-09-21 14:13:20.250", "2026-09-21 14:13:59.007"]
    row = found[0]
    assert (row["log_name"], row["subject_id"], row["causer_type"]) == ("app", 42, r"App\User")
    assert row["url"] == "/api/search/feed/video/42"
    assert str(row["created_at"]) == str(row["updated_at"]) == "2026-09-21 14:13:20"
    assert row["properties"] == (
        '{"event":"rating","event_id":"e-1","user_id":4711,"item_type":"resume","item_id":42,"request_id":"ab12",'
        '"session_id":"tab-1","slot_kind":"AU","position":3,"value":4.5,"watch_seconds":12.25,"flags":4,'
        '"happened_at":"2026-09-21T14:13:20.250Z"}'
    )
    assert json.loads(found[1]["properties"]) == {
        "event": "view", "event_id": "e-2", "user_id": 0, "item_type": "challenge", "item_id": 42,
        "happened_at": "2026-09-21T14:13:20.250Z",
    }  # fmt: skip


def test_a_feed_is_appended_to_the_activity_log_as_the_contract_says(settings: Settings, engine: Engine) -> None:
    shown = feed(3)
    assert EventWriter(engine).write([shown]).inserted == {"feed": 1}
    (row,) = rows(engine, "SELECT * FROM activity_log")
    assert (row["description"], row["url"]) == ("#feed #request #total", "/api/search/total")
    assert (row["subject_id"], row["subject_type"], row["causer_id"]) == (None, None, 7)
    assert row["properties"].startswith(f'{{"event":"feed","event_id":"{shown.event_id.hex()}",')
    assert json.loads(row["properties"]) == {
        "event": "feed",
        "event_id": shown.event_id.hex(),
        "user_id": 7,
        "request_id": shown.request_id.hex(),
        "session_id": "tab-1",
        "endpoint": "total",
        "catalog": shown.catalog_version,
        "policy": "starting-1",
        "happened_at": "2026-09-21T14:13:20.250Z",
        "items": [
            {"id": 100, "type": "resume", "slot": "AU"},
            {"id": 101, "type": "resume", "slot": "AU"},
            {"id": 102, "type": "challenge", "slot": "FW"},
        ],
    }


def test_text_of_clients_arrives_as_it_was(settings: Settings, engine: Engine) -> None:
    record = feedback(event_id=f"id {ODD}", session_id=ODD, request_id=ODD)
    assert not EventWriter(engine).write([record]).refused
    (row,) = rows(engine, "SELECT * FROM recs_events")
    assert (row["event_id"], row["session_id"], row["request_id"]) == (f"id {ODD}", ODD, ODD)
    (row,) = rows(engine, "SELECT properties FROM activity_log")
    content = json.loads(row["properties"])
    assert (content["event_id"], content["session_id"], content["request_id"]) == (f"id {ODD}", ODD, ODD)


def test_texts_that_want_no_escaping_are_written_as_others_are(settings: Settings, engine: Engine) -> None:
    """A batch that has no other text is put in words of SQL that escape nothing."""
    plain = "".join(chr(code) for code in range(32, 127) if chr(code) not in "'\"\\")

    def record(event_id: str) -> Event:
        return feedback(event_id=event_id, session_id=plain, request_id=f"{plain}?", value=0.5, received_ms=HAPPENED_MS)

    writer = EventWriter(engine)
    writer.write([record(f"{plain}1"), feedback(event_id="none", user_id=8)])
    writer.write([record(f"{plain}2"), feedback(event_id=ODD, user_id=8)])
    for table, own in (("recs_events", ("id", "flush_id")), ("activity_log", ("id",))):
        found = rows(engine, f"SELECT * FROM {table}")
        first, second = (
            {name: str(value).replace(f"{plain}{number}", "") for name, value in row.items() if name not in own}
            for number, row in enumerate((row for row in found if row.get("user_id", row.get("causer_id")) == 7), 1)
        )
        assert first == second
    assert counted(engine)[1] == Counter([f"{plain}1", f"{plain}2", "none", ODD])


def test_the_same_event_twice_counts_once(settings: Settings, engine: Engine) -> None:
    records: list[Event] = [feedback(event_id=f"e-{i}") for i in range(2_500)]
    outcome = EventWriter(engine).write([*records, *records[:10]])
    assert (outcome.inserted.total(), outcome.duplicates) == (2_500, 10)
    outcome = EventWriter(engine).write([*records[:1_000], feedback(event_id="another")])
    assert (outcome.inserted, outcome.duplicates) == ({"impression": 1}, 1_000)
    assert_each_is_there_once(engine, [*records, feedback(event_id="another")])


def test_ids_that_differ_by_case_or_accent_only_are_different_events(settings: Settings, engine: Engine) -> None:
    records: list[Event] = [feedback(event_id=name) for name in ("a", "A", "á", "ａ")]
    EventWriter(engine).write(records)
    assert_each_is_there_once(engine, records)


def test_an_id_counts_within_its_user(settings: Settings, engine: Engine) -> None:
    first, second = (feedback(event_id="tap-1", user_id=user) for user in (1, 2))
    write_segment(settings.events_dir, [first, second, feedback(event_id="tap-1", user_id=2, item_id=43)])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert (flusher.status.flushed, flusher.status.duplicates) == ({"impression": 2}, 1)
    assert EventWriter(engine).write([second, feedback(event_id="tap-1", user_id=3)]).duplicates == 1
    found = rows(engine, "SELECT user_id, item_id FROM recs_events WHERE event_id = 'tap-1' ORDER BY user_id")
    assert [(row["user_id"], row["item_id"]) for row in found] == [(1, 42), (2, 42), (3, 42)]
    assert [row["causer_id"] for row in rows(engine, "SELECT causer_id FROM activity_log ORDER BY causer_id")] == [
        1, 2, 3,
    ]  # fmt: skip


def are_kept(engine: Engine) -> bool:
    """Whether the rows of an older table are there as they were, and the table is as today's."""
    found = rows(engine, "SELECT * FROM recs_events WHERE flush_id = 1 ORDER BY event_id")
    names = [(row["event_id"], row["event"], row["user_id"], row["item_type"], row["item_id"]) for row in found]
    more = [(row["slot_kind"], row["endpoint"], row["slots"], row["user_text"], row["item_text"]) for row in found]
    return names == [("feed-1", "feed", 1, None, None), ("tap-1", "view", 1, "challenge", 42)] and more == [
        (None, "discover", b"\1\2", None, None), ("FLOW", None, None, None, None),
    ]  # fmt: skip


def holds_long_names(engine: Engine) -> None:
    """An event with ids that are text, and names as long as they may be; another user's tap-1 beside it."""
    long, text_id = "ñ" * NAME_CHARACTERS, "🎥" * TEXT_ID_CHARACTERS
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO recs_events (event_id, event, user_id, user_text, item_type, item_id, item_text, "
                "endpoint, slot_kind, flags, happened_at, received_at, flush_id) VALUES ('tap-1', :long, 9, :id, "
                ":long, 1, :id, :long, :long, 0, '2026-09-21 14:13:20', '2026-09-21 14:13:20', 2)"
            ),
            {"long": long, "id": text_id},
        )
    (row,) = rows(engine, "SELECT * FROM recs_events WHERE flush_id = 2")
    assert [row[name] for name in ("event", "item_type", "endpoint", "slot_kind")] == [long] * 4
    assert (row["user_text"], row["item_text"]) == (text_id, text_id)


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_an_older_form_is_brought_up_to_date_and_keeps_its_rows(
    settings: Settings, engine: Engine, form: Form
) -> None:
    make_table_of(engine, form)
    add_rows(engine)
    write_segment(settings.events_dir, [feedback(event_id="tap-1", user_id=user) for user in (1, 2)])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all(), flusher.status.error
    assert flusher.status.duplicates == 1
    found = rows(engine, "SELECT user_id, event FROM recs_events WHERE event_id = 'tap-1' ORDER BY user_id")
    assert [(row["user_id"], row["event"]) for row in found] == [(1, "view"), (2, "impression")]
    assert are_kept(engine)
    holds_long_names(engine)
    assert pending_migrations(engine) == ()
    assert migrate(engine) == ()


@pytest.mark.parametrize("form", FORMS)
def test_a_migration_that_was_interrupted_anywhere_is_carried_on(mariadb_engine: Engine, form: Form) -> None:
    """On a server each statement stands by itself. In ANSI_QUOTES, as a server of the operator's may be."""
    make_table_of(mariadb_engine, form)
    most = len(statements(pending_migrations(mariadb_engine), "mysql"))
    for carried_out in range(1, most + 1):
        make_table_of(mariadb_engine, form)
        add_rows(mariadb_engine)
        pending = pending_migrations(mariadb_engine)
        with mariadb_engine.connect() as connection:
            connection.exec_driver_sql("SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'")
            for statement in statements(pending, "mysql")[:carried_out]:
                connection.exec_driver_sql(statement)
            connection.commit()
            connection.invalidate()
        migrate(mariadb_engine)
        assert pending_migrations(mariadb_engine) == ()
        assert are_kept(mariadb_engine), carried_out
    holds_long_names(mariadb_engine)


def test_a_large_table_is_changed_while_it_is_written_to(mariadb_engine: Engine) -> None:
    """The server is asked to say so where it could not: no row is written anew, and nobody waits."""
    make_table_of(mariadb_engine, "next")
    add_rows(mariadb_engine)
    changes = [
        match[0]
        for statement in statements(pending_migrations(mariadb_engine), "mysql")
        for match in re.finditer(r"ALTER TABLE [^']+", statement)
    ]
    assert len(changes) == 2
    with mariadb_engine.begin() as connection:
        for change in changes:
            connection.exec_driver_sql(f"{change}, ALGORITHM=INPLACE, LOCK=NONE")
    migrate(mariadb_engine)
    assert are_kept(mariadb_engine)


@pytest.mark.parametrize("form", FORMS)
def test_an_embedded_table_of_any_form_is_brought_up_to_date_though_nothing_says_which_it_is(
    tmp_path: Path, form: Form
) -> None:
    """As after recs_schema was dropped: no row is lost, and of a table of today nothing is changed."""
    path = tmp_path / "interacpedia.sqlite"
    path.touch()
    with prepared(settings_for(URL.create("sqlite", database=str(path)), tmp_path)) as engine:
        make_table_of(engine, form)
        add_rows(engine)
        for _ in range(2):
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE recs_schema")
            assert len(migrate(engine)) == len(MIGRATIONS)
            assert are_kept(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql("DELETE FROM recs_events WHERE flush_id = 2")
            holds_long_names(engine)


def test_who_may_not_change_a_table_of_an_older_form_says_so_and_loses_nothing(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    make_table_of(mariadb_engine, "5484959")
    records: list[Event] = [feedback(event_id="tap-1", user_id=user) for user in (1, 2)]
    write_segment(mariadb_settings.events_dir, records)
    data = f"SELECT, INSERT, UPDATE, DELETE ON {DATABASE}.*"
    with restricted_user(server, data) as url:
        settings = settings_for(url, tmp_path)
        engine = make_writing_engine(settings)
        flusher = Flusher(settings, engine)
        assert not flusher.flush_all()
        assert "older form" in str(flusher.status.error)
        assert "recs migrate" in str(flusher.status.error)
        server.execute(f"GRANT CREATE, ALTER, INDEX ON {DATABASE}.recs_events TO 'app'@'{LOOPBACK}'")
        engine.dispose()
        migrate(engine)
        assert flusher.flush_all(), flusher.status.error
        engine.dispose()
    assert counted(mariadb_engine)[0] == Counter({"tap-1": 2})


def test_who_makes_the_tables_needs_no_more_than_the_guide_gives(
    mariadb_settings: Settings, server: PrivateMariaDB, tmp_path: Path
) -> None:
    """And for a table of today INDEX is not used."""
    grants = (f"CREATE ON {DATABASE}.recs_events", f"CREATE, INSERT, UPDATE ON {DATABASE}.recs_schema")
    with restricted_user(server, *grants, f"SELECT ON {DATABASE}.*") as url:
        engine = make_writing_engine(settings_for(url, tmp_path))
        assert len(migrate(engine)) == len(MIGRATIONS)
        assert migrate(engine) == ()
        engine.dispose()


def test_two_who_bring_a_table_up_to_date_at_once_take_turns(
    mariadb_settings: Settings, mariadb_engine: Engine
) -> None:
    make_table_of(mariadb_engine, "5484959")
    engines = [make_writing_engine(mariadb_settings) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(map(len, pool.map(migrate, engines))) == [0, len(MIGRATIONS) - 1]
    for engine in engines:
        engine.dispose()


# What the server is set up like.


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


# Rows that are refused for ever.


def test_a_row_that_the_database_refuses_becomes_a_dead_letter_and_the_others_are_written(
    settings: Settings, engine: Engine
) -> None:
    good: list[Event] = [feedback() for _ in range(300)]
    bad = feedback(session_id="x" * 200) if engine.dialect.name == "mysql" else feedback(user_id=2**64 - 1)
    write_segment(settings.events_dir, [*good[:100], bad, b"no record", *good[100:]])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert_each_is_there_once(engine, good)
    letters = DeadLetters(settings.events_dir).all()
    assert {letter.event_id for letter in letters} == {bad.event_id, None}
    assert (flusher.status.dead_letters, flusher.status.flushed) == (2, {"impression": 300})
    assert not list(settings.events_dir.glob(f"*{SUFFIX}")), "the segment is done with"


def test_dead_letters_are_listed_and_go_through_when_the_reason_is_gone(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    record = feedback(session_id="x" * 200)
    write_segment(mariadb_settings.events_dir, [record])
    assert Flusher(mariadb_settings, mariadb_engine).flush_all()
    assert mariadb_settings.database_url is not None
    environment = {"DATABASE_URL": mariadb_settings.database_url.get_secret_value()}
    (letter,) = json.loads(recs("events", "dead", "--json", folder=tmp_path, settings=environment).stdout)
    assert (letter["event_id"], letter["event"]) == (record.event_id, "impression")
    assert "session_id" in letter["reason"]
    again = recs("events", "dead", "--replay", folder=tmp_path, settings=environment)
    assert (again.returncode, again.stdout.count("1 stay dead")) == (1, 1), again.stderr
    server.execute(f"ALTER TABLE {DATABASE}.recs_events MODIFY session_id VARCHAR(300)")
    again = recs("events", "dead", "--replay", "--json", folder=tmp_path, settings=environment)
    assert json.loads(again.stdout) == {"replayed": 1, "already_there": 0, "dead": 0}
    assert_each_is_there_once(mariadb_engine, [record])
    assert DeadLetters(mariadb_settings.events_dir).all() == []


# Faults in the middle of a transaction.


@contextmanager
def held_before_the_copy(engine: Engine, writer: EventWriter, records: list[Event]) -> Iterator[int]:
    """A flush that has inserted into recs_events and waits for activity_log; gives its connection's id.

    The table is somebody else's meanwhile. It is let go at the end, and the flush has to succeed.
    """
    with engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.exec_driver_sql("LOCK TABLES activity_log WRITE")
        flushing = pool.submit(writer.write, records)
        try:
            assert wait_until(lambda: bool(rows(engine, WAITING)), PATIENCE_SECONDS)
            yield rows(engine, WAITING)[0]["id"]
        finally:
            other.invalidate()  # closes the connection, and with it the lock goes
        outcome = flushing.result(PATIENCE_SECONDS)
        assert (outcome.left, outcome.problem) == ([], "")


def test_a_connection_killed_between_insert_and_commit_costs_a_retry(mariadb_engine: Engine) -> None:
    records: list[Event] = [feedback() for _ in range(50)]
    writer = EventWriter(mariadb_engine)
    with (
        held_before_the_copy(mariadb_engine, writer, records) as connection_id,
        mariadb_engine.connect() as connection,
    ):
        connection.exec_driver_sql(f"KILL {connection_id}")
    assert_each_is_there_once(mariadb_engine, records)


def test_a_server_killed_between_insert_and_commit_has_neither_and_then_both(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB
) -> None:
    records: list[Event] = [feedback() for _ in range(50)]
    path = write_segment(mariadb_settings.events_dir, records)
    flusher = Flusher(mariadb_settings, mariadb_engine)
    with mariadb_engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.exec_driver_sql("LOCK TABLES activity_log WRITE")
        flushing = pool.submit(flusher.flush_all)
        try:
            assert wait_until(lambda: bool(rows(mariadb_engine, WAITING)), PATIENCE_SECONDS)
        finally:
            server.kill()
        assert not flushing.result(PATIENCE_SECONDS)
        other.invalidate()
    assert flusher.status.error is not None
    assert path.exists()
    server.start()
    mariadb_engine.dispose()
    assert rows(mariadb_engine, "SELECT * FROM recs_events") == []
    assert flusher.flush_all()
    assert flusher.status.error is None
    assert_each_is_there_once(mariadb_engine, records)


class NarrowProxy:
    """Between client and server: hangs up on a packet that is longer than ``most`` bytes."""

    def __init__(self, port: int, most: int) -> None:
        self.target = port
        self._most = most
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection((LOOPBACK, self.target)) as server, client.makefile("rb") as packets:
            answers = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while header := packets.read(4):
                    length = int.from_bytes(header[:3], "little")
                    if length > self._most:
                        self.cuts += 1
                        break
                    server.sendall(header + packets.read(length))
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)


class LossyProxy:
    """Between client and server: the first COMMIT after ``cut_next_commit`` is carried out and its answer is lost."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.cut_next_commit = False
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection((LOOPBACK, self._server_port))
        with client, server:
            threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if self.cut_next_commit and data[4:] == b"\x03COMMIT":
                    self.cut_next_commit = False
                    self.cuts += 1
                    with_own_eyes = socket.create_connection((LOOPBACK, self._server_port))  # the server still runs
                    with_own_eyes.close()
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(data)
                    server.shutdown(socket.SHUT_WR)  # the server reads the COMMIT, and then that nobody is there
                    return
                server.sendall(data)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass


def test_a_commit_whose_answer_is_lost_is_not_done_twice(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    proxy = LossyProxy(server.port)
    # The proxy has to read along.
    settings = settings_for(server.url(DATABASE).set(port=proxy.port), tmp_path, mysql_tls="off")
    through = make_writing_engine(settings)
    records: list[Event] = [feedback() for _ in range(50)]
    writer = EventWriter(through)
    writer.write(records[:1])
    proxy.cut_next_commit = True
    outcome = writer.write(records)
    assert (proxy.cuts, outcome.left, outcome.retries) == (1, [], 1)
    assert_each_is_there_once(mariadb_engine, records)
    through.dispose()
    proxy.close()


def test_two_flushers_at_once_write_each_event_once(mariadb_engine: Engine) -> None:
    records: list[Event] = [feedback() for _ in range(4_000)]
    writers = [EventWriter(mariadb_engine), EventWriter(mariadb_engine)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = [f.result() for f in [pool.submit(writer.write, records) for writer in writers]]
    assert [outcome.left for outcome in outcomes] == [[], []]
    assert sum(outcome.inserted.total() for outcome in outcomes) == 4_000
    assert_each_is_there_once(mariadb_engine, records)


@pytest.mark.parametrize("numbering", ["", "id = id, "])
def test_flushers_at_once_of_whose_events_half_are_there_lose_none(
    mariadb_engine: Engine, monkeypatch: pytest.MonkeyPatch, numbering: str
) -> None:
    """In batches that overlap, so that each finds rows that the other has just written.

    ``numbering``: what makes MariaDB then number rows as the other does.
    """
    monkeypatch.setattr(flush, "_KEEP", flush._KEEP.replace("UPDATE ", f"UPDATE {numbering}"))
    records: list[Event] = [feedback() for _ in range(8_000)]
    EventWriter(mariadb_engine).write(records[::2])

    def write(some: list[Event]) -> int:
        outcome = EventWriter(mariadb_engine).write(some)
        return outcome.inserted.total() + (write(outcome.left) if outcome.left else 0)

    orders = [records, random.Random(1).sample(records, len(records))]
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(write, orders)) == 4_000
    assert_each_is_there_once(mariadb_engine, records)


# A database that takes nothing for a while.


@contextmanager
def restricted_user(server: PrivateMariaDB, *grants: str) -> Iterator[URL]:
    """Without the privileges that let the tests' own user write to a server that is read-only."""
    server.execute(f"CREATE USER 'app'@'{LOOPBACK}' IDENTIFIED BY 'app'")
    try:
        for grant in grants:
            server.execute(f"GRANT {grant} TO 'app'@'{LOOPBACK}'")
        yield server.url(DATABASE).set(username="app", password="app")
    finally:
        server.execute(f"DROP USER 'app'@'{LOOPBACK}'")


def test_a_read_only_server_keeps_events_waiting_and_none_is_lost(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    records: list[Event] = [feedback(), feed()]
    write_segment(mariadb_settings.events_dir, records)
    with restricted_user(server, f"ALL ON {DATABASE}.*") as url:
        settings = settings_for(url, tmp_path)
        engine = make_writing_engine(settings)
        flusher = Flusher(settings, engine)
        server.execute("SET GLOBAL read_only = 1")
        try:
            assert not flusher.flush_all()
            assert "cannot be written to" in str(flusher.status.error)
            assert flusher.status.failures == 1
        finally:
            server.execute("SET GLOBAL read_only = 0")
        assert flusher.flush_all()
        engine.dispose()
    assert_each_is_there_once(mariadb_engine, records)


@pytest.mark.parametrize("work", ["flush", "retention", "forgetting"])
def test_after_a_failover_the_next_connection_goes_to_the_new_primary(
    mariadb_engine: Engine, server: PrivateMariaDB, mariadb: PrivateMariaDB, tmp_path: Path, work: str
) -> None:
    """The old one turns read-only and keeps its connections, which answer every ping."""
    proxy = NarrowProxy(server.port, 1 << 24)
    account = f"'app'@'{LOOPBACK}'"
    mariadb.execute(
        f"CREATE DATABASE {DATABASE}",
        f"CREATE USER {account} IDENTIFIED BY 'app'",
        f"GRANT ALL ON {DATABASE}.* TO {account}",
    )
    try:
        with (
            prepared(settings_for(mariadb.url(DATABASE), tmp_path)) as successor,
            restricted_user(server, f"ALL ON {DATABASE}.*") as url,
        ):
            settings = settings_for(url.set(port=proxy.port), tmp_path, mysql_tls="off")
            engine = make_writing_engine(settings)
            flusher = Flusher(settings, engine)
            moved, later = feedback(), feedback()
            for database in (mariadb_engine, successor):  # what was there is on both
                EventWriter(database).write([feedback(event_id="old", user_id=3, happened_ms=1_000_000_000_000)])
            write_segment(settings.events_dir, [moved])
            assert flusher.flush_all(), flusher.status.error
            server.execute("SET GLOBAL read_only = 1")
            proxy.target = mariadb.port
            try:
                if work == "flush":
                    write_segment(settings.events_dir, [later])
                    assert flusher.flush_all(), flusher.status.error
                    assert later.event_id in counted(successor)[0]
                    assert later.event_id not in counted(mariadb_engine)[0]
                else:
                    for _ in range(2):  # the first says so, at the latest
                        with contextlib.suppress(SourceError):
                            if work == "retention":
                                delete_events(engine, "happened_at < :before", before="2020-01-01")
                            else:
                                forget_user(engine, settings.events_dir, 3)
                    assert "old" not in counted(successor)[0]
                    assert "old" in counted(mariadb_engine)[0]
            finally:
                server.execute("SET GLOBAL read_only = 0")
                engine.dispose()
    finally:
        mariadb.execute(f"DROP DATABASE {DATABASE}", f"DROP USER {account}")
        proxy.close()


def test_a_missing_privilege_is_named_and_events_wait_until_it_is_given(
    mariadb_settings: Settings, server: PrivateMariaDB, tmp_path: Path
) -> None:
    owner = make_writing_engine(mariadb_settings)
    metadata.tables["activity_log"].create(owner)
    records: list[Event] = [feedback()]
    write_segment(mariadb_settings.events_dir, records)
    with restricted_user(server, f"SELECT ON {DATABASE}.*") as url:
        settings = settings_for(url, tmp_path)
        engine = make_writing_engine(settings)
        flusher = Flusher(settings, engine)
        assert not flusher.flush_all()
        assert "CREATE" in str(flusher.status.error)
        assert "recs migrate" in str(flusher.status.error)
        migrate(owner)
        assert not flusher.flush_all()
        assert "INSERT" in str(flusher.status.error)
        server.execute(
            f"GRANT INSERT, UPDATE, DELETE ON {DATABASE}.recs_events TO 'app'@'{LOOPBACK}'",
            f"GRANT INSERT ON {DATABASE}.activity_log TO 'app'@'{LOOPBACK}'",
        )
        engine.dispose()
        assert flusher.flush_all(), flusher.status.error
        engine.dispose()
    assert_each_is_there_once(owner, records)
    owner.dispose()


def test_a_server_that_is_away_is_not_taken_for_one_without_tables(tmp_path: Path) -> None:
    url = URL.create("mysql+pymysql", "app", "secret", LOOPBACK, free_port(), DATABASE)
    settings = settings_for(url, tmp_path)
    write_segment(settings.events_dir, [feedback()])
    engine = make_writing_engine(settings)
    flusher = Flusher(settings, engine)
    assert not flusher.flush_all()
    assert "Can't connect" in str(flusher.status.error)
    assert "recs migrate" not in str(flusher.status.error)
    engine.dispose()


# The process.


@contextmanager
def running_flusher(settings: Settings, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """As a worker starts it. Killed with -9 at the end, unless it has ended."""
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        **more,
    }
    with (
        (folder / "flusher.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", FLUSHER.module], env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_a_flusher_killed_again_and_again_writes_each_event_once(
    mariadb_settings: Settings, mariadb_engine: Engine, tmp_path: Path
) -> None:
    folder = mariadb_settings.events_dir
    folder.mkdir(parents=True)
    records: list[Event] = []
    stop = threading.Event()

    def write() -> None:
        """As a worker does, in small segments: as fast as batches of 20 every 10 ms are."""
        number = 0
        writer = SegmentWriter(folder / f"{number:020d}-1{SUFFIX}", 1 << 16)
        while not stop.wait(0.01):
            for record in [feedback(user_id=len(records) % 50) for _ in range(19)] + [feed()]:
                try:
                    writer.append(encode(record))
                except SegmentFull:
                    writer.close()
                    number += 1
                    writer = SegmentWriter(folder / f"{number:020d}-1{SUFFIX}", 1 << 16)
                    writer.append(encode(record))
                records.append(record)
        writer.close()

    def flushed() -> int:
        return int(rows(mariadb_engine, "SELECT COUNT(*) AS n FROM recs_events")[0]["n"])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            before = flushed()
            with running_flusher(mariadb_settings, tmp_path, FLUSH_THRESHOLD_ACTIVITIES="1"):
                assert wait_until(lambda before=before: flushed() > before, PATIENCE_SECONDS)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    (folder / "flusher.json").unlink(missing_ok=True)
    with running_flusher(mariadb_settings, tmp_path) as process:
        assert wait_until((folder / "flusher.json").exists, PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, "what waits is flushed at the end"
    assert_each_is_there_once(mariadb_engine, records)
    assert not list(folder.glob(f"*{SUFFIX}*"))


def test_a_flush_that_is_asked_for_is_waited_for(
    mariadb_settings: Settings, mariadb_engine: Engine, tmp_path: Path
) -> None:
    records: list[Event] = [feedback()]
    write_segment(mariadb_settings.events_dir, records)
    assert mariadb_settings.database_url is not None
    environment = {"DATABASE_URL": mariadb_settings.database_url.get_secret_value()}
    with open(mariadb_settings.events_dir / FLUSHER.lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the worker holds it that keeps the flusher
        with running_flusher(mariadb_settings, tmp_path):
            done = recs("events", "flush", "--json", folder=tmp_path, settings=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flushed"] == {"impression": 1}
    assert_each_is_there_once(mariadb_engine, records)
    # Where none runs, the command does it.
    records.append(feedback())
    write_segment(mariadb_settings.events_dir, records[1:])
    done = recs("events", "flush", folder=tmp_path, settings=environment)
    assert done.returncode == 0, done.stderr
    assert_each_is_there_once(mariadb_engine, records)


# Time, and forgetting.


def test_rows_that_are_too_old_are_deleted_and_the_operators_are_not(settings: Settings, engine: Engine) -> None:
    day_ms = 86_400_000
    records: list[Event] = [feedback(event_id="old", happened_ms=HAPPENED_MS - 401 * day_ms), feedback(event_id="new")]
    records[1] = feedback(event_id="new", happened_ms=HAPPENED_MS)
    now = HAPPENED_MS + day_ms
    write_segment(settings.events_dir, records)
    flusher = Flusher(settings, engine, now_ms=lambda: now)
    assert flusher.flush_all()
    flusher.step()
    assert counted(engine) == (Counter(["new"]), Counter(["old", "new"]))


def test_a_forgotten_user_is_gone_from_the_database_the_log_and_the_dead_letters(
    settings: Settings, engine: Engine
) -> None:
    mine: list[Event] = [feedback(user_id=1), feed(user_id=1)]
    others: list[Event] = [feedback(user_id=2), feedback(user_id=2)]
    folder = settings.events_dir
    write_segment(folder, [mine[0], others[0], feedback(user_id=1, item_type=9)])  # the last one cannot be a row
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    write_segment(folder, [mine[1], others[1]])
    assert forget_user(engine, folder, 1) == {"events": 1, "dead_letters": 1, "damaged_segments": 0}
    assert flusher.flush_all()
    assert counted(engine)[0] == Counter(map(event_id_of, others))
    assert flusher.status.forgotten == 1
    later = feedback(user_id=1, happened_ms=HAPPENED_MS + 10 * 365 * 86_400_000)
    write_segment(folder, [later])
    assert flusher.flush_all()
    assert counted(engine)[0] == Counter(map(event_id_of, [*others, later])), "who comes back is remembered again"


# The service.


def test_a_service_flushes_what_its_feeds_showed_and_replaces_a_flusher_that_was_killed(tmp_path: Path) -> None:
    database = load_demo(tmp_path)

    def flushers() -> set[int]:
        return {pid for pid in service.pids if FLUSHER.module in command_of(pid)}

    with Service.uvicorn(tmp_path, {}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(flushers()) == 1)
        (killed,) = flushers()
        os.kill(killed, signal.SIGKILL)
        service.wait_until(lambda: len(flushers() - {killed}) == 1)
        request_id = service.feed()["request_id"]
        done = recs("events", "flush", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        service.wait_until(lambda: service.metric("recs_events_flushed_total", event="feed") == 1)
        assert service.metric("recs_events_log_bytes") > 0
        assert service.metric("recs_flush_failures") == 0
        assert service.stop() in {0, -signal.SIGTERM}
        assert flushers() == set()
    engine = sqlalchemy.create_engine(f"sqlite:///{database}", poolclass=sqlalchemy.NullPool)
    found = rows(engine, 'SELECT properties FROM activity_log WHERE properties LIKE \'{"event":"feed"%\'')
    assert [json.loads(row["properties"])["request_id"] for row in found] == [request_id]


def test_the_file_for_administrators_runs_with_the_plain_client_and_again(
    mariadb_settings: Settings, server: PrivateMariaDB
) -> None:
    client = find_program("mariadb", "mariadb-client-core")
    address = ["--protocol=tcp", f"--host={LOOPBACK}", f"--port={server.port}", f"--user={server.user}", DATABASE]
    for _ in range(2):
        with (REPOSITORY / "migrations" / "recs_events.sql").open("rb") as script:
            subprocess.run([client, *address], env={"MYSQL_PWD": server.password}, stdin=script, check=True)
    owner = make_writing_engine(mariadb_settings)
    assert pending_migrations(owner) == ()
    owner.dispose()
