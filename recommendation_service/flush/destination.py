"""The database that the events of a folder go to: it has the tables, and it is the folder's and no other."""

import structlog
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import WrongPlace, check, make_identity
from recommendation_service.flush.migrations import MIGRATIONS, migrate, pending_migrations
from recommendation_service.flush.tables import untransactional_tables

log = structlog.get_logger(__name__)


class Destination:
    """Each question gives None, or a sentence that says what lacks."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._tables_ready = False

    def wrong_place(self) -> str | None:
        """Asked before each flush: events of one database are not to reach another, whatever its server is called."""
        try:
            check(self._settings, self._engine)
        except WrongPlace as error:
            return str(error)
        return None

    def prepare_tables(self) -> str | None:
        """Make the tables where they are missing and privileges allow."""
        if self._tables_ready:
            return None
        try:
            if pending := pending_migrations(self._engine):
                log.info("tables are made or brought up to date", migrations=[migration.what for migration in pending])
                try:
                    done = migrate(self._engine)
                except SourceError as error:
                    if pending == MIGRATIONS:
                        return f"{error} `recs migrate` makes the tables."
                    missing = ", ".join(migration.what for migration in pending)
                    return f"recs_events is of an older form, without: {missing}. {error} `recs migrate` makes it new."
                log.info("tables were made", migrations=[migration.what for migration in done])
            for table in untransactional_tables(self._engine):
                log.warning("a failed flush can leave rows behind, so events may be there twice", table=table)
        except SourceError as error:
            return str(error)
        make_identity(self._engine)
        if (wrong := self.wrong_place()) is not None:
            return wrong
        self._tables_ready = True
        return None
