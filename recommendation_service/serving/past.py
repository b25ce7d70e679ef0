"""What recs_events knows of a user who comes back: to a machine that is new, or has lost its memory of users.

A machine's memory begins empty. A user whom it does not know may be new, or may have been here before, so the first
request of such a user waits, for a moment at most, for what the database knows. What comes later than that is added
when it comes; and what cannot be read is owed: noted in the memory, and read as soon as that can be done.

An anonymous person's session is not read: the database finds people by their number.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import time_as_text, words_of
from recommendation_service.core.database_errors import has_no_table
from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import open_lock
from recommendation_service.flush.rows import shown_of_row
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.records import STATE_OF
from recommendation_service.memory.entries import NOTHING, USER, Entries, user_of
from recommendation_service.memory.from_records import Entry, entries_of_event, entries_of_shown
from recommendation_service.memory.user_memory import DAY_SECONDS, MemoryFailed, UserMemory
from recommendation_service.model.words import FIRST_WORDS, Words
from recommendation_service.ranking.seen import (
    Lifetimes,
    merge_entries,
)
from recommendation_service.ranking.working_memory import SEEN_CAPACITY
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

READING_THREADS = 2
MOST_UNDER_WAY = 64
MOST_FEEDS = 256
OWED_TOGETHER = 50
LOOK_SECONDS = 1.0
# After a failed read none is begun for so long, doubled up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
OWED_LOCK = "owed.lock"

_DEEDS = """SELECT event, item_type, item_id, slot_kind, session_id, {happened}, {received}
FROM recs_events WHERE user_id = :user AND event <> 'feed' AND happened_at >= :since
ORDER BY happened_at DESC LIMIT :most"""
_OLD_HIDES = """SELECT event, item_type, item_id, slot_kind, session_id, {happened}, {received}
FROM recs_events WHERE user_id = :user AND event = 'hide' AND happened_at < :since
ORDER BY happened_at DESC LIMIT :most"""
_FEEDS = """SELECT properties, slots, session_id, {happened}, {received}
FROM recs_events WHERE user_id = :user AND event = 'feed' AND happened_at >= :since
ORDER BY happened_at DESC LIMIT :most"""
_OLDEST = "SELECT {received} FROM recs_events ORDER BY id LIMIT 1"


class PastReader:
    """Reads one user by the index on user and time. ``connect`` gives a connection to the primary: a replica may
    still have what was forgotten."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        lifetimes: Lifetimes,
        log_folder: Path,
        now: Callable[[], float] = time.time,
        words: Words = FIRST_WORDS,
    ) -> None:
        self._words = words
        hides = ", ".join(f"'{name}'" for name in words.names_of("hide"))  # a mapping's names are letters and digits
        self._old_hides = _OLD_HIDES.replace("event = 'hide'", f"event IN ({hides})")
        self._connect = connect
        self._lifetimes = lifetimes
        self._folder = log_folder
        self.now = now

    def knows_nothing_before(self, moment: int) -> bool:
        """Whether the database has no row from before ``moment`` (seconds since 1970). Blocks. Raises SourceError."""
        try:
            with self._connect() as connection:
                oldest = connection.execute(_query(_OLDEST, connection)).scalar_one_or_none()
        except SQLAlchemyError as error:
            if has_no_table(error):
                return True
            raise _failed(error) from error
        return oldest is None or _seconds(oldest) > moment

    def read(self, user_id: int) -> Entries:
        """Nothing of a user whom the database does not know, or where it has no table of events yet. Blocks.

        Raises SourceError.
        """
        now, lifetimes = self.now(), self._lifetimes
        acted_since = _text(now - max(lifetimes.impressed, lifetimes.acted))
        served_since = _text(now - max(lifetimes.served, lifetimes.session))
        try:
            with self._connect() as connection:

                def rows(query: str, since: str, most: int) -> list[Any]:
                    parameters = {"user": user_id, "since": since, "most": most}
                    return list(connection.execute(_query(query, connection), parameters).fetchall())

                deeds = rows(_DEEDS, acted_since, SEEN_CAPACITY) + rows(self._old_hides, acted_since, SEEN_CAPACITY)
                feeds = rows(_FEEDS, served_since, MOST_FEEDS)
        except SQLAlchemyError as error:
            if has_no_table(error):
                return NOTHING
            raise _failed(error) from error
        # Of a deletion that failed half-way, rows are still there.
        deletion = read_forgotten(self._folder).get(user_id)
        forgotten = deletion.moment // 1000 if deletion is not None else 0
        entries = [
            entry
            for *deed, happened, received in deeds
            if _seconds(received) > forgotten
            for entry in _entry_of_deed(self._words, *deed, seconds=min(_seconds(happened), int(now)))
        ]
        for *feed, happened, received in feeds:
            if _seconds(received) > forgotten:
                entries += _entries_of_feed(*feed, seconds=min(_seconds(happened), int(now)))
        return merge_entries(NOTHING, np.array(entries, np.int64)) if entries else NOTHING


class Past:
    """What a worker's requests ask, on its event loop. Nothing is raised: a request goes on without."""

    def __init__(self, reader: PastReader, group: GroupCommit, settings: Settings, metrics: Metrics) -> None:
        self._reader = reader
        self._group = group
        self._metrics = metrics
        self._folder = settings.seen_dir
        self._wait_seconds = settings.user_read_timeout_milliseconds / 1000
        # A memory that is older has all that counts: hides count for as long as the database has them.
        self._complete_seconds = max(
            settings.events_retention_days * DAY_SECONDS,
            settings.seen_impressed_days * DAY_SECONDS,
            settings.seen_acted_days * DAY_SECONDS,
            settings.seen_served_seconds,
            settings.session_ttl_seconds,
        )
        self._threads = ThreadPoolExecutor(READING_THREADS, "past-reader")
        self._under_way: dict[bytes, asyncio.Task[None]] = {}
        self._owed_here: set[bytes] = set()  # of these, whose request did not wait for the end
        self._compared: int | None = None  # the beginning of a memory than which the database has older rows
        self._paused_until = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def may_know(self, key: bytes) -> bool:
        """Whether the database may know something of a user of whom the memory has nothing."""
        memory = self._group.memory
        return memory is not None and key.startswith(USER) and self._is_incomplete(memory)

    async def recall(self, key: bytes) -> bool:
        """Have the memory know what the database knows of a user of whom it has nothing, if that can be had in time;
        whether it may know more now."""
        memory = self._group.memory
        if memory is None or not self.may_know(key):
            return False
        read = self._under_way.get(key)
        if read is None and (len(self._under_way) >= MOST_UNDER_WAY or time.monotonic() < self._paused_until):
            self._owe(memory, key)
            return False
        if read is None:
            read = self._under_way[key] = asyncio.create_task(self._read(memory, key))
        done, _ = await asyncio.wait([read], timeout=self._wait_seconds)
        if not done:
            self._metrics.past_reads.labels("late").inc()
            self._owe(memory, key)
        return bool(done)

    def forget(self, key: bytes) -> None:
        """What is being read of a user is not to be remembered."""
        read = self._under_way.pop(key, None)
        if read is not None:
            read.cancel()

    async def run(self) -> None:
        """Until cancelled: read what is owed. One worker of the machine does."""
        with contextlib.ExitStack() as stack:
            has_lock = False
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    has_lock = has_lock or self._locks(stack)
                    if has_lock and self._group.memory is not None:
                        await self._read_owed(self._group.memory)
                except (OSError, MemoryFailed) as error:
                    log.warning("what is owed to the memory of users cannot be read yet", reason=str(error))

    def close(self) -> None:
        """Without waiting for the database; a thread that it holds up ends at its time limit."""
        for read in self._under_way.values():
            read.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_incomplete(self, memory: UserMemory) -> bool:
        return self._reader.now() - memory.began < self._complete_seconds

    async def _read(self, memory: UserMemory, key: bytes) -> None:
        try:
            entries = await self._entries(memory, user_of(key))
            if len(entries) or key in self._owed_here:
                memory.merge_past(key, entries)
        except SourceError as error:
            self._failed(str(error))
            self._owe(memory, key)
        except MemoryFailed as error:
            self._metrics.memory_failures.inc()
            log.warning("what is known of a user cannot be remembered", reason=str(error))
        else:
            self._paused_until, self._pause_seconds = 0.0, FIRST_PAUSE_SECONDS
            self._metrics.past_reads.labels("found" if len(entries) else "nothing").inc()
            self._owed_here.discard(key)
        finally:
            self._under_way.pop(key, None)

    async def _entries(self, memory: UserMemory, user_id: int) -> Entries:
        """Where the database has nothing from before the memory, as on an operator's first day, nobody is asked for."""
        loop = asyncio.get_running_loop()
        if self._compared != memory.began:
            if await loop.run_in_executor(self._threads, self._reader.knows_nothing_before, memory.began):
                memory.mark_complete()
                return NOTHING
            self._compared = memory.began
        return await loop.run_in_executor(self._threads, self._reader.read, user_id)

    def _failed(self, reason: str) -> None:
        self._metrics.past_reads.labels("failed").inc()
        if time.monotonic() >= self._paused_until:
            log.warning("what users did before cannot be read yet, and is as soon as it can", reason=reason)
            self._paused_until = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    def _owe(self, memory: UserMemory, key: bytes) -> None:
        if key in self._owed_here:
            return
        try:
            memory.owe(key)
        except MemoryFailed as error:
            self._metrics.memory_failures.inc()
            log.warning("it cannot be noted whose past has yet to be read", reason=str(error))
        else:
            if key in self._under_way:
                self._owed_here.add(key)

    def _locks(self, stack: contextlib.ExitStack) -> bool:
        """For as long as this worker lives."""
        descriptor = open_lock(self._folder / OWED_LOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        stack.callback(os.close, descriptor)
        return True

    async def _read_owed(self, memory: UserMemory) -> None:
        loop = asyncio.get_running_loop()
        while time.monotonic() >= self._paused_until and (keys := memory.owed(OWED_TOGETHER)):
            for key in keys:
                try:
                    entries = await loop.run_in_executor(self._threads, self._reader.read, user_of(key))
                except SourceError as error:
                    self._failed(str(error))
                    return
                memory.merge_past(key, entries)
                self._metrics.past_reads.labels("owed").inc()


def _entry_of_deed(
    words: Words,
    event: str,
    item_type: str,
    item_id: Any,
    slot_kind: str | None,
    session_id: str | None,
    *,
    seconds: int,
) -> Iterator[Entry]:
    """Nothing of a row that is none of this release."""
    meaning = words.meaning(event)
    if meaning is None or item_id is None:
        return
    try:
        number = words.type_number(item_type)
    except ValueError:
        return
    try:
        kind = words.kind_number(slot_kind) + 1 if slot_kind else 0
    except ValueError:
        kind = 0
    yield from entries_of_event(STATE_OF[meaning], number, int(item_id), kind, session_id, seconds)


def _entries_of_feed(properties: str, slots: bytes, session_id: str | None, *, seconds: int) -> list[Entry]:
    """Nothing of a row that is none of this release or an older one."""
    try:
        return list(entries_of_shown(shown_of_row(properties, slots), session_id, seconds))
    except (ValueError, TypeError):
        return []


def _text(seconds: float) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(0.0, seconds))).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(moment: str) -> int:
    return int(datetime.strptime(moment[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())


def _query(form: str, connection: Connection) -> TextClause:
    happened, received = (time_as_text(connection.dialect.name, name) for name in ("happened_at", "received_at"))
    return text(form.format(happened=happened, received=received))


def _failed(error: SQLAlchemyError) -> SourceError:
    return SourceError(f"recs_events: {words_of(error)}")
