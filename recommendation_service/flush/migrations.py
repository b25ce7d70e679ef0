"""The service's own tables, as they were made and are brought up to date.

``recs_events`` holds each event once, by its user and id; ``recs_schema`` says which migrations were carried out. Both
are made by ``recs migrate``, and by the flusher where it may. docs/events.md describes every column.
"""

import contextlib
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.database import attempt
from recommendation_service.core.database_errors import has_no_table
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import INNODB, make_identity, schema_row, schema_table
from recommendation_service.core.postgresql_address import POSTGRESQL
from recommendation_service.flush.tables import transaction
from recommendation_service.model.text_ids import LONGEST_TEXT_ID

# A second process that wants to migrate waits so long, and then says so.
MIGRATION_LOCK = "recs_migrate"
MIGRATION_LOCK_SECONDS = 5
MIGRATION_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Migration:
    """Statements that can be run again, whatever of them was carried out; ``sqlite``: the same for the embedded
    database, in one transaction, and where ``sqlite_if`` gives a row: it has no conditions in statements;
    ``postgresql``: in one transaction, too. That came after migration 3, whose table it makes at once."""

    version: int
    what: str
    mysql: tuple[str, ...]
    sqlite: tuple[str, ...]
    postgresql: tuple[str, ...]
    sqlite_if: str = "SELECT 1"

    def of(self, dialect: str) -> tuple[str, ...]:
        return {"sqlite": self.sqlite, POSTGRESQL: self.postgresql}.get(dialect, self.mysql)


def _if_indices(index: str, count: str, statement: str) -> tuple[str, ...]:
    """The statement where recs_events has so many columns in that index: MySQL has no IF EXISTS for indices."""
    return _if_counted("statistics", f"index_name = '{index}'", count, statement)


def _if_columns(columns: str, count: str, statement: str) -> tuple[str, ...]:
    """The statement where recs_events has so many such columns: MySQL has no IF NOT EXISTS for columns."""
    return _if_counted("columns", columns, count, statement)


def _if_counted(what: str, which: str, count: str, statement: str) -> tuple[str, ...]:
    return (
        f"SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.{what}\n"
        f"  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND {which}) {count},\n"
        f"  '{statement}', 'DO 0')",
        "PREPARE recs_statement FROM @recs_statement",
        "EXECUTE recs_statement",
    )


# Characters of names (events, types, kinds, endpoints), and of ids that are text. A server makes a column longer in
# place only while its bytes stay below 256, and a character takes up to four.
NAME_CHARACTERS = 63
TEXT_ID_CHARACTERS = LONGEST_TEXT_ID
_NAME = f"VARCHAR({NAME_CHARACTERS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_TEXT_ID = f"VARCHAR({TEXT_ID_CHARACTERS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

_EVENTS_TABLE = f"""\
CREATE TABLE IF NOT EXISTS recs_events (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(128) NOT NULL,
  event VARCHAR({NAME_CHARACTERS}) NOT NULL,
  user_id BIGINT UNSIGNED NOT NULL,
  item_type VARCHAR({NAME_CHARACTERS}) NULL,
  item_id BIGINT UNSIGNED NULL,
  request_id VARCHAR(128) NULL,
  session_id VARCHAR(128) NULL,
  endpoint VARCHAR({NAME_CHARACTERS}) NULL,
  slot_kind VARCHAR({NAME_CHARACTERS}) NULL,
  position INT NULL,
  value DOUBLE NULL,
  watch_seconds DOUBLE NULL,
  flags SMALLINT NOT NULL,
  happened_at DATETIME(3) NOT NULL,
  received_at DATETIME(3) NOT NULL,
  properties MEDIUMTEXT NULL,
  slots MEDIUMBLOB NULL,
  flush_id BIGINT NOT NULL,
  user_text VARCHAR({TEXT_ID_CHARACTERS}) NULL,
  item_text VARCHAR({TEXT_ID_CHARACTERS}) NULL,
  UNIQUE KEY recs_events_event_user (event_id, user_id),
  KEY recs_events_user_time (user_id, happened_at),
  KEY recs_events_request (request_id),
  KEY recs_events_time (happened_at)
)"""
_INDICES = {
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
  flush_id INTEGER NOT NULL,
  user_text TEXT NULL,
  item_text TEXT NULL
)"""
# By identity, and so that a row that is not new takes a number, too: 63 bits of them.
_POSTGRESQL_EVENTS_TABLE = f"""\
CREATE TABLE IF NOT EXISTS recs_events (
  id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  event_id VARCHAR(128) COLLATE "C" NOT NULL,
  event VARCHAR({NAME_CHARACTERS}) COLLATE "C" NOT NULL,
  user_id BIGINT NOT NULL,
  item_type VARCHAR({NAME_CHARACTERS}) COLLATE "C" NULL,
  item_id BIGINT NULL,
  request_id VARCHAR(128) COLLATE "C" NULL,
  session_id VARCHAR(128) COLLATE "C" NULL,
  endpoint VARCHAR({NAME_CHARACTERS}) COLLATE "C" NULL,
  slot_kind VARCHAR({NAME_CHARACTERS}) COLLATE "C" NULL,
  position INTEGER NULL,
  value DOUBLE PRECISION NULL,
  watch_seconds DOUBLE PRECISION NULL,
  flags SMALLINT NOT NULL,
  happened_at TIMESTAMP(3) NOT NULL,
  received_at TIMESTAMP(3) NOT NULL,
  properties TEXT NULL,
  slots BYTEA NULL,
  flush_id BIGINT NOT NULL,
  user_text VARCHAR({TEXT_ID_CHARACTERS}) COLLATE "C" NULL,
  item_text VARCHAR({TEXT_ID_CHARACTERS}) COLLATE "C" NULL
)"""
_FIRST_COLUMNS = (
    "id, event_id, event, user_id, item_type, item_id, request_id, session_id, endpoint, slot_kind, position, value, "
    "watch_seconds, flags, happened_at, received_at, properties, slots, flush_id"
)

MIGRATIONS = (
    Migration(
        1,
        "recs_events, what feeds showed and what people did",
        (_EVENTS_TABLE + INNODB,),
        (_SQLITE_EVENTS_TABLE, *_INDICES.values()),
        (_POSTGRESQL_EVENTS_TABLE, *_INDICES.values()),
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
            *(f"DROP INDEX IF EXISTS {name}" for name in _INDICES),
            _SQLITE_EVENTS_TABLE,
            f"INSERT INTO recs_events ({_FIRST_COLUMNS}) SELECT {_FIRST_COLUMNS} FROM recs_events_before",
            "DROP TABLE recs_events_before",
            *_INDICES.values(),
        ),
        (),
        "SELECT 1 FROM sqlite_master WHERE name = 'recs_events' AND sql LIKE '%UNIQUE%'",
    ),
    Migration(
        3,
        "ids that are text, and longer names",
        (
            *_if_columns(
                "column_name IN ('event', 'item_type', 'endpoint', 'slot_kind')\n"
                f"  AND character_maximum_length >= {NAME_CHARACTERS}",
                "< 4",
                "ALTER TABLE recs_events "
                f"MODIFY event {_NAME} NOT NULL, MODIFY item_type {_NAME} NULL, MODIFY endpoint {_NAME} NULL, "
                f"MODIFY slot_kind {_NAME} NULL",
            ),
            *_if_columns(
                "column_name = 'item_text'",
                "= 0",
                f"ALTER TABLE recs_events ADD COLUMN user_text {_TEXT_ID} NULL, ADD COLUMN item_text {_TEXT_ID} NULL",
            ),
        ),
        (
            "ALTER TABLE recs_events ADD COLUMN user_text TEXT NULL",
            "ALTER TABLE recs_events ADD COLUMN item_text TEXT NULL",
        ),
        (),
        "SELECT 1 FROM sqlite_master WHERE name = 'recs_events' AND sql NOT LIKE '%item_text%'",
    ),
)


def pending_migrations(engine: Engine) -> tuple[Migration, ...]:
    """Those that were not carried out. Raises SourceError."""
    with transaction(engine) as connection:
        return _pending(connection)


def _pending(connection: Connection) -> tuple[Migration, ...]:
    try:
        with attempt(connection):
            found = connection.execute(text("SELECT version FROM recs_schema")).fetchall()
    except DBAPIError as error:
        if not has_no_table(error):
            raise
        return MIGRATIONS
    done = {int(version) for (version,) in found}
    return tuple(migration for migration in MIGRATIONS if migration.version not in done)


def statements(migrations: Sequence[Migration], dialect: str) -> list[str]:
    """What carries them out; may be run by hand, and on a server again."""
    # Whoever may only change the older tables is not to need the right to make some.
    found = [schema_table(dialect)] if MIGRATIONS[0] in migrations else []
    for migration in migrations:
        found += (*migration.of(dialect), schema_row(dialect, migration.version, migration.what))
    return found


def migrate(engine: Engine) -> tuple[Migration, ...]:
    """Carry out what is pending, and say what that was. Raises SourceError with the privilege that is missing.

    One process at a time, and without a limit of time: an index of a large table takes as long as it takes.
    """
    dialect = engine.dialect.name
    with transaction(engine) as connection, _alone(connection):
        pending = _pending(connection)
        for migration in pending:
            if dialect == "sqlite" and connection.exec_driver_sql(migration.sqlite_if).first() is None:
                connection.exec_driver_sql(schema_row(dialect, migration.version, migration.what))
                continue
            for statement in statements([migration], dialect):
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
    if connection.dialect.name == POSTGRESQL:
        with _alone_on_postgresql(connection):
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


@contextlib.contextmanager
def _alone_on_postgresql(connection: Connection) -> Iterator[None]:
    """By a lock of the transaction, which a pooler keeps on one session, and which ends with it whatever happens."""
    number = zlib.crc32(MIGRATION_LOCK.encode())
    until = time.monotonic() + MIGRATION_LOCK_SECONDS
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({number})").scalar():
        if time.monotonic() > until:
            raise SourceError("Another process is bringing the tables up to date.")
        time.sleep(MIGRATION_LOOK_SECONDS)
    from recommendation_service.core.postgresql import unlimited  # which loads libpq

    with unlimited(connection):
        yield
