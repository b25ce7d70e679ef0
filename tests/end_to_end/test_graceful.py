"""Stops, reloads, recycled and killed workers under load: what clients on kept connections see of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo
from tests.servers import LOOPBACK, wait_until

CONNECTIONS = 16
WORKERS = 2
BODY = b'{"SELF_ID": 7, "N_VIDEOS": 24}'
REQUEST = (
    b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
# Between two attempts to connect to a service that has stopped listening.
RETRY_SECONDS = 0.02


@dataclass(frozen=True)
class Failure:
    """A request that was sent and got no whole answer of status 200."""

    client: int
    at: float  # time.monotonic
    what: str
    is_first_of_connection: bool


@dataclass
class Load:
    """Clients that each keep a connection, ask again once they are answered, and connect again once it is closed.

    They do what HTTP lets them do: they never repeat a request, and send another one on every connection whose
    last answer did not announce its end.
    """

    port: int
    answered: int = 0
    announced: int = 0  # answers that said `Connection: close`
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)
    _is_over: bool = False

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def wait_for(self, answers: int) -> None:
        """Until so many more have come."""
        enough = self.answered + answers
        assert wait_until(lambda: self.answered >= enough, PATIENCE_SECONDS), self

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CONNECTIONS)))

    async def _client(self, number: int) -> None:
        while not self._is_over:
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                await self._ask_until_closed(number, reader, writer)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _ask_until_closed(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = True
        while not self._is_over:
            head, what = b"", "no answer"
            try:
                writer.write(REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                what = "half an answer"
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                what = head[9:12].decode()
            except asyncio.IncompleteReadError as error:
                what = "half an answer" if head or error.partial else what
            except OSError:
                pass
            if what != "200":
                self.failures.append(Failure(number, time.monotonic(), what, is_first))
                return
            self.answered += 1
            is_first = False
            if b"\r\nconnection: close\r\n" in head.lower():
                self.announced += 1
                return


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo and a catalog of it."""
    folder = tmp_path_factory.mktemp("graceful")
    load_demo(folder)
    with Service.gunicorn(folder, 1, {}) as service:
        service.wait_until_ready()
    return folder / "data"


def start(data: Path, folder: Path, configuration: str = "gunicorn.conf.py", **settings: str) -> Service:
    (folder / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (folder / "data" / name).symlink_to(data / name)
    return Service.gunicorn(folder, WORKERS, {"CATALOG_REFRESHER": "false", **settings}, configuration)


@pytest.fixture
def service(data: Path, tmp_path: Path) -> Iterator[Service]:
    with start(data, tmp_path) as service:
        wait_for_workers(service)
        yield service


def wait_for_workers(service: Service) -> None:
    service.wait_until_ready()
    service.wait_until(lambda: service.log.count("Application startup complete") >= WORKERS)


def port_of(service: Service) -> int:
    assert service.client.base_url.port is not None
    return service.client.base_url.port


def test_a_stop_loses_no_request(service: Service) -> None:
    with Load(port_of(service)) as load:
        load.wait_for(answers=500)
        assert service.stop() == 0
        # Every client was told, and finds nobody any more.
        refused = load.refused
        assert wait_until(lambda: load.refused >= refused + CONNECTIONS, PATIENCE_SECONDS)
    # Some kernels let no ordinary user filter a socket: then the service says so, and who connects while the last
    # process closes its socket is reset. Nobody else is.
    cannot_hold_off = "the system refuses a filter on its socket" in service.log
    assert [failure for failure in load.failures if not (cannot_hold_off and failure.is_first_of_connection)] == []
    assert load.announced > 0
    assert service.leaves_nothing()
    assert "Traceback" not in service.log


def test_a_reload_fails_no_request(service: Service) -> None:
    with Load(port_of(service)) as load:
        for _ in range(2):
            load.wait_for(answers=300)
            before, started = service.workers, service.log.count("Application startup complete")
            service.process.send_signal(signal.SIGHUP)
            service.wait_until(lambda before=before: len(service.workers) == WORKERS and not before & service.workers)
            service.wait_until(
                lambda started=started: service.log.count("Application startup complete") >= started + WORKERS
            )
        load.wait_for(answers=300)
    assert load.failures == []
    assert load.refused == 0
    assert load.announced > 0
    assert service.stop() == 0


def test_workers_that_are_recycled_fail_no_request(data: Path, tmp_path: Path) -> None:
    with start(data, tmp_path, GUNICORN_MAX_REQUESTS="150") as service:
        wait_for_workers(service)
        with Load(port_of(service)) as load:
            assert wait_until(lambda: service.log.count("Maximum request limit") >= 3 * WORKERS, PATIENCE_SECONDS)
            load.wait_for(answers=300)
        assert load.failures == []
        assert load.refused == 0
        assert service.stop() == 0


def test_a_killed_worker_fails_what_was_in_flight_on_it_and_nothing_after(service: Service) -> None:
    with Load(port_of(service)) as load:
        load.wait_for(answers=500)
        victim = min(service.workers)
        held = len(connections_of(victim, port_of(service)))
        answered = load.answered
        os.kill(victim, signal.SIGKILL)
        service.wait_until(lambda: victim not in service.workers and len(service.workers) == WORKERS)
        load.wait_for(answers=500)
    # Each of its connections, of which one may be this test's own, had a request in flight at most, and its client
    # goes on with another worker.
    assert 0 < held <= CONNECTIONS + 1
    assert len(load.failures) <= held, load.failures
    assert len({failure.client for failure in load.failures}) == len(load.failures)
    assert load.refused == 0
    assert load.answered > answered
    assert service.stop() == 0


SLOW_SECOND_WORKER = """
import time
exec(open("gunicorn.conf.py").read())
reserve = post_fork

def post_fork(server, worker):
    if worker.age == 2:
        server.log.info("the second worker begins")
        time.sleep(2)
    reserve(server, worker)
"""


def test_a_stop_reaches_a_worker_that_has_only_just_begun(data: Path, tmp_path: Path) -> None:
    """Between its fork and its own handlers, the master's would take the signal: the stop then took 30 s and a kill."""
    (tmp_path / "slow.conf.py").write_text(SLOW_SECOND_WORKER)
    with start(data, tmp_path, str(tmp_path / "slow.conf.py")) as service:
        service.wait_until(lambda: "the second worker begins" in service.log)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 20
        assert "SIGKILL" not in service.log


def connections_of(pid: int, port: int) -> set[str]:
    """Inodes of the established connections to that port that a process holds."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {line[9] for line in lines if line[3] == "01" and int(line[1].partition(":")[2], 16) == port}
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return established & held


@pytest.mark.parametrize("requests", [0, 1], ids=["never used", "used"])
def test_an_idle_connection_is_closed_in_order_and_does_not_hold_up_a_stop(service: Service, requests: int) -> None:
    with socket.create_connection((LOOPBACK, port_of(service)), PATIENCE_SECONDS) as idle:
        with idle.makefile("rb") as stream:
            for _ in range(requests):
                idle.sendall(REQUEST)
                head = b"".join(iter(stream.readline, b"\r\n")).lower()
                assert b"connection: close" not in head
                stream.read(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
            if not requests:
                service.wait_until(lambda: sum(len(connections_of(w, port_of(service))) for w in service.workers) > 0)
            service.process.terminate()
            assert stream.read() == b""
        assert service.stop() == 0
    # Not the graceful timeout, after which what is left is cut.
    assert "timeout graceful shutdown exceeded" not in service.log
