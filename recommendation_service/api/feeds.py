"""The three feed endpoints: body in, ready-made bytes out.

They are plain ASGI, because per request there is nothing to inject, validate or serialize that is not
done here already; documentation.py describes them in the OpenAPI document.
"""

from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from recommendation_service.api.access import Access
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.personal_feeds import PersonalFeeds
from recommendation_service.api.schemas import read_feed_body
from recommendation_service.core.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from recommendation_service.ranking.policy import ENDPOINTS

LARGEST_BODY_BYTES = 1 << 20
LONGEST_IDEMPOTENCY_KEY = 255


class CallLimits(NamedTuple):
    per_key: RateLimiter
    per_user: RateLimiter  # anonymous ones by address


class FeedEndpoint:
    """One feed endpoint as an ASGI application."""

    def __init__(self, endpoint: str, feeds: PersonalFeeds, access: Access, limits: CallLimits) -> None:
        self._endpoint = endpoint
        self._feeds = feeds
        self._access = access
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._access.check_api_key(scope)
        check_media_type(scope)
        self._limits.per_key.check(key)
        fields = read_feed_body(await read_body(scope, receive), self._endpoint)
        self._limits.per_user.check(str(fields.user_id) if fields.user_id else _address(scope))
        body = await self._feeds.feed(
            self._endpoint, fields, scope["state"]["request_id"], key, _idempotency_key(scope)
        )
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"cache-control", b"private, no-store"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})


def feed_endpoints(prefix: str, feeds: PersonalFeeds, access: Access, limits: CallLimits) -> dict[str, FeedEndpoint]:
    """The feeds by their paths; documentation.py describes them."""
    return {f"{prefix}/search/{name}": FeedEndpoint(name, feeds, access, limits) for name in ENDPOINTS}


def _idempotency_key(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            text: str = value.decode("latin-1")
            if len(text) > LONGEST_IDEMPOTENCY_KEY:
                problem = f"must have at most {LONGEST_IDEMPOTENCY_KEY} characters, but has {len(text)}"
                raise InvalidRequest("A header is not valid.", [{"field": "Idempotency-Key", "problem": problem}])
            return text
    return ""


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return f"address {client[0]}" if client else "address unknown"


def check_media_type(scope: Scope) -> None:
    """A body that says it is something else than JSON is refused; one that says nothing is read."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
                raise UnsupportedMediaType("Send Content-Type: application/json.")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, refused as soon as it is known to be too large."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > LARGEST_BODY_BYTES:
            raise BodyTooLarge(f"The body may have at most {LARGEST_BODY_BYTES} bytes.")
    message = await receive()
    if not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > LARGEST_BODY_BYTES:
            raise BodyTooLarge(f"The body may have at most {LARGEST_BODY_BYTES} bytes.")
        return body
    chunks, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY_BYTES:
            raise BodyTooLarge(f"The body may have at most {LARGEST_BODY_BYTES} bytes.")
    return b"".join(chunks)
