"""What the service's connections cost the operator's server, and what it survives of that server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pymysql
import pytest
import sqlalchemy

from recommendation_service.demo import load_invented
from tests.end_to_end.service import Service
from tests.servers import LOOPBACK, NO_AUTHORITIES, PrivateMariaDB

DATABASE = "interacpedia"
WORKERS = 8
# The deployment guide's figure for the whole service under load.
FEWER_CONNECTIONS_THAN = 30


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """Not the server of the whole run: its limits are changed here, and its connections are counted."""
    folder = tmp_path_factory.mktemp("pooling-mariadb")
    with PrivateMariaDB(folder) as server:
        engine = sqlalchemy.create_engine(server.url(DATABASE), poolclass=sqlalchemy.NullPool)
        load_invented(engine, scale=0.02)
        engine.dispose()
        yield server
    shutil.rmtree(folder)


def settings_for(database: PrivateMariaDB, **more: str) -> dict[str, str]:
    return {
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": database.user,
        "MYSQL_PASSWORD": database.password,
        "MYSQL_DB": DATABASE,
        "CATALOG_REFRESH_SECONDS": "1",
        "SHED_LOAD_AFTER_SECONDS": "60",  # what is tested is the database's part in an answer, not a busy machine's
        **more,
    }


class Counter:
    """Counts on one connection of its own, which it leaves out."""

    def __init__(self, database: PrivateMariaDB) -> None:
        self._engine = sqlalchemy.create_engine(database.url(DATABASE), poolclass=sqlalchemy.StaticPool)

    def others(self) -> list[int]:
        """Ids of the service's connections at this moment."""
        with self._engine.connect() as connection:
            statement = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = :user"
            found = connection.execute(sqlalchemy.text(statement), {"user": self._engine.url.username})
            return [int(number) for number in found.scalars()]

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def counter(database: PrivateMariaDB) -> Iterator[Counter]:
    counter = Counter(database)
    yield counter
    counter.close()


@pytest.mark.parametrize("pooling", ["true", "false"])
def test_eight_workers_under_load_keep_within_the_budget_of_the_service(
    database: PrivateMariaDB, counter: Counter, tmp_path: Path, pooling: str
) -> None:
    settings = settings_for(database, MYSQL_USE_POOLING=pooling, MYSQL_POOL_SIZE="20")
    with Service.gunicorn(tmp_path, WORKERS, settings) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == WORKERS)

        def ask(user: int) -> str:
            answer = httpx.post(
                f"{service.address}/api/search/total", json={"SELF_ID": user}, timeout=60, verify=NO_AUTHORITIES
            )
            return "" if answer.status_code == 200 else answer.text

        most = 0
        with ThreadPoolExecutor(16) as clients:
            answers = [clients.submit(ask, user) for user in range(400)]
            reloads = [clients.submit(service.reload) for _ in range(2)]
            while not all(answer.done() for answer in answers) or not all(reload.done() for reload in reloads):
                most = max(most, len(counter.others()))
        assert {answer.result() for answer in answers} == {""}
        assert {reload.result().status_code for reload in reloads} == {200}
        assert most < FEWER_CONNECTIONS_THAN
        assert service.metric("recs_database_pool_size", process="worker") == 1
        assert (
            f"Connection pool inicializado: 20 conexiones a {LOOPBACK}:{database.port}/{DATABASE}" in service.log
            or (pooling == "false")
        )


def test_killed_connections_cost_no_client_an_error_and_no_build(
    database: PrivateMariaDB, counter: Counter, tmp_path: Path
) -> None:
    with Service.uvicorn(tmp_path, settings_for(database)) as service:
        service.wait_until_ready()
        for _ in range(5):
            for number in counter.others():
                try:
                    database.execute(f"KILL CONNECTION {number}")
                except pymysql.err.OperationalError as error:
                    if "Unknown thread id" not in str(error):  # else it had just ended by itself
                        raise
            assert service.reload().status_code == 200
            assert len(service.feed()["items"]) == 24


def test_a_server_without_a_free_connection_is_named_and_waited_for(database: PrivateMariaDB, tmp_path: Path) -> None:
    with Service.uvicorn(tmp_path, settings_for(database, MYSQL_USE_POOLING="false")) as service:
        service.wait_until_ready()
        with database_without_connections(database):
            refused = service.reload()
            assert refused.status_code == 503
            assert "Too many connections" in refused.json()["error"]["message"]
            assert len(service.feed()["items"]) == 24
        service.wait_until(lambda: service.reload().status_code == 200)


class database_without_connections:  # noqa: N801 - reads as what it makes
    """Takes every connection that the server gives, until the end of the block."""

    def __init__(self, database: PrivateMariaDB) -> None:
        self._database = database
        self._engine = sqlalchemy.create_engine(database.url(DATABASE), poolclass=sqlalchemy.NullPool)
        self._held: list[sqlalchemy.Connection] = []

    def __enter__(self) -> None:
        self._database.execute("SET GLOBAL max_connections = 10")
        full_since = time.monotonic()
        while time.monotonic() - full_since < 1.5:  # a build that holds a connection gives it back meanwhile
            try:
                self._held.append(self._engine.connect())
            except sqlalchemy.exc.OperationalError:
                continue
            full_since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._held[-1].execute(sqlalchemy.text("SET GLOBAL max_connections = 100"))
        for connection in self._held:
            connection.close()
