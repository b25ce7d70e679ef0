"""Why a feed was as it was, for administrators: of each item, and of what was not in it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Path, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from recommendation_service.api.access import Access
from recommendation_service.api.administration import DatabaseFailed, FolderFailed
from recommendation_service.api.documentation import DocumentedFeeds, answers
from recommendation_service.api.feeds import accepted_language
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.threads import Threads
from recommendation_service.catalog.inspection import read_item
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import InvalidRequest, SourceError
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.mappings.opening import row_in_tables
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.model.item_keys import NamedItem
from recommendation_service.model.text_ids import LONGEST_TEXT_ID
from recommendation_service.model.words import Words
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.explanation import (
    Explanation,
    Recorded,
    find_recorded,
    versions_of,
)
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.worker import Worker, worker_of
from recommendation_service.sources.item_row import ItemRow

MOST_MISSING = 20
# The log and the decisions are looked through for each, and feeds are made again.
CALLS_PER_SECOND = 5.0

_REQUEST_ID = "^[0-9a-fA-F]{32}$"


def add_explanations(
    app: FastAPI,
    prefix: str,
    settings: Settings,
    serving: Serving,
    catalogs: CatalogStore,
    access: Access,
    threads: Threads,
    feeds: DocumentedFeeds,
    words: Words,
) -> None:
    """Declare the route. ``threads``: those that may wait for the database; ``feeds``: how items look."""
    calls = RateLimiter(CALLS_PER_SECOND)
    ids = f".{{1,{LONGEST_TEXT_ID}}}" if feeds.forms.items_are_text else "[1-9][0-9]{0,17}"
    item = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(feeds.types)}):{ids}$"})]

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
        missing: Annotated[list[item] | None, Query(max_length=MOST_MISSING)] = None,
        lang: Annotated[Literal["en", "es"] | None, Query()] = None,
    ) -> Response:
        """By the `request_id` of its answer, as long as it is in the log, in recs_events or among decisions. `missing`:
        items, as `TYPE:812`, of which it is told at which stage they fell and why. `lang`: of the sentences; without
        it, Accept-Language. Each part says whether it was recorded with the feed, is recomputed from that, or is of
        today. Administrators only."""
        access.check_administrator(request.scope)
        serving.check_place()
        calls.check("")
        today, worker = await serving.ready_generation(), worker_of(request.scope)
        wanted, problems = _items(missing or (), today.catalog)
        if not re.fullmatch(_REQUEST_ID, request_id):
            problem = f"must be 32 hexadecimal digits, as a feed's answer has, but is {request_id[:64]!r}"
            problems.insert(0, {"field": "request_id", "problem": problem})
        if problems:
            raise InvalidRequest("The request has invalid fields.", problems)
        language = lang or accepted_language(request.scope["headers"])
        try:
            recorded = await threads.run(lambda: _find(settings, request_id))
            seen = _seen(worker, recorded) if wanted else b""

            def tell() -> dict[str, Any]:
                policy = serving.kept_policy(recorded.either.policy_version)
                explanation = Explanation(recorded, versions_of(recorded, today, catalogs, policy), words, language)
                found = explanation.missing(wanted, settings, seen, worker.reader.read, row_of) if wanted else []
                return explanation.told() | {"missing": found}

            def row_of(item_type: int, number: int) -> ItemRow | None:
                return row_in_tables(settings, datetime.fromtimestamp(serving.clock.now(), UTC), item_type, number)

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


def _items(named: Sequence[str], catalog: Catalog) -> tuple[list[NamedItem], list[dict[str, str]]]:
    """The items that are named, and what is wrong with those that are none."""
    items, problems = [], []
    for place, text in enumerate(named):
        try:
            items.append(read_item(text, catalog.item_types, catalog.text_types))
        except ValueError as error:
            problems.append({"field": f"missing[{place}]", "problem": str(error)})
    return items, problems
