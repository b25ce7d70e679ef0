"""Writing rows into the operator's tables: the part that the two demos share.

Rows go to the driver as tuples (`executemany`, which PyMySQL turns into multi-row INSERTs): at 900,000 rows,
SQLAlchemy's dictionaries and per-value processing would cost more than the database does.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, Table, create_engine, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recommendation_service.demo.ownership import (
    TABLE,
    Existing,
    create_marked,
    drop_own,
    existing_tables,
    foreign_parts,
    note_written,
)
from recommendation_service.demo.schema import MYSQL_FAMILY, metadata

Row = tuple[Any, ...]
Batch = list[Row]
# (table, rows written so far, rows expected)
Progress = Callable[[str, int, int], None]

_UNKNOWN_DATABASE = 1049


class DemoError(Exception):
    """The demo cannot be loaded, in a sentence that says what to do about it."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of one table, made while they are written so that no scale has to fit in memory.

    A row has every column of the table, in the table's order.
    """

    table: Table
    expected: int
    batches: Iterable[Batch]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load wrote. `dirt` says how many rows or values of each kind of dirt are among it."""

    source: str
    counts: dict[str, int]
    seconds: float
    dirt: dict[str, int] = field(default_factory=dict)
    notice: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_tables(
    engine: Engine,
    tables: Iterable[TableRows],
    *,
    source: str,
    replace: bool,
    progress: Progress | None = None,
    dirt: dict[str, int] | None = None,
    notice: str = "",
) -> LoadReport:
    """Create the operator's tables and fill them, each in one transaction.

    Raises `DemoError` where something bears the name of one of these tables and is not the demo's own, where the
    demo's own hold rows and `replace` is false, or others' and it is true, and when the database refuses.
    """
    started = time.perf_counter()
    counts = {table.name: 0 for table in metadata.sorted_tables}
    try:
        with _loading_connection(engine) as connection:
            _prepare_tables(connection, replace=replace)
            for rows in tables:
                counts[rows.table.name] = _write(connection, rows, progress)
            for name, count in counts.items():
                if not count:
                    note_written(connection, metadata.tables[name])
            connection.commit()
    except SQLAlchemyError as error:
        raise DemoError(f"The database {_shown(engine)} refused: {_reason(error)}") from error
    return LoadReport(source, counts, time.perf_counter() - started, dirt or {}, notice)


@contextmanager
def _loading_connection(engine: Engine) -> Iterator[Connection]:
    """A connection that stores zero dates and reads times as UTC, whatever the server's own settings are.

    It leaves the pool on MariaDB and MySQL: these session settings must not reach anyone else.
    """
    with _connect(engine) as connection:
        if engine.dialect.name in MYSQL_FAMILY:
            connection.detach()
            # But for ANSI_QUOTES: SQLAlchemy has seen already whether names are quoted so.
            mode = "IF(FIND_IN_SET('ANSI_QUOTES', @@SESSION.sql_mode), 'ANSI_QUOTES', '')"
            connection.exec_driver_sql(f"SET SESSION sql_mode = {mode}, time_zone = '+00:00'")
            connection.commit()
        yield connection


def _connect(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except DBAPIError as error:
        if engine.dialect.name not in MYSQL_FAMILY or _code(error) != _UNKNOWN_DATABASE:
            raise DemoError(
                f"Cannot reach the database {_shown(engine)}: {_reason(error)}. "
                "Check the address, and that the server runs."
            ) from error
    _create_database(engine)
    return engine.connect()


def _create_database(engine: Engine) -> None:
    server = create_engine(engine.url.set(database=""), poolclass=NullPool)
    name = server.dialect.identifier_preparer.quote_identifier(engine.url.database or "")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        connection.commit()


def _prepare_tables(connection: Connection, *, replace: bool) -> None:
    """Everything is looked at before anything is changed: DDL cannot be taken back on MySQL."""
    existing = existing_tables(connection)
    _refuse_others(connection, [each for each in existing if not each.own])
    if replace:
        if parts := foreign_parts(connection, existing):
            raise DemoError(
                f"The demo's tables in {_shown(connection.engine)} are not replaced, since others use them: "
                f"{'; '.join(parts)}. Name another database, or drop these tables yourself."
            )
        drop_own(connection, existing)
        existing = []
    filled = [each.name for each in existing if _holds_rows(connection, metadata.tables[each.name])]
    if filled:
        raise DemoError(
            f"The database {_shown(connection.engine)} already holds rows in {', '.join(filled)}. "
            "Name another database, or pass --replace (replace=True) to drop the demo's tables first."
        )
    there = {each.name for each in existing}
    create_marked(connection, [table for table in metadata.sorted_tables if table.name not in there])


def _refuse_others(connection: Connection, others: list[Existing]) -> None:
    if not others:
        return
    shown = _shown(connection.engine)
    views = [each for each in others if each.kind != TABLE]
    if views:
        named = ", ".join(f"{each.name} (a {each.kind})" for each in views)
        raise DemoError(
            f"In {shown}, {named} is no table of the demo's: nothing is written there. Name another database."
        )
    if connection.dialect.name in MYSQL_FAMILY:
        by_hand = "make a database of its own for the demo, or drop them yourself"
    else:
        by_hand = "remove the file, or drop them yourself"
    raise DemoError(
        f"The demo leaves {', '.join(each.name for each in others)} in {shown} alone, whatever the options: it did not "
        "make them, or a version before this one did, which left no mark. Name another database; if nobody needs these "
        f"tables, {by_hand}."
    )


def _holds_rows(connection: Connection, table: Table) -> bool:
    return connection.execute(select(table.c.id).limit(1)).first() is not None


def _write(connection: Connection, rows: TableRows, progress: Progress | None) -> int:
    name, written = rows.table.name, 0
    statement = _positional_insert(connection, rows.table)
    for batch in rows.batches:
        if not batch:
            continue
        connection.exec_driver_sql(statement, batch)
        written += len(batch)
        if progress is not None:
            progress(name, written, rows.expected)
    if progress is not None and written != rows.expected:
        progress(name, written, written)  # a bar ends where the table does, whatever was expected
    note_written(connection, rows.table)
    connection.commit()
    return written


def numbered(parts: Iterable[Sequence[Sequence[Any]]]) -> Iterator[Batch]:
    """Rows with ids from 1 on, of columns that come part by part."""
    next_id = 1
    for columns in parts:
        rows = list(zip(range(next_id, next_id + len(columns[0])), *columns, strict=True))
        next_id += len(rows)
        yield rows


def _positional_insert(connection: Connection, table: Table) -> str:
    """An INSERT for tuples: SQLAlchemy's own has named parameters for PyMySQL, and wants mappings."""
    quoted = connection.dialect.identifier_preparer
    columns = ", ".join(quoted.format_column(column) for column in table.c)
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    marks = ", ".join([mark] * len(table.c))
    return f"INSERT INTO {quoted.format_table(table)} ({columns}) VALUES ({marks})"


def _code(error: DBAPIError) -> int | None:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _reason(error: SQLAlchemyError) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters (a page of rows)."""
    original = error.orig if isinstance(error, DBAPIError) else error
    arguments = getattr(original, "args", ())
    return str(arguments[-1] if arguments else original).rstrip(".")


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
