"""Connections that may write to the service's own tables beside the operator's, what they say, and deleting there."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from recommendation_service.core.config import Settings
from recommendation_service.core.database import PoolShare, make_engine, time_as_text, words_of
from recommendation_service.core.database_errors import (
    DENIED,
    READ_ONLY,
    error_code,
    has_no_column,
    has_no_table,
)
from recommendation_service.core.database_numbers import Numbers
from recommendation_service.core.errors import SourceError
from recommendation_service.core.postgresql_address import POSTGRESQL, is_postgresql
from recommendation_service.mappings.log_rows import LOG_TABLE

SQLITE_BUSY_SECONDS = 10.0
# Rows deleted in one transaction, so that nobody waits long for their locks.
DELETE_ROWS = 1_000

# Of a connection's info: the bytes that its server takes as one statement, and where it does not say.
MOST_BYTES = "max_allowed_packet"
DEFAULT_PACKET_BYTES = 1 << 20


def make_writing_engine(
    settings: Settings, share: PoolShare | None = None, *, numbers: Numbers | None = None
) -> Engine:
    """An engine for the primary whose sessions refuse data that does not fit instead of cutting it short.

    They read what is committed and lock nothing by reading, so that two writers do not wait for each other.
    """
    url = settings.source_url
    if url.get_backend_name() == "sqlite":
        return create_engine(url, poolclass=NullPool, creator=lambda: _open_sqlite(str(url.database)))
    engine = make_engine(settings, share, numbers=numbers)
    if is_postgresql(url):  # where data that does not fit is always refused
        return engine.execution_options(isolation_level="READ COMMITTED")
    event.listen(engine, "connect", _begin_session)
    return engine


def _begin_session(connection: Any, record: Any) -> None:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
        cursor.execute("SHOW VARIABLES WHERE Variable_name IN ('binlog_format', 'max_allowed_packet')")
        variables = dict(cursor.fetchall())
        # A log of statements can be written at the server's own level only.
        if variables.get("binlog_format") != "STATEMENT":
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    record.info[MOST_BYTES] = int(variables.get("max_allowed_packet", DEFAULT_PACKET_BYTES))


def _open_sqlite(path: str) -> sqlite3.Connection:
    if not Path(path).exists():
        raise sqlite3.OperationalError(f"there is no database {path}")
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=SQLITE_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error:  # who may not write meets it here
        connection.close()
        raise
    connection.create_function("CONCAT", -1, _concat, deterministic=True)
    return connection


def _concat(*parts: object) -> str | None:
    """MySQL's function, which this SQLite may lack."""
    return None if None in parts else "".join(str(part) for part in parts)


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction whose errors are SourceError, of one sentence and without data."""
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise SourceError(describe(error)) from error


def selected(engine: Engine, columns: Iterable[str]) -> str:
    """Columns of recs_events for a SELECT, times as text."""
    dialect = engine.dialect.name
    return ", ".join(f"{time_as_text(dialect, name)} AS {name}" if name.endswith("_at") else name for name in columns)


def describe(error: DBAPIError) -> str:
    """A sentence for logs and people: what the server said, and what to do where that is known. Never a row's data."""
    code = error_code(error)
    said = words_of(error) if isinstance(code, str) else str((getattr(error.orig, "args", ()) or (error.orig,))[-1])
    if code in DENIED:
        return f"The database user lacks a privilege ({said}): docs/events.md has the GRANT statements."
    if "recs_" in said and (has_no_table(error) or has_no_column(error)):
        return f"A table is missing or old ({said}): run `recs migrate`."
    if code in READ_ONLY or "readonly database" in said:
        return f"The database cannot be written to ({said})."
    return f"The database said: {said}"


def has_events(engine: Engine) -> bool:
    """Whether the table is there. Raises SourceError."""
    try:
        return inspect(engine).has_table("recs_events")
    except DBAPIError as error:
        raise SourceError(describe(error)) from error


def has_log(engine: Engine) -> bool:
    """An embedded database may have none; on a server of MySQL or MariaDB the table has to be there. To PostgreSQL
    came nobody whose application reads one."""
    if engine.dialect.name != "sqlite":
        return engine.dialect.name != POSTGRESQL
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT COUNT(*) FROM sqlite_master WHERE name = :name"), {"name": LOG_TABLE})
        return bool(found.scalar_one())


def untransactional_tables(engine: Engine, beside: str | None = None) -> list[str]:
    """Of the tables that events go to, those where a failed flush leaves rows behind: then not each is there once.
    ``beside``: the table beside recs_events; None: the first operator's log."""
    if engine.dialect.name in {"sqlite", POSTGRESQL}:
        return []
    with transaction(engine) as connection:
        found = connection.execute(
            text(
                "SELECT table_name, engine FROM information_schema.tables "
                "WHERE table_schema = DATABASE() AND table_name IN (:beside, 'recs_events')"
            ),
            {"beside": LOG_TABLE if beside is None else beside},
        )
        return [f"{name} ({engine_name})" for name, engine_name in found if engine_name not in {"InnoDB", "XTRADB"}]


def delete_rows(engine: Engine, events: Sequence[tuple[int, str]]) -> None:
    """Delete events by (user, event_id). Raises SourceError."""
    with transaction(engine) as connection:
        for user_id, event_id in events:
            connection.execute(
                text("DELETE FROM recs_events WHERE user_id = :user AND event_id = :event"),
                {"user": user_id, "event": event_id},
            )


def delete_events(engine: Engine, condition: str, most: int | None = None, **parameters: Any) -> int:
    """Delete the rows of recs_events that meet a condition, a few at a time, at most ``most``. Raises SourceError."""
    deleted = 0
    while most is None or deleted < most:
        with transaction(engine) as connection:
            select = text(f"SELECT id FROM recs_events WHERE {condition} LIMIT {DELETE_ROWS}")
            ids = [int(row_id) for (row_id,) in connection.execute(select, parameters)]
            if not ids:
                break
            found = connection.exec_driver_sql(f"DELETE FROM recs_events WHERE id IN ({','.join(map(str, ids))})")
            deleted += found.rowcount
    return deleted
