"""What is kept of every request: its id, its count and time, a line of the log where that is wanted."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from recommendation_service.telemetry.metrics import Metrics, observe_all

log = structlog.get_logger(__name__)

REQUEST_ID_DIGITS = 32
REQUEST_IDS_AT_ONCE = 256


def request_ids() -> Iterator[str]:
    """Random numbers of the system, fetched many at a time: each call of it takes as long as the rest of this module.

    What is left is lost with the process; one that forks must not have begun.
    """
    while True:
        digits = os.urandom(REQUEST_IDS_AT_ONCE * REQUEST_ID_DIGITS // 2).hex()
        for start in range(0, len(digits), REQUEST_ID_DIGITS):
            yield digits[start : start + REQUEST_ID_DIGITS]


class Accounts:
    """One worker's, of all requests."""

    def __init__(self, metrics: Metrics, names: Mapping[str, str], access_log: bool) -> None:
        """``names``: of endpoints in metrics, by path; all others are one."""
        self._metrics = metrics
        self._names = names
        self._access_log = access_log
        self._request_ids = request_ids()
        self._seconds = {name: metrics.request_seconds.labels(name) for name in {*names.values(), "other"}}
        self._counters: dict[tuple[str, int], Any] = {}
        self._turn: dict[tuple[str, int], list[float]] = {}  # seconds of what ended in this turn, by name and status

    def open(self) -> tuple[str, float]:
        """The id of a request that begins, and when that is."""
        return next(self._request_ids), time.perf_counter()

    def failed(self, request_id: str, path: str) -> None:
        """Called where the exception is handled: it is ours to mend, and says so without a trace to the client."""
        log.exception("request failed", request_id=request_id, path=path)

    def _count(self) -> None:
        """At the end of the turn: what is counted stands in files, and each write of them takes a microsecond."""
        turn, self._turn = self._turn, {}
        for (name, status), seconds in turn.items():
            counter = self._counters.get((name, status))
            if counter is None:
                counter = self._counters[name, status] = self._metrics.requests.labels(name, str(status)).inc
            counter(len(seconds))
            observe_all(self._seconds[name], seconds)

    def close(self, request_id: str, started: float, method: str, path: str, status: int, error_code: str) -> None:
        """``status``: 0 where nothing was answered. ``error_code``: empty where all went well."""
        seconds = time.perf_counter() - started
        name, turn = self._names.get(path, "other"), self._turn
        if not turn:
            asyncio.get_running_loop().call_soon(self._count)
        turn.setdefault((name, status), []).append(seconds)
        if error_code:
            self._metrics.errors.labels(name, error_code).inc()
        if self._access_log:
            log.info(
                "request",
                request_id=request_id,
                method=method,
                path=path,
                status=status,
                milliseconds=round(seconds * 1000, 3),
            )
