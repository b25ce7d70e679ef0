"""The three feed endpoints: body in, ready-made bytes out; documentation.py describes them in the OpenAPI document."""

import hashlib
from collections.abc import Awaitable

from recommendation_service.api.calls import JSON, Call, Headers, Reply
from recommendation_service.api.limits import RateLimiter
from recommendation_service.core.errors import IdempotencyConflict, InvalidRequest
from recommendation_service.feed.request import FeedFields
from recommendation_service.feed.sentences import language_for
from recommendation_service.mappings.forms import read_feed_body
from recommendation_service.memory.answers import ANSWER_SECONDS, Asked, answer_key
from recommendation_service.serving.seen_store import OtherRequest

LONGEST_IDEMPOTENCY_KEY = 255
PRIVATE = (*JSON, (b"cache-control", b"private, no-store"))
NOT_KEPT = (*PRIVATE, (b"idempotency-key-kept", b"false"))


class FeedEndpoint:
    """One feed endpoint."""

    def __init__(self, name: str, per_user: RateLimiter) -> None:
        """``per_user``: of calls; anonymous ones by address."""
        self._name = name
        self._per_user = per_user

    def answer(self, call: Call) -> Awaitable[Reply]:
        fields = read_feed_body(call.body, self._name)
        if fields.explain:
            fields = fields.but(language=accepted_language(call.headers))
        if self._per_user.is_on:
            self._per_user.check(str(fields.user_id) if fields.user_id else f"address {call.address()}")
        return answered(call, self._name, fields, self._name)


async def answered(call: Call, feed: str, fields: FeedFields, endpoint: str) -> Reply:
    """``endpoint``: what an Idempotency-Key holds for, beside the key of who calls and the user."""
    asked = _asked(call, endpoint, fields)
    try:
        answer = await call.worker.feeds.feed(feed, fields, call.request_id, asked)
    except OtherRequest:
        problem = f"was sent with other fields less than {2 * ANSWER_SECONDS} seconds ago"
        details = [{"field": "Idempotency-Key", "problem": problem}]
        raise IdempotencyConflict("The Idempotency-Key stands for another request.", details) from None
    return Reply(200, answer.body, NOT_KEPT if asked is not None and not answer.kept else PRIVATE)


def accepted_language(headers: Headers) -> str:
    """Of sentences for people: the best that there is for the Accept-Language headers."""
    return language_for(",".join(value.decode("latin-1") for name, value in headers if name == b"accept-language"))


def _asked(call: Call, endpoint: str, fields: FeedFields) -> Asked | None:
    for name, value in call.headers:
        if name == b"idempotency-key":
            text: str = value.decode("latin-1")
            if len(text) > LONGEST_IDEMPOTENCY_KEY:
                problem = f"must have at most {LONGEST_IDEMPOTENCY_KEY} characters, but has {len(text)}"
                raise InvalidRequest("A header is not valid.", [{"field": "Idempotency-Key", "problem": problem}])
            if not text:
                return None
            return Asked(answer_key(call.key, endpoint, str(fields.user_id), text), _digest(fields))
    return None


def _digest(fields: FeedFields) -> bytes:
    """What tells one request from another, in 16 bytes."""
    told = (fields.user_id, fields.size, fields.session_id, fields.explain, fields.personal, *fields.filters)
    text = "".join(f"{value}\0" for value in told).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text + fields.excluded.tobytes(), digest_size=16).digest()
