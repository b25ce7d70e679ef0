"""Connections to the operator's database: one place that sets pool, time limits and session.

MYSQL_POOL_SIZE is the service's budget, not a process's: of that each process has a share (processes/registry.py).
Reads that may be a little old go through replicas (replicas.py); everything else goes to the primary.
"""

import contextlib
import sqlite3
import time
import zlib
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import structlog
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeout
from sqlalchemy.pool import NullPool, PoolProxiedConnection, QueuePool

from recommendation_service.core.config import Settings
from recommendation_service.core.database_errors import LEAVING, code_of
from recommendation_service.core.database_numbers import (
    POOL_IN_USE,
    POOL_SIZE,
    POOL_TIMEOUTS,
    POOL_WAIT_SECONDS,
    POOL_WAITS,
    NoNumbers,
    Numbers,
)
from recommendation_service.core.mysql_connections import open_connections
from recommendation_service.core.postgresql_address import POSTGRESQL, is_postgresql, postgresql_address

log = structlog.get_logger(__name__)

# Recycled below the deployment guide's wait_timeout of 600 s, so that the server never closes first.
POOL_RECYCLE_SECONDS = 540
CHECKOUT_TIMEOUT_SECONDS = 5


class PoolShare(NamedTuple):
    """Of one process: its name, for the log, and most connections to one server."""

    process: str
    connections: int


class MeasuredPool(QueuePool):
    """A pool that counts who had to wait for a connection, for how long, and in vain."""

    numbers: Numbers = NoNumbers()

    def connect(self) -> PoolProxiedConnection:
        if self.checkedout() < self.size():
            return super().connect()
        started = time.perf_counter()
        try:
            return super().connect()
        except CheckoutTimeout:
            self.numbers.add(POOL_TIMEOUTS, 1)
            raise
        finally:
            self.numbers.add(POOL_WAITS, 1)
            self.numbers.add(POOL_WAIT_SECONDS, time.perf_counter() - started)

    def recreate(self) -> "MeasuredPool":
        pool = super().recreate()
        assert isinstance(pool, MeasuredPool)  # noqa: S101
        pool.numbers = self.numbers
        return pool


class NoDatabaseNamed(sqlite3.OperationalError):
    """A mapping's tables are looked for, and the settings do not say where."""


def make_engine(
    settings: Settings,
    share: PoolShare | None = None,
    *,
    url: URL | None = None,
    numbers: Numbers | None = None,
    trusted_seconds: float = 0,
    alone: bool = False,
) -> Engine:
    """An engine for ``url``, or else for ``settings.source_url``. Nothing is connected until it is used.

    A MySQL session speaks UTC, so that TIMESTAMP columns read as UTC whatever the server's zone. With MYSQL_TIME_ZONE
    it speaks the server's own, as the application's does: then both read and write the same, whatever that is. It has
    a `sql_mode` and a character set of its own. Without pooling a connection is closed when it is given back; how many
    may be open at once is the same.
    SQLite is opened so that nothing can be written; of PostgreSQL postgresql.py says more. ``share``: None for a
    command, which a person runs and which is no part of the running service. ``numbers``: where the pool counts.
    ``trusted_seconds``: a connection is asked whether it lives only where it was not used for so long. ``alone``: each
    statement is a transaction of its own, which nothing has to end.
    """
    url = url or settings.source_url
    if url.get_backend_name() == "sqlite":
        return create_engine(url, poolclass=NullPool, creator=lambda: _open_sqlite(str(url.database), settings))
    share = share or PoolShare("command", settings.mysql_pool_size)
    engine = create_engine(
        _by_its_driver(url),
        poolclass=MeasuredPool,
        pool_size=share.connections,
        max_overflow=0,
        pool_pre_ping=settings.mysql_use_pooling and not trusted_seconds,
        pool_recycle=POOL_RECYCLE_SECONDS,
        pool_timeout=CHECKOUT_TIMEOUT_SECONDS,
        connect_args=_connect_args(settings, url, settings.mysql_read_timeout_seconds),
        **({"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True} if alone else {}),
    )
    _open_connections(engine, settings, url, settings.mysql_read_timeout_seconds)
    if not settings.mysql_use_pooling:
        event.listen(engine, "checkin", _close)
    else:
        event.listen(engine, "checkin", _log_checkin)
        log.info(
            f"Connection pool inicializado: {settings.mysql_pool_size} conexiones a {address(url)}",
            process=share.process,
            most_of_this_process=share.connections,
        )
    event.listen(engine, "handle_error", _leave_server)
    if trusted_seconds:
        _ask_after_a_rest(engine, trusted_seconds)
    if numbers is not None:
        _count(engine, numbers)
    return engine


def make_unpooled_engine(settings: Settings, url: URL, *, read_timeout_seconds: int | None = None) -> Engine:
    """An engine of a server that opens a connection for each use."""
    seconds = read_timeout_seconds or settings.mysql_read_timeout_seconds
    engine = create_engine(_by_its_driver(url), poolclass=NullPool, connect_args=_connect_args(settings, url, seconds))
    _open_connections(engine, settings, url, seconds)
    return engine


def address(url: URL) -> str:
    """host:port/database, without user and password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    if is_postgresql(url):
        hosts = url.query.get("host") or f"{url.host}:{url.port or 5432}"  # several, for one that is up
        return f"{hosts if isinstance(hosts, str) else ','.join(hosts)}/{url.database}"
    return f"{url.host}:{url.port or 3306}/{url.database}"


def begin_reading(connection: Connection) -> None:
    """What is read from now on is of one moment, whatever the server's default isolation is, and nothing is written.

    On PostgreSQL that moment is the first query's.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")  # the driver begins a transaction only for writes
    elif connection.dialect.name == POSTGRESQL:
        connection.execution_options(isolation_level="REPEATABLE READ")
        # Not SQLAlchemy's postgresql_readonly: afterwards a connection begins READ WRITE, which a standby refuses.
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    else:
        connection.execution_options(isolation_level="REPEATABLE READ")


@contextlib.contextmanager
def attempt(connection: Connection) -> Iterator[None]:
    """For what may fail while its transaction goes on: on PostgreSQL an error is the end of it otherwise."""
    if connection.dialect.name != POSTGRESQL:
        yield
        return
    with connection.begin_nested():
        yield


def time_as_text(dialect: str, column: str) -> str:
    """SQL that gives a time of the service's own tables as they write it: 2026-11-24 06:45:01.250."""
    if dialect == "sqlite":
        return column
    if dialect == POSTGRESQL:
        return f"to_char({column}, 'YYYY-MM-DD HH24:MI:SS.MS')"
    return f"CAST({column} AS CHAR)"


def words_of(error: SQLAlchemyError) -> str:
    """The server's, without the statement, its parameters and the values of rows."""
    original = getattr(error, "orig", None)
    if original is None:
        return str(error).splitlines()[0]
    if type(original).__module__.startswith("psycopg"):
        from recommendation_service.core import postgresql

        return postgresql.words_of(original)
    return " ".join(str(part) for part in getattr(original, "args", ())) or type(original).__name__


def _by_its_driver(url: URL) -> URL:
    return postgresql_address(url) if is_postgresql(url) else url


def _connect_args(settings: Settings, url: URL, read_timeout_seconds: int) -> dict[str, Any]:
    if is_postgresql(url):
        from recommendation_service.core import postgresql  # which loads libpq

        return postgresql.connect_args(settings)
    return _session(settings, read_timeout_seconds)


def _open_connections(engine: Engine, settings: Settings, url: URL, read_timeout_seconds: int) -> None:
    if is_postgresql(url):
        from recommendation_service.core import postgresql

        postgresql.open_connections(engine, settings, read_timeout_seconds)
    else:
        open_connections(engine, settings, url)


def _session(settings: Settings, read_timeout_seconds: int) -> dict[str, Any]:
    zone = "SESSION time_zone = '+00:00', " if settings.database_zone is UTC else ""
    return {
        "read_timeout": read_timeout_seconds,
        "write_timeout": read_timeout_seconds,
        "charset": "utf8mb4",  # also where an address says another one
        # The mode before anything else is said: SQLAlchemy quotes names by it. What else would be said after it, too.
        "init_command": f"SET NAMES utf8mb4, {zone}SESSION sql_mode = '', SESSION autocommit = 0",
    }


def _leave_server(context: ExceptionContext) -> None:
    """A server that says so is not to be asked again over the connections that the pool has to it."""
    if code_of(context.original_exception) in LEAVING:
        context.is_disconnect = True


def _ask_after_a_rest(engine: Engine, seconds: float) -> None:
    """As the pool's own question, which is a round trip of each use. A new connection is not asked."""

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, _proxy: Any) -> None:
        used = record.info.get("used")
        if used is None or time.monotonic() - used < seconds:
            return
        if not engine.dialect._do_ping_w_event(connection):
            raise InvalidatePoolError

    @event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()


def _count(engine: Engine, numbers: Numbers) -> None:
    if isinstance(engine.pool, MeasuredPool):
        engine.pool.numbers = numbers
        numbers.add(POOL_SIZE, engine.pool.size())
    numbers.add(POOL_IN_USE, 0)
    in_use: set[int] = set()

    @event.listens_for(engine, "checkout")
    def checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        in_use.add(id(record))
        numbers.add(POOL_IN_USE, 1)

    @event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        if id(record) in in_use:  # else it could not be opened, and was never given out
            in_use.remove(id(record))
            numbers.add(POOL_IN_USE, -1)


def _open_sqlite(path: str, settings: Settings) -> sqlite3.Connection:
    """Read-only; a missing file is an error, not a new database, and bytes that are no text stop no query."""
    if not Path(path).exists():
        if settings.database_url is not None:
            raise sqlite3.OperationalError(f"there is no database {path}")
        if settings.mapping_file is not None:
            raise NoDatabaseNamed("no database is named: set DATABASE_URL (or MYSQL_HOST)")
        raise sqlite3.OperationalError(
            f"there is no database {path}: set MYSQL_HOST (or DATABASE_URL), or run `recs demo load`"
        )
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    connection.create_function("CRC32", 1, _crc32, deterministic=True)
    return connection


def _crc32(value: object) -> int | None:
    """MySQL's function, which SQLite lacks."""
    return None if value is None else zlib.crc32(str(value).encode())


def _close(_connection: Any, record: Any) -> None:
    """Before the pool takes it back, which then opens another at the next use."""
    record.invalidate()


def _log_checkin(_connection: Any, _record: Any) -> None:
    log.debug("Conexion devuelta al pool")
