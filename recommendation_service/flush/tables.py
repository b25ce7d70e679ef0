"""The service's own tables beside the operator's, and connections that may write to them.

``recs_events`` holds each event once, by its id; ``recs_schema`` says which migrations were carried out. Both are
made by ``recs migrate``, and by the flusher where it may. docs/events.md describes every column.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from recommendation_service.core.config import Settings
from recommendation_service.core.database import READ_ONLY, PoolShare, make_engine
from recommendation_service.core.database_numbers import Numbers
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import INNODB, SCHEMA_TABLE, make_identity

SQLITE_BUSY_SECONDS = 10.0
# Rows deleted in one transaction, so that nobody waits long for their locks.
DELETE_ROWS = 1_000

# Of a connection's info: the bytes that its server takes as one statement, and where it does not say.
MOST_BYTES = "max_allowed_packet"
DEFAULT_PACKET_BYTES = 1 << 20
# A second process that wants to migrate waits so long, and then says so.
MIGRATION_LOCK = "recs_migrate"
MIGRATION_LOCK_SECONDS = 5

NO_TABLE, NO_COLUMN = 1146, 1054
# Codes of MySQL and MariaDB for what the user may not do.
DENIED = {1044, 1045, 1142, 1143, 1227, 1370}


@dataclass(frozen=True)
class Migration:
    """Statements that can be run again; ``sqlite``: the same for the embedded database."""

    version: int
    what: str
    mysql: tuple[str, ...]
    sqlite: tuple[str, ...]


def _if_indices(index: str, count: str, statement: str) -> tuple[str, ...]:
    """The statement where recs_events has so many columns in that index: MySQL has no IF EXISTS for indices."""
    return (
        "SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.statistics\n"
        f"  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND index_name = '{index}') {count},\n"
        f"  '{statement}', 'DO 0')",
        "PREPARE recs_statement FROM @recs_statement",
        "EXECUTE recs_statement",
    )


_EVENTS_TABLE = """\
CREATE TABLE IF NOT EXISTS recs_events (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(128) NOT NULL,
  event VARCHAR(16) NOT NULL,
  user_id BIGINT UNSIGNED NOT NULL,
  item_type VARCHAR(9) NULL,
  item_id BIGINT UNSIGNED NULL,
  request_id VARCHAR(128) NULL,
  session_id VARCHAR(128) NULL,
  endpoint VARCHAR(8) NULL,
  slot_kind VARCHAR(8) NULL,
  position INT NULL,
  value DOUBLE NULL,
  watch_seconds DOUBLE NULL,
  flags SMALLINT NOT NULL,
  happened_at DATETIME(3) NOT NULL,
  received_at DATETIME(3) NOT NULL,
  properties MEDIUMTEXT NULL,
  slots MEDIUMBLOB NULL,
  flush_id BIGINT NOT NULL,
  UNIQUE KEY recs_events_event_user (event_id, user_id),
  KEY recs_events_user_time (user_id, happened_at),
  KEY recs_events_request (request_id),
  KEY recs_events_time (happened_at)
)"""
_SQLITE_INDICES = {
    name: f"CREATE {kind} IF NOT EXISTS {name} ON recs_events ({columns})"
    for name, kind, columns in (
        ("recs_events_event_user", "UNIQUE INDEX", "event_id, user_id"),
        ("recs_events_user_time", "INDEX", "user_id, happened_at"),
        ("recs_events_request", "INDEX", "request_id"),
        ("recs_events_time", "INDEX", "happened_at"),
    )
}
_SQLITE_EVENTS_TABLE = """\
CREATE TABLE IF NOT EXISTS recs_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL,
  event TEXT NOT NULL,
  user_id INTEGER NOT NULL,
  item_type TEXT NULL,
  item_id INTEGER NULL,
  request_id TEXT NULL,
  session_id TEXT NULL,
  endpoint TEXT NULL,
  slot_kind TEXT NULL,
  position INTEGER NULL,
  value REAL NULL,
  watch_seconds REAL NULL,
  flags INTEGER NOT NULL,
  happened_at TEXT NOT NULL,
  received_at TEXT NOT NULL,
  properties TEXT NULL,
  slots BLOB NULL,
  flush_id INTEGER NOT NULL
)"""

MIGRATIONS = (
    Migration(
        1,
        "recs_events, what feeds showed and what people did",
        (_EVENTS_TABLE + INNODB,),
        (_SQLITE_EVENTS_TABLE, *_SQLITE_INDICES.values()),
    ),
    # A table that migration 1 makes today has this index already: then nothing is left to do, and no right is needed.
    Migration(
        2,
        "an event_id counts within its user",
        (
            *_if_indices(
                "recs_events_event_user",
                "= 0",
                "CREATE UNIQUE INDEX recs_events_event_user ON recs_events (event_id, user_id)",
            ),
            *_if_indices("recs_events_event_id", "> 0", "DROP INDEX recs_events_event_id ON recs_events"),
        ),
        # There the old rule is a part of the table.
        (
            "ALTER TABLE recs_events RENAME TO recs_events_before",
            *(f"DROP INDEX IF EXISTS {name}" for name in _SQLITE_INDICES),
            _SQLITE_EVENTS_TABLE,
            "INSERT INTO recs_events SELECT * FROM recs_events_before",
            "DROP TABLE recs_events_before",
            *_SQLITE_INDICES.values(),
        ),
    ),
)


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


def error_code(error: DBAPIError) -> int | None:
    """The server's number of an error; None: it has none, as where the connection was lost."""
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def describe(error: DBAPIError) -> str:
    """A sentence for logs and people: what the server said, and what to do where that is known. Never a row's data."""
    said = str(error.orig.args[-1] if error.orig and error.orig.args else error.orig)
    code = error_code(error)
    if code in DENIED:
        return f"The database user lacks a privilege ({said}): docs/events.md has the GRANT statements."
    if code == NO_TABLE or (code == NO_COLUMN and "recs_" in said) or "no such table: recs_" in said:
        return f"A table is missing or old ({said}): run `recs migrate`."
    if code in READ_ONLY or "readonly database" in said:
        return f"The database cannot be written to ({said})."
    return f"The database said: {said}"


def pending_migrations(engine: Engine) -> tuple[Migration, ...]:
    """Those that were not carried out. Raises SourceError."""
    with transaction(engine) as connection:
        return _pending(connection)


def _pending(connection: Connection) -> tuple[Migration, ...]:
    try:
        found = connection.execute(text("SELECT version FROM recs_schema"))
    except DBAPIError as error:
        if error_code(error) != NO_TABLE and "no such table" not in str(error.orig):
            raise
        return MIGRATIONS
    done = {int(version) for (version,) in found}
    return tuple(migration for migration in MIGRATIONS if migration.version not in done)


def statements(migrations: tuple[Migration, ...], dialect: str) -> list[str]:
    """What carries them out; may be run by hand, and again."""
    mysql = dialect != "sqlite"
    # Whoever may only change the older tables is not to need the right to make some.
    found = [SCHEMA_TABLE + (INNODB if mysql else "")] if MIGRATIONS[0] in migrations else []
    now = "CAST(UTC_TIMESTAMP() AS CHAR)" if mysql else "datetime('now')"
    insert = "INSERT IGNORE" if mysql else "INSERT OR IGNORE"  # needs no right to update
    for migration in migrations:
        found += migration.mysql if mysql else migration.sqlite
        found.append(
            f"{insert} INTO recs_schema (version, what, applied_at)\n"
            f"  VALUES ({migration.version}, '{migration.what}', {now})"
        )
    return found


def migrate(engine: Engine) -> tuple[Migration, ...]:
    """Carry out what is pending, and say what that was. Raises SourceError with the privilege that is missing.

    One process at a time, and without a limit of time: an index of a large table takes as long as it takes.
    """
    dialect = engine.dialect.name
    with transaction(engine) as connection, _alone(connection):
        pending = _pending(connection)
        for statement in statements(pending, dialect):
            connection.exec_driver_sql(statement)
    make_identity(engine)
    return pending


@contextlib.contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """No other process migrates meanwhile, and statements may take as long as they like. Raises SourceError."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none for statements that make tables
        yield
        return
    taken = connection.exec_driver_sql(f"SELECT GET_LOCK('{MIGRATION_LOCK}', {MIGRATION_LOCK_SECONDS})")
    if taken.scalar() == 0:
        raise SourceError("Another process is bringing the tables up to date.")
    driver: Any = connection.connection.dbapi_connection
    limit, driver._read_timeout = driver._read_timeout, None
    try:
        yield
        connection.exec_driver_sql("COMMIT")  # for the one that waits to see
        connection.exec_driver_sql(f"DO RELEASE_LOCK('{MIGRATION_LOCK}')")
    except DBAPIError:
        connection.invalidate()  # and the lock ends with it
        raise
    finally:
        driver._read_timeout = limit


def has_events(engine: Engine) -> bool:
    """Whether the table is there. Raises SourceError."""
    try:
        return inspect(engine).has_table("recs_events")
    except DBAPIError as error:
        raise SourceError(describe(error)) from error


def has_activity_log(engine: Engine) -> bool:
    """An embedded database may have none; on a server the table has to be there."""
    if engine.dialect.name != "sqlite":
        return True
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT COUNT(*) FROM sqlite_master WHERE name = 'activity_log'"))
        return bool(found.scalar_one())


def untransactional_tables(engine: Engine) -> list[str]:
    """Of the tables that events go to, those where a failed flush leaves rows behind: then not each is there once."""
    if engine.dialect.name == "sqlite":
        return []
    with transaction(engine) as connection:
        found = connection.execute(
            text(
                "SELECT table_name, engine FROM information_schema.tables "
                "WHERE table_schema = DATABASE() AND table_name IN ('activity_log', 'recs_events')"
            )
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
