"""`recs_events` as earlier releases made it is brought up to date, from every form, wherever that was interrupted."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import structlog
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import (
    MIGRATIONS,
    NAME_CHARACTERS,
    TEXT_ID_CHARACTERS,
    migrate,
    pending_migrations,
    statements,
)
from recommendation_service.flush.rows import Event
from recommendation_service.flush.tables import make_writing_engine
from tests.end_to_end.service import REPOSITORY
from tests.servers import LOOPBACK, PrivateMariaDB, find_program
from tests.support.events import feedback, write_segment
from tests.support.flushed import (
    DATABASE,
    counted,
    prepared,
    restricted_user,
    rows,
    settings_for,
)
from tests.support.old_tables import FORMS, Form, add_rows, make_table_of


def are_kept(engine: Engine) -> bool:
    """Whether the rows of an older table are there as they were, and the table is as today's."""
    found = rows(engine, "SELECT * FROM recs_events WHERE flush_id = 1 ORDER BY event_id")
    names = [(row["event_id"], row["event"], row["user_id"], row["item_type"], row["item_id"]) for row in found]
    more = [(row["slot_kind"], row["endpoint"], row["slots"], row["user_text"], row["item_text"]) for row in found]
    return names == [("feed-1", "feed", 1, None, None), ("tap-1", "view", 1, "challenge", 42)] and more == [
        (None, "discover", b"\1\2", None, None), ("FLOW", None, None, None, None),
    ]  # fmt: skip


def are_said_to_be_made(lines: Sequence[Mapping[str, Any]]) -> list[Any]:
    """By the log, the migrations of each time that tables were made."""
    return [line["migrations"] for line in lines if line["event"] == "tables were made or brought up to date"]


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
    with structlog.testing.capture_logs() as lines:
        assert flusher.flush_all(), flusher.status.error
    assert len(are_said_to_be_made(lines)) == 1
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
        with structlog.testing.capture_logs() as lines:
            assert not flusher.flush_all()
        assert are_said_to_be_made(lines) == []
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
