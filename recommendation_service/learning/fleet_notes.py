"""By which the fleet knows whose the sums are, and what was last seen of the others: in the ledger's file and steps."""

import json
import secrets
import sqlite3
from dataclasses import asdict, dataclass, field

_OTHERS = "CREATE TABLE IF NOT EXISTS others (machine TEXT PRIMARY KEY, part BLOB NOT NULL) WITHOUT ROWID"
_NAME = "identity"


@dataclass
class Identity:
    """It goes with the file: who begins anew is another."""

    machine: str
    writers: list[str] = field(default_factory=list)  # as whom it has written since Redis last had its part
    sequence: int = 0  # of its parts
    takes_over: bool = False  # the next one replaces whatever there is


class FleetNotes:
    """Raises ValueError, KeyError, TypeError where the file has no notes of this release."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute
        self._run(_OTHERS)
        row = self._run("SELECT value FROM known WHERE name = ?", (_NAME,)).fetchone()
        self.identity = Identity(secrets.token_hex(8)) if row is None else Identity(**json.loads(row[0]))
        if row is None:
            self.keep_identity()

    def keep_identity(self) -> None:
        value = json.dumps(asdict(self.identity)).encode()
        self._run("INSERT OR REPLACE INTO known VALUES (?, ?)", (_NAME, value))

    def others(self) -> dict[str, bytes]:
        """The parts of the other machines, as they were last read."""
        return dict(self._run("SELECT machine, part FROM others"))

    def keep_others(self, parts: dict[str, bytes]) -> None:
        for machine, part in parts.items():
            self._run("INSERT OR REPLACE INTO others VALUES (?, ?)", (machine, part))
