"""Bodies of ``POST /feedback``: one event or a list, read in one pass where all is well, else field by field, so that
everything wrong in all events is named at once."""

import math
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from recommendation_service.api.schemas import LARGEST_ID, LONGEST_SESSION_ID, named, parse_integer, parse_user_id
from recommendation_service.core.errors import InvalidRequest, NotJson
from recommendation_service.log.records import EVENT_NAMES, EventName, FeedbackRecord, Flag
from recommendation_service.model.item_keys import ITEM_TYPES, LARGEST_ITEM, ItemType

MOST_EVENTS = 1_000
LONGEST_EVENT_ID = 128
LARGEST_POSITION = 10_000
LARGEST_WATCH_SECONDS = 86_400.0
LARGEST_VALUE = 1_000_000.0
EARLIEST_MS = 946_684_800_000  # 2000-01-01
FUTURE_MS = 60_000  # clocks of clients may be ahead by so much
MOST_PROBLEMS = 100  # named in one answer

# A date parser reads "1712052391530" as the year 1712, the month 05 and the day 23, and takes any letter for the T.
_NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?")
_DATE = re.compile(r"[0-9]{4}-?([0-9]{2}-?[0-9]{2}|[Ww][0-9]{2}(-?[0-9])?)([Tt ].+)?")


class _Plain(msgspec.Struct):
    """The shape of nearly all events; anything else takes the careful way."""

    event: EventName
    item_type: ItemType
    item_id: int
    user_id: int
    request_id: str | None = None
    session_id: str | None = None
    position: int | None = None
    value: float | None = None
    watch_seconds: float | None = None
    timestamp: float | str | None = None
    event_id: str | None = None


_decode_plain = msgspec.json.Decoder(list[_Plain] | _Plain).decode
_decode_any = msgspec.json.Decoder().decode


def read_events(body: bytes, now_ms: int) -> list[FeedbackRecord]:
    """Raises NotJson, or InvalidRequest with every wrong field of every event."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        plain = _decode_plain(body)
    except msgspec.ValidationError:
        return _read_carefully(body, now_ms)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON, or nested too deeply.") from None
    events = plain if isinstance(plain, list) else [plain]
    if not 1 <= len(events) <= MOST_EVENTS:
        return _read_carefully(body, now_ms)
    read = []
    for event in events:
        if not _is_valid(event):
            return _read_carefully(body, now_ms)
        read.append(_event(event, now_ms))
    return read


def _is_valid(event: _Plain) -> bool:
    return (
        1 <= event.item_id <= LARGEST_ITEM
        and 0 <= event.user_id <= LARGEST_ID
        and (event.item_type != "creator" or event.event == "hide")
        and (event.event_id is None or (1 <= len(event.event_id) <= LONGEST_EVENT_ID and event.event_id[-1] != " "))
        and (event.request_id is None or len(event.request_id) <= LONGEST_EVENT_ID)
        and (event.session_id is None or len(event.session_id) <= LONGEST_SESSION_ID)
        and (event.position is None or 0 <= event.position <= LARGEST_POSITION)
        and (event.value is not None or event.event != "rating")
        and (event.value is None or 0 <= event.value <= LARGEST_VALUE)
        and (event.watch_seconds is None or 0 <= event.watch_seconds <= LARGEST_WATCH_SECONDS)
        and not isinstance(event.timestamp, str)
    )


def _event(event: _Plain, now_ms: int) -> FeedbackRecord:
    """The record of a valid event."""
    flags, happened_ms = 0, now_ms
    if event.timestamp is not None:
        happened_ms = int(_milliseconds(event.timestamp))
        clamped = now_ms if happened_ms > now_ms + FUTURE_MS else max(happened_ms, EARLIEST_MS)
        if clamped != happened_ms:
            flags, happened_ms = int(Flag.TIME_CLAMPED), clamped
    return FeedbackRecord(
        event.event_id or os.urandom(16).hex(),
        event.event,
        event.user_id,
        ITEM_TYPES.index(event.item_type),
        event.item_id,
        happened_ms,
        now_ms,
        event.request_id,
        event.session_id,
        event.position,
        event.value,
        event.watch_seconds,
        0,
        flags,
    )


def _milliseconds(timestamp: float | str) -> float:
    """Of seconds, of milliseconds (which are more than 100,000,000,000), both also as text, or of ISO 8601 text.

    Raises ValueError.
    """
    if isinstance(timestamp, str) and _NUMBER.fullmatch(timestamp):
        timestamp = float(timestamp)
    if isinstance(timestamp, str):
        if not _DATE.fullmatch(timestamp):
            raise ValueError
        moment = datetime.fromisoformat(timestamp.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
    if not math.isfinite(timestamp):
        raise ValueError
    milliseconds = timestamp if abs(timestamp) > 1e11 else timestamp * 1000
    return max(min(milliseconds, 1e15), -1e15)


def _read_carefully(body: bytes, now_ms: int) -> list[FeedbackRecord]:
    try:
        content = _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON.") from None
    several = isinstance(content, list)
    events = content if several else [content]
    if several and not 1 <= len(events) <= MOST_EVENTS:
        problem = f"must have from 1 to {MOST_EVENTS} events, but has {len(events)}"
        raise InvalidRequest("The request has invalid fields.", [{"field": "body", "problem": problem}])
    details: list[dict[str, str]] = []
    read = []
    for place, event in enumerate(events):
        where = f"[{place}]" if several else ""
        if not isinstance(event, dict):
            details.append({"field": where or "body", "problem": f"must be an object, but is {named(event)}"})
            continue
        problems: list[dict[str, str]] = []
        plain = _plain(event, f"{where}." if several else "", problems)
        details += problems
        if plain is not None and not details:
            read.append(_event(plain, now_ms))
    if details:
        more = len(details) - MOST_PROBLEMS
        if more > 0:
            details[MOST_PROBLEMS:] = [{"field": "body", "problem": f"and {more} more problems"}]
        raise InvalidRequest("The request has invalid fields.", details)
    return read


def _plain(event: dict[str, Any], prefix: str, details: list[dict[str, str]]) -> _Plain | None:
    """The event, or None where ``details`` was given what is wrong with it."""
    values: dict[str, Any] = {}
    for name, (parse, required) in _FIELDS.items():
        given = event.get(name)
        if given is None:
            if required:
                details.append({"field": prefix + name, "problem": f"is missing: {required}"})
            continue
        try:
            values[name] = parse(given)
        except ValueError as error:
            details.append({"field": prefix + name, "problem": str(error)})
    if values.get("item_type") == "creator" and values.get("event", "hide") != "hide":
        details.append({"field": f"{prefix}item_type", "problem": "creator goes only with the event hide"})
    if values.get("event") == "rating" and event.get("value") is None:
        details.append({"field": f"{prefix}value", "problem": "is missing: a rating needs it"})
    return None if details else _Plain(**values)


def _choice(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, but is {named(value)}")
        return str(value)

    return parse


def _text(longest: int, least: int = 0) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be a string, but is {named(value)}")
        if not least <= len(value) <= longest:
            raise ValueError(f"must have from {least} to {longest} characters, but has {len(value)}")
        return value

    return parse


def _number(largest: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number, but is {named(value)}")
        if not 0 <= value <= largest:
            raise ValueError(f"must be from 0 to {largest:.0f}, but is {named(value)}")
        return float(value)

    return parse


def _item_id(value: Any) -> int:
    number = parse_user_id(value)
    if not 1 <= number <= LARGEST_ITEM:
        raise ValueError(f"must be from 1 to {LARGEST_ITEM}, but is {number}")
    return number


def _position(value: Any) -> int:
    number = parse_integer(value)
    if number is None or not 0 <= number <= LARGEST_POSITION:
        raise ValueError(f"must be an integer from 0 to {LARGEST_POSITION}, but is {named(value)}")
    return number


def _timestamp(value: Any) -> float:
    """Milliseconds, which an event may give as well."""
    rule = "must be seconds or milliseconds since 1970, or ISO 8601"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{rule}, but is {named(value)}")
    try:
        milliseconds = _milliseconds(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{rule}, but is {named(value)}") from None
    return milliseconds if abs(milliseconds) > 1e11 else milliseconds / 1000


def _event_id(value: Any) -> str:
    text = _text(LONGEST_EVENT_ID, 1)(value)
    if text.endswith(" "):
        raise ValueError("must not end with a space, which the database does not tell from none")
    return text


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {  # how each is read, and what it is where it must be there
    "event": (_choice(EVENT_NAMES), f"one of {', '.join(EVENT_NAMES)}"),
    "item_type": (_choice(ITEM_TYPES), f"one of {', '.join(ITEM_TYPES)}"),
    "item_id": (_item_id, "the item's id"),
    "user_id": (parse_user_id, "who did it, 0 for an anonymous person"),
    "request_id": (_text(LONGEST_EVENT_ID), ""),
    "session_id": (_text(LONGEST_SESSION_ID), ""),
    "position": (_position, ""),
    "value": (_number(LARGEST_VALUE), ""),
    "watch_seconds": (_number(LARGEST_WATCH_SECONDS), ""),
    "timestamp": (_timestamp, ""),
    "event_id": (_event_id, ""),
}
