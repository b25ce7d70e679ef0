"""An operator's database, read as a mapping says."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.database import address
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.core.postgresql_address import POSTGRESQL, is_postgresql
from recommendation_service.sources.mapping.changes import fingerprint
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import tables_of
from recommendation_service.sources.mapping.reading import present_items, read, read_items
from recommendation_service.sources.mapping.results import Result, parameters
from recommendation_service.sources.mapping.tables import Ids, Tables
from recommendation_service.sources.reader import one_moment


def demand_mapping(settings: Settings) -> None:
    """Raises ConfigurationError where there is none and has to be: the first operator's queries are MySQL's."""
    if settings.mapping_file is None and is_postgresql(settings.source_url):
        raise ConfigurationError(
            [
                "DATABASE_URL names PostgreSQL, and no MAPPING_FILE says what its tables mean: "
                "`recs source init DATABASE_URL` writes one"
            ]
        )


class MappedSource:
    """``connect`` gives a connection to whichever server is to be read, the engine's unless given."""

    def __init__(
        self, mapping: Mapping, engine: Engine, settings: Settings, connect: Callable[[], Connection] | None = None
    ) -> None:
        self.mapping = mapping
        self.engine = engine
        self._settings = settings
        self._connect = connect or engine.connect

    def tables(self, now: datetime, latest: datetime | None = None) -> Tables:
        """Of one moment; ``latest``: as `read` says. Raises SourceError."""
        empty: list[str] = []

        def note(result: Result, _milliseconds: float) -> None:
            if not result.rows:
                empty.append(result.section)

        with one_moment(self.engine, self._connect) as connection:
            tables = read(self.mapping, connection, now, self._settings.database_zone, note, latest=latest)
        if empty and self.engine.dialect.name == POSTGRESQL:
            self._demand_empty(empty, now)
        return tables

    def standing(self, then: datetime, now: datetime) -> tuple[dict[str, Ids], dict[str, Ids]]:
        """Ids of the items of each type that there would be if it were ``then``, and of all that the tables have,
        whether it may be shown or not. Raises SourceError."""
        zone = self._settings.database_zone
        with one_moment(self.engine, self._connect) as connection:
            return (
                read_items(self.mapping, connection, then, zone, max(then, now)),
                present_items(self.mapping, connection, now, zone),
            )

    def _demand_empty(self, sections: Sequence[str], now: datetime) -> None:
        """PostgreSQL keeps a TRUNCATE of another out of no view: a table that is emptied and filled anew in one
        transaction is empty to who began before it ended. Raises SourceError."""
        zone = self._settings.database_zone
        with one_moment(self.engine, self._connect) as connection:
            for section in sections:
                statement = self.mapping.statements[section]
                given = parameters(statement, self.mapping.days_of(section), now, zone)
                sql = f"SELECT 1 FROM (\n{statement.text}\n) q LIMIT 1"
                if connection.execute(text(sql), given).first() is not None:
                    raise SourceError(f"{section}: its table was emptied and filled anew while it was read.")

    @property
    def read_tables(self) -> tuple[str, ...]:
        """Names of the tables that the queries read."""
        statements = self.mapping.statements.values()
        return tuple(sorted({table for one in statements for table in tables_of(one.text).values()}))

    def fingerprint(self, now: datetime | None = None) -> str:
        """Differs whenever something changed that a catalog is made of. Raises SourceError."""
        now = now or datetime.now(UTC)
        with one_moment(self.engine, self._connect) as connection:
            # A replica may lack what was seen on another server, so a build elsewhere does not settle it.
            server = address(connection.engine.url)
            return repr((fingerprint(self.mapping, connection, now, self._settings.database_zone), server))
