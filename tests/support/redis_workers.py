"""Workers that share a Redis: each with its own connections, breaker, cache and metrics, all on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from recommendation_service.core.cache import Cache
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.redis import RedisGuard, RedisUnavailable, open_redis
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import LOOPBACK, PrivateRedis

# Where a test is not about time: what a busy machine does must not look like a slow Redis.
PATIENT_MILLISECONDS = 1000
PATIENCE_SECONDS = 30.0


def redis_settings(server: PrivateRedis, **overrides: Any) -> Settings:
    ours = {
        "redis_host": LOOPBACK,
        "redis_port": server.port,
        "redis_username": server.user,
        "redis_password": server.password,
        "redis_timeout_milliseconds": PATIENT_MILLISECONDS,
    }
    return load_settings(**ours | overrides)


class SharedSource:
    """The table behind all workers: what it says changes with `version`; a number above a million does not exist."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.version = 1
        self.failure: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def load(self, key: int) -> str | None:
        self.reads.append(key)
        version = self.version
        await self.may_go_on.wait()
        if self.failure:
            raise self.failure
        return f"{key} v{version}" if key <= 1_000_000 else None


class Worker:
    """One worker. `now` is the cache's clock alone; Redis and the breaker have their own."""

    def __init__(self, settings: Settings, source: SharedSource, wait_seconds: float = PATIENCE_SECONDS) -> None:
        self.metrics = Metrics()
        guard = open_redis(settings, self.metrics)
        assert guard is not None
        self.guard: RedisGuard = guard
        self.now = 100.0
        self.cache = Cache(
            "test:1",
            str.encode,
            _decode,
            source.load,
            guard=guard,
            metrics=self.metrics,
            limit_bytes=1 << 20,
            ttl_seconds=1000,
            wait_seconds=wait_seconds,
            clock=lambda: self.now,
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def operations(self, outcome: str) -> float:
        """Of all kinds, how many ended so."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "recs_redis_operations_total" and sample.labels["outcome"] == outcome
        )

    async def settled(self) -> None:
        """What was to be written is written, or has failed."""
        await until(lambda: not self.cache._tasks)

    async def close(self) -> None:
        await self.cache.close()
        await self.guard.close()


Scenario = Callable[..., Awaitable[None]]


def with_workers(
    number: int, settings: Settings, scenario: Scenario, wait_seconds: float = PATIENCE_SECONDS, *further: Any
) -> None:
    """Run ``scenario(source, *workers)`` on a loop of its own, and close the workers."""

    async def run() -> None:
        source = SharedSource()
        workers = [Worker(settings, source, wait_seconds) for _ in range(number)]
        try:
            await scenario(source, *workers, *further)
        finally:
            for worker in workers:
                await worker.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool], timeout_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.002)


async def until_reached(worker: Worker, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Redis takes the worker's operations (again)."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        if not worker.guard.is_paused:
            try:
                await worker.guard.call("test", lambda redis: redis.get("recs:none"), 1.0)
            except RedisUnavailable:
                assert time.monotonic() < deadline
            else:
                return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def _decode(raw: bytes) -> str | None:
    return raw.decode()
