"""The OpenAPI document: FastAPI's for the ordinary routes, and the feeds described from their types."""

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from recommendation_service import __version__
from recommendation_service.api.access import Access
from recommendation_service.api.assets import ASK_EACH_TIME, Asset, HashedAssets, make_asset
from recommendation_service.api.batches import batch_operation
from recommendation_service.api.event_documentation import event_schema, feedback_operation, own_event_schema
from recommendation_service.api.feeds import LONGEST_IDEMPOTENCY_KEY
from recommendation_service.api.list_documentation import list_operations, list_schemas
from recommendation_service.api.named_documentation import ANSWER, named_operation, named_schemas
from recommendation_service.api.named_feeds import IdForms, NamedFeed
from recommendation_service.api.schemas import (
    DEFAULT_ITEMS,
    LARGEST_ID,
    LONGEST_SESSION_ID,
    MOST_EXCLUDED,
    MOST_ITEMS,
)
from recommendation_service.catalog.filter_columns import Rule
from recommendation_service.feed.explain import Why
from recommendation_service.mappings.answers import IDS_FIELDS
from recommendation_service.mappings.documented import (
    DESCRIPTION,
    FEED_EXAMPLE,
    FEED_ITEM_SCHEMAS,
    ITEMS,
    NOT_ALWAYS,
    SIZE_FIELD,
    SUMMARIES,
)
from recommendation_service.mappings.forms import SPELLINGS
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.model.words import Words

PAGE = "/docs"
DOCUMENT = "openapi.json"
ASSETS = "docs-assets"
# Of the package fastapi_swagger; types are said here, since those that a machine knows by itself differ.
PAGE_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

ERRORS = {
    400: "The body is not JSON, or not of the coding that Content-Encoding names",
    401: "No API key or token",
    403: "A wrong API key or token, or an endpoint that is closed",
    404: "There is no such thing",
    409: "The Idempotency-Key was sent with other fields less than two minutes ago",
    413: "The body has more than 1 MiB, as it came or decoded",
    415: "The body says that it is not JSON, or is in a coding other than gzip and deflate",
    429: "More requests than the rate limit allows; see Retry-After",
    422: "Fields of a wrong type or out of range, all of them named",
    503: "Not ready, failed for now, or shedding load; see Retry-After",
}

USER_ID = {
    "description": "Who asks: an integer from 0, or a string of digits. 0 or absent: anonymous, not personal.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": LARGEST_ID},
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
        {"type": "null"},
    ],
    "default": 0,
    "examples": [4711],
}
SIZE = {
    "description": f"How many items, 1 to {MOST_ITEMS}.",
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_ITEMS}, {"type": "null"}],
    "default": DEFAULT_ITEMS,
    "examples": [DEFAULT_ITEMS],
}
EXCLUDED = {
    "description": f"Items with these ids, of either type, never come back; at most {MOST_EXCLUDED}. "
    "A list of integers or strings of digits, or one comma-separated string.",
    "anyOf": [
        {
            "type": "array",
            "maxItems": MOST_EXCLUDED,
            "items": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]{1,18}$"}]},
        },
        {"type": "string", "pattern": "^( *[0-9]{1,18} *(, *[0-9]{1,18} *)*)?$"},
        {"type": "null"},
    ],
    "default": [],
    "examples": [[812, "105"]],
}
SESSION_ID = {
    "description": f"Groups the pages of one scroll; up to {LONGEST_SESSION_ID} characters.",
    "anyOf": [{"type": "string", "maxLength": LONGEST_SESSION_ID}, {"type": "null"}],
    "examples": ["a3f1"],
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A name of your own for the request: repeated within a minute, it gets the same bytes, "
    "unless the first answer says `Idempotency-Key-Kept: false`.",
    "schema": {"type": "string", "maxLength": LONGEST_IDEMPOTENCY_KEY},
}
EXPLAIN = {
    "description": "Adds `why` to each item: slot, pool, score terms, propensity, and sentences in the language of "
    "Accept-Language (en, es).",
    "anyOf": [{"type": "boolean"}, {"type": "null"}],
    "default": False,
    "examples": [False],
}


PERSONAL = {
    "description": "`false`: without anything that is known of the user (past, skills, city, network), as for somebody "
    "unknown; what the user was shown stays away all the same, and nothing is learned from the feed or what is done "
    "with it.",
    "anyOf": [{"type": "boolean"}, {"type": "null"}],
    "default": True,
    "examples": [True],
}


def answers(*errors: int, content: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """A route's documented answers: 200, and errors of the contract's form."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {
            "description": ERRORS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in errors
    }
    if content is not None:
        documented[200] = {"description": "OK", "content": content}
    return documented


class DocumentedFeeds(NamedTuple):
    """Feeds by name; and whether the contract's three endpoints are there, too."""

    feeds: Sequence[NamedFeed]
    forms: IdForms
    item_fields: Mapping[str, Sequence[str]]  # by item type; empty: the contract's items
    has_search: bool

    @property
    def types(self) -> list[str]:
        return list(self.item_fields) or list(ITEM_TYPES[:CREATOR])

    @property
    def filters(self) -> Mapping[str, Rule]:
        """Of all feeds, and of lists."""
        return self.feeds[0].filters


def add_documentation(app: FastAPI, prefix: str, access: Access, named: DocumentedFeeds, words: Words) -> None:
    """``/docs``, what it loads, and ``/openapi.json`` with every route.

    All of it comes from here. What the page names bears a hash and may be kept for ever; the page and
    ``/openapi.json`` are asked for each time.
    """

    @functools.cache
    def openapi() -> dict[str, Any]:
        return _document(app, prefix, access, named, words)

    app.openapi = openapi  # type: ignore[method-assign]

    @functools.cache
    def document() -> Asset:
        return make_asset(msgspec.json.encode(openapi()), "application/json")

    sources = {name: functools.partial(_page_file, name, media_type) for name, media_type in PAGE_FILES.items()}
    assets = HashedAssets({**sources, DOCUMENT: document})

    # Plain functions, which run in threads: the first of them reads files and makes the document.
    def page(_request: Request) -> Response:
        # Relative addresses: right behind any proxy, and nobody's Host header is written into a page.
        address = {name: f"{ASSETS}/{assets.name(name)}" for name in (*PAGE_FILES, DOCUMENT)}
        html = get_swagger_ui_html(
            openapi_url=address[DOCUMENT],
            title="Recommendation service",
            swagger_js_url=address["swagger-ui-bundle.js"],
            swagger_css_url=address["swagger-ui.css"],
            swagger_favicon_url=address["favicon-32x32.png"],
        )
        return HTMLResponse(html.body, headers={"Cache-Control": ASK_EACH_TIME})

    def asset(request: Request) -> Response:
        return assets.answer(request.path_params["name"], request)

    def current_document(request: Request) -> Response:
        return document().answer(request, ASK_EACH_TIME)

    routes = app.router.routes
    # FastAPI has put its own route of the document there already, without headers for caches.
    own = next(at for at, route in enumerate(routes) if getattr(route, "path", None) == app.openapi_url)
    routes[own] = Route(f"/{DOCUMENT}", current_document, include_in_schema=False)
    routes += [
        Route(PAGE, page, include_in_schema=False),
        Route(f"/{ASSETS}/{{name}}", asset, include_in_schema=False),
    ]


def _page_file(name: str, media_type: str) -> Asset:
    return make_asset((resources.files("fastapi_swagger") / "resources" / name).read_bytes(), media_type)


def _document(app: FastAPI, prefix: str, access: Access, named: DocumentedFeeds, words: Words) -> dict[str, Any]:
    document = get_openapi(
        title="Recommendation service",
        version=__version__,
        description=DESCRIPTION
        if named.has_search
        else f"Personal, diverse feeds: {', '.join(feed.name for feed in named.feeds)}; of {', '.join(named.types)}.",
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    items = ITEMS if named.has_search else ()
    _, item_schemas = msgspec.json.schema_components([*items, Why], ref_template="#/components/schemas/{name}")
    schemas |= item_schemas
    for item in (one.__name__ for one in items):
        # Everything of an item is always there, but what may be unknown, and why (unless asked for).
        schemas[item]["required"] = sorted(set(schemas[item]["properties"]) - NOT_ALWAYS)
        schemas[item]["properties"]["why"] = {"$ref": "#/components/schemas/Why"}
    document["tags"] = [{"name": "feeds"}, {"name": "lists"}, {"name": "feedback"}, {"name": "operations"}]
    if named.has_search:
        schemas["FeedRequest"] = _feed_request()
    schemas["FeedbackEvent"] = own_event_schema(words) if words.is_mapped else event_schema()
    schemas["Error"] = _error()
    components["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "One of API_KEYS, where that is set"},
        "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same"},
        "administrator": {"type": "http", "scheme": "bearer", "description": "ADMIN_TOKEN"},
    }
    schemas |= named_schemas(named.forms, named.item_fields, named.filters)
    errors = _errors(access) | {"409": answers(409)[409]}
    for feed in named.feeds:
        operation = _with_keys(named_operation(feed, errors, [IDEMPOTENCY_KEY]), access)
        document["paths"][f"{prefix}/feeds/{feed.name}"] = {"post": operation}
        document["paths"][f"{prefix}/feeds/{feed.name}/batch"] = {
            "post": batch_operation(feed, answers(400, 401, 403, 413, 415, 422, 429, 503))
        }
    for endpoint in ENDPOINTS if named.has_search else ():
        schemas[f"{endpoint.capitalize()}Feed"] = _feed_answer(endpoint)
        document["paths"][f"{prefix}/search/{endpoint}"] = {"post": _feed_operation(endpoint, access)}
    schemas |= list_schemas(schemas[ANSWER])
    lists = list_operations(named.types, named.forms, named.filters, answers(404)[404], _errors(access))
    for path, operation in lists.items():
        document["paths"][f"{prefix}{path}"] = {"get": _with_keys(operation, access)}
    document["paths"][f"{prefix}/feedback"] = {"post": _with_keys(feedback_operation(_errors(access)), access)}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault(
                "500",
                {
                    "description": "The service failed; the message names the request's id",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            )
    return document


def _feed_operation(endpoint: str, access: Access) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {
            "description": "The feed, in order",
            "headers": {"X-Request-ID": {"schema": {"type": "string"}, "description": "the feed's request_id"}},
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{endpoint.capitalize()}Feed"}}},
        }
    }
    responses |= _errors(access)
    responses["409"] = answers(409)[409]
    operation: dict[str, Any] = {
        "operationId": f"feed_{endpoint}",
        "summary": SUMMARIES[endpoint],
        "description": "Where a body has several spellings of one field, the first of these counts: "
        + "; ".join(", ".join(names) for names in SPELLINGS[endpoint])
        + ". All of them must be valid.",
        "tags": ["feeds"],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedRequest"}}},
        },
        "responses": responses,
    }
    return _with_keys(operation, access)


def _errors(access: Access) -> dict[str, Any]:
    """What a call of a client may be answered but for success."""
    statuses = [400, *([401, 403] if access.keys_required else []), 413, 415, 422, 429, 503]
    return {str(status): answer for status, answer in answers(*statuses).items()}


def _with_keys(operation: dict[str, Any], access: Access) -> dict[str, Any]:
    return operation | ({"security": [{"apiKey": []}, {"apiKeyHeader": []}]} if access.keys_required else {})


def _feed_request() -> dict[str, Any]:
    properties: dict[str, Any] = {}
    schemas: tuple[dict[str, Any], ...] = (USER_ID, SIZE, EXCLUDED)
    for names, schema in zip(SPELLINGS["total"], schemas, strict=True):
        properties[names[0]] = schema
        for name in names[1:]:
            properties[name] = {
                **schema,
                "description": f"Another spelling of {names[0]}. {schema['description']}",
            }
    properties |= {"session_id": SESSION_ID, "explain": EXPLAIN, "personal": PERSONAL}
    return {
        "type": "object",
        "properties": properties,
        "examples": [FEED_EXAMPLE],
    }


def _feed_answer(endpoint: str) -> dict[str, Any]:
    items = [{"$ref": f"#/components/schemas/{name}"} for name in FEED_ITEM_SCHEMAS[endpoint]]
    body = {
        IDS_FIELDS[endpoint]: {
            "type": "array",
            "items": {"type": "string"},
            "description": "the items' ids, in feed order",
        },
        "items": {"type": "array", "items": {"anyOf": items}, "maxItems": MOST_ITEMS},
        "request_id": {"type": "string"},
        "relaxed": {
            "type": "array",
            "items": {"enum": ["skill_novelty", "creator_window", "slot_kind", "seen"]},
            "description": "every rule that had to give way so that the feed could be full",
        },
    }
    return {
        "type": "object",
        "required": ["statusCode", "body"],
        "properties": {
            "statusCode": {"const": 200},
            "body": {"type": "object", "required": list(body), "properties": body},
        },
    }


def _error() -> dict[str, Any]:
    detail = {
        "type": "object",
        "required": ["field", "problem"],
        "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
    }
    error = {
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": detail},
        },
    }
    return {
        "type": "object",
        "required": ["statusCode", "error"],
        "properties": {"statusCode": {"type": "integer"}, "error": error},
        "examples": [
            {
                "statusCode": 422,
                "error": {
                    "code": "invalid_request",
                    "message": "The request has invalid fields.",
                    "details": [{"field": SIZE_FIELD, "problem": "must be from 1 to 100, but is 0"}],
                },
            }
        ],
    }
