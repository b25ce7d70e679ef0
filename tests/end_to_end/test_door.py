"""What keeps a client from taking a worker from all others, under each way to start the service."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recommendation_service.telemetry.processes import memory_bytes
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo
from tests.servers import LOOPBACK, free_port, wait_until

SETTINGS = {
    "CLIENT_HEADER_TIMEOUT_SECONDS": "2",
    "CLIENT_BODY_TIMEOUT_SECONDS": "2",
    "ANSWER_TIMEOUT_SECONDS": "2",
    "EVENT_FLUSHER": "false",
}
HEAD = b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CLOSED_AT = "recs_connections_closed_total"


def with_recs(folder: Path, settings: dict[str, str]) -> Service:
    port = free_port()
    recs = str(Path(sys.executable).with_name("recs"))
    return Service(folder, [recs, "serve", "--host", LOOPBACK, "--port", str(port)], settings, port)


STARTS: dict[str, Callable[[Path, dict[str, str]], Service]] = {
    "gunicorn": lambda folder, settings: Service.gunicorn(folder, 1, settings),
    "uvicorn": Service.uvicorn,
    "recs serve": with_recs,
}


@pytest.fixture(scope="module", params=STARTS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("door")
    load_demo(folder)
    with STARTS[request.param](folder, SETTINGS) as started:
        started.wait_until_ready()
        yield started


def connect(service: Service, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection((LOOPBACK, int(service.address.rpartition(":")[2])), PATIENCE_SECONDS)
    connection.sendall(sent)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """All that comes before the end."""
    with connection, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b"reset"


def code_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_an_offer_of_http2_costs_no_body(service: Service) -> None:
    offer = b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    answer = rest_of(connect(service, HEAD + offer + b'Content-Length: 15\r\n\r\n{"N_VIDEOS": 3}'))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["body"]["items"]) == 3


def test_unfinished_heads_and_bodies_end_whatever_trickles_in_and_others_are_served(service: Service) -> None:
    before = {reason: service.metric(CLOSED_AT, reason=reason) for reason in ("silent", "head_late", "body_late")}
    starts = {"silent": b"", "head_late": HEAD, "body_late": HEAD + b"Content-Length: 9999\r\n\r\n{"}
    waiting = {reason: [connect(service, sent) for _ in range(10)] for reason, sent in starts.items()}
    blank = connect(service)
    done = threading.Event()

    def trickle() -> None:
        while not done.wait(0.2):
            for connection, dribble in (
                (waiting["head_late"][0], b"x"),
                (waiting["body_late"][0], b" "),
                (blank, b"\r\n"),
            ):
                with contextlib.suppress(OSError):
                    connection.send(dribble)

    trickling = threading.Thread(target=trickle)
    trickling.start()
    try:
        assert len(service.feed(N_VIDEOS=2)["items"]) == 2
        answers = {reason: [rest_of(connection) for connection in all_] for reason, all_ in waiting.items()}
        assert rest_of(blank) in (b"", b"reset")
    finally:
        done.set()
        trickling.join()
    assert answers["silent"] == [b""] * 10
    for reason in ("head_late", "body_late"):
        assert [code_of(answer) for answer in answers[reason]] == [(408, "request_timeout")] * 10
    for reason, counted in before.items():
        assert service.metric(CLOSED_AT, reason=reason) - counted >= 10


def test_a_head_that_does_not_end_is_refused_and_takes_no_memory(service: Service) -> None:
    # A worker is what answers: the master of Gunicorn, where there is one, takes part.
    before = sum(memory_bytes(pid) or 0 for pid in service.pids)
    connection = connect(service, b"GET / HTTP/1.1\r\nHost: x\r\n")
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 100 << 20:
            sent += connection.send(b"X-Header: some value\r\n" * 2000)
    assert sum(memory_bytes(pid) or 0 for pid in service.pids) - before < 30 << 20
    connection.close()
    small = connect(service, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Header: some value\r\n" * 3000)
    assert code_of(rest_of(small)) == (431, "headers_too_large")
    long = connect(service, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert code_of(rest_of(long)) == (414, "uri_too_long")
    assert service.metric(CLOSED_AT, reason="head_large") >= 3
    nearly = connect(service, b"GET /health?" + b"x" * 60_000 + b" HTTP/1.0\r\n\r\n")
    assert rest_of(nearly).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_its_answers_is_cut_off(service: Service) -> None:
    connection = connect(service)
    connection.settimeout(0.2)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100

    def is_cut() -> bool:
        try:
            connection.send(asked)
        except TimeoutError:
            pass
        except OSError:
            return True
        return service.metric(CLOSED_AT, reason="answer_unread") > 0

    with connection:
        assert wait_until(is_cut, PATIENCE_SECONDS)


def test_a_crowd_of_silent_connections_leaves_room_for_who_asks(tmp_path: Path) -> None:
    """Whatever its descriptors allow: the worker keeps some for itself, and who says nothing gives way."""
    descriptors, crowd = 512, 700
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * crowd)), hard))
    load_demo(tmp_path)
    settings = {"CLIENT_HEADER_TIMEOUT_SECONDS": "600", "EVENT_FLUSHER": "false"}
    starts = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", sys.executable, "-m", "gunicorn"]
    port = free_port()
    command = [*starts, "-c", "gunicorn.conf.py", "api.server:app"]
    bound = {"GUNICORN_BIND": f"{LOOPBACK}:{port}", "GUNICORN_WORKERS": "1"}
    with Service(tmp_path, command, {**bound, **settings}, port) as service, ExitStack() as stack:
        service.wait_until_ready()
        long_there = stack.enter_context(connect(service))
        for number in range(crowd):
            stack.enter_context(connect(service))
            if number % 100 == 0:
                assert len(service.feed(N_VIDEOS=1)["items"]) == 1
                service.client.close()  # so that each comes by a connection of its own
                service.client = type(service.client)(base_url=service.address, timeout=PATIENCE_SECONDS)
        assert rest_of(long_there) == b"", "the longest silent goes first"
        assert service.metric(CLOSED_AT, reason="made_room") > 300
        service.wait_until(lambda: "connections were refused or closed" in service.log, 20)
        for worker in service.workers:
            assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < descriptors - 100
