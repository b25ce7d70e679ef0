"""By when what waits is to be in the database, how far past that it is, and how much of its time a flush may work.

A flush that nobody asked for leaves machine and database to requests: it works for a share of the time. The share grows
with how much is at stake, without a step: a backlog settles where as much goes out as comes in.
"""

from collections.abc import Callable

# Of its time, a flush works so much while all is in time, and more the later it is: all of it from so many seconds on.
LEAST_SHARE = 0.1
HURRY_SECONDS = 15.0


def share_of_work(overdue_seconds: float, filled: float) -> float:
    """From LEAST_SHARE to 1. ``filled``: what waits, of the log's size from which on nothing may wait any longer."""
    hurry = min(1.0, max(0.0, overdue_seconds / HURRY_SECONDS, filled))
    return LEAST_SHARE + (1.0 - LEAST_SHARE) * hurry


def rest_seconds(worked_seconds: float, share: float) -> float:
    """After so much work, so that the work is that share of both."""
    return worked_seconds * (1.0 / share - 1.0)


class Promise:
    """By when the oldest of what waits is to be in the database: the interval after it was accepted, or when a user
    had as many events waiting as the threshold.

    Counted by ``clock``, which only goes on; what waited before it was noted, by ``now_ms``.
    """

    def __init__(
        self, interval_seconds: float, threshold: int, clock: Callable[[], float], now_ms: Callable[[], int]
    ) -> None:
        self._interval_seconds = interval_seconds
        self._threshold = threshold
        self._clock = clock
        self._now_ms = now_ms
        self._since: float | None = None  # when the oldest began to wait
        self._oldest_ms: int | None = None
        self._threshold_met: float | None = None

    def note(self, oldest_ms: int | None, most_of_a_user: int) -> None:
        """Something waits. ``oldest_ms``: None: no event, but something else that a flush does."""
        now = self._clock()
        if self._since is None:
            waited = 0.0 if oldest_ms is None else max(0.0, (self._now_ms() - oldest_ms) / 1000)
            self._since, self._oldest_ms = now - waited, oldest_ms
        if self._threshold_met is None and most_of_a_user >= self._threshold:
            self._threshold_met = now

    def partly_kept(self, oldest_ms: int) -> None:
        """Of what was noted, only what was accepted from then on waits still."""
        if self._since is not None and self._oldest_ms is not None:
            self._since += max(0.0, (oldest_ms - self._oldest_ms) / 1000)
            self._oldest_ms = max(self._oldest_ms, oldest_ms)

    def kept(self) -> None:
        """Nothing waits any more."""
        self._since = self._oldest_ms = self._threshold_met = None

    def seconds(self) -> float | None:
        """Until it is to be there, below 0 where that is past; None: nothing waits."""
        if self._since is None:
            return None
        due = self._since + self._interval_seconds
        if self._threshold_met is not None:
            due = min(due, self._threshold_met)
        return due - self._clock()

    def overdue_seconds(self) -> float:
        left = self.seconds()
        return 0.0 if left is None else max(0.0, -left)
