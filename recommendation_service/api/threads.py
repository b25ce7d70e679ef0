"""Threads for work that may hang, apart from those of whoever watches the service.

asyncio's own pool has a few threads for everything: calls that wait for a database which hangs would take all of them,
and /metrics, which tells of that, would wait behind.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from recommendation_service.core.errors import Overloaded

T = TypeVar("T")

WAIT_SECONDS = 1.0
RETRY_AFTER_SECONDS = 5


class Threads:
    """A few of one worker, made when they are first needed; no call waits long for one."""

    def __init__(self, name: str, number: int) -> None:
        self._pool = ThreadPoolExecutor(number, name)
        self._free = asyncio.Semaphore(number)

    async def run(self, work: Callable[[], T]) -> T:
        """Raises Overloaded where all threads are taken, and what ``work`` raises. A thread whose caller has left is
        taken until its work ends."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded(
                "Too many calls of this kind wait already.", retry_after_seconds=RETRY_AFTER_SECONDS
            ) from None
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # shut down: the worker stops
            self._free.release()
            raise
        future.add_done_callback(lambda done: self._give_back(loop, done))
        return await asyncio.wrap_future(future)

    def _give_back(self, loop: asyncio.AbstractEventLoop, _done: "Future[T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free.release)
