"""What a query's columns hold: kinds of values, nulls, how many different ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from recommendation_service.sources.mapping.results import Result

_KINDS = (
    (bool, "true or false"),
    (int, "integer"),
    (float, "number"),
    (Decimal, "number"),
    (str, "text"),
    (datetime, "time"),
    (date, "date"),
    (bytes | bytearray, "bytes"),
)


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """``kinds``: of the values that are there, the most frequent first."""

    name: str
    kinds: tuple[str, ...]
    nulls: int
    different: int


def profile(result: Result) -> list[ColumnProfile]:
    return [_column(name, column) for name, column in result.columns.items()]


def _column(name: str, column: Sequence[Any]) -> ColumnProfile:
    types = Counter(map(type, column))
    nulls = types.pop(type(None), 0)
    kinds = Counter[str]()
    for kind, count in types.items():
        kinds[next((word for known, word in _KINDS if issubclass(kind, known)), kind.__name__)] += count
    try:
        different = len(set(column)) - bool(nulls)
    except TypeError:  # of values that are lists or tables, as a driver may give
        different = len(set(map(repr, column))) - bool(nulls)
    return ColumnProfile(name, tuple(kind for kind, _ in kinds.most_common()), nulls, different)
