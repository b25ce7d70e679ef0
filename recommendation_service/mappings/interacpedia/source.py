"""The operator's database, read by the SQL files beside this one; their columns are what a catalog is built of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection, Engine

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.coded_source import Standing
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.core.config import Settings
from recommendation_service.core.database import address
from recommendation_service.core.local_time import local_text
from recommendation_service.mappings.interacpedia.builder import assemble_catalog, read_source
from recommendation_service.mappings.interacpedia.item_row import item_row
from recommendation_service.mappings.interacpedia.presence import NOTHING, WORDS, standing_of
from recommendation_service.mappings.interacpedia.schema import SCHEMA
from recommendation_service.mappings.interacpedia.statements import FOLDER, tables_read
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.item_row import ItemRow
from recommendation_service.sources.not_personal import not_personal_stamp
from recommendation_service.sources.reader import ZERO_DATE, Snapshot, one_moment

RESUME_MODEL_TYPE = r"App\Interacpedia\Resumes\Resume"


class Source:
    """``connect`` gives a connection to whichever server is to be read, the engine's unless given."""

    words: Mapping[int, str] = WORDS
    nothing = NOTHING
    schema = SCHEMA

    def __init__(self, engine: Engine, settings: Settings, connect: Callable[[], Connection] | None = None) -> None:
        self.engine = engine
        self._settings = settings
        self._connect = connect or engine.connect

    @contextmanager
    def snapshot(self, now: datetime) -> Iterator[Snapshot]:
        with one_moment(self.engine, self._connect) as connection:
            yield Snapshot(connection, FOLDER, self._parameters(now), self._settings.database_zone)

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

    def build(self, settings: Settings, policy: Policy, now: datetime, kept: KeptLists | None) -> BuiltCatalog:
        """Raises SourceError."""
        tables, milliseconds = read_source(self, settings, now)
        return assemble_catalog(tables, milliseconds, settings, policy, now, kept)

    def standing(self, settings: Settings, policy: Policy, now: datetime) -> Standing:
        """Raises SourceError."""
        return standing_of(self, settings, policy, now)

    def item_row(self, now: datetime, item_type: int, number: int) -> ItemRow | None:
        """None: there is no such row. Raises SourceError."""
        with self.snapshot(now) as snapshot:
            return item_row(snapshot, item_type, number)

    @property
    def read_tables(self) -> tuple[str, ...]:
        return tables_read()

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
