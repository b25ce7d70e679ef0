"""What the flusher has read and the database does not have: records of the log, and copies on the fleet's stream."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from recommendation_service.flush.dead_letters import DeadLetter, dead_letter
from recommendation_service.flush.forgetting import Forgotten, read_forgotten
from recommendation_service.flush.rows import Event, received_ms_of
from recommendation_service.log.records import StreamedRecord, decode
from recommendation_service.log.segments import record_bytes
from recommendation_service.log.tail import LogTail, Removed

STREAMED = ""  # stands for the segment of a copy from the fleet's stream


class Fleet(Protocol):
    """The other machines' copies of events, where there are any (stream.py)."""

    def remove(self, entries: list[bytes]) -> None:
        """These are in the database now. Raises nothing."""

    def abandoned(self) -> list[tuple[bytes, list[bytes]]]:
        """Entries that no machine has flushed in time, with their records. Raises nothing."""

    def forgotten(self) -> dict[int, tuple[int, int]]:
        """Users to be forgotten by all machines: when that was said, in milliseconds since 1970 by Redis's clock, and
        how many milliseconds ago. Raises nothing."""


@dataclass
class _Decoded:
    """Payloads, taken apart."""

    payloads: int = 0
    records: list[Event] = field(default_factory=list)
    record_bytes: int = 0
    places: list[tuple[str, int, int]] = field(default_factory=list)  # of the records: segment, end, bytes
    undecodable: list[DeadLetter] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)

    def add(self, segment: str, payloads: list[bytes], ends: list[int]) -> None:
        """``segment``: its name; of copies on the fleet's stream STREAMED, and the milliseconds at which they came."""
        self.payloads += len(payloads)
        for payload, end in zip(payloads, ends, strict=True):
            try:
                record = decode(payload)
            except (msgspec.DecodeError, ValueError) as error:
                self.undecodable.append(dead_letter(payload, f"no record of this release: {error}"))
                continue
            if isinstance(record, StreamedRecord):
                self.entries.append(record.entry_id)
            else:
                self.records.append(record)
                self.places.append((segment, end, record_bytes(payload)))
                self.record_bytes += len(payload)


class Pending:
    """Bounded: ``read`` takes up as much as is missing to ``most`` records or ``most_bytes``.

    ``read_ahead`` reads as much once more, in a thread of its own while what is pending is written; nothing else here
    may be called meanwhile. The next ``read`` takes that up, so after a failed flush there may be twice the bound.
    """

    def __init__(self, folder: Path, fleet: Fleet | None, most: int, most_bytes: int) -> None:
        self._folder = folder
        self._tail = LogTail(folder)
        self._forgotten: Forgotten = {}  # as of the last look
        self.dropped: list[Event] = []  # records of forgotten users; they may be in the database, from before
        self.forgotten_records = 0  # how many were dropped in all
        self._fleet = fleet
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._of_user: Counter[int] = Counter()
        self._entries: list[bytes] = []  # of the fleet's stream, to be removed once all pending is flushed
        self._ahead: _Decoded | None = None
        self._mark = self._tail.mark()  # what is pending, or was flushed, is before it
        self.records: list[Event] = []
        self.undecodable: list[DeadLetter] = []
        self.most_of_a_user = 0
        self.has_more = False  # the log may have more than was taken up

    def read(self) -> int:
        """Take up what the log has beyond what is pending; how many records."""
        decoded, self._ahead = self._ahead or _Decoded(), None
        most = self._most - len(self.records) - len(decoded.records)
        most_bytes = self._most_bytes - self._bytes - decoded.record_bytes
        stretches = self._tail.read(most, most_bytes)
        self._mark = self._tail.mark()
        # Not all that was read is pending: what is pending does not tell whether there is more.
        payloads = [payload for stretch in stretches for payload in stretch.payloads]
        self.has_more = len(payloads) >= most or sum(map(len, payloads)) >= most_bytes
        for stretch in stretches:
            decoded.add(*stretch)
        count = decoded.payloads
        if self._fleet is not None and len(self.records) + len(decoded.records) < self._most:
            for entry, copies in self._fleet.abandoned():
                decoded.add(STREAMED, copies, [_milliseconds(entry)] * len(copies))
                decoded.entries.append(entry)
        self._take(self._without_forgotten(decoded))
        return count

    def forget(self, written: Sequence[Event] = ()) -> list[Event]:
        """Drop what is pending of users who were to be forgotten since the last look: all of it was there before.

        Of ``written``, what was written meanwhile, those of the same users: they are dropped as well, and given.
        """
        forgotten = read_forgotten(self._folder)
        new = {user: deletion for user, deletion in forgotten.items() if self._forgotten.get(user) != deletion}
        self._forgotten = forgotten
        if not new:
            return []

        def goes(record: Event) -> bool:
            return record.user_id in new and new[record.user_id].covers_time(record)

        self._drop([record for record in self.records if goes(record)])
        self.records = [record for record in self.records if not goes(record)]
        late = [record for record in written if goes(record)]
        self._drop(late)
        return late

    def _without_forgotten(self, decoded: _Decoded) -> _Decoded:
        """What was just read, or read ahead, by its places; what was pending before by ``forget``."""
        self.forget()
        if not self._forgotten:
            return decoded
        kept = _Decoded(decoded.payloads, undecodable=decoded.undecodable, entries=decoded.entries)
        for record, (segment, end, size) in zip(decoded.records, decoded.places, strict=True):
            deletion = self._forgotten.get(record.user_id)
            if deletion is None:
                covered = False
            elif segment == STREAMED:
                covered = end <= deletion.moment
            else:
                covered = deletion.covers(record, segment, end, size)
            if covered:
                self._drop([record])
            else:
                kept.records.append(record)
                kept.places.append((segment, end, size))
                kept.record_bytes += size
        return kept

    def _drop(self, records: list[Event]) -> None:
        self.dropped += records
        self.forgotten_records += len(records)

    @property
    def may_read_ahead(self) -> bool:
        """Whether there is something to read, and what is pending is not over the bound already."""
        return self.has_more and len(self.records) <= self._most and self._bytes < 2 * self._most_bytes

    def read_ahead(self) -> None:
        """Read, for the next ``read``. Raises OSError, as that does."""
        decoded = _Decoded()
        for stretch in self._tail.read(self._most, self._most_bytes):
            decoded.add(*stretch)
        self._ahead = decoded

    def settle(self) -> Removed:
        """All that is pending is in the database, or among the dead letters."""
        removed = self._tail.settle(self._mark)
        if self._entries and self._fleet is not None:
            self._fleet.remove(self._entries)
        self._entries = []
        return removed

    def keep(self, records: list[Event]) -> None:
        """These are left of what was pending."""
        self.records = records
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
    def unreadable(self) -> int:
        """Segments that this process may not read."""
        return len(self._tail.unreadable)

    @property
    def waiting_bytes(self) -> int:
        """Of the log, see LogTail."""
        return self._tail.waiting_bytes

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest record was accepted, in milliseconds since 1970."""
        return min(map(received_ms_of, self.records), default=None)

    def _take(self, decoded: _Decoded) -> None:
        self.records += decoded.records
        self.undecodable += decoded.undecodable
        self._entries += decoded.entries
        self._bytes += decoded.record_bytes
        of_user = Counter(record.user_id for record in decoded.records)
        del of_user[0]  # all anonymous people have one number
        self._of_user += of_user
        if of_user:
            self.most_of_a_user = max(self.most_of_a_user, *(self._of_user[user_id] for user_id in of_user))


def _milliseconds(entry: bytes) -> int:
    """When an entry came on the stream, by Redis's clock: its id, after the stream's space, begins with it."""
    return int(entry.rpartition(b"|")[2].split(b"-")[0])
