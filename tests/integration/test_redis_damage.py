"""Whatever lies under the service's keys in Redis: it counts as absent, is counted, and gives way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from recommendation_service.log.stream import EventStream
from recommendation_service.memory.answers import StoredAnswer
from recommendation_service.memory.entries import user_key
from recommendation_service.serving.fleet_memory import FleetMemory
from tests.servers import PrivateRedis
from tests.support.redis_workers import SharedSource, Worker, redis_settings, with_workers

OTHER_TYPES = {
    "hash": lambda client, name: client.hset(name, "field", "value"),
    "list": lambda client, name: client.rpush(name, "value"),
    "set": lambda client, name: client.sadd(name, "value"),
    "sorted set": lambda client, name: client.zadd(name, {"value": 1.0}),
    "stream": lambda client, name: client.xadd(name, {"field": "value"}),
    "string": lambda client, name: client.set(name, b"7 bytes"),
}
NO_ENTRIES: dict[str, bytes] = {
    "7 bytes": b"7 bytes",
    "17 bytes": bytes(17),
    "a state that there is not": np.array([[2, 9]], "<i8").tobytes(),
    "a kind that there is not": np.array([[2, 15 << 4 | 1]], "<i8").tobytes(),
    "before the epoch": np.array([[2, -15]], "<i8").tobytes(),
    "more than there may be": np.array([[2, 1]] * 5000, "<i8").tobytes(),
}
ENTRIES = np.array([[4, 1], [6, 1]], "<i8").tobytes()
KEY = user_key(7, 0) or b""
ANSWER = StoredAnswer(b"r" * 16, b'{"statusCode": 200}')


def run(redis: PrivateRedis, scenario: Callable[[Worker, Any], Awaitable[None]]) -> None:
    async def with_one(source: SharedSource, worker: Worker) -> None:
        await scenario(worker, worker.guard.client)

    with_workers(1, redis_settings(redis), with_one)


def damaged(worker: Worker, kind: str) -> float:
    return worker.count("recs_redis_damaged_total", kind=kind)


async def only_key(client: Any, part: str) -> str:
    [name] = [name.decode() async for name in client.scan_iter() if part in name.decode()]
    return str(name)


@pytest.mark.parametrize("other", [*OTHER_TYPES, *NO_ENTRIES])
def test_what_is_no_memory_of_a_user_is_replaced_by_the_next_feed_or_event(redis: PrivateRedis, other: str) -> None:
    async def scenario(worker: Worker, client: Any) -> None:
        fleet = FleetMemory(worker.guard, 1000)
        assert await fleet.exchange_all([(KEY, b"", ENTRIES)], fleet.allowance()) == [ENTRIES]
        name = await only_key(client, ":seen:")

        async def spoil() -> None:
            await client.delete(name)
            await (client.set(name, NO_ENTRIES[other]) if other in NO_ENTRIES else OTHER_TYPES[other](client, name))

        await spoil()
        assert await fleet.read(KEY, fleet.allowance()) == b""
        assert await fleet.replace(KEY, b"", ENTRIES, None, fleet.allowance()) is True
        assert await client.get(name) == ENTRIES
        assert damaged(worker, "seen") == 1

        await spoil()
        # A call that believes the memory to be empty, and one that believes it to be what it was.
        for old in (b"", ENTRIES):
            await spoil()
            [there] = await fleet.exchange_all([(KEY, old, ENTRIES)], fleet.allowance())
            if there != ENTRIES:
                assert there == b""
                assert await fleet.exchange_all([(KEY, b"", ENTRIES)], fleet.allowance()) == [ENTRIES]
            assert await client.get(name) == ENTRIES
            assert await client.ttl(name) > 0
        assert damaged(worker, "seen") == 3

    run(redis, scenario)


@pytest.mark.parametrize("other", OTHER_TYPES)
def test_what_is_no_answer_is_not_given_to_a_client_and_is_replaced(redis: PrivateRedis, other: str) -> None:
    async def scenario(worker: Worker, client: Any) -> None:
        fleet, asked = FleetMemory(worker.guard, 1000), (b"name", ANSWER)
        assert await fleet.replace(KEY, b"", b"", asked, fleet.allowance()) is True
        name = await only_key(client, ":answer:")
        assert await fleet.answer(KEY, b"name", fleet.allowance()) == ANSWER

        for value in (b"7 bytes", b"long enough to be an answer, and none"):
            await client.delete(name)
            await (client.set(name, value) if other == "string" else OTHER_TYPES[other](client, name))
            assert await fleet.answer(KEY, b"name", fleet.allowance()) is None
            await (client.set(name, value) if other == "string" else OTHER_TYPES[other](client, name))
            outcomes = [await fleet.replace(KEY, b"", b"", asked, fleet.allowance()) for _ in range(2)]
            assert outcomes[-1] in (True, ANSWER)  # the first may have found it, and is ranked again
            assert await fleet.answer(KEY, b"name", fleet.allowance()) == ANSWER
        assert damaged(worker, "answer") >= 2

    run(redis, scenario)


@pytest.mark.parametrize("other", OTHER_TYPES)
def test_a_user_is_read_and_kept_whatever_lies_under_entry_lease_and_epoch(redis: PrivateRedis, other: str) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        assert await one.cache.get(7) == "7 v1"
        await one.settled()
        client: Any = one.guard.client
        entry, lease = one.cache._name(7), one.cache._lease_name(7)
        whole = await client.get(entry)
        await client.delete(entry)
        for name in (entry, lease):
            await OTHER_TYPES[other](client, name)
        assert await two.cache.get(7) == "7 v1"
        await two.settled()
        assert await client.get(entry) == whole
        assert await client.exists(lease) == 0
        assert damaged(two, "user") == damaged(two, "lease") == 1

        epoch = one.cache._epoch_name()
        await client.delete(epoch)
        await OTHER_TYPES[other](client, epoch)
        two.now += 100
        source.version = 2
        assert await two.cache.get(7) == "7 v2", "what it was not known to be of is not looked at"
        assert damaged(two, "epoch") == 1
        one.now += 100
        assert await one.cache.get(7) == "7 v2", "and all agree on a new one"
        await two.settled()

    with_workers(2, redis_settings(redis), scenario)


@pytest.mark.parametrize("other", [name for name in OTHER_TYPES if name not in {"stream", "hash"}])
def test_events_and_orders_are_taken_whatever_lies_in_their_place(redis: PrivateRedis, other: str) -> None:
    async def scenario(worker: Worker, client: Any) -> None:
        stream = EventStream(worker.guard)
        assert await stream.add([b"one"]) is not None
        assert await stream.forget(7)
        for part in ("events", "forgotten"):
            name = await only_key(client, part)
            await client.delete(name)
            await OTHER_TYPES[other](client, name)
        assert await stream.abandoned("consumer", 0.0) == []
        assert await stream.add([b"two"]) is not None
        moment = await stream.forget(7)
        assert {user: told for user, (told, _) in (await stream.forgotten()).items()} == {7: moment}
        assert [records for _, records in await stream.abandoned("consumer", 0.0)] == [[b"two"]]
        assert damaged(worker, "stream") == damaged(worker, "forgotten") == 1

    run(redis, scenario)


def test_an_entry_or_an_order_of_nobody_does_not_stop_the_flusher(redis: PrivateRedis) -> None:
    async def scenario(worker: Worker, client: Any) -> None:
        stream = EventStream(worker.guard)
        await stream.add([b"ours"])
        moment = await stream.forget(7)
        events, forgotten = await only_key(client, "events"), await only_key(client, "forgotten")
        await client.xadd(events, {"other": "field"})
        await client.xadd(events, {"r": b"\xff no list"})
        await client.hset(forgotten, "nobody", "some time")
        found = await stream.abandoned("consumer", 0.0)
        assert [records for _, records in found] == [[b"ours"], [b"field"], [b"\xff no list"]]
        assert {user: told for user, (told, _) in (await stream.forgotten()).items()} == {7: moment}
        await stream.remove([entry for entry, _ in found])
        assert await client.xlen(events) == 0

    run(redis, scenario)
