"""Decisions: what else a share of feeds could have held, in files that outlive the log's segments.

A decision is appended by the worker that made the feed once the feed is shown, straight to a file of its own: it waits
for no database, and no reader of the log carries it. A file is the worker's for a day or 16 MiB; the oldest go when all
together take more than their limit, and when they are too old.

    file   = records
    record = "RECD" + length (4 bytes) + CRC-32 of the payload (4) + payload, little-endian

What is to be forgotten is overwritten with zeros where it stands. That, a record cut short by the end of a process, and
what a disk damages are told by the checksum, and passed over.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from recommendation_service.core.files import NOT_FOR_OTHERS, create, make_folder

SUFFIX = ".decisions"
FILE_BYTES = 16 << 20
DAY_SECONDS = 86_400
# A decision that is larger is not kept.
MOST_BYTES = 45_000
# After a failure the disk is left alone for so long.
RETRY_SECONDS = 5.0

_MAGIC = b"RECD"
_BIN16 = b"\xc4\x10"  # before 16 bytes in MessagePack
_LARGEST_RECORD = 1 << 17  # bytes; ours have at most MOST_BYTES and their other fields
_CLOCKS_DIFFER_MS = 3_600_000  # of a file's times and a feed's, at most
_HEADER = struct.Struct("<4sII")


class DecisionRecord(msgspec.Struct, array_like=True, tag="decision1", frozen=True, gc=False):
    """A feed that was shown, with what else each slot could have held."""

    request_id: bytes  # 16 bytes, of the feed and of its record in the log
    user_id: int
    endpoint: int | str  # feed_code of the feed
    happened_ms: int
    size: int  # how many items were asked for
    catalog_version: str
    policy_version: str
    seed: int
    drawn: bool  # whether chance chose it; else a client asked for an explanation, and no estimate may count it
    share: float  # of all feeds that chance chooses
    packed: bytes  # see ranking/slate_decision.py
    withheld: bytes = b""  # see feed/withheld.py; empty: of an older release, or too much


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DecisionRecord).decode


class DecisionWriter:
    """One worker's."""

    def __init__(self, folder: Path, most_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._now = now
        self._descriptor: int | None = None
        self._written = 0
        self._day = 0
        self._pause_until = 0.0

    def append(self, record: DecisionRecord) -> None:
        """Raises OSError where the disk takes it not; nothing of it is there then."""
        payload = _encode(record)
        content = _HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
        if time.monotonic() < self._pause_until:
            raise OSError("the folder of decisions failed moments ago")
        try:
            descriptor = self._file_for(len(content), self._now())
            if os.write(descriptor, content) < len(content):
                raise OSError("the disk is full")
        except OSError:
            self._pause_until = time.monotonic() + RETRY_SECONDS
            if self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._written)
                self.close()
            raise
        self._written += len(content)

    def _file_for(self, needed: int, now: float) -> int:
        day = int(now // DAY_SECONDS)
        if self._descriptor is not None and (self._written + needed > FILE_BYTES or day != self._day):
            self.close()
        if self._descriptor is None:
            make_folder(self._folder)
            _make_room(self._folder, self._most_bytes - FILE_BYTES)
            path = self._folder / f"{int(now * 1e9):020d}-{os.getpid()}{SUFFIX}"
            self._descriptor = create(path, os.O_WRONLY | os.O_APPEND | os.O_EXCL, most=NOT_FOR_OTHERS)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._written, self._day = 0, day
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _files(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def _make_room(folder: Path, most_bytes: int) -> None:
    """Delete the oldest until the others take no more than that; none that is being written."""
    files = _files(folder)
    sizes = [_size(path) for path in files]
    for path, size in zip(files, sizes, strict=True):
        if sum(sizes) <= most_bytes:
            return
        if _remove(path):
            sizes[sizes.index(size)] = 0


def delete_old(folder: Path, before_ms: int) -> int:
    """Delete what was last written before that, but for what is being written; how many files."""
    return sum(_last_written_ms(path) < before_ms and _remove(path) for path in _files(folder))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_written_ms(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return 1 << 62


def _remove(path: Path) -> bool:
    """Whether it is gone: no process writes to it."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


def read_decisions(folder: Path, unread: Callable[[], None] = lambda: None) -> Iterator[DecisionRecord]:
    """File by file, the oldest first. ``unread``: told of each that another release wrote. Raises OSError."""
    for path in _files(folder):
        yield from _in_file(path, unread)


def latest_drawn(folder: Path, most: int) -> list[DecisionRecord]:
    """So many of the newest that chance chose, in no order between files. Raises OSError."""
    found: list[DecisionRecord] = []
    for path in reversed(_files(folder)):
        if len(found) == most:
            break
        found += [record for record in _in_file(path, lambda: None) if record.drawn][len(found) - most :]
    return found


def _in_file(path: Path, unread: Callable[[], None]) -> Iterator[DecisionRecord]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return  # too old just now
    for start, end, checksum in _records(content):
        payload = content[start:end]
        if zlib.crc32(payload) != checksum:
            continue
        try:
            record = _decode(payload)
        except msgspec.DecodeError:
            unread()
            continue
        yield record


class UnknownDecision(Exception):
    """A decision that is there and that this release cannot read."""


def find_decision(folder: Path, request_id: bytes, happened_ms: int | None = None) -> DecisionRecord | None:
    """Of one feed. ``happened_ms``: of the feed, where that is known: then files of other days are left alone.

    Raises OSError; UnknownDecision where another release wrote it.
    """
    written = _BIN16 + request_id
    for path in reversed(_files(folder)):
        if happened_ms is not None and not _may_hold(path, happened_ms):
            continue
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
                place = memory.find(written)
                while place >= 0:
                    payload = _payload_around(memory, place)
                    if payload is not None and (record := _decoded(payload)).request_id == request_id:
                        return record
                    place = memory.find(written, place + 1)
        except (FileNotFoundError, ValueError):
            continue  # too old just now; or made just now, and empty
    return None


def _may_hold(path: Path, happened_ms: int) -> bool:
    """Whether a decision of then may be in a file, by when it was made, which is its name, and last written to."""
    made_ms = int(path.name.partition("-")[0]) // 1_000_000 if path.name[:20].isdigit() else 0
    return made_ms - _CLOCKS_DIFFER_MS <= happened_ms <= _last_written_ms(path) + _CLOCKS_DIFFER_MS


def _payload_around(memory: mmap.mmap, place: int) -> bytes | None:
    """Of the record that has the byte at ``place``, where it is whole."""
    start = memory.rfind(_MAGIC, max(0, place - _LARGEST_RECORD), place)
    while start >= 0:
        _, length, checksum = _HEADER.unpack_from(memory, start)
        payload = memory[start + _HEADER.size : start + _HEADER.size + length]
        if start + _HEADER.size + length > place and zlib.crc32(payload) == checksum:
            return payload
        start = memory.rfind(_MAGIC, max(0, place - _LARGEST_RECORD), start)
    return None


def _decoded(payload: bytes) -> DecisionRecord:
    try:
        return _decode(payload)
    except msgspec.DecodeError as error:
        raise UnknownDecision(f"another release wrote it ({error})") from None


def forget_decisions(folder: Path, user_id: int, until_ms: int | None = None) -> int:
    """Overwrite a user's decisions (of feeds up to ``until_ms``; None: all); how many. Raises OSError."""
    forgotten = 0
    for path in _files(folder):
        try:
            file = open(path, "r+b")  # noqa: SIM115
        except FileNotFoundError:
            continue
        with file:
            state = os.fstat(file.fileno())
            size = state.st_size
            if size == 0:
                continue
            with mmap.mmap(file.fileno(), size) as memory:
                for start, end, _ in _records(memory):
                    try:
                        record = _decode(memory[start:end])
                    except msgspec.DecodeError:
                        continue  # forgotten before, or damaged
                    if record.user_id == user_id and (until_ms is None or record.happened_ms <= until_ms):
                        memory[start:end] = bytes(end - start)
                        forgotten += 1
                memory.flush()
            # What others did is as old as it was.
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return forgotten


def _records(content: bytes | mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Where each payload begins and ends, and its checksum. Behind a damaged header only what its checksum vouches for
    is taken for the next record."""
    place, follows = 0, True
    while 0 <= place <= len(content) - _HEADER.size:
        magic, length, checksum = _HEADER.unpack_from(content, place)
        start, end = place + _HEADER.size, place + _HEADER.size + length
        is_record = magic == _MAGIC and end <= len(content)
        follows = is_record and (follows or zlib.crc32(content[start:end]) == checksum)
        if follows:
            yield start, end, checksum
            place = end
        else:
            place = content.find(_MAGIC, place + 1)
