"""Lists that are nobody's in particular: `GET {prefix}/items/{type}/{id}/similar`, `/popular` and `/latest`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recommendation_service.api.documentation import DocumentedFeeds
from recommendation_service.api.hot import Admission
from recommendation_service.api.list_documentation import FILTERS, MOST_OFFSET
from recommendation_service.api.named_feeds import asked_of, invalid, number_of_user
from recommendation_service.api.schemas import DEFAULT_ITEMS, MOST_ITEMS, named
from recommendation_service.catalog.filter_columns import Rule
from recommendation_service.catalog.store import Catalog
from recommendation_service.core.errors import NotFound
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import AskedFilters, Outsider
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.lists import Asked, in_order, render, row_of, similar
from recommendation_service.serving.worker import worker_of

PLAIN = ("type", "size", "offset", "user")  # parameters, whatever filters are called
_HEADERS = {"Cache-Control": "private, no-store"}
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)

Problems = list[tuple[str, str]]


class ListQuery(NamedTuple):
    """What a query says, and is valid."""

    item_type: str | None
    size: int
    offset: int
    user_id: int
    filters: AskedFilters
    user_text: str = ""  # the user's id where that is text


def add_lists(app: FastAPI, prefix: str, serving: Serving, admission: Admission, words: DocumentedFeeds) -> None:
    """Declare the routes."""

    async def answer(
        request: Request, item_type: str | None, rows_of: Callable[[Catalog, Asked], list[int]]
    ) -> Response:
        """``item_type``: where the path says it, which is that of the list where the query says none."""
        admission.check_bodiless(request.scope["headers"])
        problems: Problems = []
        if item_type is not None:
            check_type("type", item_type, words.types, problems)
        query = read_list_query(request.query_params, words, problems)
        pipeline = await serving.ready_pipeline()
        asked = asked_rows(pipeline, query, item_type, await outsider_of(request, pipeline, query))
        catalog = pipeline.catalog
        body = render(catalog, rows_of(catalog, asked), asked)
        return Response(body, media_type="application/json", headers=_HEADERS)

    async def popular(request: Request) -> Response:
        return await answer(request, None, lambda catalog, asked: in_order(catalog.orders.popular, asked))

    async def latest(request: Request) -> Response:
        return await answer(request, None, lambda catalog, asked: in_order(catalog.orders.latest, asked))

    async def like(request: Request) -> Response:
        item_type, text = request.path_params["type"], request.path_params["id"]

        def rows_of(catalog: Catalog, asked: Asked) -> list[int]:
            row = row_of(catalog, item_type, text)
            if row < 0:
                raise NotFound(
                    f"There is no {item_type} {named(text)} that may be shown. Where it is in your tables, it came "
                    f"after the catalog's build or a rule keeps it out; ask for {prefix}/popular meanwhile."
                )
            return similar(catalog, row, asked)

        return await answer(request, item_type, rows_of)

    app.router.routes += [
        Route(f"{prefix}/popular", popular),
        Route(f"{prefix}/latest", latest),
        Route(f"{prefix}/items/{{type}}/{{id:path}}/similar", like),  # an id that is text may have slashes
    ]


async def outsider_of(request: Request, pipeline: FeedPipeline, query: ListQuery) -> Outsider | None:
    """What the tables say of a user who is not in the catalog, where a list is kept from something by that."""
    if not query.user_id or not pipeline.asks_of_users or pipeline.user_row(query.user_id) >= 0:
        return None
    facts = await worker_of(request.scope).users.facts(query.user_id, query.user_text)
    return None if facts is None else pipeline.outsider(*facts)


def asked_rows(
    pipeline: FeedPipeline, query: ListQuery, path_type: str | None, outsider: Outsider | None = None
) -> Asked:
    catalog = pipeline.catalog
    wanted = query.item_type or path_type
    rows = (0, len(catalog.arrays.item_id)) if wanted is None else catalog.rows_of_type.get(wanted, (0, 0))
    return Asked(rows, pipeline.barred(query.filters, query.user_id, outsider), query.offset, query.size)


def check_type(field: str, item_type: str, types: Sequence[str], problems: Problems) -> None:
    if item_type not in types:
        problems.append((field, f"there is no type {named(item_type)}; the types are {', '.join(types)}"))


def read_list_query(query: QueryParams, words: DocumentedFeeds, problems: Problems) -> ListQuery:
    """Raises InvalidRequest with everything that is wrong, ``problems`` first."""
    given: dict[str, list[str]] = {}
    for name, value in query.multi_items():
        given.setdefault(name, []).append(value)
    known = (*PLAIN, *(f"{FILTERS}{name}" for name in words.filters))
    for name, values in given.items():
        if name not in known and not name.startswith(FILTERS):
            problems.append((name, f"there is no such parameter; the parameters are {', '.join(known)}"))
        elif len(values) > 1 and (name in PLAIN or words.filters.get(name.removeprefix(FILTERS)) != "contained"):
            problems.append((name, f"must be there once, but is there {len(values)} times"))
    first = {name: values[0] for name, values in given.items()}
    item_type = first.get("type")
    if item_type is not None:
        check_type("type", item_type, words.types, problems)
    size = _integer("size", first.get("size"), 1, MOST_ITEMS, DEFAULT_ITEMS, problems)
    offset = _integer("offset", first.get("offset"), 0, MOST_OFFSET, 0, problems)
    user = first.get("user")
    user_id = 0 if user is None else number_of_user(user, words.forms.users_are_text, problems)
    filters = asked_of(_filter_values(given, words.filters), words.filters, problems)
    if problems:
        raise invalid(problems)
    text = user if words.forms.users_are_text and user is not None else ""
    return ListQuery(item_type, size, offset, user_id, filters, text)


def _filter_values(given: Mapping[str, list[str]], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """By a filter's name, as a body would have them."""
    values: dict[str, Any] = {}
    for parameter, texts in given.items():
        if not parameter.startswith(FILTERS):
            continue
        name = parameter.removeprefix(FILTERS)
        if rules.get(name) == "at_most":
            values[name] = _number(texts[0])
        else:
            values[name] = texts if len(texts) > 1 else texts[0]
    return values


def _number(text: str) -> float | str:
    """What is none is told of as the text that it is."""
    try:
        return float(text) if "_" not in text else text  # which Python takes in a number
    except ValueError:
        return text


def _integer(name: str, text: str | None, least: int, most: int, default: int, problems: Problems) -> int:
    if text is None:
        return default
    if not _INTEGER.fullmatch(text):
        problems.append((name, f"must be an integer, but is {named(text)}"))
    elif not least <= int(text) <= most:
        problems.append((name, f"must be from {least} to {most}, but is {text}"))
    else:
        return int(text)
    return default
