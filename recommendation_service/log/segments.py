"""A segment of the event log: a file of checksummed records, of fixed size.

A record is in the file once ``append`` returned, so it survives the end of its process, however it comes; what has to
survive the machine as well is synced (event_log.py). Room on the disk is taken when the segment is made: a full disk is
met there, and never while a record is written.

    file    = "RECSLOG1" + 8 bytes of zero, then records, then zeros
    record  = "RECS" + length (4 bytes) + CRC-32 of all that follows (4) + number in the segment (4) + payload,
              padded with zeros to a multiple of 8

Little-endian. What a reader sees of a record that is being written just then, or was when its process ended, is found
by its checksum, as is what a disk damages.
"""

import errno
import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from recommendation_service.core.files import NOT_FOR_OTHERS, create

FILE_HEADER = b"RECSLOG1" + bytes(8)
MAGIC = b"RECS"
_HEADER = struct.Struct("<4sIII")
_PADDING = tuple(bytes(count) for count in range(8))
HEADER_BYTES = _HEADER.size
SUFFIX = ".segment"
UNFINISHED = ".unfinished"


# A segment is zeros from its last record on, and no record has so many of them one after the other.
_PROBE = 1 << 14


class SegmentFull(Exception):
    """The record does not fit any more."""


class SegmentWriter:
    """The one process that holds the segment's lock appends to it; readers may look on."""

    def __init__(self, path: Path, size: int) -> None:
        """Raises OSError, ENOSPC on a full disk; then no file is left."""
        self.path = path
        self.size = size
        # Under another name until it is locked and whole: a reader would take it for an abandoned one.
        unfinished = path.with_suffix(UNFINISHED)
        self.descriptor = create(unfinished, os.O_RDWR | os.O_EXCL, most=NOT_FOR_OTHERS)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(self.descriptor, 0, size)
            _write(self.descriptor, FILE_HEADER, 0)
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            os.close(self.descriptor)
            raise
        self.position = len(FILE_HEADER)
        self._number = 0

    def append(self, *payloads: bytes) -> None:
        """Raises SegmentFull, and then nothing was written; OSError where the disk fails.

        One system call. A mapping would need none; but pages that are written to through one are taken from all cores
        when they are synced, which costs a record more than the call does (docs/decisions/0014).
        """
        number = self._number
        parts: list[bytes] = []
        for payload in payloads:
            length = len(payload)
            header = _HEADER.pack(MAGIC, length, zlib.crc32(payload, number), number)
            parts += (header, payload, _PADDING[-length % 8])
            number += 1
        records = b"".join(parts)
        end = self.position + len(records)
        if end > self.size:
            raise SegmentFull
        _write(self.descriptor, records, self.position)
        self._number = number
        self.position = end

    def close(self) -> None:
        """Give up the lock: the segment is complete."""
        os.close(self.descriptor)


def _write(descriptor: int, data: bytes, position: int) -> None:
    """All of it, or OSError."""
    written = os.pwrite(descriptor, data, position)
    if written != len(data):
        raise OSError(errno.EIO, f"only {written:,} of {len(data):,} bytes were written")


def most_bytes(payloads: Sequence[bytes]) -> int:
    """What records take of a segment, at most: each is rounded up."""
    return sum(map(len, payloads)) + (HEADER_BYTES + 7) * len(payloads)


class Scan(NamedTuple):
    """What a segment holds from some position on."""

    payloads: list[bytes]
    begins: list[int]  # position at which each of them begins
    position: int  # where to go on reading
    damaged: int  # stretches of bytes that are no record though records follow
    torn: bool  # the last record was never completed
    finished: bool  # nothing can follow: the segment is complete and read to its end


def written_bytes(path: Path) -> int:
    """How far a segment goes at this moment: no record begins there or after it that was appended before the call."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size if is_complete(file.fileno()) else len(file.read().rstrip(b"\0"))
    except FileNotFoundError:
        return 0  # flushed just now


def end_of_records(path: Path) -> int:
    """Where the last record ends, found by halves; of a half-written one, up to where. Raises OSError."""
    with open(path, "rb") as file:
        low, high = 0, -(-os.fstat(file.fileno()).st_size // _PROBE)  # from ``high`` on is nothing
        while high - low > 1:
            middle = (low + high) // 2
            is_written = bool(os.pread(file.fileno(), _PROBE, middle * _PROBE).strip(b"\0"))
            low, high = (middle, high) if is_written else (low, middle)
        begin = max(0, (low - 1) * _PROBE)  # the last record may begin before what its end is in
        written = os.pread(file.fileno(), 2 * _PROBE, begin)
    end = len(written.rstrip(b"\0"))
    last = _record(written, max(0, written.rfind(MAGIC, 0, end)))
    return max(len(FILE_HEADER), begin + (last[1] if last else end + -end % 8))


def scan(path: Path, start: int = 0, most: int = 100_000) -> Scan:
    """Records of a segment from ``start`` on, at most ``most``. Raises FileNotFoundError.

    A segment that a process still writes to is read as far as it is whole; what looks torn there may be about to be
    completed, and is left for the next call.
    """
    with open(path, "rb") as file:
        complete = is_complete(file.fileno())  # asked first: what is written afterwards is not missed
        size = os.fstat(file.fileno()).st_size
        if size <= len(FILE_HEADER):
            return Scan([], [], start, 0, torn=False, finished=complete)
        with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as memory:
            return _scan(memory, max(start, len(FILE_HEADER)), most, complete=complete)


def ends_a_record(path: Path, position: int) -> bool:
    """Whether a reader may have come so far: a record ends there, or none was read. Raises OSError."""
    if position == len(FILE_HEADER):
        return True
    with open(path, "rb") as file:
        if not len(FILE_HEADER) < position <= os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            at = len(FILE_HEADER)
            while 0 <= at < position:
                found = _record(memory, at)
                at = found[1] if found else _next_record(memory, at)
            return at == position


def is_followed(path: Path, position: int) -> bool:
    """Whether anything was written at a position: found out without a search. Raises OSError."""
    with open(path, "rb") as file:
        return any(os.pread(file.fileno(), HEADER_BYTES, position))


def _scan(memory: mmap.mmap, position: int, most: int, *, complete: bool) -> Scan:
    payloads: list[bytes] = []
    begins: list[int] = []
    damaged = 0
    while len(payloads) < most:
        found = _record(memory, position)
        if found is None:
            if not complete and not any(memory[position : position + HEADER_BYTES]):
                return Scan(payloads, begins, position, damaged, torn=False, finished=False)  # nothing more so far
            following = _next_record(memory, position)
            if following < 0:
                torn = complete and any(memory[position : position + 4096])
                return Scan(payloads, begins, position, damaged, torn, finished=complete)
            if not complete:
                # What follows was written after it: now it is whole, or it is damaged.
                found = _record(memory, position)
            if found is None:
                damaged += 1
                position = following
                continue
        begins.append(position)
        payload, position = found
        payloads.append(payload)
    return Scan(payloads, begins, position, damaged, torn=False, finished=False)


def _record(memory: mmap.mmap | bytes, position: int) -> tuple[bytes, int] | None:
    """Payload and end of the record at a position, if a whole one is there."""
    body = position + HEADER_BYTES
    if body > len(memory):
        return None
    magic, length, checksum, number = _HEADER.unpack_from(memory, position)
    if magic != MAGIC or length == 0 or body + length > len(memory):
        return None
    payload = memory[body : body + length]
    if zlib.crc32(payload, number) != checksum:
        return None
    return payload, body + length + (-length) % 8


def _next_record(memory: mmap.mmap, position: int) -> int:
    """Where the next whole record after a damaged place begins; -1: nowhere."""
    while True:
        position = memory.find(MAGIC, position + 1)
        if position < 0 or _record(memory, position) is not None:
            return position


def is_complete(descriptor: int) -> bool:
    """Whether no process holds the segment's lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
