"""The database server's own figures, for /metrics: connections, slow queries, and the use of each index.

The refresher reads them, since it is the one process that has a connection whether or not there is traffic, and hands
them to the workers in a file. What cannot be read is left out: an alert on a figure that is not there stays silent,
and one on a figure that is made up would not. SQLite has none of them.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog
from sqlalchemy import bindparam, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recommendation_service.catalog import postgresql_figures
from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.core.postgresql_address import POSTGRESQL

log = structlog.get_logger(__name__)

FIGURES_FILE = "database_server.json"
READ_SECONDS = 15.0
# Older figures are of a refresher that is gone, or of a server that does not answer.
STALE_SECONDS = 60.0
# Who may not read performance_schema asks again after so long: a new grant needs no restart, and the server's audit
# log is not filled.
DENIED_SECONDS = 600.0

VARIABLES = (
    "Threads_connected",
    "Threads_running",
    "Slow_queries",
    "Aborted_connects",
    "max_connections",
    "long_query_time",
)
# MySQL counts those that it refuses as too many apart; MariaDB, for which this is 0, among the aborted ones.
_REFUSED = "Connection_errors_max_connections"
NO_INDEX = "(none)"  # rows that were read by a scan of the table

_STATUS = text("SHOW GLOBAL STATUS WHERE Variable_name IN :names").bindparams(bindparam("names", expanding=True))
_SETTINGS = text("SHOW GLOBAL VARIABLES WHERE Variable_name IN :names").bindparams(bindparam("names", expanding=True))
_INDEX_READS = text(
    "SELECT OBJECT_NAME, INDEX_NAME, COUNT_READ FROM performance_schema.table_io_waits_summary_by_index_usage "
    "WHERE OBJECT_TYPE = 'TABLE' AND OBJECT_SCHEMA = DATABASE() AND OBJECT_NAME IN :tables "
    "ORDER BY OBJECT_NAME, INDEX_NAME"
).bindparams(bindparam("tables", expanding=True))


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What the server said of itself at one moment."""

    read_at: float = 0.0  # seconds since 1970
    variables: dict[str, float] = field(default_factory=dict)  # those of VARIABLES that it has
    index_reads: list[tuple[str, str, int]] = field(default_factory=list)  # table, index, rows read through it


class ServerWatch:
    """Reads the figures of ``engine``'s server every 15 seconds and writes them to ``folder``."""

    def __init__(
        self, engine: Engine, folder: Path, tables: Sequence[str], now: Callable[[], float] = time.time
    ) -> None:
        """``tables``: whose indices are told of; an operator may have hundreds of others."""
        self._engine = engine
        self._folder = folder
        self._tables = tables
        self._now = now
        self._denied_until = 0.0

    def start(self) -> None:
        """In a thread of its own, so that figures come during a long build, and a build waits for no figure."""
        if self._engine.dialect.name != "sqlite":
            threading.Thread(target=self._run, name="server figures", daemon=True).start()

    def look(self) -> None:
        """Read once and write. Where the server does not answer, what was written before grows old."""
        try:
            with self._engine.connect() as connection:
                if connection.dialect.name == POSTGRESQL:
                    reads = postgresql_figures.read_index_reads(connection, self._tables, NO_INDEX)
                    figures = ServerFigures(self._now(), postgresql_figures.read_connections(connection), reads)
                else:
                    figures = ServerFigures(self._now(), read_variables(connection), self._index_reads(connection))
        except SQLAlchemyError as error:
            log.debug("the database server's figures cannot be read", reason=str(error).splitlines()[0])
            return
        try:
            make_folder(self._folder)
            write_whole(self._folder / FIGURES_FILE, json.dumps(asdict(figures)))
        except OSError as error:  # a full disk, for one
            log.debug("the database server's figures cannot be written", reason=str(error))

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                self.look()
            except Exception:
                # The catalog does not depend on it, and the next look may go better.
                log.exception("the database server's figures cannot be read")
            time.sleep(max(1.0, READ_SECONDS - (time.monotonic() - started)))

    def _index_reads(self, connection: Connection) -> list[tuple[str, str, int]]:
        """Empty where performance_schema is off, or may not be read."""
        if time.monotonic() < self._denied_until:
            return []
        try:
            return read_index_reads(connection, self._tables)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            self._denied_until = time.monotonic() + DENIED_SECONDS
            log.info("the use of indices cannot be read", reason=str(error.orig))
            return []


def read_variables(connection: Connection) -> dict[str, float]:
    """Those of VARIABLES that the server has; everyone may ask for them."""
    found = {}
    for statement in (_STATUS, _SETTINGS):
        for name, value in connection.execute(statement, {"names": [*VARIABLES, _REFUSED]}):
            found[str(name)] = float(value)
    refused = found.pop(_REFUSED, 0.0)
    if "Aborted_connects" in found:
        found["Aborted_connects"] += refused
    return found


def read_index_reads(connection: Connection, tables: Iterable[str]) -> list[tuple[str, str, int]]:
    """(table, index, rows read through it) since the server's start. Raises DBAPIError without the privilege."""
    rows = connection.execute(_INDEX_READS, {"tables": list(tables)})
    return [(str(table), NO_INDEX if index is None else str(index), int(reads)) for table, index, reads in rows]


def last_figures(folder: Path, now: Callable[[], float] = time.time) -> ServerFigures:
    """What the refresher wrote last; empty where that is nothing, or old."""
    try:
        content = json.loads((folder / FIGURES_FILE).read_bytes())
        figures = ServerFigures(
            float(content["read_at"]),
            {str(name): float(value) for name, value in content["variables"].items()},
            [(str(table), str(index), int(reads)) for table, index, reads in content["index_reads"]],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ServerFigures()
    return figures if abs(now() - figures.read_at) < STALE_SECONDS else ServerFigures()
