"""What users have seen, read again from what the database does not have yet, the log.

Where a machine's memory of users was begun anew beside a log that is there, after a restart of the machine for one.
The flusher's process does it, in a thread of its own: nothing waits for it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import structlog

from recommendation_service.core.config import Settings
from recommendation_service.flush.forgetting import is_forgotten, read_forgotten
from recommendation_service.log.records import STATE_OF, FeedRecord, StreamedRecord, decode
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.from_records import Entry, entries_of_feed, entry_of_event
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, opened
from recommendation_service.ranking.seen import session_number

log = structlog.get_logger(__name__)

BATCH = 10_000
RETRY_SECONDS = 5.0


def start_replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    """In a thread, until it is done or ``stop`` is set."""
    threading.Thread(target=_replay, args=(settings, now, stop), name="log-replay", daemon=True).start()


def _replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    said = ""
    while not stop.is_set():
        try:
            replay(settings, now, stop)
        except (MemoryFailed, OSError) as error:
            if str(error) != said:
                said = str(error)
                log.error("what users have seen cannot be filled from the log yet", reason=said)
        else:
            return
        stop.wait(RETRY_SECONDS)


def replay(settings: Settings, now: Callable[[], float], stop: threading.Event) -> None:
    """Once for each memory. Raises MemoryFailed, OSError."""
    with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
        if memory.is_log_read():
            return
        users: set[bytes] = set()
        for batch in _batches(settings.events_dir, now):
            users |= _merge(memory, batch)
            if stop.is_set():
                return
        memory.mark_log_read()
    log.info("what users have seen was read from the log", users=len(users))


def _merge(memory: UserMemory, entries: Iterable[tuple[bytes, Entry]]) -> set[bytes]:
    by_user: dict[bytes, list[Entry]] = {}
    for key, entry in entries:
        by_user.setdefault(key, []).append(entry)
    for key, of_user in by_user.items():
        memory.merge(key, np.array(of_user, np.int64))
    return set(by_user)


def _batches(folder: Path, now: Callable[[], float]) -> Iterator[list[tuple[bytes, Entry]]]:
    forgotten = read_forgotten(folder)
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        position, finished = 0, False
        while not finished:
            try:
                found = scan(path, position, BATCH)
            except (FileNotFoundError, PermissionError):
                break  # flushed meanwhile, or another user's
            batch: list[tuple[bytes, Entry]] = []
            for payload, end in zip(found.payloads, found.ends, strict=True):
                try:
                    record = decode(payload)
                except msgspec.DecodeError:
                    continue  # the flusher sets it aside
                if isinstance(record, StreamedRecord) or is_forgotten(record, forgotten, path.name, end, payload):
                    continue
                key = user_key(record.user_id, session_number(record.session_id))
                if key is None:
                    continue
                latest = int(now())
                if isinstance(record, FeedRecord):
                    batch += [(key, entry) for entry in entries_of_feed(record, latest)]
                else:
                    entry = entry_of_event(
                        STATE_OF[record.event],
                        record.item_type,
                        record.item_id,
                        record.slot_kind,
                        record.session_id,
                        min(record.received_ms // 1000, latest),
                    )
                    batch.append((key, entry))
            yield batch
            finished = not found.payloads or found.finished
            position = found.position
