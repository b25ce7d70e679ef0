"""Each event once, and none lost, while the database is killed, read-only, failed over and short of privileges."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.demo.schema import metadata
from recommendation_service.flush import event_writer as flush
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.migrations import (
    migrate,
)
from recommendation_service.flush.rows import Event
from recommendation_service.flush.tables import delete_events, make_writing_engine
from tests.servers import LOOPBACK, PrivateMariaDB, free_port, wait_until
from tests.support.database_proxies import LossyProxy, NarrowProxy
from tests.support.events import feed, feedback, write_segment
from tests.support.flushed import (
    DATABASE,
    PATIENCE_SECONDS,
    assert_each_is_there_once,
    counted,
    prepared,
    restricted_user,
    rows,
    settings_for,
)

# Connections that have inserted into recs_events and wait to copy.
WAITING = "SELECT id FROM information_schema.processlist WHERE info LIKE 'INSERT INTO activity_log%'"


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
