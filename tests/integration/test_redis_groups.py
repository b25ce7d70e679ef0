"""One operation for the users or events of calls that are taken together: each gets its own result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recommendation_service.log.stream import EventStream
from recommendation_service.memory.entries import user_key
from recommendation_service.serving.feedback import USERS_AT_ONCE
from recommendation_service.serving.fleet_memory import FleetMemory
from tests.servers import PrivateRedis, PrivateRedisCluster
from tests.support.redis_workers import PATIENCE_SECONDS, SharedSource, Worker, redis_settings, until, with_workers

CALLS = 20


def done(worker: Worker, operation: str) -> float:
    return worker.count("recs_redis_operations_total", operation=operation, outcome="done")


def entries(*items: int) -> bytes:
    return np.array([(item, 1) for item in items], "<i8").tobytes()


def key_of(user: int) -> bytes:
    key = user_key(user, 0)
    assert key is not None
    return key


def run(redis: PrivateRedis, scenario: Callable[[Worker], Awaitable[None]], **settings: Any) -> None:
    async def with_one(source: SharedSource, worker: Worker) -> None:
        await scenario(worker)

    with_workers(1, redis_settings(redis, **settings), with_one)


async def exchange(fleet: FleetMemory, *wanted: tuple[int, bytes, bytes]) -> list[bytes | None]:
    return await fleet.exchange_all([(key_of(user), old, new) for user, old, new in wanted], fleet.allowance())


def test_the_events_of_calls_are_one_entry_of_the_stream(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream = EventStream(worker.guard)
        calls = [[b"%d-%d" % (call, event) for event in range(3)] for call in range(CALLS)]
        ids = [await stream.add(call) for call in calls]
        assert done(worker, "stream_add") == CALLS
        client: Any = worker.guard.client
        stored = await client.xrange("recs:events")
        found = {entry: msgspec.msgpack.decode(fields[b"r"], type=list[bytes]) for entry, fields in stored}
        assert [found[entry] for entry in ids if entry is not None] == calls
        assert len(found) == CALLS
        assert int(redis.execute("TTL", "recs:events")[1:]) > 0

    run(redis, scenario)


def test_entries_are_exchanged_only_for_those_that_were_expected_and_else_given(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        await exchange(fleet, (1, b"", entries(1)), (2, b"", entries(2)))
        there = await exchange(
            fleet,
            (1, entries(1), entries(1, 10)),
            (2, b"", entries(20)),
            (3, entries(3), entries(3, 30)),  # lost by Redis
            (4, b"", entries(40)),
        )
        assert there == [entries(1, 10), entries(2), b"", entries(40)]
        assert done(worker, "seen_exchange") == 2
        kept = [await fleet.read(key_of(user), fleet.allowance()) for user in (1, 2, 3, 4)]
        assert kept == [entries(1, 10), entries(2), b"", entries(40)]
        assert await exchange(fleet, (2, entries(2), entries(2, 20))) == [entries(2, 20)]
        assert await exchange(fleet, (2, entries(2), entries(2, 21))) == [entries(2, 20)]

    run(redis, scenario)


def test_a_server_that_forgot_the_script_is_told_it_again(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        assert await exchange(fleet, (1, b"", entries(1))) == [entries(1)]
        assert redis.execute("SCRIPT", "FLUSH") == "+OK"
        assert await exchange(fleet, *((user, b"", entries(user)) for user in (2, 3))) == [entries(2), entries(3)]
        assert worker.operations("done") == 2

    run(redis, scenario)


def test_a_full_redis_refuses_all_and_none_of_them_waits(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
        redis.execute("CONFIG", "SET", "maxmemory", "1")
        try:
            assert await exchange(fleet, *((user, b"", entries(user)) for user in (1, 2))) == [None] * 2
            assert await stream.add([b"one", b"two"]) is None
        finally:
            redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert worker.operations("refused") == 2
        assert not worker.guard.is_paused
        assert await exchange(fleet, (1, b"", entries(1))) == [entries(1)]

    run(redis, scenario)


def test_a_redis_that_hangs_holds_up_all_for_the_limit_and_then_nobody(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
        assert await stream.add([b"before"]) is not None
        redis.pause()
        worker.guard.timeout_seconds = 0.05
        started, moment = time.perf_counter(), time.monotonic()
        worker.guard._clock = lambda: moment  # the pause is a tenth of a second, in which a busy machine may do nothing
        assert await exchange(fleet, *((user, b"", entries(user)) for user in range(1, CALLS))) == [None] * (CALLS - 1)
        assert time.perf_counter() - started < PATIENCE_SECONDS
        assert worker.operations("late") == 1
        assert await stream.add([b"meanwhile"]) is None
        assert worker.operations("skipped") == 1
        worker.guard.timeout_seconds, worker.guard._clock = PATIENCE_SECONDS, time.monotonic
        redis.resume()
        await until(lambda: not worker.guard.is_paused)
        assert await stream.add([b"after"]) is not None

    run(redis, scenario)


def test_a_turn_has_for_its_further_operations_what_the_first_left(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        allowance = fleet.allowance()
        redis.pause()
        worker.guard.timeout_seconds = 0.05
        spent = fleet.allowance()
        assert await fleet.exchange_all([(key_of(1), b"", entries(1))], spent) == [None]
        redis.resume()
        await until(lambda: not worker.guard.is_paused)
        assert await fleet.read(key_of(1), spent) is None
        assert await fleet.read(key_of(1), allowance) is not None

    run(redis, scenario)


def test_who_waits_when_all_is_closed_is_told_so(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream = EventStream(worker.guard)
        assert await stream.add([b"before"]) is not None
        redis.pause()
        waiting = asyncio.create_task(stream.add([b"never"]))
        await until(lambda: bool(worker.guard._tasks))
        await worker.guard.close()
        assert await asyncio.wait_for(waiting, PATIENCE_SECONDS) is None

    run(redis, scenario, redis_timeout_milliseconds=1000)


def test_a_cluster_takes_an_exchange_apart(tmp_path: Path) -> None:
    with PrivateRedisCluster(tmp_path) as cluster:

        async def scenario(worker: Worker) -> None:
            stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
            users = range(1, USERS_AT_ONCE + 1)
            for before, now in ((b"", 1), (entries(1), 2)):
                there = await exchange(fleet, *((user, before, entries(now)) for user in users))
                assert there == [entries(now)] * len(users)
            assert done(worker, "seen_exchange") == 2
            sizes = [int(node.execute("DBSIZE")[1:]) for node in cluster.nodes]
            assert (sum(sizes), min(sizes) > 0) == (len(users), True)
            assert await stream.add([b"one", b"two"]) is not None

        run(cluster.nodes[0], scenario, redis_cluster=True)
