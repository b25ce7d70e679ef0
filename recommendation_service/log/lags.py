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
    holder_of,
    read_mark,
    read_missed,
    registered,
)
from recommendation_service.log.records import received_ms_of
from recommendation_service.log.segments import SUFFIX, end_of_records, is_complete, scan
from recommendation_service.log.tail import take_apart


class Lag(NamedTuple):
    reader: str
    holder: str  # the process that reads, for people; empty: none does
    segments: int  # that have something for it
    bytes: int  # of what it has not settled
    oldest_ms: int | None  # when the oldest record of that was accepted, in milliseconds since 1970
    missed: Missed  # what it was cut off from, in all
    problem: str | None  # its mark is lost


class _Reader(NamedTuple):
    mark: Mark
    problem: str | None
    behind: dict[str, int]  # bytes of each segment that are before it, oldest first


class LogLags:
    """For who looks again and again: what cannot change any more is read once.

    That is where a segment ends that nobody writes to, and when the record was accepted at which a reader stands.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[str, int] = {}
        self._accepted_ms: dict[tuple[str, int], int] = {}

    def read(self) -> list[Lag]:
        """Of all readers, ``flush`` first. Raises OSError."""
        found = []
        for name, (mark, problem, behind) in self._readers().items():
            oldest_ms = self._oldest_ms(behind, mark)
            missed = read_missed(self._folder, name) or mark.told
            holder = holder_of(self._folder, name)
            found.append(Lag(name, holder, len(behind), sum(behind.values()), oldest_ms, missed, problem))
        return found

    def holder_of_most(self) -> str:
        """Whom a full log waits for, as the end of a sentence; empty: nobody in particular."""
        with contextlib.suppress(OSError):
            most = {name: sum(reader.behind.values()) for name, reader in self._readers().items()}
            name = max(most, key=lambda name: most[name])
            if most[name]:
                return f", most of it for the reader {name!r}, which is {most[name]:,} bytes behind"
        return ""

    def _readers(self) -> dict[str, _Reader]:
        found: dict[str, _Reader] = {}
        for name in registered(self._folder):
            try:
                found[name] = _Reader(read_mark(self._folder, name) or Mark(), None, {})
            except MarkDamaged as damaged:
                found[name] = _Reader(Mark(), str(damaged), {})
        try:
            segments = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        except FileNotFoundError:
            segments = []
        there = set(segments)
        self._ends = {segment: end for segment, end in self._ends.items() if segment in there}
        self._accepted_ms = {at: known for at, known in self._accepted_ms.items() if at[0] in there}
        for segment in segments:
            places = {name: reader.mark.places.get(segment, UNREAD) for name, reader in found.items()}
            if all(place.finished for place in places.values()):
                continue
            try:
                end = self._end(segment)
            except OSError:  # it went just now, or is another user's
                continue
            for name, place in places.items():
                if not place.finished and place.position < end:
                    found[name].behind[segment] = end - place.position
        return found

    def _end(self, segment: str) -> int:
        """Raises OSError."""
        end = self._ends.get(segment)
        if end is None:
            with open(self._folder / segment, "rb") as file:
                complete = is_complete(file.fileno())  # asked first: then nothing is written any more
            end = end_of_records(self._folder / segment)
            if complete:
                self._ends[segment] = end
        return end

    def _oldest_ms(self, segments: Iterable[str], mark: Mark) -> int | None:
        """When the oldest record after a mark was accepted; of what cannot be read, when it was written."""
        oldest: int | None = None
        for segment in segments:
            if oldest is not None and _made_ms(segment) > oldest:
                break  # nor is anything older in those that were made later
            with contextlib.suppress(OSError):  # it went just now, or is another user's
                first = self._first_ms(segment, mark.places.get(segment, UNREAD).position)
                oldest = first if oldest is None else min(oldest, first)
        return oldest

    def _first_ms(self, segment: str, position: int) -> int:
        """Raises OSError."""
        known = self._accepted_ms.get((segment, position))
        if known is not None:
            return known
        found = scan(self._folder / segment, position, 1)
        records = take_apart(segment, found.payloads, found.begins).records
        if not records:
            return int((self._folder / segment).stat().st_mtime * 1000)
        self._accepted_ms[segment, position] = first = received_ms_of(records[0])
        return first


def _made_ms(segment: str) -> int:
    """By its name, which begins with the nanoseconds since 1970; 0 where it does not."""
    digits = segment.split("-", maxsplit=1)[0]
    return int(digits) // 1_000_000 if digits.isdecimal() else 0
