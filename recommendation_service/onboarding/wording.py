"""What a column or table means by its name and values, where a mapping has to choose."""

import re

from recommendation_service.onboarding.looking import Column, Table, snake
from recommendation_service.onboarding.references import singular
from recommendation_service.onboarding.roles import title_of

# Of times, the likeliest first; those of what ends or changes are none.
CAME = ("published", "released", "posted", "created", "added", "joined", "registered", "signed", "started", "launched")
DID = ("created", "at", "time", "date", "when", "timestamp", "seen", "viewed", "read", "started", "played", "ordered")
_NOT_WHEN = re.compile(r"updat|modif|delet|clos|expir|end|until|birth|due|last_|valid|cancel", re.I)
SHOWN = {
    "published",
    "active",
    "open",
    "public",
    "live",
    "online",
    "available",
    "approved",
    "visible",
    "enabled",
    "send",
}
HIDDEN = {
    "draft",
    "closed",
    "archived",
    "hidden",
    "deleted",
    "private",
    "inactive",
    "pending",
    "rejected",
    "sold",
    "expired",
    "removed",
    "disabled",
    "blocked",
    "banned",
    "suspended",
    "spam",
    "unlisted",
}
_ENDS = re.compile(r"^(clos|expir|end|valid_until|deadline)\w*", re.I)
_STATE = re.compile(r"^(status|state|visibility)$", re.I)
_FLAG = re.compile(r"^(?:is_)?(\w+)$", re.I)
_NUMBER = re.compile(
    r"price|cost|salary|pay|wage|rent(?!al)|budget|seconds|minutes|duration|length|size|area|surface|pages|year|"
    r"calories|distance|mileage",
    re.I,
)
_CATEGORY = re.compile(
    r"category|genre|type|kind|section|topic|style|brand|department|city|country|language|level|condition|colou?r|"
    r"material|cuisine|difficulty|mood|format|platform",
    re.I,
)
_SECRET = re.compile(r"pass|token|secret|hash|email|mail|phone|address|salt|ssn|iban", re.I)
_VALUE = re.compile(r"^(value|share\w*|percent\w*|progress)$", re.I)
_MARK = re.compile(r"(^|_)(stars?|ratings?|scores?|grades?|marks?)$", re.I)
# How much an event says, and which of the service's own it is, by its name.
SAYS: tuple[tuple[str, float, str], ...] = (
    (r"order|purchas|buy|bought|sale|booking|enrol|appl|match|hire|subscri|checkout", 5, "match"),
    (r"save|bookmark|wish|collect|watchlist|later", 3, "save"),
    (r"fav|like|love|heart|upvote|vote|star|clap", 3, "like"),
    (r"rating|review|score|feedback", 3, "rating"),
    (r"cart|basket", 3, "save"),
    (r"play|listen|watch|read|view|visit|seen|click|open|impression|download|histor", 1, "view"),
)
_SCALES = (3, 5, 10)  # of marks, by the best one
MOST_FIELDS = 6
LONG = 200  # characters: prose, and no field


def time_of(table: Table, order: tuple[str, ...]) -> str | None:
    """The column that says when; None: none does."""
    times = [c.name for c in table.columns.values() if c.kind == "time" and not _NOT_WHEN.search(snake(c.name))]
    ranked = sorted(times, key=lambda name: next((i for i, word in enumerate(order) if word in name.lower()), 99))
    return ranked[0] if ranked else None


def conditions(table: Table) -> list[tuple[str, str]]:
    """(condition with {} for the column, column): what has to hold of an item that is shown."""
    found = []
    for column in table.columns.values():
        name = snake(column.name)
        if name in {"deleted_at", "removed_at", "archived_at"}:
            found.append(("{} IS NULL", column.name))
        elif column.kind == "time" and _ENDS.search(name):
            found.append(("({0} IS NULL OR {0} >= :now)", column.name))
        elif name == "stock" and column.kind == "integer":
            found.append(("{} > 0", column.name))
        elif name in {"published_at", "released_at"} and table.nulls(column.name):
            found.append(("{} IS NOT NULL", column.name))
        elif (condition := _flag(column) or _state(column)) is not None:
            found.append((condition, column.name))
    return found


def _flag(column: Column) -> str | None:
    """Of a column of yes and no that shows or hides; others, as is_featured, say nothing of that."""
    word = _FLAG.match(snake(column.name))
    values = set(map(str, column.sample))
    is_boolean = values <= {"False", "True"}
    if column.kind != "integer" or word is None or not values or not (is_boolean or values <= {"0", "1"}):
        return None
    # A boolean of PostgreSQL's is no number, and a number of its is no condition.
    if word[1] in HIDDEN:
        return "NOT {}" if is_boolean else "{} = 0"
    if word[1] in SHOWN and values & {"1", "True"}:
        return "{}" if is_boolean else "{} = 1"
    return None


def _state(column: Column) -> str | None:
    values = set(map(str, column.sample))
    if not _STATE.match(column.name) or column.kind == "integer":
        return None
    shown = [value for value in values if value.lower() in SHOWN and "'" not in value]
    if len(shown) == 1 and len(values) > 1:
        return f"{{}} = '{shown[0]}'"
    return None


def fields_of(table: Table, skipped: set[str]) -> list[str]:
    """Short columns that a list would show."""
    title = title_of(table)
    words = ("slug", "image", "cover", "picture", "thumbnail", "url", "price", "city", "artist", "author")
    others = [
        column.name
        for column in table.columns.values()
        if column.name not in {title, *skipped}
        and column.kind in {"text", "integer", "number"}
        and column.length <= LONG
        and not _SECRET.search(column.name)
        and any(word in column.name.lower() for word in words)
    ]
    return ([title] if title else []) + others[: MOST_FIELDS - 1]


def categories_of(table: Table, skipped: set[str]) -> list[str]:
    """Columns of texts that come again and sort items into kinds, by their names, too."""
    return [name for name in groups_of(table, skipped) if _CATEGORY.search(name)]


def groups_of(table: Table, skipped: set[str]) -> list[str]:
    """Columns of texts that come again."""
    return [
        column.name
        for column in table.columns.values()
        if column.kind == "text"
        and column.name not in skipped
        and 1 < len(column.different) <= max(2, len(column.sample) // 3)
    ]


def lists_of(table: Table) -> list[str]:
    """Columns of JSON lists of texts."""
    return [column.name for column in table.columns.values() if column.kind == "json"]


def numbers_of(table: Table, skipped: set[str]) -> list[str]:
    return [
        column.name
        for column in table.columns.values()
        if column.kind in {"integer", "number"}
        and column.name not in skipped
        and _NUMBER.search(column.name)
        and len(column.different) > 4
    ]


def value_of(table: Table, skipped: set[str]) -> str | None:
    """A column of marks or shares."""
    names = [
        column.name
        for column in table.columns.values()
        if column.kind in {"integer", "number"}
        and column.name not in skipped
        and (_VALUE.match(column.name) or is_of_marks(column.name))
        and len(column.different) > 1
        and all(float(value) >= 0 for value in column.sample)
    ]
    return names[0] if names else None


def is_of_marks(name: str) -> bool:
    """Whether a column's name says that what it holds is how good something was found, the bad as well."""
    return _MARK.search(snake(name)) is not None


def scale_of(column: Column) -> tuple[float, int] | None:
    """(worst mark, best mark) of a column of whole or half marks; None: it is none, or of some other scale."""
    marks = [float(value) for value in column.sample]
    if not is_of_marks(column.name) or not marks or min(marks) < 0 or any(2 * mark % 1 for mark in marks):
        return None
    best = next((best for best in _SCALES if 1 < max(marks) <= best), None)
    return None if best is None else (min(1.0, *marks), best)


def event_name(table: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", singular(table)) or "event"


def says(name: str) -> tuple[float, str | None]:
    """(weight, which of the service's own it is)."""
    return next(((weight, means) for pattern, weight, means in SAYS if re.search(pattern, name, re.I)), (1.0, None))
