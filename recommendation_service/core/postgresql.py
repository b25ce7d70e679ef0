"""Connections to PostgreSQL, for reading the operator's tables.

A session's settings are few, as a pooler such as PgBouncer hands a server's session to one client after the other: what
a SET changes for long reaches others, but for the time zone, which it keeps by client. The limit of a statement is
therefore set in each transaction, and no statement is prepared: older poolers mix these up, and a read that does not
commit loses them anyway.
"""

from datetime import UTC
from typing import Any

from psycopg import Error
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from recommendation_service.core.config import Settings

# Of a value that cannot be read: the server's words quote it.
_QUOTES_VALUES = {"22P02", "22007", "22008", "22003"}


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


def open_connections(engine: Engine, settings: Settings) -> None:
    """Times that say no zone are in that of the settings; a statement may take MYSQL_READ_TIMEOUT_SECONDS."""
    zone = "UTC" if settings.database_zone is UTC else settings.mysql_time_zone  # a name: see Settings
    milliseconds = settings.mysql_read_timeout_seconds * 1000

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        connection.commit()  # else the pool's first ROLLBACK takes it back

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")


def words_of(error: Error) -> str:
    """What the server said, with its code and without the row's values."""
    if error.sqlstate is None:  # the client's own: no connection, or a value that Python cannot hold
        return str(error).strip().splitlines()[0]
    said = "a value cannot be read" if error.sqlstate in _QUOTES_VALUES else error.diag.message_primary
    return f"{said} ({error.sqlstate})"
