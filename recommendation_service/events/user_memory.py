"""What users have seen, for all processes of a machine at once: an LMDB file that every worker maps.

A feed reads a user's entries, ranks, and replaces them if nobody else has replaced them meanwhile; else it ranks again
with the new ones. So two requests of one user at once, on whichever workers, never show one item twice, and no lock is
held while a feed is made. Answers that may be asked for again (answers.py) are kept in the same transaction.

The file is written through its mapping where the file system keeps the room that was taken for it (disk_room.py); a
disk that is full for a while costs no memory and no repeats.

Nothing here is synced: a process that is killed loses nothing, as what it wrote is the operating system's; after a
crash of the machine the file is not trusted but begun anew, and filled from recs_events (rebuild.py).
"""

import contextlib
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.files import NOT_FOR_OTHERS, create, locked, make_folder, write_whole
from recommendation_service.events.answers import Answers, StoredAnswer
from recommendation_service.events.disk_room import DiskRoom, keeps_room
from recommendation_service.ranking.policy import KINDS
from recommendation_service.ranking.seen import ENTRY_BYTES, EPOCH, HIDDEN, SERVED, Lifetimes, merge_entries
from recommendation_service.ranking.working_memory import SEEN_CAPACITY

if TYPE_CHECKING:
    from lmdb import _Database as Database

log = structlog.get_logger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_FILE = "boot"
LOCK_FILE = "lock"
FORMAT = "2"
DAY_SECONDS = 86_400
# On the disk beyond what is used: LMDB would else meet a full disk when it commits.
RESERVE_BYTES = 16 << 20
# The most that a transaction adds to the file: a user's entries, an answer, and the pages on the way to them.
TRANSACTION_BYTES = 1 << 19
CHANGE_BYTES = 1 << 14  # of these: pages on the way to a user's entries and to an answer
SWEPT_TOGETHER = 50  # whom a sweep deletes in one
_USER = struct.Struct(">cQ")
REBUILT = b"rebuilt"
SPARE_BYTES = 8 << 20  # of the limit: a full map could not even be swept, as LMDB deletes by copying

_KINDS_AND_STATES = bytes(kind << 4 | state for kind in range(len(KINDS) + 1) for state in range(SERVED, HIDDEN + 1))
_POSITIVE = bytes(range(128))

Entries = npt.NDArray[np.int64]  # (n, 2), see ranking/seen.py
NOTHING: Entries = np.zeros((0, 2), np.int64)


class MemoryFailed(Exception):
    """The memory could not be read or written: the disk is full, or the file is damaged."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """What a request wants to be written, see UserMemory.replace."""

    key: bytes
    old: bytes
    new: bytes
    answer: tuple[bytes, StoredAnswer] | None = None


class UserMemory:
    """Opened in each process after it was forked."""

    def __init__(self, folder: Path, limit_bytes: int, now: Callable[[], float] = time.time) -> None:
        """Raises MemoryFailed."""
        self._swept = b""  # the key at which the next sweep begins
        self._file = folder / "lmdb" / "data.mdb"
        self._limit = limit_bytes
        self._now = now
        self._room_until = -1  # the disk has room for the transactions up to that one, whoever begins them
        self._full = False  # whether the limit was reached at the last look
        self._limited: tuple[Database, ...] = ()
        self._room = limit_bytes - min(SPARE_BYTES, limit_bytes // 2)
        try:
            make_folder(folder)
            with locked(folder / LOCK_FILE):
                _distrust_after_a_crash(folder)
                try:
                    self._environment = _open(folder / "lmdb", limit_bytes)
                except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
                    log.error("what users have seen is damaged, and read again from recs_events", reason=str(error))
                    shutil.rmtree(folder / "lmdb")
                    self._environment = _open(folder / "lmdb", limit_bytes)
                self._environment.reader_check()  # places of processes that were killed
                self._page_bytes = int(self._environment.stat()["psize"])
                self._map_bytes = int(self._environment.info()["map_size"])
                self._disk_room = DiskRoom(self._file, self._map_bytes, RESERVE_BYTES, TRANSACTION_BYTES)
                has_room = self._has_room()  # without it what is there can be read
                self._seen = self._environment.open_db(b"seen", create=has_room)
                self._answers = Answers(self._environment.open_db(b"answers", create=has_room))
                self._facts = self._environment.open_db(b"facts", create=has_room)
                self._limited, self._room_until = (self._seen, self._answers.database), -1
        except (OSError, lmdb.Error) as error:
            raise MemoryFailed(f"the memory in {folder} cannot be opened: {error}") from error

    def close(self) -> None:
        self._environment.close()

    def read(self, key: bytes) -> bytes:
        """The user's entries as they are stored; nothing of one who is not remembered. Raises MemoryFailed.

        In a transaction of its own, over within a microsecond: what is replaced meanwhile keeps its room, so a process
        that is stopped in the middle of one has the file grow to its limit.
        """
        try:
            transaction = self._environment.begin(db=self._seen)
            try:
                return transaction.get(key) or b""
            finally:
                transaction.abort()
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

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
        for some in _transactions(changes):
            done: list[StoredAnswer | bool | MemoryFailed]
            try:
                with self._begin(self._seen) as transaction:
                    done = [self._replace(transaction, change) for change in some]
            except lmdb.Error as error:
                if len(some) > 1:  # nothing of it was written: what failed one of them is not to befall the others
                    done = [outcome for change in some for outcome in self.replace_all([change])]
                else:
                    done = [MemoryFailed(str(error))]
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
        if (transaction.get(key) or b"") != old:
            return False
        if self._full and (len(new) > len(old) or answer is not None):
            return self._limit_reached()
        if new != old:
            transaction.put(key, new)
        if answer is not None:
            self._answers.put(transaction, *answer, self._now())
        return True

    def take_back(self, key: bytes, written: Entries) -> None:
        """Remove entries that were put for a feed that nobody was shown, where they are still as written.

        Raises MemoryFailed.
        """
        try:
            with self._begin(self._seen) as transaction:
                now = as_entries(transaction.get(key) or b"")
                unwanted = {(int(item), int(detail)) for item, detail in written}
                kept = [row for row in now.tolist() if tuple(row) not in unwanted]
                transaction.put(key, np.array(kept, np.int64).reshape(-1, 2).tobytes())
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

    def answer(self, key: bytes) -> StoredAnswer | None:
        """What was answered under this key in the last minute. Raises MemoryFailed."""
        try:
            with self._environment.begin() as transaction:
                return self._answers.find(transaction, key, self._now())
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

    def merge(self, key: bytes, entries: Entries) -> None:
        """Add entries that another memory has: a record in the database, or another machine. Raises MemoryFailed."""
        try:
            with self._begin(self._seen) as transaction:
                self._check_limit()
                ours = as_entries(transaction.get(key) or b"")
                transaction.put(key, merge_entries(ours, entries).tobytes())
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

    def forget(self, key: bytes, until: int | None = None, now: int = 0) -> int:
        """Remove a user's entries up to ``until`` (None: all), and those of a time that is yet to come; how many.

        ``until``, ``now``: seconds since 1970. Raises MemoryFailed.
        """
        try:
            with self._begin(self._seen) as transaction:
                old = as_entries(transaction.pop(key) or b"")
                when = (old[:, 1] >> 32) + EPOCH
                kept = old[(until < when) & (when <= now)] if until is not None else NOTHING
                if len(kept):
                    transaction.put(key, kept.tobytes())
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error
        return len(old) - len(kept)

    def is_rebuilt(self) -> bool:
        """Whether what the database knows was merged into this memory since it was begun."""
        with self._environment.begin(db=self._facts) as transaction:
            return transaction.get(REBUILT) is not None

    def mark_rebuilt(self) -> None:
        with self._begin(self._facts) as transaction:
            transaction.put(REBUILT, b"1")

    def sweep(self, lifetimes: Lifetimes, now: float, most: int = 1_000) -> None:
        """Delete answers that nobody may ask for any more, and users whose entries have all expired.

        A step each call, from where the last one ended. Raises MemoryFailed.
        """
        try:
            for done in range(0, most, SWEPT_TOGETHER):
                step = min(SWEPT_TOGETHER, most - done)
                with self._begin() as transaction:
                    self._answers.delete_old(transaction, now, step)
                with self._begin(self._seen) as transaction:
                    self._delete_users(transaction, lifetimes, now, step)
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

    def _delete_users(
        self, transaction: "lmdb.Transaction[bytes]", lifetimes: Lifetimes, now: float, most: int
    ) -> None:
        oldest = int(now) - max(lifetimes)
        cursor = transaction.cursor()
        more = cursor.set_range(self._swept)
        for _ in range(most):
            if not more:
                break
            entries = as_entries(bytes(cursor.value()))
            lasts = len(entries) and int(entries[-1, 1] >> 32) + EPOCH >= oldest
            lasts = lasts or ((entries[:, 1] & 15) == HIDDEN).any()
            more = cursor.next() if lasts else cursor.delete()  # which then stands on the next
        self._swept = bytes(cursor.key()) if more else b""

    def users(self) -> int:
        """How many are remembered."""
        with self._environment.begin(db=self._seen) as transaction:
            return int(transaction.stat()["entries"])

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
        pages = 0
        for database in self._limited:
            figures = transaction.stat(database)
            pages += figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]
        self._full = pages * self._page_bytes >= self._room
        others = 0 if self._full else max(0, beyond // TRANSACTION_BYTES - 1)
        self._room_until = transaction.id() + others

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
                    self._check_limit()
                    self._answers.put(transaction, name, answer, self._now())
                return there
        except lmdb.Error as error:
            raise MemoryFailed(str(error)) from error

    def _check_limit(self) -> None:
        """Raises MemoryFailed where no more may be kept."""
        if self._full:
            raise self._limit_reached()

    def _limit_reached(self) -> MemoryFailed:
        return MemoryFailed(f"what users have seen has reached its limit of {self._limit >> 20} MiB")


def user_key(user_id: int, session: int) -> bytes | None:
    """Under which a requester is remembered: the user, or an anonymous one's session; None for neither."""
    if user_id:
        return _USER.pack(b"u", user_id)
    return _USER.pack(b"s", session) if session else None


def are_entries(stored: bytes) -> bool:
    """Whether bytes that anybody may have put where a user's entries are can be entries (ranking/seen.py)."""
    return (
        len(stored) % ENTRY_BYTES == 0
        and len(stored) <= SEEN_CAPACITY * ENTRY_BYTES
        and not stored[8::ENTRY_BYTES].translate(None, _KINDS_AND_STATES)  # the lowest byte of each second number
        and not stored[15::ENTRY_BYTES].translate(None, _POSITIVE)
    )


def as_entries(stored: bytes) -> Entries:
    return np.frombuffer(stored, "<i8").reshape(-1, 2)


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


def _transactions(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """The changes, in parts that add no more than TRANSACTION_BYTES to the file."""
    start = added = 0
    for place, change in enumerate(changes):
        adds = len(change.new) + CHANGE_BYTES + (len(change.answer[1].body) if change.answer is not None else 0)
        if added + adds > TRANSACTION_BYTES and place > start:
            yield changes[start:place]
            start, added = place, 0
        added += adds
    if start < len(changes):
        yield changes[start:]


def _open(folder: Path, limit_bytes: int) -> lmdb.Environment:
    make_folder(folder)
    file = folder / "data.mdb"
    for name in (file, folder / "lock.mdb"):  # LMDB would make them as the umask wants, and as root as root's
        os.close(create(name, most=NOT_FOR_OTHERS))
    # Never less than there is: a process with a lower limit would else cut off what others have mapped.
    size = max(limit_bytes, file.stat().st_size) if file.exists() else limit_bytes
    return lmdb.open(
        str(folder),
        map_size=size,
        max_dbs=4,
        max_readers=2048,
        sync=False,
        metasync=False,
        readahead=False,
        meminit=False,
        writemap=keeps_room(folder),
    )


def _distrust_after_a_crash(folder: Path) -> None:
    """Begin anew where the machine has been started since: what was not synced may be half there."""
    try:
        boot = f"{FORMAT} {BOOT_ID.read_text().strip()}"
    except OSError:
        boot = FORMAT
    file = folder / BOOT_FILE
    known = file.read_text() if file.exists() else None
    if known != boot:
        if (folder / "lmdb").exists():
            log.warning("the machine was restarted: what users have seen is read again from recs_events")
        shutil.rmtree(folder / "lmdb", ignore_errors=True)
        write_whole(file, boot)
