"""What users have seen, read again: from ``recs_events`` and from what is not there yet, the log.

Done by the flusher: at a first start, when the memory's file was lost, or after the machine was restarted. Feeds go on
meanwhile; what is read is merged with what they note.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from sqlalchemy import text
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.events.forgetting import is_forgotten, read_forgotten
from recommendation_service.events.records import (
    ITEM_TYPES,
    STATE_OF,
    FeedRecord,
    StreamedRecord,
    decode,
)
from recommendation_service.events.rows import unpack_slots
from recommendation_service.events.segments import SUFFIX, scan
from recommendation_service.events.tables import transaction
from recommendation_service.events.user_memory import MemoryFailed, UserMemory, lifetimes_of, opened, user_key
from recommendation_service.ranking.policy import KINDS
from recommendation_service.ranking.seen import EPOCH, SERVED, Lifetimes, creator_key, item_key, session_number

log = structlog.get_logger(__name__)

BATCH = 10_000
CHALLENGE, CREATOR = ITEM_TYPES.index("challenge"), ITEM_TYPES.index("creator")

_FEEDBACK = """SELECT id, user_id, session_id, event, item_type, item_id, slot_kind, CAST(happened_at AS CHAR)
FROM recs_events
WHERE id > :after AND event <> 'feed' AND (happened_at >= :since OR event = 'hide')
ORDER BY id LIMIT :most"""
_FEEDS = """SELECT id, slots FROM recs_events
WHERE id > :after AND event = 'feed' AND happened_at >= :since ORDER BY id LIMIT :most"""

Entry = tuple[int, int]


class Rebuild:
    """Fills the machine's memory once, where it was begun anew: first from the log, then from the database."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._lifetimes = lifetimes_of(settings)
        self._log_is_read = False
        self.is_done = not settings.seen_state

    def step(self, engine: Engine | None) -> None:
        """A try; ``engine`` None: the database cannot be asked yet."""
        if self.is_done:
            return
        settings = self._settings
        try:
            with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
                if memory.is_rebuilt():
                    self.is_done = True
                    return
                if not self._log_is_read:
                    merge_all(memory, _of_log(settings.events_dir))
                    self._log_is_read = True
                if engine is None:
                    return
                users = merge_all(memory, _of_database(engine, self._lifetimes, self._now()))
                memory.mark_rebuilt()
        except SourceError as error:
            log.warning("what users have seen cannot be read from recs_events yet", reason=str(error))
            return
        except MemoryFailed as error:
            log.error("what users have seen cannot be filled from recs_events", reason=str(error))
        else:
            log.info("what users have seen was read from recs_events", users=users)
        self.is_done = True


def merge_all(memory: UserMemory, batches: Iterable[list[tuple[bytes, Entry]]]) -> int:
    """Merge entries into the memory; of how many users. Raises MemoryFailed."""
    users: set[bytes] = set()
    for batch in batches:
        users |= _merge(memory, batch)
    return len(users)


def _merge(memory: UserMemory, entries: Iterable[tuple[bytes, Entry]]) -> set[bytes]:
    by_user: dict[bytes, list[Entry]] = {}
    for key, entry in entries:
        by_user.setdefault(key, []).append(entry)
    for key, of_user in by_user.items():
        memory.merge(key, np.array(of_user, np.int64))
    return set(by_user)


def _of_log(folder: Path) -> Iterator[list[tuple[bytes, Entry]]]:
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
                if isinstance(record, FeedRecord):
                    batch += _of_feed(record)
                else:
                    batch += _of_feedback(
                        record.user_id,
                        record.session_id,
                        STATE_OF[record.event],
                        record.item_type,
                        record.item_id,
                        record.slot_kind,
                        record.received_ms // 1000,
                    )
            yield batch
            finished = not found.payloads or found.finished
            position = found.position


def _of_database(engine: Engine, lifetimes: Lifetimes, now: float) -> Iterator[list[tuple[bytes, Entry]]]:
    for rows in _batches(engine, _FEEDBACK, now - max(lifetimes.impressed, lifetimes.acted)):
        yield [
            entry
            for _, user, session, event, item_type, item, kind, happened in rows
            for entry in _of_feedback(
                int(user),
                session,
                STATE_OF[event],
                ITEM_TYPES.index(item_type),
                int(item),
                KINDS.index(kind) + 1 if kind else 0,
                _seconds(happened),
            )
        ]
    for rows in _batches(engine, _FEEDS, now - max(lifetimes.served, lifetimes.session)):
        yield [entry for _, slots in rows for entry in _of_feed(unpack_slots(slots))]


def _batches(engine: Engine, query: str, since: float) -> Iterator[list[Any]]:
    moment = (datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(0.0, since))).strftime("%Y-%m-%d %H:%M:%S")
    after = 0
    while True:
        with transaction(engine) as connection:
            rows = list(connection.execute(text(query), {"after": after, "since": moment, "most": BATCH}))
        if not rows:
            return
        after = int(rows[-1][0])
        yield rows


def _of_feed(record: FeedRecord) -> Iterator[tuple[bytes, Entry]]:
    session = session_number(record.session_id)
    key = user_key(record.user_id, session)
    if key is not None:
        slots = record.slots()
        for item, kind in zip(slots.items.tolist(), slots.kinds.tolist(), strict=True):
            yield key, (item, _detail(record.happened_ms // 1000, session, kind + 1, SERVED))


def _of_feedback(
    user_id: int, session_id: str | None, state: int, item_type: int, item_id: int, kind: int, seconds: int
) -> Iterator[tuple[bytes, Entry]]:
    session = session_number(session_id)
    key = user_key(user_id, session)
    if key is not None:
        item = creator_key(item_id) if item_type == CREATOR else item_key(item_id, is_challenge=item_type == CHALLENGE)
        yield key, (item, _detail(seconds, session, kind, state))


def _detail(seconds: int, session: int, kind: int, state: int) -> int:
    return max(0, seconds - EPOCH) << 32 | session << 8 | kind << 4 | state


def _seconds(happened: str) -> int:
    return int(datetime.strptime(happened[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
