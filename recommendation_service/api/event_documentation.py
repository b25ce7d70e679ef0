"""``POST /feedback`` in the OpenAPI document."""

from typing import Any

from recommendation_service.api.event_bodies import (
    LARGEST_POSITION,
    LARGEST_VALUE,
    LARGEST_WATCH_SECONDS,
    LONGEST_EVENT_ID,
    MOST_EVENTS,
)
from recommendation_service.api.schemas import LARGEST_ID, LONGEST_SESSION_ID
from recommendation_service.log.records import Flag
from recommendation_service.model.item_keys import ITEM_TYPES, LARGEST_ITEM, LARGEST_OTHER
from recommendation_service.model.text_ids import LONGEST_TEXT_ID
from recommendation_service.model.words import CREATOR_TYPE, EVENT_NAMES, OwnEvent, Words

_NUMBER = "an integer, or a string of digits"


def _id(least: int, largest: int) -> list[dict[str, Any]]:
    return [
        {"type": "integer", "minimum": least, "maximum": largest},
        {"type": "string", "pattern": "^[0-9]{1,18}$" if least == 0 else "^[1-9][0-9]{0,17}$"},
    ]


def _known(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """A field that need not be there."""
    return {"description": description, "anyOf": [schema, {"type": "null"}]}


def _text(longest: int, least: int = 0) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": longest}


def _optional() -> dict[str, dict[str, Any]]:
    """Fields that are the same for each event."""
    return {
        "request_id": _known(_text(LONGEST_EVENT_ID), "The feed that showed the item."),
        "session_id": _known(_text(LONGEST_SESSION_ID), "The session of that feed."),
        "position": _known(
            {"type": "integer", "minimum": 0, "maximum": LARGEST_POSITION}, "Its place in that feed, the first is 0."
        ),
        "value": _known(
            {"type": "number", "minimum": 0, "maximum": LARGEST_VALUE},
            "The rating, which that event must have; above 5 counts as 5.",
        ),
        "watch_seconds": _known(
            {"type": "number", "minimum": 0, "maximum": LARGEST_WATCH_SECONDS}, "How long it was watched."
        ),
        "timestamp": _known(
            {
                "anyOf": [
                    {"type": "number"},
                    {"type": "string", "pattern": r"^-?[0-9]{1,20}(\.[0-9]{1,9})?$"},
                    {"type": "string", "format": "date-time"},
                ]
            },
            "When it happened: seconds since 1970, or milliseconds (whatever is above 100,000,000,000), as a number or "
            "as text, or ISO 8601. Absent: now. Clamped to what lies between 2000 and now.",
        ),
        "event_id": _known(
            _text(LONGEST_EVENT_ID, 1) | {"pattern": "[^ ]$"},
            "A name of your own, within the user: an event sent again under it counts once. Send one.",
        ),
    }


def own_event_schema(words: Words) -> dict[str, Any]:
    """Of a mapping's events: for each of them what it may be of, in the operator's words."""
    common = _optional()
    common["value"]["description"] = "A number that is kept with it."
    common["user_id"] = _known(
        _text_id() if words.users_are_text else {"anyOf": _id(0, LARGEST_ID)},
        "Who did it; left out: an anonymous person, who is known by the session.",
    )
    return {
        "description": "Something that a person did. Short names are taken as well: `user`, `type`, `item`, `request`, "
        "`session`, `time`.",
        "anyOf": [
            {
                "title": f"{name}: {item_type}",
                "type": "object",
                "required": [
                    *("event", "item_id"),
                    *(() if len([one for one in own.types if one != CREATOR_TYPE]) == 1 else ("item_type",)),
                    *(("value",) if own.needs_value else ()),
                ],
                "properties": {
                    "event": {"const": name, "description": _MEANS[own.means]},
                    "item_type": {"const": item_type},
                    "item_id": _own_item_id(item_type, words),
                    **common,
                    **({"value": _own_value(own)} if own.needs_value else {}),
                },
            }
            for name, own in words.events.items()
            for item_type in own.types
        ],
        "examples": [_example(words)],
    }


_MEANS = {
    "impression": "It was on the screen.",
    "skip": "It was passed over.",
    "hide": "It never comes back.",
    **dict.fromkeys(("view", "like", "save", "match", "rating"), "It was acted on, and stays away for a while."),
}


def _example(words: Words) -> dict[str, Any]:
    name, own = next(iter(words.events.items()))
    item_type = own.types[0]
    return {
        "event": name,
        "user_id": "u-4711" if words.users_are_text else 4711,
        "item_type": item_type,
        "item_id": "i-812" if item_type in words.text_types else 812,
        **({"value": 1.0} if own.needs_value else {}),
        "request_id": "0f" * 16,
        "position": 3,
        "event_id": "a7c1-42",
    }


def _text_id() -> dict[str, Any]:
    return _text(LONGEST_TEXT_ID, 1)


def _own_item_id(item_type: str, words: Words) -> dict[str, Any]:
    if item_type in words.text_types:
        return {"description": "Its id.", **_text_id()}
    return {
        "description": f"Its id: {_NUMBER}.",
        "anyOf": _id(1, LARGEST_ITEM if item_type == CREATOR_TYPE else LARGEST_OTHER),
    }


def _own_value(own: OwnEvent) -> dict[str, Any]:
    if own.marks is None:
        return _value("What the event's weight is multiplied by.")
    return {"description": "The mark.", "type": "number", "minimum": own.marks[0], "maximum": own.marks[1]}


def _value(description: str) -> dict[str, Any]:
    return {"description": description, "type": "number", "minimum": 0, "maximum": LARGEST_VALUE}


def event_schema() -> dict[str, Any]:
    properties: dict[str, dict[str, Any]] = {
        "event": {
            "description": "What the person did. `impression`: it was on the screen. `hide`: it never comes back.",
            "enum": list(EVENT_NAMES),
        },
        "user_id": {"description": f"Who did it: {_NUMBER}; 0 for an anonymous person.", "anyOf": _id(0, LARGEST_ID)},
        "item_type": {
            "description": "`creator` only with `hide`: nothing of that user (item_id) comes back.",
            "enum": list(ITEM_TYPES),
        },
        "item_id": {"description": f"The item's id: {_NUMBER}.", "anyOf": _id(1, LARGEST_ITEM)},
        **_optional(),
    }
    required = ["event", "user_id", "item_type", "item_id"]
    items = {"description": "What it was done to.", "enum": [kind for kind in ITEM_TYPES if kind != "creator"]}
    rating = _value("The rating; above 5 counts as 5.")
    example = {"event": "view", "user_id": 4711, "item_type": ITEM_TYPES[0], "item_id": 812, "watch_seconds": 12.5}
    return {
        "description": "An event with an item, a rating of one, or that nothing of a creator is to come back.",
        "anyOf": [
            {
                "title": "An event with an item",
                "type": "object",
                "required": required,
                "properties": properties
                | {
                    "event": properties["event"] | {"enum": [n for n in EVENT_NAMES if n != "rating"]},
                    "item_type": items,
                },
            },
            {
                "title": "A rating",
                "type": "object",
                "required": [*required, "value"],
                "properties": properties | {"event": {"const": "rating"}, "item_type": items, "value": rating},
            },
            {
                "title": "A creator to hide",
                "type": "object",
                "required": required,
                "properties": properties | {"event": {"const": "hide"}, "item_type": {"const": "creator"}},
            },
        ],
        "examples": [example | {"request_id": "0f" * 16, "position": 3, "event_id": "a7c1-42"}],
    }


def feedback_operation(errors: dict[str, Any]) -> dict[str, Any]:
    """``errors``: the documented answers but for 202, by status."""
    event = {"$ref": "#/components/schemas/FeedbackEvent"}
    flagged = {
        "type": "object",
        "required": ["event_id", "flags"],
        "properties": {
            "event_id": {"type": "string"},
            "flags": {"type": "array", "items": {"enum": [str(flag.name).lower() for flag in Flag]}},
        },
    }
    body = {
        "accepted": {"type": "integer", "description": "how many different events are on the disk now"},
        "flagged": {"type": "array", "items": flagged, "description": "those of them that are odd"},
    }
    answer = {
        "type": "object",
        "required": ["statusCode", "body"],
        "properties": {
            "statusCode": {"const": 202},
            "body": {"type": "object", "required": list(body), "properties": body},
        },
    }
    return {
        "operationId": "feedback",
        "summary": "What people did with what feeds showed",
        "description": "Answered once the events are durable. On 503 none of them was taken: send them again.",
        "tags": ["feedback"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [event, {"type": "array", "minItems": 1, "maxItems": MOST_EVENTS, "items": event}]
                    }
                }
            },
        },
        "responses": {
            "202": {"description": "Durable", "content": {"application/json": {"schema": answer}}},
            **errors,
        },
    }
