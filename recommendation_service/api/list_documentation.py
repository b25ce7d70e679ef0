"""What the OpenAPI document says of lists: similar, popular, latest."""

from collections.abc import Iterable, Mapping
from typing import Any

from recommendation_service.api.named_documentation import filter_schema, user_schema
from recommendation_service.api.named_feeds import IdForms
from recommendation_service.api.schemas import DEFAULT_ITEMS, MOST_ITEMS
from recommendation_service.catalog.filter_columns import Rule
from recommendation_service.model.text_ids import LONGEST_TEXT_ID

MOST_OFFSET = 10_000
FILTERS = "filters."  # before a filter's name, in the query
ANSWER = "ItemList"

_SIMILAR = (
    "What people take after this one, the likeliest first; then, or where nobody took anything yet, what shares terms "
    "with it, rare ones counting more. Of the item's own type where `type` is left out."
)
_POPULAR = "What is taken most lately, what is a half-life ago counting half; then what was in all, then what is newer."
_LATEST = "The newest first."


def list_schemas(feed: Mapping[str, Any]) -> dict[str, Any]:
    """``feed``: the schema of a feed's answer, whose items lists have as well."""
    of_feed = feed["properties"]
    properties = {
        "ids": of_feed["ids"] | {"description": "the items' ids, in the list's order"},
        "items": of_feed["items"],
        "next": {"type": ["integer", "null"], "description": "`offset` of what comes after; null: nothing does"},
    }
    return {ANSWER: {"type": "object", "required": list(properties), "properties": properties}}


def list_operations(
    types: list[str], forms: IdForms, filters: Mapping[str, Rule], not_found: Any, errors: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """By path. ``errors``: what any call of a client may be answered."""
    errors = {status: answer for status, answer in errors.items() if status not in {"400", "413", "415"}}
    common = list(_query(types, forms, filters))
    one_type = {"name": "type", "in": "path", "required": True, "schema": {"enum": types}}
    one_id = {"name": "id", "in": "path", "required": True, "description": "as it looks in your tables"}
    item = [one_type, one_id | {"schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT_ID}}]
    return {
        "/items/{type}/{id}/similar": _operation("similar", "What is like an item", _SIMILAR, [*item, *common])
        | {"responses": _responses({**errors, "404": not_found})},
        "/popular": _operation("popular", "What is popular", _POPULAR, common) | {"responses": _responses(errors)},
        "/latest": _operation("latest", "What came last", _LATEST, common) | {"responses": _responses(errors)},
    }


def _operation(name: str, summary: str, description: str, parameters: list[Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "description": f"{description} Nothing of it is recorded, and nothing that anybody has seen stays away.",
        "tags": ["lists"],
        "parameters": parameters,
    }


def _responses(errors: Mapping[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ANSWER}"}}}
    return {"200": {"description": "The list, in order", "content": content}, **errors}


def _query(types: list[str], forms: IdForms, filters: Mapping[str, Rule]) -> Iterable[dict[str, Any]]:
    size = {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS, "default": DEFAULT_ITEMS}
    offset = {"type": "integer", "minimum": 0, "maximum": MOST_OFFSET, "default": 0}
    yield _parameter("type", {"enum": types}, "Items of this type alone.")
    yield _parameter("size", size, "How many items.")
    yield _parameter("offset", offset, "How many to leave out at the beginning: an answer's `next`.")
    if any(filters):
        yield _parameter("user", user_schema(forms), "Whose own values filters ask for where the query does not.")
    for name, rule in filters.items():
        yield _parameter(f"{FILTERS}{name}", filter_schema(rule), _RULES[rule])


_RULES: Mapping[Rule, str] = {
    "equal": "Items that have this value.",
    "contained": "Items that have one of these values; may be given several times.",
    "at_most": "Items of which it is at most this.",
}


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
