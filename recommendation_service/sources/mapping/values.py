"""Columns of any values as columns of one kind. Nothing raises: what is none is told beside, by its reason."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import numpy as np

from recommendation_service.core.local_time import seconds_of_local
from recommendation_service.model.text_ids import LONGEST_TEXT_ID
from recommendation_service.sources.json_lists import read_list
from recommendation_service.sources.mapping.format import IdForm
from recommendation_service.sources.mapping.tables import Float64, Ids

Reasons = Counter[str]

LARGEST_ID = 2**62 - 1
LONGEST_TERM = 100
NULL, NOT_AN_ID, LONG_ID, BYTES = (
    "null",
    "no whole number above 0",
    f"longer than {LONGEST_TEXT_ID} characters",
    "bytes that are no text",
)
NO_TIME, ZERO, FUTURE, NOT_A_TIME = "no time", "zero date", "in the future", "not a time"
NOT_A_NUMBER, NEGATIVE, EMPTY, LONG_TERM = "not a number", "below 0", "empty", "longer than 100 characters"

# Clocks of two machines differ; a time so little ahead is now.
TOLERANCE_SECONDS = 300.0
_DAY_SECONDS = 86400.0
LATEST_SECONDS = 1e11  # larger numbers count in milliseconds, and beyond that in microseconds
DIGITS = re.compile(r"-?\d+(\.\d+)?")
_WORDS = re.compile(r"[^\W\d_]{3,}")


def ids(values: Sequence[Any], form: IdForm, reasons: Reasons) -> Ids:
    """(n,) int64 or object; 0 or "" for what is none, which is counted."""
    if form == "text":
        return np.array([_text_id(value, reasons) for value in values], object)
    try:
        if all(type(value) is int for value in values):
            numbers = np.array(values, np.int64)
            if not len(numbers) or (numbers.min() > 0 and numbers.max() <= LARGEST_ID):
                return numbers
    except OverflowError:
        pass
    return np.array([_number_id(value, reasons) for value in values], np.int64)


def _number_id(value: Any, reasons: Reasons) -> int:
    if value is None:
        reasons[NULL] += 1
        return 0
    try:
        number = int(value)
        is_whole = not isinstance(value, bool) and (isinstance(value, str | bytes) or number == value)
        is_whole = is_whole and not _is_pythons(value)
    except (ValueError, TypeError, OverflowError):
        number, is_whole = 0, False
    if not is_whole or not 0 < number <= LARGEST_ID:
        reasons[NOT_AN_ID] += 1
        return 0
    return number


def _text_id(value: Any, reasons: Reasons) -> str:
    if value is None:
        reasons[NULL] += 1
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            reasons[BYTES] += 1
            return ""
    found = str(value) if isinstance(value, str | int | UUID | Decimal) else ""
    if not found or "\0" in found or not found.isprintable():
        reasons[EMPTY if not found else BYTES] += 1
        return ""
    if len(found) > LONGEST_TEXT_ID:
        reasons[LONG_ID] += 1
        return ""
    return found


def times(values: Sequence[Any], now: float, zone: tzinfo, reasons: Reasons) -> Float64:
    """(n,) seconds since 1970; nan for what is absent, zero, ahead, or no time. Dates, texts of ISO 8601, and numbers
    of seconds, milliseconds or microseconds since 1970; what says no zone is in ``zone``."""
    local = _all_local(values)
    if local is not None:
        seconds = seconds_of_local(local, zone)
    else:
        seconds = np.array([_seconds(value, zone) for value in values], np.float64)
    missing = np.fromiter((value is None for value in values), bool, len(values))
    zero = (seconds <= _DAY_SECONDS) | np.fromiter(
        (isinstance(value, str) and value.startswith("0000-00-00") for value in values), bool, len(values)
    )
    future = seconds > now + TOLERANCE_SECONDS
    for reason, found in (
        (NO_TIME, missing),
        (NOT_A_TIME, np.isnan(seconds) & ~missing & ~zero),
        (ZERO, zero),
        (FUTURE, future),
    ):
        if count := int(found.sum()):
            reasons[reason] += count
    seconds[zero | future] = np.nan
    return np.minimum(seconds, now)


def _all_local(values: Sequence[Any]) -> Float64 | None:
    """All at once where each is absent, or a time without a zone in the usual form."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {datetime}:
        if any(value is not None and value.tzinfo is not None for value in values):
            return None
    elif kinds != {str} or not all(value is None or len(value) == len("YYYY-MM-DD HH:MM:SS") for value in values):
        return None
    try:
        parsed = np.array(values, "datetime64[us]")
    except ValueError:
        return None
    return np.where(np.isnat(parsed), np.nan, parsed.astype(np.int64) / 1e6)


def _seconds(value: Any, zone: tzinfo) -> float:
    if value is None:
        return math.nan
    try:
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, str) and DIGITS.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            number = float(value)
            while math.isfinite(number) and abs(number) > LATEST_SECONDS:
                number /= 1000
            return number if math.isfinite(number) else math.nan
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).timestamp()
    except (ValueError, OverflowError, TypeError):
        return math.nan


def numbers(values: Sequence[Any], reasons: Reasons, *, may_be_negative: bool = True) -> Float64:
    """(n,) finite numbers; nan for what is none."""
    found = np.array([_number(value) for value in values], np.float64)
    missing = np.fromiter((value is None for value in values), bool, len(values))
    if count := int((np.isnan(found) & ~missing).sum()):
        reasons[NOT_A_NUMBER] += count
    if not may_be_negative and (count := int((found < 0).sum())):
        reasons[NEGATIVE] += count
        found[found < 0] = np.nan
    return found


def _number(value: Any) -> float:
    try:
        number = float(value) if value is not None else math.nan
    except (ValueError, TypeError, OverflowError):
        return math.nan
    return number if math.isfinite(number) and not _is_pythons(value) else math.nan


def _is_pythons(value: Any) -> bool:
    """A text that is a number to Python alone: 1_000."""
    return (isinstance(value, str) and "_" in value) or (isinstance(value, bytes) and b"_" in value)


def text(value: Any) -> str:
    """Blanks tidied; empty for what is absent."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None else " ".join(str(value).encode("utf-8", "replace").decode("utf-8").split())


def terms_of_all(values: Sequence[Any], form: str, reasons: Reasons) -> list[list[tuple[str, float]]]:
    """(term, weight) of each value; what comes again is looked at once."""
    known: dict[Any, tuple[list[tuple[str, float]], Reasons]] = {}
    found = []
    for value in values:
        key = value if isinstance(value, str | int | None) else repr(value)
        seen = known.get(key)
        if seen is None:
            own: Reasons = Counter()
            seen = known[key] = terms(value, form, own), own
        found.append(seen[0])
        if seen[1]:
            reasons.update(seen[1])
    return found


def terms(value: Any, form: str, reasons: Reasons) -> list[tuple[str, float]]:
    """(term, weight) of one value: each once."""
    if value is None or value in ("", b""):
        reasons[EMPTY] += 1
        return []
    if form == "json":
        return _tidied(_json_terms(value, reasons), reasons)
    whole = text(value)
    if form == "words":
        return [(word, 1.0) for word in dict.fromkeys(_WORDS.findall(whole.casefold()))]
    entries = whole.split(",") if form == "commas" else [whole]
    return _tidied(((entry, 1.0) for entry in entries), reasons)


def _json_terms(value: Any, reasons: Reasons) -> Iterable[tuple[Any, float]]:
    if isinstance(value, list | dict):  # as PostgreSQL has JSON and arrays
        value = json.dumps(value, default=str)
    content, reason = read_list(value)
    if reason is None:
        return [(entry, 1.0) for entry in content]
    try:
        weighted = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError):
        weighted = None
    if isinstance(weighted, dict):
        weights = {term: _number(weight) for term, weight in weighted.items()}  # texts, too: hstore has nothing else
        if not any(map(math.isnan, weights.values())):
            return [(term, weight) for term, weight in weights.items() if weight > 0]
    reasons[reason] += 1
    return []


def _tidied(entries: Iterable[tuple[Any, float]], reasons: Reasons) -> list[tuple[str, float]]:
    found: dict[str, float] = {}
    for entry, weight in entries:
        term = text(entry) if isinstance(entry, str | int | float | bytes) and not isinstance(entry, bool) else ""
        if not term or len(term) > LONGEST_TERM:
            reasons[LONG_TERM if term else EMPTY] += 1
            continue
        found[term] = max(weight, found.get(term, 0.0))
    return list(found.items())


def several(value: Any) -> tuple[str, ...]:
    """A filter's value: one text, or those of a JSON list."""
    if isinstance(value, list | dict):
        value = json.dumps(value, default=str)
    if isinstance(value, str | bytes) and value[:1] in ("[", b"["):
        content, reason = read_list(value)
        if reason is None:
            return tuple(dict.fromkeys(text(entry) for entry in content if text(entry)))
    one = text(value)
    return (one,) if one else ()
