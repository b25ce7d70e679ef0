"""The list that a column of JSON holds, in the forms that PHP applications write it in.

One reading for catalogs, which are built of all users, and for the one user that a feed asks for.
"""

from typing import Any

import msgspec

# Of JSON in JSON in JSON: a value that was encoded once more at each of so many saves.
MOST_LAYERS = 4
# A key of a PHP array that json_encode made an object of, since some number was missing.
_MOST_DIGITS = 18

EMPTY, NOT_JSON, NOT_A_LIST = "empty", "not JSON", "not a list"


def read_list(value: Any) -> tuple[list[Any], str | None]:
    """The entries, whatever they are, and why there are none where a value was there and is no list.

    An object is a list where all its keys are numbers, whose order is that of the list; a string where it holds
    one as JSON. Nothing is raised.
    """
    if value is None or value in ("", b""):
        return [], EMPTY
    content = value
    for _ in range(MOST_LAYERS):
        try:
            content = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError):
            return [], NOT_JSON
        if isinstance(content, list):
            return content, None
        if content is None:
            return [], None
        if isinstance(content, dict):
            return _of_numbered(content)
        if not isinstance(content, str) or content.lstrip()[:1] not in {"[", "{", '"'}:
            break
    return [], NOT_A_LIST


def _of_numbered(content: dict[str, Any]) -> tuple[list[Any], str | None]:
    if not all(key.isascii() and key.isdecimal() and len(key) <= _MOST_DIGITS for key in content):
        return [], NOT_A_LIST
    return [content[key] for key in sorted(content, key=int)], None
