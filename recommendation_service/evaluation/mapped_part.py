"""A mapping's tables cut at a moment: what was known then, and what people took after it.

The queries are asked as of the moment (`:now`, `:since`), and what happened later is taken out of what they give. Two
things no query can take back: a row that was deleted or closed since, and a value that was changed. Of an event without
a time nobody knows whether it was before: it counts where the same person had taken the item by one with a time.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recommendation_service.catalog.mapped import numbers_of
from recommendation_service.catalog.store import Catalog
from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.interaction_log import Float64, Int64
from recommendation_service.model.text_ids import ITEM_BITS, USER_BITS
from recommendation_service.sources.mapping.source import MappedSource
from recommendation_service.sources.mapping.tables import EventTable, ItemTable, LinkTable, Tables

_TYPE_SHIFT = ITEM_BITS  # a type's place stands above an item's number


@dataclass(frozen=True)
class Events:
    """(n,) with a time, in its order. ``item``: the type's place and the item's number as one."""

    user: Int64
    item: Int64
    when: Float64


@dataclass(frozen=True)
class Part:
    """``tables``: as they were at the moment. ``before``, ``after``: what people did until it, and from then on."""

    moment: datetime
    until: datetime
    tables: Tables
    before: Events
    after: Events
    untimed: int  # events without a time


def cut(source: MappedSource, begin: float, end: float, now: datetime | None = None) -> Part:
    """From the share ``begin`` of the events to the share ``end``, by their times; ``now``: what is later is no time.

    Raises EvaluationError, SourceError."""
    now = now or datetime.now(UTC)
    when = np.sort(_events(source.tables(now)).when)
    if len(when) < 2:
        raise EvaluationError(["there are no events with a time in the tables: nothing can be cut by time."])
    moment = datetime.fromtimestamp(float(when[int(len(when) * begin)]), UTC)
    until = now if end >= 1 else datetime.fromtimestamp(float(when[int(len(when) * end)]), UTC)
    read = source.tables(moment, latest=now)
    events, seconds = _events(read), moment.timestamp()
    is_before = events.when < seconds
    before, after = (
        Events(events.user[chosen], events.item[chosen], events.when[chosen])
        for chosen in (is_before, ~is_before & (events.when < until.timestamp() + (end >= 1)))
    )
    if not len(before.when) or not len(after.when):
        missing = "before" if len(after.when) else "between it and the end"
        raise EvaluationError(
            [f"the cut is at {moment:%Y-%m-%d %H:%M:%S}, and nothing happened {missing}: cut elsewhere."]
        )
    untimed = sum(int(np.isnan(table.times).sum()) for table in read.events.values())
    return Part(moment, until, _as_of(read, before, seconds), before, after, untimed)


def rows_of(catalog: Catalog, names: list[str], item: Int64) -> Int64:
    """(n,) the catalog's rows; -1 of what is not in it. ``names``: of the item types, in the mapping's order."""
    found = np.full(len(item), -1, np.int64)
    for place, name in enumerate(names):
        start, end = catalog.rows_of_type.get(name, (0, 0))
        own = np.flatnonzero(item >> _TYPE_SHIFT == place)
        known = np.asarray(catalog.arrays.item_id[start:end])
        if len(own) and len(known):
            number = item[own] & ((1 << _TYPE_SHIFT) - 1)
            at = np.minimum(np.searchsorted(known, number), len(known) - 1)
            found[own] = np.where(known[at] == number, start + at, -1)
    return found


def _events(tables: Tables) -> Events:
    users, items, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for table in tables.events.values():
        timed = ~np.isnan(table.times)
        users.append(numbers_of(table.users, USER_BITS)[timed])
        items.append(_item_numbers(table)[timed])
        times.append(table.times[timed])
    user, item, when = np.concatenate(users), np.concatenate(items), np.concatenate(times)
    order = np.argsort(when, kind="stable")
    return Events(user[order], item[order], when[order])


def _item_numbers(table: EventTable) -> Int64:
    return (table.types << _TYPE_SHIFT) | numbers_of(table.items, ITEM_BITS)


def _as_of(tables: Tables, before: Events, seconds: float) -> Tables:
    return replace(
        tables,
        items={name: _items(table, seconds) for name, table in tables.items.items()},
        numbers={
            name: replace(
                columns,
                items={of: values[_there(tables.items[of], seconds)] for of, values in columns.items.items()},
            )
            for name, columns in tables.numbers.items()
        },
        events={name: _known(table, before, seconds) for name, table in tables.events.items()},
        links={name: _links(table, seconds) for name, table in tables.links.items()},
        filters={
            name: replace(
                columns,
                items={of: _picked(values, _there(tables.items[of], seconds)) for of, values in columns.items.items()},
            )
            for name, columns in tables.filters.items()
        },
    )


def _there(table: ItemTable, seconds: float) -> Int64:
    return np.flatnonzero(~(table.times >= seconds))


def _items(table: ItemTable, seconds: float) -> ItemTable:
    rows = _there(table, seconds)
    return ItemTable(
        table.ids[rows],
        table.times[rows],
        None if table.creators is None else table.creators[rows],
        table.fields,
        {name: [column[row] for row in rows.tolist()] for name, column in table.columns.items()},
    )


def _known(table: EventTable, before: Events, seconds: float) -> EventTable:
    users, items = numbers_of(table.users, USER_BITS), _item_numbers(table)
    had = set(zip(before.user.tolist(), before.item.tolist(), strict=True))
    untimed = np.isnan(table.times)
    kept = table.times < seconds
    kept[untimed] = [pair in had for pair in zip(users[untimed].tolist(), items[untimed].tolist(), strict=True)]
    return EventTable(table.users[kept], table.items[kept], table.types[kept], table.times[kept], table.weights[kept])


def _links(table: LinkTable, seconds: float) -> LinkTable:
    kept = ~(table.times >= seconds)
    return LinkTable(table.users[kept], table.others[kept], table.times[kept])


def _picked(values: Any, rows: Int64) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else tuple(values[row] for row in rows.tolist())
