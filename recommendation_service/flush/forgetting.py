"""Forgetting a user: rows are deleted, and what of the user still waits in the log is dropped when it is read.

Segments are not rewritten. ``forgotten.json`` says how far each of them went when the user was to be forgotten: what
is before that is not to be flushed, what comes after it counts, whatever the clocks say meanwhile. An entry goes with
the last of its segments.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy.engine import Engine

from recommendation_service.core.files import locked, write_whole
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.rows import Event, event_id_of, received_ms_of, text_of
from recommendation_service.flush.tables import delete_events, delete_rows, has_events
from recommendation_service.log.records import now_ms
from recommendation_service.log.segments import SUFFIX, record_bytes, written_bytes
from recommendation_service.log.tail import DAMAGED_FOLDER

FILE = "forgotten.json"
LOCK = "forgotten.lock"


@dataclass(frozen=True)
class Deletion:
    """Up to where a user is forgotten."""

    moment: int  # milliseconds since 1970, with a fleet by Redis's clock: for copies on its stream, which bear theirs
    positions: dict[str, int] | None = None  # where each segment ended; None: an entry of an earlier release
    # Where another machine was told, by this one's clock: what was received here until this one heard of it counts.
    received_ms: int | None = None

    def covers(self, record: Event, segment: str, end: int, payload_bytes: int) -> bool:
        """Whether a record of the log is forgotten, which ends at a position of a segment."""
        if self.positions is None:
            return received_ms_of(record) <= self.moment
        return end - payload_bytes < self.positions.get(segment, 0) and self.covers_time(record)

    def covers_time(self, record: Event) -> bool:
        """Of a record that was read before this was known, and so is before the positions."""
        return self.received_ms is None or received_ms_of(record) <= self.received_ms


Forgotten = dict[int, Deletion]  # by user


def forget_user(
    engine: Engine, folder: Path, user_id: int, moment: int | None = None, received_ms: int | None = None
) -> dict[str, int]:
    """Delete a user's events here; how many rows, dead letters and damaged segments. ``folder``: of the log.

    ``moment``, ``received_ms``: see Deletion; None: now, and all that is here. Raises SourceError where the database
    fails. The user's records in the log will be dropped even then.
    """
    with locked(folder / LOCK):
        positions = {path.name: written_bytes(path) for path in folder.glob(f"*{SUFFIX}")}
        deletion = Deletion(moment or now_ms(), positions, received_ms)
        _write(folder, read_forgotten(folder) | {user_id: deletion})
    dead = DeadLetters(folder).forget(user_id)
    # Kept for looking into only, and cannot be taken apart: whatever of the user is in them has to go.
    damaged = list((folder / DAMAGED_FOLDER).glob(f"*{SUFFIX}"))
    for path in damaged:
        path.unlink(missing_ok=True)
    rows = _delete_rows_of(engine, user_id, received_ms) if has_events(engine) else 0
    return {"events": rows, "dead_letters": dead, "damaged_segments": len(damaged)}


def _delete_rows_of(engine: Engine, user_id: int, received_ms: int | None) -> int:
    if received_ms is None:
        return delete_events(engine, "user_id = :user", user=user_id)
    moment = text_of(received_ms)
    return delete_events(engine, "user_id = :user AND received_at <= :moment", user=user_id, moment=moment)


def delete_records(engine: Engine, records: Sequence[Event]) -> None:
    """Delete the rows of records that came into the database although their users are forgotten. Raises SourceError."""
    if records and has_events(engine):
        delete_rows(engine, [(record.user_id, event_id_of(record)) for record in records])


def is_forgotten(record: Event, forgotten: Forgotten, segment: str, end: int, payload: bytes) -> bool:
    """Whether a record of the log is; ``end``: the position of the segment after it."""
    deletion = forgotten.get(record.user_id)
    return deletion is not None and deletion.covers(record, segment, end, record_bytes(payload))


def read_forgotten(folder: Path) -> Forgotten:
    try:
        content = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    return {
        int(user_id): Deletion(**entry) if isinstance(entry, dict) else Deletion(int(entry))
        for user_id, entry in content.items()
    }


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
