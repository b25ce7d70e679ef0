"""What users have seen, read again from what the database does not have yet, the log.

Where a machine's memory of users was begun anew beside a log that is there, after a restart of the machine for one.
The flusher's process does it, in a thread of its own: nothing waits for it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.log.marks import REBUILD, Mark, registered
from recommendation_service.log.reader import LogReader
from recommendation_service.log.records import STATE_OF, FeedRecord, Record
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.from_records import Entry, entries_of_event, entries_of_feed
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, opened
from recommendation_service.ranking.seen import session_number

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


def start_replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    """In a thread, until it is done or ``stop`` is set."""
    threading.Thread(target=_replay, args=(settings, now, stop), name="log-replay", daemon=True).start()


def _replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    said = ""
    while not stop.is_set():
        try:
            replay(settings, now, stop)
        except (MemoryFailed, SourceError, OSError) as error:
            if str(error) != said:
                said = str(error)
                log.error("what users have seen cannot be filled from the log yet", reason=said)
        else:
            return
        stop.wait(RETRY_SECONDS)


def replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    """Once for each memory. Raises MemoryFailed, SourceError, OSError."""
    with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
        if memory.is_log_read():
            if REBUILD in registered(settings.events_dir):  # of one that was killed in between
                LogReader(settings.events_dir, REBUILD).strike_off()
            return
        users: set[bytes] = set()
        # From the beginning, whatever the last one came to: that may have filled another memory, and to merge an entry
        # twice is to merge it once.
        with LogReader(settings.events_dir, REBUILD, since=Mark()) as reader:
            has_more = True
            while has_more:
                batch = reader.read()
                if batch.missed is not None:
                    log.warning("what users have seen lacks a part of the log", records=batch.missed.records)
                for stretch in batch.stretches:
                    users |= _merge(memory, _entries(stretch.records, int(now())))
                with contextlib.suppress(OSError):  # a full disk: its segments stay for a while longer
                    reader.settle(batch.mark)
                if stop.is_set():
                    return
                has_more = batch.has_more
            memory.mark_log_read()
            reader.strike_off()
    log.info("what users have seen was read from the log", users=len(users))


def _merge(memory: UserMemory, entries: Iterable[tuple[bytes, Entry]]) -> set[bytes]:
    by_user: dict[bytes, list[Entry]] = {}
    for key, entry in entries:
        by_user.setdefault(key, []).append(entry)
    for key, of_user in by_user.items():
        memory.merge(key, np.array(of_user, np.int64))
    return set(by_user)


def _entries(records: Iterable[Record], latest: int) -> Iterator[tuple[bytes, Entry]]:
    """What records say of users' memories; no later than a second since 1970."""
    for record in records:
        key = user_key(record.user_id, session_number(record.session_id))
        if key is None:
            continue
        if isinstance(record, FeedRecord):
            entries = entries_of_feed(record, latest)
        else:
            entries = entries_of_event(
                STATE_OF[record.event],
                record.item_type,
                record.item_id,
                record.slot_kind,
                record.session_id,
                min(record.received_ms // 1000, latest),
            )
        for entry in entries:
            yield key, entry
