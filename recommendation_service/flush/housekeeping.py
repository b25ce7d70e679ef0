"""What the flusher does beside flushing: deletes rows and files that are too old, and forgets with the fleet."""

import contextlib
import time
from collections.abc import Callable

import structlog
from sqlalchemy.engine import Engine

from recommendation_service.core.clock_watch import ClockWatch
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.pending import Fleet
from recommendation_service.flush.rows import text_of
from recommendation_service.flush.tables import delete_events, has_events
from recommendation_service.log.decisions import delete_old, forget_decisions
from recommendation_service.log.forgotten import drop_settled, read_forgotten
from recommendation_service.log.records import now_ms
from recommendation_service.log.retention import remove_unfinished
from recommendation_service.memory.user_memory import MemoryFailed, forget_seen

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 3600.0
# Of rows that are too old, in one go; the next comes with the next look.
MOST_DELETED = 10_000


class Housekeeping:
    """Raises nothing for what the database or the disk does: it is done another time."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        fleet: Fleet | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = now_ms,
        watch: ClockWatch | None = None,
    ) -> None:
        self._settings = settings
        self._folder = settings.events_dir
        self._engine = engine
        self._fleet = fleet
        self._clock = clock
        self._now_ms = now_ms
        self._watch = watch
        self._next = self._next_deletion = 0.0
        self._fleet_forgotten: dict[int, int] = {}  # whom the fleet forgot, and this machine too; when that was said

    def step(self) -> None:
        """About hourly: delete rows that are too old, where the time is certain, and files that nobody needs."""
        if self._clock() >= self._next:
            self._next = self._clock() + PAUSE_SECONDS
            remove_unfinished(self._folder)
            with contextlib.suppress(OSError):  # a full disk: an hour later, then
                drop_settled(self._folder)
        if self._clock() >= self._next_deletion and (self._watch is None or self._watch.may_delete()):
            self._next_deletion = self._clock() + PAUSE_SECONDS
            self._delete_old_rows()
            self._delete_old_decisions()

    def _delete_old_rows(self) -> None:
        before = self._now_ms() - self._settings.events_retention_days * 86_400_000
        try:
            if not has_events(self._engine):
                return
            deleted = delete_events(self._engine, "happened_at < :before", MOST_DELETED, before=text_of(before))
        except SourceError as error:
            log.error("old events could not be deleted", reason=str(error))
            return
        if deleted:
            log.info("old events were deleted", rows=deleted)
        if deleted >= MOST_DELETED:
            self._next_deletion = self._clock()

    def _delete_old_decisions(self) -> None:
        before = self._now_ms() - self._settings.decision_retention_days * 86_400_000
        try:
            deleted = delete_old(self._settings.decisions_dir, before)
        except OSError as error:
            log.error("old decisions could not be deleted", reason=str(error))
            return
        if deleted:
            log.info("old decisions were deleted", files=deleted)

    def forget_with_the_fleet(self) -> None:
        """What another machine was told to forget has to go from here, too: log, rows and memory."""
        if self._fleet is None:
            return
        for user_id, (moment, milliseconds_ago) in self._fleet.forgotten().items():
            if self._fleet_forgotten.get(user_id) == moment:
                continue
            received_ms = self._now_ms() - milliseconds_ago
            try:
                told = read_forgotten(self._folder).get(user_id)
                if told is None or told.moment != moment:  # else it was this machine that was told
                    forget_user(self._engine, self._folder, user_id, moment, received_ms)
                    forget_decisions(self._settings.decisions_dir, user_id, received_ms)
                    if self._settings.seen_state:
                        forget_seen(self._settings, user_id, received_ms // 1000, self._now_ms() // 1000)
            except (SourceError, MemoryFailed, OSError) as error:
                log.error("a user could not be forgotten yet", reason=str(error))
                continue
            self._fleet_forgotten[user_id] = moment
