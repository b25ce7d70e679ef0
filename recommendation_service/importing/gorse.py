"""From Gorse's exports to tables, and a mapping of them: streamed, whatever their size, and a bad line ends nothing."""

import contextlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.errors import SourceError
from recommendation_service.importing.gorse_files import (
    KINDS,
    LONGEST_ID,
    SUFFIXES,
    Fields,
    Wrong,
    feedback_of,
    file_of,
    item_of,
    lines_of,
    user_of,
)

METADATA = MetaData()
# Ids are compared as they are: to Gorse `a` and `A` are two.
_AS_THEY_ARE: dict[str, Any] = {
    f"{family}_{what}": value
    for family in ("mysql", "mariadb")
    for what, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
_LONG = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
USERS = Table(
    "gorse_users",
    METADATA,
    Column("user_id", String(LONGEST_ID), primary_key=True),
    Column("labels", _LONG, nullable=False),
    Column("comment", _LONG, nullable=False),
    **_AS_THEY_ARE,
)
ITEMS = Table(
    "gorse_items",
    METADATA,
    Column("item_id", String(LONGEST_ID), primary_key=True),
    Column("is_hidden", Boolean, nullable=False),
    Column("categories", _LONG, nullable=False),
    Column("time_stamp", DateTime),
    Column("labels", _LONG, nullable=False),
    Column("comment", _LONG, nullable=False),
    **_AS_THEY_ARE,
)
FEEDBACK = Table(
    "gorse_feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("feedback_type", String(64), nullable=False),
    Column("user_id", String(LONGEST_ID), nullable=False),
    Column("item_id", String(LONGEST_ID), nullable=False, index=True),
    Column("value", Float, nullable=False),
    Column("time_stamp", DateTime),
    Index("ix_gorse_feedback_type_user", "feedback_type", "user_id"),  # an event's rows, of all and of one user
    **_AS_THEY_ARE,
)
ROWS_AT_ONCE = 2000
MOST_NAMED = 20  # bad lines of a file that are told one by one
READ_WEIGHT = 0.2  # of what Gorse's configuration has as read, beside 1 of what is positive
_TYPES = ("positive_feedback_types", "read_feedback_types", "negative_feedback_types")
_CONDITION = re.compile(r"(.*?)\s*(?:(<=|>=|<|>|=)\s*([0-9]+\.?[0-9]*|\.[0-9]+)?)?", re.DOTALL)

Tell = Callable[[str, int, int], None]  # a file, and how many of its bytes are read of how many
_MISSING_USERS = (
    "INSERT INTO gorse_users (user_id, labels, comment) SELECT DISTINCT f.user_id, '[]', '' FROM gorse_feedback f "
    "WHERE NOT EXISTS (SELECT 1 FROM gorse_users u WHERE u.user_id = f.user_id)"
)


@dataclass
class Imported:
    """What was read of an export. ``server``: of the database, as SQLAlchemy names it."""

    server: str
    rows: dict[str, int] = field(default_factory=dict)
    feedback: Counter[str] = field(default_factory=Counter)  # by type
    valued: Counter[str] = field(default_factory=Counter)  # of these, with a value
    bad: Counter[str] = field(default_factory=Counter)  # lines, by file
    named: list[str] = field(default_factory=list)  # the first of them
    notes: list[str] = field(default_factory=list)
    has_categories: bool = False
    has_labels: bool = False
    has_user_labels: bool = False

    def as_dict(self) -> dict[str, Any]:
        names = ("rows", "feedback", "bad", "named", "notes")
        return {name: getattr(self, name) for name in names}


def import_gorse(folder: Path, engine: Engine, *, replace: bool, tell: Tell) -> Imported:
    """Raises SourceError where a file, or all rows of one, are missing, or tables of these names are there. Then, and
    wherever else it ends before its end, the database is as it was."""
    paths = {kind: file_of(folder, kind) for kind in KINDS}
    missing = [kind for kind in ("items", "feedback") if paths[kind] is None]
    if missing:
        names = " and ".join(f"{kind}{{{','.join(SUFFIXES)}}}" for kind in missing)
        raise SourceError(
            f"{folder} has no {names}: export it from Gorse's dashboard, or by its /api/bulk/{missing[0]}."
        )
    with engine.begin() as connection:
        there = sorted(set(inspect(connection).get_table_names()) & set(METADATA.tables))
        if there and not replace:
            raise SourceError(
                f"The database has tables of these names: {', '.join(there)}. --replace imports them anew."
            )
        METADATA.create_all(connection)
    try:
        # What was there goes with what comes in its place: MySQL takes no DROP back.
        with engine.begin() as connection:
            for table in METADATA.sorted_tables:
                connection.execute(table.delete())
            return _imported(connection, paths, tell)
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):
            METADATA.drop_all(engine, [table for name, table in METADATA.tables.items() if name not in there])
        raise


def _imported(connection: Connection, paths: dict[str, Path | None], tell: Tell) -> Imported:
    found = Imported(server=connection.dialect.name)
    for kind, path in paths.items():
        if path is not None:
            rows = _rows(path, kind, found, tell)
            found.rows[kind] = sum(_write(connection, kind, some) for some in _batches(rows))
    for kind in ("items", "feedback"):
        if not found.rows[kind]:
            raise SourceError(f"{paths[kind]} has nothing to import. {' '.join(found.named[:3])}".rstrip())
    added = connection.execute(text(_MISSING_USERS)).rowcount
    found.rows["users"] = found.rows.get("users", 0) + added
    if added:
        found.notes.append(f"{added:,} users are only in the feedback")
    return found


def _rows(path: Path, kind: str, found: Imported, tell: Tell) -> Iterator[dict[str, Any]]:
    def refuse(number: int, why: str) -> None:
        found.bad[path.name] += 1
        if found.bad[path.name] <= MOST_NAMED:
            found.named.append(f"{path.name}, line {number}: {why}")

    read = {"users": _user, "items": _item, "feedback": _feedback}[kind]
    known: set[str] = set()
    size = max(1, path.stat().st_size)
    with path.open("rb") as file:
        for number, fields in lines_of(_told(file, path.name, size, tell), kind, path.suffix == ".csv", refuse):
            try:
                row = read(fields, found)
            except Wrong as wrong:
                refuse(number, str(wrong))
                continue
            if kind != "feedback":
                one = row["user_id" if kind == "users" else "item_id"]
                if one in known:
                    refuse(number, f"{one!r} was there already")
                    continue
                known.add(one)
            yield row


def _told(file: IO[bytes], name: str, size: int, tell: Tell) -> Iterator[bytes]:
    done = 0
    for count, line in enumerate(file):
        done += len(line)
        if count % ROWS_AT_ONCE == 0:
            tell(name, done, size)
        yield line
    tell(name, size, size)


def _user(fields: Fields, found: Imported) -> dict[str, Any]:
    user = user_of(fields)
    found.has_user_labels |= bool(user.labels)
    return {"user_id": user.user_id, "labels": _json(user.labels), "comment": user.comment}


def _item(fields: Fields, found: Imported) -> dict[str, Any]:
    item = item_of(fields)
    found.has_categories |= bool(item.categories)
    found.has_labels |= bool(item.labels)
    return {
        "item_id": item.item_id,
        "is_hidden": item.is_hidden,
        "categories": _json(item.categories),
        "time_stamp": item.time,
        "labels": _json(item.labels),
        "comment": item.comment,
    }


def _feedback(fields: Fields, found: Imported) -> dict[str, Any]:
    one = feedback_of(fields)
    if len(one.feedback_type) > 64:
        raise Wrong(f"feedback_type has {len(one.feedback_type)} characters, and at most 64 fit")
    found.feedback[one.feedback_type] += 1
    found.valued[one.feedback_type] += one.value != 0
    return {
        "feedback_type": one.feedback_type,
        "user_id": one.user_id,
        "item_id": one.item_id,
        "value": one.value,
        "time_stamp": one.time,
    }


def _json(terms: list[str]) -> str:
    return json.dumps(terms, ensure_ascii=False)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _write(connection: Connection, kind: str, rows: list[dict[str, Any]]) -> int:
    connection.execute(METADATA.tables[f"gorse_{kind}"].insert(), rows)
    return len(rows)


class FeedbackTypes:
    """Which feedback says how much: from Gorse's configuration where it is in the folder, else all the same.

    A type may have a condition of its value behind it, as in rating>=3; each is a list of conditions in SQL by type, of
    which an empty one always holds. What is negative counts nothing; then what is positive goes before what is read.
    """

    def __init__(self, positive: Iterable[str], read: Iterable[str], negative: Iterable[str] = ()) -> None:
        self.positive, self.read, self.negative = _by_type(positive), _by_type(read), _by_type(negative)

    @classmethod
    def of_folder(cls, folder: Path) -> "FeedbackTypes":
        """Raises SourceError for a configuration that says of it what cannot be read."""
        file = folder / "config.toml"
        try:
            content: Any = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            return cls([], [])
        except (OSError, ValueError) as error:
            raise SourceError(f"{file} cannot be read: {error}. Mend it, or take it out of the folder.") from None
        recommend = content.get("recommend", {})
        told = recommend.get("data_source") if isinstance(recommend, dict) else recommend
        if told is None:
            told = content.get("database", {})  # where 0.2 and 0.3 have them
        found: list[Any] = [told.get(name, []) for name in _TYPES] if isinstance(told, dict) else [None]
        if not all(map(_are_texts, found)):
            raise SourceError(
                f"{file}: {', '.join(_TYPES)} of [recommend.data_source] must be lists of texts. Mend it, or take it "
                "out of the folder."
            )
        return cls(*found)

    def weight(self, name: str) -> float:
        """Where no value decides."""
        if "" in self.positive.get(name, ()):
            return 1.0
        return 0.0 if self.is_negative(name) else READ_WEIGHT if "" in self.read.get(name, ()) else 1.0

    def is_negative(self, name: str) -> bool:
        """Whether it is that, whatever its value, and nothing else."""
        return "" in self.negative.get(name, ()) and name not in {*self.positive, *self.read}

    def by_value(self, name: str) -> str | None:
        """What feedback counts where that hangs on its value, in SQL; None: it does not."""
        counts = [(0.0, self.negative), (1.0, self.positive), (READ_WEIGHT, self.read)]
        rules = [(worth, one) for worth, types in counts for one in types.get(name, ())]
        cases = " ".join(f"WHEN {condition} THEN {worth:g}" for worth, condition in rules if condition)
        otherwise = next((worth for worth, condition in rules if not condition), 0.0)
        return f"CASE {cases} ELSE {otherwise:g} END" if cases else None


def _by_type(told: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in told:
        name, sign, bound = _CONDITION.fullmatch(one.strip()).groups()  # type: ignore[union-attr]  # takes any text
        # To Gorse `=` is no condition, and a bound that is left out 0.
        found.setdefault(name, []).append(f"value {sign} {float(bound or 0):g}" if sign not in {None, "="} else "")
    return found


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def mapping_text(found: Imported, types: FeedbackTypes) -> str:
    """A mapping of the tables that were written."""
    parts = [
        "# Gorse's users, items and feedback, as `recs import gorse` wrote them.",
        'ids = "text"',
        "",
        "[users]",
        'query = "SELECT user_id, labels FROM gorse_users"',
        'id = "user_id"',
        "",
        "[items.item]",
        'query = "SELECT item_id, categories, labels, comment, time_stamp FROM gorse_items WHERE NOT is_hidden"',
        'id = "item_id"',
        'time = "time_stamp"',
        'fields = ["comment"]',
    ]
    if found.has_labels:
        parts += ["", "[vocabularies.label]", 'items.item = { column = "labels", form = "json" }']
        if found.has_user_labels:
            parts.append('users = { column = "labels", form = "json" }')
    if found.has_categories:
        parts += ["", "[vocabularies.category]", 'items.item = { column = "categories", form = "json" }']
        parts += ["", "[filters.category]", 'rule = "contained"', 'column = "categories"']
    names: set[str] = set()
    for kind in sorted(found.feedback):
        name = event_name(kind, names)
        names.add(name)
        columns = "user_id, item_id, time_stamp"
        by_value = types.by_value(kind) if found.valued[kind] else None
        if found.valued[kind]:
            columns += f", {by_value or 'COALESCE(NULLIF(value, 0), 1)'} AS value"
        query = f"SELECT {columns} FROM gorse_feedback WHERE feedback_type = {_literal(kind, found.server)}"
        parts += [
            "",
            f"[events.{name}]",
            f"query = {json.dumps(query, ensure_ascii=False)}",
            'time = "time_stamp"',
            "days = 3650",
        ]
        if found.valued[kind]:
            parts.append('value = "value"')
        if by_value is None and types.weight(kind) != 1:
            parts.append(f"weight = {types.weight(kind):g}")
        if types.is_negative(kind):
            parts.append('means = "hide"')
    return "\n".join(parts) + "\n"


def _literal(kind: str, server: str) -> str:
    """A text of SQL, in a mapping. A backslash is MySQL's escape, unless its sql_mode says otherwise."""
    if "\\" in kind and server in {"mysql", "mariadb"}:
        return f"_utf8mb4 x'{kind.encode().hex()}'"
    quoted = kind.replace("'", "''").replace(":", "\\:")
    return f"'{quoted}'"


def event_name(kind: str, taken: set[str]) -> str:
    """As a mapping has names."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", kind)[:60]
    name = name if re.match(r"[A-Za-z]", name) else f"e_{name}"
    while name in taken:
        name += "_"
    return name
