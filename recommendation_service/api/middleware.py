"""Around every request: its account, and an answer in the contract's form whatever happens; and the short cut of those
requests of which there are thousands a second."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recommendation_service.api.accounts import Accounts
from recommendation_service.api.calls import send_reply
from recommendation_service.api.errors import failure, refusal
from recommendation_service.core.errors import ServiceError


class RequestScope:
    """The outermost layer. Plain ASGI: it adds some microseconds to a request."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app = app
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started = self._accounts.open()
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
        except Exception:  # noqa: BLE001 - it is logged there
            # Nothing that a client sends may end here.
            self._accounts.failed(request_id, scope["path"])
            scope["state"]["error_code"] = "internal_error"
            if status == 0:
                await send_reply(send_with_id, failure(request_id))
        finally:
            error_code = scope["state"].get("error_code", "")
            self._accounts.close(request_id, started, scope["method"], scope["path"], status, error_code)


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
            await send_reply(send, refusal(error))


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
