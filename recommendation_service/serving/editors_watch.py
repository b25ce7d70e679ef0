"""A worker's look at what editors ruled, and a machine's look at what the fleet has of it.

Every worker looks at the file, five times a second. Of a machine's workers one looks at Redis, and brings what is there
into the file, from which all take it up.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import ServiceError
from recommendation_service.core.files import open_lock
from recommendation_service.editors.fleet import FleetRulings
from recommendation_service.editors.rulings import FOR_GOOD, Rulings
from recommendation_service.editors.store import RulingsStore, Stamp
from recommendation_service.policies.fleet_status import FleetStatus
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.2
FLEET_SECONDS = 0.4
FLEET_LOCK = "fleet.lock"


class EditorsWatch:
    """One worker's. ``state`` and ``problem`` are as of its latest look."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._serving = serving
        self._store = RulingsStore(settings.editors_dir)
        self._stamp: Stamp | None = None
        self._next_end = float("inf")  # when one of those that hold ends
        self._looking = asyncio.Lock()  # or a look that began before a change would end after the one that saw it
        self.state = Rulings()
        self.problem: str | None = None  # why what holds is not what the file says

    def first_look(self) -> None:
        """Before anything is served."""
        self._stamp = self._store.stamp()
        self._take_up(*self._store.read())

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("what editors ruled could not be looked at")

    async def look(self) -> None:
        async with self._looking:
            stamp = self._store.stamp()
            if stamp != self._stamp:
                found = await asyncio.to_thread(self._store.read)
                self._stamp = stamp
                self._take_up(*found)
            elif self._serving.clock.now() >= self._next_end:
                self._take_up(self.state, self.problem)
            else:
                self._serving.rule(self._serving.rulings)

    def _take_up(self, state: Rulings, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.error("what editors ruled cannot be read", reason=problem)
        if state.number != self.state.number:
            log.info("what editors ruled is taken up", number=state.number, rulings=len(state.held))
        self.state, self.problem = state, problem
        held = state.in_force(self._serving.clock.now())
        self._next_end = min((one.until for one in held if one.until != FOR_GOOD), default=float("inf"))
        self._serving.rule(held)


class FleetEditorsWatch:
    """One worker's; it looks where no other of the machine does."""

    def __init__(self, settings: Settings, serving: Serving, redis: BlockingRedis) -> None:
        self._serving = serving
        self._redis = redis
        self._store = RulingsStore(settings.editors_dir, FleetRulings(redis))
        self._thread = ThreadPoolExecutor(1, "editors")
        self._lock: int | None = None  # held by the worker that looks
        self._told: str | None = ""

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(FLEET_SECONDS)
            try:
                await loop.run_in_executor(self._thread, self.look)
            except Exception:
                log.exception("what the fleet's editors ruled could not be looked at")

    def look(self) -> None:
        """Blocks for as long as Redis may take."""
        if self._serving.wrong_place is not None or not self._takes_the_lock():
            return
        error = None
        try:
            self._store.follow()
        except ServiceError as failure:
            error = str(failure)
        if error != self._told:
            self._told = error
            FleetStatus(error, time.time()).write(self._store.folder)
            if error is None:
                log.info("what the fleet's editors rule is followed")
            else:
                log.warning("what the fleet's editors rule is not followed", reason=error)

    def _takes_the_lock(self) -> bool:
        if self._lock is None:
            with contextlib.suppress(OSError):
                descriptor = open_lock(self._store.folder / FLEET_LOCK)
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
