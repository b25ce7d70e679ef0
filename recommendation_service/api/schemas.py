"""Bodies of requests: read in one pass where all is well, else examined field by field so that every
wrong field is named at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.core.errors import InvalidRequest, NotJson
from recommendation_service.feed.request import NO_IDS, FeedFields

LARGEST_ID = 2**63 - 1
MOST_EXCLUDED = 10_000
MOST_ITEMS = 100
DEFAULT_ITEMS = 24
LONGEST_SESSION_ID = 128


class Spellings(NamedTuple):
    """Names of each field; where a body has several, the first of them counts."""

    user: tuple[str, ...] = ("SELF_ID", "user_id")
    size: tuple[str, ...] = ("N_VIDEOS", "MAX_SIZE", "size")
    excluded: tuple[str, ...] = ("EXCLUDED_IDS", "excluded_ids", "LAST_IDS", "videos_excluidos")


SPELLINGS = {  # by endpoint
    "total": Spellings(),
    "discover": Spellings(),
    "flow": Spellings(
        ("user_id", "SELF_ID"),
        ("N_VIDEOS", "size", "MAX_SIZE"),
        ("EXCLUDED_IDS", "excluded_ids", "videos_excluidos", "LAST_IDS"),
    ),
}


class _Plain(msgspec.Struct):
    """The shape of nearly all bodies; anything else takes the careful way."""

    SELF_ID: int | None = None
    user_id: int | None = None
    N_VIDEOS: int | None = None
    MAX_SIZE: int | None = None
    size: int | None = None
    EXCLUDED_IDS: list[int] | None = None
    excluded_ids: list[int] | None = None
    LAST_IDS: list[int] | None = None
    videos_excluidos: list[int] | None = None
    session_id: str | None = None
    explain: bool | None = None
    personal: bool | None = None


_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_any = msgspec.json.Decoder().decode


def read_feed_body(body: bytes, endpoint: str = "total") -> FeedFields:
    """Raises NotJson, or InvalidRequest with every wrong field."""
    try:
        if not body.isascii():
            body.decode("utf-8")  # unknown fields are skipped unread, and JSON is UTF-8 everywhere
        plain = _decode_plain(body)
    except msgspec.ValidationError:
        return _read_carefully(body, endpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON, or nested too deeply.") from None
    user_id = plain.SELF_ID if plain.SELF_ID is not None else plain.user_id
    size = plain.N_VIDEOS
    if size is None:
        size = plain.MAX_SIZE if plain.MAX_SIZE is not None else plain.size
    excluded = plain.EXCLUDED_IDS
    if excluded is None:
        excluded = plain.excluded_ids if plain.excluded_ids is not None else plain.LAST_IDS
        if excluded is None:
            excluded = plain.videos_excluidos
    user_id = 0 if user_id is None else user_id
    size = DEFAULT_ITEMS if size is None else size
    if (
        0 <= user_id <= LARGEST_ID
        and 1 <= size <= MOST_ITEMS
        and (excluded is None or len(excluded) <= MOST_EXCLUDED)
        and (plain.session_id is None or len(plain.session_id) <= LONGEST_SESSION_ID)
        and _at_most_one_each(plain)
    ):
        personal = plain.personal is not False
        return FeedFields(user_id, size, _as_ids(excluded), plain.session_id, bool(plain.explain), personal)
    return _read_carefully(body, endpoint)


def _at_most_one_each(plain: _Plain) -> bool:
    """Where a body spells a field twice, every spelling must be valid, and the endpoint says which one counts: that
    is looked at carefully."""
    lists = (plain.EXCLUDED_IDS, plain.excluded_ids, plain.LAST_IDS, plain.videos_excluidos)
    return (
        (plain.SELF_ID is None or plain.user_id is None)
        and (plain.N_VIDEOS is None or (plain.MAX_SIZE is None and plain.size is None))
        and (plain.MAX_SIZE is None or plain.size is None)
        and lists.count(None) >= len(lists) - 1
    )


def _as_ids(numbers: list[int] | None) -> npt.NDArray[np.int64]:
    """Numbers that could be an item's; others are no item, so there is nothing to exclude."""
    if not numbers:
        return NO_IDS
    try:
        return np.array(numbers, np.int64)
    except OverflowError:
        return np.array([number for number in numbers if 0 < number <= LARGEST_ID], np.int64)


def _read_carefully(body: bytes, endpoint: str = "total") -> FeedFields:
    try:
        content = _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON.") from None
    if not isinstance(content, dict):
        raise InvalidRequest(
            "The body must be a JSON object.",
            [{"field": "body", "problem": f"is {named(content)}, not an object"}],
        )
    details: list[dict[str, str]] = []

    def first(names: tuple[str, ...], parse: Callable[[Any], Any], default: Any) -> Any:
        """Value of the first spelling that is there; every spelling that is there must be valid."""
        result, found = default, False
        for name in names:
            if content.get(name) is None:
                continue
            try:
                value = parse(content[name])
            except ValueError as error:
                details.append({"field": name, "problem": str(error)})
                continue
            if not found:
                result, found = value, True
        return result

    spellings = SPELLINGS[endpoint]
    user_id = first(spellings.user, parse_user_id, 0)
    size = first(spellings.size, _size, DEFAULT_ITEMS)
    excluded = first(spellings.excluded, _excluded, None)
    session_id = first(("session_id",), _session_id, None)
    explain = first(("explain",), _boolean, False)
    personal = first(("personal",), _boolean, True)
    if details:
        raise InvalidRequest("The request has invalid fields.", details)
    return FeedFields(user_id, size, _as_ids(excluded), session_id, explain, personal)


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


def _size(value: Any) -> int:
    number = parse_integer(value)
    if number is None:
        raise ValueError(f"must be an integer, but is {named(value)}")
    if not 1 <= number <= MOST_ITEMS:
        raise ValueError(f"must be from 1 to {MOST_ITEMS}, but is {named(number)}")
    return number


def _excluded(value: Any) -> list[int]:
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


def _session_id(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, but is {named(value)}")
    if len(value) > LONGEST_SESSION_ID:
        raise ValueError(f"must have at most {LONGEST_SESSION_ID} characters, but has {len(value)}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, but is {named(value)}")
    return value


def named(value: Any) -> str:
    """A value as a client may see it again: its JSON, shortened."""
    text = msgspec.json.encode(value).decode("utf-8", "replace")
    return text if len(text) <= 40 else f"{text[:37]}…"
