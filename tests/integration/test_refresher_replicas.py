"""The running service reads its catalog from replicas, while they can be used."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo import load_invented
from recommendation_service.mappings.interacpedia.source import Source
from tests.end_to_end.service import Service, sum_of_samples
from tests.integration.test_database_faults import Fault
from tests.servers import LOOPBACK, PRIMARY, REPLICA, PrivateMariaDB, wait_until

DATABASE = "interacpedia"
PATIENCE_SECONDS = 60.0


@dataclass
class Servers:
    primary: PrivateMariaDB
    replica: PrivateMariaDB


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("refresher-replicas")
    with (
        PrivateMariaDB(folder / "primary", options=PRIMARY) as primary,
        PrivateMariaDB(folder / "replica", options=[*REPLICA, "--server-id=2"]) as replica,
    ):
        engine = sqlalchemy.create_engine(primary.url(DATABASE), poolclass=sqlalchemy.NullPool)
        load_invented(engine, scale=0.01)
        primary.execute(f"CREATE TABLE {DATABASE}.last_of_all (number INT)")
        engine.dispose()
        replica.follow(primary)
        copied = sqlalchemy.create_engine(replica.url(DATABASE), poolclass=sqlalchemy.NullPool)

        def has_all() -> bool:
            try:
                return sqlalchemy.inspect(copied).has_table("last_of_all")
            except sqlalchemy.exc.OperationalError:  # not even the database is there yet
                return False

        assert wait_until(has_all, PATIENCE_SECONDS)
        yield Servers(primary, replica)
    shutil.rmtree(folder)


def address_of(server: PrivateMariaDB) -> str:
    return server.url(DATABASE).render_as_string(hide_password=False)


def settings_for(servers: Servers) -> dict[str, str]:
    return {
        "DATABASE_URL": address_of(servers.primary),
        "MYSQL_REPLICA_URLS": address_of(servers.replica),
        "MYSQL_MAX_REPLICA_LAG_SECONDS": "2",
        "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
        "CATALOG_REFRESH_SECONDS": "1",
        "EVENT_FLUSHER": "false",
    }


def fingerprint(server: PrivateMariaDB) -> str:
    settings = load_settings(database_url=address_of(server))
    engine = make_engine(settings)
    try:
        return Source(engine, settings).fingerprint()
    finally:
        engine.dispose()


def test_the_same_rows_on_another_server_count_as_a_change(servers: Servers) -> None:
    """A look at one server and a build from another, which lacks what the first has, must not pass for the same."""
    # Within a second of an update every look differs.
    assert wait_until(lambda: fingerprint(servers.replica) == fingerprint(servers.replica), PATIENCE_SECONDS)

    assert fingerprint(servers.primary) != fingerprint(servers.replica)


@pytest.fixture(scope="module")
def service(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.gunicorn(tmp_path_factory.mktemp("replicas"), 2, settings_for(servers)) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def fault(service: Service, request: pytest.FixtureRequest) -> Iterator[Fault]:
    fault = Fault(service)
    with fault.load:
        fault.load.go_on(100)
        yield fault
    print(f"{request.node.name}: {fault}")  # noqa: T201 - shown by -rP


def reads_by(service: Service, server: str) -> float:
    return sum_of_samples(service.get("/metrics").text, "recs_database_reads_total", process="refresher", server=server)


def is_left_out(service: Service, replica: str) -> bool:
    return service.metric("recs_replica_usable", process="refresher", replica=replica) == 0


def is_behind(service: Service, replica: str) -> bool:
    # Of the refresher alone: a worker last looked when it last read, which may have been at a killed one: NaN.
    return service.metric("recs_replica_lag_seconds", process="refresher", replica=replica) > 2


def comes_to(service: Service, server: str, other: str) -> None:
    """Wait until a build, and what the refresher looked at meanwhile, was read from the one and not from the other."""

    def has_come() -> bool:
        before = reads_by(service, other)
        return (
            reads_by(service, server) > 0 and service.reload().status_code == 200 and reads_by(service, other) == before
        )

    service.wait_until(has_come)


def test_builds_read_from_the_replica_and_the_pools_are_in_the_metrics(servers: Servers, service: Service) -> None:
    replica = f"{LOOPBACK}:{servers.replica.port}"
    comes_to(service, replica, "primary")

    assert reads_by(service, "primary") == 0
    assert service.metric("recs_replica_usable", process="refresher", replica=replica) == 1
    assert service.metric("recs_replica_lag_seconds", process="refresher", replica=replica) == 0
    assert service.metric("recs_database_pool_size", process="refresher") == 4  # two to each server
    assert service.metric("recs_database_pool_in_use", process="refresher") <= 2
    assert service.metric("recs_database_pool_timeouts_total") == 0


def test_counts_go_on_when_the_refresher_is_another_process(servers: Servers, service: Service) -> None:
    replica = f"{LOOPBACK}:{servers.replica.port}"
    before = reads_by(service, replica)
    (refresher,) = service.refreshers
    os.kill(refresher, signal.SIGKILL)
    service.wait_until(lambda: bool(service.refreshers - {refresher}))
    service.wait_until(lambda: reads_by(service, replica) > before)

    assert before > 0


def test_a_replica_that_is_killed_is_seen_by_no_client_and_builds_read_from_the_primary(
    servers: Servers, fault: Fault
) -> None:
    replica = f"{LOOPBACK}:{servers.replica.port}"
    with fault.lasting(repair=servers.replica.start):
        servers.replica.kill()
        fault.service.wait_until(lambda: is_left_out(fault.service, replica))
        fault.seen_seconds = time.monotonic() - fault.began
        comes_to(fault.service, "primary", replica)
        assert fault.service.metric("recs_replica_fallbacks_total", process="refresher") > 0
    fault.wait_until_over()
    comes_to(fault.service, replica, "primary")

    assert fault.load.errors == {}


def test_a_replica_that_lags_is_seen_by_no_client_and_builds_read_from_the_primary(
    servers: Servers, fault: Fault
) -> None:
    replica = f"{LOOPBACK}:{servers.replica.port}"

    def catch_up() -> None:
        servers.replica.execute("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")

    with fault.lasting(repair=catch_up):
        servers.replica.execute("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=3600", "START SLAVE")
        servers.primary.execute(f"INSERT INTO {DATABASE}.last_of_all VALUES (1)")
        fault.service.wait_until(lambda: is_left_out(fault.service, replica))
        fault.seen_seconds = time.monotonic() - fault.began
        comes_to(fault.service, "primary", replica)
        # Looked at between STOP and START, it is left out as one that replicates nothing, with no lag to tell.
        fault.service.wait_until(lambda: is_behind(fault.service, replica))
        assert "more than 2 s behind" in fault.service.log
    fault.wait_until_over()
    comes_to(fault.service, replica, "primary")

    assert fault.load.errors == {}


def test_the_one_process_server_tells_of_the_refreshers_pool_too(servers: Servers, tmp_path: Path) -> None:
    with Service.uvicorn(tmp_path, settings_for(servers)) as service:
        service.wait_until_ready()

        assert service.metric("recs_database_pool_size", process="refresher") == 4
