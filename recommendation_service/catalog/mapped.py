"""A catalog from the tables that a mapping reads: any number of item types, ids of either form, vocabularies."""

import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np

from recommendation_service.catalog.arrangement import DAY_SECONDS, Contents, arranged
from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.filter_columns import FilterColumn, listed, ordered
from recommendation_service.catalog.item_features import ItemStatistics, item_features
from recommendation_service.catalog.item_forms import TIME_FORM
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.people import UNTIMED, Interactions, People, each_once, places
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.texts import Texts
from recommendation_service.catalog.vocabulary import Lists, Vocabulary
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.model.columns import Float64, Int64
from recommendation_service.model.item_keys import LARGEST_OTHER
from recommendation_service.model.text_ids import CREATOR_BITS, ITEM_BITS, USER_BITS, number_of_text
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.lists import UNKNOWN_CITY
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.tables import Ids, ItemTable, Tables
from recommendation_service.sources.mapping.words import TOKEN_KINDS, kinds_of_terms, type_numbers

NO_TIME = 0.0  # of an item of which it is not known when it came: then it is old

_encode = msgspec.json.Encoder().encode


def build_mapped(
    mapping: Mapping, tables: Tables, settings: Settings, policy: Policy, now: datetime, kept: KeptLists | None = None
) -> BuiltCatalog:
    """Raises SourceError where there is nothing that a feed could hold."""
    started, seconds = time.perf_counter(), now.timestamp()
    report = BuildReport(query_milliseconds={name: q.milliseconds for name, q in tables.findings.queries.items()})
    for (section, column, reason), count in tables.findings.aside.items():
        report.aside(f"{section}.{column}", reason, count)
    report.warnings += [str(problem) for problem in tables.findings.faults]
    if not any(len(table) for table in tables.items.values()):
        raise SourceError(_nothing_to_show(mapping, tables))
    items = _items(mapping, tables, report)
    vocabulary = Vocabulary(kinds_of_terms(mapping))
    cuts = policy.file.cuts
    by = TermsBy((cuts.skills, cuts.knowledges, cuts.tools, cuts.languages), _edges_of_all(mapping, tables))
    terms = Terms(mapping, tables, by)
    tokens = vocabulary.rows([terms.of_item(name, row) for name, row in zip(items.types, items.rows, strict=True)])
    interactions = _interactions(mapping, tables, items, report)
    people, user_texts = _people(mapping, tables, items, interactions, vocabulary, terms)
    tokens = vocabulary.fill_absent(tokens)
    contents = Contents(
        item_types={name: type_numbers(mapping)[name] for name in items.order},
        type_offsets=items.offsets,
        worded=items.worded,
        item_id=items.number,
        created=items.created,
        creators=items.creators,
        cities=[UNKNOWN_CITY] * len(items.number),
        tokens=tokens,
        features=_features(items, interactions, tokens, len(vocabulary), policy, seconds),
        vocabulary=vocabulary,
        interactions=interactions,
        taken=interactions,
        people=people,
    )
    lists = kept or KeptLists()
    arrays, names = arranged(contents, policy, seconds, lists, report, collaborative=settings.collaborative)
    report.counts = {
        "users": len(tables.users),
        "items": len(items.number),
        **{f"items.{name}": int(end - start) for name, start, end in items.ranges()},
        "interactions": interactions.read,
        "connections": people.connected,
        "known_users": len(people.user_id),
        "tokens": len(vocabulary),
        "cities": arrays.cities,
    }
    report.build_milliseconds = round((time.perf_counter() - started) * 1000, 1)
    text_types = tuple(name for name in items.order if mapping.content.item_ids(name) == "text")
    return BuiltCatalog(
        arrays=arrays,
        item_types=contents.item_types,
        item_bodies=[_body(tables.items[name], name, row) for name, row in zip(items.types, items.rows, strict=True)],
        names=names,
        report=report,
        built_at=now,
        policy_version=policy.version,
        policy_digest=policy.catalog_digest,
        added_features=policy.added_features,
        item_time_zone=settings.item_time_zone,
        not_personal=None,
        item_texts=Texts.of([one if isinstance(one, str) else "" for one in items.ids]) if text_types else None,
        user_texts=user_texts,
        creator_texts=_creator_texts(mapping, tables, arrays.creator_id),
        text_types=text_types,
        filters=tuple(_filters(mapping, tables, items, people)),
        people_terms=by._asdict(),
        mapping=mapping.digest,
    )


def numbers_of(ids: Ids, bits: int) -> Int64:
    """(n,) numbers of ids of either form; 0 for none, as of what is absent or, of an integer, too large."""
    if ids.dtype == np.int64:
        return np.where((ids > 0) & (ids < 1 << bits), ids, 0)
    known: dict[str, int] = {}
    for one in ids.tolist():
        if isinstance(one, str) and one and one not in known:
            known[one] = number_of_text(one, bits)
    return np.array([known.get(one, 0) if isinstance(one, str) else int(one or 0) for one in ids.tolist()], np.int64)


class _Items(NamedTuple):
    """M rows of the catalog, by type and number."""

    order: list[str]  # names of the types, those with terms first
    offsets: Int64  # (Y + 1,)
    worded: int
    types: list[str]  # (M,)
    rows: list[int]  # (M,) in the type's table
    ids: list[Any]  # (M,)
    number: Int64  # (M,)
    created: Float64
    creators: Int64

    def ranges(self) -> Iterable[tuple[str, int, int]]:
        return zip(self.order, self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)

    def numbers_of(self, name: str) -> tuple[Int64, int]:
        """A type's numbers, ascending, and its first row."""
        start, end = next((start, end) for one, start, end in self.ranges() if one == name)
        return self.number[start:end], start


def _items(mapping: Mapping, tables: Tables, report: BuildReport) -> _Items:
    content = mapping.content
    bears_terms = {name for vocabulary in content.vocabularies.values() for name in vocabulary.items}
    bears_terms |= {name for number in content.numbers.values() for name in number.items}
    order = sorted(content.items, key=lambda name: name not in bears_terms)
    offsets, rows, number = [0], [], []
    for name in order:
        found = numbers_of(tables.items[name].ids, ITEM_BITS)
        report.aside(f"items.{name}.{content.items[name].id}", f"above {LARGEST_OTHER}", int((found == 0).sum()))
        unique, first = np.unique(found, return_index=True)
        unique, first = unique[unique > 0], first[unique > 0]
        report.aside(
            f"items.{name}.{content.items[name].id}", "its number is another's", int((found > 0).sum()) - len(unique)
        )
        rows.append(first)
        number.append(unique)
        offsets.append(offsets[-1] + len(unique))
    types = [name for name, own in zip(order, rows, strict=True) for _ in own]
    flat = [int(row) for own in rows for row in own]
    return _Items(
        order,
        np.array(offsets, np.int64),
        offsets[sum(name in bears_terms for name in order)],
        types,
        flat,
        [tables.items[name].ids[row] for name, row in zip(types, flat, strict=True)],
        np.concatenate(number).astype(np.int64),
        np.concatenate(
            [np.nan_to_num(tables.items[name].times[own], nan=NO_TIME) for name, own in zip(order, rows, strict=True)]
        ),
        _creators(mapping, tables, order, rows),
    )


def _creators(mapping: Mapping, tables: Tables, order: Sequence[str], rows: Sequence[Any]) -> Int64:
    """(M,) numbers; of an item without a creator a negative one, which is its own: no rule keeps it from another."""
    found = []
    for name, own in zip(order, rows, strict=True):
        given = tables.items[name].creators
        found.append(np.zeros(len(own), np.int64) if given is None else creator_numbers(mapping, given[own]))
    creators = np.concatenate(found).astype(np.int64)
    return np.where(creators > 0, creators, -1 - np.arange(len(creators)))


def creator_numbers(mapping: Mapping, ids: Ids) -> Int64:
    """As events name creators too: of text never more bits than a key has for them, also of those who are users."""
    return numbers_of(ids, USER_BITS if mapping.content.creator_ids == "integer" else CREATOR_BITS)


def _creator_texts(mapping: Mapping, tables: Tables, numbers: Int64) -> Texts | None:
    """The dictionary of the items' creators, where their ids are text; "" of an item's own, that has none.

    ``numbers``: (C,) of CatalogArrays.creator_id.
    """
    if mapping.content.creator_ids != "text":
        return None
    given = [table.creators for table in tables.items.values() if table.creators is not None]
    every = dict.fromkeys(one for ids in given for one in ids.tolist() if isinstance(one, str) and one)
    texts: dict[int, str] = {}
    for one in every:
        texts.setdefault(number_of_text(one, CREATOR_BITS), one)
    return Texts.of([texts.get(number, "") for number in numbers.tolist()])


class TermsBy(NamedTuple):
    """What else terms are made by than the rows of whom they are of."""

    cuts: Sequence[int]  # (4,) how many of each kind
    edges: dict[str, list[float]]  # of each number of the mapping


class Terms:
    """The terms of items and users, in the four kinds of tokens that a catalog has: the first three vocabularies have
    one each, and all others the last."""

    def __init__(self, mapping: Mapping, tables: Tables, by: TermsBy) -> None:
        self._cuts = by.cuts
        self._items: dict[tuple[str, Any], list[list[tuple[float, str]]]] = {}
        self._users: dict[Any, list[list[tuple[float, str]]]] = {}
        self._tables = tables
        names = [*mapping.content.vocabularies, *mapping.content.numbers]
        self._kind = {name: min(place, TOKEN_KINDS - 1) for place, name in enumerate(names)}
        shared = len(names) > TOKEN_KINDS
        for name, vocabulary in tables.vocabularies.items():
            prefix = f"{name}: " if shared and self._kind[name] == TOKEN_KINDS - 1 else ""
            counts = mapping.content.vocabularies[name].weight
            for item_type, terms in vocabulary.items.items():
                for one, term, weight in zip(terms.ids.tolist(), terms.terms, terms.weights.tolist(), strict=True):
                    self._add(self._items, (item_type, one), name, weight * counts, prefix + term)
            if vocabulary.users is not None:
                terms = vocabulary.users
                for one, term, weight in zip(terms.ids.tolist(), terms.terms, terms.weights.tolist(), strict=True):
                    self._add(self._users, one, name, weight * counts, prefix + term)
        for name, columns in tables.numbers.items():
            if name not in by.edges:
                continue
            edges, counts = np.array(by.edges[name], np.float64), mapping.content.numbers[name].weight
            for item_type, values in columns.items.items():
                for one, place in zip(tables.items[item_type].ids.tolist(), _ranges(values, edges), strict=True):
                    if place is not None:
                        self._add(self._items, (item_type, one), name, counts, f"{name} {place}")
            if columns.users is not None:
                for one, place in zip(tables.users.ids.tolist(), _ranges(columns.users, edges), strict=True):
                    if place is not None:
                        self._add(self._users, one, name, counts, f"{name} {place}")

    def _add(self, to: dict[Any, list[list[tuple[float, str]]]], key: Any, name: str, weight: float, term: str) -> None:
        to.setdefault(key, [[] for _ in range(TOKEN_KINDS)])[self._kind[name]].append((-weight, term.casefold()))

    def of_item(self, item_type: str, row: int) -> Lists:
        return self._cut(self._items.get((item_type, self._tables.items[item_type].ids[row])))

    def of_users(self) -> Iterable[tuple[Any, Lists]]:
        for one, lists in self._users.items():
            yield one, self._cut(lists)

    def _cut(self, lists: list[list[tuple[float, str]]] | None) -> Lists:
        """The heaviest of each kind; of equal ones those that came first."""
        if lists is None:
            return [], [], [], []
        skills, knowledges, tools, languages = (
            list(dict.fromkeys(term for _, term in sorted(own, key=lambda one: one[0])))[:most]
            for own, most in zip(lists, self._cuts, strict=True)
        )
        return skills, knowledges, tools, languages


def _edges_of_all(mapping: Mapping, tables: Tables) -> dict[str, list[float]]:
    return {name: _edges(mapping, name, one.items.values()).tolist() for name, one in tables.numbers.items()}


def _edges(mapping: Mapping, name: str, columns: Iterable[Float64]) -> Float64:
    number = mapping.content.numbers[name]
    if number.edges is not None:
        return np.array(number.edges)
    values = np.concatenate([np.zeros(0), *columns])
    values = values[~np.isnan(values)]
    if not len(values):
        return np.zeros(0)
    return np.unique(np.quantile(values, np.linspace(0, 1, number.ranges + 1)[1:-1]))


def _ranges(values: Float64, edges: Float64) -> Iterable[int | None]:
    """(n,) of each number which range it is in; None of what is none."""
    for value, place in zip(values.tolist(), np.searchsorted(edges, values, side="right").tolist(), strict=True):
        yield None if math.isnan(value) else place


def _interactions(mapping: Mapping, tables: Tables, items: _Items, report: BuildReport) -> Interactions:
    names = list(mapping.content.items)
    users, rows, weights, times = [], [], [], []
    for event, table in tables.events.items():
        user = numbers_of(table.users, USER_BITS)
        row = np.full(len(table), -1, np.int64)
        for place, name in enumerate(names):
            own = np.flatnonzero(table.types == place)
            known, start = items.numbers_of(name)
            found = places(known, numbers_of(table.items[own], ITEM_BITS))
            row[own] = np.where(found >= 0, found + start, -1)
        report.aside(
            f"events.{event}.{mapping.content.events[event].item}", "item not in the catalog", int((row < 0).sum())
        )
        usable = (user > 0) & (row >= 0)
        users.append(user[usable])
        rows.append(row[usable])
        weights.append(table.weights[usable])
        times.append(np.nan_to_num(table.times[usable], nan=UNTIMED))
    read = sum(map(len, tables.events.values()))
    nothing = np.zeros(0, np.int64)
    return each_once(
        np.concatenate([nothing, *users]),
        np.concatenate([nothing, *rows]),
        np.concatenate([np.zeros(0), *weights]),
        np.concatenate([np.zeros(0), *times]),
        read,
    )


def _people(
    mapping: Mapping,
    tables: Tables,
    items: _Items,
    interactions: Interactions,
    vocabulary: Vocabulary,
    terms: Terms,
) -> tuple[People, Texts | None]:
    """Everyone who is in a table, and the dictionary of their ids where these are text."""
    content = mapping.content
    profiles: dict[int, list[int]] = {}
    texts: dict[int, str] = {}

    def number_of(one: Any) -> int:
        if not isinstance(one, str):
            return int(one)
        number = number_of_text(one, USER_BITS)
        texts.setdefault(number, one)
        return number

    for one, lists in terms.of_users():
        profiles[number_of(one)] = vocabulary.numbers(lists)
    pairs, network = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for name, table in tables.links.items():
        user = numbers_of(table.users, USER_BITS)
        to_users = content.links[name].to == "users"
        other = numbers_of(table.others, USER_BITS) if to_users else creator_numbers(mapping, table.others)
        pair = np.stack([user, other], 1)[(user > 0) & (other > 0)]
        pairs.append(pair)
        if not to_users:
            network.append(pair)
        elif content.creators.are_users:
            of_creator = creator_numbers(mapping, table.others)
            network.append(np.stack([user, of_creator], 1)[(user > 0) & (of_creator > 0)])
    linked, followed = (np.unique(np.concatenate(found), axis=0).reshape(-1, 2) for found in (pairs, network))
    for table_ids in (
        tables.users.ids,
        *(table.users for table in tables.events.values()),
        *(table.users for table in tables.links.values()),
    ):
        if table_ids.dtype != np.int64:
            for one in dict.fromkeys(table_ids.tolist()):
                number_of(one)
    of_table = numbers_of(tables.users.ids, USER_BITS)
    known = np.array(sorted(profiles), np.int64)
    user_id = np.unique(np.concatenate([of_table[of_table > 0], interactions.user, linked[:, 0], known]))
    rows = np.arange(len(user_id) + 1)
    creator = places(np.unique(items.creators), followed[:, 1])
    there = creator >= 0
    sizes = np.zeros(len(user_id), np.int64)
    sizes[places(user_id, known)] = [len(profiles[number]) for number in known.tolist()]
    people = People(
        user_id=user_id,
        history_offsets=np.searchsorted(places(user_id, interactions.user), rows),
        network_offsets=np.searchsorted(places(user_id, followed[there, 0]), rows),
        network_creators=creator[there].astype(np.int32),
        connections=np.bincount(places(user_id, linked[:, 0]), minlength=len(user_id)).astype(np.int32),
        profile_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        profile_tokens=np.array([token for number in known.tolist() for token in profiles[number]], np.int32),
        recent=len(of_table),
        connected=len(linked),
    )
    if content.user_ids != "text":
        return people, None
    return people, Texts.of([texts[number] for number in user_id.tolist()])


def _filters(mapping: Mapping, tables: Tables, items: _Items, people: People) -> Iterable[FilterColumn]:
    of_table = numbers_of(tables.users.ids, USER_BITS)
    user_rows = places(people.user_id, of_table)
    for name, columns in tables.filters.items():
        section = mapping.content.filters[name]
        is_number = section.rule == "at_most"
        of_items: list[Any] = [math.nan if is_number else ()] * len(items.number)
        for row, (item_type, place) in enumerate(zip(items.types, items.rows, strict=True)):
            if item_type in columns.items:
                of_items[row] = columns.items[item_type][place]
        of_users: list[Any] | None = None
        if columns.users is not None:
            of_users = [math.nan if is_number else ()] * len(people.user_id)
            for place, row in enumerate(user_rows.tolist()):
                if of_table[place] > 0:
                    of_users[row] = columns.users[place]
        values = np.array(of_items, np.float64) if is_number else listed(of_items)
        yield FilterColumn(
            name,
            section.rule,
            section.missing == "passes",
            [(start, end) for item_type, start, end in items.ranges() if item_type in columns.items],
            values,
            None if of_users is None else np.array(of_users, np.float64) if is_number else listed(of_users),
            ordered(values),
        )


def _features(
    items: _Items, interactions: Interactions, tokens: Any, absent: int, policy: Policy, now: float
) -> Float64:
    """(M, d): engagement is what people did with an item, whatever it was."""
    count, nothing = len(items.number), np.zeros(len(items.number))
    taken = np.bincount(interactions.item, minlength=count).astype(np.float64)
    skills = tokens[:, :5]
    present = skills != absent
    uses = np.bincount(skills[present], minlength=absent + 1)
    rarity = np.where(present, 1.0 / (uses[skills] + 1.0), 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    statistics = ItemStatistics(
        age_days=(now - items.created) / DAY_SECONDS,
        views=taken,
        average=nothing,
        ratings=nothing,
        matches=nothing,
        saves=nothing,
        exhibitions=nothing,
        attribute_count=(tokens != absent).sum(axis=1).astype(np.float64),
        rarity=rarity,
    )
    return item_features(statistics, policy.file)


def _body(table: ItemTable, item_type: str, row: int) -> bytes:
    """The item as clients get it: its type and id, and the operator's fields under their names."""
    one = table.ids[row]
    fields = {name: _field(table.columns[name][row]) for name in table.fields}
    return _encode({"type": item_type, "id": one if isinstance(one, str) else int(one), **fields})


def _field(value: Any) -> Any:
    """As JSON has it: a time in ISO 8601, a number as a number, bytes as text, what a database has as JSON or an array
    as that."""
    match value:
        case datetime():
            # What a column says no zone of is what the tables say; a timestamptz is a moment.
            moment = value if value.tzinfo is None else value.astimezone(UTC)
            found: Any = moment.strftime(TIME_FORM) + ("Z" if value.tzinfo is not None else "")
        case date():
            found = value.isoformat()
        case timedelta():
            found = value.total_seconds()
        case Decimal() if value.is_finite() and math.isfinite(float(value)):
            found = int(value) if value == value.to_integral_value() else float(value)
        case Decimal():
            found = None
        case bytes():
            found = value.decode("utf-8", "replace")
        case float():
            found = value if math.isfinite(value) else None
        case None | bool() | int():
            found = value
        case list():
            found = [_field(one) for one in value]
        case dict():
            found = {str(name): _field(one) for name, one in value.items()}
        case _:
            found = str(value).encode("utf-8", "replace").decode("utf-8")
    return found


def _nothing_to_show(mapping: Mapping, tables: Tables) -> str:
    parts = []
    for name in mapping.content.items:
        facts = tables.findings.queries.get(f"items.{name}")
        told = f"{facts.rows} rows, of which none is an item" if facts and facts.rows else "no rows"
        parts.append(f"items.{name} gave {told}")
    aside = [f"{count} {section}.{column}: {why}" for (section, column, why), count in tables.findings.aside.items()]
    return f"there is nothing to show: {'; '.join([*parts, *aside])}"
