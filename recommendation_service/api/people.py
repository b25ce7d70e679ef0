"""What administrators are told of one person: all that the service remembers."""

from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import Response

from recommendation_service.api.access import Access
from recommendation_service.api.administration import DatabaseFailed, FolderFailed
from recommendation_service.api.documentation import answers
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.schemas import LONGEST_SESSION_ID
from recommendation_service.api.threads import Threads
from recommendation_service.api.user_paths import AskedUser, user_in_path, user_segment
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import InvalidRequest, SourceError
from recommendation_service.flush.person import Person, page_after
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.model.words import Words
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.remembered import Remembered, remembered
from recommendation_service.serving.worker import worker_of

MOST_EVENTS = 1_000
# All that waits in the log is read for each.
CALLS_PER_SECOND = 1.0


def add_people(
    app: FastAPI,
    prefix: str,
    settings: Settings,
    serving: Serving,
    access: Access,
    threads: Threads,
    words: Words,
) -> None:
    """Declare the route. ``threads``: those that may wait for the database."""
    calls = RateLimiter(CALLS_PER_SECOND)
    schema = msgspec.json.schema(Remembered, ref_template="#/components/schemas/{name}")
    of_answer = {
        "type": "object",
        "required": ["statusCode", "body"],
        "properties": {"statusCode": {"const": 200}, "body": _inlined(schema)},
    }

    @app.get(
        f"{prefix}/users/{user_segment(words)}",
        summary="Everything that the service remembers of a user",
        tags=["operations"],
        responses=answers(401, 403, 422, 429, 503, content={"application/json": {"schema": of_answer}}),
        openapi_extra={"security": [{"administrator": []}]},
    )
    async def told(
        request: Request,
        user: Annotated[AskedUser, Depends(user_in_path(words, 0))],
        session_id: Annotated[str | None, Query(min_length=1, max_length=LONGEST_SESSION_ID)] = None,
        most: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 100,
        page: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """For the user to have: from this machine, Redis and the database. `session_id`: of an anonymous person, with
        the user 0. `most`: so many events, the latest first; `page`: the `next` of the answer before. Of a user of whom
        nothing is known, nothing. Administrators only."""
        access.check_administrator(request.scope)
        serving.check_place()
        calls.check("")
        user_id, given = user.with_session(session_id)
        asked = _person(user_id, session_id, given), page_after(page, most)
        person, events_page = asked
        if events_page is None:
            problem = "is not what an answer had as `next`"
            raise InvalidRequest("The request has invalid fields.", [{"field": "page", "problem": problem}])
        worker, session = worker_of(request.scope), session_number(person.session_id)
        key = user_key(user_id, session)
        assert key is not None, "a user, or a session"  # noqa: S101
        try:
            seen = worker.store.peek(user_id, session)
        except MemoryFailed as error:
            raise FolderFailed(f"What the user has seen cannot be read: {error}.", retry_after_seconds=30) from error
        elsewhere = await worker.store.elsewhere(key)
        facts = await worker.users.kept(user_id) if user_id else None
        catalog = serving.catalog

        def tell() -> Remembered:
            engine = make_writing_engine(settings)
            try:
                return remembered(settings, engine, catalog, person, events_page, seen, words, elsewhere, facts)
            finally:
                engine.dispose()

        try:
            body = await threads.run(tell)
        except SourceError as error:
            raise DatabaseFailed(str(error), retry_after_seconds=5) from error
        except OSError as error:
            raise FolderFailed(f"{error.filename} cannot be read: {error.strerror}.", retry_after_seconds=30) from error
        content = msgspec.json.encode({"statusCode": 200, "body": body})
        return Response(content, media_type="application/json", headers={"Cache-Control": "private, no-store"})


def _person(user_id: int, session_id: str | None, given: int | str) -> Person:
    """Raises InvalidRequest."""
    problem = ""
    if not user_id and session_id is None:
        problem = "must be there where the user is 0: all anonymous people have that number"
    if user_id and session_id is not None:
        problem = "must be absent where the user is not 0: a user is one person in all sessions"
    if problem:
        raise InvalidRequest("The request has invalid fields.", [{"field": "session_id", "problem": problem}])
    return Person(user_id, session_id, given if user_id else 0)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it names in its place, as the document's components are others'."""
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(definitions[part["$ref"].rpartition("/")[2]])
            return {name: resolved(value) for name, value in part.items() if name != "$defs"}
        return [resolved(value) for value in part] if isinstance(part, list) else part

    found: dict[str, Any] = resolved(schema)
    return found
