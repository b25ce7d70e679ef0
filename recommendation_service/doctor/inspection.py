"""What the database says of itself: a few statements that every user may run, none of which waits for a lock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.doctor.indices import FoundIndex, read_indices
from recommendation_service.doctor.privileges import Grants
from recommendation_service.doctor.server import is_mariadb, version_number

_NO_TABLE, _NO_COLUMN = 1146, 1054
NEWEST_ROWS = 100
_DENIED = {1142, 1143}  # of a table, of a column


@dataclass(slots=True)
class Tables:
    """What is there of the columns asked for, and what the user may not read."""

    missing_tables: list[str] = field(default_factory=list)
    missing_columns: dict[str, list[str]] = field(default_factory=dict)
    denied: list[str] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    other_character_sets: dict[str, str] = field(default_factory=dict)  # of `table.column`


class Inspection:
    """Questions to one connection. Column names are in small letters, whatever the server answers with."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        row = self.rows(
            "SELECT VERSION() AS version, CURRENT_USER() AS user, DATABASE() AS name, "
            "@@character_set_connection AS connection, @@character_set_database AS charset, @@global.sql_mode AS mode, "
            "@@global.max_connections AS max_connections, @@global.wait_timeout AS wait_timeout"
        )[0]
        self.version = str(row["version"])
        self.user = str(row["user"])
        self.database = str(row["name"])
        self.connection_charset = str(row["connection"])
        self.database_charset = str(row["charset"])
        self.sql_mode = str(row["mode"])
        self.max_connections = int(row["max_connections"])
        self.wait_timeout = int(row["wait_timeout"])

    def rows(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        prepared = text(statement)
        for name, value in parameters.items():
            if isinstance(value, list):
                prepared = prepared.bindparams(bindparam(name, expanding=True))
        result = self._connection.execute(prepared, parameters)
        return [{str(name).lower(): value for name, value in row.items()} for row in result.mappings()]

    def clock(self) -> tuple[float, float, float]:
        """Seconds since the epoch: the server's, and this machine's before and after."""
        before = time.time()
        server = self.rows("SELECT UNIX_TIMESTAMP(SYSDATE(6)) AS clock")[0]["clock"]
        return float(server), before, time.time()

    def tls_version(self) -> str:
        """Empty where the connection is not encrypted."""
        return str(self.rows("SHOW SESSION STATUS LIKE 'Ssl_version'")[0]["value"])

    def server_zone(self) -> str:
        """That of who says nothing, as of the application; SYSTEM with the machine's name for it."""
        row = self.rows("SELECT @@global.time_zone AS zone, @@system_time_zone AS machine")[0]
        return f"{row['zone']} ({row['machine']})" if str(row["zone"]) == "SYSTEM" else str(row["zone"])

    def newest(self, table: str) -> list[str]:
        """When the rows that came last were created, as the table has it."""
        rows = self.rows(
            f"SELECT CAST(created_at AS CHAR) AS created FROM {table} ORDER BY id DESC LIMIT {NEWEST_ROWS}"
        )
        return [str(row["created"]) for row in rows if row["created"] is not None]

    def grants(self) -> Grants:
        return Grants(tuple(str(next(iter(row.values()))) for row in self.rows("SHOW GRANTS")))

    def replica_status(self) -> dict[str, Any] | None:
        """The first channel's; None where there is none. Raises SQLAlchemyError where the user may not ask."""
        is_newer = not is_mariadb(self.version) and version_number(self.version) >= (8, 4)
        rows = self.rows("SHOW REPLICA STATUS" if is_newer else "SHOW SLAVE STATUS")
        return rows[0] if rows else None

    def indices(self, tables: Sequence[str]) -> list[FoundIndex]:
        return read_indices(
            self.rows(
                "SELECT * FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name IN :tables "
                "ORDER BY table_name, index_name, seq_in_index",
                tables=list(tables),
            )
        )

    def tables(self, required: dict[str, tuple[str, ...]]) -> Tables:
        found = Tables()
        for row in self.rows(
            "SELECT table_name, engine FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND table_name IN :tables",
            tables=list(required),
        ):
            found.engines[str(row["table_name"])] = str(row["engine"])
        for row in self.rows(
            "SELECT table_name, column_name, character_set_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND character_set_name <> 'utf8mb4' AND table_name IN :tables",
            tables=list(required),
        ):
            table, column = str(row["table_name"]), str(row["column_name"])
            if column in required[table]:
                found.other_character_sets[f"{table}.{column}"] = str(row["character_set_name"])
        for table, columns in required.items():
            self._look_at(table, columns, found)
        return found

    def _look_at(self, table: str, columns: tuple[str, ...], found: Tables) -> None:
        code = self._refusal(table, columns)
        if code is None:
            return
        if code == _NO_TABLE:
            found.missing_tables.append(table)
            return
        # Table by table the server names the first fault only, so ask column by column.
        codes = {column: self._refusal(table, (column,)) for column in columns}
        missing = [column for column, refusal in codes.items() if refusal == _NO_COLUMN]
        denied = [column for column, refusal in codes.items() if refusal in _DENIED]
        if missing:
            found.missing_columns[table] = missing
        if denied and len(denied) + len(missing) == len(columns) and not self._is_visible(table):
            # The server does not tell who may see nothing of a table whether it is there.
            found.denied.append(table)
        elif denied:
            found.denied.append(f"{table} ({', '.join(denied)})")

    def _is_visible(self, table: str) -> bool:
        return bool(
            self.rows(
                "SELECT 1 AS there FROM information_schema.columns "
                "WHERE table_schema = DATABASE() AND table_name = :table AND privileges LIKE '%select%' LIMIT 1",
                table=table,
            )
        )

    def _refusal(self, table: str, columns: Sequence[str]) -> int | None:
        """The server's error code for reading no row of these columns."""
        try:
            self.rows(f"SELECT {', '.join(columns)} FROM {table} LIMIT 0")
        except SQLAlchemyError as error:
            code = error_code(error)
            if code is None or code not in {_NO_TABLE, _NO_COLUMN, *_DENIED}:
                raise
            return code
        return None


def error_code(error: SQLAlchemyError) -> int | None:
    """The server's number, where it was the server that refused."""
    arguments = getattr(getattr(error, "orig", None), "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def error_words(error: SQLAlchemyError) -> str:
    """The server's words, without the statement."""
    arguments = getattr(getattr(error, "orig", None), "args", ())
    return str(arguments[-1] if arguments else error).splitlines()[0].rstrip(".")
