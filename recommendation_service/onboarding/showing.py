"""Some items as people would see them: the newest of each type, with their fields and terms."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recommendation_service.sources.mapping.tables import ItemTable, Tables
from recommendation_service.sources.mapping.values import text

SHOWN = 5
MOST_TERMS = 8
LONGEST = 80  # characters of a field


@dataclass(frozen=True, slots=True)
class ShownItem:
    """``terms``: by vocabulary."""

    id: int | str
    time: str | None
    creator: int | str | None
    fields: dict[str, Any]
    terms: dict[str, list[str]]


def shown_items(tables: Tables) -> dict[str, list[ShownItem]]:
    return {
        name: [_shown(tables, name, items, place) for place in _newest(items)] for name, items in tables.items.items()
    }


def _newest(items: ItemTable) -> list[int]:
    order: list[int] = np.argsort(-np.nan_to_num(items.times, nan=0.0), kind="stable")[:SHOWN].tolist()
    return order


def _shown(tables: Tables, name: str, items: ItemTable, place: int) -> ShownItem:
    own = items.ids[place]
    seconds = float(items.times[place])
    terms = {}
    for vocabulary, of_all in tables.vocabularies.items():
        of_type = of_all.items.get(name)
        if of_type is not None:
            rows = np.flatnonzero(of_type.ids == own)[:MOST_TERMS]
            terms[vocabulary] = [of_type.terms[row] for row in rows.tolist()]
    creator = items.creators[place] if items.creators is not None else None
    return ShownItem(
        _plain(own),
        None if np.isnan(seconds) else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M"),
        _plain(creator) if creator else None,
        {column: _cut(items.columns[column][place]) for column in items.fields},
        terms,
    )


def _plain(one: Any) -> int | str:
    return one if isinstance(one, str) else int(one)


def _cut(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    shown = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else text(value)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
