"""Rows of a mapping's events, in the order of their times: what people did in the operator's own tables.

Such rows have no number of their own that says in which order they came, so one is made of the second in which an event
happened and of who did it to what. In a column of days, all of a day have one second: of 100,000 some 2,000 share their
number with another, so rows say in full who did it to what. A row that comes with a time long past is not seen.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zlib import crc32

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.errors import SourceError
from recommendation_service.core.local_time import local_text
from recommendation_service.model.item_keys import item_key
from recommendation_service.model.text_ids import ITEM_BITS, USER_BITS, number_of_text
from recommendation_service.sources.mapping import values
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import quoting, server_words
from recommendation_service.sources.mapping.reading import events_of
from recommendation_service.sources.mapping.results import Queries, Result, parameters
from recommendation_service.sources.mapping.tables import Float64
from recommendation_service.sources.mapping.words import type_numbers
from recommendation_service.sources.reader import one_moment
from recommendation_service.sources.rows import OperatorRow, Page

_BITS = 22  # of a row's number, for who did what
_OF_SECOND = (1 << _BITS) - 1
# How far back a table is read that was never read before.
FIRST_SECONDS = 86_400
_ZONE = re.compile(r"(Z|[+-]\d{2}:?\d{2})$")
_DAY, _MINUTE = re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}")


def events_with_rows(mapping: Mapping) -> tuple[str, ...]:
    """Those that can be read so: with a query and a time."""
    return tuple(
        name
        for name, event in mapping.content.events.items()
        if event.time is not None and f"events.{name}" in mapping.statements
    )


class MappedRows:
    """Of one mapping's events."""

    def __init__(self, mapping: Mapping, engine: Engine, connect: Callable[[], Connection], zone: tzinfo) -> None:
        self.engine = engine
        self._mapping = mapping
        self._connect = connect
        self._zone = zone

    @contextmanager
    def moment(self, now: datetime) -> Iterator["MappedMoment"]:
        """Raises SourceError."""
        with one_moment(self.engine, self._connect) as connection:
            yield MappedMoment(self._mapping, connection, now, self._zone)


class MappedMoment:
    def __init__(self, mapping: Mapping, connection: Connection, now: datetime, zone: tzinfo) -> None:
        self._mapping = mapping
        self._connection = connection
        self._now = now
        self._zone = zone
        self._types = list(type_numbers(mapping).values())

    def beginning(self, _event: str, _most: int) -> int:
        """The number after which an event is read that was never read before."""
        return (int(self._now.timestamp() - FIRST_SECONDS) << _BITS) - 1

    def read(self, event: str, after: int, most: int) -> Page:
        """The next ``most`` rows after a number, and more where else none after it could be told to be the last. Raises
        SourceError."""
        section, statement = self._mapping.content.events[event], self._mapping.statements[f"events.{event}"]
        queries = Queries(self._mapping, self._connection, self._now, self._zone, is_whole=False)
        given = parameters(statement, self._mapping.days_of(f"events.{event}"), self._now, self._zone)
        time = f"q.{self._quoted(event, statement.text, given, section.time or '')}"
        query = f"FROM (\n{statement.text}\n) q"
        latest = self._run(event, f"SELECT MAX({time}) AS latest {query}", given).columns["latest"][0]
        if latest is None:
            return Page([], 0)
        [at] = self._times([latest]).tolist()
        if math.isnan(at):
            raise SourceError(f"events.{event}: time: the latest is {str(latest)[:60]!r}, which is no time")
        last = self._whole_until(latest, at) << _BITS | _OF_SECOND
        # Of the second itself there may be more, unless it was read whole; the table may have parts of seconds.
        since = (after >> _BITS) + (after & _OF_SECOND == _OF_SECOND)
        given |= {"rows_after": as_before(latest, since, self._zone)}
        query = f"SELECT q.* {query} WHERE {time} >= :rows_after ORDER BY {time} LIMIT :rows_most"
        while True:
            result = self._run(event, query, given | {"rows_most": most})
            known = self._times(queries.column(result, "time", section.time or ""))
            known = known[~np.isnan(known)]
            if result.rows < most or (known > self._now.timestamp()).any():
                return Page(self._rows(event, queries, result, after), last)
            # Of the second of the last row, or its day, there may be more.
            if len(known) and (read_to := (int(known.max()) << _BITS) - 1) > after:
                return Page(self._rows(event, queries, result, after), last, read_to)
            most *= 2

    def _whole_until(self, latest: Any, at: float) -> int:
        """The last second of which the table has all that came by now. Where it tells no more than the day or the
        minute, of that there may come more until it is over."""
        now, form = self._now.timestamp(), str(latest).strip()
        at = min(at, now)
        if _MINUTE.fullmatch(form):
            begin = at // 60 * 60
            end = begin + 60
        elif _DAY.fullmatch(form):
            day = datetime.fromtimestamp(at, self._zone).replace(hour=0, minute=0, second=0, microsecond=0)
            begin, end = day.timestamp(), (day + timedelta(days=1)).timestamp()
        else:
            return int(at)
        return int(end if end <= now else begin) - 1

    def _rows(self, event: str, queries: Queries, result: Result, after: int) -> list[OperatorRow]:
        """Those after a number, in order. Raises SourceError."""
        found = events_of(self._mapping, queries, event, result, self._now, as_given=True)
        if queries.findings.fatal:
            raise SourceError("; ".join(map(str, queries.findings.fatal)))
        weight = self._mapping.content.events[event].weight
        rows = [
            self._row(event, weight, *row)
            for row in zip(
                found.users.tolist(),
                found.items.tolist(),
                found.types.tolist(),
                found.times.tolist(),
                found.weights.tolist(),
                strict=True,
            )
            if not math.isnan(row[3])
        ]
        return sorted((row for row in rows if row.id > after), key=lambda row: row.id)

    def again(self, _event: str, _number: int) -> OperatorRow | None:
        """What a row says by now: an event's says one thing."""
        return None

    def _row(
        self, event: str, weight: float, user: Any, item: Any, place: int, time: float, weighs: float
    ) -> OperatorRow:
        user_id = number_of_text(user, USER_BITS) if isinstance(user, str) else int(user)
        item_id = number_of_text(item, ITEM_BITS) if isinstance(item, str) else int(item)
        key = item_key(self._types[place], item_id)
        who = f"{user_id} {key}"
        number = int(time) << _BITS | crc32(who.encode()) & (_OF_SECOND >> 1)
        value = weighs / weight if weight > 0 else None
        return OperatorRow(number, user_id, key, event, value, round(time * 1000), who)

    def _quoted(self, event: str, sql: str, given: dict[str, Any], column: str) -> str:
        """Raises SourceError."""
        try:
            return quoting(self._connection, sql, given)(column)
        except SQLAlchemyError as error:
            raise SourceError(f"events.{event}: {server_words(error)}") from error

    def _times(self, column: list[Any]) -> Float64:
        """(n,) seconds since 1970, of the future as well; nan: it is no time."""
        return values.times(column, 1e12, self._zone, Counter())

    def _run(self, event: str, sql: str, given: dict[str, Any]) -> Result:
        try:
            result = self._connection.execute(text(sql), given)
            names = [str(name) for name in result.keys()]  # noqa: SIM118 - a result is no dict
            rows = result.fetchall()
        except SQLAlchemyError as error:
            raise SourceError(f"events.{event}: {server_words(error)}") from error
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names]
        return Result(f"events.{event}", dict(zip(names, columns, strict=True)), len(rows))


def as_before(example: Any, seconds: int, zone: tzinfo) -> Any:
    """A time, to be compared with those of a column that has ``example``: in its form and zone."""
    moment = datetime.fromtimestamp(seconds, UTC)
    if isinstance(example, datetime):
        return moment if example.tzinfo is not None else moment.astimezone(zone).replace(tzinfo=None)
    if isinstance(example, date):
        return moment.astimezone(zone).date()
    if isinstance(example, int | float | Decimal) and not isinstance(example, bool):
        scale = 1
        while abs(float(example)) / scale > values.LATEST_SECONDS:
            scale *= 1000
        return seconds * scale
    written = str(example).strip()
    if values.DIGITS.fullmatch(written):
        return str(as_before(Decimal(written), seconds, zone))
    told = _ZONE.search(written) if "T" in written or " " in written else None
    local = local_text(moment, UTC if told is not None else zone)
    return (local.replace(" ", "T") if "T" in written else local)[: len(written)]
