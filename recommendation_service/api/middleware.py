"""Around every request: its id, its count and time, and an answer in the contract's form whatever happens; and the
short cut of those requests of which there are thousands a second."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recommendation_service.api.errors import error_body, failure_body, send_error
from recommendation_service.core.errors import ServiceError
from recommendation_service.telemetry.metrics import Metrics

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


class RequestScope:
    """The outermost layer. Plain ASGI: it adds some microseconds to a request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, feed_paths: dict[str, str], access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._endpoints = feed_paths  # path: the endpoint's name in metrics
        self._access_log = access_log
        self._request_ids = request_ids()
        self._observe = {name: metrics.request_seconds.labels(name).observe for name in {*feed_paths.values(), "other"}}
        self._counters: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = next(self._request_ids)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Nothing that a client sends may end here; what does is ours to mend, and says so without a trace.
            log.exception("request failed", request_id=request_id, path=scope["path"])
            scope["state"]["error_code"] = "internal_error"
            if status == 0:
                await send_error(send_with_id, 500, failure_body(request_id))
        finally:
            endpoint = self._endpoints.get(scope["path"], "other")
            seconds = time.perf_counter() - started
            self._observe[endpoint](seconds)
            counter = self._counters.get((endpoint, status))
            if counter is None:
                counter = self._metrics.requests.labels(endpoint, str(status)).inc
                self._counters[endpoint, status] = counter
            counter()
            if code := scope["state"].get("error_code"):
                self._metrics.errors.labels(endpoint, code).inc()
            if self._access_log:
                log.info(
                    "request",
                    request_id=request_id,
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 3),
                )


class ShortCut:
    """A POST to one of ``endpoints``, by path, goes straight there, and not through FastAPI (docs/decisions/0007)."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except ServiceError as error:
            scope["state"]["error_code"] = error.code
            await send_error(send, error.status, error_body(error), error.headers)


class HeadAsGet:
    """HEAD is GET without a body wherever there is a GET (RFC 9110, 9.3.2): uptime checkers send it by default, and
    FastAPI's routes refuse it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)
