"""What the flusher has read and the database does not have: records of the log, and copies on the fleet's stream."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from recommendation_service.flush.dead_letters import DeadLetter, dead_letter
from recommendation_service.flush.rows import Event
from recommendation_service.log.forgotten import Forgotten, read_forgotten
from recommendation_service.log.marks import FLUSH, UNREAD, Place
from recommendation_service.log.reader import Batch, LogReader
from recommendation_service.log.records import received_ms_of
from recommendation_service.log.tail import Stretch, take_apart

log = structlog.get_logger(__name__)

STREAMED = ""  # stands for the segment of a copy from the fleet's stream


class Fleet(Protocol):
    """The other machines' copies of events, where there are any (log/stream.py)."""

    def remove(self, entries: list[bytes]) -> None:
        """These are in the database now. Raises nothing."""

    def abandoned(self) -> list[tuple[bytes, list[bytes]]]:
        """Entries that no machine has flushed in time, with their records. Raises nothing."""

    def forgotten(self) -> dict[int, tuple[int, int]]:
        """Users to be forgotten by all machines: when that was said, in milliseconds since 1970 by Redis's clock, and
        how many milliseconds ago. Raises nothing."""


@dataclass
class Damage:
    """Of segments that were flushed to their end."""

    segments: int = 0  # with stretches that are no record
    torn: int = 0  # half-written records at a segment's end


class Pending:
    """Bounded: ``read`` takes up as much as is missing to ``most`` records or ``most_bytes``.

    ``read_ahead`` reads as much once more, in a thread of its own while what is pending is written; nothing else here
    may be called meanwhile. The next ``read`` takes that up, so after a failed flush there may be twice the bound.
    """

    def __init__(self, folder: Path, fleet: Fleet | None, most: int, most_bytes: int) -> None:
        self._folder = folder
        self._reader = LogReader(folder, FLUSH)
        self._forgotten: Forgotten = {}  # as of the last look
        self.dropped: list[Event] = []  # records of forgotten users; they may be in the database, from before
        self.forgotten_records = 0  # how many were dropped in all
        self._fleet = fleet
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._of_user: Counter[int] = Counter()
        self._entries: list[bytes] = []  # of the fleet's stream, to be removed once all pending is flushed
        self._ahead: list[Stretch] = []
        self._mark = self._reader.settled  # what is pending, or was flushed, is before it
        self.records: list[Event] = []
        self.undecodable: list[DeadLetter] = []
        self.most_of_a_user = 0
        self.oldest_ms: int | None = None  # when the oldest record was accepted, in milliseconds since 1970
        self.has_more = False  # the log may have more than was taken up

    def close(self) -> None:
        """Another may read as ``flush``."""
        self._reader.close()

    def read(self) -> int:
        """Take up what the log has beyond what is pending; how many records."""
        most = self._most - len(self.records) - sum(len(stretch.records) for stretch in self._ahead)
        most_bytes = self._most_bytes - self._bytes - sum(stretch.payload_bytes for stretch in self._ahead)
        batch = self._read(most, most_bytes)
        # Not all that was read is pending: what is pending does not tell whether there is more.
        self._mark, self.has_more = batch.mark, batch.has_more
        # What is pending by the time that it was read at, what was just read, or read ahead, by its places.
        self._forget(self._reader.forgotten)
        stretches = [stretch.without(self._forgotten) for stretch in self._ahead] + batch.stretches
        self._ahead = []
        for stretch in stretches:
            self._take(stretch)
        return sum(stretch.payloads for stretch in stretches) + self._take_abandoned()

    def _read(self, most: int, most_bytes: int) -> Batch:
        batch = self._reader.read(most, most_bytes)
        if batch.restarted:
            log.warning("segments are flushed again, as their positions were lost", segments=batch.restarted)
        return batch

    def _take_abandoned(self) -> int:
        """Copies of another machine's events, while there is room; how many."""
        count = 0
        if self._fleet is not None and len(self.records) < self._most:
            for entry, copies in self._fleet.abandoned():
                copied = take_apart(STREAMED, copies, [_milliseconds(entry)] * len(copies))
                records: list[Event] = []
                dropped: list[Event] = []
                for record, moment in zip(copied.records, copied.begins, strict=True):
                    deletion = self._forgotten.get(record.user_id)
                    (dropped if deletion is not None and moment <= deletion.moment else records).append(record)
                self._take(copied._replace(records=records, forgotten=dropped, entries=[*copied.entries, entry]))
                count += len(copies)
        return count

    def forget(self, written: Sequence[Event] = ()) -> list[Event]:
        """Drop what is pending of users who were to be forgotten since the last look: all of it was there before.

        Of ``written``, what was written meanwhile, those of the same users: they are dropped as well, and given.
        """
        return self._forget(read_forgotten(self._folder), written)

    def _forget(self, forgotten: Forgotten, written: Sequence[Event] = ()) -> list[Event]:
        new = {user: deletion for user, deletion in forgotten.items() if self._forgotten.get(user) != deletion}
        self._forgotten = forgotten
        if not new:
            return []

        def goes(record: Event) -> bool:
            return record.user_id in new and new[record.user_id].covers_time(record)

        self._drop([record for record in self.records if goes(record)])
        self.records = [record for record in self.records if not goes(record)]
        self.oldest_ms = _oldest_ms(self.records)
        late = [record for record in written if goes(record)]
        self._drop(late)
        return late

    def _drop(self, records: list[Event]) -> None:
        self.dropped += records
        self.forgotten_records += len(records)

    @property
    def may_read_ahead(self) -> bool:
        """Whether there is something to read, and what is pending is not over the bound already."""
        return self.has_more and len(self.records) <= self._most and self._bytes < 2 * self._most_bytes

    def read_ahead(self) -> None:
        """Read, for the next ``read``. Raises OSError, as that does."""
        self._ahead = self._read(self._most, self._most_bytes).stretches

    def settle(self) -> Damage:
        """All that is pending is in the database, or among the dead letters."""
        before, after = self._reader.settled.places, self._mark.places
        with contextlib.suppress(OSError):  # a full disk: after a restart it is flushed once more
            self._reader.settle(self._mark)
        if self._entries and self._fleet is not None:
            self._fleet.remove(self._entries)
        self._entries = []
        damage = Damage()
        for name, place in after.items():
            if place.finished and not before.get(name, UNREAD).finished:
                if place.torn:
                    log.warning("a half-written record was dropped", segment=name)
                if place.damaged:
                    log.error("a segment of the event log is damaged", segment=name, stretches=place.damaged)
                damage.torn += place.torn
                damage.segments += place.damaged > 0
        return damage

    def keep(self, records: list[Event]) -> None:
        """These are left of what was pending."""
        self.records = records
        self.oldest_ms = _oldest_ms(records)
        if not records:
            self._bytes, self.most_of_a_user = 0, 0
            self._of_user.clear()

    def __bool__(self) -> bool:
        """Whether there is anything that a flush would do."""
        return bool(self.records or self.undecodable or self._entries or self.dropped)

    @property
    def is_full(self) -> bool:
        return len(self.records) >= self._most or self._bytes >= self._most_bytes

    @property
    def settled(self) -> Mapping[str, Place]:
        """How far each segment is flushed."""
        return self._reader.settled.places

    @property
    def finished_bytes(self) -> int:
        """What segments take that are flushed to their end, and are there for other readers."""
        return self._reader.finished_bytes

    @property
    def unreadable(self) -> int:
        """Segments that this process may not read."""
        return self._reader.unreadable

    @property
    def waiting_bytes(self) -> int:
        """Of the log, see LogReader."""
        return self._reader.waiting_bytes

    def _take(self, stretch: Stretch) -> None:
        self.records += stretch.records
        oldest_ms = _oldest_ms(stretch.records)
        if self.oldest_ms is None or (oldest_ms is not None and oldest_ms < self.oldest_ms):
            self.oldest_ms = oldest_ms
        self._drop(stretch.forgotten)
        self.undecodable += [dead_letter(payload, reason) for payload, reason in stretch.undecodable]
        self._entries += stretch.entries
        self._bytes += stretch.payload_bytes
        of_user = Counter(record.user_id for record in stretch.records)
        del of_user[0]  # all anonymous people have one number
        self._of_user += of_user
        if of_user:
            self.most_of_a_user = max(self.most_of_a_user, *(self._of_user[user_id] for user_id in of_user))


def _oldest_ms(records: Sequence[Event]) -> int | None:
    return min(map(received_ms_of, records), default=None)


def _milliseconds(entry: bytes) -> int:
    """When an entry came on the stream, by Redis's clock: its id, after the stream's space, begins with it."""
    return int(entry.rpartition(b"|")[2].split(b"-")[0])
