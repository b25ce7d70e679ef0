"""How much one client may ask for, and when a worker that cannot keep up says so."""

import mmap
import time
import zlib
from collections.abc import Callable

import numpy as np

from recommendation_service.core.errors import TooManyRequests

SLOTS = 1 << 20


class RateLimiter:
    """So many requests a second for each client, with bursts of one second's worth.

    GCRA, the leaky bucket as a virtual schedule (ITU-T I.371): for each client one number is kept, the
    time at which it will have used up what it asked for. The numbers lie in memory that forked workers
    share, at a place found by hashing: no list of clients grows, two workers at once may rarely let a
    request too many through, and two clients on one of a million places share a limit.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second if per_second > 0 else 0.0
        self.is_on = per_second > 0
        self._clock = clock
        # A worker that was not forked from a preloaded application has memory of its own.
        self._used_up = np.frombuffer(mmap.mmap(-1, SLOTS * 8), np.float64) if per_second > 0 else np.zeros(0)

    def check(self, client: str) -> None:
        """Count a request of ``client``. Raises TooManyRequests where it comes too early."""
        if not self.is_on:
            return
        place = zlib.crc32(client.encode()) % SLOTS
        now = self._clock()
        # The clock counts from the machine's start, and so does a place that nobody has used yet.
        used_up = max(now, float(self._used_up[place])) + self._interval
        early = used_up - now - max(1.0, self._interval)
        if early > 1e-9:
            raise TooManyRequests("Too many requests; see Retry-After.", retry_after_seconds=int(early) + 1)
        self._used_up[place] = used_up
