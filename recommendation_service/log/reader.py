"""A reader of the log: under its name it is given every record, in each segment in order, however often it ends.

Read, do with the records what is to be done, durably, then settle the mark that came with them. What ends in between
is given the same records again. Who keeps the mark with its results, in one step, begins from it (``since``) and has
each record once.
"""

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import make_folder, open_lock
from recommendation_service.log.forgotten import Forgotten, read_forgotten
from recommendation_service.log.marks import (
    FLUSH,
    Mark,
    MarkDamaged,
    Missed,
    check_name,
    holder_of,
    lock_path,
    read_mark,
    read_missed,
    strike_off,
    write_mark,
)
from recommendation_service.log.segments import SUFFIX
from recommendation_service.log.tail import LogTail, Stretch

log = structlog.get_logger(__name__)

MOST_RECORDS = 10_000
MOST_BYTES = 16 << 20
# Who only looks whether a name is taken (holder_of) holds its lock for a moment.
TAKE_SECONDS, TRY_SECONDS = 0.3, 0.02


class ReaderTaken(SourceError):
    """Another process reads under that name."""


class Batch(NamedTuple):
    stretches: list[Stretch]
    mark: Mark  # to be settled once all that was read by now is done with
    missed: Missed | None  # what the reader was cut off from, told until a mark is settled
    restarted: list[str]  # segments whose place was lost: they come from the beginning, some of it once more
    has_more: bool  # there may be more than was asked for


class LogReader:
    """The only one under its name until it is closed or nobody has it any more; registered from now on, and after that.

    ``since``: the reader's own mark, instead of what it settled last.
    """

    def __init__(self, folder: Path, name: str, since: Mark | None = None) -> None:
        """Raises SourceError (ReaderTaken), OSError."""
        check_name(name)
        self.name = name
        self.forgotten: Forgotten = {}  # as of the last reading
        self._folder = folder
        self._let_go = self._take()
        self._noted: Mark | None = None  # what is on the disk
        restarted: list[str] = []
        try:
            self._noted = read_mark(folder, name)
        except MarkDamaged as damaged:
            log.error("the position of a reader of the log is lost", reader=name, reason=str(damaged))
            restarted = [] if since else sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
        self.settled = since or self._noted or Mark()
        self._tail = LogTail(folder, self.settled.places)
        self._tail.restarted += restarted
        if name != FLUSH and restarted == []:
            self._note()

    def read(self, most: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> Batch:
        """What was not read yet, about so many records and bytes of them.

        Raises OSError; the next call gives it then.
        """
        missed = read_missed(self._folder, self.name) or self.settled.told
        before = self._tail.places()
        try:
            stretches = self._tail.read(most, most_bytes, besides=missed.gone)
            self.forgotten = read_forgotten(self._folder)  # afterwards: whose order came meanwhile is in it
        except BaseException:  # else the next mark would cover what nobody was given
            self._tail.go_back(before)
            raise
        restarted, self._tail.restarted = self._tail.restarted, []
        return Batch(
            [stretch.without(self.forgotten) for stretch in stretches],
            Mark(self._tail.places(), missed),
            missed.since(self.settled.told),
            restarted,
            sum(stretch.payloads for stretch in stretches) >= most
            or sum(stretch.payload_bytes for stretch in stretches) >= most_bytes,
        )

    def settle(self, mark: Mark) -> None:
        """All that a mark covers is done with.

        Raises OSError where that could not be noted: for this object it holds, and another that begins now is given
        the same once more.
        """
        self.settled = mark
        self._note()

    def _note(self) -> None:
        if self.settled != self._noted:
            write_mark(self._folder, self.name, self.settled)
            self._noted = self.settled

    @property
    def waiting_bytes(self) -> int:
        """Of the log, after what is settled; of what was not read, the room that it may take."""
        return self._tail.bytes_after(self.settled.places)

    @property
    def finished_bytes(self) -> int:
        """What the segments take that are settled to their end, and are still there."""
        return self._tail.bytes_finished(self.settled.places)

    @property
    def unreadable(self) -> int:
        """Segments that this process may not read."""
        return len(self._tail.unreadable)

    def close(self) -> None:
        self._let_go()

    def strike_off(self) -> None:
        """Close it, and keep nothing for it any more. Raises OSError."""
        strike_off(self._folder, self.name)
        self.close()

    def _take(self) -> Callable[[], object]:
        """Take the reader's lock; what lets it go. Raises ReaderTaken, OSError."""
        try:
            return weakref.finalize(self, os.close, _take(self._folder, self.name))
        except OSError:
            if self.name != FLUSH:
                raise
            # A disk without room for the file, which the flush is to make. It runs under the flusher's lock as well.
            return lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(folder: Path, name: str) -> int:
    """The descriptor of the reader's lock. Raises ReaderTaken, OSError."""
    path = lock_path(folder, name)
    until = time.monotonic() + TAKE_SECONDS
    while True:
        make_folder(folder)
        descriptor = open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() < until:
                time.sleep(TRY_SECONDS)
                continue
            raise ReaderTaken(
                f"The reader {name!r} of {folder} is taken by {holder_of(folder, name) or 'another process'}: one "
                "process reads under a name at a time. Wait for its end, or take another name."
            ) from None
        with contextlib.suppress(FileNotFoundError):  # else it was struck off, its lock too, just before it was taken
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    with contextlib.suppress(OSError):  # a full disk, or another user's file: then it is not named
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode(), 0)
    return descriptor
