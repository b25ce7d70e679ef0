"""What users have seen, for all processes of a machine at once: an LMDB file that every worker maps.

A feed reads a user's entries, ranks, and replaces them if nobody else has replaced them meanwhile; else it ranks again
with the new ones. So two requests of one user at once, on whichever workers, never show one item twice, and no lock is
held while a feed is made. Answers that may be asked for again (answers.py) are kept in the same transaction.

The file is written through its mapping where the file system keeps the room that was taken for it (disk_room.py); a
disk that is full for a while costs no memory and no repeats.

Nothing here is synced: a process that is killed loses nothing, as what it wrote is the operating system's; after a
crash of the machine the file is not trusted but begun anew (memory_file.py). What the database knows of a user is read
when the user comes (past.py).

Of the file's limit feeds may fill a part; a little more is for what people do, so that a hide finds room while what was
served longest ago gives way (``make_room``); the rest is LMDB's, which deletes by copying.
"""

import contextlib
import itertools
import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import lmdb
import numpy as np

from recommendation_service.core.config import Settings
from recommendation_service.core.files import locked, make_folder
from recommendation_service.memory.answers import Answers, StoredAnswer
from recommendation_service.memory.changes import TRANSACTION_BYTES, Change, transactions
from recommendation_service.memory.disk_room import DiskRoom
from recommendation_service.memory.entries import NOTHING, Entries, as_entries, user_key
from recommendation_service.memory.eviction import count_ages, let_go
from recommendation_service.memory.memory_file import DAMAGES, LOCK_FILE, FileId, file_id, open_file
from recommendation_service.memory.user_entries import Stored, UserEntries, has_mark
from recommendation_service.ranking.seen import EPOCH, HIDDEN, Lifetimes, merge_entries

if TYPE_CHECKING:
    from lmdb import _Database as Database

T = TypeVar("T")
DAY_SECONDS = 86_400
# On the disk beyond what is used: LMDB would else meet a full disk when it commits.
RESERVE_BYTES = 16 << 20
SWEPT_TOGETHER = 50  # whom a sweep deletes in one
_SECONDS = struct.Struct(">Q")
BEGAN = b"began"
HAD_ALL = b"rebuilt"  # noted by releases that read all of recs_events when a memory was begun
LOG_READ = b"log"
SETTLES_FROM = b"settles from"
# A memory that an older release began has readers that know nothing of entries that settle, until they have ended.
OLDER_RELEASE_SECONDS = 3600
MOST_OWED = 100_000
SPARE_BYTES = 8 << 20  # of the limit: a full map could not even be swept, as LMDB deletes by copying
# Of the part that feeds may fill: from where on room is made, down to how much content, and most that answers take.
CROWDED, ROOMY, MOST_ANSWERS = 7 / 8, 1 / 2, 1 / 2
LOOKS_FOR_ROOM = 8


class MemoryFailed(Exception):
    """The memory could not be read or written: it or the disk is full, or the file is damaged."""


class PagesHeld(MemoryFailed):
    """There is room, and somebody still reads what was in it: over as soon as they go on."""


class NoRoomForAnswer(MemoryFailed):
    """The entries would have found room."""


class AnswerNotKept(MemoryFailed):
    """All else was done."""


class UserMemory:
    """Opened in each process after it was forked."""

    def __init__(
        self, folder: Path, limit_bytes: int, now: Callable[[], float] = time.time, damaged: FileId | None = None
    ) -> None:
        """``damaged``: not that file. Raises MemoryFailed."""
        self._swept = b""  # the key at which the next sweep begins
        self._folder = folder
        self._file = folder / "lmdb" / "data.mdb"
        self._limit = limit_bytes
        self._now = now
        self._room_until = -1  # the disk has room for the transactions up to that one, whoever begins them
        self._full = self._full_for_feeds = self._full_of_answers = False  # at the last look
        self._limited: tuple[Database, ...] = ()
        self._room = limit_bytes - min(SPARE_BYTES, limit_bytes // 2)  # what feeds may fill
        self._room_of_deeds = self._room + (limit_bytes - self._room) // 2
        self._bytes_to_look_at = 0  # below so many nothing is let go, as there is room within them
        self.is_crowded = False  # make_room is wanted
        self.is_damaged = False  # an access met what is no memory
        try:
            make_folder(folder)
            with locked(folder / LOCK_FILE):
                try:
                    opened = self._open(folder, damaged)
                except DAMAGES:  # met within the file, so that it could be opened
                    opened = self._open(folder, file_id(folder))
                self.identity, self.was_damaged = opened
        except (OSError, lmdb.Error) as error:
            raise MemoryFailed(f"the memory in {folder} cannot be opened: {error}") from error

    def _open(self, folder: Path, damaged: FileId | None) -> tuple[FileId, bool]:
        """Which file it is, and whether the one before was damaged. Raises MemoryFailed, OSError, lmdb.Error."""
        self._environment, identity, was_damaged = open_file(folder, self._limit, damaged)
        try:
            self._environment.reader_check()  # places of processes that were killed
            self._page_bytes = int(self._environment.stat()["psize"])
            self._map_bytes = int(self._environment.info()["map_size"])
            self._disk_room = DiskRoom(self._file, self._map_bytes, RESERVE_BYTES, TRANSACTION_BYTES)
            has_room = self._has_room()  # without it what is there can be read
            seen = self._environment.open_db(b"seen", create=has_room)
            self._answers = Answers(self._environment.open_db(b"answers", create=has_room))
            self._facts = self._environment.open_db(b"facts", create=has_room)
            self._owed = self._environment.open_db(b"owed", create=has_room)
            self._entries = UserEntries(seen, self._open_settled(seen, has_room))
            self._limited, self._room_until = (self._answers.database, *self._entries.tables), -1
            self.began = self._began(writes=has_room)
        except BaseException:
            self._environment.close()
            raise
        return identity, was_damaged

    def _open_settled(self, seen: "Database", has_room: bool) -> "Database | None":
        """Where it is made now, beside users of an older release, nothing settles for a while."""
        try:
            settled = self._environment.open_db(b"settled", create=False)
        except lmdb.NotFoundError:
            if not has_room:
                self._settles_from = math.inf
                return None
            settled = self._environment.open_db(b"settled")
            with self._begin(self._facts) as transaction:
                if transaction.stat(seen)["entries"]:
                    transaction.put(SETTLES_FROM, _SECONDS.pack(int(self._now()) + OLDER_RELEASE_SECONDS))
        with self._environment.begin(db=self._facts) as transaction:
            [self._settles_from] = _SECONDS.unpack(transaction.get(SETTLES_FROM) or bytes(_SECONDS.size))
        return settled

    def close(self) -> None:
        self._environment.close()

    def read(self, key: bytes) -> bytes:
        """The user's entries; nothing of one who is not remembered. Raises MemoryFailed."""
        return self.read_all((key,))[0]

    def stored(self, key: bytes) -> Stored:
        """The user's entries as a feed takes them. Raises MemoryFailed."""
        try:
            transaction = self._environment.begin(db=self._entries.database)
            try:
                value: bytes = transaction.get(key) or b""
                return self._entries.stored(transaction, key, value) if has_mark(value) else Stored(value)
            finally:
                transaction.abort()
        except lmdb.Error as error:
            raise self._failed(error) from error

    def whole(self, key: bytes, value: bytes) -> bytes:
        """All of a user's entries, where ``value`` is what is stored, or is about to be. Raises MemoryFailed."""
        return self._read(lambda transaction: self._entries.whole(transaction, key, value))

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """``read`` of several, some dozens at most. Raises MemoryFailed."""
        return self._read(lambda transaction: [self._entries.read(transaction, key) for key in keys])

    def _read(self, read: "Callable[[lmdb.Transaction[bytes]], T]") -> T:
        """In a transaction of its own, over within some microseconds: what is replaced meanwhile keeps its room, so a
        process that is stopped in the middle of one has the file grow to its limit. Raises MemoryFailed."""
        try:
            transaction = self._environment.begin()
            try:
                return read(transaction)
            finally:
                transaction.abort()
        except lmdb.Error as error:
            raise self._failed(error) from error

    def replace(
        self, key: bytes, old: bytes, new: bytes, answer: tuple[bytes, StoredAnswer] | None = None
    ) -> StoredAnswer | bool:
        """Put ``new`` in the place of ``old``; False, and nothing is written, where that is not there any more.

        ``answer``: (its key, what to keep under it), in the same step. Where another answer was kept meanwhile, that
        one is given, and nothing is written. Raises MemoryFailed.
        """
        [outcome] = self.replace_all([Change(key, old, new, answer)])
        if isinstance(outcome, MemoryFailed):
            raise outcome
        return outcome

    def replace_all(self, changes: Sequence[Change]) -> list[StoredAnswer | bool | MemoryFailed]:
        """``replace`` for each, in their order, in as few transactions as there is room for."""
        outcomes: list[StoredAnswer | bool | MemoryFailed] = []
        for some in transactions(changes):
            done: list[StoredAnswer | bool | MemoryFailed]
            try:
                with self._begin(self._entries.database) as transaction:
                    done = [self._replace(transaction, change) for change in some]
            except lmdb.Error as error:
                if len(some) > 1:  # nothing of it was written: what failed one of them is not to befall the others
                    done = [outcome for change in some for outcome in self.replace_all([change])]
                else:
                    done = [self._failed(error)]
            except MemoryFailed as error:
                done = [error] * len(some)
            outcomes += done
        return outcomes

    def _replace(self, transaction: "lmdb.Transaction[bytes]", change: Change) -> StoredAnswer | bool | MemoryFailed:
        key, old, new, answer = change.key, change.old, change.new, change.answer
        if answer is not None:
            there = self._answers.find(transaction, answer[0], self._now())
            if there is not None:
                return there
        value: bytes = transaction.get(key) or b""
        if value != old and (has_mark(old) or self._entries.whole(transaction, key, value) != old):
            return False
        if (change.summary or len(new) > len(old)) and (self._full or (self._full_for_feeds and not change.is_deed)):
            return self._limit_reached()
        if answer is not None and (self._full_of_answers or self._full_for_feeds):
            return _no_room_for_answer()
        if change.summary:
            self._settle(transaction, change, value)
        elif new != old:
            if has_mark(value) and not has_mark(new):
                self._entries.put(transaction, key, new)
            else:
                transaction.put(key, new)
        if answer is not None:
            self._answers.put(transaction, *answer, self._now())
        return True

    def _settle(self, transaction: "lmdb.Transaction[bytes]", change: Change, value: bytes) -> None:
        key, old, new = change.key, change.old, change.new
        if self._now() >= self._settles_from:
            self._entries.settle(transaction, key, value, old, change.summary, new)
        else:
            self._entries.put(transaction, key, old + new)

    def take_back(self, key: bytes, written: Entries) -> None:
        """Remove entries that were put for a feed that nobody was shown, where they are still as written.

        Raises MemoryFailed.
        """
        try:
            with self._begin() as transaction:
                now = as_entries(self._entries.read(transaction, key))
                unwanted = {(int(item), int(detail)) for item, detail in written}
                kept = [row for row in now.tolist() if tuple(row) not in unwanted]
                self._entries.put(transaction, key, np.array(kept, np.int64).reshape(-1, 2).tobytes())
        except lmdb.Error as error:
            raise self._failed(error) from error

    def answer(self, key: bytes) -> StoredAnswer | None:
        """What was answered under this key in the last minute. Raises MemoryFailed."""
        try:
            with self._environment.begin() as transaction:
                return self._answers.find(transaction, key, self._now())
        except lmdb.Error as error:
            raise self._failed(error) from error

    def merge(self, key: bytes, entries: Entries) -> None:
        """Add entries that another memory has: a record in the database, or another machine. Raises MemoryFailed."""
        try:
            with self._begin() as transaction:
                self._check_limit()
                self._merge(transaction, key, entries)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _merge(self, transaction: "lmdb.Transaction[bytes]", key: bytes, entries: Entries) -> None:
        ours = as_entries(self._entries.read(transaction, key))
        self._entries.put(transaction, key, merge_entries(ours, entries).tobytes())

    def forget(self, key: bytes, until: int | None = None, now: int = 0) -> int:
        """Remove a user's entries up to ``until`` (None: all), and those of a time that is yet to come; how many.

        ``until``, ``now``: seconds since 1970. Raises MemoryFailed.
        """
        try:
            with self._begin() as transaction:
                old = as_entries(self._entries.read(transaction, key))
                self._entries.delete(transaction, key)
                when = (old[:, 1] >> 32) + EPOCH
                kept = old[(until < when) & (when <= now)] if until is not None else NOTHING
                if len(kept):
                    self._entries.put(transaction, key, kept.tobytes())
        except lmdb.Error as error:
            raise self._failed(error) from error
        return len(old) - len(kept)

    def merge_past(self, key: bytes, entries: Entries) -> None:
        """Add what the database knows of a user, who then is owed nothing more. Raises MemoryFailed."""
        try:
            with self._begin() as transaction:
                if len(entries):
                    self._check_limit()
                    self._merge(transaction, key, entries)
                transaction.delete(key, db=self._owed)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def owe(self, key: bytes) -> None:
        """Note that what the database knows of a user has yet to be read. Raises MemoryFailed."""
        try:
            with self._begin(self._owed) as transaction:
                if transaction.stat(self._owed)["entries"] < MOST_OWED:
                    transaction.put(key, b"")
        except lmdb.Error as error:
            raise self._failed(error) from error

    def owed(self, most: int) -> list[bytes]:
        """Keys of some users to whom that befell. Raises MemoryFailed."""
        try:
            with self._environment.begin(db=self._owed) as transaction:
                cursor = transaction.cursor()
                return [bytes(key) for key, _ in zip(cursor.iternext(values=False), range(most), strict=False)]
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _began(self, *, writes: bool) -> int:
        """Seconds since 1970 when this file was begun: what is older it does not have. 0: there is nothing older."""
        with self._environment.begin(db=self._facts) as transaction:
            stored, had_all = transaction.get(BEGAN), transaction.get(HAD_ALL) is not None
        if stored is not None:
            return int(_SECONDS.unpack(stored)[0])
        began = 0 if had_all else int(self._now())
        if writes:
            self._note_began(began)
        return began

    def _note_began(self, began: int) -> None:
        with self._begin(self._facts) as transaction:
            transaction.put(BEGAN, _SECONDS.pack(began))

    def mark_complete(self) -> None:
        """There is nothing older than this file. Raises MemoryFailed."""
        try:
            self._note_began(0)
        except lmdb.Error as error:
            raise self._failed(error) from error
        self.began = 0

    def is_log_read(self) -> bool:
        """Whether what the event log had when this memory was begun was merged into it. Raises MemoryFailed."""
        try:
            with self._environment.begin(db=self._facts) as transaction:
                return transaction.get(LOG_READ) is not None
        except lmdb.Error as error:
            raise self._failed(error) from error

    def mark_log_read(self) -> None:
        """Raises MemoryFailed."""
        try:
            with self._begin(self._facts) as transaction:
                transaction.put(LOG_READ, b"1")
        except lmdb.Error as error:
            raise self._failed(error) from error

    @property
    def is_replaced(self) -> bool:
        """Whether another file is at the place of this one, or none."""
        return file_id(self._folder) != self.identity

    def make_room(self, lifetimes: Lifetimes, now: float, pause: Callable[[], None] = lambda: None) -> tuple[int, int]:
        """Let what was served longest ago go until there is room again; how many served entries, and others.

        In steps of a millisecond or so, with a ``pause`` after each. Raises MemoryFailed.
        """
        served = others = 0
        try:
            for _ in range(LOOKS_FOR_ROOM):
                used, _ = self.filled()
                # A page that has lost half of what was in it is not given back, but takes others in its place: how
                # many pages there are does not tell by itself whether there is room.
                if not self.is_crowded or (used < self._bytes_to_look_at and not self._full_for_feeds):
                    break
                census = count_ages(self._environment.begin, self._entries, now, pause)
                keeps = self._room * CROWDED * ROOMY
                if self._full_for_feeds:
                    keeps = min(keeps, census.content_bytes * 3 / 4)
                cutoffs = census.cutoffs(int(census.content_bytes - keeps), lifetimes)
                went = let_go(self._begin, self._entries, cutoffs, now, pause)
                self._bytes_to_look_at = self.filled()[0] + int(self._room * (1 - CROWDED) / 4)
                served, others = served + went[0], others + went[1]
                if not any(went):
                    break
        except lmdb.Error as error:
            raise self._failed(error) from error
        return served, others

    def filled(self) -> tuple[int, int]:
        """Bytes in use, and how many may be. Raises MemoryFailed."""
        try:
            with self._environment.begin() as transaction:
                return self._note_use(transaction), self._room
        except lmdb.Error as error:
            raise self._failed(error) from error

    def sweep(self, lifetimes: Lifetimes, now: float, most: int = 1_000) -> None:
        """Delete answers that nobody may ask for any more, and users whose entries have all expired.

        A step each call, from where the last one ended. Raises MemoryFailed.
        """
        try:
            self._environment.reader_check()  # what a killed process was reading keeps its room
            for done in range(0, most, SWEPT_TOGETHER):
                step = min(SWEPT_TOGETHER, most - done)
                with self._begin() as transaction:
                    self._answers.delete_old(transaction, now, step)
                with self._begin() as transaction:
                    self._delete_users(transaction, lifetimes, now, step)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _delete_users(
        self, transaction: "lmdb.Transaction[bytes]", lifetimes: Lifetimes, now: float, most: int
    ) -> None:
        oldest = int(now) - max(lifetimes)
        users = self._entries.users_from(transaction, self._swept)
        for key, stored in itertools.islice(users, most):
            entries = as_entries(stored)
            lasts = len(entries) and int(entries[-1, 1] >> 32) + EPOCH >= oldest
            if not lasts and not ((entries[:, 1] & 15) == HIDDEN).any():
                self._entries.delete(transaction, key)
        self._swept, _ = next(users, (b"", b""))

    def users(self) -> int:
        """How many are remembered."""
        with self._environment.begin() as transaction:
            return int(transaction.stat(self._entries.database)["entries"])

    @property
    def used_bytes(self) -> int:
        return int(self._environment.info()["last_pgno"] + 1) * self._page_bytes

    def _begin(self, database: "Database | None" = None) -> "lmdb.Transaction[bytes]":
        """A transaction that writes. Raises MemoryFailed where the disk might have no room for it."""
        transaction = self._environment.begin(write=True, db=database)
        if transaction.id() > self._room_until:
            self._look_for_room(transaction)
        return transaction

    def _look_for_room(self, transaction: "lmdb.Transaction[bytes]") -> None:
        """On the disk, and below the limit: for this transaction and as many after it as there is room for."""
        used = self.used_bytes  # nobody else writes now
        beyond = self._disk_room.beyond(used)
        if beyond < min(TRANSACTION_BYTES, self._map_bytes - used):
            transaction.abort()
            raise MemoryFailed(f"the disk has no room for {self._file}")
        self._note_use(transaction)
        others = 0 if self._full_for_feeds else max(0, beyond // TRANSACTION_BYTES - 1)
        self._room_until = transaction.id() + others

    def _note_use(self, transaction: "lmdb.Transaction[bytes]") -> int:
        """Bytes of the pages in use, with what follows from them noted."""
        if not self._limited:
            return 0
        answers, *users = (self._bytes_of(transaction, database) for database in self._limited)
        used = sum(users) + answers
        self._full, self._full_for_feeds = used >= self._room_of_deeds, used >= self._room
        self._full_of_answers = answers >= self._room * MOST_ANSWERS
        self.is_crowded = used >= self._room * CROWDED
        return used

    def _bytes_of(self, transaction: "lmdb.Transaction[bytes]", database: "Database") -> int:
        figures = transaction.stat(database)
        return int(figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]) * self._page_bytes

    def _failed(self, error: Exception) -> MemoryFailed:
        self.is_damaged = self.is_damaged or isinstance(error, DAMAGES)
        if isinstance(error, lmdb.MapFullError):  # the limit of what may be kept is below the file's
            return PagesHeld(f"what gave way in {self._file} is still read by another process")
        return MemoryFailed(str(error))

    def _has_room(self) -> bool:
        try:
            self._begin().abort()
        except MemoryFailed:
            return False
        return True

    def keep_answer(self, name: bytes, answer: StoredAnswer) -> StoredAnswer | None:
        """Keep it, unless another was kept under that key in the last minute: that one. Raises MemoryFailed."""
        try:
            with self._begin(self._answers.database) as transaction:
                there = self._answers.find(transaction, name, self._now())
                if there is None:
                    if self._full_of_answers or self._full_for_feeds:
                        raise _no_room_for_answer()
                    self._answers.put(transaction, name, answer, self._now())
                return there
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _check_limit(self) -> None:
        """Raises MemoryFailed where no more may be kept of what is in another place as well."""
        if self._full_for_feeds:
            raise self._limit_reached()

    def _limit_reached(self) -> MemoryFailed:
        return MemoryFailed(f"what users have seen has reached its limit of {self._limit >> 20} MiB")


def _no_room_for_answer() -> NoRoomForAnswer:
    return NoRoomForAnswer("no more answers can be kept for their Idempotency-Key")


def lifetimes_of(settings: Settings) -> Lifetimes:
    return Lifetimes(
        served=settings.seen_served_seconds,
        session=settings.session_ttl_seconds,
        impressed=settings.seen_impressed_days * DAY_SECONDS,
        acted=settings.seen_acted_days * DAY_SECONDS,
    )


@contextlib.contextmanager
def opened(folder: Path, limit_bytes: int) -> Iterator[UserMemory]:
    memory = UserMemory(folder, limit_bytes)
    try:
        yield memory
    finally:
        memory.close()


def forget_seen(settings: Settings, user_id: int, until: int, now: int) -> None:
    """Remove what this machine remembers of a user up to ``until``, see UserMemory.forget. Raises MemoryFailed."""
    key = user_key(user_id, 0)
    if key is not None:
        with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
            memory.forget(key, until, now)
