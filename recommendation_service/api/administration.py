"""What administrators ask about one user: the feed that the user would get now, and to be forgotten."""

import functools
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Query, Request
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import Engine
from starlette.responses import Response

from recommendation_service.api.access import Access
from recommendation_service.api.documentation import DocumentedFeeds, answers
from recommendation_service.api.schemas import DEFAULT_ITEMS, LONGEST_SESSION_ID, MOST_ITEMS
from recommendation_service.api.threads import Threads
from recommendation_service.api.user_paths import AskedUser, user_in_path, user_segment
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import NotFound, PolicyError, ServiceError, SourceError
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.request import FeedRequest
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.person import forgotten_in_log
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.decisions import forget_decisions
from recommendation_service.memory.entries import as_entries
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.model.words import Words
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.preview import Preview, policy_version
from recommendation_service.serving.worker import worker_of

T = TypeVar("T")


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names:
            raise PydanticCustomError("literal_error", "must be one of {names}", {"names": ", ".join(names)})
        return value

    return check


NAME = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$"
_ADMINISTRATOR: dict[str, Any] = {"security": [{"administrator": []}]}


class DatabaseFailed(ServiceError):
    status = 503
    code = "database_failed"


class FolderFailed(ServiceError):
    status = 503
    code = "folder_failed"


def add_administration(
    app: FastAPI,
    prefix: str,
    settings: Settings,
    serving: Serving,
    access: Access,
    threads: Threads,
    words: Words,
    named: DocumentedFeeds,
) -> None:
    """Declare the routes; what they need is handed in. ``threads``: those that may wait for the database."""
    folder, feeds = settings.events_dir, [feed.name for feed in named.feeds]
    writing_engine = functools.cache(lambda: make_writing_engine(settings))

    def with_database(work: Callable[[Engine], T]) -> T:
        """Called so rarely that no connection is kept for it."""
        try:
            return work(writing_engine())
        finally:
            writing_engine().dispose()

    @app.get(
        f"{prefix}/users/{user_segment(words)}/preview",
        summary="The feed that a user would get now, of which nothing stays",
        tags=["operations"],
        responses=answers(401, 403, 404, 422, 503),
        openapi_extra=_ADMINISTRATOR,
    )
    async def preview(
        request: Request,
        user: Annotated[AskedUser, Depends(user_in_path(words, 0))],
        endpoint: Annotated[str, Query(json_schema_extra={"enum": feeds}), AfterValidator(one_of(feeds))] = feeds[0],
        size: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = DEFAULT_ITEMS,
        session_id: Annotated[str | None, Query(max_length=LONGEST_SESSION_ID)] = None,
        request_id: Annotated[str | None, Query(pattern=NAME)] = None,
        policy: Annotated[str | None, Query(pattern=NAME)] = None,
        personal: bool = True,
    ) -> Response:
        """Explained, and without what this machine remembers of the user (0: anonymous). `policy`: a version of `recs
        policy`, where it is not the one that serves. `personal`: as a feed's request says it. The same `request_id`
        gives the same feed again. Nothing of it is recorded, remembered or counted. Administrators only."""
        access.check_administrator(request.scope)
        served, worker = await serving.ready_generation(), worker_of(request.scope)
        session, (user_id, given) = session_number(session_id), user.with_session(session_id)
        try:
            seen = worker.store.peek(user_id, session)
        except MemoryFailed as error:
            raise FolderFailed(f"What the user has seen cannot be read: {error}.", retry_after_seconds=30) from error
        wanted = FeedRequest(
            endpoint,
            user_id,
            size,
            request_id or secrets.token_hex(16),
            explain=True,
            now=int(serving.clock.now()),
            session=session,
            personal=personal,
            by_name=not named.has_search,
        )

        def make() -> tuple[Generation, bytes]:
            tried = policy_version(settings, policy) if policy is not None else served.policy
            tried.demand_feed(endpoint)
            generation = Generation(served.catalog, tried, rulings=served.rulings)
            if policy is None:
                generation = generation.with_arms(served.experiment, served.arms)
            made = Preview(generation, settings)
            unknown = user_id and personal and not made.is_listed(user_id) and not made.knows(user_id)
            facts = worker.reader.read(given) if unknown else None
            slate = made.slate(wanted, seen, facts)
            return made.made_of(slate)[0], made.render(slate)

        try:
            generation, feed = await threads.run(make)
        except PolicyError as error:
            raise NotFound(f"The policy cannot be tried: {error}.") from error
        except SourceError as error:
            raise DatabaseFailed(str(error), retry_after_seconds=5) from error
        content = msgspec.json.decode(feed)
        body = {
            "user_id": given,
            "catalog": generation.catalog.version,
            "policy": generation.policy.version,
            "fits": generation.fits,
            "remembered_items": len(as_entries(seen)),
            "feed": content["body"] if named.has_search else content,
        }
        return Response(msgspec.json.encode({"statusCode": 200, "body": body}), media_type="application/json")

    @app.delete(
        f"{prefix}/users/{user_segment(words)}",
        summary="Forget what the service remembers of a user",
        tags=["operations"],
        responses=answers(401, 403, 422, 503),
        openapi_extra=_ADMINISTRATOR,
    )
    async def forget(request: Request, user: Annotated[AskedUser, Depends(user_in_path(words, 1))]) -> Response:
        """Says what was removed, and as `waiting` what is in the log and will not be flushed. What the operator's own
        tables have of the user, a log of events included, stays. `fleet_told`: other machines forget within seconds
        (with Redis; without, ask each). `learned_stays`: what was learned cannot be unlearned, and is of so many shown
        items of the user at most. Administrators only."""
        access.check_administrator(request.scope)
        serving.check_place()
        user_id = user.number
        removed = await worker_of(request.scope).forgetting.forget(user_id)
        moment = removed.moment
        try:
            decisions = await threads.run(lambda: forget_decisions(settings.decisions_dir, user_id))
            deleted = await threads.run(
                lambda: with_database(lambda engine: forget_user(engine, folder, user_id, moment))
            )
            waiting = await threads.run(lambda: forgotten_in_log(folder, user_id))
        except SourceError as error:
            raise DatabaseFailed(f"{error} What is in the log will not be flushed.", retry_after_seconds=30) from error
        except OSError as error:  # what waits in the log would be flushed: nothing is promised
            raise FolderFailed(
                f"{error.filename or folder} cannot be used ({error.strerror}): not all that there is of the user was "
                "removed. Ask again when the folder can be used.",
                retry_after_seconds=30,
            ) from error
        if removed.failed is not None:
            raise DatabaseFailed(
                f"What the user has seen cannot be removed: {removed.failed}. All else was; ask again for that.",
                retry_after_seconds=30,
            ) from removed.failed
        body = {**removed.found, "user_id": user.given, **deleted, "waiting": waiting, "decisions": decisions}
        return Response(msgspec.json.encode({"statusCode": 200, "body": body}), media_type="application/json")
