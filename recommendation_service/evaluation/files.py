"""Frames out of files: CSV, Parquet and JSON lines."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.interaction_log import InteractionLog, log_of_frames

_READERS: dict[str, Any] = {
    ".csv": pa.csv.read_csv,
    ".parquet": pa.parquet.read_table,
    ".jsonl": pa.json.read_json,
    ".ndjson": pa.json.read_json,
}


def log_of_files(events: Path, items: Path | None) -> InteractionLog:
    """Raises EvaluationError with every problem of both files."""
    problems: list[str] = []
    frames = [_read(path, problems) for path in (events, items) if path is not None]
    if problems:
        raise EvaluationError(problems)
    return log_of_frames(*frames, name=events.stem)


def _read(path: Path, problems: list[str]) -> Any:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        problems.append(f"{path}: the name must end with one of {', '.join(_READERS)}.")
        return None
    try:
        return reader(path)
    except (OSError, pa.ArrowException) as error:
        problems.append(f"{path} cannot be read: {str(error).splitlines()[0]}")
        return None
