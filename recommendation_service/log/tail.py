"""Reading all segments of the log as they grow, and taking their records apart: one way for every reader."""

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from recommendation_service.log.forgotten import Forgotten
from recommendation_service.log.marks import UNREAD, Place
from recommendation_service.log.records import Record, StreamedRecord, decode
from recommendation_service.log.segments import SUFFIX, ends_a_record, is_complete, is_followed, scan

# Records read in one step.
MOST_RECORDS = 5_000


class Undecodable(NamedTuple):
    """A whole record that is none of this release."""

    payload: bytes
    reason: str


class Stretch(NamedTuple):
    """Records of a segment that follow upon each other, taken apart."""

    segment: str  # its name
    records: list[Record]
    begins: list[int]  # position at which each of them begins
    forgotten: list[Record]  # of users who were to be forgotten since
    entries: list[bytes]  # of the fleet's stream: what is before them in the log is there too
    undecodable: list[Undecodable]
    payloads: int  # all of these
    payload_bytes: int

    def without(self, forgotten: Forgotten) -> "Stretch":
        """With records of forgotten users apart from the others."""
        if not forgotten or forgotten.keys().isdisjoint(record.user_id for record in self.records):
            return self
        records, begins, dropped = [], [], list(self.forgotten)
        for record, begin in zip(self.records, self.begins, strict=True):
            deletion = forgotten.get(record.user_id)
            if deletion is not None and deletion.covers(record, self.segment, begin):
                dropped.append(record)
            else:
                records.append(record)
                begins.append(begin)
        return self._replace(records=records, begins=begins, forgotten=dropped)


def take_apart(segment: str, payloads: list[bytes], begins: list[int]) -> Stretch:
    """Raises nothing for what is no record."""
    stretch = Stretch(segment, [], [], [], [], [], len(payloads), sum(map(len, payloads)))
    for payload, begin in zip(payloads, begins, strict=True):
        try:
            record = decode(payload)
        except (msgspec.DecodeError, ValueError) as error:
            stretch.undecodable.append(Undecodable(payload, f"no record of this release: {error}"))
            continue
        if isinstance(record, StreamedRecord):
            stretch.entries.append(record.entry_id)
        else:
            stretch.records.append(record)
            stretch.begins.append(begin)
    return stretch


@dataclass
class _Segment:
    path: Path
    size: int
    read: Place


class LogTail:
    """All segments of a folder, oldest first, from a reader's places on. Makes nothing, so anybody may look.

    A place that no reader can have come to, past the segment's end or within a record, counts for none: the segment is
    read from its beginning, and named in ``restarted``.
    """

    def __init__(self, folder: Path, places: Mapping[str, Place]) -> None:
        self._folder = folder
        self._from = places
        self._segments: dict[str, _Segment] = {}
        self.restarted: list[str] = []
        self.unreadable: set[str] = set()  # at the last look

    def read(self, most: int, most_bytes: int, besides: Collection[str] = ()) -> list[Stretch]:
        """Records that were not read yet, about so many, and bytes of them; of no segment in ``besides``.

        Raises OSError; then nothing was taken.
        """
        self._look(besides)
        self.unreadable.clear()
        stretches: list[Stretch] = []
        for segment in list(self._segments.values()):
            while not segment.read.finished and most > 0 and most_bytes > 0:
                try:
                    if _is_idle(segment):
                        break
                    found = scan(segment.path, segment.read.position, min(most, MOST_RECORDS))
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
                stretch = take_apart(segment.path.name, found.payloads, found.begins)
                before = segment.read
                segment.read = Place(
                    found.position, before.damaged + found.damaged, before.torn or found.torn, found.finished
                )
                most -= stretch.payloads
                most_bytes -= stretch.payload_bytes
                if not found.payloads:
                    break
                stretches.append(stretch)
        return stretches

    def go_back(self, places: Mapping[str, Place]) -> None:
        """To such places, which ``places`` gave: what was read since is read again."""
        self._from = {**self._from, **places}
        self._segments.clear()

    def places(self) -> dict[str, Place]:
        """How far each segment was read by now."""
        return {name: segment.read for name, segment in self._segments.items()}

    def bytes_after(self, places: Mapping[str, Place]) -> int:
        """Of records after such places; of what was not read, the room that it may take."""
        return sum(
            (segment.read.position if segment.read.finished or _is_idle(segment) else segment.size)
            - places.get(name, UNREAD).position
            for name, segment in self._segments.items()
        )

    def bytes_finished(self, places: Mapping[str, Place]) -> int:
        """What the segments take of which such places say that nothing can follow."""
        return sum(segment.size for name, segment in self._segments.items() if places.get(name, UNREAD).finished)

    def _look(self, besides: Collection[str]) -> None:
        """Take up new segments, and drop those that are gone."""
        try:
            paths = {entry.name: entry.path for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)}
        except FileNotFoundError:
            paths = {}
        names = paths.keys() - set(besides)
        for name in self._segments.keys() - names:
            del self._segments[name]
        for name in sorted(names - self._segments.keys()):
            path = Path(paths[name])
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                self._segments[name] = _Segment(path, size, self._begin(path, size))

    def _begin(self, path: Path, size: int) -> Place:
        """Where to begin with a segment that was not looked at before."""
        place = self._from.get(path.name, UNREAD)
        if place.finished and place.position <= size:
            return place
        try:
            if ends_a_record(path, place.position):
                return place
        except PermissionError:
            return place  # nor can it be read from there
        if path.name not in self.restarted:
            self.restarted.append(path.name)
        return UNREAD


def _is_idle(segment: _Segment) -> bool:
    """Whether its writer lives and has added nothing: found out without a search through the whole file."""
    try:
        with open(segment.path, "rb") as file:
            return not is_complete(file.fileno()) and not is_followed(segment.path, segment.read.position)
    except (FileNotFoundError, PermissionError):
        return False
