"""Reading the lists that an operator edits: the table of city spellings, and what blacklist.py needs as well.

A line that cannot be used is a warning with its number; the other lines still hold.
"""

import csv
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CITIES = Path(__file__).resolve().parent / "cities.csv"
UNKNOWN_CITY = "Unknown"
LARGEST_FILE_BYTES = 256 << 20
# A pipe would else be waited for until somebody writes to it.
_OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
MOST_WARNINGS = 20  # of one file; the rest is counted


class Unreadable(Exception):
    """A file that is no list: it names the file and the reason."""


class LineWarnings:
    """Of one file, bounded however long it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: list[str] = []
        self.count = 0

    def add(self, number: int, problem: str) -> None:
        self.count += 1
        if self.count <= MOST_WARNINGS:
            self._first.append(f"{self._path}, line {number}: {problem}")

    def lines(self) -> list[str]:
        more = self.count - len(self._first)
        return [*self._first, f"{self._path}: {more} more lines like these"] if more else self._first


@dataclass(frozen=True)
class Cities:
    """Spellings, casefolded, and the city that each means."""

    spellings: dict[str, str]

    def canonical(self, city: str, country: str) -> str:
        """The city's one name; "Other-COUNTRY" where only the country is known, else "Unknown"."""
        city, country = city.strip(), country.strip()
        if city:
            return self.spellings.get(_compared(city), city)
        return f"Other-{country}" if country else UNKNOWN_CITY


def read_cities(path: Path | None) -> tuple[Cities, list[str]]:
    """The table of spellings and the warnings about it. A file that cannot be read gives the shipped one."""
    named = path or DEFAULT_CITIES
    try:
        content, _ = read_file(named)
    except Unreadable as error:
        if path is None:
            raise
        return read_cities(None)[0], [str(error), "the city table that ships is used instead"]
    warnings = LineWarnings(named)
    spellings: dict[str, str] = {}
    for number, line in numbered_lines(content, warnings):
        try:
            fields = [part.strip() for part in next(csv.reader([line], skipinitialspace=True), [])]
        except csv.Error:
            fields = []
        if len(fields) != 2 or not all(fields):
            warnings.add(number, f"expected SPELLING,CITY and found {line[:80]!r}")
            continue
        spellings[_compared(fields[0])] = fields[1]
    return Cities(spellings), warnings.lines()


def _compared(spelling: str) -> str:
    """Without regard to case, and to whether an accent is a character of its own."""
    return unicodedata.normalize("NFC", spelling).casefold()


def read_file(path: Path) -> tuple[bytes, float]:
    """Content and time of the last change, in seconds since 1970. Waits for nobody. Raises Unreadable."""
    try:
        descriptor = os.open(path, _OPENING)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise Unreadable(f"{path}: Is a directory")
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(f"{path}: is no file")
            if status.st_size > LARGEST_FILE_BYTES:
                raise Unreadable(f"{path}: has more than {LARGEST_FILE_BYTES >> 20} MiB")
            content = file.read(LARGEST_FILE_BYTES)
            status = os.fstat(descriptor)  # a change while it was read is a late one
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a zero byte in its name
        raise Unreadable(f"{str(path)!r}: {error}") from error
    if b"\0" in content:
        raise Unreadable(f"{path}: no text in UTF-8, as it has zero bytes")
    return content, status.st_mtime


def is_readable(path: Path) -> bool:
    """Whether this process may open it, without reading it."""
    try:
        os.close(os.open(path, _OPENING))
    except OSError:
        return False
    return True


def numbered_lines(content: bytes, warnings: LineWarnings) -> Iterator[tuple[int, str]]:
    """Without comments and blanks, and without those that are not UTF-8, which are warned of."""
    for number, raw in enumerate(content.splitlines(), start=1):
        try:
            line = raw.decode("utf-8").strip().removeprefix("\ufeff").strip()
        except UnicodeDecodeError:
            warnings.add(number, "not UTF-8")
            continue
        if line and not line.startswith("#"):
            yield number, line
