"""Records that the database refuses for ever, or that are none: kept in a file, listed, and put through again.

JSON lines, synced before the log's segment may go: what was accepted stays somewhere. Several processes may use the
file at once, under its lock.
"""

import base64
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from recommendation_service.core.files import NOT_FOR_OTHERS, locked, opener, write_whole
from recommendation_service.flush.rows import Event, event_id_of, event_of
from recommendation_service.log.records import FeedbackRecord, FeedRecord, decode

FILE = "dead.jsonl"
LOCK = "dead.lock"


@dataclass(frozen=True)
class DeadLetter:
    died_at: str  # ISO 8601, UTC
    reason: str
    payload: str  # the record's bytes, in base64
    event_id: str | None = None  # and so on: where it is a record
    event: str | None = None
    user_id: int | None = None

    def record(self) -> Event | None:
        """None where it is no record of this release."""
        with contextlib.suppress(ValueError, msgspec.DecodeError):
            record = decode(base64.b64decode(self.payload, validate=True))
            if isinstance(record, FeedbackRecord | FeedRecord):
                return record
        return None


def dead_letter(payload: bytes, reason: str, record: Event | None = None) -> DeadLetter:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    encoded = base64.b64encode(payload).decode()
    if record is None:
        return DeadLetter(now, reason, encoded)
    return DeadLetter(now, reason, encoded, event_id_of(record), event_of(record), record.user_id)


class DeadLetters:
    """The file in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """On the disk when it returns. Raises OSError."""
        if letters:
            with locked(self._folder / LOCK):
                self._append(letters)

    def all(self) -> list[DeadLetter]:
        """Lines that cannot be read are left out, as half of one that is being written. Makes nothing: whoever looks
        needs no lock, as the file is appended to or replaced as a whole. Raises OSError.
        """
        return self._read()

    def replace(self, seen: Sequence[DeadLetter], kept: Sequence[DeadLetter]) -> None:
        """Put ``kept`` in the place of those that ``all`` gave; what was added since stays."""
        with locked(self._folder / LOCK):
            known = set(seen)
            self._write([*kept, *(letter for letter in self._read() if letter not in known)])

    def forget(self, user_id: int) -> int:
        """Remove a user's; how many."""
        with locked(self._folder / LOCK):
            letters = self._read()
            kept = [letter for letter in letters if letter.user_id != user_id]
            if len(kept) < len(letters):
                self._write(kept)
            return len(letters) - len(kept)

    def _read(self) -> list[DeadLetter]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [letter for line in lines if (letter := _parse(line)) is not None]

    def _append(self, letters: Sequence[DeadLetter]) -> None:
        content = _lines(letters)
        with open(self._path, "ab", opener=opener(NOT_FOR_OTHERS)) as file:
            start = file.tell()
            if start and not _ends_with_newline(self._path):
                content = b"\n" + content  # half a line from a crash stays a line of its own
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self._path, start)
                raise

    def _write(self, letters: Sequence[DeadLetter]) -> None:
        write_whole(self._path, _lines(letters), most=NOT_FOR_OTHERS, synced=True)


def _lines(letters: Sequence[DeadLetter]) -> bytes:
    return b"".join(json.dumps(asdict(letter)).encode() + b"\n" for letter in letters)


def _parse(line: bytes) -> DeadLetter | None:
    try:
        content: dict[str, Any] = json.loads(line)
        return DeadLetter(**content)
    except (ValueError, TypeError):
        return None


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
