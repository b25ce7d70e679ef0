"""Connections to a real MariaDB: their limits, what the pool counts, and what it outlives."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing

import pytest
import sqlalchemy
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import URL, Engine

from recommendation_service.core import database
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.database_errors import LEAVING
from recommendation_service.telemetry.database_metrics import WorkerNumbers
from tests.servers import LOOPBACK, PrivateMariaDB, wait_until

PATIENCE_SECONDS = 60.0


def settings_for(url: URL, **more: object) -> Settings:
    return load_settings(database_url=url.render_as_string(hide_password=False), **more)


@pytest.fixture
def numbers() -> WorkerNumbers:
    return WorkerNumbers(CollectorRegistry(), None)


@pytest.fixture
def engine(mariadb_url: URL, numbers: WorkerNumbers) -> Iterator[Engine]:
    """A pool of two connections."""
    settings = settings_for(mariadb_url, mysql_pool_size=2, mysql_connect_timeout_seconds=1)
    engine = make_engine(settings, numbers=numbers)
    yield engine
    engine.dispose()


def number(numbers: WorkerNumbers, name: str) -> float:
    """Of a gauge or counter without further labels."""
    families = [*numbers.collect(), *(f for counter in numbers._counters.values() for f in counter.collect())]
    (value,) = [sample.value for family in families for sample in family.samples if sample.name == name]
    return value


@pytest.mark.parametrize("pooling", [True, False])
def test_a_server_that_takes_connections_and_says_nothing_is_given_up_after_the_connect_timeout(pooling: bool) -> None:
    with closing(socket.create_server((LOOPBACK, 0))) as silent:
        url = URL.create("mysql+pymysql", "recs", "secret", LOOPBACK, silent.getsockname()[1], "interacpedia")
        engine = make_engine(settings_for(url, mysql_connect_timeout_seconds=1, mysql_use_pooling=pooling))
        started = time.monotonic()
        with pytest.raises(sqlalchemy.exc.OperationalError, match="timed out"):
            engine.connect()

        # Not the 60 s that a result may take.
        assert 1 <= time.monotonic() - started < 30
        engine.dispose()


def test_a_result_may_take_longer_than_connecting_but_not_longer_than_the_read_timeout(mariadb_url: URL) -> None:
    settings = settings_for(mariadb_url, mysql_connect_timeout_seconds=1, mysql_read_timeout_seconds=2)
    engine = make_engine(settings)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT SLEEP(1.3)")).scalar_one() == 0
        with pytest.raises(sqlalchemy.exc.OperationalError, match="timed out"):
            connection.execute(sqlalchemy.text("SELECT SLEEP(60)"))
    engine.dispose()


def test_the_pool_counts_its_size_what_is_in_use_and_who_waited(engine: Engine, numbers: WorkerNumbers) -> None:
    assert number(numbers, "recs_database_pool_size") == 2
    with ThreadPoolExecutor(1) as thread, engine.connect(), engine.connect():
        assert number(numbers, "recs_database_pool_in_use") == 2
        waiting = thread.submit(lambda: engine.connect().close())
        # The third waits: it gets nothing while both are out.
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        assert number(numbers, "recs_database_pool_waits_total") == 0  # counted once its end is known
    waiting.result(PATIENCE_SECONDS)

    assert number(numbers, "recs_database_pool_in_use") == 0
    assert number(numbers, "recs_database_pool_waits_total") == 1
    assert number(numbers, "recs_database_pool_wait_seconds_total") >= 0.2
    assert number(numbers, "recs_database_pool_timeouts_total") == 0


def test_who_waits_in_vain_is_told_so_after_the_checkout_timeout_and_counted(
    engine: Engine, numbers: WorkerNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.pool.timeout() == database.CHECKOUT_TIMEOUT_SECONDS  # type: ignore[attr-defined]
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    with engine.connect(), engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError, match="limit of size 2"):
        engine.connect()

    assert number(numbers, "recs_database_pool_timeouts_total") == 1
    assert number(numbers, "recs_database_pool_waits_total") == 1
    assert number(numbers, "recs_database_pool_in_use") == 0


def test_without_pooling_each_use_has_a_connection_of_its_own_and_no_more_are_open_than_with_it(
    mariadb_url: URL,
) -> None:
    engine = make_engine(settings_for(mariadb_url, mysql_use_pooling=False, mysql_pool_size=2))
    own = sqlalchemy.text("SELECT CONNECTION_ID()")

    def use() -> int:
        with engine.connect() as connection:
            return int(connection.execute(own).scalar_one())

    with engine.connect() as first, engine.connect() as second, ThreadPoolExecutor(1) as thread:
        used = {first.execute(own).scalar_one(), second.execute(own).scalar_one()}
        third = thread.submit(use)
        with pytest.raises(FutureTimeout):
            third.result(0.3)
        second.close()
        used.add(third.result(PATIENCE_SECONDS))
    assert len(used) == 3

    other = make_engine(settings_for(mariadb_url))
    open_ids = sqlalchemy.text("SELECT id FROM information_schema.processlist")
    with other.connect() as connection:
        assert wait_until(lambda: not used & set(connection.execute(open_ids).scalars()), PATIENCE_SECONDS)
    other.dispose()
    engine.dispose()


def test_a_connection_says_no_more_than_it_must_before_its_first_use(mariadb_url: URL) -> None:
    engine = make_engine(settings_for(mariadb_url, mysql_use_pooling=False))
    with engine.connect():
        pass  # at its first connection SQLAlchemy asks what server it is
    with engine.connect() as connection:
        questions = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").one()[1]
        said = tuple(connection.exec_driver_sql("SELECT @@autocommit, @@character_set_client, @@sql_mode").one())
    assert said == (0, "utf8mb4", "")
    assert int(questions) <= 2  # its session with the character set, and this question
    engine.dispose()


@pytest.mark.parametrize("number", sorted(code for code in LEAVING if isinstance(code, int)))
def test_a_server_that_says_that_it_is_not_the_primary_any_more_is_left_at_once(engine: Engine, number: int) -> None:
    own = sqlalchemy.text("SELECT CONNECTION_ID()")
    with engine.connect() as connection:
        first = connection.execute(own).scalar_one()
        with pytest.raises(sqlalchemy.exc.DBAPIError) as refusal:
            connection.exec_driver_sql(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'left'")
    assert refusal.value.orig is not None
    assert refusal.value.orig.args[0] == number
    with engine.connect() as connection:
        assert connection.execute(own).scalar_one() != first


def test_connections_that_the_server_closed_are_replaced_before_they_are_used(
    mariadb: PrivateMariaDB, engine: Engine, numbers: WorkerNumbers
) -> None:
    with engine.connect() as connection:
        first = connection.execute(sqlalchemy.text("SELECT CONNECTION_ID()")).scalar_one()
        connection.execute(sqlalchemy.text("SET SESSION wait_timeout = 1"))
    gone = f"SELECT COUNT(*) FROM information_schema.processlist WHERE id = {first}"
    with closing(mariadb._connect(30)) as watcher, watcher.cursor() as cursor:

        def is_gone() -> bool:
            cursor.execute(gone)
            return bool(cursor.fetchone() == (0,))

        assert wait_until(is_gone, PATIENCE_SECONDS)

    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT CONNECTION_ID()")).scalar_one() != first
    assert number(numbers, "recs_database_pool_in_use") == 0


def test_a_connection_that_is_trusted_for_a_while_is_asked_after_it(
    mariadb: PrivateMariaDB, mariadb_url: URL, numbers: WorkerNumbers
) -> None:
    own = sqlalchemy.text("SELECT CONNECTION_ID()")

    def killed(trusted_seconds: float) -> sqlalchemy.Engine:
        engine = make_engine(settings_for(mariadb_url), numbers=numbers, trusted_seconds=trusted_seconds)
        with engine.connect() as connection:
            first = connection.execute(own).scalar_one()
        mariadb.execute(f"KILL {first}")
        time.sleep(0.01)
        return engine

    trusting = killed(3600)
    with trusting.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError):
        connection.execute(own)
    with trusting.connect() as connection:
        assert connection.execute(own).scalar_one(), "the next use has another connection"
    asking = killed(0.001)
    with asking.connect() as connection:
        assert connection.execute(own).scalar_one()
    assert number(numbers, "recs_database_pool_in_use") == 0
    trusting.dispose()
    asking.dispose()


def test_a_connection_that_could_not_be_opened_again_is_not_counted_as_in_use(
    mariadb: PrivateMariaDB, mariadb_url: URL, numbers: WorkerNumbers
) -> None:
    account = f"'short-lived'@'{LOOPBACK}'"
    mariadb.execute(f"CREATE USER {account} IDENTIFIED BY 'secret'", f"GRANT SELECT ON *.* TO {account}")
    url = mariadb_url.set(username="short-lived", password="secret")
    engine = make_engine(settings_for(url), numbers=numbers)
    with engine.connect() as connection:
        first = connection.execute(sqlalchemy.text("SELECT CONNECTION_ID()")).scalar_one()
    mariadb.execute(f"DROP USER {account}", f"KILL {first}")

    with pytest.raises(sqlalchemy.exc.OperationalError, match="Access denied"):
        engine.connect()

    assert number(numbers, "recs_database_pool_in_use") == 0
    engine.dispose()


@pytest.mark.parametrize("pooling", [True, False])
def test_the_session_speaks_utc_and_its_end_is_logged_on_the_debug_level(
    mariadb_url: URL, pooling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(database.log, "debug", said.append)
    engine = make_engine(settings_for(mariadb_url, mysql_use_pooling=pooling))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT @@session.time_zone")).scalar_one() == "+00:00"
    engine.dispose()

    assert said == (["Conexion devuelta al pool"] if pooling else [])
