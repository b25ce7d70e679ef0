"""Runs the queries of a mapping one by one; what is wrong with any is noted, and the others go on."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError

from recommendation_service.core.database import attempt
from recommendation_service.core.errors import SourceError
from recommendation_service.core.local_time import local_text
from recommendation_service.sources.mapping import values
from recommendation_service.sources.mapping.format import IdForm
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import every_problem, quoting, server_words
from recommendation_service.sources.mapping.problems import Problem, did_you_mean
from recommendation_service.sources.mapping.statements import Statement
from recommendation_service.sources.mapping.tables import Findings, Float64, Ids, QueryFacts


@dataclass(frozen=True)
class Result:
    """Of one query, by column."""

    section: str
    columns: dict[str, list[Any]]
    rows: int


def parameters(statement: Statement, days: float | None, now: datetime, zone: tzinfo) -> dict[str, Any]:
    """What the statement asks for: times as text, as the tables write them."""
    known = {"now": local_text(now, zone)}
    if days is not None:
        known["since"] = local_text(now - timedelta(days=days), zone)
    return {name: known[name] for name in statement.parameters if name in known}


@dataclass(frozen=True)
class OfUsers:
    """Rows of these users alone. ``most``: of each, the latest where they have times."""

    ids: tuple[int | str, ...]
    most: int


class UnfitIds(SourceError):
    """The database cannot compare an id with its column's: so none of its users has it."""


Quote = Callable[[str], str]


@dataclass(frozen=True)
class By:
    """How a query's rows are found by user. ``columns``: any of which names the user."""

    columns: tuple[str, ...]
    time: str | None = None


def of_users(statement: str, by: By, users: OfUsers, quote: Quote) -> tuple[str, dict[str, Any]]:
    """The statement's rows of some users, and what it asks for beside its own parameters.

    A query around it, with nothing between user and index: servers take the two as one (and where they do not, `recs
    source check` says so). One for each column, since OR keeps some from an index. The last user stands for those
    that are missing to a power of two, so that there are few statements.
    """
    count = 1 << (len(users.ids) - 1).bit_length()
    asked: dict[str, Any] = {f"user_{place}": users.ids[min(place, len(users.ids) - 1)] for place in range(count)}
    names = ", ".join(f":{name}" for name in asked)
    parts = [f"SELECT q.* FROM (\n{statement}\n) q WHERE q.{quote(column)} IN ({names})" for column in by.columns]
    order = f" ORDER BY q.{quote(by.time)} DESC" if by.time is not None else ""
    return f"{' UNION '.join(parts)}{order} LIMIT :most", asked | {"most": users.most * len(users.ids)}


def name_in(columns: Collection[str], column: str) -> str | None:
    """What a query calls the column that a mapping names, in whatever letters; None: it gives none of that name."""
    if column in columns:
        return column
    return {name.casefold(): name for name in columns}.get(column.casefold())


Observer = Callable[[Result, float], None]


class Queries:
    """Of one mapping and moment, over one connection. ``users``: whose rows alone are read; None: everybody's.
    ``observe``: is shown each result as the database gave it, and the milliseconds that it took. ``latest``: what is
    later is no time; ``now`` unless given. ``is_whole``: False where not all rows of a query are read: then a column of
    which no value can be used tells nothing of the mapping. ``quotes``: how each section's columns are named, where
    that was asked before, and where it is kept."""

    def __init__(
        self,
        mapping: Mapping,
        connection: Connection,
        now: datetime,
        zone: tzinfo,
        users: OfUsers | None = None,
        observe: Observer | None = None,
        latest: datetime | None = None,
        *,
        is_whole: bool = True,
        quotes: dict[str, Quote] | None = None,
    ) -> None:
        self._mapping = mapping
        self._connection = connection
        self._now = now
        self._latest = latest or now
        self._zone = zone
        self._users = users
        self._observe = observe
        self.is_whole = is_whole
        self._quotes = {} if quotes is None else quotes
        self.findings = Findings()

    def run(self, section: str, days: float | None = None, by: By | None = None) -> Result | None:
        """None where there is no query, or it failed, which is noted; and of some users, where rows are nobody's."""
        statement = self._mapping.statements.get(section)
        if statement is None or (self._users is not None and by is None):
            return None
        started = time.perf_counter()
        given = parameters(statement, days, self._now, self._zone)
        try:
            if self._users is not None and by is not None:
                names, rows = self._of_users(statement, by, self._users, given)
            else:
                with attempt(self._connection):
                    names, rows = self._all(statement.text, given)
        except SQLAlchemyError as error:
            said = f"{section}: {server_words(error)}"
            if self._users is not None and isinstance(error, DataError):
                raise UnfitIds(said) from error
            if self._users is not None or getattr(error, "connection_invalidated", False):
                raise SourceError(said) from error
            self.findings.fatal += every_problem(error, statement, self._connection, given)
            return None
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        self.findings.queries[section] = QueryFacts(len(rows), milliseconds, tuple(names))
        for name, count in Counter(names).items():
            if count > 1:
                said = f"{count} columns of the result are called {name}"
                instead = "give each a name of its own, with AS"
                self.findings.fatal.append(statement.problem(said, instead, column=name))
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names]
        found = Result(section, dict(zip(names, columns, strict=True)), len(rows))
        if self._observe is not None:
            self._observe(found, milliseconds)
        return found

    def _all(self, sql: str, given: dict[str, Any]) -> tuple[list[str], Sequence[Any]]:
        result = self._connection.execute(text(sql), given)
        return [str(name) for name in result.keys()], result.fetchall()  # noqa: SIM118 - a result is no dict

    def _of_users(
        self, statement: Statement, by: By, users: OfUsers, given: dict[str, Any]
    ) -> tuple[list[str], Sequence[Any]]:
        quote = self._quotes.get(statement.section)
        if quote is None:
            quote = self._quotes[statement.section] = quoting(self._connection, statement.text, given)
        sql, asked = of_users(statement.text, by, users, quote)
        try:
            return self._all(sql, given | asked)
        except SQLAlchemyError:
            self._quotes.clear()  # columns may be called otherwise by now
            raise

    def column(self, result: Result, key: str, column: str) -> list[Any]:
        """What the mapping names under a key; noted where the query has no such column."""
        found = name_in(result.columns, column)
        if found is not None:
            return result.columns[found]
        self.missing(result, key, column)
        return [None] * result.rows

    def missing(self, result: Result, key: str, column: str, section: str | None = None) -> None:
        section = section or result.section
        said = f"{key} names the column {column}, which the query of {result.section} does not give"
        instead = did_you_mean(column, result.columns, what="it gives")
        problem = self._mapping.problem(section, key, said, instead, column)
        if problem not in self.findings.fatal:
            self.findings.fatal.append(problem)

    def ids(self, result: Result, key: str, column: str, form: IdForm) -> Ids:
        """Noted where none of the values is an id of that form: then the form is wrong, and not a value."""
        given = self.column(result, key, column)
        reasons: Counter[str] = Counter()
        found = values.ids(given, form, reasons)
        wrong = sum(count for reason, count in reasons.items() if reason != values.NULL)
        present = result.rows - reasons[values.NULL]
        if self.is_whole and present and wrong == present:
            problem = self._too_long(result, key, column, reasons[values.LONG_ID] == present)
            self.findings.fatal.append(problem or self._wrong_form(result, key, column, form, given))
        elif self.is_whole and key == "id" and result.rows and not present and name_in(result.columns, column):
            said = f"{key}: the column {column} holds nothing: all of its {result.rows:,} rows are null"
            instead = "select the key; a join that finds nothing gives null"
            self.findings.fatal.append(self._mapping.problem(result.section, key, said, instead, column))
        else:
            self.note(result.section, column, reasons)
        return found

    def _too_long(self, result: Result, key: str, column: str, are_all: bool) -> Problem | None:
        if not are_all:
            return None
        said = f"{key}: the column {column} holds only ids that are {values.LONG_ID}"
        return self._mapping.problem(result.section, key, said, "select a shorter key, or a hash of it", column)

    def _wrong_form(self, result: Result, key: str, column: str, form: IdForm, given: list[Any]) -> Problem:
        example = next(value for value in given if value is not None)
        said = f"{key}: the column {column} holds no ids of the form {form}, but such as {str(example)[:60]!r}"
        instead = (
            'write ids = "text"' if form == "integer" else "select it as text, such as HEX(id) or CAST(id AS CHAR)"
        )
        if form == "integer" and isinstance(example, bytes):
            instead += ", and select it as text, such as HEX(id)"
        return self._mapping.problem(result.section, key, said, instead, column)

    def times(self, result: Result, column: str | None) -> Float64:
        if column is None:
            return np.full(result.rows, np.nan)
        given = self.column(result, "time", column)
        reasons: Counter[str] = Counter()
        found = values.times(given, self._latest.timestamp(), self._zone, reasons)
        present = result.rows - reasons[values.NO_TIME]
        if self.is_whole and present and reasons[values.NOT_A_TIME] == present:
            example = next(value for value in given if value is not None)
            said = f"time: the column {column} holds no times, but such as {str(example)[:60]!r}"
            instead = "select YYYY-MM-DD HH:MM:SS, or seconds since 1970"
            self.findings.fatal.append(self._mapping.problem(result.section, "time", said, instead, column))
        else:
            self.note(result.section, column, reasons)
        return found

    def note(self, section: str, column: str, reasons: Counter[str]) -> None:
        for reason, count in reasons.items():
            self.findings.set_aside(section, column, reason, count)

    def column_of(
        self, section: str, key: str, column: str, of: str, columns: dict[str, list[Any]], rows: int
    ) -> list[Any]:
        """A column of another section's query."""
        found = name_in(columns, column)
        if found is not None:
            return columns[found]
        if columns:
            self.missing(Result(of, columns, rows), key, column, section)
        return [None] * rows

    def weights(self, result: Result, key: str, column: str) -> Float64:
        """nan counts as absent, and leaves the row out."""
        reasons: Counter[str] = Counter()
        given = self.column(result, key, column)
        found = values.numbers(given, reasons, may_be_negative=False)
        if count := sum(value is None for value in given):
            reasons[values.NULL] += count
        self.note_numbers(result.section, key, column, given, reasons)
        return np.nan_to_num(found, nan=0.0)

    def note_numbers(self, section: str, key: str, column: str, given: Sequence[Any], reasons: Counter[str]) -> None:
        """A fault where there are values, and none is a number."""
        present = sum(value is not None for value in given)
        if present and reasons[values.NOT_A_NUMBER] == present:
            self.fault(section, key, column, "numbers", given, "select a number")
        self.note(section, column, reasons)

    def fault(self, section: str, key: str, column: str, what: str, given: Sequence[Any], instead: str) -> None:
        """That a column holds none of what it is named for: it counts as absent, and the rest is read."""
        if not self.is_whole:
            return
        example = next(value for value in given if value is not None)
        said = f"{key}: the column {column} holds no {what}, but such as {str(example)[:60]!r}"
        self.findings.faults.append(self._mapping.problem(section, key, said, instead, column))
