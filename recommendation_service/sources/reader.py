"""One consistent picture of an operator's tables, by queries that are files of a folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.database import NoDatabaseNamed, address, begin_reading, words_of
from recommendation_service.core.errors import SourceError

# A TIMESTAMP before this is MySQL's zero date, which counts as absent.
ZERO_DATE = "1970-01-02 00:00:00"


@dataclass
class Table:
    """A query's result by column; every column has the same length. ``zone``: of its times, which are text."""

    columns: dict[str, list[Any]]
    zone: tzinfo = UTC

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]


@dataclass
class Snapshot:
    """One transaction's view of the source; notes how long each query took."""

    connection: Connection
    folder: Path  # of the queries
    parameters: dict[str, Any]
    zone: tzinfo = UTC
    milliseconds: dict[str, float] = field(default_factory=dict)

    def read(self, query: str) -> Table:
        """Run ``query``.sql and fetch all of it."""
        started = time.perf_counter()
        statement = text(self.statement(query))
        wanted = {name: self.parameters[name] for name in statement._bindparams}
        try:
            result = self.connection.execute(statement, wanted)
            names = list(result.keys())
            rows = result.fetchall()
        except SQLAlchemyError as error:
            raise SourceError(f"query {query}: {words_of(error)}") from error
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names]
        self.milliseconds[query] = round((time.perf_counter() - started) * 1000, 1)
        return Table(dict(zip(names, columns, strict=True)), self.zone)

    def statement(self, query: str) -> str:
        return (self.folder / f"{query}.sql").read_text("utf-8")


@contextmanager
def one_moment(engine: Engine, connect: Callable[[], Connection]) -> Iterator[Connection]:
    """A consistent view, whatever the server's default isolation is. Raises SourceError."""
    try:
        with connect() as connection:
            begin_reading(connection)
            yield connection
    except SQLAlchemyError as error:
        if isinstance(getattr(error, "orig", None), NoDatabaseNamed):
            raise SourceError(words_of(error)) from error
        raise SourceError(f"{address(engine.url)}: {words_of(error)}") from error
