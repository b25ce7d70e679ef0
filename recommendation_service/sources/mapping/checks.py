"""What no field of a mapping can tell alone: names that are nowhere, keys that exclude or need each other."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from recommendation_service.model.kinds import KINDS
from recommendation_service.sources.mapping.format import Event, Items, Kind, Link, MappingFile, Number, Queried, Terms
from recommendation_service.sources.mapping.problems import did_you_mean

# (keys to the place, what is wrong, what to write instead)
Found = tuple[tuple[str, ...], str, str]

MOST_TYPES = 64
TAKEN_TYPES = ("user", "creator")
TAKEN_EVENTS = ("feed",)
TAKEN_KINDS = KINDS  # the first operator's, whose numbers are in records
# What an answer says of each item beside its fields.
TAKEN_FIELDS = {"id": "answers have it anyway", "type": "answers have it anyway", "why": "it is what `explain` adds"}
PLACEHOLDERS = (
    *("event", "event_id", "user", "type", "item", "time", "request", "session", "feed", "kind", "position", "value"),
    "json",
)
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


def contradictions(content: MappingFile, known: Callable[[str], Collection[str]]) -> Iterator[Found]:
    """``known``: the names in a part of the file ("items", "kinds"), those of wrong sections as well."""
    types = known("items")
    yield from _users_and_items(content)
    yield from _terms(content, types)
    for name, event in content.events.items():
        yield from _event(("events", name), event, types)
    for name, link in content.links.items():
        yield from _link(("links", name), link, content)
    for name, rule in content.filters.items():
        yield from _types(("filters", name, "types"), rule.types or (), types)
    for name, kind in content.kinds.items():
        yield from _kind(("kinds", name), kind, content, types)
    for name, feed in content.feeds.items():
        for kind_name in dict.fromkeys(feed.pattern):
            if kind_name not in known("kinds"):
                instead = did_you_mean(kind_name, known("kinds"), what="kinds are")
                yield ("feeds", name, "pattern"), f"there is no kind {kind_name}", instead
    yield from _log(content, types)


def _users_and_items(content: MappingFile) -> Iterator[Found]:
    yield from _one_query(("users",), content.users)
    if content.creators.are_users and content.creators.ids is not None:
        yield ("creators", "ids"), "are_users and ids exclude each other", "remove ids: they are the users'"
    if len(content.items) > MOST_TYPES:
        yield ("items",), f"there are {len(content.items)} item types", f"at most {MOST_TYPES} are possible"
    for name, items in content.items.items():
        place = ("items", name)
        yield from _one_query(place, items)
        yield from _item_type(place, name, items)
    for name in content.events:
        if name in TAKEN_EVENTS:
            yield ("events", name), f"{name} is the service's own word", "name the event otherwise"


def _item_type(place: tuple[str, ...], name: str, items: Items) -> Iterator[Found]:
    if name in TAKEN_TYPES:
        yield place, f"{name} is the service's own word", "name the item type otherwise"
    if items.lives_days is not None and items.time is None:
        yield (*place, "lives_days"), "lives_days needs to know since when", "add time, the column of when it came"
    if len(set(items.fields)) < len(items.fields):
        yield (*place, "fields"), "a field is named twice", "name each once"
    for field in dict.fromkeys(items.fields):
        if field in TAKEN_FIELDS:
            instead = f"{TAKEN_FIELDS[field]}: leave it out, or select another value as another name"
            yield (*place, "fields"), f"{field} is the service's own word", instead


def _one_query(place: tuple[str, ...], section: Queried, *, needed: bool = True) -> Iterator[Found]:
    if section.query is not None and section.file is not None:
        yield (*place, "file"), "query and file exclude each other", "remove one of them"
    elif needed and section.query is None and section.file is None:
        yield place, "there is no query", "add query, a SELECT of yours, or file, the path of one"


def _terms(content: MappingFile, types: Collection[str]) -> Iterator[Found]:
    for name, vocabulary in content.vocabularies.items():
        place = ("vocabularies", name)
        yield from _types((*place, "items"), vocabulary.items, types)
        for item_type, terms in vocabulary.items.items():
            yield from _terms_of((*place, "items", item_type), terms)
        if vocabulary.users is not None:
            yield from _terms_of((*place, "users"), vocabulary.users)
    for name, number in content.numbers.items():
        place = ("numbers", name)
        yield from _types((*place, "items"), number.items, types)
        yield from _number(place, name, number, content)


def _terms_of(place: tuple[str, ...], terms: Terms) -> Iterator[Found]:
    if terms.column is None:
        if terms.query is None and terms.file is None:
            yield place, "there is no query", "add query or file; or column, one of the items' or users' own query"
        else:
            yield from _one_query(place, terms)
        return
    for key in ("query", "file", "id", "term", "weight"):
        if key in terms.model_fields_set:
            yield (*place, key), f"column and {key} exclude each other", "remove one of them"


def _number(place: tuple[str, ...], name: str, number: Number, content: MappingFile) -> Iterator[Found]:
    if name in content.vocabularies:
        yield place, f"a vocabulary is called {name} as well", "name one of them otherwise"
    if number.edges is not None and list(number.edges) != sorted(set(number.edges)):
        yield (*place, "edges"), "edges must ascend", f"write {sorted(set(number.edges))}"
    if number.edges is not None and "ranges" in number.model_fields_set:
        yield (*place, "ranges"), "edges and ranges exclude each other", "remove one of them"


def _event(place: tuple[str, ...], event: Event, types: Collection[str]) -> Iterator[Found]:
    yield from _one_query(place, event, needed=False)
    has_query = event.query is not None or event.file is not None
    if not has_query:
        for key in ("user", "item", "type_column", "time", "value"):
            if key in event.model_fields_set:
                yield (*place, key), f"{key} names a column, and there is no query", "add query, or remove it"
    if event.marks is not None and event.marks[0] >= event.marks[1]:
        yield (*place, "marks"), "the worst mark comes first", f"write {sorted(event.marks)}, or two that differ"
    if event.marks is not None and has_query and event.value is None:
        yield (*place, "marks"), "no column holds the marks", "add value, the column of the mark"
    if event.type is not None and event.type_column is not None:
        yield (*place, "type_column"), "type and type_column exclude each other", "remove one of them"
    elif event.type is not None:
        yield from _types((*place, "type"), (event.type,), types)
    elif has_query and event.type_column is None and len(types) > 1:
        yield (
            place,
            "there are several item types, and none is named",
            f"add type, one of {', '.join(types)}; or type_column",
        )


def _link(place: tuple[str, ...], link: Link, content: MappingFile) -> Iterator[Found]:
    yield from _one_query(place, link)
    if link.days is not None and link.time is None:
        yield (*place, "days"), "days needs to know since when", "add time, the column of since when"
    if link.to == "creators" and link.mutual:
        yield (*place, "mutual"), "only links between users can be mutual", "remove it"
    if link.to == "creators" and not any(items.creator for items in content.items.values()):
        yield (*place, "to"), "no item has a creator", "add creator to an item type, the column of its creator's id"


def _kind(place: tuple[str, ...], kind: Kind, content: MappingFile, types: Collection[str]) -> Iterator[Found]:
    yield from _types((*place, "items"), kind.items or (), types)
    if place[-1] in TAKEN_KINDS:
        yield place, f"{place[-1]} is the service's own word", "name the kind otherwise"
    if not any(kind.weights.values()):
        yield (*place, "weights"), "all weights are 0: nothing says which item comes first", "give one of them more"
    if kind.weights.get("closeness") and not content.vocabularies and not content.numbers:
        yield (*place, "weights", "closeness"), "closeness needs a vocabulary", "add one, or remove the weight"
    if kind.weights.get("friends") and not content.links:
        yield (*place, "weights", "friends"), "friends needs links", "add some, or remove the weight"


def _types(place: tuple[str, ...], named: Collection[str], types: Collection[str]) -> Iterator[Found]:
    for name in named:
        if name not in types:
            yield place, f"there is no item type {name}", did_you_mean(name, types, what="item types are")


def _log(content: MappingFile, types: Collection[str]) -> Iterator[Found]:
    if content.log is None:
        return
    for part, templates in (("events", content.log.events), ("feeds", content.log.feeds or {})):
        for column, template in templates.items():
            place = ("log", part, column)
            if isinstance(template, dict):
                yield from _types(place, template, types)
            for text in template.values() if isinstance(template, dict) else (template,):
                yield from _placeholders(place, text)


def _placeholders(place: tuple[str, ...], text: Any) -> Iterator[Found]:
    for found in _PLACEHOLDER.finditer(text) if isinstance(text, str) else ():
        if found[1] not in PLACEHOLDERS:
            yield place, f"there is no {found[0]}", did_you_mean(found[1], PLACEHOLDERS)
