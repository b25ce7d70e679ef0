"""What a mapping's queries gave: columns, checked and of one length within a table. Made by `reading`."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation_service.sources.mapping.problems import Problem

Ids = npt.NDArray[Any]  # int64, all above 0; or object, of texts that are not empty
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Values = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class UserTable:
    """``times``: (u,) seconds since 1970, nan where not known. ``columns``: as the database gave them."""

    ids: Ids
    times: Float64
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ItemTable:
    """Of one type. ``creators``: (n,), 0 or "" where there is none; None: the type has none. ``fields``: names."""

    ids: Ids
    times: Float64
    creators: Ids | None
    fields: tuple[str, ...]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TermTable:
    """A row for each term of an item or user; of ids that may not be there. ``terms``: as written, blanks tidied."""

    ids: Ids
    terms: list[str]
    weights: Float64

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class VocabularyTables:
    items: dict[str, TermTable]  # by item type
    users: TermTable | None


@dataclass(frozen=True)
class NumberColumns:
    """Beside the ids of the items and users; nan where there is none."""

    items: dict[str, Float64]
    users: Float64 | None


@dataclass(frozen=True)
class EventTable:
    """What people did, in the query's order; of ids that may not be there. ``types``: (e,) place in the mapping's item
    types. ``items``: objects where item types have ids of both forms. ``times``: nan where not known."""

    users: Ids
    items: Ids
    types: Int64
    times: Float64
    weights: Float64

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class LinkTable:
    """Mutual ones both ways."""

    users: Ids
    others: Ids
    times: Float64

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class FilterColumns:
    """Beside the ids of items and users: texts (for at_most: numbers, nan where there is none)."""

    items: dict[str, Values | Float64]  # of the types that it holds for
    users: Values | Float64 | None


@dataclass(frozen=True)
class QueryFacts:
    """How a query ran. ``columns``: of its result."""

    rows: int
    milliseconds: float
    columns: tuple[str, ...]


@dataclass
class Findings:
    """What reading found beside the rows. ``aside``: values by (section, column, reason). ``faults``: what is wrong and
    can be read past all the same. ``fatal``: what makes a table of no use."""

    queries: dict[str, QueryFacts] = field(default_factory=dict)
    aside: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: list[Problem] = field(default_factory=list)
    fatal: list[Problem] = field(default_factory=list)

    def set_aside(self, section: str, column: str, reason: str, count: int = 1) -> None:
        if count:
            self.aside[section, column, reason] += int(count)


@dataclass(frozen=True)
class Tables:
    """Of one moment; parts by the mapping's names."""

    users: UserTable
    items: dict[str, ItemTable]
    vocabularies: dict[str, VocabularyTables]
    numbers: dict[str, NumberColumns]
    events: dict[str, EventTable]
    links: dict[str, LinkTable]
    filters: dict[str, FilterColumns]
    findings: Findings
