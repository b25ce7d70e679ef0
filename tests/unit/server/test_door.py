"""Who is let in, who has to go, and when."""

from __future__ import annotations

import resource
from collections import Counter

import pytest
import structlog

from recommendation_service.core.config import Settings
from recommendation_service.server import door as door_module
from recommendation_service.server.door import (
    FAREWELL_SECONDS,
    LOG_SECONDS,
    MOST_FAREWELLS,
    PROMPT_SECONDS,
    Bounds,
    Door,
    Reason,
    Stage,
    bounds_from,
    network_of,
)
from recommendation_service.telemetry.metrics import DOOR_REASONS

REQUEST = object()


class Client:
    """A connection that is where a test says."""

    def __init__(self, door: Door, stage: Stage = Stage.SILENT, owner: object = None) -> None:
        self.door = door
        self.at = stage
        self.owner = owner
        self.unread = False
        self.turned_out: Stage | None = None

    def stage(self) -> tuple[Stage, object]:
        return self.at, self.owner

    def has_unread(self) -> bool:
        return self.unread

    def turn_out(self, stage: Stage) -> None:
        self.turned_out = stage
        self.door.leave(self)


class Worker:
    """A door with a clock and counts."""

    def __init__(self, **bounds: float) -> None:
        self.counts: Counter[str] = Counter()
        self.door = Door(Bounds(**bounds), lambda reason: self.counts.update([reason]))  # type: ignore[arg-type]
        self.now = 1000.0
        self.door.sweep(self.now)

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.door.sweep(self.now)

    def admit(self, address: str | None = "192.0.2.1", stage: Stage = Stage.SILENT, owner: object = None) -> Client:
        client = Client(self.door, stage, owner)
        assert self.door.admit(client, address, {"10.0.0.1"}) is None
        return client

    def refuse(self, address: str | None = "192.0.2.1") -> Reason | None:
        client = Client(self.door)
        refusal = self.door.admit(client, address, {"10.0.0.1"})
        self.door.leave(client)
        return refusal


@pytest.mark.parametrize(
    ("stage", "seconds", "reason"),
    [
        (Stage.SILENT, 10, Reason.SILENT),
        (Stage.HEAD, 10, Reason.HEAD_LATE),
        (Stage.BODY, 30, Reason.BODY_LATE),
        (Stage.UNREAD, 60, Reason.UNREAD),
        (Stage.REST, 30 + 65, Reason.BODY_LATE),
    ],
)
def test_who_stays_at_one_point_for_too_long_has_to_go(stage: Stage, seconds: int, reason: Reason) -> None:
    worker = Worker(head_seconds=10, body_seconds=30, answer_seconds=60, idle_seconds=65)
    client = worker.admit(stage=stage, owner=REQUEST)
    worker.pass_seconds(seconds)
    assert client.turned_out is None
    worker.pass_seconds(1)
    assert client.turned_out is stage
    assert worker.counts == {reason: 1}
    assert len(worker.door) == 0


@pytest.mark.parametrize("stage", [Stage.ANSWER, Stage.IDLE])
def test_a_client_is_not_blamed_for_the_service_nor_for_being_idle(stage: Stage) -> None:
    worker = Worker(head_seconds=1, body_seconds=1, answer_seconds=1, idle_seconds=1)
    client = worker.admit(stage=stage, owner=REQUEST)
    worker.pass_seconds(1000)
    assert client.turned_out is None


def test_each_request_has_its_own_time() -> None:
    worker = Worker(head_seconds=10)
    client = worker.admit(stage=Stage.HEAD)
    for _ in range(5):
        client.owner = object()
        worker.pass_seconds(9)
    assert client.turned_out is None


def test_a_worker_that_was_away_holds_that_against_nobody() -> None:
    worker = Worker(head_seconds=10)
    client = worker.admit(stage=Stage.HEAD, owner=REQUEST)
    worker.pass_seconds(1)
    worker.now += 3600
    worker.pass_seconds(1)
    assert client.turned_out is None
    worker.pass_seconds(8)
    assert client.turned_out is Stage.HEAD


def test_who_was_refused_may_read_that_for_a_moment() -> None:
    worker = Worker()
    client = worker.admit(stage=Stage.ENDING, owner=REQUEST)
    worker.pass_seconds(1 + int(FAREWELL_SECONDS))
    assert client.turned_out is Stage.ENDING
    assert not worker.counts


def test_of_a_crowd_that_is_refused_only_some_are_told() -> None:
    worker = Worker()
    assert [worker.door.may_linger() for _ in range(MOST_FAREWELLS + 1)] == [True] * MOST_FAREWELLS + [False]
    worker.pass_seconds(1)
    assert worker.door.may_linger()


# Connections of a worker.


def test_a_full_worker_closes_what_would_be_missed_least_and_the_longest_first() -> None:
    worker = Worker(connections=4)
    idle = worker.admit(stage=Stage.IDLE, owner=REQUEST)
    answering = worker.admit(stage=Stage.ANSWER, owner=REQUEST)
    worker.pass_seconds(1)
    silent = worker.admit()
    worker.pass_seconds(1)
    younger = worker.admit()
    expected = [silent, younger, idle]
    for leaves in expected:
        worker.admit(stage=Stage.ANSWER, owner=REQUEST)
        assert [client for client in expected if client.turned_out is not None] == expected[
            : expected.index(leaves) + 1
        ]
    assert answering.turned_out is None
    assert worker.refuse() is Reason.WORKER_FULL
    assert worker.counts == {Reason.MADE_ROOM: 3, Reason.WORKER_FULL: 1}


def test_a_head_that_is_late_gives_way_and_one_that_has_just_begun_does_not() -> None:
    worker = Worker(connections=1, head_seconds=10)
    client = worker.admit(stage=Stage.HEAD, owner=REQUEST)
    worker.pass_seconds(1)
    assert worker.refuse() is Reason.WORKER_FULL
    worker.pass_seconds(int(PROMPT_SECONDS))
    assert worker.refuse() is None
    assert client.turned_out is Stage.HEAD


def test_whose_request_has_arrived_does_not_give_way() -> None:
    worker = Worker(connections=1)
    client = worker.admit()
    client.unread = True
    assert worker.refuse() is Reason.WORKER_FULL
    assert client.turned_out is None


def test_a_full_worker_looks_for_room_once_a_second_at_most() -> None:
    worker = Worker(connections=2)
    busy = [worker.admit(stage=Stage.ANSWER, owner=REQUEST) for _ in range(2)]
    assert worker.refuse() is Reason.WORKER_FULL
    busy[0].at = Stage.IDLE
    assert worker.refuse() is Reason.WORKER_FULL
    worker.pass_seconds(1)
    assert worker.refuse() is None


def test_room_is_made_for_several_at_a_time() -> None:
    worker = Worker(connections=320)
    clients = [worker.admit() for _ in range(320)]
    worker.admit()
    assert sum(client.turned_out is not None for client in clients) == 20


# Connections of an address.


def test_one_address_takes_no_more_than_its_share() -> None:
    worker = Worker(per_address=2)
    first = worker.admit()
    worker.admit()
    assert worker.refuse() is Reason.ADDRESS_FULL
    assert worker.refuse("192.0.2.2") is None
    worker.door.leave(first)
    assert worker.refuse() is None
    assert worker.counts == {Reason.ADDRESS_FULL: 1}


@pytest.mark.parametrize("address", ["10.0.0.1", None])
def test_a_proxy_and_a_unix_socket_stand_for_many(address: str | None) -> None:
    worker = Worker(per_address=2)
    for _ in range(10):
        worker.admit(address)


def test_of_ipv6_a_customer_has_a_whole_network() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("somebody") == "somebody"


# What is said.


def test_what_happens_a_thousand_times_is_said_once_a_minute_with_its_number() -> None:
    worker = Worker(per_address=1)
    worker.admit("192.0.2.7")
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            assert worker.refuse("192.0.2.7") is Reason.ADDRESS_FULL
        worker.pass_seconds(1)
        assert worker.refuse("192.0.2.7") is Reason.ADDRESS_FULL
        worker.pass_seconds(int(LOG_SECONDS) - 1)
        assert [line["reasons"] for line in logs] == [{"address_full": 1000}]
        assert logs[0]["that_address"] == "192.0.2.7"
        worker.pass_seconds(1)
    assert [line["reasons"] for line in logs] == [{"address_full": 1000}, {"address_full": 1}]


def test_silent_connections_are_counted_and_not_said() -> None:
    """Browsers open some in advance."""
    worker = Worker(head_seconds=1)
    worker.admit()
    with structlog.testing.capture_logs() as logs:
        worker.pass_seconds(2)
    assert worker.counts == {Reason.SILENT: 1}
    assert logs == []


# What the machine allows.


@pytest.mark.parametrize(
    ("limits", "wanted", "connections", "raised_to"),
    [
        ((1024, 1 << 20), None, 4096, 4096 + 276),
        ((1 << 20, 1 << 20), None, 4096, None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 50_000, 50_000, None),
        ((4096, 4096), None, 4096 - 276, 4096),
        ((1024, 4096), 10_000, 4096 - 276, 4096),
        ((256, 256), None, 128, 256),
        ((1024, 4096), 100, 100, None),
    ],
)
def test_connections_stay_below_the_descriptors(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    wanted: int | None,
    connections: int,
    raised_to: int | None,
) -> None:
    given: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(door_module.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(door_module.resource, "setrlimit", lambda kind, pair: given.append((kind, pair)))
    bounds = bounds_from(Settings(max_connections=wanted))
    assert (bounds.connections, bounds.per_address) == (connections, connections // 4)
    assert given == ([] if raised_to is None else [(resource.RLIMIT_NOFILE, (raised_to, limits[1]))])


def test_an_address_may_be_given_more_than_a_quarter() -> None:
    assert bounds_from(Settings(max_connections=100, max_connections_per_address=90)).per_address == 90


def test_the_counter_begins_with_every_reason() -> None:
    assert set(DOOR_REASONS) == set(Reason)
