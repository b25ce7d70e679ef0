"""A machine's look at what the fleet serves: of its workers one looks, and all take up what it brings."""

import asyncio
import contextlib
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.core.files import open_lock
from recommendation_service.policies.fleet import FleetPolicies
from recommendation_service.policies.fleet_status import FleetStatus
from recommendation_service.policies.store import PolicyStore
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
RENEW_SECONDS = 60.0
LOCK = "fleet.lock"


class PolicyWatch:
    """One worker's."""

    def __init__(self, settings: Settings, serving: Serving, redis: BlockingRedis) -> None:
        self._serving = serving
        self._redis = redis
        self._fleet = FleetPolicies(redis)
        self._store = PolicyStore(settings.policy_dir, settings.policy_keep, self._fleet)
        self._thread = ThreadPoolExecutor(1, "fleet")
        self._lock: int | None = None  # held by the worker that looks
        self._renew_at = 0.0
        self._told: str | None = ""

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await loop.run_in_executor(self._thread, self.look)
            except Exception:
                log.exception("what the fleet serves could not be looked at")

    def look(self) -> None:
        """Blocks for as long as Redis may take."""
        if self._serving.wrong_place is not None or not self._takes_the_lock():
            return
        error = None
        try:
            self._store.follow()
            if time.monotonic() >= self._renew_at:
                self._fleet.renew(self._store)
                self._renew_at = time.monotonic() + RENEW_SECONDS
        except PolicyError as failure:
            error = str(failure)
        if error != self._told:
            self._told = error
            FleetStatus(error, time.time()).write(self._store.folder)
            if error is None:
                log.info("the fleet's policy is followed")
            else:
                log.warning("the fleet's policy is not followed", reason=error)

    def _takes_the_lock(self) -> bool:
        if self._lock is None:
            with contextlib.suppress(OSError):
                descriptor = open_lock(self._store.folder / LOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._lock = descriptor
                except OSError:
                    os.close(descriptor)
        return self._lock is not None

    def close(self) -> None:
        self._thread.submit(self._redis.close).result()
        self._thread.shutdown()
        if self._lock is not None:
            os.close(self._lock)
