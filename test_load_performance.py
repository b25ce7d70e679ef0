"""Drive a running service, and say which phase of the deployment guide its figures satisfy.

    python test_load_performance.py                                         the service on this machine, 10 s
    python test_load_performance.py http://10.0.0.7:5005 --phase 3          exit status 1 where phase 3 is not met
    python test_load_performance.py --rate 500 --duration 60 --users users.txt --json

Without ``--rate`` the loop is closed: each connection asks again as soon as it is answered. The rate is then the most
that the service gives to so many connections. With ``--rate`` it is open: requests are due on a fixed schedule,
whatever the service does, as those of real clients are. The rate is then the one that was asked for, as long as the
service keeps up, and latencies are what a client sees at that rate.

Coordinated omission: a closed loop does not send while it waits, so a service that stands still for a second shows in
one request a connection, and not in the hundreds that real clients would have sent. It is avoided in both loops:

- open: latency counts from when a request was due, not from when a connection was free to send it;
- closed: each connection is expected to ask once an interval (connections / rate). An answer that took longer than
  two intervals also stands for the requests that were not sent meanwhile: with latency x and interval e, samples of
  x - e, x - 2e, ... down to e are added, as wrk 4 and HdrHistogram do (G. Tene, "How NOT to Measure Latency").
  ``--json`` has the figures without this as well.

Percentiles are those of right answers, and of requests that were given up, which count with the time waited. Other
errors do not count, since a quick one would flatter. Only right answers count for the rate.

It stands alone, so that it can be copied to the machine that plays the clients: msgspec, numpy, rich and typer are
all that it needs.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import selectors
import signal
import socket
import ssl
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

IDS_FIELDS = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}
# More failed requests than the alert allows prove no phase.
LARGEST_ERROR_RATE = 0.01
# At 200 req/s, phase 3's, 20 connections wait 100 ms on average, so that its P95 of 150 ms can be had in a closed loop.
CLOSED_LOOP_CONNECTIONS = 20
OPEN_LOOP_CONNECTIONS = 100
# Between a refused connection and the next attempt in a closed loop, which would else count refusals by the thousand.
RETRY_SECONDS = 0.1
REPORT_SECONDS = 0.2
BUSY_GENERATOR = 0.9
READ_WHOLE = 8  # one answer in so many is read whole; of the others the beginning, unless that is not a feed's
READ_BYTES = 1 << 17
LARGEST_ANSWER_BYTES = 1 << 26
LARGEST_HEAD_BYTES = 1 << 16
# What says that the requests are wrong, rather than that the service is slow or ill.
OUR_FAULT = {
    401: "it wants an API key (--api-key)",
    403: "it refuses this API key",
    404: "there is no feed at this address (is --api-path right?)",
    405: "there is no feed at this address (is --api-path right?)",
    415: "it does not take JSON",
    422: "it refuses what is asked",
}
KINDS = {
    "closed": "closed: the connection ended before a whole answer",
    "connect": "connect: no connection",
    "timeout": "timeout: given up",
    "wrong_body": "wrong body: not a feed",
}

NOT_MET, NOT_MEASURED, INTERRUPTED = 1, 2, 130


class CannotMeasure(Exception):
    """There is nothing to measure; the message says why, for a person."""


# Verdict.


@dataclass(frozen=True)
class Phase:
    """What the deployment guide promises of a phase. Both figures are exclusive limits."""

    name: str
    requests_per_second: float
    p95_ms: float | None = None

    @property
    def requirement(self) -> str:
        rate = f"> {self.requests_per_second:,.0f} req/s"
        return rate if self.p95_ms is None else f"{rate} and P95 < {self.p95_ms:.0f} ms"

    def is_met(self, requests_per_second: float, p95_ms: float | None, error_rate: float) -> bool:
        """Whether these figures satisfy it. ``p95_ms`` is None where nothing was answered."""
        return (
            error_rate <= LARGEST_ERROR_RATE
            and requests_per_second > self.requests_per_second
            and (self.p95_ms is None or (p95_ms is not None and p95_ms < self.p95_ms))
        )


PHASES = (Phase("1", 50), Phase("2", 100), Phase("3", 200, p95_ms=150), Phase("next", 1000))


def highest_phase(met: Mapping[str, bool]) -> str | None:
    """The last phase that is met together with all before it: a fast service with a long tail is in phase 2."""
    satisfied = None
    for phase in PHASES:
        if not met[phase.name]:
            break
        satisfied = phase.name
    return satisfied


# Figures.


@dataclass(frozen=True)
class Latency:
    """In milliseconds."""

    average: float
    p50: float
    p95: float
    p99: float
    max: float


def with_omitted(latencies: NDArray[np.float64], interval: float) -> NDArray[np.float64]:
    """Latencies, (n,) in seconds, and those of the requests that a closed loop did not send while it waited."""
    if interval <= 0 or latencies.size == 0:
        return latencies
    counts = np.maximum(np.ceil(latencies / interval).astype(np.int64) - 2, 0)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(1, counts.sum() + 1) - first
    return np.concatenate([latencies, np.repeat(latencies, counts) - place * interval])


def summary(latencies: NDArray[np.float64]) -> Latency | None:
    """None where there are none. A percentile is the smallest latency that so many are not above."""
    if latencies.size == 0:
        return None
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99], method="inverted_cdf") * 1000
    return Latency(float(latencies.mean()) * 1000, float(p50), float(p95), float(p99), float(latencies.max()) * 1000)


@dataclass(frozen=True)
class Figures:
    """What one run measured. Of ``requests``, those that were due in the measured time, ``errors`` failed."""

    requests: int
    requests_per_second: float
    latency_ms: Latency | None
    uncorrected_latency_ms: Latency | None
    errors: Mapping[str, int]
    generator_busy: float

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def error_rate(self) -> float:
        return self.failed / self.requests if self.requests else 0.0

    def met(self) -> dict[str, bool]:
        """By the name of the phase."""
        p95 = self.latency_ms.p95 if self.latency_ms else None
        return {phase.name: phase.is_met(self.requests_per_second, p95, self.error_rate) for phase in PHASES}


# What is sent, and what is a right answer.


@dataclass(frozen=True)
class Plan:
    """A load. ``address`` is what getaddrinfo found, so that no name is looked up under load."""

    url: str
    family: int
    address: tuple[Any, ...]
    tls_name: str | None
    endpoint: str
    size: int
    users: Sequence[int]
    head: bytes
    concurrency: int
    processes: int
    rate: float | None
    duration_seconds: float
    warm_up_seconds: float
    timeout_seconds: float
    keep_alive: bool

    def request(self, place: int) -> bytes:
        """The ``place``-th request: one user after the other."""
        body = b'{"SELF_ID": %d, "N_VIDEOS": %d}' % (self.users[place % len(self.users)], self.size)
        return b"%b%d\r\n\r\n%b" % (self.head, len(body), body)


def request_head(host: str, path: str, api_key: str | None, keep_alive: bool) -> bytes:
    """All of a request up to the value of Content-Length, which comes last."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "User-Agent: test_load_performance"]
    lines += [f"X-API-Key: {api_key}"] if api_key else []
    lines += [] if keep_alive else ["Connection: close"]
    return "\r\n".join([*lines, "Content-Type: application/json", "Content-Length: "]).encode("latin-1")


class Answer(NamedTuple):
    """Of HTTP/1.1. ``body`` may be a view of what was read, so it is to be used before the next read."""

    status: int
    body: memoryview
    closes: bool


def read_answer(data: memoryview, has_ended: bool) -> Answer | None:
    """The answer that ``data`` begins with; None where more of it is to come. ``has_ended``: nothing more will.

    Raises ValueError where it is no HTTP.
    """
    start = bytes(data[:1024])
    end = start.find(b"\r\n\r\n")
    if end < 0:
        start = bytes(data[:LARGEST_HEAD_BYTES])
        end = start.find(b"\r\n\r\n")
        if end < 0:
            if not start.startswith(b"HTTP/1."[: len(start)]) or len(start) == LARGEST_HEAD_BYTES:
                raise ValueError("no HTTP")
            return None
    head = start[: end + 2].lower()
    if not head.startswith(b"http/1."):
        raise ValueError("no HTTP")
    status = int(head[9:12])
    closes = b"\r\nconnection: close\r\n" in head or head.startswith(b"http/1.0")
    body = data[end + 4 :]
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 : head.index(b"\r\n", at + 17)])
        return Answer(status, body[:length], closes) if len(body) >= length else None
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        joined = join_chunks(bytes(body))
        return None if joined is None else Answer(status, memoryview(joined), closes)
    return Answer(status, body, True) if has_ended else None


def join_chunks(data: bytes) -> bytes | None:
    """What a chunked body holds; None where its end is missing. Raises ValueError where it is no chunked body."""
    parts: list[bytes] = []
    at = 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].partition(b";")[0], 16)
        if size == 0:
            # After it come trailers, if any, and an empty line.
            return b"".join(parts) if data.find(b"\r\n\r\n", line_end) >= 0 else None
        parts.append(data[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2
    return None


class FeedCheck:
    """Whether an answer's body is a feed by the contract."""

    def __init__(self, endpoint: str, size: int) -> None:
        fields = [("ids", list[str]), ("items", list[msgspec.Raw])]
        body = msgspec.defstruct("Body", fields, rename={"ids": IDS_FIELDS[endpoint]})
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Feed", [("statusCode", int), ("body", body)]))
        self._size = size
        # As the service writes it, up to the first id.
        self._beginning = b'{"statusCode":200,"body":{"%b":["' % IDS_FIELDS[endpoint].encode()

    def begins_as_feed(self, content: memoryview) -> bool:
        """Costs a tenth of ``is_feed``, which would be a fifth of what the generator does. False says nothing."""
        return bytes(content[: len(self._beginning)]) == self._beginning

    def is_feed(self, content: bytes | memoryview) -> bool:
        """All of the JSON is read; ids and items are counted."""
        try:
            feed: Any = self._decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return feed.statusCode == 200 and 0 < len(feed.body.ids) == len(feed.body.items) <= self._size


# Generating.


@dataclass
class Share:
    """What one generating process measured."""

    latencies: bytes  # float64 seconds
    requests: int
    answered: int  # right answers that arrived in the measured time
    errors: Counter[str]
    busy: float  # of one core


class Connection:
    """A place for one request at a time, and the connection that it keeps for the next one."""

    __slots__ = ("buffer", "due", "filled", "is_connected", "is_waiting", "request", "sock")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.is_connected = False  # with TLS, where asked for
        self.is_waiting = False  # for the answer to its request
        self.request = b""
        self.due = 0.0
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.filled = 0  # bytes of the buffer, with an answer that is not whole yet

    def grow(self) -> None:
        """Twice as large a buffer with the same content."""
        larger = bytearray(2 * len(self.buffer))
        larger[: self.filled] = self.buffer[: self.filled]
        self.buffer = memoryview(larger)


class Generator:
    """One process's part of a load: a selector and non-blocking sockets in one thread.

    Not asyncio: what a request costs here is taken from a service on the same machine, and there it costs twice
    as much.
    """

    def __init__(self, plan: Plan, place: int, pipe: Pipe) -> None:
        self._plan = plan
        self._place = place
        self._pipe = pipe
        self._check = FeedCheck(plan.endpoint, plan.size)
        self._selector = selectors.DefaultSelector()
        self._tls = ssl.create_default_context() if plan.tls_name else None
        self._connections = [Connection() for _ in range(place, plan.concurrency, plan.processes)]
        self._free = self._connections.copy()
        self._paused: deque[tuple[float, Connection]] = deque()
        self._started = 0
        self._latencies = array("d")
        self._requests = self._answered = 0
        self._errors: Counter[str] = Counter()
        self._done = self._failed = 0  # with those of the warm-up, for the progress bar
        self._begin = self._measure_from = self._end = 0.0

    def run(self, begin: float) -> Share:
        """Send from ``begin`` (time.monotonic) until the time is over, and wait for what is under way."""
        plan = self._plan
        self._begin = begin
        self._measure_from = begin + plan.warm_up_seconds
        self._end = self._measure_from + plan.duration_seconds
        sweep_at = report_at = begin
        time.sleep(max(0.0, begin - time.monotonic()))
        used = time.process_time()
        while (now := time.monotonic()) < self._end or not self._is_over():
            if now >= report_at:
                report_at = now + REPORT_SECONDS
                self._pipe.send((self._done, self._failed))
            if now >= sweep_at:
                sweep_at = now + min(0.05, plan.timeout_seconds / 10)
                self._give_up(now - plan.timeout_seconds, now)
            self._start_what_is_due(now)
            for key, _ in self._selector.select(max(0.0, self._wake_at(sweep_at) - now)):
                self._on_event(key.data)
        busy = (time.process_time() - used) / (now - begin)
        for connection in self._connections:
            self._disconnect(connection)
        return Share(self._latencies.tobytes(), self._requests, self._answered, self._errors, busy)

    # The schedule.

    def _next_due(self) -> float:
        """When the next request of this process is due in an open loop; processes take turns."""
        assert self._plan.rate is not None  # noqa: S101
        return self._begin + (self._started * self._plan.processes + self._place) / self._plan.rate

    def _start_what_is_due(self, now: float) -> None:
        if self._plan.rate is None:
            while self._paused and self._paused[0][0] <= now:
                self._free.append(self._paused.popleft()[1])
            for _ in range(len(self._free) if now < self._end else 0):
                self._start(self._free.pop(), now)
            return
        while self._free and (due := self._next_due()) <= now and due < self._end:
            # The one that was used last, so that a service that needs few connections sees few.
            self._start(self._free.pop(), due)

    def _wake_at(self, sweep_at: float) -> float:
        """When there is something to do even where nothing is received."""
        if not self._free:
            return sweep_at
        if self._plan.rate is None:
            return sweep_at if time.monotonic() >= self._end else 0.0
        due = self._next_due()
        return min(sweep_at, due) if due < self._end else sweep_at

    def _is_over(self) -> bool:
        """After the end: whether every request that was due has been answered or given up."""
        has_more = self._plan.rate is not None and self._next_due() < self._end
        return not has_more and not any(connection.is_waiting for connection in self._connections)

    def _give_up(self, before: float, now: float) -> None:
        """On requests that were due before then, under way or not."""
        for connection in self._connections:
            if connection.is_waiting and connection.due < before:
                self._fail(connection, "timeout")
        while self._plan.rate is not None and (due := self._next_due()) < min(before, self._end):
            self._started += 1
            self._count("timeout", due, now)

    # One request.

    def _start(self, connection: Connection, due: float) -> None:
        connection.request = self._plan.request(self._started * self._plan.processes + self._place)
        connection.due = due
        connection.is_waiting = True
        self._started += 1
        if connection.is_connected:
            self._send(connection)
        else:
            self._connect(connection)

    def _connect(self, connection: Connection) -> None:
        sock = socket.socket(self._plan.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        connection.sock = sock
        events = selectors.EVENT_READ
        try:
            sock.connect(self._plan.address)
        except BlockingIOError:
            events = selectors.EVENT_WRITE
        except OSError:
            self._fail(connection, "connect")
            return
        if self._tls:
            connection.sock = sock = self._tls.wrap_socket(
                sock, server_hostname=self._plan.tls_name, do_handshake_on_connect=False
            )
        self._selector.register(sock, events, connection)
        if events == selectors.EVENT_READ:
            self._go_on_connecting(connection)

    def _go_on_connecting(self, connection: Connection) -> None:
        """After the network's part of it; with TLS, more than once."""
        sock, events = connection.sock, selectors.EVENT_READ
        assert sock is not None  # noqa: S101
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(connection, "connect")
            return
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection.is_connected = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            events = selectors.EVENT_WRITE
        except OSError:
            self._fail(connection, "connect")
            return
        if self._selector.get_key(sock).events != events:
            self._selector.modify(sock, events, connection)
        if connection.is_connected:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        assert connection.sock is not None  # noqa: S101
        try:
            sent = connection.sock.send(connection.request)
        except OSError:
            sent = 0
        if sent < len(connection.request):  # some hundred bytes fit: all that was sent before has been answered
            self._fail(connection, "closed")

    def _on_event(self, connection: Connection) -> None:
        sock = connection.sock
        if sock is None:
            return
        if not connection.is_connected:
            self._go_on_connecting(connection)
            return
        while connection.sock is sock:
            try:
                size = sock.recv_into(connection.buffer[connection.filled :])
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                size = 0
            self._on_data(connection, size)
            if self._tls is None:  # with TLS there may be decrypted bytes, which no event announces
                return

    def _on_data(self, connection: Connection, size: int) -> None:
        """``size`` bytes more are in its buffer; 0 where the server has closed the connection."""
        if not connection.is_waiting:
            self._disconnect(connection)  # closed while idle, which a server may do
            return
        connection.filled += size
        data = connection.buffer[: connection.filled]
        try:
            answer = read_answer(data, size == 0) if data else None
        except ValueError:
            self._fail(connection, "wrong_body")
            return
        if answer is not None:
            self._finish(connection, answer)
        elif size == 0:
            self._fail(connection, "closed")
        elif connection.filled >= LARGEST_ANSWER_BYTES:
            self._fail(connection, "wrong_body")
        elif connection.filled == len(connection.buffer):
            connection.grow()

    def _finish(self, connection: Connection, answer: Answer) -> None:
        now = time.monotonic()
        if answer.status != 200:
            self._count(f"status_{answer.status}", connection.due, now)
        elif not (self._done % READ_WHOLE and self._check.begins_as_feed(answer.body)) and not self._check.is_feed(
            answer.body
        ):
            self._count("wrong_body", connection.due, now)
        else:
            self._count("", connection.due, now)
        connection.is_waiting = False
        connection.filled = 0
        if answer.closes or not self._plan.keep_alive:
            self._disconnect(connection)
        if self._plan.rate is None and now < self._end:
            self._start(connection, now)  # at once, rather than after the other events
        else:
            self._free.append(connection)

    def _fail(self, connection: Connection, kind: str) -> None:
        now = time.monotonic()
        self._count(kind, connection.due, now)
        connection.is_waiting = False
        connection.filled = 0
        self._disconnect(connection)
        if kind == "connect" and self._plan.rate is None:
            self._paused.append((now + RETRY_SECONDS, connection))
        else:
            self._free.append(connection)

    def _disconnect(self, connection: Connection) -> None:
        if connection.sock is not None:
            with suppress(KeyError, ValueError):  # was refused before it was watched
                self._selector.unregister(connection.sock)
            connection.sock.close()
            connection.sock = None
        connection.is_connected = False

    def _count(self, kind: str, due: float, now: float) -> None:
        """``kind`` of failure; empty where there is none.

        In the measured time are, in an open loop, requests that were due in it; in a closed one, those that
        were answered or failed in it or under way at its end: whatever a standstill holds up is among them.
        """
        self._done += 1
        if kind:
            self._failed += 1
        elif self._measure_from <= now < self._end:
            self._answered += 1
        if (now if self._plan.rate is None else due) < self._measure_from:
            return
        self._requests += 1
        if kind:
            self._errors[kind] += 1
        if kind in {"", "timeout"}:
            self._latencies.append(now - due)


def generate(plan: Plan, place: int, pipe: Pipe) -> None:
    """A generating process: tells when it is ready, is told when to begin, and sends its progress and its share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it, which ends it
    generator = Generator(plan, place, pipe)
    gc.freeze()
    gc.disable()  # a request makes no cycles, and a collection would be counted as the service's latency
    with suppress(BrokenPipeError):
        pipe.send(None)
        pipe.send(generator.run(pipe.recv()))


# Running.


def run(plan: Plan, progress: Progress) -> Figures:
    """Drive the load from ``plan.processes`` processes. Raises CannotMeasure where one of them ends early."""
    with generating_processes(plan) as pipes:
        for pipe in pipes:
            receive(pipe)
        seconds = plan.warm_up_seconds + plan.duration_seconds
        begin = time.monotonic() + 0.05
        for pipe in pipes:
            pipe.send(begin)
        counts = dict.fromkeys(pipes, (0, 0))
        shares: dict[Pipe, Share] = {}
        task = progress.add_task("warming up" if plan.warm_up_seconds else "measuring", total=seconds, counts="")
        while len(shares) < len(pipes):
            for pipe in pipes:
                if pipe in shares or not pipe.poll(REPORT_SECONDS):
                    continue
                message = receive(pipe)
                if isinstance(message, Share):
                    shares[pipe] = message
                else:
                    counts[pipe] = message
            passed = time.monotonic() - begin
            done, failed = (sum(column) for column in zip(*counts.values(), strict=True))
            name = "warming up" if passed < plan.warm_up_seconds else "measuring"
            progress.update(
                task,
                completed=min(passed, seconds),
                description=name if passed < seconds else "last answers",
                counts=f"{done:,} requests, {failed:,} failed",
            )
    return add_up(plan, list(shares.values()))


@contextmanager
def generating_processes(plan: Plan) -> Iterator[list[Pipe]]:
    """Pipes to the processes, which are gone afterwards."""
    context = multiprocessing.get_context("spawn")  # numpy's threads and the progress bar's do not survive a fork
    processes, pipes = [], []
    try:
        for place in range(plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=generate, args=(plan, place, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def receive(pipe: Pipe) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise CannotMeasure("A generating process ended before its time.") from None


def add_up(plan: Plan, shares: Sequence[Share]) -> Figures:
    """The figures of all processes together."""
    latencies = np.concatenate([np.frombuffer(share.latencies) for share in shares])
    requests = sum(share.requests for share in shares)
    interval = plan.concurrency * plan.duration_seconds / requests if requests else 0.0
    return Figures(
        requests=requests,
        requests_per_second=sum(share.answered for share in shares) / plan.duration_seconds,
        latency_ms=summary(with_omitted(latencies, interval) if plan.rate is None else latencies),
        uncorrected_latency_ms=summary(latencies),
        errors=sum((share.errors for share in shares), Counter[str]()),
        generator_busy=max(share.busy for share in shares),
    )


def find_address(place: SplitResult, timeout_seconds: float) -> tuple[int, tuple[Any, ...]]:
    """Family and address of the first of a host's addresses that takes a connection. Raises CannotMeasure."""
    where = f"{place.scheme}://{place.netloc} cannot be reached"
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(place.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotMeasure(f"{where}: {error.strerror}.") from None
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as sock:
            sock.settimeout(timeout_seconds)
            try:
                sock.connect(address)
            except TimeoutError:
                reason = f"no connection within {timeout_seconds:g} s."
            except OSError as error:
                reason = f"{error.strerror}. Is the service running there?"
            else:
                return family, address
    raise CannotMeasure(f"{where}: {reason}")


def ask_once(plan: Plan) -> None:
    """Raises CannotMeasure where the requests themselves are wrong.

    A service that answers ill, or not at all, is measured: that is what errors are counted for.
    """
    with socket.socket(plan.family, socket.SOCK_STREAM) as plain:
        plain.settimeout(plan.timeout_seconds)
        try:
            plain.connect(plan.address)
            sock: socket.socket = plain
            if plan.tls_name:
                sock = ssl.create_default_context().wrap_socket(plain, server_hostname=plan.tls_name)
        except ssl.SSLError as error:
            raise CannotMeasure(f"{plan.url} cannot be reached with TLS: {error.reason or error}.") from None
        except OSError:
            return
        answer = _answer_of(sock, plan.request(0))
        sock.close()
    if answer and answer.status in OUR_FAULT:
        said = bytes(answer.body[:300]).decode(errors="replace")
        raise CannotMeasure(f"{plan.url} answers {answer.status}: {OUR_FAULT[answer.status]}. It says: {said}")


def _answer_of(sock: socket.socket, request: bytes) -> Answer | None:
    """None where there is none, for whatever reason."""
    data, answer = b"", None
    with suppress(OSError, ValueError):
        sock.sendall(request)
        while answer is None and (more := sock.recv(READ_BYTES)):
            data += more
            answer = read_answer(memoryview(data), False)
    return answer


# The command.


def as_json(plan: Plan, figures: Figures, asked: str | None) -> dict[str, Any]:
    """What ``--json`` prints. A figure that there is none of is null."""
    met = figures.met()
    status = {kind.removeprefix("status_"): n for kind, n in figures.errors.items() if kind.startswith("status_")}
    return {
        "url": plan.url,
        "loop": "closed" if plan.rate is None else "open",
        "rate_asked": plan.rate,
        "concurrency": plan.concurrency,
        "processes": plan.processes,
        "keep_alive": plan.keep_alive,
        "duration_seconds": plan.duration_seconds,
        "warm_up_seconds": plan.warm_up_seconds,
        "requests": figures.requests,
        "requests_per_second": figures.requests_per_second,
        "latency_ms": asdict(figures.latency_ms) if figures.latency_ms else None,
        "uncorrected_latency_ms": asdict(figures.uncorrected_latency_ms) if figures.uncorrected_latency_ms else None,
        "error_rate": figures.error_rate,
        "errors": {
            "total": figures.failed,
            **{kind: figures.errors.get(kind, 0) for kind in ("connect", "timeout", "closed", "wrong_body")},
            "status": dict(sorted(status.items())),
        },
        "generator_busy": figures.generator_busy,
        "phases": [{"phase": p.name, "requirement": p.requirement, "met": met[p.name]} for p in PHASES],
        "phase_satisfied": highest_phase(met),
        "phase_asked": asked,
        "phase_asked_met": met[asked] if asked else None,
    }


def as_text(plan: Plan, figures: Figures, asked: str | None) -> str:
    """The same for people."""
    if plan.rate is None:
        loop = f"closed loop of {plan.concurrency} connections: the most that the service gives to so many"
        of = "what omitted requests would have waited is added"
    else:
        loop = f"open loop, {plan.rate:,.6g} req/s asked for, on at most {plan.concurrency} connections"
        of = "from when a request was due"
    lines = [
        plan.url,
        f"{loop}; {plan.duration_seconds:g} s after {plan.warm_up_seconds:g} s of warm-up",
        "",
        f"requests/s  {figures.requests_per_second:,.1f}",
    ]
    if figures.latency_ms:
        names = {"average": "average", "p50": "P50", "p95": "P95", "p99": "P99", "max": "max"}
        parts = [f"{name} {getattr(figures.latency_ms, key):,.1f} ms" for key, name in names.items()]
        lines.append(f"latency     {'  '.join(parts)}  ({of})")
    lines.append(f"errors      {figures.error_rate:.2%} ({figures.failed:,} of {figures.requests:,} requests)")
    lines += [
        f"            {count:,} {KINDS.get(kind, kind.replace('_', ' '))}"
        for kind, count in sorted(figures.errors.items())
    ]
    lines.append("")
    met = figures.met()
    for phase in PHASES:
        verdict = "met" if met[phase.name] else "not met"
        lines.append(f"phase {phase.name:<5} {verdict:<8} {phase.requirement}")
    if figures.error_rate > LARGEST_ERROR_RATE:
        lines.append(f"No phase is met where more than {LARGEST_ERROR_RATE:.0%} of the requests fail.")
    satisfied = highest_phase(met)
    lines.append(f"These figures satisfy phase {satisfied}." if satisfied else "These figures satisfy no phase.")
    if asked:
        lines.append(f"Asked for: phase {asked}, {'met' if met[asked] else 'not met'}.")
    return "\n".join(lines)


def read_users(text: str) -> Sequence[int]:
    """``1-1000``, ``7``, or a file with one number a line. Raises BadParameter."""
    first, dash, last = text.partition("-")
    if first.isdecimal() and (not dash or last.isdecimal()):
        users: Sequence[int] = range(int(first), int(last or first) + 1)
    else:
        try:
            users = array("q", map(int, Path(text).read_text("utf-8").split()))
        except OSError as error:
            raise typer.BadParameter(f"{text!r} is no range such as 1-1000, and no file: {error.strerror}") from None
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(f"{text} must hold one user's number a line: {error}") from None
    if not users or (users[0] if isinstance(users, range) else min(users)) < 0:
        raise typer.BadParameter(f"{text!r} names no user")
    return users


def read_address(text: str) -> SplitResult:
    """Raises BadParameter."""
    place = urlsplit(text if "//" in text else f"http://{text}")
    try:
        is_good = place.scheme in {"http", "https"} and bool(place.hostname) and place.port != 0
    except ValueError:
        is_good = False
    if not is_good or place.path not in {"", "/"} or place.query:
        raise typer.BadParameter(f"{text!r} is not an address such as http://127.0.0.1:5005")
    return place


def refuse_contradictions(
    phase: str | None, rate: float | None, endpoint: str, concurrency: int, processes: int
) -> None:
    """Raises BadParameter."""
    phases = {known.name: known for known in PHASES}
    if endpoint not in IDS_FIELDS:
        raise typer.BadParameter(f"{endpoint!r} is not one of {', '.join(IDS_FIELDS)}", param_hint="--endpoint")
    if phase is not None and phase not in phases:
        raise typer.BadParameter(f"{phase!r} is not one of {', '.join(phases)}", param_hint="--phase")
    if phase is not None and rate is not None and rate <= phases[phase].requests_per_second:
        raise typer.BadParameter(
            f"phase {phase} wants {phases[phase].requirement}: {rate:g} cannot show that", param_hint="--rate"
        )
    if processes > concurrency:
        raise typer.BadParameter("each process needs a connection: see --concurrency", param_hint="--processes")


def load_test(
    address: Annotated[str, typer.Argument(help="Where the service runs.")] = "http://127.0.0.1:5005",
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="Connections; with --rate, the most of them. Default: 20; with --rate, 100.",
        ),
    ] = None,
    duration: Annotated[float, typer.Option("--duration", "-d", min=0.1, help="Seconds that are measured.")] = 10,
    users: Annotated[
        str, typer.Option(help="Whose feeds: a range, or a file with one user's number a line. One after the other.")
    ] = "1-1000",
    endpoint: Annotated[str, typer.Option(help="total, discover or flow.")] = "total",
    size: Annotated[int, typer.Option(min=1, max=100, help="Items of a feed.")] = 24,
    phase: Annotated[
        str | None, typer.Option(help="1, 2, 3 or next: exit with status 1 where its figures are not met.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Open loop: so many requests a second on a fixed schedule, latency from when each was due. "
            "Default: a closed loop, each connection asking again once it is answered.",
        ),
    ] = None,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before what is measured.")] = 2,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a request is given up.")] = 10,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Generating processes, where one core is not enough.")
    ] = 1,
    keep_alive: Annotated[
        bool, typer.Option("--keep-alive/--no-keep-alive", help="Or a connection for each request, as `ab` does.")
    ] = True,
    api_key: Annotated[
        str | None, typer.Option(envvar="API_KEY", help="Where the service has API_KEYS.", show_default=False)
    ] = None,
    api_path: Annotated[str, typer.Option(help="The service's API_PATH.")] = "/api",
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Drive a running service, and say which phase of the deployment guide its figures satisfy.

    \b
    $ python test_load_performance.py --phase 3
    $ python test_load_performance.py http://10.0.0.7:5005 --concurrency 100 --duration 60 --users users.txt
    $ python test_load_performance.py --rate 500 --json | jq .latency_ms.p99

    Requests a second: right answers only. In a closed loop, the most that the service gives to so many
    connections; in an open loop (--rate), what was asked for, while the service keeps up.

    Latencies: of right answers, and of requests given up, with the time waited. Coordinated omission (a generator
    that waits with a service that stands still, and so hardly sees it) is avoided: an open loop counts from when
    a request was due. A closed loop expects each connection to ask once in connections / rate seconds, and adds
    for an answer that took more than twice that what the requests not sent meanwhile would have waited, as wrk
    does; --json has the figures without this too.

    Exit status: 1 where the phase asked for is not met, 2 for wrong use and where there is no service.
    """
    connections = concurrency or (CLOSED_LOOP_CONNECTIONS if rate is None else OPEN_LOOP_CONNECTIONS)
    refuse_contradictions(phase, rate, endpoint, connections, processes)
    place = read_address(address)
    path = f"{api_path.rstrip('/')}/search/{endpoint}"
    try:
        head = request_head(place.netloc.rpartition("@")[2], path, api_key, keep_alive)
        chosen = read_users(users)
        family, found = find_address(place, timeout)
        plan = Plan(
            url=f"{place.scheme}://{place.netloc}{path}",
            family=family,
            address=found,
            tls_name=place.hostname if place.scheme == "https" else None,
            endpoint=endpoint,
            size=size,
            users=chosen,
            head=head,
            concurrency=connections,
            processes=processes,
            rate=rate,
            duration_seconds=duration,
            warm_up_seconds=warm_up,
            timeout_seconds=timeout,
            keep_alive=keep_alive,
        )
        ask_once(plan)
        with progress_bar() as progress:
            figures = run(plan, progress)
    except CannotMeasure as error:
        print(error, file=sys.stderr)
        raise typer.Exit(NOT_MEASURED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    print(json.dumps(as_json(plan, figures, phase)) if is_json else as_text(plan, figures, phase))
    if figures.generator_busy > BUSY_GENERATOR:
        print(
            f"The generator was busy {figures.generator_busy:.0%} of the time, so this may be its own limit: "
            "use --processes, or another machine.",
            file=sys.stderr,
        )
    if phase and not figures.met()[phase]:
        raise typer.Exit(NOT_MET)


def progress_bar() -> Progress:
    """On standard error, and only where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def main() -> int:
    """Its exit status; an output that cannot be written (a full disk, a reader that left) is a sentence, or nothing."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(load_test)
    status = 0
    try:
        try:
            command()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again to write what is left
        if isinstance(error, BrokenPipeError):
            return 141  # what a shell says of it: 128 and SIGPIPE
        with suppress(OSError):
            sys.stderr.write(f"The output cannot be written: {error.strerror}\n")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
