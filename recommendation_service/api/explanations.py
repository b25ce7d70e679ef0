"""Why a feed was as it was, for administrators: of each item, and of what was not in it."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Path, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from recommendation_service.api.access import Access
from recommendation_service.api.administration import DatabaseFailed, FolderFailed
from recommendation_service.api.documentation import answers
from recommendation_service.api.feeds import accepted_language
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.threads import Threads
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import InvalidRequest, SourceError
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES, LARGEST_ITEM
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.explanation import (
    Explanation,
    Recorded,
    WantedItem,
    find_recorded,
    versions_of,
)
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.worker import Worker, worker_of
from recommendation_service.sources.item_row import ItemRow, item_row
from recommendation_service.sources.reader import Source

MOST_MISSING = 20
# The log and the decisions are looked through for each, and feeds are made again.
CALLS_PER_SECOND = 5.0

_REQUEST_ID = "^[0-9a-fA-F]{32}$"
_TYPES = [name for number, name in enumerate(ITEM_TYPES) if number != CREATOR]
_Item = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(_TYPES)}):[1-9][0-9]{{0,17}}$"})]


def add_explanations(
    app: FastAPI,
    prefix: str,
    settings: Settings,
    serving: Serving,
    catalogs: CatalogStore,
    access: Access,
    threads: Threads,
) -> None:
    """Declare the route. ``threads``: those that may wait for the database."""
    calls = RateLimiter(CALLS_PER_SECOND)

    @app.get(
        f"{prefix}/explain/{{request_id}}",
        summary="Why each item of a feed was there, and why others were not",
        tags=["operations"],
        responses=answers(401, 403, 404, 422, 429, 503),
        openapi_extra={"security": [{"administrator": []}]},
    )
    async def explain(
        request: Request,
        request_id: Annotated[str, Path(), WithJsonSchema({"type": "string", "pattern": _REQUEST_ID})],
        missing: Annotated[list[_Item] | None, Query(max_length=MOST_MISSING)] = None,
        lang: Annotated[Literal["en", "es"] | None, Query()] = None,
    ) -> Response:
        """By the `request_id` of its answer, as long as it is in the log, in recs_events or among decisions. `missing`:
        items, as `resume:812`, of which it is told at which stage they fell and why. `lang`: of the sentences; without
        it, Accept-Language. Each part says whether it was recorded with the feed, is recomputed from that, or is of
        today. Administrators only."""
        access.check_administrator(request.scope)
        serving.check_place()
        calls.check("")
        wanted = [_item(place, text) for place, text in enumerate(missing or ())]
        problems = [{"field": "missing", "problem": one} for one in wanted if isinstance(one, str)]
        if not re.fullmatch(_REQUEST_ID, request_id):
            problem = f"must be 32 hexadecimal digits, as a feed's answer has, but is {request_id[:64]!r}"
            problems.insert(0, {"field": "request_id", "problem": problem})
        if problems:
            raise InvalidRequest("The request has invalid fields.", problems)
        language = lang or accepted_language(request.scope["headers"])
        today, worker = await serving.ready_generation(), worker_of(request.scope)
        try:
            recorded = await threads.run(lambda: _find(settings, request_id))
            seen = _seen(worker, recorded) if wanted else b""

            def tell() -> dict[str, Any]:
                policy = serving.kept_policy(recorded.either.policy_version)
                explanation = Explanation(recorded, versions_of(recorded, today, catalogs, policy), language)
                items = [one for one in wanted if not isinstance(one, str)]
                found = explanation.missing(items, settings, seen, worker.reader.read, row_of) if items else []
                return explanation.told() | {"missing": found}

            def row_of(item_type: int, number: int) -> ItemRow | None:
                engine = make_engine(settings)
                try:
                    now = datetime.fromtimestamp(serving.clock.now(), UTC)
                    return item_row(Source(engine, settings), now, item_type, number)
                finally:
                    engine.dispose()

            body = await threads.run(tell)
        except SourceError as error:
            raise DatabaseFailed(str(error), retry_after_seconds=5) from error
        except OSError as error:
            raise FolderFailed(f"{error.filename} cannot be read: {error.strerror}.", retry_after_seconds=30) from error
        content = msgspec.json.encode({"statusCode": 200, "body": body})
        headers = {"Cache-Control": "private, no-store", "Content-Language": language, "Vary": "Accept-Language"}
        return Response(content, media_type="application/json", headers=headers)


def _find(settings: Settings, request_id: str) -> Recorded:
    """Called so rarely that no connection is kept for it."""
    engine = make_writing_engine(settings)
    try:
        return find_recorded(engine, settings.events_dir, settings.decisions_dir, request_id)
    finally:
        engine.dispose()


def _seen(worker: Worker, recorded: Recorded) -> bytes:
    """What this machine remembers of the feed's user."""
    try:
        return worker.store.peek(recorded.either.user_id, session_number(recorded.session_id))
    except MemoryFailed as error:
        raise FolderFailed(f"What the user has seen cannot be read: {error}.", retry_after_seconds=30) from error


def _item(place: int, text: str) -> WantedItem | str:
    """The item that a text names, or what is wrong with it."""
    name, _, digits = text.partition(":")
    if name not in _TYPES:
        return f"[{place}] must be TYPE:ID with a TYPE of {', '.join(_TYPES)}, but is {text[:64]!r}"
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST_ITEM))):
        return f"[{place}] must be TYPE:ID with an ID of digits alone, but is {text[:64]!r}"
    if not 0 < int(digits) <= LARGEST_ITEM:
        return f"[{place}] must have an id from 1 to {LARGEST_ITEM}, but is {text[:64]!r}"
    return ITEM_TYPES.index(name), int(digits)
