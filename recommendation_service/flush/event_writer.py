"""Records into the database, each exactly once however often it is tried.

One transaction writes a batch to ``recs_events``, where a user has an event's id once, and lets the server copy what
was new there to the operator's log. Whoever repeats a batch, after a lost answer to a COMMIT or beside another flusher,
finds its events there and copies nothing.
"""

import random
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import pymysql.err
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from recommendation_service.core.database import words_of
from recommendation_service.core.database_errors import error_code, has_no_column, has_no_table
from recommendation_service.core.postgresql_address import POSTGRESQL
from recommendation_service.flush.arrays import insert_arrays
from recommendation_service.flush.batches import FEEDBACK_ROWS, Left, batches, left_after_each, statements
from recommendation_service.flush.literals import (
    Escape,
    feedback_literals,
    plain_feed_literals,
    quote_plain,
    row_literals,
)
from recommendation_service.flush.operator_log import OperatorLog
from recommendation_service.flush.rows import (
    FEED_COLUMNS,
    FEEDBACK_COLUMNS,
    TEXT_COLUMNS,
    Event,
    Value,
    are_plain,
    can_hold,
    event_id_of,
    event_of,
    feed_row,
    feedback_row,
    local_expression,
    own_feed_row,
    own_feedback_row,
)
from recommendation_service.flush.tables import MOST_BYTES, describe, has_log
from recommendation_service.log.records import FeedbackRecord, FeedRecord
from recommendation_service.mappings.log_rows import COPY_PARAMETERS, COPY_TO_LOG, LOG_TABLE
from recommendation_service.model.words import FIRST_WORDS, Words

# Batches at once: while the server works at some, the next is written out. More gained nothing on two cores.
WRITERS = 3
ATTEMPTS = 6
# What took longer before it failed, as a server that hangs, is left for a later flush.
ATTEMPTS_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.02

# Of a statement, beside its rows: the command, and what comes before and after them.
STATEMENT_BYTES = 1_024
# A statement over which connections are lost is made half as long, down to this.
LEAST_BYTES = 16 << 10
NO_LIMIT = 1 << 40

# What is there stays as it is. Not `id = id`: where that meets a row that another transaction has just written, MariaDB
# numbers the rows that follow from that one's id on, meets the other transaction's next ones, and takes events that are
# nowhere for duplicates. Should a row of another event be met all the same, NULL is refused, and the batch tried again.
_KEEP = (
    " ON DUPLICATE KEY UPDATE event_id = IF(event_id = VALUES(event_id) AND user_id = VALUES(user_id), event_id, NULL)"
)
_NULL = 1048

# A second try succeeds: deadlock, lock wait, and a connection that was lost or killed.
_TRANSIENT: set[int | str] = {
    1205,
    1213,
    1020,
    1053,
    1077,
    1078,
    1079,
    1152,
    1159,
    1160,
    1161,
    1184,
    1317,
    1927,
    2006,
    2013,
    2055,
    3101,
    4031,
    *("40P01", "40001", "55P03", "57P01", "57P02", "57P03"),
}
# The connection is gone: what the server or somebody on the way does with a statement that is too long.
_LOST: set[int | str] = {2006, 2013, 2055}
# What is wrong is the row: it is refused however often it is tried.
_REFUSALS: set[int | str] = {
    *(1048, 1264, 1265, 1292, 1300, 1366, 1406, 1411, 1452, 1644, 1690, 3140, 3141, 3156, 3819, 3988, 4025),
    1153,  # the statement is larger than max_allowed_packet: of one row, a refusal
    1301,  # and so is what the server was to make of it
}
# Of PostgreSQL's states the first two digits: data that does not fit, a constraint that is broken.
_REFUSED_CLASSES = {"22", "23"}
_CHARACTER_SET = (
    "SELECT character_set_name FROM information_schema.columns "
    f"WHERE table_schema = DATABASE() AND table_name = '{LOG_TABLE}' AND column_name = 'properties'"
)


@dataclass
class Outcome:
    """What became of records."""

    inserted: Counter[str] = field(default_factory=Counter)  # event: rows
    duplicates: int = 0  # events that were there before
    refused: list[tuple[Event, str]] = field(default_factory=list)  # for ever, and why
    left: list[Event] = field(default_factory=list)  # not written, to be tried again
    problem: str = ""  # why they are left
    retries: int = 0  # batches that were tried again
    escaped: int = 0  # written to the operator's log in escapes, as its character set lacks letters of theirs


class _RowRefusedError(Exception):
    """A row of the batch cannot be written, by the server's word or already by ours."""


class _TroubleError(Exception):
    """The database cannot be written to at present."""


class _LostError(Exception):
    """The connection was lost while a statement of several rows was sent: it may be too long for who is in between."""

    def __init__(self, problem: str, size: int) -> None:
        super().__init__(problem)
        self.size = size  # bytes


class EventWriter:
    """Writes records. One thread at a time calls it."""

    def __init__(
        self,
        engine: Engine,
        *,
        stop: threading.Event | None = None,
        zone: tzinfo = UTC,
        words: Words = FIRST_WORDS,
        own_log: OperatorLog | None = None,
    ) -> None:
        """``stop``: once set, what is not under way is left. ``zone``: of the times in the first operator's log.
        ``words``: a mapping's, whose events go into ``own_log``, where there is one, instead of that."""
        self._engine = engine
        self._words = words
        self._own_log = own_log
        self._stop = stop or threading.Event()
        self._zone = zone
        self._is_postgresql = engine.dialect.name == POSTGRESQL
        self._is_mysql = engine.dialect.name != "sqlite" and not self._is_postgresql
        self._with_log: bool | None = False if words.is_mapped else None
        self._most_bytes = NO_LIMIT  # of a statement, where connections were lost over longer ones
        self._character_set: str | None = None

    def write(self, records: Sequence[Event]) -> Outcome:
        """Never raises for what the database does: ``left`` and ``problem`` tell."""
        outcome, lock = Outcome(), threading.Lock()
        waiting = batches(records)
        taking = threading.Lock()

        def work() -> None:
            while True:
                with taking:
                    batch = next(waiting, None)
                if batch is None:
                    return
                done = self._write_after(outcome, batch)
                with lock:
                    _add(outcome, done)

        self._begin(outcome, records)
        workers = self._workers() if len(records) > FEEDBACK_ROWS else 1
        with ThreadPoolExecutor(workers, "flush") as pool:
            for future in [pool.submit(work) for _ in range(workers)]:
                future.result()
        return outcome

    def write_gently(self, records: Sequence[Event], rest: Callable[[float, Left], None]) -> Outcome:
        """As ``write`` does, one batch at a time.

        ``rest``: called between batches with the seconds that the last one took, and what is left.
        """
        outcome = Outcome()
        self._begin(outcome, records)
        found = list(batches(records))
        for batch, left in zip_longest(found, left_after_each(found)):
            started = time.monotonic()
            _add(outcome, self._write_after(outcome, batch))
            if left is not None and not outcome.problem:
                rest(time.monotonic() - started, left)
        return outcome

    def _begin(self, outcome: Outcome, records: Sequence[Event]) -> None:
        """Find out what is to be known of the database; where it cannot be asked, that is the outcome's problem."""
        if self._with_log is None and records:
            try:
                self._with_log = has_log(self._engine)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the database, events wait in the log
                outcome.problem = str(error)
                return
        self._most_bytes = min(self._most_bytes * 2, NO_LIMIT)  # a limit that is none is found out
        self._character_set = None if are_plain(records) else self._find_character_set()

    def _write_after(self, before: Outcome, batch: list[Event]) -> Outcome:
        """Unless something hinders all of them."""
        return self._write(batch) if not before.problem else Outcome(left=batch, problem=before.problem)

    def _find_character_set(self) -> str | None:
        """Of the log's properties; None: it holds everything, or cannot be asked, which the batches will tell."""
        if not self._is_mysql:
            return None
        try:
            with self._engine.connect() as connection:
                return connection.exec_driver_sql(_CHARACTER_SET).scalar()
        except SQLAlchemyError:
            return None

    def _workers(self) -> int:
        if not self._is_mysql and not self._is_postgresql:
            return 1
        pool = self._engine.pool
        return min(WRITERS, pool.size()) if isinstance(pool, QueuePool) else WRITERS

    def _write(self, batch: list[Event]) -> Outcome:
        """A batch; where a row of it is refused, its halves, so that the others are written."""
        outcome, started, losses = Outcome(), time.monotonic(), 0
        for attempt in range(ATTEMPTS):
            if self._stop.is_set():
                return Outcome(left=batch, problem="the flush was stopped", retries=outcome.retries)
            try:
                outcome.inserted = self._transact(batch)
            except _RowRefusedError as refusal:
                if len(batch) == 1:
                    return Outcome(refused=[(batch[0], str(refusal))], retries=outcome.retries)
                middle = len(batch) // 2
                _add(outcome, self._write(batch[:middle]))
                _add(outcome, self._write(batch[middle:]))
                return outcome
            except _TroubleError as trouble:
                return Outcome(left=batch, problem=str(trouble), retries=outcome.retries)
            except (DBAPIError, _LostError) as error:
                outcome.retries += 1
                if attempt == ATTEMPTS - 1 or time.monotonic() - started > ATTEMPTS_SECONDS:
                    problem = describe(error) if isinstance(error, DBAPIError) else str(error)
                    return Outcome(left=batch, problem=problem, retries=outcome.retries)
                if isinstance(error, _LostError):
                    losses += 1
                    if losses > 1:  # the first may be anything
                        self._most_bytes = max(LEAST_BYTES, error.size // 2)
                time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                outcome.duplicates = len(batch) - outcome.inserted.total()
                if self._with_log and self._character_set is not None:
                    outcome.escaped = sum(not can_hold(self._character_set, record) for record in batch)
                return outcome
        raise AssertionError("unreachable")

    def _transact(self, batch: list[Event]) -> Counter[str]:
        """Rows inserted, by event. Raises DBAPIError and _LostError where another try may succeed at once."""
        flush_id, plain = secrets.randbits(63), are_plain(batch)
        try:
            with self._engine.begin() as connection:
                if self._is_postgresql:
                    columns, rows = self._rows(batch, flush_id)
                    new = insert_arrays(connection, columns, rows)
                    if self._own_log is not None and new:
                        self._write_own(self._own_log, connection, _those(batch, {one[1:] for one in new}))
                    return Counter(event for event, _, _ in new)
                last_id = connection.exec_driver_sql("SELECT COALESCE(MAX(id), 0) FROM recs_events").scalar_one()
                self._insert(connection, batch, flush_id, plain=plain)
                parameters = {"last_id": last_id, "flush_id": flush_id}
                if self._with_log:
                    local = local_expression(batch, self._zone, mysql=self._is_mysql)
                    copied = connection.execute(_copy(local), parameters | COPY_PARAMETERS)
                    if copied.rowcount == len(batch):
                        return Counter(map(event_of, batch))
                found = connection.execute(
                    text(
                        "SELECT event, COUNT(*) FROM recs_events WHERE id > :last_id AND flush_id = :flush_id "
                        "GROUP BY event"
                    ),
                    parameters,
                )
                inserted = Counter({str(event): int(count) for event, count in found})
                if self._own_log is not None and inserted:
                    new_rows = connection.execute(_NEW, parameters) if inserted.total() < len(batch) else ()
                    self._write_own(self._own_log, connection, _those(batch, {(int(u), str(e)) for u, e in new_rows}))
                return inserted
        except DBAPIError as error:
            if _is_of_another(error):
                raise
            if _is_refusal(error):
                raise _RowRefusedError(words_of(error) if self._is_postgresql else str(error.orig)) from error
            if error_code(error) in _TRANSIENT or error.connection_invalidated:
                raise
            raise _TroubleError(describe(error)) from error
        except SQLAlchemyError as error:
            raise _TroubleError(f"no connection to the database: {error}") from error
        except OSError as error:
            raise _LostError(f"the connection was lost: {error}", NO_LIMIT) from error
        except (ValueError, IndexError, OverflowError, pymysql.err.ProgrammingError) as error:
            raise _RowRefusedError(str(error)) from error

    def _write_own(self, own_log: OperatorLog, connection: Connection, records: list[Event]) -> None:
        """Into the operator's own table. What its constraints refuse, they refuse for ever."""
        try:
            own_log.write(connection, records)
        except IntegrityError as error:
            raise _RowRefusedError(f"{own_log.table}: {words_of(error)}") from error
        except DBAPIError as error:
            if has_no_table(error) or has_no_column(error) or "no column" in str(error.orig):
                raise _TroubleError(f"[log] of the mapping does not fit {own_log.table}: {words_of(error)}") from error
            raise

    def _rows(self, batch: list[Event], flush_id: int) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
        """Columns and rows of a batch, which is of one kind."""
        feedback = [record for record in batch if isinstance(record, FeedbackRecord)]
        feeds = [record for record in batch if isinstance(record, FeedRecord)]
        columns = FEEDBACK_COLUMNS if feedback else FEED_COLUMNS
        if self._words.is_mapped:
            rows = [own_feedback_row(record, flush_id, self._words) for record in feedback]
            return (*columns, *TEXT_COLUMNS), rows + [own_feed_row(record, flush_id) for record in feeds]
        rows = [feedback_row(record, flush_id) for record in feedback]
        return columns, rows + [feed_row(record, flush_id) for record in feeds]

    def _literals(
        self, batch: list[Event], flush_id: int, escape: Escape, *, plain: bool
    ) -> tuple[tuple[str, ...], list[str]]:
        """Columns and rows written out. ``plain``: see ``are_plain``."""
        if self._words.is_mapped:
            columns, rows = self._rows(batch, flush_id)
            return columns, row_literals(rows, escape)
        feedback = [record for record in batch if isinstance(record, FeedbackRecord)]
        feeds = [record for record in batch if isinstance(record, FeedRecord)]
        columns = FEEDBACK_COLUMNS if feedback else FEED_COLUMNS
        literals = feedback_literals(feedback, flush_id, quote_plain if plain else escape)
        if plain:
            return columns, literals + plain_feed_literals(feeds, flush_id, escape)
        return columns, literals + row_literals((feed_row(record, flush_id) for record in feeds), escape)

    def _insert(self, connection: Connection, batch: list[Event], flush_id: int, *, plain: bool) -> None:
        if not self._is_mysql:
            columns, rows = self._rows(batch, flush_id)
            places = ", ".join("?" * len(columns))
            connection.exec_driver_sql(
                f"INSERT INTO recs_events ({', '.join(columns)}) VALUES ({places}) "
                "ON CONFLICT (event_id, user_id) DO NOTHING",
                rows,
            )
            return
        driver: Any = connection.connection.dbapi_connection
        plain = plain and not self._words.is_mapped
        columns, literals = self._literals(batch, flush_id, driver.escape, plain=plain)
        insert = f"INSERT INTO recs_events ({', '.join(columns)}) VALUES "
        most = int(connection.info[MOST_BYTES]) - STATEMENT_BYTES
        sizes = [1 + len(literal if plain else literal.encode()) for literal in literals]
        if (longest := max(sizes)) > most:
            raise _RowRefusedError(f"a row of {longest:,} bytes, and the server takes {most:,} (max_allowed_packet)")
        connection = connection.execution_options(no_parameters=True)
        for part in statements(literals, sizes, min(most, self._most_bytes)):
            statement = f"{insert}{','.join(part)}{_KEEP}"
            try:
                connection.exec_driver_sql(statement)
            except (DBAPIError, OSError) as error:  # a driver may let a broken pipe through as it is
                if len(part) == 1 or (isinstance(error, DBAPIError) and error_code(error) not in _LOST):
                    raise
                connection.invalidate()
                problem = describe(error) if isinstance(error, DBAPIError) else f"the connection was lost: {error}"
                raise _LostError(problem, len(statement.encode())) from error


def _those(batch: list[Event], new: Set[tuple[int, str]]) -> list[Event]:
    """Records of the batch that are new in recs_events, by (user, event_id), each once; nothing said: all are."""
    if not new:
        return batch
    unique = {(record.user_id, event_id_of(record)): record for record in reversed(batch)}
    return [record for key, record in reversed(unique.items()) if key in new]


_NEW = text("SELECT user_id, event_id FROM recs_events WHERE id > :last_id AND flush_id = :flush_id")


@lru_cache
def _copy(local: str) -> TextClause:
    """Batches have few such expressions, and the statement is long to read for whoever binds its parameters."""
    return text(COPY_TO_LOG.replace("{local}", local))


def _add(outcome: Outcome, more: Outcome) -> None:
    outcome.inserted += more.inserted
    outcome.duplicates += more.duplicates
    outcome.refused += more.refused
    outcome.left += more.left
    outcome.problem = outcome.problem or more.problem
    outcome.retries += more.retries
    outcome.escaped += more.escaped


def _is_of_another(error: DBAPIError) -> bool:
    """Whether _KEEP met a row of another event."""
    return error_code(error) == _NULL and "'event_id'" in str(error.orig)


def _is_refusal(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(error.orig, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError)
    code = error_code(error)
    if isinstance(error, DataError) and code is None:
        return True  # the client's own word: a NUL in a text
    return code in _REFUSALS or (isinstance(code, str) and code[:2] in _REFUSED_CLASSES)
