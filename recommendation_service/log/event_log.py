"""A worker's end of the durable log: append, and wait until what was appended is on the disk.

Each worker writes segments of its own, so no two ever wait for each other. Syncing is a group commit: while one runs
in a thread, whatever is appended meanwhile waits for the next, so a disk that syncs 1,000 times a second makes any
number of events durable. The folder is bounded: past the bound nothing is accepted until the flusher has brought
segments into the database and deleted them.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from recommendation_service.core.files import make_folder
from recommendation_service.log.lags import LogLags
from recommendation_service.log.segments import FILE_HEADER, SUFFIX, SegmentWriter, most_bytes

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 8 << 20
# Room is looked for so often while there is none: a listing of the folder.
RETRY_SECONDS = 0.25
SYNC_SECONDS = 1.0
KEPT_FOR_FEEDBACK = 0.25  # of the limit: that feeds fill the log must not refuse what people did


class LogFull(Exception):
    """No room: the bound is reached, or the disk is full. ``reason`` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EventLog:
    """One process's; its methods are called on one event loop."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._now = now
        self._segment_bytes = segment_bytes
        self._segment: SegmentWriter | None = None
        self._full: tuple[float, str] | None = None  # until when, and why, nothing is accepted
        self._crowded = False  # no room but what is kept for feedback
        self._held = ""  # for whom it is kept then
        self._look_again = 0.0
        self._unsynced: list[SegmentWriter] = []  # appended to since the last sync, oldest first
        self._lags = LogLags(folder)
        self._syncing: list[SegmentWriter] = []  # what the sync that is under way covers
        self._new_files = False  # since then a segment was made: the folder is to be synced as well
        self._waiting: list[asyncio.Future[None]] | None = None  # of those whose records the next sync covers
        self._committer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "event-log")

    def append(self, payload: bytes) -> None:
        """Add a record. It survives this process from now on, and the machine once ``durable`` returned.

        Raises LogFull.
        """
        self.append_all([payload])

    def append_if_roomy(self, payloads: Sequence[bytes]) -> None:
        """``append_all`` for what nobody is told to be safe, the feeds' own records: it leaves a quarter to feedback.

        Raises LogFull.
        """
        segment = self._segment_with(most_bytes(payloads))
        if segment is None or self._crowded:
            self._look_for_room(self._segment_bytes * (segment is None))
        self._append(segment or self._new_segment(), *payloads)

    def _look_for_room(self, wanted: int) -> None:
        """Raises LogFull where no more is left than what is kept for feedback."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + RETRY_SECONDS
            try:
                used = folder_bytes(self._folder) if self._folder.is_dir() else 0
            except OSError as error:
                raise self._failed(error) from error
            self._crowded = used + wanted > self._limit * (1 - KEPT_FOR_FEEDBACK)
            self._held = self._lags.holder_of_most() if self._crowded else ""
        if self._crowded:
            left = f"the backlog of events leaves of {self._limit >> 20} MiB what is kept for feedback"
            raise LogFull(f"{left}{self._held}")

    def append_all(self, payloads: Sequence[bytes]) -> None:
        """The same for several, in one segment: all of them or, where LogFull is raised, none."""
        segment = self._segment_with(most_bytes(payloads))
        self._append(segment or self._new_segment(), *payloads)

    def _append(self, segment: SegmentWriter, *payloads: bytes) -> None:
        try:
            segment.append(*payloads)
        except OSError as error:
            self._retire()
            raise self._failed(error) from error
        if not self._unsynced or self._unsynced[-1] is not segment:
            self._unsynced.append(segment)

    def _segment_with(self, needed: int) -> SegmentWriter | None:
        """The segment, where it has so many bytes left. One that has not is given up before there is another: it may be
        what takes the room. Raises LogFull."""
        segment = self._segment
        if segment is not None and segment.position + needed <= segment.size:
            return segment
        if needed > self._segment_bytes - len(FILE_HEADER):
            raise LogFull("the records are larger than a segment")
        if segment is not None:
            self._retire()
            self._request_sync()  # the retired segment is the flusher's once it is synced
        return None

    async def durable(self) -> None:
        """Returns once all that was appended before the call is on the disk. Raises OSError where the disk fails."""
        # Each waits for a future of its own: whoever is cancelled takes the sync from nobody else.
        synced = asyncio.get_running_loop().create_future()
        self._request_sync().append(synced)
        await synced

    async def sync_often(self) -> None:
        """Until cancelled: what nobody waits for, such as the records of feeds, is on the disk a second later."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            if self._unsynced:
                with contextlib.suppress(OSError):  # logged
                    await self.durable()

    async def close(self) -> None:
        if self._segment is not None:
            self._retire()
        if self._unsynced:
            await self.durable()
        if self._committer is not None:
            await self._committer
        self._thread.shutdown()

    def _request_sync(self) -> list[asyncio.Future[None]]:
        """Those who wait for the next sync, which covers all that was appended so far."""
        if self._waiting is None:
            self._waiting = []
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit())
        return self._waiting

    def _new_segment(self) -> SegmentWriter:
        now = time.monotonic()
        if self._full and now < self._full[0]:
            raise LogFull(self._full[1])
        try:
            make_folder(self._folder)
            used = folder_bytes(self._folder)
            if used + self._segment_bytes > self._limit:
                held = self._lags.holder_of_most()
                raise LogFull(f"the backlog of events has reached its limit of {self._limit >> 20} MiB{held}")
            path = self._folder / f"{int(self._now() * 1e9):020d}-{os.getpid()}{SUFFIX}"
            self._segment = SegmentWriter(path, self._segment_bytes)
        except LogFull as full:
            self._full = (now + RETRY_SECONDS, full.reason)
            raise
        except OSError as error:
            raise self._failed(error) from error
        self._full = None
        self._new_files = True
        return self._segment

    def _failed(self, error: OSError) -> LogFull:
        """For the next moments the folder is not asked again."""
        reason = f"the events folder {self._folder} takes no more: {error.strerror}"
        log.error("no room for events", reason=reason)
        self._full = (time.monotonic() + RETRY_SECONDS, reason)
        return LogFull(reason)

    def _retire(self) -> None:
        """Leave the segment to the flusher, once it is synced."""
        segment, self._segment = self._segment, None
        if segment is not None and segment not in self._unsynced and segment not in self._syncing:
            segment.close()

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while (waiting := self._waiting) is not None:
            self._waiting = None
            segments = self._syncing = self._unsynced
            self._unsynced = []
            folder, self._new_files = self._new_files, False
            try:
                await loop.run_in_executor(self._thread, self._sync, segments, folder)
            except OSError as error:
                # What the disk holds of these segments is not known, and another sync would not tell: whatever was
                # appended to them meanwhile fails as well, and nothing is written to them again.
                log.error("events could not be synced", reason=str(error))
                self._segment = None
                failed = [*waiting, *self._take_waiting()]
                segments += [segment for segment in self._unsynced if segment not in segments]
                self._unsynced = []
                for future in failed:
                    if not future.done():
                        future.set_exception(error)
            else:
                for future in waiting:
                    if not future.done():
                        future.set_result(None)
            self._syncing = []
            for segment in segments:
                if segment is not self._segment and segment not in self._unsynced:
                    segment.close()

    def _take_waiting(self) -> list[asyncio.Future[None]]:
        """Of those whose records went to segments that just failed."""
        if self._waiting is None or not self._unsynced:
            return []
        waiting, self._waiting = self._waiting, None
        return waiting

    def _sync(self, segments: list[SegmentWriter], folder: bool) -> None:
        for segment in segments:
            os.fdatasync(segment.descriptor)
        if folder:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """What the segments take of the disk."""
    total = 0
    for entry in os.scandir(folder):
        if entry.name.endswith(SUFFIX):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                continue  # flushed just now
    return total
