"""Reads through real replicas: one behind, one stopped, one killed, one that may not be asked, and none at all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import sqlalchemy
from prometheus_client import CollectorRegistry

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.replicas import ReadReplicas
from recommendation_service.telemetry.database_metrics import WorkerNumbers
from tests.servers import PRIMARY, REPLICA, PrivateMariaDB, wait_until

DATABASE = "interacpedia"
PATIENCE_SECONDS = 60.0
MAX_LAG_SECONDS = 2


@dataclass
class Servers:
    primary: PrivateMariaDB
    first: PrivateMariaDB
    second: PrivateMariaDB

    @property
    def replicas(self) -> tuple[PrivateMariaDB, PrivateMariaDB]:
        return self.first, self.second

    def settings(self, *urls: str, **more: object) -> Settings:
        replicas = urls or [replica.url().render_as_string(hide_password=False) for replica in self.replicas]
        return load_settings(
            database_url=self.primary.url(DATABASE).render_as_string(hide_password=False),
            mysql_replica_urls=",".join(replicas),
            mysql_max_replica_lag_seconds=MAX_LAG_SECONDS,
            mysql_connect_timeout_seconds=2,
            **more,
        )


@pytest.fixture(scope="module")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("replicas")
    with (
        PrivateMariaDB(folder / "primary", options=PRIMARY) as primary,
        PrivateMariaDB(folder / "first", options=[*REPLICA, "--server-id=2"]) as first,
        PrivateMariaDB(folder / "second", options=[*REPLICA, "--server-id=3"]) as second,
    ):
        primary.execute(f"CREATE DATABASE {DATABASE}", f"CREATE TABLE {DATABASE}.written (number INT PRIMARY KEY)")
        for replica in (first, second):
            replica.follow(primary)
        yield Servers(primary, first, second)
    shutil.rmtree(folder)


@pytest.fixture
def servers(all_servers: Servers) -> Servers:
    """All of them up and following, and the table empty everywhere."""
    all_servers.primary.execute(f"DELETE FROM {DATABASE}.written")
    for replica in all_servers.replicas:
        replica.start()
        replica.execute("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")
    assert wait_until(lambda: [rows_on(replica) for replica in all_servers.replicas] == [0, 0], PATIENCE_SECONDS)
    return all_servers


@pytest.fixture
def numbers() -> WorkerNumbers:
    return WorkerNumbers(CollectorRegistry(), None)


def rows_on(server: PrivateMariaDB) -> int:
    engine = sqlalchemy.create_engine(server.url(DATABASE), poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.execute(sqlalchemy.text("SELECT COUNT(*) FROM written")).scalar_one())
    except sqlalchemy.exc.SQLAlchemyError:
        return -1


def gauge(numbers: WorkerNumbers, name: str, server: PrivateMariaDB) -> float:
    """Of a replica."""
    (value,) = [
        sample.value
        for family in numbers.collect()
        for sample in family.samples
        if sample.name == name and sample.labels["replica"].endswith(f":{server.port}")
    ]
    return value


def port_read(reads: ReadReplicas) -> int:
    """Of the server that answers a read."""
    with reads.connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT @@port")).scalar_one())


def comes_to(reads: ReadReplicas, *servers: PrivateMariaDB) -> bool:
    """Whether, within a while, reads go to all of these and to no other; a read that fails is a failure."""
    wanted = {server.port for server in servers}
    return wait_until(lambda: {port_read(reads) for _ in range(4)} == wanted, PATIENCE_SECONDS)


def test_reads_are_spread_evenly_over_the_replicas_from_the_first_one_on(
    servers: Servers, numbers: WorkerNumbers
) -> None:
    reads = ReadReplicas(servers.settings(), numbers=numbers)
    assert reads.primary.pool.checkedin() == 0  # type: ignore[attr-defined]

    ports = Counter(port_read(reads) for _ in range(20))

    assert set(ports) == {servers.first.port, servers.second.port}
    assert min(ports.values()) >= 8
    assert reads.primary.pool.checkedin() == 0  # type: ignore[attr-defined]
    assert [gauge(numbers, "recs_replica_usable", replica) for replica in servers.replicas] == [1, 1]
    reads.dispose()


def test_a_reader_that_stays_reads_from_one_server(servers: Servers) -> None:
    reads = ReadReplicas(servers.settings(), stays=True)

    (port,) = {port_read(reads) for _ in range(10)}

    assert port != servers.primary.port
    reads.dispose()


def test_writes_go_to_the_primary(servers: Servers) -> None:
    reads = ReadReplicas(servers.settings())
    with reads.primary.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO written VALUES (1)"))

    assert rows_on(servers.primary) == 1
    assert wait_until(lambda: [rows_on(replica) for replica in servers.replicas] == [1, 1], PATIENCE_SECONDS)
    reads.dispose()


def test_a_replica_that_is_killed_is_left_out_at_once_and_used_again_when_it_is_back(
    servers: Servers, numbers: WorkerNumbers
) -> None:
    reads = ReadReplicas(servers.settings(), numbers=numbers)
    assert comes_to(reads, *servers.replicas)

    servers.first.kill()

    # Not one read fails: each connection that the pool holds is tried before it is given out.
    assert {port_read(reads) for _ in range(20)} == {servers.second.port}
    assert gauge(numbers, "recs_replica_usable", servers.first) == 0

    servers.second.kill()

    assert {port_read(reads) for _ in range(20)} == {servers.primary.port}

    servers.first.start()
    servers.second.start()

    assert comes_to(reads, *servers.replicas)
    reads.dispose()


def test_a_replica_that_fails_under_a_query_is_left_out_at_once(servers: Servers) -> None:
    reads = ReadReplicas(servers.settings(), stays=True)
    port = port_read(reads)
    used, other = servers.replicas if servers.first.port == port else reversed(servers.replicas)
    with reads.connect() as connection:
        number = connection.execute(sqlalchemy.text("SELECT CONNECTION_ID()")).scalar_one()
        with ThreadPoolExecutor(1) as thread:
            failing = thread.submit(connection.execute, sqlalchemy.text("SELECT SLEEP(60)"))
            sleeping = f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND info LIKE '%SLEEP%'"
            assert wait_until(lambda: bool(ask(used, sleeping)), PATIENCE_SECONDS)
            used.kill()
            with pytest.raises(sqlalchemy.exc.OperationalError):
                failing.result()

    assert port_read(reads) == other.port
    reads.dispose()


def test_a_replica_whose_replication_is_stopped_is_not_read_from(servers: Servers, numbers: WorkerNumbers) -> None:
    reads = ReadReplicas(servers.settings(), numbers=numbers)
    assert comes_to(reads, *servers.replicas)

    servers.first.execute("STOP SLAVE")

    assert comes_to(reads, servers.second)
    assert gauge(numbers, "recs_replica_usable", servers.first) == 0
    assert gauge(numbers, "recs_replica_lag_seconds", servers.first) != gauge(
        numbers, "recs_replica_lag_seconds", servers.first
    )  # NaN

    servers.first.execute("START SLAVE")

    assert comes_to(reads, *servers.replicas)
    reads.dispose()


def test_a_replica_too_far_behind_is_not_read_from_until_it_has_caught_up(
    servers: Servers, numbers: WorkerNumbers, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = ReadReplicas(servers.settings(), numbers=numbers)
    for replica in servers.replicas:
        replica.execute("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=5", "START SLAVE")
    assert comes_to(reads, *servers.replicas)  # a delay without a write is no lag

    servers.primary.execute(f"INSERT INTO {DATABASE}.written VALUES (1)")

    assert comes_to(reads, servers.primary)
    assert gauge(numbers, "recs_replica_lag_seconds", servers.first) > MAX_LAG_SECONDS
    assert "more than 2 s behind" in "".join(capsys.readouterr())
    assert comes_to(reads, *servers.replicas)
    assert rows_on(servers.first) == 1
    reads.dispose()


def test_a_replica_that_hangs_costs_the_reads_of_others_little(servers: Servers) -> None:
    """Frozen, it still takes connections. Reads that are under way on it end with their own limit."""
    reads = ReadReplicas(servers.settings(mysql_use_pooling=False, mysql_read_timeout_seconds=2))
    servers.first.pause()
    try:
        assert comes_to(reads, servers.second)
    finally:
        servers.first.resume()
    assert comes_to(reads, *servers.replicas)
    reads.dispose()


def test_a_user_who_may_not_ask_for_the_lag_is_told_the_privilege(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    servers.primary.execute(
        "CREATE OR REPLACE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'a-secret'",
        f"GRANT SELECT ON {DATABASE}.* TO 'reader'@'127.0.0.1'",
    )
    assert wait_until(lambda: bool(ask(servers.first, "SELECT 1 FROM mysql.user WHERE user='reader'")), 60)
    url = f"mysql://reader:a-secret@127.0.0.1:{servers.first.port}"
    reads = ReadReplicas(servers.settings(url))

    assert port_read(reads) == servers.primary.port
    said = "".join(capsys.readouterr())
    assert "the user reader lacks the privilege SLAVE MONITOR" in said
    assert "a-secret" not in said

    servers.primary.execute("GRANT SLAVE MONITOR ON *.* TO 'reader'@'127.0.0.1'")

    assert comes_to(reads, servers.first)
    reads.dispose()


def test_a_server_that_replicates_from_nobody_is_not_read_from(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = ReadReplicas(servers.settings(servers.primary.url().render_as_string(hide_password=False)))

    assert port_read(reads) == servers.primary.port
    assert "replicates from nobody" in "".join(capsys.readouterr())
    reads.dispose()


def ask(server: PrivateMariaDB, statement: str) -> list[object]:
    engine = sqlalchemy.create_engine(server.url(), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sqlalchemy.text(statement)).scalars())
