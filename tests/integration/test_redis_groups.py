"""Operations that several requests share: each gets its own result, and none waits longer for the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recommendation_service.core.redis import Grouped, RedisGuard
from recommendation_service.log.stream import MOST_TOGETHER as MOST_EVENTS
from recommendation_service.log.stream import EventStream
from recommendation_service.memory.entries import user_key
from recommendation_service.serving.fleet_memory import MOST_TOGETHER, FleetMemory
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


async def exchange(fleet: FleetMemory, user: int, old: bytes, new: bytes) -> bytes | None:
    [there] = await fleet.exchange_all([(key_of(user), old, new)], fleet.allowance())
    return there


def test_calls_of_one_turn_are_added_to_the_stream_together_each_as_an_entry_of_its_own(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream = EventStream(worker.guard)
        calls = [[b"%d-%d" % (call, event) for event in range(3)] for call in range(CALLS)]
        ids = await asyncio.gather(*(stream.add(call) for call in calls))
        assert done(worker, "stream_add") == 1
        client: Any = worker.guard.client
        stored = await client.xrange("recs:events")
        found = {entry: msgspec.msgpack.decode(fields[b"r"], type=list[bytes]) for entry, fields in stored}
        assert [found[entry] for entry in ids if entry is not None] == calls
        assert len(found) == CALLS
        assert int(redis.execute("TTL", "recs:events")[1:]) > 0

        assert await stream.add([b"later"]) is not None
        assert done(worker, "stream_add") == 2

    run(redis, scenario)


def test_a_group_ends_where_it_would_be_too_large(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
        largest = [b"event"] * MOST_EVENTS
        assert None not in await asyncio.gather(stream.add(largest), stream.add([b"one"]), stream.add([b"two"]))
        assert done(worker, "stream_add") == 2

        users = range(1, 2 * MOST_TOGETHER + 2)
        assert None not in await asyncio.gather(*(exchange(fleet, user, b"", entries(user)) for user in users))
        assert done(worker, "seen_exchange") == 3

    run(redis, scenario)


def test_entries_are_exchanged_only_for_those_that_were_expected_and_else_given(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        await asyncio.gather(*(exchange(fleet, user, b"", entries(user)) for user in (1, 2)))
        there = await asyncio.gather(
            exchange(fleet, 1, entries(1), entries(1, 10)),
            exchange(fleet, 2, b"", entries(20)),
            exchange(fleet, 3, entries(3), entries(3, 30)),  # lost by Redis
            exchange(fleet, 4, b"", entries(40)),
        )
        assert list(there) == [entries(1, 10), entries(2), b"", entries(40)]
        kept = [await fleet.read(key_of(user), fleet.allowance()) for user in (1, 2, 3, 4)]
        assert kept == [entries(1, 10), entries(2), b"", entries(40)]
        assert await fleet.exchange_again(key_of(2), entries(2), entries(2, 20), fleet.allowance()) == entries(2, 20)
        assert await fleet.exchange_again(key_of(2), entries(2), entries(2, 21), fleet.allowance()) == entries(2, 20)

    run(redis, scenario)


def test_of_two_in_one_group_that_exchange_the_entries_of_one_user_one_is_told_of_the_other(
    redis: PrivateRedis,
) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        there = await asyncio.gather(*(exchange(fleet, 1, b"", entries(item)) for item in (10, 11)))
        assert there == [entries(10), entries(10)]

    run(redis, scenario)


def test_a_server_that_forgot_the_script_is_told_it_again(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        assert await exchange(fleet, 1, b"", entries(1)) == entries(1)
        assert redis.execute("SCRIPT", "FLUSH") == "+OK"
        there = await asyncio.gather(*(exchange(fleet, user, b"", entries(user)) for user in (2, 3)))
        assert there == [entries(2), entries(3)]
        assert worker.operations("done") == 2

    run(redis, scenario)


def test_a_full_redis_refuses_a_group_and_none_of_it_waits(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
        redis.execute("CONFIG", "SET", "maxmemory", "1")
        try:
            assert await asyncio.gather(*(exchange(fleet, user, b"", entries(user)) for user in (1, 2))) == [None] * 2
            assert await asyncio.gather(*(stream.add([call]) for call in (b"one", b"two"))) == [None] * 2
        finally:
            redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert worker.operations("refused") == 2
        assert not worker.guard.is_paused
        assert await exchange(fleet, 1, b"", entries(1)) == entries(1)

    run(redis, scenario)


def test_a_redis_that_hangs_holds_up_all_of_a_group_for_the_limit_and_then_nobody(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
        assert await stream.add([b"before"]) is not None
        redis.pause()
        worker.guard.timeout_seconds = 0.05
        started, moment = time.perf_counter(), time.monotonic()
        worker.guard._clock = lambda: moment  # the pause is a tenth of a second, in which a busy machine may do nothing
        assert await asyncio.gather(*(stream.add([b"%d" % call]) for call in range(CALLS))) == [None] * CALLS
        assert time.perf_counter() - started < PATIENCE_SECONDS
        assert worker.operations("late") == 1  # they waited side by side
        assert await exchange(fleet, 1, b"", entries(1)) is None
        assert worker.operations("skipped") == 1
        worker.guard.timeout_seconds, worker.guard._clock = PATIENCE_SECONDS, time.monotonic
        redis.resume()
        await until(lambda: not worker.guard.is_paused)
        assert await stream.add([b"after"]) is not None

    run(redis, scenario)


def test_a_request_has_for_its_further_operations_what_the_group_left(redis: PrivateRedis) -> None:
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


def test_one_who_leaves_the_group_takes_nothing_from_the_others(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        async def echo(client: Any, asked: list[int]) -> list[int]:
            await client.ping()
            return asked

        guard: RedisGuard = worker.guard
        grouped: Grouped[int, int] = Grouped(guard, "echo", echo, 100)
        tasks = [asyncio.create_task(grouped.call([number], 1)) for number in range(3)]
        await asyncio.sleep(0)  # all have joined
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert (results[0], results[2]) == ([0], [2])
        assert isinstance(results[1], asyncio.CancelledError)

    run(redis, scenario)


def test_who_asks_while_a_group_is_under_way_goes_with_the_next_when_that_is_done(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        groups: list[list[str]] = []
        may_end = asyncio.Event()

        async def command(client: Any, asked: list[str]) -> list[str]:
            groups.append(asked)
            await may_end.wait()
            return asked

        grouped: Grouped[str, str] = Grouped(worker.guard, "echo", command, 100)
        first = asyncio.create_task(grouped.call(["first"], 1))
        await until(lambda: groups == [["first"]])
        second = asyncio.create_task(grouped.call(["second"], 1))
        await asyncio.sleep(0)
        third = asyncio.create_task(grouped.call(["third"], 1))
        await asyncio.sleep(0)
        may_end.set()
        assert [await task for task in (first, second, third)] == [["first"], ["second"], ["third"]]
        assert groups == [["first"], ["second", "third"]]

    run(redis, scenario, redis_timeout_milliseconds=1000)


def test_a_group_does_not_wait_for_the_end_of_one_that_is_slow(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker) -> None:
        slow = asyncio.Event()

        async def command(client: Any, asked: list[str]) -> list[str]:
            if asked == ["slow"]:
                await slow.wait()
            else:
                slow.set()  # so that the slow one ends only if this one did not wait for it
            return asked

        grouped: Grouped[str, str] = Grouped(worker.guard, "echo", command, 100)
        first = asyncio.create_task(grouped.call(["slow"], 1))
        await until(lambda: bool(worker.guard._tasks))
        assert await grouped.call(["other"], 1) == ["other"]
        assert await first == ["slow"]

    run(redis, scenario, redis_timeout_milliseconds=1000)


def test_a_cluster_takes_a_group_apart(tmp_path: Path) -> None:
    with PrivateRedisCluster(tmp_path) as cluster:

        async def scenario(worker: Worker) -> None:
            stream, fleet = EventStream(worker.guard), FleetMemory(worker.guard, 1000)
            users = range(1, MOST_TOGETHER + 1)
            for before, now in ((b"", 1), (entries(1), 2)):
                there = await asyncio.gather(*(exchange(fleet, user, before, entries(now)) for user in users))
                assert there == [entries(now)] * len(users)
            assert done(worker, "seen_exchange") == 2
            sizes = [int(node.execute("DBSIZE")[1:]) for node in cluster.nodes]
            assert (sum(sizes), min(sizes) > 0) == (len(users), True)
            assert None not in await asyncio.gather(stream.add([b"one"]), stream.add([b"two"]))

        run(cluster.nodes[0], scenario, redis_cluster=True)
