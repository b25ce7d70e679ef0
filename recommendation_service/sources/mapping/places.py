"""On which line of a TOML file each key stands, which the standard library's reader does not tell.

For files that it has read without an error: what is no TOML is not looked for here.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

Key = tuple[str, ...]

_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.)?""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{1,2}(?!"))?|'
    r"'''.*?'''(?:'{1,2}(?!'))?|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'|#[^\n]*",
    re.S,
)


class Places:
    """Lines by key. A key within an inline table is that of the statement, which TOML keeps on one line."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Key, int] = {}
        self._texts: dict[Key, int] = {}
        self._literal: set[Key] = set()
        for key, line, value_line, opening in _statements(text):
            for depth in range(1, len(key) + 1):
                self._lines.setdefault(key[:depth], line)
            self._texts[key] = value_line
            if opening == "'":
                self._literal.add(key)

    def line(self, key: Sequence[Any]) -> int:
        """Of the key, or else of the nearest above it."""
        names = tuple(str(part) for part in key)
        for depth in range(len(names), 0, -1):
            found = self._lines.get(names[:depth])
            if found is not None:
                return found
        return 1

    def text_line(self, key: Sequence[str]) -> int:
        """The line on which a text's first line stands: of a text within three quotes it may be the next."""
        return self._texts.get(tuple(key), self.line(key))

    def is_literal(self, key: Sequence[str]) -> bool:
        """Whether the text stands in single quotes, where a backslash is one."""
        return tuple(key) in self._literal


def _statements(text: str) -> Iterator[tuple[Key, int, int, str]]:
    """(key, its line, its value's line, the value's first character) of each statement."""
    table: Key = ()
    at, line = 0, 1
    while at < len(text):
        rest = text[at:]
        blank = re.match(r"\s*(#[^\n]*)?", rest)
        skipped = blank[0] if blank else ""
        if skipped:
            line += skipped.count("\n")
            at += len(skipped)
            continue
        if rest.startswith("["):
            brackets = 2 if rest.startswith("[[") else 1
            table, length = _key(rest[brackets:])
            yield table, line, line, ""
            end = rest.find("\n")
            at += len(rest) if end < 0 else end
            continue
        name, length = _key(rest)
        value = re.compile(r"\s*=[ \t]*").match(rest, length)
        if not name or value is None:
            return
        start = value.end()
        opening = rest[start : start + 1]
        begins_below = rest[start : start + 4] in {'"""\n', "'''\n"} or rest[start : start + 5] in {
            '"""\r\n',
            "'''\r\n",
        }
        yield (*table, *name), line, line + int(begins_below), opening
        end = _value_end(rest, start)
        line += rest[:end].count("\n")
        at += end


def _key(text: str) -> tuple[Key, int]:
    """The dotted key at the text's beginning, and how long it is."""
    parts: list[str] = []
    at = 0
    while True:
        part = _PART.match(text, at)
        if part is None:
            return tuple(parts), at
        parts.append(next(found for found in part.groups()[:3] if found is not None))
        at = part.end()
        if part[4] is None:
            return tuple(parts), at


def _value_end(text: str, at: int) -> int:
    """Where the statement ends: at a line's end outside of brackets and strings."""
    depth = 0
    while at < len(text):
        character = text[at]
        if character in "\"'#":
            string = _STRING.match(text, at)
            at = string.end() if string else len(text)
            continue
        if character == "\n" and depth == 0:
            return at
        depth += (character in "[{") - (character in "]}")
        at += 1
    return at
