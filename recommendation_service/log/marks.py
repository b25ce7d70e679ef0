"""The readers of the log: what each of them has done with, as files of the log's folder.

``readers/NAME.json`` registers a reader: while it is there, no segment goes that the reader has not passed. The reader
alone writes it, whole. ``readers/NAME.missed`` is the flusher's: what the reader was cut off from. ``flush`` is a
reader whether it is registered or not; of segments that an earlier release has flushed a part of, its position may be
in ``NAME.segment.position``.
"""

import contextlib
import fcntl
import json
import re
from pathlib import Path

import msgspec

from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.log.segments import FILE_HEADER, SUFFIX

FOLDER = "readers"
FLUSH = "flush"  # brings events into the database
REBUILD = "rebuild"  # fills a memory of users that was begun anew
LEARN = "learn"
OWN = (FLUSH, REBUILD, LEARN)  # readers that are the service's; any other name is an operator's
EARLIER_SUFFIX = ".position"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MARK, _MISSED, _LOCK = ".json", ".missed", ".lock"


class Place(msgspec.Struct, array_like=True, frozen=True):
    """How far a segment was read."""

    position: int
    damaged: int = 0  # stretches of bytes before it that are no record
    torn: bool = False  # the last record was never completed
    finished: bool = False  # read to its end, and nothing can follow


UNREAD = Place(len(FILE_HEADER))


class Missed(msgspec.Struct, frozen=True):
    """What a reader was cut off from before it had read it, in all; at most, as it may have read some of it since."""

    segments: int = 0
    bytes: int = 0
    records: int = 0
    from_ms: int | None = None  # when the first and the last of the records were accepted that it was not told of yet
    until_ms: int | None = None
    gone: list[str] = []  # the segments of the last time, which may still be there for a moment

    def since(self, told: "Missed") -> "Missed | None":
        """What came to it; None: nothing."""
        if self.segments == told.segments:
            return None
        if self.segments < told.segments:  # the reader was struck off meanwhile, and counting began anew
            told = Missed()
        return msgspec.structs.replace(
            self,
            segments=self.segments - told.segments,
            bytes=self.bytes - told.bytes,
            records=self.records - told.records,
        )


class Mark(msgspec.Struct, frozen=True):
    """What a reader has done with: what follows was not given to it, or is given again.

    A reader that keeps it with its results, in one step, goes on from it and has each record once, however it ends.
    """

    places: dict[str, Place] = {}
    told: Missed = Missed()  # of what it was cut off from

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def decoded(content: bytes | str) -> "Mark":
        """Raises ValueError for what is no mark."""
        return _DECODER.decode(content)


_DECODER = msgspec.json.Decoder(Mark)
_MISSED_DECODER = msgspec.json.Decoder(Missed)


class MarkDamaged(Exception):
    """What a reader has done with is not known."""


def check_name(name: str) -> None:
    """Raises SourceError."""
    if not _NAME.fullmatch(name):
        raise SourceError(
            f"{name!r} is no name of a reader: up to 40 lower-case letters, digits, '_' and '-', "
            "the first a letter or a digit."
        )


def registered(folder: Path) -> list[str]:
    """Names of the readers, ``flush`` first. Raises OSError."""
    try:
        names = sorted(path.name.removesuffix(_MARK) for path in (folder / FOLDER).iterdir() if path.suffix == _MARK)
    except FileNotFoundError:
        names = []
    return [FLUSH, *(name for name in names if _NAME.fullmatch(name) and name != FLUSH)]


def read_mark(folder: Path, name: str) -> Mark | None:
    """None: it is not registered. Raises MarkDamaged."""
    path = mark_path(folder, name)
    try:
        mark = Mark.decoded(path.read_bytes())
    except FileNotFoundError:
        mark = None
    except (OSError, ValueError) as error:
        raise MarkDamaged(f"{path} cannot be used: {error}") from error
    if name == FLUSH:
        earlier = _earlier_places(folder)
        return Mark(earlier | mark.places, mark.told) if mark is not None else Mark(earlier)
    return mark


def write_mark(folder: Path, name: str, mark: Mark) -> None:
    """Raises OSError. What ``flush`` does twice it has done once, so its mark needs no sync."""
    path = mark_path(folder, name)
    make_folder(folder)
    make_folder(path.parent)
    write_whole(path, mark.encoded(), synced=name != FLUSH)


def mark_path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}{_MARK}"


def read_missed(folder: Path, name: str) -> Missed | None:
    """What a reader was cut off from. None: the file is damaged."""
    try:
        return _MISSED_DECODER.decode((folder / FOLDER / f"{name}{_MISSED}").read_bytes())
    except FileNotFoundError:
        return Missed()
    except (OSError, ValueError):
        return None


def write_missed(folder: Path, name: str, missed: Missed) -> None:
    """Raises OSError."""
    write_whole(folder / FOLDER / f"{name}{_MISSED}", msgspec.json.encode(missed), synced=True)


def lock_path(folder: Path, name: str) -> Path:
    """The file whose lock the process holds that reads under the name."""
    return folder / FOLDER / f"{name}{_LOCK}"


def holder_of(folder: Path, name: str) -> str:
    """Who reads under a name, for people; empty: nobody does. Makes nothing."""
    try:
        with open(lock_path(folder, name), "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().decode("utf-8", "replace") or "another process"
    except OSError:
        pass
    return ""


def strike_off(folder: Path, name: str) -> None:
    """Nothing is kept for the reader any more; its lock is held by who calls. Raises OSError."""
    for suffix in (_MARK, _MISSED, _LOCK):
        (folder / FOLDER / f"{name}{suffix}").unlink(missing_ok=True)


def earlier_path(segment: Path) -> Path:
    """Where a release before noted how far it had flushed a segment."""
    return segment.with_name(f"{segment.name}{EARLIER_SUFFIX}")


def _earlier_places(folder: Path) -> dict[str, Place]:
    places = {}
    for path in folder.glob(f"*{SUFFIX}{EARLIER_SUFFIX}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_bytes())
            position = max(len(FILE_HEADER), int(content["position"]))
            places[path.name.removesuffix(EARLIER_SUFFIX)] = Place(position, int(content["damaged"]))
    return places
