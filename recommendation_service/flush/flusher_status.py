"""What the flusher tells of itself: a file of the log's folder."""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.processes.registry import FLUSHER


@dataclass
class FlusherStatus:
    """Written after each flush, and while anything waits each second; for /metrics and `recs events status`.

    Totals go on where the last process left them.
    """

    flushed: dict[str, int] = field(default_factory=dict)  # event: rows that were new
    duplicates: int = 0
    dead_letters: int = 0
    forgotten: int = 0  # records of users who were forgotten, dropped
    damaged_segments: int = 0
    torn_records: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0
    retries: int = 0
    escaped: int = 0  # in the operator's log with escapes, as its character set lacks letters of theirs
    failures: int = 0  # flushes since the last good one that did not bring everything in
    error: str | None = None
    taken: str | None = None  # the error, where another program reads under the flusher's name
    unreadable_segments: int = 0  # of the log, which the flusher's user may not read: their events wait
    waiting_records: int = 0
    waiting_bytes: int = 0
    oldest_ms: int | None = None  # when the oldest of them was accepted
    most_of_a_user: int = 0  # of what waits
    due_ms: int | None = None  # when what waits is flushed, at the latest; None: nothing waits
    promised_ms: int | None = None  # by when the oldest of it was to be in the database
    flush_token: str | None = None  # of the last flush that was asked for and is done
    written_ms: int = 0

    def write(self, folder: Path, now_ms: int) -> None:
        self.written_ms = now_ms
        with contextlib.suppress(OSError):  # a full disk: the last status stands
            make_folder(folder)
            write_whole(folder / FLUSHER.status_file, json.dumps(asdict(self)))


def read_status(folder: Path) -> FlusherStatus | None:
    """What the flusher last said of itself; None: it has never run here, or what it said cannot be read."""
    try:
        content: dict[str, Any] = json.loads((folder / FLUSHER.status_file).read_bytes())
        return FlusherStatus(**content)
    except (OSError, ValueError, TypeError):
        return None
