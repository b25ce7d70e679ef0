"""Reads that come while others are under way share the next one: a round trip for all of them, and not for each."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Together(Generic[K, V]):
    """Reads by key, in threads of its own. One event loop's.

    ``read``: what the keys stand for, each once and at most ``most`` of them; called in a thread. What it raises,
    all who asked are told.
    """

    def __init__(self, read: Callable[[Sequence[K]], Mapping[K, V]], *, threads: int, most: int, name: str) -> None:
        self._read = read
        self._most = most
        self._threads = ThreadPoolExecutor(threads, name)
        self._free = threads
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._is_planned = False

    async def get(self, key: K) -> V:
        found = self._waiting.get(key)
        if found is None:
            loop = asyncio.get_running_loop()
            found = self._waiting[key] = loop.create_future()
            if self._free and not self._is_planned:
                self._is_planned = True
                loop.call_soon(self._begin)  # with those who ask in this turn of the loop
        return await asyncio.shield(found)

    def close(self) -> None:
        """Without waiting for what is being read: a thread that is held up ends at its own time limit."""
        for found in self._waiting.values():
            found.cancel()
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        self._is_planned = False
        loop = asyncio.get_running_loop()
        while self._free and self._waiting:
            # The latest first: where there are more than can be read in time, some are in time all the same.
            keys = list(self._waiting)[-self._most :]
            asked = {key: self._waiting.pop(key) for key in keys}
            self._free -= 1
            loop.run_in_executor(self._threads, self._read, keys).add_done_callback(partial(self._end, asked))

    def _end(self, asked: Mapping[K, asyncio.Future[V]], done: asyncio.Future[Mapping[K, V]]) -> None:
        self._free += 1
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for key, found in asked.items():
            if error is None:
                found.set_result(done.result()[key])
            elif isinstance(error, asyncio.CancelledError):
                found.cancel()
            else:
                found.set_exception(error)
                found.exception()  # who asked may have gone: then nobody looks, and that is no fault
        self._begin()
