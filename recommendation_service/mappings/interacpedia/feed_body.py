"""Bodies of the contract's requests: read in one pass where all is well, else examined field by field so that every
wrong field is named at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from recommendation_service.api.schemas import (
    DEFAULT_ITEMS,
    LARGEST_ID,
    LONGEST_SESSION_ID,
    MOST_EXCLUDED,
    MOST_ITEMS,
    as_ids,
    named,
    parse_boolean,
    parse_excluded,
    parse_session_id,
    parse_size,
    parse_user_id,
)
from recommendation_service.core.errors import InvalidRequest, NotJson
from recommendation_service.feed.request import NO_IDS, FeedFields


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


class _Plain(msgspec.Struct, gc=False):
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
        and _at_most_one_each(plain, excluded is not None)
    ):
        ids = NO_IDS if excluded is None else as_ids(excluded)
        return FeedFields(user_id, size, ids, plain.session_id, plain.explain is True, plain.personal is not False)
    return _read_carefully(body, endpoint)


def example_body(user_id: int) -> str:
    """For people to try."""
    return f'{{"SELF_ID": {user_id}, "N_VIDEOS": {DEFAULT_ITEMS}}}'


def _at_most_one_each(plain: _Plain, excludes: bool) -> bool:
    """Where a body spells a field twice, every spelling must be valid, and the endpoint says which one counts: that
    is looked at carefully. ``excludes``: whether any spelling of the list is there."""
    return (
        (plain.SELF_ID is None or plain.user_id is None)
        and (plain.N_VIDEOS is None or (plain.MAX_SIZE is None and plain.size is None))
        and (plain.MAX_SIZE is None or plain.size is None)
        and (not excludes or _excludes_once(plain))
    )


def _excludes_once(plain: _Plain) -> bool:
    lists = (plain.EXCLUDED_IDS, plain.excluded_ids, plain.LAST_IDS, plain.videos_excluidos)
    return lists.count(None) == len(lists) - 1


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
    size = first(spellings.size, parse_size, DEFAULT_ITEMS)
    excluded = first(spellings.excluded, parse_excluded, None)
    session_id = first(("session_id",), parse_session_id, None)
    explain = first(("explain",), parse_boolean, False)
    personal = first(("personal",), parse_boolean, True)
    if details:
        raise InvalidRequest("The request has invalid fields.", details)
    return FeedFields(user_id, size, as_ids(excluded), session_id, explain, personal)
