"""Forgetting a user: rows are deleted, and what of the user still waits in the log is given to no reader any more."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import Engine

from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.rows import Event, event_id_of, text_of
from recommendation_service.flush.tables import delete_events, delete_rows, has_events
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.records import now_ms
from recommendation_service.log.retention import DAMAGED_FOLDER
from recommendation_service.log.segments import SUFFIX


def forget_user(
    engine: Engine, folder: Path, user_id: int, moment: int | None = None, received_ms: int | None = None
) -> dict[str, int]:
    """Delete a user's events here; how many rows, dead letters and damaged segments. ``folder``: of the log.

    ``moment``, ``received_ms``: see Deletion; None: now, and all that is here. Raises SourceError where the database
    fails. No reader of the log is given the user's records even then.
    """
    note_forgotten(folder, user_id, moment or now_ms(), received_ms)
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
