"""Whether this machine follows what the fleet serves, as its worker that looks last told: a file of the store."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from recommendation_service.core.files import make_folder, write_whole

FILE = "fleet-status.json"
# What is over by then was no more than a connection that broke.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class FleetStatus:
    error: str | None  # why it does not; None: it does
    since: float  # seconds since 1970

    def is_cut_off(self, now: float) -> bool:
        return self.error is not None and now - self.since >= PATIENCE_SECONDS

    def write(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # a full disk: the last status stands
            make_folder(folder)
            write_whole(folder / FILE, json.dumps(asdict(self)))


def read_fleet_status(folder: Path) -> FleetStatus | None:
    """None: it has not looked yet."""
    try:
        return FleetStatus(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
