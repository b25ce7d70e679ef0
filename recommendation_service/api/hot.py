"""The two ways to the endpoints of which there are thousands of calls a second.

`HotRoute` is an ASGI application, for every server and every request. `DirectCalls` is handed to our own protocol
(server/protocol.py), which answers by it all calls with a small body of known length, as
nearly all are: ASGI's messages, and the layers around them, would cost a tenth of a feed.
"""

from collections.abc import Mapping, Sequence

from starlette.types import Receive, Scope, Send

from recommendation_service.api.access import Access
from recommendation_service.api.accounts import Accounts
from recommendation_service.api.bodies import check_head, decoded, read_body
from recommendation_service.api.calls import Address, Call, Endpoint, Headers, Reply, send_reply
from recommendation_service.api.errors import failure, refusal
from recommendation_service.api.limits import RateLimiter
from recommendation_service.core.errors import BodyIncomplete, ServiceError
from recommendation_service.serving.worker import Worker, worker_of

NOTHING = Reply(0, b"")
_DIGITS = 4  # of the length of a body that is waited for in memory: what is larger, ASGI's flow control holds back


class Admission:
    """What a call's head has to bear."""

    def __init__(self, access: Access, per_key: RateLimiter) -> None:
        self._access = access
        self._per_key = per_key
        self._is_open = not access.keys_required and not per_key.is_on

    def check(self, headers: Headers, codings: Sequence[bytes] | None = None) -> tuple[str, Sequence[bytes]]:
        """The API key, and the codings of the body. ``codings``: where it was looked for them. Raises ServiceError."""
        key = "" if self._is_open else self._access.check_api_key(headers)
        if codings is None:
            codings = check_head(headers)
        if not self._is_open:
            self._per_key.check(key)
        return key, codings

    def check_bodiless(self, headers: Headers) -> None:
        """Of a call that needs no body. Raises ServiceError."""
        self._per_key.check(self._access.check_api_key(headers))


class HotRoute:
    """An endpoint as an ASGI application. Raises ServiceError."""

    def __init__(self, endpoint: Endpoint, admission: Admission) -> None:
        self.endpoint = endpoint
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        key, codings = self._admission.check(headers)
        body = decoded(await read_body(receive), codings)

        def address(_headers: Headers) -> str:
            client = scope.get("client")
            return client[0] if client else "unknown"

        call = Call(headers, body, key, scope["state"]["request_id"], worker_of(scope), address)
        await send_reply(send, await self.endpoint.answer(call))


class DirectCalls:
    """One worker's endpoints, for a protocol that has requests whole."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        admission: Admission,
        accounts: Accounts,
        worker: Worker,
        *,
        cors: bool,
    ) -> None:
        """``endpoints``: by path. ``cors``: whether scripts of other origins may call, whom a layer answers."""
        self._endpoints = {path.encode(): (path, endpoint) for path, endpoint in endpoints.items()}
        self._admission = admission
        self._accounts = accounts
        self._worker = worker
        self._cors = cors

    def takes(self, target: bytes, headers: Headers) -> bool:
        """Whether a POST to ``target``, as the request's first line has it, is answered here."""
        if target not in self._endpoints:
            return False
        length = b""
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"origin" and self._cors:
                return False
        return length.isdigit() and len(length) <= _DIGITS

    def codings_of(self, headers: Headers) -> Sequence[bytes] | None:
        """Of the body; None where such a head is refused."""
        try:
            return check_head(headers)
        except ServiceError:
            return None

    def miss(self, target: bytes) -> None:
        """A request whose client left within its body has asked for nothing, and is counted."""
        request_id, started = self._accounts.open()
        self._accounts.close(request_id, started, "POST", target.decode(), BodyIncomplete.status, BodyIncomplete.code)

    async def answer(
        self,
        target: bytes,
        headers: Headers,
        body: bytes,
        address: Address,
        codings: Sequence[bytes] | None = None,
    ) -> tuple[str, Reply]:
        """The request's id, and what is replied, whatever happens. ``codings``: where the head was looked at."""
        path, endpoint = self._endpoints[target]
        request_id, started = self._accounts.open()
        reply = NOTHING
        try:
            key, codings = self._admission.check(headers, codings)
            reply = await endpoint.answer(Call(headers, decoded(body, codings), key, request_id, self._worker, address))
        except ServiceError as error:
            reply = refusal(error)
        except Exception:  # noqa: BLE001 - it is logged there
            self._accounts.failed(request_id, path)
            reply = failure(request_id)
        finally:
            self._accounts.close(request_id, started, "POST", path, reply.status, reply.error_code)
        return request_id, reply
