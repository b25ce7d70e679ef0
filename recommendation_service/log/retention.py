"""What goes of the log: a segment that all readers have passed, or that only others than ``flush`` still need when the
log is fuller than they may keep it.

One process does it, the one that reads as ``flush``. A reader that registers meanwhile begins with what is there then.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from recommendation_service.core.files import make_folder
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.marks import (
    FLUSH,
    UNREAD,
    Mark,
    MarkDamaged,
    Missed,
    Place,
    earlier_path,
    read_mark,
    read_missed,
    registered,
    write_missed,
)
from recommendation_service.log.records import received_ms_of
from recommendation_service.log.segments import SUFFIX, UNFINISHED
from recommendation_service.log.tail import LogTail

log = structlog.get_logger(__name__)

DAMAGED_FOLDER = "damaged"
# A segment is under its unfinished name for a moment only.
UNFINISHED_SECONDS = 60.0
# Of what a reader is cut off from, counted in one step.
_COUNTED_RECORDS, _COUNTED_BYTES = 10_000, 16 << 20


def remove_passed(folder: Path, flushed: Mapping[str, Place], most_bytes: int) -> None:
    """Remove the segments that nobody needs; ``most_bytes``: of the log, to which others than ``flush`` may keep it.

    What cannot be removed is tried again with the next call. Raises OSError where the readers cannot be told.
    """
    if not any(place.finished for place in flushed.values()):
        return
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob(f"*{SUFFIX}"))}
    done = [name for name in sizes if flushed.get(name, UNREAD).finished]
    readers = {name: _mark_of(folder, name) for name in registered(folder) if name != FLUSH}
    kept: dict[str, list[str]] = {}  # segment: who needs it
    excess = sum(sizes.values()) - most_bytes
    for name in done:
        kept[name] = [reader for reader, mark in readers.items() if not mark.places.get(name, UNREAD).finished]
        if not kept[name]:
            _remove(folder, name, flushed[name])
            excess -= sizes[name]
            del kept[name]
    cut: list[str] = []  # oldest first, until the rest fits, or ``flush`` needs all of it
    for name in kept:
        if excess <= 0:
            break
        cut.append(name)
        excess -= sizes[name]
    # Told first: a reader takes nothing any more of what it is told that it missed.
    for reader, mark in readers.items():
        names = [name for name in cut if reader in kept[name]]
        missed = _missed(folder, reader, mark, names) if names else None
        if missed is not None:
            try:
                write_missed(folder, reader, missed)
            except OSError:  # a full disk: the first of these makes the room
                _remove(folder, cut[0], flushed[cut[0]])
                write_missed(folder, reader, missed)
            log.error("a reader of the log was cut off", reader=reader, segments=names)
    for name in cut:
        _remove(folder, name, flushed[name])


def _mark_of(folder: Path, reader: str) -> Mark:
    """Of one whose mark is lost: it has passed nothing."""
    try:
        return read_mark(folder, reader) or Mark()
    except MarkDamaged:
        return Mark()


def _missed(folder: Path, reader: str, mark: Mark, names: list[str]) -> Missed | None:
    """What a reader was cut off from in all, with these segments; None: it has read all that is in them."""
    before = read_missed(folder, reader) or mark.told
    segments, records, taken, times = 0, 0, 0, []
    for name in names:
        if name in before.gone:
            continue  # it was noted, and this process ended
        # Of this segment alone, from where the reader was.
        others = {path.name for path in folder.glob(f"*{SUFFIX}")} - {name}
        tail = LogTail(folder, mark.places)
        with contextlib.suppress(OSError):
            while stretches := tail.read(_COUNTED_RECORDS, _COUNTED_BYTES, besides=others):
                for stretch in stretches:
                    records += len(stretch.records)
                    times += [received_ms_of(record) for record in (stretch.records[:1] + stretch.records[-1:])]
        lost = tail.bytes_after(mark.places)
        taken += lost
        segments += lost > 0
    if not segments:
        return None
    if before.segments > mark.told.segments:  # it was not told of those yet
        times += [moment for moment in (before.from_ms, before.until_ms) if moment is not None]
    return Missed(
        before.segments + segments,
        before.bytes + taken,
        before.records + records,
        min(times, default=None),
        max(times, default=None),
        names,
    )


def _remove(folder: Path, name: str, place: Place) -> None:
    """A damaged one is put aside, unless somebody who was to be forgotten may be in it."""
    path = folder / name
    with contextlib.suppress(OSError):  # the folder may not be written to
        if place.damaged and not any(name in (entry.positions or ()) for entry in read_forgotten(folder).values()):
            make_folder(folder / DAMAGED_FOLDER)
            path.replace(folder / DAMAGED_FOLDER / name)
        path.unlink(missing_ok=True)
        earlier_path(path).unlink(missing_ok=True)


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
