"""Faults of the operator's database, of a worker and of the disk, under a running service that is under load.

Each fault is made, not imitated. Each test says what clients see meanwhile and what /metrics and the log say, and
measures for how long; `-rP` shows the figures, and docs/reliability.md has them as a table.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pymysql
import pytest
import sqlalchemy

from recommendation_service.demo import load_invented
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, parent_of
from tests.servers import LOOPBACK, NO_AUTHORITIES, PrivateMariaDB, free_port, wait_until

DATABASE = "interacpedia"
USER, PASSWORD = "app", "the-passphrase-of-the-application"
ACCOUNT = f"'{USER}'@'{LOOPBACK}'"
WORKERS = 2
CLIENTS = 4
PAUSE_SECONDS = 0.02
# Answers that a fault has to last for, so that "no client sees it" says something.
ANSWERS = 300


class Load:
    """Clients that ask for feeds one after the other, each over a connection that it keeps, with a pause between: a
    fault is not to be waited for with all of the machine's processors."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        self.outcomes: list[str] = []  # a status, or the name of what the client met instead of an answer
        self.slowest_seconds = 0.0
        self.pause_seconds = PAUSE_SECONDS

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def errors(self) -> Counter[str]:
        return Counter(outcome for outcome in list(self.outcomes) if outcome != "200")

    def go_on(self, answers: int = ANSWERS) -> None:
        """Wait until so many more requests have had their answer."""
        wanted = len(self.outcomes) + answers
        assert wait_until(lambda: len(self.outcomes) >= wanted, PATIENCE_SECONDS)

    def _run(self, number: int) -> None:
        user = number
        with httpx.Client(base_url=self._address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES) as client:
            while not self._stop.wait(self.pause_seconds):
                user = (user + CLIENTS) % 3000
                started = time.monotonic()
                try:
                    outcome = str(client.post("/api/search/total", json={"SELF_ID": user}).status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
                self.outcomes.append(outcome)


class Fault:
    """A service under load, from before a fault until it is over; measures."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.load = Load(service.address)
        self.began = 0.0
        self._repaired = 0.0
        self.seen_seconds: float | None = None
        self.recovered_seconds: float | None = None

    @contextlib.contextmanager
    def lasting(self, repair: Callable[[], object]) -> Iterator[None]:
        """The block makes the fault and looks at it; it ends with the repair, also where the test fails."""
        self.began = time.monotonic()
        try:
            yield
            self.load.go_on()
        finally:
            repair()
            self._repaired = time.monotonic()

    def wait_until_it_shows(self) -> str:
        """Until builds are seen to fail in /metrics; the reason that the refresher gives."""
        self.service.wait_until(lambda: failures(self.service) > 0)
        self.seen_seconds = time.monotonic() - self.began
        return str(status(self.service)["error"])

    def wait_until_over(self) -> None:
        """Until a build succeeds that was asked for after the repair."""
        self.service.wait_until(lambda: self.service.reload().status_code == 200)
        self.recovered_seconds = time.monotonic() - self._repaired
        assert failures(self.service) == 0
        self.load.go_on()

    def __str__(self) -> str:
        shown = {"seen after": self.seen_seconds, "over after": self.recovered_seconds}
        times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in shown.items() if seconds is not None)
        said = f"{len(self.load.outcomes)} answers, not 200: {dict(self.load.errors)}"
        return f"{said}; slowest {self.load.slowest_seconds * 1000:.0f} ms; {times}"


def status(service: Service) -> dict[str, Any]:
    """What the refresher last said of itself, in the service's own view of the disk."""
    path = f"/proc/{service.process.pid}/root{service.data_dir}/catalogs/refresher.json"
    read: dict[str, Any] = json.loads(Path(path).read_text())
    return read


def failures(service: Service) -> float:
    with httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS) as client:
        (line,) = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith("recs_catalog_build_failures ")
        ]
    return float(line.split()[1])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """With an application user who may do what the guide asks, and no more."""
    folder = tmp_path_factory.mktemp("faults-mariadb")
    with PrivateMariaDB(folder) as server:
        engine = sqlalchemy.create_engine(server.url(DATABASE), poolclass=sqlalchemy.NullPool)
        load_invented(engine, scale=0.02)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        server.execute(
            f"CREATE USER {ACCOUNT} IDENTIFIED BY '{PASSWORD}'",
            *(f"GRANT SELECT ON {DATABASE}.{table} TO {ACCOUNT}" for table in tables),
        )
        yield server
    shutil.rmtree(folder)


def settings_for(database: PrivateMariaDB, **more: str) -> dict[str, str]:
    return {
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": USER,
        "MYSQL_PASSWORD": PASSWORD,
        "MYSQL_DB": DATABASE,
        "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
        "MYSQL_READ_TIMEOUT_SECONDS": "2",
        "CATALOG_REFRESH_SECONDS": "1",
        "EVENT_FLUSHER": "false",
        **more,
    }


@pytest.fixture(scope="module")
def service(database: PrivateMariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.gunicorn(tmp_path_factory.mktemp("faults"), WORKERS, settings_for(database)) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == WORKERS)
        yield service


@pytest.fixture
def fault(service: Service, request: pytest.FixtureRequest) -> Iterator[Fault]:
    fault = Fault(service)
    with fault.load:
        fault.load.go_on(100)
        assert failures(service) == 0
        yield fault
    print(f"{request.node.name}: {fault}")  # noqa: T201 - shown by -rP


def end_connections_of_the_service(administrator: pymysql.connections.Connection[Any]) -> None:
    """So that its next statement needs a new one."""
    with administrator.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (USER,))
        for (number,) in cursor.fetchall():
            with contextlib.suppress(pymysql.err.OperationalError):  # it has just ended by itself
                cursor.execute(f"KILL {number}")


def test_a_database_that_is_stopped_is_seen_by_no_client(database: PrivateMariaDB, fault: Fault) -> None:
    with fault.lasting(repair=database.start):
        database.stop()
        assert fault.wait_until_it_shows()
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_database_that_is_killed_is_seen_by_no_client(database: PrivateMariaDB, fault: Fault) -> None:
    with fault.lasting(repair=database.start):
        database.kill()
        assert fault.wait_until_it_shows()
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_database_that_hangs_is_seen_by_no_client_and_is_named_within_the_read_timeout(
    database: PrivateMariaDB, fault: Fault
) -> None:
    with fault.lasting(repair=database.resume):
        database.pause()
        assert "timed out" in fault.wait_until_it_shows()
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_database_that_restarts_is_seen_by_no_client(database: PrivateMariaDB, fault: Fault) -> None:
    with fault.lasting(repair=lambda: None):
        database.restart()
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_read_only_database_stops_no_build(database: PrivateMariaDB, fault: Fault) -> None:
    with fault.lasting(repair=lambda: database.execute("SET GLOBAL read_only = OFF")):
        database.execute("SET GLOBAL read_only = ON")
        assert fault.service.reload().status_code == 200
        assert failures(fault.service) == 0
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_database_without_a_free_connection_is_seen_by_no_client(database: PrivateMariaDB, fault: Fault) -> None:
    taken: list[pymysql.connections.Connection[Any]] = []

    def give_back() -> None:
        with taken.pop().cursor() as cursor:
            cursor.execute("SET GLOBAL max_connections = 100")
        for connection in taken:
            connection.close()

    def take_all() -> bool:
        """The service's, too, which gets none again once all are taken; one may end within a query, which is
        a failure of another kind and leaves its place free."""
        with contextlib.suppress(pymysql.err.OperationalError):
            while True:
                taken.append(database._connect(30))
        end_connections_of_the_service(taken[0])
        return "Too many connections" in str(status(fault.service)["error"])

    with fault.lasting(repair=give_back):
        database.execute("SET GLOBAL max_connections = 10")
        assert wait_until(take_all, PATIENCE_SECONDS)
        assert "Too many connections" in fault.wait_until_it_shows()
    fault.wait_until_over()

    assert fault.load.errors == {}


def test_a_password_that_became_wrong_is_seen_by_no_client_and_shown_to_nobody(
    database: PrivateMariaDB, fault: Fault
) -> None:
    with fault.lasting(repair=lambda: database.execute(f"ALTER USER {ACCOUNT} IDENTIFIED BY '{PASSWORD}'")):
        database.execute(f"ALTER USER {ACCOUNT} IDENTIFIED BY 'another'")
        with contextlib.closing(database._connect(30)) as administrator:
            end_connections_of_the_service(administrator)
        fault.wait_until_it_shows()
        fault.service.wait_until(lambda: "Access denied for user 'app'" in str(status(fault.service)["error"]))
    fault.wait_until_over()

    assert fault.load.errors == {}
    assert "Access denied for user 'app'" in fault.service.log
    assert PASSWORD not in fault.service.log


def test_a_missing_privilege_is_seen_by_no_client_and_is_named_with_its_table(
    database: PrivateMariaDB, fault: Fault
) -> None:
    with fault.lasting(repair=lambda: database.execute(f"GRANT SELECT ON {DATABASE}.resumes TO {ACCOUNT}")):
        database.execute(f"REVOKE SELECT ON {DATABASE}.resumes FROM {ACCOUNT}")
        reason = fault.wait_until_it_shows()
    fault.wait_until_over()

    assert "SELECT command denied to user 'app'" in reason
    assert "`resumes`" in reason
    assert "SELECT command denied to user 'app'" in fault.service.log
    assert fault.load.errors == {}


def test_at_a_start_with_a_wrong_password_ready_says_so_and_turns_by_itself(
    database: PrivateMariaDB, tmp_path: Path
) -> None:
    wrong = "not-the-passphrase-at-all"
    with Service.gunicorn(tmp_path, 1, settings_for(database, MYSQL_PASSWORD=wrong)) as service:
        service.wait_until_alive()
        service.wait_until(lambda: "Access denied for user 'app'" in service.get("/ready").text)
        answer = service.client.post("/api/search/total", json={})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        try:
            database.execute(f"ALTER USER {ACCOUNT} IDENTIFIED BY '{wrong}'")
            service.wait_until_ready()
        finally:
            database.execute(f"ALTER USER {ACCOUNT} IDENTIFIED BY '{PASSWORD}'")
        assert len(service.feed()["items"]) == 24
        assert wrong not in service.log


@pytest.mark.parametrize("has_refresher", [False, True], ids=["another", "the refresher's"])
def test_a_killed_worker_costs_its_clients_one_answer_each_at_most(fault: Fault, has_refresher: bool) -> None:
    service = fault.service
    (refresher,) = service.refreshers
    before = service.workers
    keeper = parent_of(refresher)
    (victim,) = {keeper} if has_refresher else before - {keeper}
    killed = time.monotonic()
    with fault.lasting(repair=lambda: None):
        os.kill(victim, signal.SIGKILL)
        service.wait_until(lambda: victim not in service.workers and len(service.workers) == WORKERS)
    replaced = time.monotonic() - killed
    # Each client has one connection and one request under way; a new connection reaches another worker.
    errors = fault.load.errors
    service.wait_until(lambda: len(service.refreshers) == 1 and (service.refreshers != {refresher}) == has_refresher)
    fault.wait_until_over()
    print(f"replaced after {replaced:.1f} s")  # noqa: T201 - shown by -rP

    assert fault.load.errors == errors
    assert errors.total() <= CLIENTS
    assert not {"500", "502", "503"} & set(errors)


def may_mount(folder: Path) -> bool:
    """Whether a file system of our own can be had here."""
    folder.mkdir()
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def service_on_a_small_disk(tmp_path: Path) -> Iterator[Service]:
    """DATA_DIR is a file system of 64 MiB, seen by the service only."""
    if not may_mount(tmp_path / "trial"):
        pytest.skip(
            "a disk that can be filled has to be mounted, which takes root or user namespaces: run the tests as root"
        )
    load_demo(tmp_path)
    source = tmp_path / "interacpedia.sqlite"
    (tmp_path / "data" / "interacpedia.sqlite").rename(source)
    port = free_port()
    mount = f"mount -t tmpfs -o size=64m tmpfs {tmp_path / 'data'}"
    gunicorn = "python -m gunicorn -c gunicorn.conf.py api.server:app"
    command = ["unshare", "-rm", "sh", "-c", f"{mount} && exec {gunicorn}"]
    settings = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": f"sqlite:///{source}",
        "GUNICORN_BIND": f"{LOOPBACK}:{port}",
        "GUNICORN_WORKERS": str(WORKERS),
        "CATALOG_REFRESH_SECONDS": "1",
        "EVENT_FLUSHER": "false",
        "EVENT_LOG_MEGABYTES": "32",
        "SEEN_MEGABYTES": "16",
    }
    with Service(tmp_path, command, settings, port) as service:
        service.wait_until_ready()
        yield service


def test_a_full_disk_is_seen_by_no_client_and_builds_go_on_when_there_is_room(service_on_a_small_disk: Service) -> None:
    service = service_on_a_small_disk
    # What the service sees of the disk, from here.
    disk = Path(f"/proc/{service.process.pid}/root{service.data_dir}")
    source = service.folder / "interacpedia.sqlite"
    filler = disk / "filler"
    fault = Fault(service)
    fault.load.pause_seconds = 0.0  # the log's segments have room for thousands of feeds

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    with fault.load:
        fault.load.go_on(100)
        with fault.lasting(repair=filler.unlink):
            fill()
            with contextlib.closing(sqlite3.connect(source)) as operator, operator:
                operator.execute(
                    "UPDATE resumes SET updated_at = datetime('now') WHERE id = (SELECT MAX(id) FROM resumes)"
                )
            assert "No space left on device" in fault.wait_until_it_shows()
            refused = service.reload()
            assert refused.status_code == 503
            assert "No space left on device" in refused.json()["error"]["message"]
            service.wait_until(lambda: service.metric("recs_feeds_unrecorded_total") > 0)
        fault.wait_until_over()
    print(f"disk full: {fault}")  # noqa: T201 - shown by -rP

    assert fault.load.errors == {}
    assert "No space left on device" in service.log
