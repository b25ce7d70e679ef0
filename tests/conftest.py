"""Fixtures for every test: a clean environment, and databases that belong to the test that asks for them."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import xdist

import recommendation_service  # noqa: F401 - before NumPy: it says how many threads that takes
from tests.side_by_side import pytest_xdist_auto_num_workers, pytest_xdist_make_scheduler  # noqa: F401 - hooks
from tests.support import made_once

# The rest is imported where it is needed: who hands out tests to workers loads this file too, before they begin.
if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from tests.postgresql import PrivatePostgreSQL
    from tests.servers import PrivateMariaDB, PrivateRedis

# Beside the settings that there are: those that a runbook names and a later version may read.
SETTING_PREFIXES = ("mysql_", "redis_", "gunicorn_", "recs_")
# A test that forgets to close a transaction must fail when its database is dropped, not wait for a day.
LOCK_WAIT_TIMEOUT_SECONDS = 10


def pytest_configure() -> None:
    """What is imported and collected is all kept: looking through it meanwhile would take a fifth of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported and collected, a million objects, stays: each full collection would walk through it anew."""
    gc.freeze()
    # Tests make much and leave little: looking for garbage was a fifteenth of the time.
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the settings of the person or machine that runs it.

    The working directory is an empty one, since a `.env` file is looked for there; a test that starts
    a program from the repository passes `cwd`.
    """
    from recommendation_service.core.config import Settings

    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower() in Settings.model_fields or name.lower().startswith(SETTING_PREFIXES):
                patch.delenv(name)
        # Containers set it. Each of hundreds of processes would compile all modules anew, a tenth of its start.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.chdir(tmp_path_factory.mktemp("working-directory"))
        yield


@pytest.fixture(scope="session", autouse=True)
def tables_need_not_outlive_a_power_failure() -> Iterator[None]:
    """SQLite waits for the disk at each commit; nothing that a test does in this process asks for that."""
    from sqlalchemy import Engine, event

    def hurry(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(scope="session", autouse=True)
def made_once_for_all_workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Servers' system tables and the demo are made by the first worker that needs them, and copied by all."""
    folder = tmp_path_factory.getbasetemp()
    if xdist.is_xdist_worker(request) or request.config.getoption("forked", False):
        folder = folder.parent  # each worker has one of its own in the run's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_once, "folder", folder / "made-once")
        (folder / "made-once").mkdir(exist_ok=True)
        yield


@pytest.fixture(scope="session", autouse=True)
def loggers_are_not_kept() -> Iterator[None]:
    """A program keeps its loggers from the first line on; kept here, they would tell the tests of logs nothing."""
    import structlog

    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **options: configure(**options | {"cache_logger_on_first_use": False})
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_are_put_together_once() -> Iterator[None]:
    """A program does it once, too; Typer's runner, for each command of a test."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="module", autouse=True)
def logs_as_before_the_file() -> Iterator[None]:
    """The same as below, of commands that the fixtures of a whole file run."""
    with _logs_as_they_were():
        yield


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that runs a command in this process leaves no logger that writes to its closed output."""
    with _logs_as_they_were():
        yield


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """One MariaDB server for the whole run. A test that stops or kills one starts its own."""
    from tests.servers import PrivateMariaDB

    folder = tmp_path_factory.mktemp("mariadb")
    with PrivateMariaDB(folder) as server:
        yield server
    shutil.rmtree(folder)  # pytest keeps the temporary folders of three runs, and this one is large


@pytest.fixture
def mariadb_url(mariadb: PrivateMariaDB) -> Iterator[URL]:
    """The address of an empty MariaDB database for one test, dropped after it."""
    with _new_database(mariadb) as url:
        yield url


@pytest.fixture(scope="module")
def module_mariadb_url(mariadb: PrivateMariaDB) -> Iterator[URL]:
    """The address of an empty MariaDB database that the tests of one file share, dropped after them."""
    with _new_database(mariadb) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePostgreSQL]:
    """One PostgreSQL server for the whole run, started by the first test that asks for it."""
    from tests.postgresql import PrivatePostgreSQL

    server = PrivatePostgreSQL(tmp_path_factory.mktemp("postgresql"))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgresql_url(postgresql: PrivatePostgreSQL) -> Iterator[URL]:
    """The address of an empty PostgreSQL database for one test, dropped after it, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    postgresql.execute(f"CREATE DATABASE {name}")
    try:
        yield postgresql.url(name)
    finally:
        postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A Redis server that the tests of one file share."""
    from tests.servers import PrivateRedis

    folder = tmp_path_factory.mktemp("redis")
    with PrivateRedis(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def redis(module_redis: PrivateRedis) -> Iterator[PrivateRedis]:
    """The file's Redis server, there and empty, whatever the test before did to it."""
    module_redis.resume()
    module_redis.start()
    assert module_redis.execute("FLUSHALL") == "+OK"
    assert module_redis.execute("SCRIPT", "FLUSH") == "+OK"
    yield module_redis
    module_redis.resume()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> URL:
    """The address of an SQLite file that does not exist yet."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(tmp_path / "interacpedia.sqlite"))


@pytest.fixture
def flushed_sqlite(sqlite_url: URL, tmp_path: Path) -> Iterator[Engine]:
    """An SQLite file that events are flushed into: the service's tables and the operator's activity_log, all empty."""
    from tests.support.flushed import prepared, settings_for

    (tmp_path / "interacpedia.sqlite").touch()
    with prepared(settings_for(sqlite_url, tmp_path)) as engine:
        yield engine


@contextmanager
def _logs_as_they_were() -> Iterator[None]:
    import structlog

    configured = structlog.get_config()
    yield
    structlog.configure(**configured)


@contextmanager
def _new_database(server: PrivateMariaDB) -> Iterator[URL]:
    name = f"test_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name}")
    try:
        yield server.url(name)
    finally:
        server.execute(
            f"SET SESSION lock_wait_timeout = {LOCK_WAIT_TIMEOUT_SECONDS}",
            f"DROP DATABASE {name}",
        )
