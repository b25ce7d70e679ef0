"""What the OpenAPI document says of feeds by name, in the operator's own words."""

from collections.abc import Iterable, Mapping
from typing import Any

from recommendation_service.api.named_feeds import DIGITS, LARGEST_VALUE, MOST_VALUES, IdForms, NamedFeed
from recommendation_service.api.schemas import LARGEST_ID, LONGEST_SESSION_ID, MOST_EXCLUDED, MOST_ITEMS
from recommendation_service.catalog.filter_columns import Rule
from recommendation_service.mappings.documented import ITEMS
from recommendation_service.model.text_ids import LONGEST_TEXT_ID

REQUEST = "NamedFeedRequest"
ANSWER = "NamedFeed"


def named_schemas(forms: IdForms, fields: Mapping[str, Iterable[str]], filters: Mapping[str, Rule]) -> dict[str, Any]:
    """``fields``: by item type those that its items bear; empty where their schemas are described elsewhere."""
    schemas = {REQUEST: _request(forms, filters), ANSWER: _answer(forms, list(fields))}
    for name, own in fields.items():
        properties: dict[str, Any] = {"type": {"const": name}, "id": _item_id(forms)} | {field: {} for field in own}
        schemas[_item(name)] = {
            "type": "object",
            "required": list(properties),
            "properties": properties | {"why": {"$ref": "#/components/schemas/Why"}},
        }
    return schemas


def named_operation(feed: NamedFeed, responses: dict[str, Any], parameters: list[Any]) -> dict[str, Any]:
    """``responses``: but for 200."""
    answered = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ANSWER}"}}}
    return {
        "operationId": f"feeds_{feed.name}",
        "summary": f"The feed {feed.name}",
        "description": f"{feed.size} items where `size` is left out.",
        "tags": ["feeds"],
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{REQUEST}"}}},
        },
        "responses": {
            "200": {
                "description": "The feed, in order",
                "headers": {"X-Request-ID": {"schema": {"type": "string"}, "description": "the feed's request_id"}},
                "content": answered,
            },
            **responses,
        },
    }


def _item(name: str) -> str:
    return f"Item.{name}"


def user_schema(forms: IdForms) -> dict[str, Any]:
    if forms.users_are_text:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT_ID}
    return {"anyOf": [{"type": "integer", "minimum": 0, "maximum": LARGEST_ID}, {"type": "string", "pattern": DIGITS}]}


def _item_id(forms: IdForms) -> dict[str, Any]:
    of_forms = [{"type": "integer"}] * forms.items_are_numbers + [{"type": "string"}] * forms.items_are_text
    return of_forms[0] if len(of_forms) == 1 else {"anyOf": of_forms}


def _excluded_id(forms: IdForms) -> dict[str, Any]:
    text = {"type": "string"} if forms.items_are_text else {"type": "string", "pattern": DIGITS}
    return {"anyOf": [{"type": "integer"}, text]} if forms.items_are_numbers else text


def filter_schema(rule: Rule) -> dict[str, Any]:
    if rule == "at_most":
        return {"type": "number", "minimum": -LARGEST_VALUE, "maximum": LARGEST_VALUE}
    value: list[dict[str, Any]] = [{"type": ["string", "number", "boolean"]}]
    if rule == "contained":
        value.append({"type": "array", "maxItems": MOST_VALUES, "items": value[0]})
    return value[0] if len(value) == 1 else {"anyOf": value}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def _request(forms: IdForms, filters: Mapping[str, Rule]) -> dict[str, Any]:
    def or_null(schema: dict[str, Any], description: str) -> dict[str, Any]:
        return {"description": description, **_or_null(schema)}

    flag = {"type": "boolean"}
    properties = {
        "user": or_null(user_schema(forms), "Who asks; left out: anonymous, and the feed is not personal."),
        "size": or_null({"type": "integer", "minimum": 1, "maximum": MOST_ITEMS}, "How many items."),
        "exclude": or_null(
            {"type": "array", "maxItems": MOST_EXCLUDED, "items": _excluded_id(forms)},
            "Items with these ids, of any type, never come back.",
        ),
        "session": or_null({"type": "string", "maxLength": LONGEST_SESSION_ID}, "Groups the pages of one scroll."),
        "filters": or_null(
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: _or_null(filter_schema(rule)) for name, rule in filters.items()},
            },
            "What must hold of each item, by the filter's name.",
        ),
        "explain": or_null(flag, "Adds `why` to each item: slot, pool, score terms and propensity."),
        "personal": or_null(
            flag, "`false`: without anything that is known of the user, and nothing is learned from the feed."
        ),
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _answer(forms: IdForms, types: list[str]) -> dict[str, Any]:
    of_types = [{"$ref": f"#/components/schemas/{_item(name)}"} for name in types] or [
        {"$ref": f"#/components/schemas/{one.__name__}"} for one in ITEMS
    ]
    properties = {
        "ids": {"type": "array", "items": _item_id(forms), "description": "the items' ids, in feed order"},
        "items": {"type": "array", "items": {"anyOf": of_types}, "maxItems": MOST_ITEMS},
        "request_id": {"type": "string", "description": "names the feed, for events and explanations"},
        "relaxed": {"type": "array", "items": {"type": "string"}, "description": "rules that gave way"},
    }
    return {"type": "object", "required": list(properties), "properties": properties}
