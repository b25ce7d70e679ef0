"""The words of a mapping, as all rooms know them."""

from typing import get_args

from recommendation_service.core.config import Settings
from recommendation_service.model.item_keys import CREATOR
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.words import CREATOR_TYPE, FIRST_WORDS, EventName, OwnEvent, Words, own_words
from recommendation_service.sources.mapping.format import Event
from recommendation_service.sources.mapping.mapping import Mapping, load_mapping

TOKEN_KINDS = 4  # as many vocabularies have a kind of their own; those beyond share the last
FIRST_TYPE = CREATOR + 1  # the number of a mapping's first item type; a later one's is higher by its place
OTHERWISE: EventName = "like"  # what an event means that says nothing of it


def type_numbers(mapping: Mapping) -> dict[str, int]:
    """By name, in the mapping's order. They stand in keys: a type that is added has its place at the end."""
    return {name: FIRST_TYPE + place for place, name in enumerate(mapping.content.items)}


def kind_numbers(mapping: Mapping) -> dict[str, int]:
    """The same of the kinds that it begins with."""
    return {name: len(KINDS) + place for place, name in enumerate(mapping.kinds)}


def kinds_of_terms(mapping: Mapping) -> tuple[str, ...]:
    """What the four kinds of a catalog's terms are called: the first three by their vocabulary or number, and the last
    by its own, or, where several share it, ``others``, whose terms say which they are of."""
    names = [*mapping.content.vocabularies, *mapping.content.numbers]
    last = names[TOKEN_KINDS - 1 :]
    given = [*names[: TOKEN_KINDS - 1], *(last if len(last) == 1 else ["others"] if last else [])]
    return *given, *(f"unused_{place}" for place in range(len(given), TOKEN_KINDS))


def meaning_of(name: str, event: Event) -> EventName:
    if event.means is not None:
        return event.means
    return next((one for one in get_args(EventName) if one == name), OTHERWISE)


def words_of(mapping: Mapping) -> Words:
    content = mapping.content
    types = type_numbers(mapping)
    events = {}
    for name, event in content.events.items():
        one = event.type if event.type is not None else None
        of = (one,) if one is not None else tuple(types)
        means = meaning_of(name, event)
        marks = (event.marks[0], event.marks[1]) if event.marks is not None else None
        needs_value = event.value is not None or marks is not None or means == "rating"
        events[name] = OwnEvent(means, of, needs_value, marks)
    has_creators = any(items.creator for items in content.items.values())
    text = {name for name in types if content.item_ids(name) == "text"}
    if has_creators and content.creator_ids == "text":
        text.add(CREATOR_TYPE)
    return Words(
        types,
        own_words(types, events, has_creators=has_creators),
        kind_numbers(mapping),
        users_are_text=content.user_ids == "text",
        text_types=frozenset(text),
        has_creators=has_creators,
        kinds_of_terms=kinds_of_terms(mapping),
    )


def open_words(settings: Settings) -> Words:
    """As MAPPING_FILE says, else the first operator's. Raises ConfigurationError."""
    return FIRST_WORDS if settings.mapping_file is None else words_of(load_mapping(settings.mapping_file))
