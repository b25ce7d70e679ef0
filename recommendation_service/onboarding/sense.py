"""What can be read and yet makes no sense: events of items that are not there, terms that nobody shares."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from recommendation_service.doctor.findings import Finding, error, info, warning
from recommendation_service.onboarding.wording import is_of_marks
from recommendation_service.sources.mapping.format import Event
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.tables import (
    EventTable,
    FilterColumns,
    Float64,
    Ids,
    Tables,
    TermTable,
    Values,
)
from recommendation_service.sources.mapping.values import FUTURE, NOT_A_TIME, ZERO

MUCH = 0.5  # a share that is worth saying
LIKELY_JSON = ("[", "{")
WRONG_TIMES = (NOT_A_TIME, ZERO, FUTURE)


def sense_of(tables: Tables, mapping: Mapping) -> Iterator[Finding]:
    if not len(tables.users):
        yield warning("users", "There are no users: everybody is somebody unknown.", "Look at the users' query.")
    yield from _events(tables, mapping)
    for name in mapping.content.events:
        if f"events.{name}" not in mapping.statements:
            yield info(f"events.{name}", "It has no query: it is what applications send to POST /feedback.")
    for name, vocabulary in tables.vocabularies.items():
        for item_type, terms in vocabulary.items.items():
            section = f"vocabularies.{name}.items.{item_type}"
            yield from _terms(section, terms, tables.items[item_type].ids, f"of the {item_type}s have one")
        if vocabulary.users is not None:
            yield from _terms(f"vocabularies.{name}.users", vocabulary.users, tables.users.ids, "of the users have one")
            yield from _shared(name, vocabulary.users, list(vocabulary.items.values()))
    yield from _creators(tables, mapping)
    yield from _links(tables, mapping)
    for name, columns in tables.filters.items():
        yield from _filter(name, columns)


def _events(tables: Tables, mapping: Mapping) -> Iterator[Finding]:
    types = list(tables.items)
    users = set(tables.users.ids.tolist())
    items = [set(tables.items[name].ids.tolist()) for name in types]
    with_query = {name: event for name, event in tables.events.items() if f"events.{name}" in mapping.statements}
    for name, events in with_query.items():
        section, event = f"events.{name}", mapping.content.events[name]
        if not event.weight:
            yield info(section, "Its weight is 0: what it gives counts for no item.")
            continue
        if not len(events):
            yield warning(section, "It gives no events that count.", "Look at its query, its days and its value.")
            continue
        known = sum(user in users for user in events.users.tolist())
        there = _there(events, items)
        shares = f"{known / len(events):.0%} of them by users who are there, {there / len(events):.0%} of items to show"
        yield info(section, f"{len(events):,} events, {shares}.")
        if not known and users:
            yield error(section, *_nothing_fits("user", f"the column {event.user}", "users"))
        if not there and any(items):
            yield error(section, *_nothing_fits("item", f"the column {event.item}", "items"))
        yield from _marks(section, event, events)
        yield from _timeless(section, event, events, tables)
    if with_query and not any(map(len, with_query.values())):
        yield warning("events", "Nobody did anything yet: feeds know no popularity.")


def _timeless(section: str, event: Event, events: EventTable, tables: Tables) -> Iterator[Finding]:
    timeless = int(np.isnan(events.times).sum())
    aside = tables.findings.aside
    wrong = [f"{reason}: {count:,}" for reason in WRONG_TIMES if (count := aside[section, str(event.time), reason])]
    such = f"no time that can be used ({', '.join(wrong)})" if wrong else "no time"
    if timeless == len(events):
        yield info(
            section,
            f"Its events have {such}: they count as long as they are there, and never as recent.",
            "If the table has a column of when, select it and name it as time.",
        )
    elif timeless:
        yield info(section, f"{timeless:,} of its {len(events):,} events have {such}, and count as the others.")


def _marks(section: str, event: Event, events: EventTable) -> Iterator[Finding]:
    """Where what somebody found bad counts as well, only less."""
    if event.value is None or event.marks is not None or not is_of_marks(event.value) or event.weight <= 0:
        return
    marks = events.weights / event.weight
    worst, best = marks.min(), marks.max()
    if 2 * worst <= best:
        yield warning(
            section,
            f"Its {event.value} of {worst:g} count for the items, too, if less than those of {best:g}.",
            f"Write marks = [{worst:g}, {best:g}], the worst and the best that there are: those up to their middle "
            "count for no item.",
        )


def _creators(tables: Tables, mapping: Mapping) -> Iterator[Finding]:
    """Where they are said to be users."""
    users = set(tables.users.ids.tolist())
    for name, items in tables.items.items() if mapping.content.creators.are_users and users else ():
        made = set() if items.creators is None else {one for one in items.creators.tolist() if one}
        if made and not made & users:
            yield error(
                f"items.{name}",
                f"No creator is one of the users: the column {mapping.content.items[name].creator} holds other ids "
                "than the users' query gives.",
                "Select in creator the user's id, or remove are_users.",
            )


def _links(tables: Tables, mapping: Mapping) -> Iterator[Finding]:
    users = set(tables.users.ids.tolist())
    makers = {one for items in tables.items.values() if items.creators is not None for one in items.creators.tolist()}
    for name, links in tables.links.items():
        link, section = mapping.content.links[name], f"links.{name}"
        if not len(links):
            yield warning(section, "It gives no links.", "Look at its query, or remove it.")
            continue
        if users and not set(links.users.tolist()) & users:
            yield error(section, *_nothing_fits("user", f"the column {link.user}", "users"))
        if link.to == "users" and users and not set(links.others.tolist()) & users:
            yield error(section, *_nothing_fits("other", f"the column {link.other}", "users"))
        if link.to == "creators" and any(makers) and not set(links.others.tolist()) & makers:
            yield error(
                section,
                f"Nobody in it is a creator: the column {link.other} holds other ids than creator of the items.",
                "Select in other the same id as in the items' creator, by a JOIN where it is in another table.",
            )


def _there(events: EventTable, items: list[set[Any]]) -> int:
    return sum(item in items[place] for item, place in zip(events.items.tolist(), events.types.tolist(), strict=True))


def _nothing_fits(key: str, column: str, part: str) -> tuple[str, str]:
    return (
        f"None of its {key}s is one of the {part}: {column} holds other ids than the {part}' query gives.",
        f"Select in {key} the same id as in {part}, by a JOIN where it is in another table.",
    )


def _terms(section: str, terms: TermTable, ids: Ids, of: str) -> Iterator[Finding]:
    if not len(terms):
        yield warning(section, "It gives no terms.", "Look at its query or column.")
        return
    have = len(set(terms.ids.tolist()) & set(ids.tolist()))
    different = Counter(terms.terms)
    share = have / len(ids) if len(ids) else 0.0
    yield info(section, f"{len(terms):,} terms, {len(different):,} different ones; {share:.0%} {of}.")
    if not have and len(ids):
        yield error(section, *_nothing_fits("id", "it", "items" if ".items." in section else "users"))
    if len(different) == len(terms) > 1:
        yield warning(
            section, "No two share a term, so it brings nothing together.", "Name a column that repeats itself."
        )
    if sum(term.startswith(LIKELY_JSON) for term in terms.terms) > MUCH * len(terms):
        yield warning(section, f"Terms look like JSON, such as {terms.terms[0][:40]!r}.", 'Write form = "json".')
    elif sum("," in term for term in terms.terms) > MUCH * len(terms):
        yield warning(section, f"Terms look like lists, such as {terms.terms[0][:40]!r}.", 'Write form = "commas".')


def _shared(name: str, users: TermTable, items: list[TermTable]) -> Iterator[Finding]:
    of_items = {term.casefold() for terms in items for term in terms.terms}
    if len(users) and of_items and not of_items & {term.casefold() for term in users.terms}:
        yield warning(
            f"vocabularies.{name}", "No term of a user is one of an item.", "Select the same spelling for both."
        )


def _filter(name: str, columns: FilterColumns) -> Iterator[Finding]:
    section = f"filters.{name}"
    have = ", ".join(f"{_with_value(values):,} of {len(values):,} {one}s" for one, values in columns.items.items())
    asking = "requests alone ask for one"
    if columns.users is not None:
        asking = f"{_with_value(columns.users):,} of {len(columns.users):,} users ask for one"
    yield info(section, f"{have} have a value, and {asking}.")
    offered: set[str] = set()
    for item_type, values in columns.items.items():
        missing = len(values) - _with_value(values)
        if isinstance(values, tuple):
            offered |= {term.casefold() for value in values for term in value}
        if missing and len(values):
            share = missing / len(values)
            say = warning if share > MUCH else info
            yield say(
                section, f"{share:.0%} of the {item_type}s have no value.", 'missing = "passes" shows them as well.'
            )
    users = columns.users
    if isinstance(users, tuple) and offered and any(users):
        asked = {term.casefold() for value in users for term in value}
        if not asked & offered:
            yield error(
                section, "No user's value is one of an item's: users would see nothing.", "Select the same spelling."
            )


def _with_value(values: Values | Float64) -> int:
    return int((~np.isnan(values)).sum()) if isinstance(values, np.ndarray) else sum(map(bool, values))
