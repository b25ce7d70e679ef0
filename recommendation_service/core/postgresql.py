"""Connections to PostgreSQL: for reading the operator's tables, and for the service's own.

A session's settings are few, as a pooler such as PgBouncer hands a server's session to one client after the other: what
a SET changes for long reaches others, but for the time zone, which it keeps by client. The limit of a statement is
therefore set in each transaction, and no statement is prepared: older poolers mix these up, and a read that does not
commit loses them anyway.

That limit is the server's, and a server that hangs keeps to none. So the client waits a little longer than that, and
takes the connection for lost.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import psycopg
from psycopg import Error, OperationalError, errors
from psycopg.abc import RV, PQGen
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from recommendation_service.core.config import Settings

# Of a value that cannot be read: the server's words quote it.
_QUOTES_VALUES = {"22P02", "22007", "22008", "22003"}
# How much longer than the server a client waits before it holds the server for hung.
HUNG_SECONDS = 5
_LOOK_SECONDS = 0.1  # as psycopg does, so that an interrupt is noticed


class ImpatientConnection(psycopg.Connection[Any]):
    """Psycopg's, which would wait for an answer for ever."""

    most_seconds: float | None = None  # for an answer; None: without a limit

    def wait(self, gen: PQGen[RV], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, timeout or self.most_seconds)
        except errors._WaitTimeout:
            self.pgconn.finish()
            raise OperationalError(f"the server has not answered for {self.most_seconds:g} s") from None


def connect_args(settings: Settings) -> dict[str, Any]:
    return {
        "connect_timeout": max(2, settings.mysql_connect_timeout_seconds),  # of less libpq makes 2 by itself
        "prepare_threshold": None,
        "fallback_application_name": "recs",
        # A server that has gone without a word is noticed.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


def open_connections(engine: Engine, settings: Settings, seconds: int) -> None:
    """Times that say no zone are in that of the settings; a statement may take so many seconds.

    What begins a use of a connection has no more time than connecting has: a server that hangs is noticed then.
    """
    begin_seconds = max(2, settings.mysql_connect_timeout_seconds)
    zone = "UTC" if settings.database_zone is UTC else settings.mysql_time_zone  # a name: see Settings

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        connection = ImpatientConnection.connect(*arguments, **parameters)
        connection.most_seconds = begin_seconds
        return connection

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        connection.commit()  # else the pool's first ROLLBACK takes it back

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, ImpatientConnection)  # noqa: S101
        driver.most_seconds = begin_seconds
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {seconds * 1000}")
        driver.most_seconds = seconds + HUNG_SECONDS

    @event.listens_for(engine, "checkin")
    def given_back(connection: ImpatientConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.most_seconds = begin_seconds


@contextlib.contextmanager
def unlimited(connection: Connection) -> Iterator[None]:
    """Statements of this transaction, which ends with it, may take as long as they like."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, ImpatientConnection)  # noqa: S101
    limit, driver.most_seconds = driver.most_seconds, None
    try:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield
    finally:
        driver.most_seconds = limit


def words_of(error: Error) -> str:
    """What the server said, with its code and without the row's values."""
    if error.sqlstate is None:  # the client's own: no connection, or a value that Python cannot hold
        return str(error).strip().splitlines()[0]
    said = "a value cannot be read" if error.sqlstate in _QUOTES_VALUES else error.diag.message_primary
    return f"{said} ({error.sqlstate})"
