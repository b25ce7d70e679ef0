"""Redis stopped, hung, full, failing over, refusing: a request goes on, and hardly waits. docs/reliability.md has the
table."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from recommendation_service.core.cache import L1_SECONDS
from recommendation_service.core.redis import MOST_OPERATIONS, MOST_REASONS, RedisUnavailable
from tests.servers import (
    LOOPBACK,
    PrivateRedis,
    PrivateRedisCluster,
    PrivateSentinel,
    free_port,
    replica_of,
    wait_until,
)
from tests.support.certificates import make_certificate
from tests.support.listening import stop_listening
from tests.support.redis_workers import (
    PATIENCE_SECONDS,
    PATIENT_MILLISECONDS,
    SharedSource,
    Worker,
    redis_settings,
    until,
    until_reached,
    with_workers,
)

LIMIT_MILLISECONDS = 5
# Of what the limit is for; the rest is what a busy machine does to any timer.
SLACK_SECONDS = 0.5
REQUESTS = 300


async def costs(worker: Worker, first: int) -> list[float]:
    """Seconds that each of many requests for users nobody has asked for takes; the source answers at once.

    Only here the limit is the short one: before and after the fault a busy machine must not look like one.
    """
    worker.guard.timeout_seconds = LIMIT_MILLISECONDS / 1000
    taken = []
    for key in range(first, first + REQUESTS):
        started = time.perf_counter()
        assert await worker.cache.get(key) == f"{key} v1"
        taken.append(time.perf_counter() - started)
    worker.guard.timeout_seconds = PATIENT_MILLISECONDS / 1000
    return taken


def assert_cheap(taken: list[float], worker: Worker) -> None:
    """A few requests wait for the limit, one at the beginning and one after each pause; the others for nothing."""
    assert statistics.median(taken) < LIMIT_MILLISECONDS / 1000
    assert max(taken) < LIMIT_MILLISECONDS / 1000 + SLACK_SECONDS
    tried = worker.operations("late") + worker.operations("failed")
    assert 1 <= tried <= 3 + sum(taken) / 0.1  # FIRST_PAUSE_SECONDS
    assert worker.operations("skipped") > REQUESTS - tried


# Stopped.


def test_a_stopped_redis_costs_next_to_nothing_and_is_used_again_when_it_is_back(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        redis.kill()
        assert_cheap(await costs(worker, 1000), worker)
        assert worker.count("recs_cache_lookups_total", level="l2", outcome="down") == REQUESTS
        assert worker.operations("failed") >= 1

        redis.start()
        await until_reached(worker)
        assert await worker.cache.get(5000) == "5000 v1"
        await worker.settled()
        assert worker.count("recs_redis_operations_total", operation="cache_set", outcome="done") == 2

    with_workers(1, redis_settings(redis), scenario)


def test_a_redis_that_was_never_there_costs_next_to_nothing(tmp_path: Path) -> None:
    nobody = PrivateRedis(tmp_path)
    nobody.port = free_port()

    async def scenario(source: SharedSource, worker: Worker) -> None:
        assert_cheap(await costs(worker, 1000), worker)

    with_workers(1, redis_settings(nobody), scenario)


def test_an_address_that_does_not_answer_at_all_costs_next_to_nothing(tmp_path: Path) -> None:
    """A full backlog: the connection is not even made, as with a host that is gone."""
    import socket

    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        nobody = PrivateRedis(tmp_path)
        nobody.port = listener.getsockname()[1]

        async def scenario(source: SharedSource, worker: Worker) -> None:
            assert_cheap(await costs(worker, 1000), worker)
            assert worker.operations("late") >= 1

        try:
            with_workers(1, redis_settings(nobody), scenario)
        finally:
            for client in waiting:
                client.close()


# Hung.


def test_a_hung_redis_costs_a_request_the_limit_and_nearly_all_nothing(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        redis.pause()
        assert_cheap(await costs(worker, 1000), worker)
        assert worker.operations("late") >= 1

        redis.resume()
        await until_reached(worker)
        assert await worker.cache.get(5000) == "5000 v1"

    with_workers(1, redis_settings(redis), scenario)


def test_many_requests_at_once_wait_for_a_hung_redis_together_and_not_in_turn(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        redis.pause()
        worker.guard.timeout_seconds = LIMIT_MILLISECONDS / 1000
        started = time.perf_counter()
        answers = await asyncio.gather(*(worker.cache.get(key) for key in range(1000, 1200)))
        taken = time.perf_counter() - started

        assert answers == [f"{key} v1" for key in range(1000, 1200)]
        assert taken < LIMIT_MILLISECONDS / 1000 + SLACK_SECONDS
        assert len(worker.guard._tasks) <= MOST_OPERATIONS
        assert worker.operations("busy") + worker.operations("skipped") >= 200 - MOST_OPERATIONS

    with_workers(1, redis_settings(redis), scenario)


def test_what_redis_may_cost_is_the_sum_over_a_requests_operations(redis: PrivateRedis) -> None:
    """Far away: each answer is in time, and two are not."""

    async def scenario(source: SharedSource, worker: Worker, slow: SlowRoad) -> None:
        slow.delay_seconds = 0.0
        async with slow:
            await worker.cache.get(1)
            await worker.settled()
            slow.delay_seconds = 0.6 * worker.guard.timeout_seconds
            assert await worker.cache.get(7) == "7 v1"

        outcomes = {"cache_get": "done", "cache_lease": "late"}
        for operation, outcome in outcomes.items():
            assert worker.count("recs_redis_operations_total", operation=operation, outcome=outcome) >= 1

    slow = SlowRoad(redis.port)
    settings = redis_settings(redis, redis_port=slow.port, redis_timeout_milliseconds=900)
    with_workers(1, settings, scenario, PATIENCE_SECONDS, slow)


class SlowRoad:
    """A way to a server on which each of its answers takes a while longer."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self.delay_seconds = 0.0
        self._to_port = to_port
        self._carried: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> None:
        self._server = await asyncio.start_server(self._carry, LOOPBACK, self.port)

    async def __aexit__(self, *_: object) -> None:
        await stop_listening(self._server)
        await asyncio.sleep(0.01)  # until each connection that is accepted has its task
        while self._carried:
            for task in self._carried:
                task.cancel()
            await asyncio.sleep(0.001)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        try:
            await self._carry_to(await asyncio.open_connection(LOOPBACK, self._to_port), reader, writer)
        finally:
            writer.close()
            self._carried.discard(task)

    async def _carry_to(
        self,
        theirs: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            await asyncio.gather(
                self._copy(reader, theirs[1], slowly=False), self._copy(theirs[0], writer, slowly=True)
            )
        finally:
            theirs[1].close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slowly: bool) -> None:
        while content := await source.read(1 << 16):
            if slowly:
                await asyncio.sleep(self.delay_seconds)
            sink.write(content)
        sink.close()


def test_an_answer_that_is_late_once_ends_the_pause_when_it_comes(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        redis.pause()
        with pytest.raises(RedisUnavailable, match="no answer within 5 ms"):
            await worker.guard.call("test", lambda redis: redis.get("recs:none"), LIMIT_MILLISECONDS / 1000)
        assert worker.guard.is_paused
        redis.resume()
        await until(lambda: not worker.guard._tasks)

        assert not worker.guard.is_paused

    with_workers(1, redis_settings(redis), scenario)


def test_each_reason_for_a_pause_is_logged_once_and_so_is_its_end(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        redis.kill()
        await costs(worker, 1000)
        redis.start()
        await until_reached(worker)

    with structlog.testing.capture_logs() as lines:
        with_workers(1, redis_settings(redis), scenario)
    *gone, back = lines
    assert [line["event"] for line in gone] == ["redis_unavailable"] * len(gone)
    assert len(gone) == len({line["reason"] for line in gone}) <= MOST_REASONS
    assert back["event"] == "redis_available_again"
    assert lines[0]["address"] == f"{LOOPBACK}:{redis.port}/0"
    assert redis.password not in repr(lines)


# Full.


def test_a_full_redis_serves_what_it_has_and_costs_nothing_else(redis: PrivateRedis) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        assert redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction") == "+OK"
        assert redis.execute("CONFIG", "SET", "maxmemory", "1") == "+OK"
        try:
            for key in range(10, 40):
                assert await worker.cache.get(key) == f"{key} v1"
            await worker.settled()
            refused = worker.count("recs_redis_operations_total", operation="cache_lease", outcome="refused")
            assert refused == 30
            assert worker.operations("late") + worker.operations("failed") + worker.operations("skipped") == 0

            worker.now += L1_SECONDS
            source.version = 2
            assert await worker.cache.get(1) == "1 v1"  # of Redis
        finally:
            assert redis.execute("CONFIG", "SET", "maxmemory", "0") == "+OK"
        await worker.cache.get(50)
        await worker.settled()
        assert worker.count("recs_redis_operations_total", operation="cache_set", outcome="done") == 2

    with_workers(1, redis_settings(redis), scenario)


# Refusing.


@pytest.mark.parametrize("password", ["", "wrong-password-of-ours"])
def test_a_wrong_password_costs_next_to_nothing_and_is_not_told(redis: PrivateRedis, password: str) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        assert_cheap(await costs(worker, 1000), worker)
        await until(lambda: not worker.guard._tasks)

    settings = redis_settings(redis, redis_password=password)
    with structlog.testing.capture_logs() as lines:
        with_workers(1, settings, scenario)
    assert "redis_unavailable" in [line["event"] for line in lines]
    assert "Authentication" in repr(lines)
    assert "see REDIS_USERNAME and REDIS_PASSWORD" in repr(lines)
    assert redis.password not in repr(lines)
    assert "wrong-password-of-ours" not in repr(lines)


def test_what_the_user_may_not_do_is_said_once_with_what_to_do_and_costs_nothing(redis: PrivateRedis) -> None:
    reader = f"user reader on >{redis.password} ~recs:* -@all +@read +@connection"
    assert redis.execute("ACL", "SETUSER", *reader.split()[1:]) == "+OK"

    async def scenario(source: SharedSource, worker: Worker) -> None:
        for key in range(1, 5):
            assert await worker.cache.get(key) == f"{key} v1"
            await worker.settled()
        assert not worker.guard.is_paused

    with structlog.testing.capture_logs() as lines:
        with_workers(1, redis_settings(redis, redis_username="reader"), scenario)
    denied = [line["reason"] for line in lines if line["event"] == "redis_denied"]
    assert len(denied) == len(set(denied)) > 0
    assert all("no permissions to run the" in reason and "docs/deployment.md has what" in reason for reason in denied)
    assert "redis_unavailable" not in [line["event"] for line in lines]


# Failing over.


def is_master(server: PrivateRedis) -> bool:
    """A sentinel that promotes a server ends all of its clients, and this one may be among them."""
    with contextlib.suppress(ConnectionError):
        return "role:master" in server.execute("INFO", "replication")
    return False


def test_sentinels_lead_to_the_new_master_after_a_failover(tmp_path: Path) -> None:
    with (
        PrivateRedis(tmp_path / "master") as master,
        replica_of(master, tmp_path / "replica") as replica,
        PrivateSentinel(tmp_path / "sentinel", master) as sentinel,
    ):
        name = sentinel.master_name
        assert wait_until(lambda: sentinel.execute("SENTINEL", "REPLICAS", name) == "*1", PATIENCE_SECONDS)
        assert wait_until(lambda: "master_link_status:up" in replica.execute("INFO", "replication"), PATIENCE_SECONDS)
        settings = redis_settings(
            master,
            redis_host=None,
            # The first is not there: the second is asked.
            redis_sentinels=(f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{sentinel.port}"),
            redis_sentinel_master=name,
            redis_sentinel_username=sentinel.user,
            redis_sentinel_password=sentinel.password,
        )

        async def scenario(source: SharedSource, worker: Worker) -> None:
            await until_reached(worker)
            assert await worker.cache.get(1) == "1 v1"
            await worker.settled()
            # As many connections as a busy worker has, all to this master.
            await asyncio.gather(
                *(worker.guard.call("test", lambda redis: redis.get("recs:none"), 1) for _ in range(16))
            )
            await until(lambda: replica.execute("DBSIZE") == ":1")
            worker.guard.timeout_seconds = LIMIT_MILLISECONDS / 1000
            master.pause()  # hung: a dead one would say so by itself
            key, waits = 1000, []
            while not is_master(replica):
                started = time.perf_counter()
                assert await worker.cache.get(key) == f"{key} v1"
                waits.append(time.perf_counter() - started)
                key += 1
                await asyncio.sleep(0.002)
            assert statistics.median(waits) < LIMIT_MILLISECONDS / 1000
            assert max(waits) < LIMIT_MILLISECONDS / 1000 + SLACK_SECONDS

            await until_reached(worker)
            worker.guard.timeout_seconds = PATIENT_MILLISECONDS / 1000
            source.version = 2
            worker.now += L1_SECONDS
            while await worker.cache.get(1) != "1 v1":  # what the replica had of the old master
                worker.now += L1_SECONDS
                await asyncio.sleep(0.01)

        try:
            with_workers(1, settings, scenario)
        finally:
            master.resume()


# Cluster.


def test_a_cluster_is_used_whole_and_done_without_where_a_node_is_gone(tmp_path: Path) -> None:
    with PrivateRedisCluster(tmp_path) as cluster:
        settings = redis_settings(cluster.nodes[0], redis_cluster=True)

        async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
            keys = range(1, 60)
            for key in keys:
                assert await one.cache.get(key) == f"{key} v1"
            await one.settled()
            assert [await two.cache.get(key) for key in keys] == [f"{key} v1" for key in keys]
            assert source.reads == list(keys)
            sizes = [int(node.execute("DBSIZE")[1:]) for node in cluster.nodes]
            assert (sum(sizes), min(sizes) > 0) == (len(keys), True)
            assert await one.cache.invalidate(1)

            cluster.nodes[2].kill()
            taken = await costs(one, 1000)
            assert statistics.median(taken) < LIMIT_MILLISECONDS / 1000
            assert max(taken) < LIMIT_MILLISECONDS / 1000 + SLACK_SECONDS

            cluster.nodes[2].start()
            await until(cluster.is_whole)
            await until_reached(one)
            before = one.count("recs_redis_operations_total", operation="cache_set", outcome="done")
            for key in range(5000, 5030):
                await one.cache.get(key)
            await one.settled()
            assert one.count("recs_redis_operations_total", operation="cache_set", outcome="done") > before

        with_workers(2, settings, scenario)


# TLS.


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateRedis, Path]]:
    """A server that speaks nothing but TLS, and the certificate that vouches for it."""
    folder = tmp_path_factory.mktemp("tls-redis")
    certificate, key = make_certificate(folder)
    tls_port = free_port()
    server = PrivateRedis(
        folder / "server",
        options=[
            f"tls-port {tls_port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            "tls-auth-clients no",
        ],
    )
    with server:
        yield server, certificate
    shutil.rmtree(folder)


def test_tls_is_spoken_to_a_server_whose_certificate_is_trusted(tls_server: tuple[PrivateRedis, Path]) -> None:
    server, certificate = tls_server
    port = int(server.options[0].split()[1])
    tls = {"redis_port": port, "redis_scheme": "tls"}

    async def trusting(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(1)
        await worker.settled()
        assert worker.operations("done") > 0
        assert worker.operations("failed") == 0

    async def suspicious(source: SharedSource, worker: Worker) -> None:
        assert await worker.cache.get(2) == "2 v1"
        assert worker.operations("done") == 0
        assert worker.operations("failed") > 0

    with_workers(1, redis_settings(server, **tls, redis_ca_file=certificate), trusting)
    with_workers(1, redis_settings(server, **tls), suspicious)
