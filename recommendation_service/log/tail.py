"""Reading all segments of the log as they grow, and removing those that the database has.

How far a segment has been flushed stands beside it (``NAME.position``). The file is not synced: where it is lost, the
segment is flushed again from its beginning, and every event is found to be there already.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import structlog

from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.log.segments import FILE_HEADER, HEADER_BYTES, SUFFIX, UNFINISHED, scan

log = structlog.get_logger(__name__)

POSITION_SUFFIX = ".position"
DAMAGED_FOLDER = "damaged"
# Records read in one step.
MOST_RECORDS = 5_000
# A segment is under its unfinished name for a moment only.
UNFINISHED_SECONDS = 60.0
_EMPTY = bytes(HEADER_BYTES)


@dataclass
class TailedSegment:
    path: Path
    size: int
    flushed: int  # position up to which the database has it
    read: int
    damaged: int = 0  # stretches of bytes that are no record
    torn: bool = False
    finished: bool = False  # read to its end, and nothing can follow


Mark = list[TailedSegment]  # copies


class Stretch(NamedTuple):
    """Records of a segment that follow upon each other."""

    segment: str  # its name
    payloads: list[bytes]
    ends: list[int]  # position after each of them


@dataclass
class Removed:
    """What a step removed, or put away."""

    segments: int = 0
    damaged: int = 0  # segments with damage, kept in DAMAGED_FOLDER
    torn: int = 0  # half-written records at a segment's end


class LogTail:
    """All segments of a folder, oldest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segments: dict[str, TailedSegment] = {}
        self.unreadable: set[str] = set()  # at the last look

    def read(self, most: int, most_bytes: int) -> list[Stretch]:
        """Records that were not read yet: about so many, and bytes of them. Raises OSError."""
        self._look()
        self.unreadable.clear()
        stretches: list[Stretch] = []
        for segment in list(self._segments.values()):
            while not segment.finished and most > 0 and most_bytes > 0:
                try:
                    if self._is_idle(segment):
                        break
                    found = scan(segment.path, segment.read, min(most, MOST_RECORDS))
                except FileNotFoundError:
                    self._segments.pop(segment.path.name, None)
                    break
                except PermissionError:
                    self.unreadable.add(segment.path.name)  # another user's: the others are not to wait for it
                    break
                except OSError:
                    if not stretches:
                        raise
                    return stretches  # these will not be read again; the next call meets the error
                segment.read, segment.finished = found.position, found.finished
                segment.damaged += found.damaged
                segment.torn = segment.torn or found.torn
                most -= len(found.payloads)
                most_bytes -= sum(map(len, found.payloads))
                if not found.payloads:
                    break
                stretches.append(Stretch(segment.path.name, found.payloads, found.ends))
        return stretches

    def mark(self) -> Mark:
        """How far each segment was read by now."""
        return [replace(segment) for segment in self._segments.values()]

    def settle(self, mark: Mark) -> Removed:
        """The database has, or a dead letter is, all that is before: note it, and remove what is done with."""
        removed = Removed()
        for segment in mark:
            name = segment.path.name
            if name not in self._segments:
                continue
            if segment.finished and self._remove(segment, removed):
                del self._segments[name]
            elif segment.flushed != segment.read:
                self._segments[name].flushed = segment.flushed = segment.read
                self._write_position(segment)
        return removed

    @property
    def waiting_bytes(self) -> int:
        """Of records that the database does not have; of what was not read, the room that it may take."""
        return sum(
            (segment.read if self._is_idle(segment) or segment.finished else segment.size) - segment.flushed
            for segment in self._segments.values()
        )

    @property
    def segments(self) -> int:
        return len(self._segments)

    def _look(self) -> None:
        """Take up new segments, and forget those that are gone."""
        try:
            names = {entry.name: entry.path for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)}
        except FileNotFoundError:
            names = {}
        for name in self._segments.keys() - names.keys():
            del self._segments[name]
        for name in sorted(names.keys() - self._segments.keys()):
            path = Path(names[name])
            with contextlib.suppress(FileNotFoundError):
                position, damaged = self._position(path)
                self._segments[name] = TailedSegment(path, path.stat().st_size, position, position, damaged)

    def _is_idle(self, segment: TailedSegment) -> bool:
        """Whether its writer lives and has added nothing: found out without a search through the whole file."""
        try:
            with open(segment.path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return os.pread(file.fileno(), HEADER_BYTES, segment.read) in {b"", _EMPTY}
                fcntl.flock(file, fcntl.LOCK_UN)
        except (FileNotFoundError, PermissionError):
            pass
        return False

    def _position(self, path: Path) -> tuple[int, int]:
        try:
            content = json.loads(_position_path(path).read_bytes())
            return max(len(FILE_HEADER), int(content["position"])), int(content["damaged"])
        except (OSError, ValueError, KeyError, TypeError):
            return len(FILE_HEADER), 0

    def _write_position(self, segment: TailedSegment) -> None:
        path = _position_path(segment.path)
        with contextlib.suppress(OSError):  # a full disk: it will be flushed once more
            write_whole(path, json.dumps({"position": segment.flushed, "damaged": segment.damaged}))

    def _remove(self, segment: TailedSegment, removed: Removed) -> bool:
        """Whether it is gone; where the folder may not be written to, it is tried again with each flush."""
        if segment.torn:
            log.warning("a half-written record was dropped", segment=segment.path.name)
        if segment.damaged:
            log.error("a segment of the event log is damaged", segment=segment.path.name, stretches=segment.damaged)
            with contextlib.suppress(OSError):
                aside = self._folder / DAMAGED_FOLDER
                make_folder(aside)
                segment.path.replace(aside / segment.path.name)
        try:
            segment.path.unlink(missing_ok=True)
            _position_path(segment.path).unlink(missing_ok=True)
        except OSError:
            return False
        removed.segments += 1
        removed.torn += segment.torn
        removed.damaged += segment.damaged > 0
        return True


def _position_path(segment: Path) -> Path:
    return segment.with_name(f"{segment.name}{POSITION_SUFFIX}")


def remove_unfinished(folder: Path) -> int:
    """Remove what is left of workers that ended while they made a segment; how many."""
    count = 0
    for path in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < UNFINISHED_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                count += 1
            finally:
                os.close(descriptor)
    return count
