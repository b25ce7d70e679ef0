"""Bodies of ``POST /feedback``: one event or a list, read in one pass where all is well, else field by field, so that
everything wrong in all events is named at once."""

import functools
import math
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from recommendation_service.api.schemas import LARGEST_ID, LONGEST_SESSION_ID, named, parse_integer, parse_user_id
from recommendation_service.core.errors import InvalidRequest, NotJson
from recommendation_service.log.records import FeedbackRecord, Flag
from recommendation_service.model.item_keys import CREATOR, LARGEST_ITEM, LARGEST_OTHER
from recommendation_service.model.text_ids import CREATOR_BITS, ITEM_BITS, LONGEST_TEXT_ID, USER_BITS, number_of_text
from recommendation_service.model.words import CREATOR_TYPE, FIRST_WORDS, OwnEvent, Words

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

    event: str
    item_id: int | str
    item_type: str | None = None
    user_id: int | str | None = None
    request_id: str | None = None
    session_id: str | None = None
    position: int | None = None
    value: float | None = None
    watch_seconds: float | None = None
    timestamp: float | str | None = None
    event_id: str | None = None


class _Mapped(_Plain):
    """Of a mapping's events, which may have short names as well; then they take the careful way."""

    user: Any = None
    type: Any = None
    item: Any = None
    request: Any = None
    session: Any = None
    time: Any = None

    def is_short(self) -> bool:
        return (self.user, self.type, self.item, self.request, self.session, self.time) != _NONE_SHORT


_NONE_SHORT = (None,) * 6
_decode_plain = msgspec.json.Decoder(list[_Plain] | _Plain).decode
_decode_mapped = msgspec.json.Decoder(list[_Mapped] | _Mapped).decode
_decode_any = msgspec.json.Decoder().decode


def read_events(body: bytes, now_ms: int, words: Words = FIRST_WORDS) -> list[FeedbackRecord]:
    """Raises NotJson, or InvalidRequest with every wrong field of every event."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        plain = _decode_mapped(body) if words.is_mapped else _decode_plain(body)
    except msgspec.ValidationError:
        return _read_carefully(body, now_ms, words)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON, or nested too deeply.") from None
    events: Sequence[_Plain] = plain if isinstance(plain, list) else [plain]
    if not 1 <= len(events) <= MOST_EVENTS:
        return _read_carefully(body, now_ms, words)
    read = []
    for event in events:
        own = words.events.get(event.event)
        if own is None or not _is_valid(event, own, words) or (isinstance(event, _Mapped) and event.is_short()):
            return _read_carefully(body, now_ms, words)
        read.append(_event(event, own, words, now_ms))
    return read


def _is_valid(event: _Plain, own: OwnEvent, words: Words) -> bool:
    """Nothing that is valid and seldom: that takes the careful way."""
    return (
        event.item_type in own.types
        and _is_id(event.item_id, 1, _largest(event.item_type, words), is_text=event.item_type in words.text_types)
        and _is_id(event.user_id, 0, LARGEST_ID, is_text=words.users_are_text)
        and (event.event_id is None or (1 <= len(event.event_id) <= LONGEST_EVENT_ID and event.event_id[-1] != " "))
        and (event.request_id is None or len(event.request_id) <= LONGEST_EVENT_ID)
        and (event.session_id is None or len(event.session_id) <= LONGEST_SESSION_ID)
        and (event.position is None or 0 <= event.position <= LARGEST_POSITION)
        and (event.value is not None or not own.needs_value)
        and (event.value is None or 0 <= event.value <= LARGEST_VALUE)
        and (event.value is None or own.marks is None or own.marks[0] <= event.value <= own.marks[1])
        and (event.watch_seconds is None or 0 <= event.watch_seconds <= LARGEST_WATCH_SECONDS)
        and not isinstance(event.timestamp, str)
    )


def _is_id(value: int | str | None, least: int, largest: int, *, is_text: bool) -> bool:
    if is_text:
        return isinstance(value, str) and 1 <= len(value) <= LONGEST_TEXT_ID and value.isprintable()
    return isinstance(value, int) and least <= value <= largest


def _largest(item_type: str | None, words: Words) -> int:
    """Number of an item of the type."""
    return LARGEST_OTHER if words.types.get(item_type or "", CREATOR) > CREATOR else LARGEST_ITEM


def _event(event: _Plain, own: OwnEvent, words: Words, now_ms: int) -> FeedbackRecord:
    """The record of a valid event."""
    flags, happened_ms = 0, now_ms
    if event.timestamp is not None:
        happened_ms = int(_milliseconds(event.timestamp))
        clamped = now_ms if happened_ms > now_ms + FUTURE_MS else max(happened_ms, EARLIEST_MS)
        if clamped != happened_ms:
            flags, happened_ms = int(Flag.TIME_CLAMPED), clamped
    item_type = CREATOR if event.item_type == CREATOR_TYPE else words.types[event.item_type or ""]
    user_id, user_text = _number_of(event.user_id, USER_BITS)
    item_id, item_text = _number_of(event.item_id, CREATOR_BITS if item_type == CREATOR else ITEM_BITS)
    return FeedbackRecord(
        event.event_id or os.urandom(16).hex(),
        own.means,
        user_id,
        item_type,
        item_id,
        happened_ms,
        now_ms,
        event.request_id,
        event.session_id,
        event.position,
        event.value,
        event.watch_seconds,
        0,
        flags,
        event.event if event.event != own.means else "",
        user_text,
        item_text,
    )


def _number_of(given: int | str | None, bits: int) -> tuple[int, str]:
    """(number, text) of an id: the text is empty where it is a number."""
    return (number_of_text(given, bits), given) if isinstance(given, str) else (given or 0, "")


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


def _read_carefully(body: bytes, now_ms: int, words: Words = FIRST_WORDS) -> list[FeedbackRecord]:
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
        if not several and "event" not in event:
            problems += [
                {"field": name, "problem": "is no field: several events are a list that is the body itself"}
                for name, value in event.items()
                if isinstance(value, list) and any(isinstance(one, dict) for one in value)
            ]
        plain = _plain(event, f"{where}." if several else "", problems, words)
        details += problems
        if plain is not None and not details:
            read.append(_event(plain, words.events[plain.event], words, now_ms))
    if details:
        more = len(details) - MOST_PROBLEMS
        if more > 0:
            details[MOST_PROBLEMS:] = [{"field": "body", "problem": f"and {more} more problems"}]
        raise InvalidRequest("The request has invalid fields.", details)
    return read


def _plain(event: dict[str, Any], prefix: str, details: list[dict[str, str]], words: Words) -> _Plain | None:
    """The event, or None where ``details`` was given what is wrong with it."""
    values: dict[str, Any] = {}
    fields = _fields(words)
    if words.is_mapped:
        present = {name: value for name, value in event.items() if value is not None}
        event = {_SHORT.get(name, name): value for name, value in present.items()} | present
        fields = fields | _ids_of(event, words)
    for name, (parse, required) in fields.items():
        given = event.get(name)
        if given is None:
            if required:
                details.append({"field": prefix + name, "problem": f"is missing: {required}"})
            continue
        try:
            values[name] = parse(given)
        except ValueError as error:
            details.append({"field": prefix + name, "problem": str(error)})
    own = words.events.get(values.get("event", ""))
    item_type = values.get("item_type")
    if own is not None and item_type is not None and item_type not in own.types:
        details.append({"field": f"{prefix}item_type", "problem": _misfit(values["event"], item_type, own, words)})
    if own is not None and own.needs_value and event.get("value") is None:
        details.append({"field": f"{prefix}value", "problem": f"is missing: {_article(values['event'])} needs it"})
    value = values.get("value")
    if own is not None and own.marks is not None and value is not None and not own.marks[0] <= value <= own.marks[1]:
        said = f"must be a mark from {own.marks[0]:g} to {own.marks[1]:g}, but is {value:g}"
        details.append({"field": f"{prefix}value", "problem": said})
    return None if details else _Plain(**values)


def _misfit(event: str, item_type: str, own: OwnEvent, words: Words) -> str:
    if item_type == CREATOR_TYPE:
        return f"creator goes only with the event {', '.join(words.names_of('hide'))}"
    return f"must be {' or '.join(own.types)}, as the event is {event}, but is {named(item_type)}"


def _article(event: str) -> str:
    return f"{'an' if event[0] in 'aeiou' else 'a'} {event}"


def _ids_of(event: dict[str, Any], words: Words) -> dict[str, tuple[Callable[[Any], Any], str]]:
    """How the ids of an event are read, which goes by what it is of; an item's type need not be said where an event
    can be of one alone."""
    name = event.get("event")
    own = words.events.get(name) if isinstance(name, str) else None
    types = [one for one in own.types if one != CREATOR_TYPE] if own is not None else list(words.types)
    if event.get("item_type") is None and len(types) == 1:
        event["item_type"] = types[0]
    given = event.get("item_type")
    is_text = given in words.text_types if isinstance(given, str) and given in words.type_names else None
    largest = _largest(given if isinstance(given, str) else None, words)
    return {"item_id": (_item_id(largest) if is_text is False else _text_id if is_text else lambda value: value, _ITEM)}


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


def _item_id(largest: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = parse_user_id(value)
        if not 1 <= number <= largest:
            raise ValueError(f"must be from 1 to {largest}, but is {number}")
        return number

    return parse


def _text_id(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, as these ids are, but is {named(value)}")
    if not (1 <= len(value) <= LONGEST_TEXT_ID and value.isprintable()):
        raise ValueError(f"must be text of 1 to {LONGEST_TEXT_ID} characters that can be seen, but is {named(value)}")
    return value


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


_ITEM = "the item's id"
# As a mapping calls them, which its operator may as well.
_SHORT = {
    "user": "user_id",
    "type": "item_type",
    "item": "item_id",
    "request": "request_id",
    "session": "session_id",
    "time": "timestamp",
}


@functools.cache
def _fields(words: Words) -> dict[str, tuple[Callable[[Any], Any], str]]:
    """How each is read, and what it is where it must be there."""
    events, types = tuple(words.events), words.type_names
    return {
        "event": (_choice(events), f"one of {', '.join(events)}"),
        "item_type": (_choice(types), f"one of {', '.join(types)}"),
        "item_id": (_item_id(LARGEST_ITEM), _ITEM),
        "user_id": (
            _text_id if words.users_are_text else parse_user_id,
            "" if words.is_mapped else "who did it, 0 for an anonymous person",
        ),
        "request_id": (_text(LONGEST_EVENT_ID), ""),
        "session_id": (_text(LONGEST_SESSION_ID), ""),
        "position": (_position, ""),
        "value": (_number(LARGEST_VALUE), ""),
        "watch_seconds": (_number(LARGEST_WATCH_SECONDS), ""),
        "timestamp": (_timestamp, ""),
        "event_id": (_event_id, ""),
    }
