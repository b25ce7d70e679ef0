"""Who changed what is served, when and why: one line of JSON a change, and none is ever changed or removed."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from recommendation_service.core.files import create

FILE = "journal.jsonl"


class Deed(NamedTuple):
    """Of whoever changes what is served."""

    moment: datetime
    who: str
    why: str


@dataclass(frozen=True)
class Entry:
    """A change. ``before``: what was served until then; None: the policy that ships, or POLICY_FILE's."""

    when: str
    who: str
    why: str
    did: str  # publish, promote, rollback, pin, unpin, shadow; follow: the fleet serves it; restore: a backup had it
    version: str | None
    before: str | None


def entry_of(deed: Deed, did: str, version: str | None, before: str | None) -> Entry:
    return Entry(deed.moment.isoformat(timespec="milliseconds"), deed.who, deed.why, did, version, before)


class Journal:
    """The file of changes. Lines that cannot be read, as of a machine that lost its power, are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entry: Entry) -> None:
        """Before the change itself: one without its line would be worse than a line whose change a crash prevented.

        Raises OSError.
        """
        line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
        descriptor = create(self._path, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # after one that was cut
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, size)
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """Oldest first."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(Entry(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found
