"""The three feed endpoints: body in, ready-made bytes out.

They are plain ASGI, because per request there is nothing to inject, validate or serialize that is not
done here already; documentation.py describes them in the OpenAPI document.
"""

import hashlib
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from recommendation_service.api.access import Access
from recommendation_service.api.bodies import check_head, read_body
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.schemas import read_feed_body
from recommendation_service.core.errors import IdempotencyConflict, InvalidRequest
from recommendation_service.feed.request import FeedFields
from recommendation_service.memory.answers import ANSWER_SECONDS, Asked, answer_key
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.serving.seen_store import OtherRequest
from recommendation_service.serving.worker import worker_of

LONGEST_IDEMPOTENCY_KEY = 255


class CallLimits(NamedTuple):
    per_key: RateLimiter
    per_user: RateLimiter  # anonymous ones by address


class FeedEndpoint:
    """One feed endpoint as an ASGI application."""

    def __init__(self, endpoint: str, access: Access, limits: CallLimits) -> None:
        self._endpoint = endpoint
        self._access = access
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._access.check_api_key(scope)
        codings = check_head(scope)
        self._limits.per_key.check(key)
        fields = read_feed_body(await read_body(receive, codings), self._endpoint)
        self._limits.per_user.check(str(fields.user_id) if fields.user_id else _address(scope))
        asked = _asked(scope, key, self._endpoint, fields)
        try:
            answer = await worker_of(scope).feeds.feed(self._endpoint, fields, scope["state"]["request_id"], asked)
        except OtherRequest:
            problem = f"was sent with other fields less than {2 * ANSWER_SECONDS} seconds ago"
            details = [{"field": "Idempotency-Key", "problem": problem}]
            raise IdempotencyConflict("The Idempotency-Key stands for another request.", details) from None
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"private, no-store"),
        ]
        if asked is not None and not answer.kept:
            headers.append((b"idempotency-key-kept", b"false"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def feed_endpoints(prefix: str, access: Access, limits: CallLimits) -> dict[str, FeedEndpoint]:
    """The feeds by their paths; documentation.py describes them."""
    return {f"{prefix}/search/{name}": FeedEndpoint(name, access, limits) for name in ENDPOINTS}


def _asked(scope: Scope, caller: str, endpoint: str, fields: FeedFields) -> Asked | None:
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            text: str = value.decode("latin-1")
            if len(text) > LONGEST_IDEMPOTENCY_KEY:
                problem = f"must have at most {LONGEST_IDEMPOTENCY_KEY} characters, but has {len(text)}"
                raise InvalidRequest("A header is not valid.", [{"field": "Idempotency-Key", "problem": problem}])
            if not text:
                return None
            return Asked(answer_key(caller, endpoint, str(fields.user_id), text), _digest(fields))
    return None


def _digest(fields: FeedFields) -> bytes:
    """What tells one request from another, in 16 bytes."""
    told = (fields.user_id, fields.size, fields.session_id, fields.explain, fields.personal)
    text = "".join(f"{value}\0" for value in told).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text + fields.excluded.tobytes(), digest_size=16).digest()


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return f"address {client[0]}" if client else "address unknown"
