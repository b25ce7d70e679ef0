"""Keeps a worker's memory of users: opens it as soon as that can be done, sweeps it, and has room made in it.

A worker may start while the disk is full or the folder cannot be written; and a file may be found to be damaged, or to
be gone. Then the worker goes on without, counts that, and has a memory again once one can be opened.
"""

import asyncio
import contextlib
import fcntl
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.files import open_lock
from recommendation_service.memory.memory_file import FileId, file_id
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory
from recommendation_service.ranking.seen import Lifetimes
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.25
OPEN_SECONDS = 1.0  # between two tries
SWEEP_SECONDS = 30.0
PAUSE_SECONDS = 0.001  # in which requests have the core, while room is made
ROOM_LOCK = "room.lock"


class MemoryKeeper:
    """One worker's."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        lifetimes: Lifetimes,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lifetimes = lifetimes
        self._clock = clock
        self._memory: UserMemory | None = None
        self._damaged: FileId | None = None
        self._problem = ""
        self._next_open = self._next_sweep = 0.0
        self._thread = ThreadPoolExecutor(1, "memory")

    def memory(self) -> UserMemory | None:
        """As it is now; None while there is none."""
        return self._memory

    def open(self) -> None:
        """A try; a failure is logged, and tried again by ``run``."""
        self._take(self._opened())

    def close(self) -> None:
        self._thread.shutdown()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if self._memory is None:
                    if time.monotonic() >= self._next_open:
                        self._take(await loop.run_in_executor(self._thread, self._opened))
                elif self._memory.is_damaged or self._memory.is_replaced:
                    self._leave(self._memory)
                else:
                    await loop.run_in_executor(self._thread, self._keep_house, self._memory)
            except MemoryFailed as error:
                log.error("the memory of what users have seen cannot be kept in order", reason=str(error))
            except Exception:
                log.exception("the memory of what users have seen cannot be kept in order")

    def _opened(self) -> UserMemory | None:
        """In a thread: another process may be opening it."""
        self._next_open = time.monotonic() + OPEN_SECONDS
        settings = self._settings
        try:
            return UserMemory(settings.seen_dir, settings.seen_megabytes << 20, self._clock.now, self._damaged)
        except MemoryFailed as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("feeds repeat what they showed, and hides are refused, until this is over", reason=str(error))
            return None

    def _take(self, memory: UserMemory | None) -> None:
        if memory is None:
            return
        if self._problem:
            log.info("what users have seen is remembered again")
        self._memory, self._damaged, self._problem = memory, None, ""
        if memory.was_damaged:
            self._metrics.seen_damaged.inc()

    def _leave(self, memory: UserMemory) -> None:
        """On the event loop, so that no request is in the middle of an access. The next look opens what is there."""
        there = file_id(self._settings.seen_dir)
        # With its lock file gone, others may have written to it at the same time.
        is_unlocked = there is not None and there != memory.identity and there.content == memory.identity.content
        self._damaged = memory.identity if memory.is_damaged or is_unlocked else None
        self._memory, self._next_open = None, 0.0
        memory.close()
        log.warning("what users have seen is opened again", reason="damaged" if self._damaged else "another file")

    def _keep_house(self, memory: UserMemory) -> None:
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            if self._clock.may_delete(self._settings.clock_wait_seconds):
                memory.sweep(self._lifetimes, self._clock.now())
        memory.filled()
        if memory.is_crowded:
            self._make_room(memory)

    def _make_room(self, memory: UserMemory) -> None:
        """By one worker at a time."""
        with contextlib.suppress(BlockingIOError), open(open_lock(self._settings.seen_dir / ROOM_LOCK), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            served, acted = memory.make_room(self._lifetimes, self._clock.now(), lambda: time.sleep(PAUSE_SECONDS))
            self._metrics.seen_evicted.labels("served").inc(served)
            self._metrics.seen_evicted.labels("acted").inc(acted)
            if served or acted:
                log.warning(
                    "what users have seen is full: what was seen longest ago gives way", served=served, acted=acted
                )
