"""A mapping, read whole: what its file says, and every query as text. Its problems are told all at once."""

import hashlib
import re
import tomllib
import types
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.sources.lists import Unreadable, read_file
from recommendation_service.sources.mapping.checks import contradictions
from recommendation_service.sources.mapping.format import Event, Feed, Kind, Link, MappingFile, Queried
from recommendation_service.sources.mapping.places import Places
from recommendation_service.sources.mapping.problems import Problem, did_you_mean, in_order, nearest
from recommendation_service.sources.mapping.statements import Statement, read_statement

# What a mapping that names none has.
KINDS = {
    "for_you": Kind(weights={"together": 1.0, "closeness": 1.0, "popularity": 1.0, "friends": 1.0}),
    "popular": Kind(weights={"popularity": 1.0}),
    "new": Kind(weights={"newness": 1.0, "popularity": 0.1}),
}
_FIVE = ("for_you",) * 5
# What nobody knows yet is on the last place of 24: there it costs least, and somebody has to see it first.
FEEDS = {"home": Feed(pattern=(*((*_FIVE, "popular") * 3), *_FIVE, "new"))}
EVENTS_SINCE_DAYS = 365.0  # where an event does not say


class MappingError(ConfigurationError):
    """A mapping that cannot be used; ``found`` has every problem."""

    def __init__(self, found: Sequence[Problem]) -> None:
        super().__init__([str(problem) for problem in found])
        self.found = list(found)


@dataclass(frozen=True)
class Look:
    """``row``: the column that tells rows apart; ``columns``: whose values are compared, None: all of the query's."""

    row: str
    time: str | None
    columns: tuple[str, ...] | None


@dataclass(frozen=True)
class Mapping:
    """``statements``: every query by its section, dotted: "users", "items.job", "vocabularies.tag.items.job"."""

    path: Path
    content: MappingFile
    statements: ReadOnly[str, Statement]
    places: Places = field(repr=False, compare=False)

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        return self.content.kinds or KINDS

    @cached_property
    def feeds(self) -> dict[str, Feed]:
        return self.content.feeds or (FEEDS if not self.content.kinds else {"home": Feed(pattern=tuple(self.kinds))})

    def item_type_of(self, event: str) -> str | None:
        """None where each row of the event says its own."""
        section = self.content.events[event]
        return None if section.type_column else section.type or next(iter(self.content.items))

    @cached_property
    def digest(self) -> str:
        """Of all that it says: another one builds another catalog."""
        said = [self.content.model_dump_json(), *(f"{name}\0{one.text}" for name, one in self.statements.items())]
        return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]

    def section(self, section: str) -> Any:
        """What the file says under a dotted name."""
        part, *names = section.split(".")
        found = getattr(self.content, part)
        for name in names:
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        return found

    def days_of(self, section: str) -> float | None:
        """How far back ``:since`` is in a section's query, in days."""
        found = self.section(section)
        days: float | None = getattr(found, "lives_days", None) or getattr(found, "days", None)
        return EVENTS_SINCE_DAYS if days is None and isinstance(found, Event) else days

    def look_at(self, section: str) -> "Look":
        """What a change of the section's rows is seen by."""
        found = self.section(section)
        if isinstance(found, Event | Link):
            other = found.item if isinstance(found, Event) else found.other
            return Look(found.user, found.time, () if found.time else (found.user, other))
        return Look(found.id, getattr(found, "time", None), None)

    def problem(self, section: str, key: str, said: str, instead: str = "", column: str | None = None) -> Problem:
        """About what the mapping's file says under a key of a section."""
        line = self.places.line((*section.split("."), *([key] if key else [])))
        return Problem(self.path, line, section, said, instead, column)


def load_mapping(path: Path) -> Mapping:
    """Raises MappingError with every problem of the file and of the SQL files that it names."""
    content, places = _toml(path)
    problems: list[Problem] = []
    valid = _validated(content, path, places, problems)
    if valid is None:
        raise MappingError(in_order(problems))

    def known(part: str) -> Collection[str]:
        named = content.get(part)
        return named if isinstance(named, dict) and named else KINDS if part == "kinds" else ()

    for keys, said, instead in contradictions(valid, known):
        problems.append(Problem(path, places.line(keys), ".".join(keys[:2]), said, instead))
    statements = dict(_statements(valid, path, places, problems))
    if problems:
        raise MappingError(in_order(problems))
    return Mapping(path, valid, types.MappingProxyType(statements), places)


def _toml(path: Path) -> tuple[dict[str, Any], Places]:
    try:
        raw, _ = read_file(path)
        text = raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
        return tomllib.loads(text), Places(text)
    except Unreadable as error:
        instead = "MAPPING_FILE names it; `recs source init` writes one" if not path.exists() else ""
        raise MappingError([Problem(path, 0, "", f"the mapping cannot be read: {error}", instead)]) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MappingError([Problem(path, line, "", "the file is not UTF-8", "save it as UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+)", str(error))
        line = int(place[1]) if place else text.count("\n") + 1  # else it is at the end
        raise MappingError([Problem(path, line, "", f"no TOML: {error}")]) from None


# Fields.


def _validated(raw: dict[str, Any], path: Path, places: Places, problems: list[Problem]) -> MappingFile | None:
    """What is left without the wrong sections, so that the others are looked at as well; None: nothing is."""
    content = _copied(raw)
    for tried in range(_MOST_TRIES):
        try:
            return MappingFile.model_validate(content)
        except ValidationError as error:
            wrong = [_inside(one["loc"], content, is_missing=one["type"] == "missing") for one in error.errors()]
            problems += [
                Problem(path, places.line(keys), ".".join(keys[:-1]), *_said(one, keys))
                for one, keys in zip(error.errors(), wrong, strict=True)
                # Later ones are of what was taken out; and a list without its wrong entries is not what is too short.
                if tried == 0 and not (one["type"] == "too_short" and wrong.count(keys) > 1)
            ]
            for one, keys in zip(error.errors(), wrong, strict=True):
                _remove(content, keys[:-1] if one["type"] == "missing" else keys)
            for part, stand_in in _STAND_INS.items():
                if not isinstance(content.get(part), dict) or not content[part]:
                    content[part] = stand_in
    return None


_MOST_TRIES = 6  # taking out a key may leave a section without what it needs, and so on upwards
# Of parts that must be there and are not, or not right.
_STAND_INS: dict[str, Any] = {
    "users": {"query": "SELECT 0 AS id"},
    "items": {"item": {"query": "SELECT 0 AS id"}},
    "events": {"event": {}},
}


def _inside(location: tuple[int | str, ...], content: Any, *, is_missing: bool) -> tuple[str, ...]:
    """The keys of a location that are the file's: pydantic adds branches of a union and places in lists."""
    keys: list[str] = []
    for place, part in enumerate(location):
        if isinstance(content, dict) and part in content:
            keys.append(str(part))
            content = content[part]
        elif is_missing and place == len(location) - 1:
            keys.append(str(part))
    return tuple(keys)


def _said(error: Any, keys: tuple[str, ...]) -> tuple[str, str]:
    """(what is wrong, what to write instead)."""
    key = keys[-1] if keys else "the file"
    if error["type"] == "extra_forbidden":
        return f"there is no key {key}", did_you_mean(key, _fields_at(keys[:-1]), what="keys are")
    if error["type"] == "missing":
        fields = _fields_at(keys[:-1])
        if len(keys) == 1:
            return f"{key} is missing", _section_to_write(keys)
        return f"{key} is missing", fields[key].description or "" if key in fields else ""
    if "[key]" in error["loc"]:
        allowed = _names_at(keys[:-1])
        if allowed:
            return f"there is no {key}", did_you_mean(key, allowed)
        return f"{key} is no name", _NAMES_ARE
    return _said_of_value(error, keys, key)


def _said_of_value(error: Any, keys: tuple[str, ...], key: str) -> tuple[str, str]:
    message = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    shown = repr(error["input"])
    given = f", and is {shown}" if len(shown) <= 60 and not isinstance(error["input"], dict | list) else ""
    if error["type"] in {"model_type", "dict_type"}:
        return f"{key} should be a section{given}", _section_to_write(keys)
    if error["type"] == "literal_error":
        choices = [str(choice) for choice in _names_at(keys)]
        near = nearest(str(error["input"]), choices)
        field = _fields_at(keys[:-1]).get(key)
        known = field.description if field is not None else None
        return f"{key} {message}{given}", f"did you mean {near}?" if near is not None else known or ""
    if error["type"] == "too_short":
        return f"{key} is empty", "name one at least, or leave it out where that is possible"
    if error["type"] == "string_pattern_mismatch":
        instead = _TABLES_ARE if keys[-2:] == ("log", "table") else _NAMES_ARE
        return f"{key}: {error['input'][:60]!r} is no name", instead
    return f"{key} {_PLAIN.get(error['type'], message)}{given}", ""


_NAMES_ARE = "a name begins with a letter, and has letters, digits, _ and -, at most 63"
_TABLES_ARE = "it begins with a letter or _, and has letters, digits and _, at most 64"
# Where pydantic speaks of Python.
_PLAIN = {
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    "string_type": "should be text",
    "tuple_type": "should be a list",
}


def _section_to_write(keys: Sequence[str]) -> str:
    """Of a table of sections one of them: [items.NAME]."""
    names = [*keys, "NAME"] if get_origin(_annotation_at(keys)) is dict else keys
    return f"write [{'.'.join(names)}], and below it what belongs to it"


def _bare(annotation: Any) -> Any:
    """Without Annotated and None."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation


def _annotation_at(keys: Sequence[str]) -> Any:
    annotation: Any = MappingFile
    for key in keys:
        bare = _bare(annotation)
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            if key not in bare.model_fields:
                return None
            annotation = bare.model_fields[key].annotation
        elif get_origin(bare) is dict:
            annotation = get_args(bare)[1]
        else:
            return None
    return _bare(annotation)


def _fields_at(keys: Sequence[str]) -> dict[str, Any]:
    found = _annotation_at(keys)
    return dict(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else {}


def _names_at(keys: Sequence[str]) -> tuple[Any, ...]:
    """Of a choice, or of a table whose keys are one."""
    found = _annotation_at(keys)
    if get_origin(found) is dict:
        found = _bare(get_args(found)[0])
    return get_args(found) if found is not None and found is not str and get_origin(found) is not dict else ()


def _copied(content: Any) -> Any:
    return {key: _copied(value) for key, value in content.items()} if isinstance(content, dict) else content


def _remove(content: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        inner = content.get(key)
        if not isinstance(inner, dict):
            return
        content = inner
    if keys:
        content.pop(keys[-1], None)


# Queries.


def _sections(content: MappingFile) -> Iterator[tuple[tuple[str, ...], Queried, bool]]:
    """(keys, section, whether it has a window)."""
    yield ("users",), content.users, False
    for name, items in content.items.items():
        yield ("items", name), items, items.lives_days is not None
    for name, vocabulary in content.vocabularies.items():
        for item_type, terms in vocabulary.items.items():
            yield ("vocabularies", name, "items", item_type), terms, False
        if vocabulary.users is not None:
            yield ("vocabularies", name, "users"), vocabulary.users, False
    for name, event in content.events.items():
        yield ("events", name), event, True
    for name, link in content.links.items():
        yield ("links", name), link, link.days is not None


def _statements(
    content: MappingFile, path: Path, places: Places, problems: list[Problem]
) -> Iterator[tuple[str, Statement]]:
    for keys, section, has_since in _sections(content):
        name = ".".join(keys)
        if section.query is not None:
            key = (*keys, "query")
            statement = Statement(name, section.query, path, places.text_line(key), not places.is_literal(key))
        elif section.file is not None:
            read = _sql_file(section.file, name, path, places.line((*keys, "file")))
            if isinstance(read, Problem):
                problems.append(read)
                continue
            statement = read
        else:
            continue
        statement, found = read_statement(statement, has_since=has_since)
        problems += found
        yield name, statement


def _sql_file(named: str, section: str, mapping: Path, line: int) -> Statement | Problem:
    path = mapping.parent / named
    try:
        raw, _ = read_file(path)
        return Statement(section, raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n"), path, 1)
    except Unreadable as error:
        found = (one for depth in ("*.sql", "*/*.sql") for one in mapping.parent.glob(depth) if one.is_file())
        beside = sorted(str(one.relative_to(mapping.parent)) for one in found if one != path)
        instead = did_you_mean(named, beside, what="SQL files beside the mapping are")
        return Problem(mapping, line, section, f"the file cannot be read: {error}", instead)
    except UnicodeDecodeError as error:
        return Problem(path, raw.count(b"\n", 0, error.start) + 1, section, "the file is not UTF-8", "save it as UTF-8")
