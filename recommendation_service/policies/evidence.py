"""What was found of a version at each look, kept with it: one line of JSON a look, and none is ever changed.

The files stay when their versions are removed, as they say why a version was promoted or not.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from recommendation_service.core.files import append_line, make_folder

FOLDER = "evidence"
SUFFIX = ".jsonl"
MOST_VERSIONS = 300  # the oldest give way
BETTER, WORSE, OPEN, REFUSED = "better", "worse", "open", "refused"  # verdicts


@dataclass(frozen=True)
class Look:
    """At a version beside the one that served, whose feeds were weighed. Rewards are of a feed; None: not a number."""

    when: str
    who: str
    against: str  # the version that served
    verdict: str  # better, worse, open: nothing can be told yet, refused: the feeds cannot tell
    words: str  # the verdict, for people, and why
    feeds: int
    users: int
    confidence: float  # of this look's bounds, on either side
    logged: float | None  # what a feed of the one that served brought
    difference: float | None  # what one of this version brings more
    lower: float | None  # of the difference: the lower of the estimate's and the guardrail's
    upper: float | None
    effective_sample_size: float  # of the slot where it is least
    largest_weight: float


class EvidenceFiles:
    def __init__(self, policies: Path) -> None:
        """``policies``: the store's folder."""
        self._folder = policies / FOLDER

    def add(self, version: str, look: Look) -> None:
        """Raises OSError."""
        make_folder(self._folder)
        append_line(self._path(version), asdict(look))
        for path in sorted(self._folder.glob(f"*{SUFFIX}"))[:-MOST_VERSIONS]:
            path.unlink(missing_ok=True)

    def of(self, version: str) -> list[Look]:
        """Oldest first; lines that cannot be read are passed over."""
        try:
            lines = self._path(version).read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(Look(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def _path(self, version: str) -> Path:
        return self._folder / f"{Path(version).name}{SUFFIX}"
