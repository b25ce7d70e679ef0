"""Names in a feed's record, in as few bytes as they have to say: each feed has them, and they were an eighth of it.

A version's name is the time when it was made and sixteen digits of a checksum, and most sessions are a UUID. Such a
name is written as two numbers, and any other as the text that it is.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Short = str | tuple[int, int]

_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{16}")
_TIME = "%Y%m%dT%H%M%S.%fZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UUID = re.compile("-".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))


@lru_cache(64)
def short_version(name: str) -> Short:
    """Its microseconds since 1970, and the checksum."""
    if not _VERSION.fullmatch(name):
        return name
    time, _, digits = name.partition("-")
    try:
        made = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return name
    short = (made - _EPOCH) // _MICROSECOND, int(digits, 16)
    return short if version_name(short) == name else name


@lru_cache(64)
def version_name(short: Short) -> str:
    """Raises ValueError for numbers that are of none."""
    if isinstance(short, str):
        return short
    try:
        made = _EPOCH + short[0] * _MICROSECOND
    except OverflowError:
        raise ValueError("a version is of no year") from None
    return f"{made:{_TIME}}-{short[1]:016x}"


def short_session(name: str | None) -> Short | None:
    """The upper and the lower half of a UUID in its usual form."""
    if name is None or not _UUID.fullmatch(name):
        return name
    digits = name.replace("-", "")
    return int(digits[:16], 16), int(digits[16:], 16)


def session_name(short: Short | None) -> str | None:
    if not isinstance(short, tuple):
        return short
    digits = f"{short[0]:016x}{short[1]:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
