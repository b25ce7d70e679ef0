"""What is wrong with a mapping, told so that it can be mended without reading code: where, what, and what to write."""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_NAMES = 12  # of a list of what there is


@dataclass(frozen=True, slots=True)
class Problem:
    """``line`` counts from 1; 0 where it is of none. ``section``: dotted, as in the file. ``instead``: what to do."""

    file: Path
    line: int
    section: str
    said: str
    instead: str = ""
    column: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else str(self.file)
        section = f" [{self.section}]" if self.section else ""
        return f"{place}{section}: {self.said}{'; ' if self.instead else ''}{self.instead}"

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"file": str(self.file)}


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Each once, by file and line."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (str(problem.file), problem.line))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one that was probably meant, whatever its case."""
    by_case = {known.casefold(): known for known in names}
    found = difflib.get_close_matches(name.casefold(), by_case, n=1, cutoff=0.6)
    return by_case[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str], *, what: str = "there are") -> str:
    """A question with the nearest of ``names``; where none is near, all of them."""
    known = list(dict.fromkeys(names))
    near = nearest(name, known)
    if near is not None:
        return f"did you mean {near}?"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"{what} {', '.join(known[:MOST_NAMES])}{more}" if known else f"{what} none"
