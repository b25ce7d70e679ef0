"""The two files that an operator edits: the blacklist and the table of city spellings.

A line that cannot be used is a warning with its number; the other lines still hold.
"""

import csv
import unicodedata
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CITIES = Path(__file__).resolve().parent / "cities.csv"
UNKNOWN_CITY = "Unknown"


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
    lines, warnings = _lines(path or DEFAULT_CITIES)
    if path is not None and lines is None:
        shipped, _ = read_cities(None)
        return shipped, [*warnings, "the city table that ships is used instead"]
    spellings: dict[str, str] = {}
    for number, line in lines or []:
        try:
            fields = [part.strip() for part in next(csv.reader([line], skipinitialspace=True), [])]
        except csv.Error:
            fields = []
        if len(fields) != 2 or not all(fields):
            warnings.append(f"{path or DEFAULT_CITIES}, line {number}: expected SPELLING,CITY and found {line[:80]!r}")
            continue
        spellings[_compared(fields[0])] = fields[1]
    return Cities(spellings), warnings


def read_blacklist(path: Path | None, default: Path) -> tuple[frozenset[str], list[str]]:
    """Blacklisted video addresses and the warnings. The default file may be absent, a named one may not."""
    if path is None and not default.exists():
        return frozenset(), []
    lines, warnings = _lines(path or default)
    addresses = set()
    for number, line in lines or []:
        if len(line.split()) != 1:
            warnings.append(f"{path or default}, line {number}: expected one address and found {line!r}")
            continue
        addresses.add(line)
    return frozenset(addresses), warnings


def _compared(spelling: str) -> str:
    """Without regard to case, and to whether an accent is a character of its own."""
    return unicodedata.normalize("NFC", spelling).casefold()


def _lines(path: Path) -> tuple[list[tuple[int, str]] | None, list[str]]:
    """Numbered lines without comments and blanks; None where the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, [f"{path}: {error.strerror}"]
    lines, warnings = [], []
    for number, raw in enumerate(content.splitlines(), start=1):
        try:
            line = raw.decode("utf-8").strip().removeprefix("\ufeff").strip()
        except UnicodeDecodeError:
            warnings.append(f"{path}, line {number}: not UTF-8")
            continue
        if line and not line.startswith("#"):
            lines.append((number, line))
    return lines, warnings
