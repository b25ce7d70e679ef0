"""Makes something usable of every value that the operator's tables may hold, and counts what it could not.

Nothing here raises: a bad value counts as absent.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.report import BuildReport
from recommendation_service.core.local_time import seconds_of_local
from recommendation_service.sources.json_lists import read_list

# Clocks of two machines differ; a time so little ahead is now, and one further ahead is an error.
CLOCK_TOLERANCE_SECONDS = 300.0
LARGEST_ID = 2**63 - 1


def text(value: Any, column: str | None = None, report: BuildReport | None = None) -> str:
    """Text is never null; absent text is empty, and counted where a column is named."""
    if report is not None and column is not None and (value is None or value in ("", b"")):
        report.aside(column, "empty")
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode("utf-8")


def text_list(value: Any, column: str, report: BuildReport) -> list[str]:
    """The non-empty strings of a JSON list (`json_lists`); other entries, and what is no list, count as absent."""
    content, reason = read_list(value)
    if reason is not None:
        report.aside(column, reason)
    kept = [entry.strip() for entry in content if isinstance(entry, str) and entry.strip()]
    report.aside(column, "entry not text", len(content) - len(kept))
    return kept


def tokens(entries: Sequence[str], most: int) -> list[str]:
    """The first ``most`` different entries, in the one spelling that is compared."""
    return list(dict.fromkeys(" ".join(entry.split()).casefold() for entry in entries))[:most]


def epoch_seconds(
    values: Sequence[Any],
    column: str,
    now: float,
    report: BuildReport,
    *,
    required: bool = True,
    zone: tzinfo = UTC,
) -> npt.NDArray[np.float64]:
    """Times in ``zone``, in seconds since 1970, UTC; nan for what is absent, zero, in the future, or no time."""
    local = _all_at_once(values)
    if local is None:
        seconds = np.array([_epoch_second(value, zone) for value in values], np.float64)
    else:
        seconds = seconds_of_local(local, zone)
    missing = np.array([value is None for value in values], bool)
    if required:
        report.aside(column, "no date", int(missing.sum()))
    report.aside(column, "zero date or no date", int((np.isnan(seconds) & ~missing).sum()))
    zero = seconds <= 86400.0
    report.aside(column, "zero date or no date", int(zero.sum()))
    future = seconds > now + CLOCK_TOLERANCE_SECONDS
    report.aside(column, "date in the future", int(future.sum()))
    seconds[zero | future] = np.nan
    return np.minimum(seconds, now)


def _all_at_once(values: Sequence[Any]) -> npt.NDArray[np.float64] | None:
    """30 times faster than one by one, where every value is absent or has the form YYYY-MM-DD HH:MM:SS;
    NumPy would also take "now", and warn of zones."""
    if not all(value is None or (type(value) is str and len(value) == len("YYYY-MM-DD HH:MM:SS")) for value in values):
        return None
    try:
        parsed = np.array(values, "datetime64[s]")
    except ValueError:
        return None
    return np.where(np.isnat(parsed), np.nan, parsed.astype(np.int64).astype(np.float64))


def _epoch_second(value: Any, zone: tzinfo) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment.replace(tzinfo=zone).timestamp() if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return math.nan


def ids(values: Sequence[Any], column: str, report: BuildReport, largest: int = LARGEST_ID) -> npt.NDArray[np.int64]:
    """Identifiers as int64; 0 for what is none."""
    try:
        numbers = np.array(values, np.int64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.array([_identifier(value) for value in values], np.int64)
    wrong = (numbers <= 0) | (numbers > largest)
    report.aside(column, "not an identifier", int(wrong.sum()))
    numbers[wrong] = 0
    return numbers


def _identifier(value: Any) -> int:
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return 0
    return number if 0 < number <= LARGEST_ID else 0


def numbers(values: Sequence[Any], column: str, report: BuildReport) -> npt.NDArray[np.float64]:
    """Finite numbers of at least 0; 0 for what is none."""
    try:
        result = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        result = np.array([_number(value) for value in values], np.float64)
    wrong = ~np.isfinite(result) | (result < 0)
    report.aside(column, "not a number", int(wrong.sum()))
    result[wrong] = 0.0
    return result


def _number(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


_NOT_SLUG = re.compile(r"[^a-z0-9]+")


def slug(name: str) -> str:
    """Lower-case letters and digits joined by hyphens: "José Núñez 🎥" is "jose-nunez"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    return _NOT_SLUG.sub("-", plain).strip("-")


def whole_words(words: Sequence[str]) -> re.Pattern[str] | None:
    """Matches one of the words as a whole word, in any case; None where there are no words."""
    if not words:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
