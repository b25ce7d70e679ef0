"""Gorse's exports, row by row: JSON lines, as its dashboard and `/api/bulk/…` give them from 0.5 on, and the CSV of 0.2
to 0.4, with its header or in this order.

- users: UserId, Labels, Comment; in CSV user_id, labels
- items: ItemId, IsHidden, Categories, Timestamp, Labels, Comment; in CSV item_id, is_hidden, categories, time_stamp,
  labels, description
- feedback: FeedbackType, UserId, ItemId, Value, Timestamp; in CSV feedback_type, user_id, item_id, time_stamp

Labels are any JSON; up to 0.3 a list with | between, as categories are in all CSV. Times are RFC 3339 or as Go prints
them (`2022-02-24 08:00:00 +0000 UTC`); the year 1 is Go's for none.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("users", "items", "feedback")
SUFFIXES = (".jsonl", ".json", ".csv")
LONGEST_ID = 191  # characters
LONGEST_LIST = 64  # numbers in a label beyond so many are an embedding, and no terms
LONGEST_FIELD = 1 << 27

_COLUMNS = {
    "users": ("user_id", "labels", "comment"),
    "items": ("item_id", "is_hidden", "categories", "time_stamp", "labels", "comment"),
    "feedback": ("feedback_type", "user_id", "item_id", "time_stamp"),
}
_SAME = {"description": "comment", "timestamp": "time_stamp", "userid": "user_id", "itemid": "item_id"}
_SAME |= {"ishidden": "is_hidden", "feedbacktype": "feedback_type"}
_TIME = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ](\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?"
    # The zone's name as Go prints it: of those without letters the offset again, and of its own clock what it counts.
    r" ?(Z|UTC|([+-])(\d\d):?(\d\d)(?: (?:\w+|[+-]\d{2,4}))?)?(?: m=[+-]\d+\.\d+)?",
    re.ASCII,
)
_TRUE = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False, "": False}

Refuse = Callable[[int, str], None]  # a line's number, and what is wrong with it
Fields = dict[str, Any]


class Wrong(ValueError):
    """A line that cannot be taken; what is wrong with it."""


class Item(NamedTuple):
    item_id: str
    is_hidden: bool
    categories: list[str]
    time: datetime | None  # UTC, without a zone
    labels: list[str]
    comment: str


class User(NamedTuple):
    user_id: str
    labels: list[str]
    comment: str


class Feedback(NamedTuple):
    feedback_type: str
    user_id: str
    item_id: str
    value: float
    time: datetime | None


def file_of(folder: Path, kind: str) -> Path | None:
    """The export of a kind, JSON lines before CSV."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{kind}{suffix}").is_file()), None)


def lines_of(file: Iterable[bytes], kind: str, is_csv: bool, refuse: Refuse) -> Iterator[tuple[int, Fields]]:
    """Each row under the names that `_COLUMNS` has, with its line's number. Raises OSError."""
    return _csv(file, kind, refuse) if is_csv else _json_lines(file, refuse)


def _json_lines(file: Iterable[bytes], refuse: Refuse) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(file, 1):
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not text:
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            refuse(number, "is not JSON")
            continue
        if isinstance(content, dict):
            yield number, {_name(key): value for key, value in content.items()}
        else:
            refuse(number, "is no JSON object; of JSON each line has to be one")


def _csv(file: Iterable[bytes], kind: str, refuse: Refuse) -> Iterator[tuple[int, Fields]]:
    # Of the whole process, for which it is set back.
    others = csv.field_size_limit(LONGEST_FIELD)
    try:
        text = (line.decode("utf-8-sig", "replace").replace("\0", "") for line in file)
        yield from _csv_rows(csv.reader(text), kind, refuse)
    finally:
        csv.field_size_limit(others)


def _csv_rows(rows: Any, kind: str, refuse: Refuse) -> Iterator[tuple[int, Fields]]:
    columns: tuple[str, ...] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(rows.line_num, f"is no CSV: {error}")
            continue
        if not row:
            continue
        if columns is None:
            columns = tuple(map(_name, row))
            if _COLUMNS[kind][0] in columns:
                continue
            columns = _COLUMNS[kind]
        if len(row) > len(columns):
            refuse(rows.line_num, f"has {len(row)} fields, and not {len(columns)}: {', '.join(columns)}")
        else:
            yield rows.line_num, dict(zip(columns, row, strict=False))


def _name(column: str) -> str:
    name = column.strip().lower()
    return _SAME.get(name, name)


def user_of(row: Fields) -> User:
    """Raises Wrong."""
    return User(_id(row, "user_id"), _labels(row.get("labels")), _text(row.get("comment")))


def item_of(row: Fields) -> Item:
    """Raises Wrong."""
    hidden = row.get("is_hidden")
    if not isinstance(hidden, bool):
        text = _text(hidden).strip().lower()
        if text not in _TRUE:
            raise Wrong(f"is_hidden is {text!r}, and not true or false")
        hidden = _TRUE[text]
    given = row.get("categories")
    categories = given.split("|") if isinstance(given, str) and not given.startswith("[") else _list(given)
    return Item(
        _id(row, "item_id"),
        hidden,
        [text.strip() for one in categories if (text := _text(one)).strip()],
        time_of(row.get("time_stamp")),
        _labels(row.get("labels")),
        _text(row.get("comment")),
    )


def feedback_of(row: Fields) -> Feedback:
    """Raises Wrong."""
    kind = _text(row.get("feedback_type")).strip()
    if not kind:
        raise Wrong("has no feedback_type")
    try:
        value = float(row.get("value") or 0)
        if isinstance(row.get("value"), str) and "_" in row["value"]:  # which Python takes
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"value is {str(row['value'])[:40]!r}, and no number") from None
    if not math.isfinite(value):
        raise Wrong(f"value is {value}, and no number")
    return Feedback(kind, _id(row, "user_id"), _id(row, "item_id"), value, time_of(row.get("time_stamp")))


def time_of(value: Any) -> datetime | None:
    """In UTC, to the second. Raises Wrong for what is no time."""
    text = _text(value).strip()
    if not text:
        return None
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        zone: timezone = UTC
        if found[8] is not None:
            offset = timedelta(hours=int(found[9]), minutes=int(found[10]))
            zone = timezone(offset if found[8] == "+" else -offset)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        return None if year == 1 else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise Wrong(f"{text[:40]!r} is no time") from None


def _id(row: Fields, name: str) -> str:
    text = _text(row.get(name)).strip()
    if not text:
        raise Wrong(f"has no {name}")
    if len(text) > LONGEST_ID:
        raise Wrong(f"{name} has {len(text)} characters, and at most {LONGEST_ID} fit")
    return text


def _text(value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        return ""
    text = value if isinstance(value, str) else str(value)
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Wrong(f"{value[:40]!r} is no JSON") from None
    return value if isinstance(value, list) else [] if value is None else [value]


def _labels(value: Any) -> list[str]:
    """As terms: what is under a name, with that name before it. Raises Wrong."""
    if isinstance(value, str):
        text = _text(value).strip()
        if not text.startswith(("{", "[", '"')):
            return [part.strip() for part in text.split("|") if part.strip()]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise Wrong(f"labels are {text[:40]!r}, and no JSON") from None
    return list(dict.fromkeys(_terms("", value)))


def _terms(name: str, value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _terms(f"{name}.{_text(key)}" if name else _text(key), inner)
    elif isinstance(value, list):
        if len(value) > LONGEST_LIST and all(isinstance(one, int | float) for one in value):
            return  # an embedding
        for inner in value:
            yield from _terms(name, inner)
    elif text := _text(value).strip():
        yield f"{name}: {text}" if name else text
