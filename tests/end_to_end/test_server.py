"""The service as runbooks start it: Gunicorn and Uvicorn, their log lines, their metrics and their end."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest
import sqlalchemy
from sqlalchemy.engine import URL

from recommendation_service.demo import load_invented
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, recs, run
from tests.servers import LOOPBACK

GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.server:app"]
UVICORN = [sys.executable, "-m", "uvicorn", "api.server:app"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers on the embedded demo."""
    folder = tmp_path_factory.mktemp("server")
    load_demo(folder)
    with Service.gunicorn(folder, 2, {"ACCESS_LOG": "true"}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: service.log.count("RecommendationEngine inicializado") == 2)
        yield service


# Gunicorn.


def test_the_log_has_the_lines_that_runbooks_search_for(service: Service) -> None:
    counts = service.get("/ready").json()["counts"]
    log = service.log
    assert "Iniciando Gunicorn con 2 workers" in log
    assert "Preload app: True" in log
    assert (
        f"DataService inicializado: {counts['users']} users, {counts['videos']} videos, "
        f"{counts['interactions']} interactions"
    ) in log
    assert "RecommendationEngine inicializado" in log
    assert "Traceback" not in log


def test_a_start_with_a_published_catalog_opens_it_once_before_the_workers(service: Service, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)
    with Service.gunicorn(tmp_path, 2, {"CATALOG_REFRESHER": "false"}) as second:
        second.wait_until_ready()
        second.wait_until(lambda: len(second.workers) == 2)
        assert second.log.count("RecommendationEngine inicializado") == 1
        assert second.log.index("RecommendationEngine") < second.log.index("Booting worker")
        assert len(second.feed()["items"]) == 24
        assert second.stop() == 0


def test_without_preload_each_worker_loads_for_itself(service: Service, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)
    settings = {"CATALOG_REFRESHER": "false", "GUNICORN_PRELOAD_APP": "false"}
    with Service.gunicorn(tmp_path, 2, settings) as second:
        second.wait_until_ready()
        second.wait_until(lambda: second.log.count("RecommendationEngine inicializado") == 2)
        assert "Preload app: False" in second.log
        assert len(second.feed()["items"]) == 24
        assert second.stop() == 0


def test_metrics_are_summed_over_all_workers(service: Service) -> None:
    before = service.metric("recs_requests_total", endpoint="discover", status="200")
    for _ in range(40):
        # A connection each, so that both workers have some.
        with socket.create_connection((LOOPBACK, service.client.base_url.port or 80), PATIENCE_SECONDS) as connection:
            connection.sendall(
                b"POST /api/search/discover HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
            )
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
    # Whichever worker is asked.
    for _ in range(8):
        service.client.close()
        service.client = type(service.client)(base_url=service.address, timeout=PATIENCE_SECONDS)
        assert service.metric("recs_requests_total", endpoint="discover", status="200") == before + 40
    assert service.metric("recs_ready") == 1
    assert "pid=" not in service.get("/metrics").text


def test_each_request_is_a_line_of_the_log_where_that_is_asked_for(service: Service) -> None:
    request_id = service.feed("flow", N_VIDEOS=2)["request_id"]
    service.wait_until(lambda: request_id in service.log)
    (line,) = [line for line in service.log.splitlines() if request_id in line]
    assert '"path": "/api/search/flow"' in line
    assert '"status": 200' in line


def read_answers(connection: socket.socket) -> list[tuple[int, bytes]]:
    """Status and body of each, until the server closes."""
    answers = []
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            length = 0
            while (header := stream.readline()) not in {b"\r\n", b""}:
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answers.append((int(line.split()[1]), stream.read(length)))
    return answers


def test_requests_sent_one_after_the_other_without_waiting_are_answered_in_order(service: Service) -> None:
    sizes = [1, 100, 3, 100, 100, 2] * 5
    requests = []
    for place, size in enumerate(sizes):
        body = b'{"N_VIDEOS": %d, "explain": true}' % size
        last = b"Connection: close\r\n" if place == len(sizes) - 1 else b""
        head = b"POST /api/search/total HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (last, len(body))
        requests.append(head + body)
    with socket.create_connection((LOOPBACK, service.client.base_url.port or 80), PATIENCE_SECONDS) as connection:
        # Read only once all is sent: the answers are more than the sockets' buffers hold.
        connection.sendall(b"".join(requests))
        answers = read_answers(connection)
    assert [status for status, _ in answers] == [200] * len(sizes)
    shown = [len(json.loads(body)["body"]["items"]) for _, body in answers]
    whole = max(shown)  # the demo has fewer than 100
    assert shown == [min(size, whole) for size in sizes]


def test_heads_and_coded_bodies_keep_their_place_on_a_connection(service: Service) -> None:
    """Nothing follows the head of a HEAD, or the next answer would be read out of the middle of this one."""
    host = b"HTTP/1.1\r\nHost: x\r\n"
    body = gzip.compress(b'{"N_VIDEOS": 3}')
    feed = b"POST /api/search/total %bContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (host, len(body), body)
    paths = ("/health", "/ready", "/metrics", "/", "/nope", "/api/search/total")
    requests = [b"HEAD %b %b\r\n%b" % (path.encode(), host, feed) for path in paths]
    last = b"GET /health %bConnection: close\r\n\r\n" % host
    with socket.create_connection((LOOPBACK, service.client.base_url.port or 80), PATIENCE_SECONDS) as connection:
        connection.sendall(b"".join([*requests, last]))
        answers = connection.makefile("rb").read()
    statuses = [int(line.split()[1]) for line in re.findall(rb"HTTP/1\.1 \d+", answers)]
    assert statuses == [status for path in (200, 200, 200, 200, 404, 405) for status in (path, 200)] + [200]
    heads = re.split(rb"(?=HTTP/1\.1 )", answers)[1:-1:2]
    assert all(head.endswith(b"\r\n\r\n") for head in heads)


def test_an_answer_reaches_a_client_that_has_nothing_more_to_send(service: Service) -> None:
    for body, status in ((b"{}", 200), (b"{", 400), (b'{"N_VIDEOS": 0}', 422)):
        with socket.create_connection((LOOPBACK, service.client.base_url.port or 80), PATIENCE_SECONDS) as connection:
            connection.sendall(
                b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            (answer,) = read_answers(connection)
            assert answer[0] == status
            assert json.loads(answer[1])["statusCode"] == status


def test_a_reload_of_gunicorn_fails_no_request(service: Service, tmp_path: Path) -> None:
    """HUP, as the unit file's reload sends it: all workers are replaced."""
    load_demo(tmp_path)
    with Service.gunicorn(tmp_path, 2, {}) as hung_up:
        hung_up.wait_until_ready()
        hung_up.wait_until(lambda: hung_up.log.count("RecommendationEngine inicializado") == 2)
        hung_up.wait_until(lambda: len(hung_up.workers) == 2 and len(hung_up.refreshers) == 1)
        before, refresher = hung_up.workers, hung_up.refreshers
        hung_up.process.send_signal(signal.SIGHUP)

        def replaced() -> bool:
            with httpx.Client(base_url=hung_up.address, timeout=PATIENCE_SECONDS) as client:
                answer = client.post("/api/search/total", json={"N_VIDEOS": 5})
            assert answer.status_code == 200
            return not before & hung_up.workers and len(hung_up.workers) == 2

        hung_up.wait_until(replaced)
        hung_up.wait_until(lambda: len(hung_up.refreshers - refresher) == 1)
        assert "Traceback" not in hung_up.log
        assert hung_up.stop() == 0
        assert hung_up.leaves_nothing()


@contextmanager
def half_a_request(service: Service) -> Iterator[socket.socket]:
    """A request that a worker has begun to read."""
    with socket.create_connection((LOOPBACK, service.client.base_url.port or 80), PATIENCE_SECONDS) as connection:
        connection.sendall(
            b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 15\r\n\r\n"
        )
        # The server asks for the rest where the application waits for it: from here on, the request is in flight.
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        yield connection


@pytest.mark.parametrize("kind", ["gunicorn", "uvicorn"])
def test_a_stop_lets_a_request_in_flight_end(service: Service, tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)
    settings = {"CATALOG_REFRESHER": "false"}
    stopping = Service.uvicorn(tmp_path, settings) if kind == "uvicorn" else Service.gunicorn(tmp_path, 1, settings)
    with stopping, half_a_request_when_ready(stopping) as connection:
        stopping.process.terminate()
        stopping.wait_until(lambda: "Shutting down" in stopping.log)
        assert stopping.process.poll() is None
        connection.sendall(b'{"N_VIDEOS": 3}')
        answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert b'"mix_ids"' in answer
        assert stopping.stop() in {0, -15}
        assert stopping.leaves_nothing()


@contextmanager
def half_a_request_when_ready(service: Service) -> Iterator[socket.socket]:
    service.wait_until_ready()
    with half_a_request(service) as connection:
        yield connection


def test_metrics_of_an_earlier_run_are_not_counted_again(service: Service, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)
    for _ in range(2):
        with Service.gunicorn(tmp_path, 1, {"CATALOG_REFRESHER": "false"}) as again:
            again.wait_until_ready()
            again.feed()
            assert again.metric("recs_requests_total", endpoint="total", status="200") == 1
            again.stop()
    assert len(list((tmp_path / "data" / "metrics").iterdir())) <= 1


def test_mariadb_is_read_through_a_pool_that_the_log_names(mariadb_url: URL, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(mariadb_url, poolclass=sqlalchemy.NullPool)
    load_invented(engine, scale=0.02)
    settings = {
        "MYSQL_HOST": str(mariadb_url.host),
        "MYSQL_PORT": str(mariadb_url.port),
        "MYSQL_USER": str(mariadb_url.username),
        "MYSQL_PASSWORD": str(mariadb_url.password),
        "MYSQL_DB": str(mariadb_url.database),
        "LOG_LEVEL": "debug",
    }
    with Service.gunicorn(tmp_path, 2, settings) as service:
        service.wait_until_ready()
        address = f"{mariadb_url.host}:{mariadb_url.port}/{mariadb_url.database}"
        assert f"Connection pool inicializado: 20 conexiones a {address}" in service.log
        assert "Conexion devuelta al pool" in service.log
        assert len(service.feed()["items"]) == 24
        assert service.stop() == 0
        assert settings["MYSQL_PASSWORD"] not in service.log


# Uvicorn.


def test_uvicorn_serves_the_same(service: Service, tmp_path: Path) -> None:
    load_demo(tmp_path)
    with Service.uvicorn(tmp_path, {}) as single:
        single.wait_until_ready()
        assert len(single.feed()["items"]) == 24
        assert set(single.feed("flow", N_VIDEOS=3)) == set(service.feed("flow", N_VIDEOS=3))
        assert "DataService inicializado" in single.log
        assert single.stop() in {0, -15}
        assert single.leaves_nothing()


# Settings that cannot be used.

CONTRADICTIONS = {
    "MYSQL_HOST": "db.example",
    "DATABASE_URL": "sqlite:///x.sqlite",
    "MYSQL_PORT": "70000",
    "GUNICORN_TIMEOUT": "5",
    "CATALOG_REFRESH_SECONDS": "0",
    "API_PATH": "api/",
    "ADMIN_TOKEN": "short",
    "LOG_LEVEL": "loud",
}
OUT_OF_RANGE = ("MYSQL_PORT", "CATALOG_REFRESH_SECONDS", "API_PATH", "ADMIN_TOKEN", "LOG_LEVEL")
STARTS = {"gunicorn": GUNICORN, "uvicorn": UVICORN, "import": [sys.executable, "-c", "import api.server"]}


@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS)
def test_settings_out_of_range_stop_the_start_and_all_are_named(tmp_path: Path, command: Sequence[str]) -> None:
    done = run(command, tmp_path, {name: CONTRADICTIONS[name] for name in OUT_OF_RANGE})
    said = done.stdout + done.stderr
    assert done.returncode not in {0, None}, said
    for name in OUT_OF_RANGE:
        assert name in said
    assert "short" not in said, "a secret is shown"
    assert "Traceback" not in said


@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS)
def test_settings_that_contradict_each_other_stop_the_start_and_all_are_named(
    tmp_path: Path, command: Sequence[str]
) -> None:
    names = ("MYSQL_HOST", "DATABASE_URL", "GUNICORN_TIMEOUT")
    done = run(command, tmp_path, {name: CONTRADICTIONS[name] for name in names})
    said = done.stdout + done.stderr
    assert done.returncode not in {0, None}, said
    for name in (*names, "MYSQL_USER", "GUNICORN_GRACEFUL_TIMEOUT"):
        assert name in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS)
def test_all_problems_of_all_kinds_are_named_at_once(tmp_path: Path, command: Sequence[str]) -> None:
    done = run(command, tmp_path, CONTRADICTIONS)
    said = done.stdout + done.stderr
    assert done.returncode not in {0, None}, said
    for name in (*CONTRADICTIONS, "MYSQL_USER", "GUNICORN_GRACEFUL_TIMEOUT"):
        assert name in said, said


@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS)
def test_a_policy_that_cannot_be_used_stops_the_start(tmp_path: Path, command: Sequence[str]) -> None:
    (tmp_path / "policy.toml").write_text("this is no policy")
    done = run(command, tmp_path, {"POLICY_FILE": str(tmp_path / "policy.toml")})
    said = done.stdout + done.stderr
    assert done.returncode not in {0, None}, said
    assert "policy.toml" in said
    assert "Traceback" not in said


def test_recs_serve_names_every_problem_too(tmp_path: Path) -> None:
    done = recs("serve", folder=tmp_path, settings={name: CONTRADICTIONS[name] for name in OUT_OF_RANGE})
    assert done.returncode == 2
    for name in OUT_OF_RANGE:
        assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_recs_serve_names_a_policy_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("this is no policy")
    done = recs("serve", folder=tmp_path, settings={"POLICY_FILE": str(tmp_path / "policy.toml")})
    assert done.returncode == 2
    assert "policy.toml" in done.stderr
    assert "Traceback" not in done.stderr


# Importing.

WATCH_THE_IMPORT = """
import os, sys, threading

seen = []

def watch(event, arguments):
    opened = str(arguments[0]) if event == "open" else ""
    if event.startswith(("socket.", "sqlite3.connect", "subprocess.", "os.fork", "os.posix_spawn")):
        seen.append(event)
    elif opened.startswith(os.environ["DATA_DIR"]):
        seen.append(opened)

sys.addaudithook(watch)
before = set(os.listdir("/proc/self/fd"))
import api.server
assert api.server.app is not None
after = {fd for fd in os.listdir("/proc/self/fd") if fd not in before and os.path.exists(f"/proc/self/fd/{fd}")}
assert seen == [], seen
assert threading.active_count() == 1, threading.enumerate()
assert not any(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in after)
"""


@pytest.mark.parametrize("source", ["sqlite", "mysql"])
def test_importing_the_application_opens_and_connects_nothing(service: Service, tmp_path: Path, source: str) -> None:
    # With a catalog that could be read, and a database that could not be reached.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalogs").symlink_to(service.data_dir / "catalogs")
    mysql = {"MYSQL_HOST": LOOPBACK, "MYSQL_PORT": "1", "MYSQL_USER": "recs"}
    done = run([sys.executable, "-c", WATCH_THE_IMPORT], tmp_path, mysql if source == "mysql" else {})
    assert done.returncode == 0, done.stderr
    assert set((tmp_path / "data").iterdir()) == {tmp_path / "data" / "catalogs"}


FEED_REQUEST = b"POST /api/search/total HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def answers_after_pauses(service: Service, pauses: int) -> list[bytes]:
    """What four clients get that ask in the last of so many pauses of two seconds, close behind each other."""
    port = httpx.URL(service.address).port
    assert port is not None
    with ExitStack() as connections:
        waiting: list[socket.socket] = []
        for pause in range(pauses):
            if pause:
                Event().wait(0.1)  # time for one look at the event loop, and not for two
            service.process.send_signal(signal.SIGSTOP)
            if pause == pauses - 1:
                for _ in range(4):
                    connection = socket.create_connection((LOOPBACK, port), timeout=60)
                    waiting.append(connections.enter_context(connection))
                    connection.sendall(FEED_REQUEST)
            Event().wait(2)  # the pause is the fault
            service.process.send_signal(signal.SIGCONT)
        return [connections.enter_context(connection.makefile("rb")).read() for connection in waiting]


def test_after_one_pause_of_the_machine_every_client_gets_its_feed(tmp_path: Path) -> None:
    load_demo(tmp_path)
    with Service.uvicorn(tmp_path, {"SHED_LOAD_AFTER_SECONDS": "1"}) as service:
        service.wait_until_ready()
        for answer in answers_after_pauses(service, 1):
            assert answer.startswith(b"HTTP/1.1 200"), answer
        assert "feeds are refused" not in service.log


def test_a_worker_that_stays_far_behind_sheds_load_and_catches_up(tmp_path: Path) -> None:
    load_demo(tmp_path)
    with Service.uvicorn(tmp_path, {"SHED_LOAD_AFTER_SECONDS": "1"}) as service:
        service.wait_until_ready()

        def sheds() -> bool:
            """Not where this process itself came too late with the second pause."""
            answers = answers_after_pauses(service, 2)
            return all(
                answer.startswith(b"HTTP/1.1 503")
                and b"retry-after: 2" in answer.lower()
                and b'"code":"overloaded"' in answer
                for answer in answers
            )

        service.wait_until(sheds)
        assert "feeds are refused" in service.log
        service.wait_until(lambda: service.client.post("/api/search/total", json={}).status_code == 200)
