"""How far behind each reader of the log is: who holds it when it fills up. Makes nothing, so anybody may look."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from recommendation_service.log.marks import (
    UNREAD,
    Mark,
    MarkDamaged,
    Missed,
    Place,
    holder_of,
    read_mark,
    read_missed,
    registered,
)
from recommendation_service.log.records import received_ms_of
from recommendation_service.log.segments import SUFFIX, is_followed, scan
from recommendation_service.log.tail import take_apart


class Lag(NamedTuple):
    reader: str
    holder: str  # the process that reads, for people; empty: none does. Of ``flush`` it is not known here
    segments: int  # that have something for it
    bytes: int  # of what it has not settled; of what nobody has read, the room that it may take
    oldest_ms: int | None  # when the oldest record of that was accepted, in milliseconds since 1970
    missed: Missed  # what it was cut off from, in all
    problem: str | None  # its mark is lost


def lags(folder: Path) -> list[Lag]:
    """Of all readers, ``flush`` first. Raises OSError."""
    marks, problems = {}, {}
    for name in registered(folder):
        try:
            marks[name] = read_mark(folder, name) or Mark()
        except MarkDamaged as damaged:
            marks[name], problems[name] = Mark(), str(damaged)
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)}
    except FileNotFoundError:
        sizes = {}
    behind: dict[str, dict[str, int]] = {name: {} for name in marks}
    for segment in sorted(sizes):
        places = {name: mark.places.get(segment, UNREAD) for name, mark in marks.items()}
        for name, count in _bytes_behind(folder / segment, sizes[segment], places):
            behind[name][segment] = count
    return [
        Lag(
            name,
            holder_of(folder, name),
            len(behind[name]),
            sum(behind[name].values()),
            _oldest_ms(folder, behind[name], mark),
            read_missed(folder, name) or mark.told,
            problems.get(name),
        )
        for name, mark in marks.items()
    ]


def holder_of_most(folder: Path) -> str:
    """Whom a full log waits for, as the end of a sentence; empty: nobody in particular."""
    with contextlib.suppress(OSError):
        most = max(lags(folder), key=lambda lag: lag.bytes)
        if most.bytes:
            return f", most of it for the reader {most.reader!r}, which is {most.bytes:,} bytes behind"
    return ""


def _bytes_behind(path: Path, size: int, places: dict[str, Place]) -> Iterable[tuple[str, int]]:
    """Readers that have something of a segment before them, and how much."""
    unfinished = {name: place.position for name, place in places.items() if not place.finished}
    try:
        followed = {position: is_followed(path, position) for position in set(unfinished.values())}
    except OSError:  # it went just now, or is another user's
        return
    ends = [place.position for place in places.values() if place.finished]
    ends += [position for position, is_there in followed.items() if not is_there]
    end = max(ends, default=size)
    for name, position in unfinished.items():
        if followed[position] and position < end:
            yield name, end - position


def _oldest_ms(folder: Path, segments: Iterable[str], mark: Mark) -> int | None:
    """When the oldest record after a mark was accepted; of what cannot be read, when it was written."""
    times = []
    for segment in segments:
        with contextlib.suppress(OSError):  # it went just now, or is another user's
            found = scan(folder / segment, mark.places.get(segment, UNREAD).position, 1)
            records = take_apart(segment, found.payloads, found.begins).records
            written_ms = int((folder / segment).stat().st_mtime * 1000)
            times.append(received_ms_of(records[0]) if records else written_ms)
    return min(times, default=None)
