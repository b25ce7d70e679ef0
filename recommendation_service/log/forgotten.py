"""Who is forgotten, and up to where: no reader is given what was in the log when a user was to be forgotten.

Segments are not rewritten. ``forgotten.json`` says how far each of them went when the user was to be forgotten: what
is before that is not to be used, what comes after it counts, whatever the clocks say meanwhile. An entry goes with
the last of its segments.
"""

import errno
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from recommendation_service.core.files import locked, write_whole
from recommendation_service.log.records import Record, received_ms_of
from recommendation_service.log.segments import SUFFIX, written_bytes

FILE = "forgotten.json"
LOCK = "forgotten.lock"


@dataclass(frozen=True)
class Deletion:
    """Up to where a user is forgotten."""

    moment: int  # milliseconds since 1970, with a fleet by Redis's clock: for copies on its stream, which bear theirs
    positions: dict[str, int] | None = None  # where each segment ended; None: an entry of an earlier release
    # Where another machine was told, by this one's clock: what was received here until this one heard of it counts.
    received_ms: int | None = None

    def covers(self, record: Record, segment: str, begin: int) -> bool:
        """Whether a record of the log is forgotten, which begins at a position of a segment."""
        if self.positions is None:
            return received_ms_of(record) <= self.moment
        return begin < self.positions.get(segment, 0) and self.covers_time(record)

    def covers_time(self, record: Record) -> bool:
        """Of a record that was read before this was known, and so is before the positions."""
        return self.received_ms is None or received_ms_of(record) <= self.received_ms


Forgotten = dict[int, Deletion]  # by user


def note_forgotten(folder: Path, user_id: int, moment: int, received_ms: int | None = None) -> None:
    """All that the log has of a user now is forgotten. ``moment``, ``received_ms``: see Deletion. Raises OSError."""
    with locked(folder / LOCK):
        positions = {path.name: written_bytes(path) for path in folder.glob(f"*{SUFFIX}")}
        _write(folder, read_forgotten(folder) | {user_id: Deletion(moment, positions, received_ms)})


def read_forgotten(folder: Path) -> Forgotten:
    """Raises OSError, also for a damaged file: nobody may go on without it."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        return {
            int(user_id): Deletion(**entry) if isinstance(entry, dict) else Deletion(int(entry))
            for user_id, entry in content.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise OSError(errno.EIO, f"it is no list of who is forgotten ({error})", str(path)) from error


def drop_settled(folder: Path) -> None:
    """Drop the entries none of whose segments is there any more."""
    if not (folder / FILE).exists():
        return
    with locked(folder / LOCK):
        forgotten = read_forgotten(folder)
        segments = {path.name for path in folder.glob(f"*{SUFFIX}")}
        kept = {user: deletion for user, deletion in forgotten.items() if _is_needed(deletion, segments)}
        if kept != forgotten:
            _write(folder, kept)


def _is_needed(deletion: Deletion, segments: set[str]) -> bool:
    return bool(segments) if deletion.positions is None else not segments.isdisjoint(deletion.positions)


def _write(folder: Path, forgotten: Forgotten) -> None:
    content = json.dumps({str(user_id): asdict(deletion) for user_id, deletion in forgotten.items()})
    write_whole(folder / FILE, content, synced=True)
