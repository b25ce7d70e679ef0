"""Where a cache is counted."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter, Summary


class CacheSizes(Protocol):
    read: Callable[[], tuple[int, int]] | None  # bytes, entries


class CacheMetrics(Protocol):
    cache_lookups: Counter  # level, outcome
    cache_evictions: Counter
    cache_collapsed: Counter  # where
    cache_late: Counter
    cache_reads: Counter  # outcome
    cache_read_seconds: Summary

    @property
    def cache_sizes(self) -> CacheSizes: ...


class TurnCounts:
    """What is counted in one turn of an event loop is told together: each time, the library asks the kernel for the
    process's id, and writes to a file."""

    def __init__(self, seconds: Summary) -> None:
        self._summary = seconds
        self._counted: dict[Counter, int] = {}
        self._seconds: list[float] = []

    def add(self, counter: Counter, seconds: float | None = None) -> None:
        """Once more, and with it what took so long."""
        if not self._counted:
            asyncio.get_running_loop().call_soon(self._tell)
        self._counted[counter] = self._counted.get(counter, 0) + 1
        if seconds is not None:
            self._seconds.append(seconds)

    def _tell(self) -> None:
        for counter, times in self._counted.items():
            counter.inc(times)
        self._counted.clear()
        if self._seconds:
            self._summary._sum.inc(sum(self._seconds))  # the library has no call for several
            self._summary._count.inc(len(self._seconds))
            self._seconds.clear()
