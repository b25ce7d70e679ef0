"""How long, how large and how many connections may be: what keeps one client from taking a worker from all others.

This module decides; the protocol (protocol.py) tells it where each connection is and carries out what it says, so that
another server can keep the decisions. Nothing here is done per request: once a second all connections are looked at,
and one that is found at the same point for too long is closed. A connection costs some microseconds when it opens.
"""

import asyncio
import enum
import ipaddress
import resource
import time
from collections import Counter
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

import structlog

from recommendation_service.core.config import Settings

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 1.0
LOG_SECONDS = 60.0
# So long a connection that was answered with a refusal is kept for its client to read that.
FAREWELL_SECONDS = 2.0
# More than so many are closed without a word: while a crowd is kept out, descriptors matter more.
MOST_FAREWELLS = 64
# Under pressure a head that is not there after so long has to give way; from a client that means well it comes at once.
PROMPT_SECONDS = 2.0
# A full worker closes one in so many at a time, so that it looks for them rarely.
ROOM_SHARE = 16

USUAL_CONNECTIONS = 4096
# Of a worker, for everything that is no client's connection: listeners, log, memory, Redis.
SPARE_DESCRIPTORS = 256


class Stage(enum.IntEnum):
    """Where a connection is."""

    SILENT = 0  # nothing of a first request has come
    HEAD = 1  # a request's head has begun
    BODY = 2  # its head is there and its body is not
    ANSWER = 3  # the service is at work
    UNREAD = 4  # the client has not taken its answer
    REST = 5  # answered before all was read
    IDLE = 6  # between two requests, with a timer of its own
    ENDING = 7  # told to go


class Reason(enum.StrEnum):
    """Why a connection was refused or closed."""

    SILENT = "silent"
    HEAD_LATE = "head_late"
    BODY_LATE = "body_late"
    UNREAD = "answer_unread"
    HEAD_LARGE = "head_large"
    NOT_HTTP = "not_http"
    ADDRESS_FULL = "address_full"
    WORKER_FULL = "worker_full"
    MADE_ROOM = "made_room"  # it was idle or late, and the worker was full


class Bounds(NamedTuple):
    """The settings of the door. By default there are none."""

    head_seconds: float = float("inf")
    body_seconds: float = float("inf")
    answer_seconds: float = float("inf")
    idle_seconds: float = float("inf")
    head_bytes: int = 1 << 62
    connections: int = 1 << 62
    per_address: int = 1 << 62


class Connection(Protocol):
    """What the door asks of one."""

    def stage(self) -> tuple[Stage, object]:
        """Where it is, and what that belongs to (a request): by identity, another one is another wait."""

    def has_unread(self) -> bool:
        """Whether bytes of its client wait to be read."""

    def turn_out(self, stage: Stage) -> None:
        """Close it, with an answer where that helps the client."""


class _Watched:
    """A connection's place: since when it is where it is."""

    __slots__ = ("network", "owner", "since", "stage")

    def __init__(self, network: str | None, since: float) -> None:
        self.network = network
        self.stage = Stage.SILENT
        self.owner: object = None
        self.since = since


class Door:
    """All connections of a worker."""

    def __init__(self, bounds: Bounds | None = None, count: Callable[[str], None] | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._count = count
        self._limits = {
            Stage.SILENT: (self.bounds.head_seconds, Reason.SILENT),
            Stage.HEAD: (self.bounds.head_seconds, Reason.HEAD_LATE),
            Stage.BODY: (self.bounds.body_seconds, Reason.BODY_LATE),
            Stage.UNREAD: (self.bounds.answer_seconds, Reason.UNREAD),
            # Whether its body has come by now is not known, and if it has, a proxy may keep it for a next request.
            Stage.REST: (self.bounds.body_seconds + self.bounds.idle_seconds, Reason.BODY_LATE),
            Stage.ENDING: (FAREWELL_SECONDS, None),
        }
        self._open: dict[Connection, _Watched] = {}
        self._networks: Counter[str] = Counter()
        self._farewells = 0
        self._time = 0.0  # in which this worker was there for its clients
        self._swept: float | None = None
        self._no_room = False  # until the next sweep
        self._unsaid: Counter[str] = Counter()
        self._logged = -LOG_SECONDS

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection, address: str | None, trusted: Container[str] = ()) -> Reason | None:
        """Take up a connection; None, or why it has to be refused. ``leave`` follows in each case.

        ``trusted``: addresses of proxies, which stand for many clients. None is the address of a Unix socket's client.
        """
        network = None if address is None or address in trusted else network_of(address)
        refusal = None
        if len(self._open) >= self.bounds.connections and not self._make_room():
            refusal = Reason.WORKER_FULL
        elif network is not None and self._networks[network] >= self.bounds.per_address:
            refusal = Reason.ADDRESS_FULL
        self._open[connection] = _Watched(network, self._time)
        if network is not None:
            self._networks[network] += 1
        if refusal is not None:
            self.note(refusal)
        return refusal

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        watched = self._open.pop(connection, None)
        if watched is not None and watched.network is not None:
            self._networks[watched.network] -= 1
            if not self._networks[watched.network]:
                del self._networks[watched.network]

    def may_linger(self) -> bool:
        """Whether one more connection may be kept only for its client to read a refusal."""
        self._farewells += 1
        return self._farewells <= MOST_FAREWELLS

    def note(self, reason: Reason) -> None:
        """Count a connection that is refused or closed."""
        if self._count is not None:
            self._count(reason)
        if reason is not Reason.SILENT:  # browsers open some in advance
            self._unsaid[reason] += 1

    def sweep(self, now: float) -> None:
        """Close what has been at one point for too long. ``now``: a monotonic clock's seconds.

        Time that this worker was away, at something else or stopped, is not held against its clients.
        """
        if self._swept is not None:
            self._time += min(now - self._swept, 2 * SWEEP_SECONDS)
        self._swept = now
        self._no_room = False
        self._farewells = 0
        for connection, watched in list(self._open.items()):
            stage, owner = connection.stage()
            if stage is not watched.stage or owner is not watched.owner:
                watched.stage, watched.owner, watched.since = stage, owner, self._time
            elif stage in self._limits:
                limit, reason = self._limits[stage]
                if self._time - watched.since >= limit:
                    if reason is not None:
                        self.note(reason)
                    connection.turn_out(stage)
            self._farewells += stage is Stage.ENDING
        self._log(now)

    async def watch(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(time.monotonic())

    def _make_room(self) -> bool:
        """Close some of those who would be missed least: silent ones, heads that are late, and idle ones."""
        if self._no_room:
            return False
        found: list[tuple[Stage, float, Connection]] = []
        for connection, watched in self._open.items():
            stage, owner = connection.stage()
            same = stage is watched.stage and owner is watched.owner
            late = stage is Stage.HEAD and same and self._time - watched.since >= PROMPT_SECONDS
            if (stage in (Stage.SILENT, Stage.IDLE) or late) and not connection.has_unread():
                found.append((stage, watched.since if same else self._time, connection))
        found.sort(key=lambda each: each[:2])
        chosen = found[: max(1, self.bounds.connections // ROOM_SHARE)]
        for stage, _, connection in chosen:
            self.note(Reason.MADE_ROOM)
            connection.turn_out(stage)
        self._no_room = not chosen
        return bool(chosen)

    def _log(self, now: float) -> None:
        if self._unsaid and now - self._logged >= LOG_SECONDS:
            [(network, most)] = self._networks.most_common(1) or [("", 0)]
            log.warning(
                "connections were refused or closed",
                reasons=dict(self._unsaid),
                open=len(self._open),
                most_allowed=self.bounds.connections,
                most_of_one_address=most,
                that_address=network,
            )
            self._unsaid.clear()
            self._logged = now


def network_of(address: str) -> str:
    """Whose an address is: of IPv6 a customer has 2⁶⁴ of them."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return address


def bounds_from(settings: Settings) -> Bounds:
    """As the settings say, and as this process's descriptors allow, whose soft limit is raised where that helps."""
    wanted = settings.max_connections or USUAL_CONNECTIONS
    spare = SPARE_DESCRIPTORS + settings.mysql_pool_size
    descriptors = raise_descriptors(wanted + spare)
    connections = min(wanted, max(descriptors - spare, descriptors // 2))
    if connections < wanted and settings.max_connections:
        log.warning("fewer connections than MAX_CONNECTIONS: see ulimit -n", descriptors=descriptors, most=connections)
    return Bounds(
        head_seconds=settings.client_header_timeout_seconds,
        body_seconds=settings.client_body_timeout_seconds,
        answer_seconds=settings.answer_timeout_seconds,
        idle_seconds=settings.gunicorn_keepalive,
        head_bytes=settings.max_header_bytes,
        connections=connections,
        per_address=settings.max_connections_per_address or max(1, connections // 4),
    )


def raise_descriptors(wanted: int) -> int:
    """The number of descriptors that this process may have, after trying to make it ``wanted``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most
