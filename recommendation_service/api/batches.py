"""`POST {prefix}/feeds/{name}/batch`: feeds of many users at once, JSON lines in and out, for administrators."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from recommendation_service.api.access import Access
from recommendation_service.api.accounts import request_ids
from recommendation_service.api.bodies import check_head, decoded, read_body
from recommendation_service.api.feeds import accepted_language
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.named_feeds import IdForms, NamedFeed, invalid, read_named_body
from recommendation_service.api.schemas import MOST_ITEMS, named
from recommendation_service.core.errors import InvalidRequest, ServiceError, TooManyRequests
from recommendation_service.feed.request import FeedFields
from recommendation_service.feed.sentences import DEFAULT_LANGUAGE
from recommendation_service.serving.batch import Batch, Wanted
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.worker import worker_of

MOST_LINES = 10_000
CALLS_PER_SECOND = 20.0
AT_ONCE = 16  # lines that are sent together
MEDIA_TYPE = "application/x-ndjson"
DIGITS = 20  # more than an id that is a number has
_FLAGS = {"true": True, "false": False}
_MARK = b"\xef\xbb\xbf"  # that some programs begin UTF-8 with
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Line(NamedTuple):
    """Of a list of users."""

    number: int  # from 1
    user: Any  # as it stands there; None where that cannot be told
    asked: FeedFields | ServiceError


def add_batches(
    app: FastAPI, prefix: str, serving: Serving, access: Access, feeds: Iterable[NamedFeed], forms: IdForms
) -> None:
    """Declare a route for each feed."""
    calls = RateLimiter(CALLS_PER_SECOND)
    running = asyncio.Lock()  # of this worker

    def route(feed: NamedFeed) -> Route:
        async def batch(request: Request) -> StreamingResponse:
            access.check_administrator(request.scope)
            serving.check_place()
            calls.check("")
            record, size = _read_query(request.query_params)
            headers = request.scope["headers"]
            codings = check_head([header for header in headers if header[0] != b"content-type"])
            texts = decoded(await read_body(request.receive), codings).split(b"\n")
            # Before they are read: a body may have more lines than a worker has time for.
            count = sum(not is_empty(text) for text in texts)
            if not 1 <= count <= MOST_LINES:
                raise invalid([("body", f"must have from 1 to {MOST_LINES} users, a line each, but has {count}")])
            lines = list(read_lines(texts, feed, forms, size, accepted_language(headers)))
            if running.locked():
                raise TooManyRequests("This worker makes a batch already.", retry_after_seconds=2)
            await serving.ready_pipeline()
            made = Batch(serving, worker_of(request.scope), feed.name, record=record)
            return StreamingResponse(_sent(made, lines), media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})

        async def _sent(made: Batch, lines: list[Line]) -> AsyncIterator[bytes]:
            ids, pieces = request_ids(), []
            wanted = (
                line.asked if isinstance(line.asked, ServiceError) else Wanted(line.asked, next(ids)) for line in lines
            )
            async with running:
                at = iter(lines)
                async for answer in made.made(wanted):
                    pieces.append(rendered(next(at), answer))
                    if len(pieces) == AT_ONCE:
                        yield b"".join(pieces)
                        pieces.clear()
                yield b"".join(pieces)

        return Route(f"{prefix}/feeds/{feed.name}/batch", batch, methods=["POST"])

    app.router.routes += [route(feed) for feed in feeds]


def is_empty(line: bytes) -> bool:
    return not line.strip().removeprefix(_MARK)


def read_lines(
    lines: Iterable[bytes], feed: NamedFeed, forms: IdForms, size: int | None = None, language: str = DEFAULT_LANGUAGE
) -> Iterator[Line]:
    """Each line a user's id, or an object as the body of a feed's request; empty ones are passed over. ``size``: where
    a line says none; None: the feed's. ``language``: of explanations."""
    feed = feed if size is None else feed._replace(size=size)
    for number, line in enumerate(lines, 1):
        if not is_empty(line):
            user, body = _as_body(line.strip().removeprefix(_MARK), forms)
            try:
                asked: FeedFields | ServiceError = read_named_body(body, feed, forms).but(language=language)
            except ServiceError as error:
                asked = error
            if user is None and not isinstance(asked, ServiceError):
                asked = invalid([("user", "must be there: a batch is of people")])
            yield Line(number, user, asked)


def _as_body(text: bytes, forms: IdForms) -> tuple[Any, bytes]:
    """The user as it stands there, and the body of a feed's request."""
    if text.startswith(b"{"):
        try:
            content = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, text
        return content.get("user"), text
    user: Any = text.decode("utf-8", "replace")
    if text.startswith(b'"'):
        try:
            user = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return user, text
    elif not forms.users_are_text and text.isdigit() and len(text) < DIGITS:
        user = int(text)
    return user, _encode({"user": user})


def rendered(line: Line, answer: bytes | ServiceError) -> bytes:
    """A line of the answer."""
    head = b'{"line":%d,"user":%b,' % (line.number, _encode(line.user))
    if not isinstance(answer, ServiceError):
        return b"%b%b\n" % (head, answer[1:])
    error = {"code": answer.code, "message": answer.message, "details": answer.details}
    return b'%b"error":%b}\n' % (head, _encode(error))


def _read_query(query: QueryParams) -> tuple[bool, int | None]:
    """Whether to record, and the size. Raises InvalidRequest."""
    problems = [
        (name, "there is no such parameter; the parameters are record, size")
        for name in query
        if name not in {"record", "size"}
    ]
    record, size = query.get("record", "false"), query.get("size")
    if record not in _FLAGS:
        problems.append(("record", f"must be true or false, but is {named(record)}"))
    if size is not None and not (size.isascii() and size.isdigit() and len(size) < 4 and 1 <= int(size) <= MOST_ITEMS):
        problems.append(("size", f"must be an integer from 1 to {MOST_ITEMS}, but is {named(size)}"))
    if problems:
        raise InvalidRequest(
            "The request has invalid parameters.", [{"field": name, "problem": said} for name, said in problems]
        )
    return record == "true", int(size) if size is not None else None


def batch_operation(feed: NamedFeed, errors: dict[int | str, Any]) -> dict[str, Any]:
    """For the OpenAPI document."""
    line = {"type": "string", "description": "JSON lines"}
    flag = {"type": "boolean", "default": False}
    size = {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS}
    return {
        "operationId": f"batch_{feed.name}",
        "summary": f"The feed {feed.name} for many users",
        "description": f"Up to {MOST_LINES} lines, each a user's id or the body of a feed's request. As many lines "
        "come back, in that order and as they are made, each with `line`, `user` and the feed, or `error`. "
        "Administrators only.",
        "tags": ["operations"],
        "parameters": [
            {
                "name": "record",
                "in": "query",
                "schema": flag,
                "description": "Whether these feeds are shown: recorded, remembered, and learned from. Else nothing "
                "of them stays.",
            },
            {"name": "size", "in": "query", "schema": size, "description": "How many items, where a line says none."},
        ],
        "requestBody": {"required": True, "content": {"text/plain": {"schema": line}}},
        "responses": {
            "200": {"description": "A line for each user", "content": {MEDIA_TYPE: {"schema": line}}},
            **{str(status): answer for status, answer in errors.items()},
        },
        "security": [{"administrator": []}],
    }
