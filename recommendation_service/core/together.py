"""Reads that come while others are under way share the next one: a round trip for all of them, and not for each."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

# Of the event loop, before a reading: those whom the last one told are answered, and who asks then is read with it.
GATHERING_TURNS = 3

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Together(Generic[K, V]):
    """Reads by key. One event loop's.

    ``read``: what the keys stand for, each once and at most ``most`` of them. What it raises, all who asked are told.
    While one reading is under way, another begins with ``most`` keys, or when the first has taken ``patience_seconds``:
    so many share a reading, and one that hangs holds up nobody for longer. At most ``readings`` are under way.
    """

    def __init__(
        self,
        read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        readings: int,
        most: int,
        patience_seconds: float,
    ) -> None:
        self._read = read
        self._most = most
        self._patience_seconds = patience_seconds
        self._most_readings = readings
        self._begun: list[float] = []  # of the readings under way, the first one first
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._planned: asyncio.Handle | None = None

    def get(self, key: K) -> asyncio.Future[V]:
        """Who gives up cancels it, which takes nothing from others who ask for the same."""
        found: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        asked = self._waiting.get(key)
        if asked is None:
            self._waiting[key] = [found]
            self._plan()
        else:
            asked.append(found)
        return found

    def close(self) -> None:
        """Without waiting for what is being read."""
        self._forget_plan()
        for asked in self._waiting.values():
            for found in asked:
                found.cancel()
        self._waiting.clear()

    def _plan(self) -> None:
        """The next reading, where there is one to come and none is planned."""
        if not self._waiting or len(self._begun) == self._most_readings:
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= self._most:
            self._begin()
        elif self._planned is None and self._begun:
            self._planned = loop.call_at(self._begun[0] + self._patience_seconds, self._begin)
        elif self._planned is None:
            self._planned = loop.call_soon(self._gather, GATHERING_TURNS)

    def _gather(self, turns: int) -> None:
        self._planned = asyncio.get_running_loop().call_soon(*((self._gather, turns - 1) if turns else (self._begin,)))

    def _begin(self) -> None:
        self._forget_plan()
        loop = asyncio.get_running_loop()
        # The latest first: where there are more than can be read in time, some are in time all the same.
        keys = list(self._waiting)[-self._most :]
        asked = {key: self._waiting.pop(key) for key in keys}
        begun = loop.time()
        self._begun.append(begun)
        reading = asyncio.ensure_future(self._read(keys))
        reading.add_done_callback(partial(self._end, begun, asked))
        self._plan()

    def _end(
        self, begun: float, asked: Mapping[K, Sequence[asyncio.Future[V]]], done: asyncio.Future[Mapping[K, V]]
    ) -> None:
        self._begun.remove(begun)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        found = done.result() if error is None else {}
        for key, futures in asked.items():
            for future in futures:
                if future.done():
                    continue  # who asked has gone
                if error is None:
                    future.set_result(found[key])
                elif isinstance(error, asyncio.CancelledError):
                    future.cancel()
                else:
                    future.set_exception(error)
        self._forget_plan()
        self._plan()

    def _forget_plan(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
