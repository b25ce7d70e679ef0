"""The cache without Redis: what is read once, what is late, what is not asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from recommendation_service.core.cache import L1_SECONDS, MOST_READS, NEGATIVE_SECONDS, PAUSE_SECONDS, Cache
from recommendation_service.telemetry.metrics import Metrics

FOREVER = 60.0  # longer than any test takes


class Source:
    """Reads that the test lets go on; a number above 1000 does not exist."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.failure: Exception | None = None
        self.version = 1

    async def load(self, key: int) -> str | None:
        self.reads.append(key)
        version = self.version
        await self.may_go_on.wait()
        if self.failure:
            raise self.failure
        return f"{key} v{version}" if key <= 1000 else None


class World:
    def __init__(self, wait_seconds: float = FOREVER, limit_bytes: int = 1 << 20) -> None:
        self.now = 100.0
        self.source = Source()
        self.metrics = Metrics()
        self.cache = Cache(
            "test:1",
            str.encode,
            _decode,
            self.source.load,
            guard=None,
            metrics=self.metrics,
            limit_bytes=limit_bytes,
            ttl_seconds=1000,
            wait_seconds=wait_seconds,
            clock=lambda: self.now,
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def _decode(raw: bytes) -> str | None:
    return raw.decode()


def in_world(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        world = World(**options)
        try:
            await test(world)
        finally:
            await world.cache.close()

    asyncio.run(run())


def test_a_value_is_read_once_and_then_at_hand_until_its_time() -> None:
    async def test(world: World) -> None:
        assert world.cache.cached(7) == (False, None)
        assert await world.cache.get(7) == "7 v1"
        assert world.cache.cached(7) == (True, "7 v1")
        assert await world.cache.get(7) == "7 v1"
        assert world.source.reads == [7]

        world.now += L1_SECONDS
        world.source.version = 2
        assert await world.cache.get(7) == "7 v2"
        assert world.count("recs_cache_lookups_total", level="l1", outcome="hit") == 2
        assert world.count("recs_cache_lookups_total", level="l1", outcome="miss") == 2
        assert world.count("recs_cache_reads_total", outcome="found") == 2

    in_world(test)


def test_what_does_not_exist_is_asked_for_once_and_again_after_a_while() -> None:
    async def test(world: World) -> None:
        assert await world.cache.get(1001) is None
        assert world.cache.cached(1001) == (True, None)
        assert await world.cache.get(1001) is None
        assert world.source.reads == [1001]

        world.now += NEGATIVE_SECONDS
        assert await world.cache.get(1001) is None
        assert world.source.reads == [1001, 1001]

    in_world(test)


def test_all_who_ask_at_once_share_one_read() -> None:
    async def test(world: World) -> None:
        world.source.may_go_on.clear()
        asked = [asyncio.create_task(world.cache.get(7)) for _ in range(50)]
        await _until(lambda: world.count("recs_cache_collapsed_total", where="worker") == 49)
        world.source.may_go_on.set()

        assert await asyncio.gather(*asked) == ["7 v1"] * 50
        assert world.source.reads == [7]

    in_world(test)


def test_a_caller_who_goes_away_takes_nothing_from_the_others() -> None:
    async def test(world: World) -> None:
        world.source.may_go_on.clear()
        first, second = (asyncio.create_task(world.cache.get(7)) for _ in range(2))
        await _until(lambda: world.source.reads == [7])
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        world.source.may_go_on.set()

        assert await second == "7 v1"

    in_world(test)


def test_who_waited_long_enough_goes_on_and_the_next_one_has_it() -> None:
    async def test(world: World) -> None:
        world.source.may_go_on.clear()
        assert await world.cache.get(7) is None
        assert world.count("recs_cache_late_total") == 1
        world.source.may_go_on.set()
        await _until(lambda: world.cache.cached(7)[0])

        assert await world.cache.get(7) == "7 v1"
        assert world.source.reads == [7]

    in_world(test, wait_seconds=0.005)


def test_after_a_failed_read_nothing_is_read_for_a_while() -> None:
    async def test(world: World) -> None:
        world.source.failure = OSError("no database")
        assert await world.cache.get(7) is None
        assert await world.cache.get(8) is None
        assert world.source.reads == [7]
        assert world.count("recs_cache_reads_total", outcome="failed") == 1
        assert world.count("recs_cache_reads_total", outcome="skipped") == 1

        world.source.failure = None
        world.now += PAUSE_SECONDS
        assert await world.cache.get(8) == "8 v1"
        assert await world.cache.get(7) == "7 v1"

    in_world(test)


def test_a_source_that_hangs_holds_up_only_so_many_callers() -> None:
    async def test(world: World) -> None:
        world.source.may_go_on.clear()
        answers = await asyncio.gather(*(world.cache.get(key) for key in range(MOST_READS + 40)))

        assert answers == [None] * (MOST_READS + 40)
        assert len(world.source.reads) == MOST_READS
        assert world.count("recs_cache_reads_total", outcome="busy") == 40
        assert world.count("recs_cache_late_total") == MOST_READS

    in_world(test, wait_seconds=0.005)


def test_what_is_invalidated_is_read_anew_and_what_was_being_read_is_not_kept() -> None:
    async def test(world: World) -> None:
        assert await world.cache.get(7) == "7 v1"
        world.source.version = 2
        assert await world.cache.invalidate(7)
        assert await world.cache.get(7) == "7 v2"

        world.source.may_go_on.clear()
        old = asyncio.create_task(world.cache.get(8))
        await _until(lambda: 8 in world.source.reads)
        await world.cache.invalidate(8)
        world.source.version = 3
        new = asyncio.create_task(world.cache.get(8))
        await _until(lambda: world.source.reads.count(8) == 2)
        world.source.may_go_on.set()
        assert [await old, await new] == ["8 v2", "8 v3"]
        assert world.cache.cached(8) == (True, "8 v3")

        world.source.version = 4
        assert await world.cache.invalidate_all()
        assert [await world.cache.get(7), await world.cache.get(8)] == ["7 v4", "8 v4"]

    in_world(test)


def test_l1_stays_within_its_bytes_and_tells_them() -> None:
    async def test(world: World) -> None:
        for key in range(200):
            await world.cache.get(key)

        assert 15_000 < world.count("recs_cache_bytes") <= 20_000
        assert world.count("recs_cache_entries") + world.count("recs_cache_evictions_total") == 200

    in_world(test, limit_bytes=20_000)


async def _until(condition: Callable[[], bool]) -> None:
    async def ask() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(ask(), FOREVER)
