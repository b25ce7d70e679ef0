"""Who changed what is served, when and why: one line of JSON a change, and none is ever changed or removed."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from recommendation_service.core.files import append_line

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
    did: str  # publish, promote, rollback, pin, unpin, shadow, experiment, experiment-end; follow: the fleet serves it;
    # restore: a backup had it
    version: str | None  # several: with blanks between
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
        append_line(self._path, asdict(entry))

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
