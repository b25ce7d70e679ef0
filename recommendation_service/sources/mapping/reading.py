"""Runs a mapping's queries, and makes checked columns of what they give."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.errors import SourceError
from recommendation_service.sources.mapping import values
from recommendation_service.sources.mapping.format import Event, Filter, IdForm, Items, Link, Number, Terms
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import quoting, server_words
from recommendation_service.sources.mapping.problems import in_order
from recommendation_service.sources.mapping.results import (
    By,
    Observer,
    OfUsers,
    Queries,
    Quote,
    Result,
    name_in,
    parameters,
)
from recommendation_service.sources.mapping.statements import without_conditions
from recommendation_service.sources.mapping.tables import (
    EventTable,
    FilterColumns,
    Findings,
    Float64,
    Ids,
    ItemTable,
    LinkTable,
    NumberColumns,
    Tables,
    TermTable,
    UserTable,
    Values,
    VocabularyTables,
)

_DAY_SECONDS = 86400.0


class TablesError(SourceError):
    """Queries that do not give what the mapping says; ``found`` has every problem, ``findings`` what was read."""

    def __init__(self, findings: Findings) -> None:
        self.found = in_order(findings.fatal)
        super().__init__("\n".join(map(str, self.found)))
        self.findings = findings


def read(
    mapping: Mapping,
    connection: Connection,
    now: datetime | None = None,
    zone: tzinfo = UTC,
    observe: Observer | None = None,
    latest: datetime | None = None,
) -> Tables:
    """Everything of a mapping, in the transaction that the connection is in. ``zone``: of times that say none.
    ``latest``: for who looks back, the moment until which rows are told: what happened between is read as well.

    Raises TablesError with every problem of all queries, SourceError where the database went away.
    """
    now = now or datetime.now(UTC)
    return _Reading(mapping, Queries(mapping, connection, now, zone, observe=observe, latest=latest), now).tables()


def read_users(
    mapping: Mapping,
    connection: Connection,
    users: Sequence[int | str],
    most: int,
    now: datetime | None = None,
    zone: tzinfo = UTC,
    quotes: dict[str, Quote] | None = None,
) -> Tables:
    """What the tables say of some users, at most ``most`` rows of each from a query; no items. ``quotes``: see Queries.

    Raises SourceError; UnfitIds where the database cannot compare one of the ids.
    """
    now = now or datetime.now(UTC)
    queries = Queries(mapping, connection, now, zone, OfUsers(tuple(users), most), is_whole=False, quotes=quotes)
    return _Reading(mapping, queries, now).tables()


def read_items(
    mapping: Mapping, connection: Connection, now: datetime, zone: tzinfo, latest: datetime
) -> dict[str, Ids]:
    """Ids of the items of each type that there would be at a moment. ``latest``: what is later is no time.

    Raises TablesError, SourceError.
    """
    queries = Queries(mapping, connection, now, zone, latest=latest, is_whole=False)
    found = _Reading(mapping, queries, now).items()
    if queries.findings.fatal:
        raise TablesError(queries.findings)
    return {name: table.ids for name, table in found.items()}


def present_items(mapping: Mapping, connection: Connection, now: datetime, zone: tzinfo) -> dict[str, Ids]:
    """The same of all that the queries' tables have, whether it may be shown or not.

    Raises TablesError, SourceError.
    """
    found, statements = {}, dict(mapping.statements)
    for name, section in mapping.content.items.items():
        statement = statements[f"items.{name}"]
        whole = replace(statement, text=without_conditions(statement.text))
        given = parameters(whole, section.lives_days, now, zone)
        try:
            quote = quoting(connection, whole.text, given)
        except SQLAlchemyError as error:
            raise SourceError(f"{statement.section}: {server_words(error)}") from error
        only_ids = replace(whole, text=f"SELECT q.{quote(section.id)} FROM (\n{whole.text}\n) q")
        statements[statement.section] = only_ids
        queries = Queries(replace(mapping, statements=statements), connection, now, zone, is_whole=False)
        result = queries.run(statement.section, section.lives_days)
        if result is None or queries.findings.fatal:
            raise TablesError(queries.findings)
        found[name] = queries.ids(result, "id", section.id, mapping.content.item_ids(name))
    return found


def events_of(
    mapping: Mapping, queries: Queries, name: str, result: Result, now: datetime, *, as_given: bool = False
) -> EventTable:
    """Of a result of the event's query, or of some of its rows. What is wrong is noted in the queries' findings.
    ``as_given``: bad marks, too, and the weight times each mark."""
    return _Reading(mapping, queries, now).events_of(name, mapping.content.events[name], result, as_given=as_given)


def _worth(marks: Float64, worst: float, best: float) -> Float64:
    """(n,) What each mark says for an item, beside the best."""
    return np.where(marks > (worst + best) / 2, np.minimum(marks, best) / best, 0.0)


def by_user(mapping: Mapping, section: str) -> By | None:
    """How a section's rows are found by user; None: they are nobody's."""
    found = mapping.section(section)
    if isinstance(found, Event):
        return By((found.user,), found.time)
    if isinstance(found, Link):
        return By((found.user, found.other) if found.mutual else (found.user,))
    return None if isinstance(found, Items) or ".items." in section else By((found.id,))


class _Reading:
    def __init__(self, mapping: Mapping, queries: Queries, now: datetime) -> None:
        self._mapping = mapping
        self._content = mapping.content
        self._now = now
        self._queries = queries
        self._findings = queries.findings

    def tables(self) -> Tables:
        content = self._content
        users, user_columns = self._users()
        items = self.items()
        vocabularies = {
            name: VocabularyTables(
                {
                    item_type: self._terms(
                        f"vocabularies.{name}.items.{item_type}",
                        terms,
                        content.item_ids(item_type),
                        items.get(item_type),
                    )
                    for item_type, terms in vocabulary.items.items()
                },
                None
                if vocabulary.users is None
                else self._terms(f"vocabularies.{name}.users", vocabulary.users, content.user_ids, users),
            )
            for name, vocabulary in content.vocabularies.items()
        }
        tables = Tables(
            users=users,
            items=items,
            vocabularies=vocabularies,
            numbers={
                name: self._numbers(name, number, items, user_columns) for name, number in content.numbers.items()
            },
            events={name: self._events(name, event) for name, event in content.events.items()},
            links={name: self._links(name, link) for name, link in content.links.items()},
            filters={name: self._filter(name, rule, items, user_columns) for name, rule in content.filters.items()},
            findings=self._findings,
        )
        if self._findings.fatal:
            raise TablesError(self._findings)
        return tables

    def items(self) -> dict[str, ItemTable]:
        return {name: self._items(name, section) for name, section in self._content.items.items()}

    def _run(self, section: str) -> Result | None:
        return self._queries.run(section, self._mapping.days_of(section), by_user(self._mapping, section))

    def _users(self) -> tuple[UserTable, Result]:
        section = self._content.users
        result = self._run("users") or _nothing("users")
        ids = self._queries.ids(result, "id", section.id, self._content.user_ids) if result.columns else _no_ids()
        times = self._queries.times(result, section.time) if result.columns else np.zeros(0)
        kept = self._once(result, section.id, ids)
        columns = {name: _picked(column, kept) for name, column in result.columns.items()}
        return UserTable(ids[kept], times[kept], columns), Result("users", columns, len(kept))

    def _items(self, name: str, section: Items) -> ItemTable:
        result = self._run(f"items.{name}") or _nothing(f"items.{name}")
        if not result.columns:
            return ItemTable(_no_ids(), np.zeros(0), None, section.fields, {})
        ids = self._queries.ids(result, "id", section.id, self._content.item_ids(name))
        times = self._queries.times(result, section.time)
        creators = None
        if section.creator is not None:
            creators = self._queries.ids(result, "creator", section.creator, self._content.creator_ids)
        # Under the mapping's names, whatever letters the database gives them.
        columns = result.columns | {field: self._queries.column(result, "fields", field) for field in section.fields}
        kept = self._once(result, section.id, ids)
        if section.lives_days is not None:
            # What has no time is not known to have ended.
            ended = times[kept] < self._now.timestamp() - section.lives_days * _DAY_SECONDS
            self._findings.set_aside(f"items.{name}", str(section.time), "past lives_days", int(ended.sum()))
            kept = kept[~ended]
        return ItemTable(
            ids[kept],
            times[kept],
            None if creators is None else creators[kept],
            section.fields,
            {column: _picked(given, kept) for column, given in columns.items()},
        )

    def _once(self, result: Result, column: str, ids: Ids) -> Any:
        """Places of rows with an id, the first of each; several of one are a fault."""
        seen: dict[Any, int] = {}
        again: list[Any] = []
        for place, one in enumerate(ids.tolist()):
            if not one:
                continue
            if one in seen:
                again.append(one)
            else:
                seen[one] = place
        if again:
            self._findings.set_aside(result.section, column, "an id that was there before", len(again))
            statement = self._mapping.statements[result.section]
            said = f"{len(again)} rows have an id that was there before, such as {again[0]!r}"
            instead = "select each once: a join that multiplies rows wants EXISTS, DISTINCT or GROUP BY"
            self._findings.faults.append(statement.problem(said, instead, column=column))
        return np.fromiter(seen.values(), np.int64, len(seen))

    def _terms(self, section: str, terms: Terms, form: IdForm, of: ItemTable | UserTable | None) -> TermTable:
        reasons: Counter[str] = Counter()
        if terms.column is not None:
            column, ids, given = terms.column, _no_ids(), []
            if of is not None:
                ids = of.ids
                kind = section.split(".", 2)[2]
                given = self._queries.column_of(section, "column", column, kind, of.columns, len(of))
            weights = np.ones(len(given))
        else:
            result = self._run(section)
            if result is None:
                return TermTable(_no_ids(), [], np.zeros(0))
            column = terms.term
            ids = self._queries.ids(result, "id", terms.id, form)
            given = self._queries.column(result, "term", column)
            weights = np.ones(result.rows)
            if terms.weight is not None:
                weights = self._queries.weights(result, "weight", terms.weight)
        found = values.terms_of_all(given, terms.form, reasons)
        present = [value for value in given if value not in (None, "", b"")]
        if (
            terms.form == "json"
            and present
            and not any(found)
            and reasons.total() - reasons[values.EMPTY] >= len(present)
        ):
            key = "column" if terms.column is not None else "term"
            self._queries.fault(section, key, column, "JSON", present, 'write form = "commas", or leave form out')
        self._queries.note(section, column, reasons)
        counts = np.fromiter((len(own) for own in found), np.int64, len(found))
        places = np.repeat(np.arange(len(found)), counts)
        flat = [pair for own in found for pair in own]
        of_rows = weights[places] * np.fromiter((weight for _, weight in flat), np.float64, len(flat))
        kept = np.fromiter((bool(one) for one in ids[places].tolist()), bool, len(flat)) & (of_rows > 0)
        return TermTable(
            ids[places][kept],
            [term for (term, _), is_kept in zip(flat, kept.tolist(), strict=True) if is_kept],
            of_rows[kept],
        )

    def _numbers(self, name: str, number: Number, items: dict[str, ItemTable], users: Result) -> NumberColumns:
        def column(of: str, named: str, key: str, columns: dict[str, list[Any]], rows: int) -> Float64:
            reasons: Counter[str] = Counter()
            given = self._queries.column_of(f"numbers.{name}", key, named, of, columns, rows)
            found = values.numbers(given, reasons)
            self._queries.note_numbers(f"numbers.{name}", key, named, given, reasons)
            return found

        return NumberColumns(
            {
                item_type: column(f"items.{item_type}", named, "items", items[item_type].columns, len(items[item_type]))
                for item_type, named in number.items.items()
            },
            column("users", number.users, "users", users.columns, users.rows) if number.users else None,
        )

    def _events(self, name: str, event: Event) -> EventTable:
        result = self._run(f"events.{name}")
        if result is None:
            return EventTable(_no_ids(), _no_ids(), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        return self.events_of(name, event, result)

    def events_of(self, name: str, event: Event, result: Result, *, as_given: bool = False) -> EventTable:
        users = self._queries.ids(result, "user", event.user, self._content.user_ids)
        types = self._types(name, event, result)
        items = self._item_ids(name, event, result, types)
        times = self._queries.times(result, event.time)
        weights = np.full(result.rows, event.weight)
        if event.value is not None:
            given = self._queries.weights(result, "value", event.value)
            weights = weights * (given if event.marks is None or as_given else _worth(given, *event.marks))
        kept = _given(users) & _given(items) & (types >= 0) & (weights > 0)
        if event.days is not None:
            old = times < self._now.timestamp() - event.days * _DAY_SECONDS
            self._findings.set_aside(result.section, str(event.time), "older than days", int((old & kept).sum()))
            kept &= ~old
        return EventTable(users[kept], items[kept], types[kept], times[kept], weights[kept])

    def _types(self, name: str, event: Event, result: Result) -> Any:
        """(e,) place in the mapping's item types; -1 for none of them."""
        known = {item_type: place for place, item_type in enumerate(self._content.items)}
        if event.type_column is None:
            return np.full(result.rows, known[self._mapping.item_type_of(name) or ""], np.int64)
        given = self._queries.column(result, "type_column", event.type_column)
        found = np.fromiter((known.get(values.text(value), -1) for value in given), np.int64, len(given))
        self._findings.set_aside(result.section, event.type_column, "no item type", int((found < 0).sum()))
        if (
            self._queries.is_whole
            and len(found)
            and (found < 0).all()
            and name_in(result.columns, event.type_column) is not None
        ):
            said = f"type_column: the column {event.type_column} names no item type, but such as {str(given[0])[:60]!r}"
            instead = f"give {', '.join(known)} by CASE WHEN … THEN … END"
            problem = self._mapping.problem(result.section, "type_column", said, instead, event.type_column)
            self._findings.fatal.append(problem)
        return found

    def _item_ids(self, name: str, event: Event, result: Result, types: Any) -> Ids:
        forms = {self._content.item_ids(item_type) for item_type in self._content.items}
        item_type = self._mapping.item_type_of(name)
        if item_type is not None or len(forms) == 1:
            form = self._content.item_ids(item_type) if item_type is not None else forms.pop()
            return self._queries.ids(result, "item", event.item, form)
        found = np.full(result.rows, None, object)
        given = self._queries.column(result, "item", event.item)
        for place, one in enumerate(self._content.items):
            own = np.flatnonzero(types == place)
            reasons: Counter[str] = Counter()
            found[own] = values.ids([given[row] for row in own.tolist()], self._content.item_ids(one), reasons)
            self._queries.note(result.section, event.item, reasons)
        return found

    def _links(self, name: str, link: Link) -> LinkTable:
        result = self._run(f"links.{name}")
        if result is None:
            return LinkTable(_no_ids(), _no_ids(), np.zeros(0))
        users = self._queries.ids(result, "user", link.user, self._content.user_ids)
        form = self._content.user_ids if link.to == "users" else self._content.creator_ids
        others = self._queries.ids(result, "other", link.other, form)
        times = self._queries.times(result, link.time)
        kept = _given(users) & _given(others)
        if link.to == "users":
            kept &= users != others
        if link.days is not None:
            kept &= ~(times < self._now.timestamp() - link.days * _DAY_SECONDS)
        users, others, times = users[kept], others[kept], times[kept]
        if link.mutual:
            users, others = np.concatenate([users, others]), np.concatenate([others, users])
            times = np.concatenate([times, times])
        return LinkTable(users, others, times)

    def _filter(self, name: str, rule: Filter, items: dict[str, ItemTable], users: Result) -> FilterColumns:
        section = f"filters.{name}"

        def column(of: str, named: str, key: str, columns: dict[str, list[Any]], rows: int) -> Values | Float64:
            given = self._queries.column_of(section, key, named, of, columns, rows)
            if rule.rule == "at_most":
                reasons: Counter[str] = Counter()
                found = values.numbers(given, reasons)
                self._queries.note_numbers(section, key, named, given, reasons)
                return found
            return tuple(values.several(value) for value in given)

        return FilterColumns(
            {
                item_type: column(
                    f"items.{item_type}", rule.column, "column", items[item_type].columns, len(items[item_type])
                )
                for item_type in rule.types or self._content.items
            },
            column("users", rule.user, "user", users.columns, users.rows) if rule.user else None,
        )


def _nothing(section: str) -> Result:
    return Result(section, {}, 0)


def _no_ids() -> Ids:
    return np.zeros(0, np.int64)


def _given(ids: Ids) -> Any:
    if ids.dtype == np.int64:
        return ids > 0
    return np.fromiter((bool(one) for one in ids.tolist()), bool, len(ids))


def _picked(column: Sequence[Any], kept: Iterable[int]) -> list[Any]:
    return [column[place] for place in kept]
