"""The database that the events of a folder go to: it has the tables, and it is the folder's and no other."""

import threading

import structlog
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import WrongPlace, check, make_identity
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.migrations import MIGRATIONS, migrate, pending_migrations
from recommendation_service.flush.operator_log import OperatorLog
from recommendation_service.flush.tables import untransactional_tables
from recommendation_service.model.words import FIRST_WORDS
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.words import words_of

log = structlog.get_logger(__name__)


class Destination:
    """Each question gives None, or a sentence that says what lacks. Raises ConfigurationError for a mapping that cannot
    be read."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._tables_ready = False
        self._words, self._own_log = FIRST_WORDS, None
        if settings.mapping_file is not None:
            mapping = load_mapping(settings.mapping_file)
            self._words = words_of(mapping)
            if mapping.content.log is not None:
                events = frozenset(mapping.content.events)
                self._own_log = OperatorLog(mapping.content.log, events, self._words, settings.database_zone)

    def writer(self, stop: threading.Event | None = None) -> EventWriter:
        return EventWriter(
            self._engine, stop=stop, zone=self._settings.database_zone, words=self._words, own_log=self._own_log
        )

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
                try:
                    done = migrate(self._engine)
                except SourceError as error:
                    if pending == MIGRATIONS:
                        return f"{error} `recs migrate` makes the tables."
                    missing = ", ".join(migration.what for migration in pending)
                    return f"recs_events is of an older form, without: {missing}. {error} `recs migrate` makes it new."
                log.info("tables were made or brought up to date", migrations=[migration.what for migration in done])
            self._check_beside()
        except SourceError as error:
            return str(error)
        make_identity(self._engine)
        if (wrong := self.wrong_place()) is not None:
            return wrong
        self._tables_ready = True
        return None

    def _check_beside(self) -> None:
        """The operator's own table beside recs_events, where there is one. Raises SourceError."""
        if self._own_log is not None and (problems := self._own_log.problems(self._engine)):
            raise SourceError(f"[log] of the mapping cannot be written: {'; '.join(problems)}.")
        beside = None if not self._words.is_mapped else self._own_log.table if self._own_log is not None else ""
        for table in untransactional_tables(self._engine, beside):
            log.warning("a failed flush can leave rows behind, so events may be there twice", table=table)
