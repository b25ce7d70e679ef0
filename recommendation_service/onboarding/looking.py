"""What a database has, found out by looking: tables, columns, keys, how many rows, and a sample of each."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import inspect, text
from sqlalchemy import types as sql
from sqlalchemy.engine import Connection, Inspector
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.database import attempt
from recommendation_service.sources.json_lists import read_list

SAMPLE_ROWS = 300
MOST_COUNTED = 1_000_000  # rows; beyond, it is enough to know that there are so many
MOST_TABLES = 300
OWN = "recs_"  # the service's own tables

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?")
_WHEN = re.compile(r"(_at|time|date|_on|stamp|(^|_)(ts|when))$")
_EPOCH = (10**9, 5 * 10**9)  # seconds, from 2001 on; or a thousand times as much
_KINDS: tuple[tuple[type, str], ...] = (
    (sql.Boolean, "integer"),
    (sql.Integer, "integer"),
    (sql.Numeric, "number"),
    (sql.Float, "number"),
    (sql.DateTime, "time"),
    (sql.Date, "time"),
    (sql.JSON, "json"),
    (sql.LargeBinary, "bytes"),
    (sql.String, "text"),
    (sql.Uuid, "text"),
)


@dataclass
class Column:
    """``kind``: integer, number, text, json (a list), time, bytes or other; by type and sample."""

    name: str
    kind: str
    sample: list[Any] = field(repr=False)  # those that are not null

    @property
    def different(self) -> set[str]:
        return {str(value) for value in self.sample}

    @property
    def length(self) -> float:
        """In the middle, of texts."""
        return sum(len(str(value)) for value in self.sample) / len(self.sample) if self.sample else 0.0


@dataclass
class Table:
    """``key``: its primary key where that is one column. ``refers``: declared foreign keys, table by column."""

    name: str
    columns: dict[str, Column]
    key: str | None
    refers: dict[str, str]
    rows: int
    sampled: int

    def nulls(self, column: str) -> int:
        """In the sample."""
        return self.sampled - len(self.columns[column].sample)


def snake(name: str) -> str:
    """A name in small letters, its words with underscores between: created_at of createdAt."""
    return _CAMEL.sub("_", name).replace(" ", "_").lower()


def look(
    connection: Connection, progress: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Table], list[str]]:
    """Tables by name, and the names of those that may not be read. Raises SQLAlchemyError."""
    inspector = inspect(connection)
    names = [name for name in inspector.get_table_names() if not name.startswith(OWN)][:MOST_TABLES]
    found, unreadable = {}, []
    for name in names:
        progress(f"Looking at {name}")
        try:
            with attempt(connection):
                found[name] = _table(name, inspector, connection)
        except SQLAlchemyError as error:
            if getattr(error, "connection_invalidated", False):
                raise
            unreadable.append(name)
    return found, unreadable


def _table(name: str, inspector: Inspector, connection: Connection) -> Table:
    quoted = connection.dialect.identifier_preparer.quote(name)
    counted = text(f"SELECT COUNT(*) FROM (SELECT 1 FROM {quoted} LIMIT {MOST_COUNTED}) q")
    rows = int(connection.execute(counted).scalar_one())
    sample = connection.execute(text(f"SELECT * FROM {quoted} LIMIT {SAMPLE_ROWS}")).mappings().all()
    columns = {}
    for column in inspector.get_columns(name):
        values = [row[column["name"]] for row in sample if row.get(column["name"]) is not None]
        columns[column["name"]] = Column(column["name"], _kind(column["type"], column["name"], values), values)
    key = inspector.get_pk_constraint(name)["constrained_columns"]
    refers = {
        foreign["constrained_columns"][0]: str(foreign["referred_table"])
        for foreign in inspector.get_foreign_keys(name)
        if len(foreign["constrained_columns"]) == 1
    }
    return Table(name, columns, key[0] if len(key) == 1 else None, refers, rows, len(sample))


def _kind(declared: Any, name: str, values: list[Any]) -> str:
    kind = next((word for known, word in _KINDS if isinstance(declared, known)), "other")
    if kind in {"text", "json"} and values:
        if all(isinstance(value, str) and _ISO.fullmatch(value) for value in values):
            return "time"
        lists = [read_list(value) if isinstance(value, str) else (value, None) for value in values]
        if all(isinstance(content, list) and reason is None for content, reason in lists):
            return "json"
        return "text" if kind == "text" else "other"
    if kind == "integer" and values and _WHEN.search(snake(name)):
        low, high = _EPOCH
        if all(low < abs(value) < high or 1000 * low < abs(value) < 1000 * high for value in values):
            return "time"
    if values and all(isinstance(value, datetime | date) for value in values):
        return "time"
    return kind
