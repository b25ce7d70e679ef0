"""What editors rule of items: asked for, listed, and who ruled what when. Administrators only."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from recommendation_service.api.access import Access
from recommendation_service.api.bodies import check_head, decoded, read_body
from recommendation_service.api.documentation import answers
from recommendation_service.api.threads import Threads
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import InvalidRequest, NotJson
from recommendation_service.editors.rulings import PIN, RELEASE, Rulings
from recommendation_service.editors.store import RulingsStore
from recommendation_service.ranking.working_memory import LARGEST_FEED
from recommendation_service.serving.editing import (
    ACTIONS,
    FIELDS,
    LONGEST_ID,
    LONGEST_WHO,
    LONGEST_WHY,
    Known,
    entries_of,
    largest_id,
    opened,
    ruling_of,
    told,
    told_entry,
)
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.worker import worker_of

MOST_ENTRIES = 1_000
_ADMINISTRATOR: dict[str, Any] = {"security": [{"administrator": []}]}
_FLAGS = ("replace", "alone")

_NULL = {"type": "null"}
_OPTIONS: dict[str, Any] = {
    "who": {"type": "string", "minLength": 1, "maxLength": LONGEST_WHO, "pattern": r"\S", "examples": ["ana"]},
    "why": {"type": "string", "minLength": 1, "maxLength": LONGEST_WHY, "pattern": r"\S", "examples": ["the opening"]},
    "replace": {"type": ["boolean", "null"], "description": "A pin takes the place from another."},
    "expect": {"type": ["integer", "null"], "description": "Change nothing unless `number` is this."},
    "alone": {
        "type": ["boolean", "null"],
        "description": "Where Redis does not answer: on this machine, and on the others once it does.",
    },
}


def _schema(there: Known) -> dict[str, Any]:
    """Of a body: what each action may say of each type."""
    return {
        "oneOf": [_of(action, name, there) for action in ACTIONS for name in there.types if _may(action, name, there)]
    }


def _may(action: str, name: str, there: Known) -> bool:
    return action != PIN or bool(_feeds_with(name, there))


def _feeds_with(name: str, there: Known) -> list[str]:
    return [feed for feed, types in there.feeds.items() if types is None or name in types]


def _of(action: str, name: str, there: Known) -> dict[str, Any]:
    number, is_text = there.types[name]
    of_id = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
    until = {"type": "string", "format": "date-time", "description": "When it ends, in the future, with its zone."}
    feed = {"enum": _feeds_with(name, there) if action == PIN else [*there.feeds, None]}
    properties = {
        "action": {"const": action},
        "type": {"const": name},
        "id": of_id if is_text else {"type": "integer", "minimum": 1, "maximum": largest_id(number), "examples": [812]},
        "feed": feed,
        "place": {"type": "integer", "minimum": 1, "maximum": LARGEST_FEED} if action == PIN else _NULL,
        "until": until if action == PIN else _NULL if action == RELEASE else {"anyOf": [until, _NULL]},
        **_OPTIONS,
    }
    return {
        "type": "object",
        "title": f"{action} {name}",
        "additionalProperties": False,
        "required": ["action", "type", "id", "who", "why", *(["feed", "place", "until"] if action == PIN else [])],
        "properties": properties,
    }


def add_editors(
    app: FastAPI,
    prefix: str,
    settings: Settings,
    serving: Serving,
    access: Access,
    threads: Threads,
    there: Callable[[], Known],
) -> None:
    """Declare the routes. ``threads``: those that may wait for Redis and the disk; ``there``: by what is served,
    whatever a mapping's file says by now."""
    schema = _schema(there())

    @app.post(
        f"{prefix}/editors",
        summary="Pin an item to a place, bury it, take it down, or release it",
        tags=["operations"],
        responses=answers(400, 401, 403, 404, 409, 413, 415, 422, 503),
        openapi_extra=_ADMINISTRATOR
        | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def rule(request: Request) -> Response:
        """In effect on all workers within a second, and with Redis on all machines. `number` is of the state that is
        in force then. `in_catalog`: whether the current catalog has the item. `fleet_told`: whether the other machines
        know; null without Redis. Administrators only."""
        access.check_administrator(request.scope)
        serving.check_place()
        body = decoded(await read_body(request.receive), check_head(request.scope["headers"]))
        asked, options, wrong = _read(body)
        ruling = ruling_of(asked, there(), serving.clock.now(), wrong)

        def keep() -> tuple[Rulings, bool]:
            with opened(settings) as store:
                return store.rule(ruling, **options)

        state, is_told = await threads.run(keep)
        await worker_of(request.scope).editors.look()
        catalog = serving.catalog
        return _answer(
            {
                "number": state.number,
                "ruling": told(ruling),
                "in_catalog": catalog is not None and catalog.row_of(ruling.key) >= 0,
                "fleet_told": is_told if settings.has_redis else None,
            }
        )

    @app.get(
        f"{prefix}/editors",
        summary="What editors ruled that holds now",
        tags=["operations"],
        responses=answers(401, 403),
        openapi_extra=_ADMINISTRATOR,
    )
    async def list_rulings(request: Request) -> Response:
        """`number` counts changes; `problem`: why what holds may not be what was ruled last. Administrators only."""
        access.check_administrator(request.scope)
        editors = worker_of(request.scope).editors
        held = editors.state.in_force(serving.clock.now())
        return _answer(
            {"number": editors.state.number, "problem": editors.problem, "rulings": [told(one) for one in held]}
        )

    @app.get(
        f"{prefix}/editors/history",
        summary="Who ruled what, when and why",
        tags=["operations"],
        responses=answers(401, 403, 422),
        openapi_extra=_ADMINISTRATOR,
    )
    async def history(
        request: Request,
        item: Annotated[str | None, Query(max_length=LONGEST_ID + 64, description="As `job:812`.")] = None,
        most: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 100,
    ) -> Response:
        """The latest first. Administrators only."""
        access.check_administrator(request.scope)
        entries = await threads.run(RulingsStore(settings.editors_dir).history)
        return _answer({"entries": [told_entry(one) for one in entries_of(entries, item, there)[:most]]})


def _answer(body: dict[str, Any]) -> Response:
    content = msgspec.json.encode({"statusCode": 200, "body": body})
    return Response(content, media_type="application/json", headers={"Cache-Control": "private, no-store"})


def _read(body: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What is asked, the options of the store, and what is wrong with these or of no field, by its name. Raises
    NotJson, and InvalidRequest for what is no object."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON, or nested too deeply.") from None
    if not isinstance(content, dict):
        raise InvalidRequest("The request has invalid fields.", [{"field": "body", "problem": "must be an object"}])
    names = (*FIELDS, *_FLAGS, "expect")
    problems = {
        name: f"there is no such field; the fields are {', '.join(names)}" for name in content if name not in names
    }
    options = {name: content[name] for name in (*_FLAGS, "expect") if content.get(name) is not None}
    for name, value in options.items():
        if name == "expect" and (not isinstance(value, int) or isinstance(value, bool)):
            problems[name] = "must be an integer"
        elif name != "expect" and not isinstance(value, bool):
            problems[name] = "must be true or false"
    return {name: content.get(name) for name in FIELDS}, options, problems
