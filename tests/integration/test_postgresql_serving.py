"""Feeds from PostgreSQL: the three examples served from it, and the service as it runs, its processes and tables."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import URL

from examples.world import run
from recommendation_service.bootstrap import create_app
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS, Service
from tests.postgresql import PrivatePostgreSQL
from tests.servers import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def fill(example: str, url: URL) -> None:
    module = importlib.import_module(f"examples.{example}.__main__")
    address = url.render_as_string(hide_password=False)
    assert run(example, module.METADATA, module.make, [address, "--people", "60"]) == 0


def settings_for(url: URL, example: str, folder: Path, **more: Any) -> Settings:
    shown = url.render_as_string(hide_password=False)
    return Settings(database_url=shown, mapping_file=EXAMPLES / example / "mapping.toml", data_dir=folder, **more)


def build(settings: Settings) -> str:
    engine = make_engine(settings)
    try:
        built = build_catalog(open_source(settings, engine), settings, PolicyChoice(settings).policy)
    finally:
        engine.dispose()
    return CatalogStore(settings.catalog_dir, keep=2).publish(built)


@pytest.mark.parametrize("example", ["jobs", "music", "blog"])
def test_an_example_is_served(example: str, postgresql_url: URL, tmp_path: Path) -> None:
    fill(example, postgresql_url)
    settings = settings_for(postgresql_url, example, tmp_path)
    build(settings)
    app = make_app(
        tmp_path,
        database_url=settings.database_url,
        mapping_file=settings.mapping_file,
        event_flusher=False,
        seen_megabytes=16,
    )
    with served(app) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        feeds = [path for path in client.get("/openapi.json").json()["paths"] if re.fullmatch(r"/api/feeds/\w+", path)]
        assert feeds
        for feed in feeds:
            answer = client.post(feed, json={"size": 8})
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["ids"]) == 8


def test_a_moment_says_its_zone_whatever_that_of_the_session_is(postgresql_url: URL, tmp_path: Path) -> None:
    """And a column that says none is answered as it stands in the table."""
    columns = "id bigint PRIMARY KEY, opens timestamptz, doors timestamp, day date, others timestamptz[]"
    with psycopg.connect(postgresql_url.render_as_string(hide_password=False)) as connection:
        connection.execute(f"CREATE TABLE shows ({columns})")
        connection.execute(
            "INSERT INTO shows VALUES (1, '2026-07-01 20:30:00-05', '2026-07-01 19:00', '2026-07-01', "
            "ARRAY['2026-07-02 20:30:00+02', NULL]::timestamptz[])"
        )
    (tmp_path / "mapping.toml").write_text(
        """[users]
query = "SELECT id FROM shows"
[items.show]
query = "SELECT * FROM shows"
fields = ["opens", "doors", "day", "others"]
[events.visit]
query = "SELECT id AS user_id, id AS item_id FROM shows"
"""
    )
    shown = postgresql_url.render_as_string(hide_password=False)
    for zone in ("UTC", "America/Bogota"):
        options = {"database_url": shown, "mapping_file": tmp_path / "mapping.toml", "mysql_time_zone": zone}
        settings = Settings(data_dir=tmp_path / "data", **options)
        catalog = CatalogStore(settings.catalog_dir, keep=2).open(build(settings))
        assert json.loads(catalog.item_json(0)) == {
            "type": "show",
            "id": 1,
            "opens": "2026-07-02T01:30:00Z",
            "doors": "2026-07-01T19:00:00",
            "day": "2026-07-01",
            "others": ["2026-07-02T18:30:00Z", None],
        }
    # A mapping's own fields keep their form in whichever that of the first operator's times is.
    again = CatalogStore(settings.catalog_dir, 2, "Z").open(catalog.version)
    assert again.item_json(0) == catalog.item_json(0)


def test_without_a_mapping_it_is_said_what_is_missing(postgresql_url: URL, tmp_path: Path) -> None:
    shown = postgresql_url.render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match=r"no MAPPING_FILE .*`recs source init DATABASE_URL` writes one"):
        create_app(Settings(database_url=shown, data_dir=tmp_path))


# The service as it runs, on a server of these tests' own, to which things happen.


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePostgreSQL]:
    server = PrivatePostgreSQL(tmp_path_factory.mktemp("serving-postgresql"), options=["-c", "max_connections=20"])
    try:
        server.start()
        server.execute("CREATE DATABASE jobs")
        fill("jobs", server.url("jobs"))
        server.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
        server.execute(
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app",
            "GRANT CREATE ON SCHEMA public TO app",
            database="jobs",
        )
        yield server
    finally:
        server.remove()


def service_settings(server: PrivatePostgreSQL) -> dict[str, str]:
    return {
        "DATABASE_URL": server.url("jobs").set(username="app", password="app").render_as_string(hide_password=False),
        "MAPPING_FILE": str(EXAMPLES / "jobs" / "mapping.toml"),
        "CATALOG_REFRESH_SECONDS": "1",
        "FLUSH_INTERVAL_SECONDS": "1",
        "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
        "MYSQL_READ_TIMEOUT_SECONDS": "2",
        "MYSQL_POOL_SIZE": "6",
    }


@pytest.fixture(scope="module")
def service(own: PrivatePostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.uvicorn(tmp_path_factory.mktemp("postgresql-service"), service_settings(own)) as service:
        service.wait_until_ready()
        yield service


def feed(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/feeds/home", json={"size": 24, **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def new_job(server: PrivatePostgreSQL) -> int:
    [(number,)] = server.rows(
        "INSERT INTO job_ads (id, company_id, title, state, published_at) "
        "SELECT max(id) + 1, 1, 'Keeper of the light', 'open', now() AT TIME ZONE 'UTC' FROM job_ads RETURNING id",
        "jobs",
    )
    return int(number)


def comes_to_be_shown(service: Service, job: int) -> bool:
    return wait_until(lambda: job in feed(service.client)["ids"], PATIENCE_SECONDS)


def test_a_new_item_is_in_feeds_without_a_restart(service: Service, own: PrivatePostgreSQL) -> None:
    assert comes_to_be_shown(service, new_job(own)), service.log
    assert service.get("/ready").json()["problems"] == []


def test_what_was_shown_and_done_is_in_its_own_tables_once(service: Service, own: PrivatePostgreSQL) -> None:
    content = feed(service.client, user=7)
    item = content["items"][0]
    event = {"event": "apply", "user_id": 7, "item_type": "job", "item_id": item["id"], "event_id": "applied-1"}
    for _ in range(2):  # the client did not get the first answer
        assert service.client.post("/api/feedback", json=event).status_code == 202
    shown = f"SELECT user_id, endpoint FROM recs_events WHERE request_id = '{content['request_id']}'"
    assert wait_until(lambda: own.rows("SELECT to_regclass('recs_events')", "jobs") != [(None,)], PATIENCE_SECONDS)
    assert wait_until(lambda: own.rows(shown, "jobs") == [(7, "home")], PATIENCE_SECONDS), service.log
    done = "SELECT event, item_id, user_id FROM recs_events WHERE event_id = 'applied-1'"
    assert wait_until(lambda: bool(own.rows(done, "jobs")), PATIENCE_SECONDS)
    assert own.rows(done, "jobs") == [("apply", item["id"], 7)]
    assert item["id"] not in feed(service.client, user=7, size=12)["ids"]


def test_figures_of_the_server_are_among_the_services(service: Service, own: PrivatePostgreSQL) -> None:
    assert wait_until(lambda: "recs_mysql_max_connections 20.0" in service.get("/metrics").text, PATIENCE_SECONDS)
    shown = service.get("/metrics").text
    assert 'recs_mysql_index_reads_total{index="job_ads_pkey",table="job_ads"}' in shown
    assert 'recs_mysql_index_reads_total{index="(none)",table="job_ads"}' in shown
    assert "recs_mysql_threads_running" not in shown, "of others nobody tells this user"


@contextmanager
def hangs(server: PrivatePostgreSQL) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextmanager
def is_killed(server: PrivatePostgreSQL) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def is_full(server: PrivatePostgreSQL) -> Iterator[None]:
    """Somebody else has every connection, and the service's are ended."""
    address = server.url("jobs").render_as_string(hide_password=False)
    server.execute(
        "ALTER ROLE app CONNECTION LIMIT 0",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
    )
    with contextlib.ExitStack() as stack, contextlib.suppress(psycopg.OperationalError):
        while True:
            stack.enter_context(contextlib.closing(psycopg.connect(address)))
    server.execute("SELECT 1")
    yield
    server.execute("ALTER ROLE app CONNECTION LIMIT -1")


@contextmanager
def denies_a_table(server: PrivatePostgreSQL) -> Iterator[None]:
    """An error within the transaction of a build, which it does not survive."""
    server.execute("REVOKE SELECT ON job_ad_skills FROM app", database="jobs")
    yield
    server.execute("GRANT SELECT ON job_ad_skills TO app", database="jobs")


@contextmanager
def is_slow(server: PrivatePostgreSQL) -> Iterator[None]:
    """Somebody has a lock on a table that a build reads: its statement ends at its limit."""
    address = server.url("jobs").render_as_string(hide_password=False)
    with psycopg.connect(address) as locking:
        locking.execute("LOCK TABLE job_ads IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def is_empty(server: PrivatePostgreSQL) -> Iterator[None]:
    """No error, and no row: as after a TRUNCATE by somebody who fills the table anew."""
    server.execute("ALTER TABLE job_ads ENABLE ROW LEVEL SECURITY", database="jobs")
    yield
    server.execute("ALTER TABLE job_ads DISABLE ROW LEVEL SECURITY", database="jobs")


@pytest.mark.parametrize("fault", [hangs, is_killed, is_full, denies_a_table, is_slow, is_empty])
def test_a_fault_of_the_server_reaches_no_user_and_is_over_by_itself(
    service: Service, own: PrivatePostgreSQL, fault: Callable[[PrivatePostgreSQL], AbstractContextManager[None]]
) -> None:
    def failures() -> float:
        return service.metric("recs_catalog_build_failures")

    shown = set(feed(service.client, size=60)["ids"])
    with fault(own):
        assert wait_until(lambda: failures() > 0, PATIENCE_SECONDS), "the refresher has met it"
        for user in range(1, 6):
            assert len(feed(service.client, user=user)["ids"]) == 24
        assert (service.get("/health").status_code, service.get("/ready").status_code) == (200, 200)
        assert set(feed(service.client, size=60)["ids"]) & shown
        assert "Traceback" not in service.log
    assert comes_to_be_shown(service, new_job(own)), service.log
    assert wait_until(lambda: failures() == 0, PATIENCE_SECONDS)
    assert "app:app" not in service.log, "nor is its password told"


def connections_of(service: Service, server: PrivatePostgreSQL) -> dict[str, set[int]]:
    """Processes that hold each connection to the server, by the socket's number."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    to_server = f"0100007F:{server.port:04X}"
    held: dict[str, set[int]] = {line[9]: set() for line in lines if (line[2], line[3]) == (to_server, "01")}
    for pid in service.pids:
        with contextlib.suppress(OSError):  # the process has gone
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inode = descriptor.readlink().name.removeprefix("socket:[").removesuffix("]")
                    if inode in held:
                        held[inode].add(pid)
    return {inode: pids for inode, pids in held.items() if pids}


def test_no_connection_is_of_two_processes(own: PrivatePostgreSQL, tmp_path: Path) -> None:
    """What a fork leaves in a child is the parent's too: one that closes it ends the other's session."""
    with Service.gunicorn(tmp_path, 2, service_settings(own)) as service:
        service.wait_until_ready()

        def each_worker_reads() -> bool:
            """Of people outside the catalog, each of whom is read from the server."""
            address = str(service.client.base_url)
            for number in range(10_000_000, 10_000_020):
                with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:  # to whichever worker
                    feed(client, user=next(people) + number)
            owners = [pid for pids in connections_of(service, own).values() for pid in pids]
            return len(service.workers) == 2 and service.workers <= set(owners)

        people = iter(range(0, 10**9, 100))
        service.wait_until(each_worker_reads)
        first = connections_of(service, own)
        killed = min(service.workers)
        os.kill(killed, signal.SIGKILL)
        service.wait_until(lambda: killed not in service.workers)
        service.wait_until(each_worker_reads)
        after = connections_of(service, own)
        for found in (first, after):
            assert all(len(pids) == 1 for pids in found.values()), found
            assert {service.process.pid} not in found.values(), "the master has none to leave to others"
        [other] = service.workers & {pid for pids in first.values() for pid in pids}
        kept = {inode for inode, pids in first.items() if pids == {other}}
        assert kept & set(after), "and the other worker's go on"


def test_a_service_that_starts_without_its_server_is_ready_once_it_is_there(
    own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    own.stop()
    try:
        with Service.uvicorn(tmp_path, service_settings(own)) as service:
            assert wait_until(lambda: "connection failed" in service.log, PATIENCE_SECONDS)
            answer = service.client.post("/api/feeds/home", json={})
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            own.start()
            service.wait_until_ready()
            assert len(feed(service.client)["ids"]) == 24
    finally:
        own.start()
