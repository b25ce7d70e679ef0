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
    found = []
    for name, (mark, problem, behind) in _behind(folder).items():
        oldest_ms = _oldest_ms(folder, behind, mark)
        missed = read_missed(folder, name) or mark.told
        found.append(Lag(name, holder_of(folder, name), len(behind), sum(behind.values()), oldest_ms, missed, problem))
    return found


def holder_of_most(folder: Path) -> str:
    """Whom a full log waits for, as the end of a sentence; empty: nobody in particular. Takes some milliseconds."""
    with contextlib.suppress(OSError):
        most = {name: sum(behind.values()) for name, (_, _, behind) in _behind(folder).items()}
        name = max(most, key=lambda name: most[name])
        if most[name]:
            return f", most of it for the reader {name!r}, which is {most[name]:,} bytes behind"
    return ""


def _behind(folder: Path) -> dict[str, tuple[Mark, str | None, dict[str, int]]]:
    """By reader: its mark, what is wrong with it, and the bytes of each segment that it has before it, oldest first."""
    found: dict[str, tuple[Mark, str | None, dict[str, int]]] = {}
    for name in registered(folder):
        try:
            found[name] = read_mark(folder, name) or Mark(), None, {}
        except MarkDamaged as damaged:
            found[name] = Mark(), str(damaged), {}
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)}
    except FileNotFoundError:
        sizes = {}
    for segment in sorted(sizes):
        places = {name: mark.places.get(segment, UNREAD) for name, (mark, _, _) in found.items()}
        for name, count in _bytes_behind(folder / segment, sizes[segment], places):
            found[name][2][segment] = count
    return found


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
    oldest: int | None = None
    for segment in segments:
        if oldest is not None and _made_ms(segment) > oldest:
            break  # nor is anything older in those that were made later
        with contextlib.suppress(OSError):  # it went just now, or is another user's
            found = scan(folder / segment, mark.places.get(segment, UNREAD).position, 1)
            records = take_apart(segment, found.payloads, found.begins).records
            written_ms = int((folder / segment).stat().st_mtime * 1000)
            first = received_ms_of(records[0]) if records else written_ms
            oldest = first if oldest is None else min(oldest, first)
    return oldest


def _made_ms(segment: str) -> int:
    """By its name, which begins with the nanoseconds since 1970; 0 where it does not."""
    digits = segment.split("-", maxsplit=1)[0]
    return int(digits) // 1_000_000 if digits.isdecimal() else 0
