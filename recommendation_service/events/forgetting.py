"""Forgetting a user: rows are deleted, and what of the user still waits in the log is dropped when it is read.

Segments are not rewritten. ``forgotten.json`` says until when a user's records are not to be flushed; an entry goes
when no segment is older than it.
"""

import json
from pathlib import Path

from sqlalchemy.engine import Engine

from recommendation_service.core.files import locked, write_whole
from recommendation_service.events.dead_letters import DeadLetters
from recommendation_service.events.records import now_ms
from recommendation_service.events.rows import Event, received_ms_of, text_of
from recommendation_service.events.segments import SUFFIX
from recommendation_service.events.tables import delete_events, has_events
from recommendation_service.events.tail import DAMAGED_FOLDER

FILE = "forgotten.json"
LOCK = "forgotten.lock"

# user: milliseconds since 1970 up to which what was received is forgotten; what comes later counts
Forgotten = dict[int, int]


def forget_user(engine: Engine, folder: Path, user_id: int, moment: int | None = None) -> dict[str, int]:
    """Delete a user's events here; how many rows, dead letters and damaged segments. ``folder``: of the log.

    ``moment``: up to which, in milliseconds since 1970; None: now. Raises SourceError where the database fails. The
    user's records in the log will be dropped even then.
    """
    moment = moment or now_ms()
    with locked(folder / LOCK):
        _write(folder, read_forgotten(folder) | {user_id: moment})
    dead = DeadLetters(folder).forget(user_id)
    # Kept for looking into only, and cannot be taken apart: whatever of the user is in them has to go.
    damaged = list((folder / DAMAGED_FOLDER).glob(f"*{SUFFIX}"))
    for path in damaged:
        path.unlink(missing_ok=True)
    rows = delete_forgotten(engine, {user_id: moment}) if has_events(engine) else 0
    return {"events": rows, "dead_letters": dead, "damaged_segments": len(damaged)}


def delete_forgotten(engine: Engine, forgotten: Forgotten) -> int:
    """Delete the rows. Raises SourceError."""
    return sum(
        delete_events(engine, "user_id = :user AND received_at <= :moment", user=user_id, moment=text_of(moment))
        for user_id, moment in forgotten.items()
    )


def is_forgotten(record: Event, forgotten: Forgotten) -> bool:
    return record.user_id in forgotten and received_ms_of(record) <= forgotten[record.user_id]


def read_forgotten(folder: Path) -> Forgotten:
    try:
        content = json.loads((folder / FILE).read_bytes())
        return {int(user_id): int(moment) for user_id, moment in content.items()}
    except FileNotFoundError:
        return {}


def drop_settled(folder: Path) -> None:
    """Drop the entries that no segment is older than. A segment's name begins with when it was made, and the
    records in it are not older than it."""
    if not (folder / FILE).exists():
        return
    with locked(folder / LOCK):
        forgotten = read_forgotten(folder)
        oldest = min((_made_ms(path) for path in folder.glob(f"*{SUFFIX}")), default=now_ms())
        kept = {user_id: moment for user_id, moment in forgotten.items() if moment >= oldest}
        if kept != forgotten:
            _write(folder, kept)


def _made_ms(segment: Path) -> int:
    """0 for a name that is not the log's."""
    digits = segment.name.split("-")[0]
    return int(digits) // 1_000_000 if digits.isdigit() else 0


def _write(folder: Path, forgotten: Forgotten) -> None:
    content = json.dumps({str(user_id): moment for user_id, moment in forgotten.items()})
    write_whole(folder / FILE, content, synced=True)
