"""Each look at the evidence for a policy version, kept: who promotes it can say on what, and how often one looked."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recommendation_service.core.files import append_line, make_folder
from recommendation_service.estimates.estimate import Estimates

SUFFIX = ".jsonl"


def keep_look(folder: Path, version: str, found: Estimates, by: str, now: float) -> None:
    """``by``: from what was known how likely the version was; ``now``: seconds since 1970. Raises OSError."""
    make_folder(folder)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    append_line(_file_of(folder, version), {"at": at, "policy": version, "by": by} | found.summary())


def looks_at(folder: Path, version: str) -> list[dict[str, Any]]:
    """The oldest first; a line that was cut is passed over. Raises OSError."""
    try:
        lines = _file_of(folder, version).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _file_of(folder: Path, version: str) -> Path:
    """A policy file may name its version as it likes."""
    return folder / (re.sub(r"[^\w.-]", "_", version).lstrip(".") + SUFFIX)
