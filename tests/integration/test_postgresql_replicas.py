"""Reads through a real standby of PostgreSQL: level, behind, cut off, in conflict, promoted, and gone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import begin_reading, make_engine
from recommendation_service.core.replicas import ReadReplicas, lag_seconds
from recommendation_service.telemetry.database_metrics import WorkerNumbers
from tests.postgresql import PrivatePostgreSQL, PrivateStandby
from tests.servers import wait_until

DATABASE = "shop"
PATIENCE_SECONDS = 60.0
MAX_LAG_SECONDS = 2


@dataclass
class Servers:
    primary: PrivatePostgreSQL
    standby: PrivateStandby

    def settings(self, **more: object) -> Settings:
        primary, standby = (
            server.url(DATABASE).render_as_string(hide_password=False) for server in (self.primary, self.standby)
        )
        return load_settings(
            database_url=primary,
            mysql_replica_urls=standby,
            mysql_max_replica_lag_seconds=MAX_LAG_SECONDS,
            mysql_connect_timeout_seconds=2,
            **more,
        )

    def write(self) -> None:
        self.primary.execute("INSERT INTO written DEFAULT VALUES", database=DATABASE)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("postgresql-replicas")
    primary = PrivatePostgreSQL(folder / "primary")
    standby = PrivateStandby(folder / "standby", primary)
    try:
        primary.start()
        primary.execute(f"CREATE DATABASE {DATABASE}")
        primary.execute("CREATE TABLE written (number integer GENERATED ALWAYS AS IDENTITY)", database=DATABASE)
        primary.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        primary.execute("GRANT SELECT ON written TO reader", database=DATABASE)
        standby.start()
        yield Servers(primary, standby)
    finally:
        standby.remove()
        primary.remove()


@pytest.fixture
def numbers() -> WorkerNumbers:
    return WorkerNumbers(CollectorRegistry(), None)


@pytest.fixture
def reads(servers: Servers, numbers: WorkerNumbers) -> Iterator[ReadReplicas]:
    reads = ReadReplicas(servers.settings(), numbers=numbers)
    yield reads
    reads.dispose()


def is_on_standby(reads: ReadReplicas) -> bool:
    with reads.connect() as connection:
        return bool(connection.scalar(text("SELECT pg_is_in_recovery()")))


def test_reads_go_to_the_standby_and_see_what_the_primary_wrote(servers: Servers, reads: ReadReplicas) -> None:
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    servers.write()

    def count() -> int:
        with reads.connect() as connection:
            begin_reading(connection)
            return int(connection.scalar(text("SELECT count(*) FROM written")) or 0)

    assert wait_until(lambda: count() >= 1, PATIENCE_SECONDS)


def test_an_idle_primary_makes_no_lag_for_a_user_of_no_privilege(servers: Servers) -> None:
    """What was last taken in grows old, and nothing is missing."""
    settings = servers.settings()
    engine = make_engine(settings, url=servers.standby.url(DATABASE).set(username="reader", password="reader"))
    assert wait_until(lambda: lag_seconds(engine) == 0.0, PATIENCE_SECONDS)
    with engine.connect() as connection:
        age = connection.scalar(text("SELECT EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp())"))
        assert age is not None
        assert age > 0
    engine.dispose()


def test_a_standby_that_is_behind_is_not_read_from_until_it_has_caught_up(
    servers: Servers, reads: ReadReplicas
) -> None:
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    servers.standby.execute("SELECT pg_wal_replay_pause()")
    try:
        servers.write()
        assert wait_until(lambda: not is_on_standby(reads), PATIENCE_SECONDS)
    finally:
        servers.standby.execute("SELECT pg_wal_replay_resume()")
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)


def test_a_standby_that_receives_nothing_is_not_thought_level(servers: Servers, reads: ReadReplicas) -> None:
    """Received and taken in agree then, however much the primary has written since."""
    engine = reads.replicas[0].engine
    servers.write()
    assert wait_until(lambda: lag_seconds(engine) == 0.0, PATIENCE_SECONDS)
    [(conninfo,)] = servers.standby.rows("SELECT quote_literal(current_setting('primary_conninfo'))")
    servers.standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
    try:
        assert wait_until(lambda: (lag_seconds(engine) or 0.0) > 0.0, PATIENCE_SECONDS)
        assert wait_until(lambda: not is_on_standby(reads), PATIENCE_SECONDS)
    finally:
        servers.standby.execute(f"ALTER SYSTEM SET primary_conninfo = {conninfo}", "SELECT pg_reload_conf()")
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)


def test_a_read_that_the_standby_ends_for_its_primarys_sake_goes_elsewhere_the_next_time(
    servers: Servers, reads: ReadReplicas
) -> None:
    """A table that is dropped on the primary, say, while a read of the standby has it."""
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    servers.standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = '100ms'", "SELECT pg_reload_conf()")
    servers.primary.execute("CREATE TABLE doomed AS SELECT 1 AS x", database=DATABASE)
    try:
        there = "SELECT to_regclass('doomed') IS NOT NULL"
        assert wait_until(lambda: servers.standby.rows(there, DATABASE) == [(True,)], PATIENCE_SECONDS)
        with reads.connect() as connection:
            begin_reading(connection)
            connection.execute(text("SELECT count(*) FROM doomed"))
            servers.primary.execute("DROP TABLE doomed", database=DATABASE)
            with pytest.raises(DBAPIError) as raised:
                connection.execute(text("SELECT pg_sleep(30)"))
        assert "40001" in str(getattr(raised.value.orig, "sqlstate", None))
        assert not is_on_standby(reads), "it is left out for a moment"
        assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    finally:
        servers.standby.execute("ALTER SYSTEM RESET max_standby_streaming_delay", "SELECT pg_reload_conf()")


def test_reads_go_to_the_primary_while_the_standby_hangs_or_is_gone(servers: Servers, reads: ReadReplicas) -> None:
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    servers.standby.pause()
    try:
        assert wait_until(lambda: not is_on_standby(reads), PATIENCE_SECONDS)
        with ThreadPoolExecutor(4) as pool:
            assert not any(pool.map(is_on_standby, [reads] * 8))
    finally:
        servers.standby.resume()
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)
    servers.standby.stop()
    try:
        assert not is_on_standby(reads)
    finally:
        servers.standby.start()
    assert wait_until(lambda: is_on_standby(reads), PATIENCE_SECONDS)


def test_a_standby_that_was_promoted_is_none_any_more(servers: Servers, tmp_path: Path) -> None:
    """Last, as there is no way back. What it has is another history then."""
    servers.standby.promote()
    reads = ReadReplicas(servers.settings())
    with reads.connect() as connection:
        assert connection.engine.url.port == servers.primary.port
    reads.dispose()
