"""A machine's look at what the fleet has: of its workers one looks, and all take up from the disk what it brings."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.errors import ServiceError, VersionError
from recommendation_service.core.files import open_lock
from recommendation_service.policies.fleet_status import FleetStatus
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

LOCK = "fleet.lock"


class FleetWatch:
    """One worker's; it looks where no other of the machine does."""

    def __init__(
        self,
        serving: Serving,
        redis: BlockingRedis,
        folder: Path,
        follow: Callable[[], None],
        what: str,
        seconds: float,
    ) -> None:
        """``follow``: brings what the fleet has into ``folder``, on a thread of its own, as Redis may block; raises
        ServiceError or VersionError where it cannot. ``what``: that is, in the log. ``seconds``: between two looks."""
        self._serving = serving
        self._redis = redis
        self._folder = folder
        self._follow = follow
        self._what = what
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "fleet")
        self._lock: int | None = None  # held by the worker that looks
        self._told: str | None = ""

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await loop.run_in_executor(self._thread, self.look)
            except Exception:
                log.exception(f"{self._what} could not be looked at")

    def look(self) -> None:
        """Blocks for as long as Redis may take."""
        if self._serving.wrong_place is not None or not self._takes_the_lock():
            return
        error = None
        try:
            self._follow()
        except (ServiceError, VersionError) as failure:
            error = str(failure)
        if error != self._told:
            self._told = error
            FleetStatus(error, time.time()).write(self._folder)
            if error is None:
                log.info(f"{self._what} is followed")
            else:
                log.warning(f"{self._what} is not followed", reason=error)

    def _takes_the_lock(self) -> bool:
        if self._lock is None:
            with contextlib.suppress(OSError):
                descriptor = open_lock(self._folder / LOCK)
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
