"""Times as the operator's tables hold them: what the clock on the application's wall said, without its zone.

MYSQL_TIME_ZONE says which zone that is. Where clocks are set back, an hour is there twice: its times are taken for the
first, so that none is in the future. Where they are set forward, no time of day is written that there was not.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

# Zones change by whole quarters of an hour, and at one.
_QUARTER_SECONDS = 900
_OFFSET = re.compile(r"([+-])(\d{1,2}):([0-5]\d)")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - of a wall's clock
# A zone changes less often than that.
_STEP_SECONDS = 30 * 86400


def zone_of(name: str) -> tzinfo:
    """Of an IANA name, or of an offset as in +02:00. Raises ValueError with a sentence."""
    if name.upper() in {"UTC", "Z"}:
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3])
        if minutes > 14 * 60:
            raise ValueError(f"{name} is further from UTC than any zone: at most 14:00")
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"{name} is neither an offset such as -05:00 nor a zone that this machine knows, such as America/Bogota "
            "(Debian's package tzdata has them)"
        ) from None


def local_text(moment: datetime, zone: tzinfo) -> str:
    """As the tables write it, in whole seconds."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def utc_text(seconds: float, parts: str = "milliseconds") -> str:
    """As 2026-12-24T18:00:00.000Z. ``parts``: down to which, as ``isoformat`` names them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=parts).replace("+00:00", "Z")


def seconds_of_local(local: Float64, zone: tzinfo) -> Float64:
    """Seconds since 1970, of times that were counted as though they were UTC; nan stays."""
    if zone is UTC:
        return local
    known = np.isfinite(local)
    quarters, places = np.unique(np.floor_divide(local[known], _QUARTER_SECONDS), return_inverse=True)
    offsets = [_offset_of_local(quarter * _QUARTER_SECONDS, zone) for quarter in quarters.tolist()]
    seconds = local.copy()
    seconds[known] -= np.array(offsets, np.float64)[places] if offsets else 0.0
    return seconds


def offsets_between(first: int, last: int, zone: tzinfo) -> list[tuple[int, int]]:
    """(since, seconds to add) for the time from ``first`` to ``last``, seconds since 1970; nearly always one."""
    found = [(first, _offset(first, zone))]
    at = first
    while at < last:
        following = min(at + _STEP_SECONDS, last)
        if _offset(following, zone) != found[-1][1]:
            before, after = at, following
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if _offset(middle, zone) == found[-1][1] else (before, middle)
            found.append((after, _offset(after, zone)))
        at = following
    return found


def _offset(seconds: int, zone: tzinfo) -> int:
    offset = datetime.fromtimestamp(seconds, zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def _offset_of_local(seconds: float, zone: tzinfo) -> float:
    offset = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=zone).utcoffset()
    return offset.total_seconds() if offset else 0.0
