"""Values of fields: what they may be, whatever their names are."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.feed.request import NO_IDS

LARGEST_ID = 2**63 - 1
MOST_EXCLUDED = 10_000
MOST_ITEMS = 100
DEFAULT_ITEMS = 24
LONGEST_SESSION_ID = 128


def as_ids(numbers: list[int] | None) -> npt.NDArray[np.int64]:
    """Numbers that could be an item's; others are no item, so there is nothing to exclude."""
    if not numbers:
        return NO_IDS
    try:
        return np.array(numbers, np.int64)
    except OverflowError:
        return np.array([number for number in numbers if 0 < number <= LARGEST_ID], np.int64)


def parse_integer(value: Any) -> int | None:
    """An integer, also one written 24.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


def parse_user_id(value: Any) -> int:
    number = int(value) if isinstance(value, str) and _is_digits(value) else parse_integer(value)
    if number is None:
        raise ValueError(f"must be an integer or a string of digits, but is {named(value)}")
    if not 0 <= number <= LARGEST_ID:
        raise ValueError(f"must be from 0 to {LARGEST_ID}, but is {named(number)}")
    return number


def parse_size(value: Any) -> int:
    number = parse_integer(value)
    if number is None:
        raise ValueError(f"must be an integer, but is {named(value)}")
    if not 1 <= number <= MOST_ITEMS:
        raise ValueError(f"must be from 1 to {MOST_ITEMS}, but is {named(number)}")
    return number


def parse_excluded(value: Any) -> list[int]:
    if isinstance(value, str):
        parts: list[Any] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, list):
        parts = value
    else:
        raise ValueError(f"must be a list or a comma-separated string, but is {named(value)}")
    if len(parts) > MOST_EXCLUDED:
        raise ValueError(f"must have at most {MOST_EXCLUDED} entries, but has {len(parts)}")
    numbers = []
    for place, part in enumerate(parts):
        number = int(part) if isinstance(part, str) and _is_digits(part.strip()) else parse_integer(part)
        if number is None:
            raise ValueError(f"entry {place} must be an integer or a string of digits, but is {named(part)}")
        numbers.append(number)
    return numbers


def parse_session_id(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, but is {named(value)}")
    if len(value) > LONGEST_SESSION_ID:
        raise ValueError(f"must have at most {LONGEST_SESSION_ID} characters, but has {len(value)}")
    return value


def parse_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, but is {named(value)}")
    return value


def named(value: Any) -> str:
    """A value as a client may see it again: its JSON, shortened."""
    text = msgspec.json.encode(value).decode("utf-8", "replace")
    return text if len(text) <= 40 else f"{text[:37]}…"
