"""Reads one consistent picture of the operator's tables: a SQL file a query, its columns the canonical ones."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import address, begin_reading, words_of
from recommendation_service.core.errors import SourceError
from recommendation_service.core.local_time import local_text
from recommendation_service.sources.not_personal import not_personal_stamp

FOLDER = Path(__file__).resolve().parent / "interacpedia"
RESUME_MODEL_TYPE = r"App\Interacpedia\Resumes\Resume"
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
    parameters: dict[str, Any]
    zone: tzinfo = UTC
    milliseconds: dict[str, float] = field(default_factory=dict)

    def read(self, query: str) -> Table:
        """Run ``query``.sql and fetch all of it."""
        started = time.perf_counter()
        statement = text(sql(query))
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


class Source:
    """The operator's database, read through the SQL files of one folder.

    ``connect`` gives a connection to whichever server is to be read, the engine's unless given.
    """

    def __init__(self, engine: Engine, settings: Settings, connect: Callable[[], Connection] | None = None) -> None:
        self.engine = engine
        self._settings = settings
        self._connect = connect or engine.connect

    @contextmanager
    def snapshot(self, now: datetime) -> Iterator[Snapshot]:
        with one_moment(self.engine, self._connect) as connection:
            yield Snapshot(connection, self._parameters(now), self._settings.database_zone)

    def fingerprint(self, now: datetime | None = None) -> str:
        """Differs whenever something changed that a catalog is made of; cheap beside a build."""
        now = now or datetime.now(UTC)
        with self.snapshot(now) as snapshot:
            row = {name: values[0] for name, values in snapshot.read("changes").columns.items()}
            row["not_personal"] = not_personal_stamp(snapshot.connection, self._settings)
            # A replica may lack what was seen on another server, so a build elsewhere does not settle it.
            server = address(snapshot.connection.engine.url)
        # Times are whole seconds. What is updated after this look may bear the second of what was before
        # it, so within that second every look differs.
        times = (value for name, value in row.items() if name.endswith(("_updated", "_deleted")))
        latest = max((str(value) for value in times if value), default="")
        unsettled = latest >= local_text(now - timedelta(seconds=1), self._settings.database_zone)
        return repr((row, server, now.isoformat() if unsettled else ""))

    def _parameters(self, now: datetime) -> dict[str, Any]:
        settings = self._settings

        def since(days: int) -> str:
            return local_text(now - timedelta(days=days), settings.database_zone)

        return {
            "now": local_text(now, settings.database_zone),
            "users_since": since(settings.users_window_days),
            "videos_since": since(settings.videos_window_days),
            "challenges_since": since(settings.challenges_window_days),
            "interactions_since": since(settings.oldest_interactions_days),
            "views_since": since(settings.views_window_days),
            "connections_since": since(settings.connections_window_days),
            "zero_date": ZERO_DATE,
            "resume_model_type": RESUME_MODEL_TYPE,
        }


@contextmanager
def one_moment(engine: Engine, connect: Callable[[], Connection]) -> Iterator[Connection]:
    """A consistent view, whatever the server's default isolation is. Raises SourceError."""
    try:
        with connect() as connection:
            begin_reading(connection)
            yield connection
    except SQLAlchemyError as error:
        raise SourceError(f"{address(engine.url)}: {words_of(error)}") from error


def sql(query: str) -> str:
    return (FOLDER / f"{query}.sql").read_text("utf-8")
