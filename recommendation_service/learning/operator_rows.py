"""Looks at the operator's tables for what people did since the last look.

A few thousand rows by the primary key, through a replica where there is one, every ROWS_SECONDS. A table that cannot be
read is told of, and costs the others nothing.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.database import PoolShare
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import check
from recommendation_service.core.replicas import ReadReplicas
from recommendation_service.learning.row_notes import RowMark, RowNotes, Seen
from recommendation_service.mappings.learned import open_rows
from recommendation_service.sources.rows import OperatorRow, Page

log = structlog.get_logger(__name__)

ROWS_SECONDS = 10.0
# A table that failed is read again after the first, doubled up to the last.
LAST_RETRY_SECONDS = 300.0
# Of a table, in a look. At the first one as many are gone back, whatever the table has.
MOST_ROWS = 5_000
MOST_AGAIN = 20
# The learner waits for it, and a range of the primary key takes milliseconds.
READ_SECONDS = 5
# A server that took so long to fail is not asked for the next table at once.
PATIENCE_SECONDS = 1.0


class Look(NamedTuple):
    """What a table had. ``again``: rows that were watched, None: it is gone."""

    table: str
    before: RowMark
    seen: Seen
    page: Page
    again: dict[int, OperatorRow | None]

    @property
    def read_to(self) -> int:
        """No row up to this was left out."""
        return self.page.read_to if self.page.read_to is not None else self.seen.last_id


class OperatorRows:
    """One learner's. ``share``: None for a command."""

    def __init__(self, settings: Settings, tables: Sequence[str], share: PoolShare | None) -> None:
        seconds = min(READ_SECONDS, settings.mysql_read_timeout_seconds)
        brief = settings.model_copy(update={"mysql_read_timeout_seconds": seconds})
        self._settings = settings
        self._reads = ReadReplicas(brief, share, stays=True)
        self._rows = open_rows(settings, self._reads.primary, self._reads.connect)
        self._is_checked = False
        self._due_at = dict.fromkeys(tables, 0.0)
        self._retry_seconds = dict.fromkeys(tables, ROWS_SECONDS)
        self.problems: dict[str, str] = {}  # by table: why it is not read

    def look(self, notes: RowNotes, now_ms: int) -> list[Look]:
        """At each table that is due. Never raises."""
        looks = []
        failed: tuple[float, str] | None = None  # how long the last one took to fail, and why
        for table in [table for table, due_at in self._due_at.items() if time.monotonic() >= due_at]:
            if failed is not None and failed[0] > PATIENCE_SECONDS:
                self._fail(table, failed[1])
                continue
            began = time.monotonic()
            try:
                looks.append(self._look(table, notes, now_ms))
            except SourceError as error:
                failed = time.monotonic() - began, str(error)
            except Exception as error:
                # Whatever a driver raises: the log is learned from all the same.
                log.exception("a table of the operator's cannot be read", table=table)
                failed = time.monotonic() - began, f"{type(error).__name__}: {error}"
            else:
                self._succeed(table)
                continue
            self._fail(table, failed[1])
        return looks

    def _look(self, table: str, notes: RowNotes, now_ms: int) -> Look:
        if not self._is_checked:
            check(self._settings, self._rows.engine)
            self._is_checked = True
        with self._rows.moment(datetime.fromtimestamp(now_ms / 1000, UTC)) as moment:
            mark = notes.mark(table) or RowMark(moment.beginning(table, MOST_ROWS))
            page = moment.read(table, mark.after, MOST_ROWS)
            again = {row_id: moment.again(table, row_id) for row_id in notes.watched(table, MOST_AGAIN)}
        return Look(table, mark, Seen(now_ms, page.last_id), page, again)

    def _succeed(self, table: str) -> None:
        self._due_at[table] = time.monotonic() + ROWS_SECONDS
        self._retry_seconds[table] = ROWS_SECONDS
        if self.problems.pop(table, None) is not None:
            log.info("a table of the operator's is learned from again", table=table)

    def _fail(self, table: str, problem: str) -> None:
        self._due_at[table] = time.monotonic() + self._retry_seconds[table]
        self._retry_seconds[table] = min(2 * self._retry_seconds[table], LAST_RETRY_SECONDS)
        if self.problems.get(table) != problem:
            log.warning("a table of the operator's is not learned from", table=table, reason=problem)
        self.problems[table] = problem

    def close(self) -> None:
        self._reads.dispose()
