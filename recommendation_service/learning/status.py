"""What the learner tells of itself: a file of its folder, for /metrics, /ready and `recs learn --status`."""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.processes.registry import LEARNER

# Of the shadows that feeds were last made beside.
MOST_AGREEMENTS = 8


@dataclass
class Totals:
    """Kept with the sums, so that they count what is in them."""

    slots: dict[str, int] = field(default_factory=dict)  # by kind: shown items that were learned from
    events: dict[str, dict[str, int]] = field(default_factory=dict)  # by event and source
    left: dict[str, int] = field(default_factory=dict)  # by reason: what taught nothing
    agreement: dict[str, tuple[int, float]] = field(default_factory=dict)  # by shadow: see agree
    version: str | None = None  # the last that was published
    version_ms: int | None = None
    version_slots: int = 0  # that it was learned from

    @property
    def all_slots(self) -> int:
        return sum(self.slots.values())

    def count(self, kind: str, count: int) -> None:
        self.slots[kind] = self.slots.get(kind, 0) + count

    def count_event(self, event: str, source: str) -> None:
        of_event = self.events.setdefault(event, {})
        of_event[source] = of_event.get(source, 0) + 1

    def agree(self, shadow: str, draws: int, alike: float) -> None:
        """Of so many draws that served, how many would have been the same, had the shadow drawn by the same chance."""
        known = self.agreement.pop(shadow, (0, 0.0))
        self.agreement[shadow] = known[0] + draws, known[1] + alike
        for gone in list(self.agreement)[:-MOST_AGREEMENTS]:
            del self.agreement[gone]

    def leave(self, reason: str, count: int = 1) -> None:
        if count:
            self.left[reason] = self.left.get(reason, 0) + count


@dataclass
class LearnerStatus:
    totals: Totals = field(default_factory=Totals)
    pending_feeds: int = 0  # that may still bring rewards
    error: str | None = None  # why nothing is learned, or published
    unread: dict[str, str] = field(default_factory=dict)  # by table of the operator's: why it is not learned from
    experiment: dict[str, Any] | None = None  # what was counted of the one that runs, see arms.in_short
    fleet: dict[str, Any] | None = None  # who else learns, and who publishes; None: without Redis
    gate: dict[str, int] = field(default_factory=dict)  # how often each verdict and deed came
    trial: str | None = None  # what is being weighed, in words
    learn_token: str | None = None  # of the last request that was carried out
    written_ms: int = 0

    def write(self, folder: Path, now_ms: int) -> None:
        self.written_ms = now_ms
        with contextlib.suppress(OSError):  # a full disk: the last status stands
            make_folder(folder)
            write_whole(folder / LEARNER.status_file, json.dumps(asdict(self)))


def read_status(folder: Path) -> LearnerStatus | None:
    """What the learner last said of itself; None: it has never run here, or what it said cannot be read."""
    try:
        content: dict[str, Any] = json.loads((folder / LEARNER.status_file).read_bytes())
        return LearnerStatus(**{**content, "totals": Totals(**content["totals"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
