"""An operator's own words: the names of item types, events and kinds, which records have as numbers.

The first operator's are the service's own. A mapping's events each mean one of the service's, which says what becomes
of the item; their own names stand beside it in records and tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from recommendation_service.model import item_keys, kinds
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES
from recommendation_service.model.text_ids import LONGEST_TEXT_ID, USER_BITS, number_of_text

EventName = Literal["impression", "view", "like", "save", "match", "rating", "skip", "hide"]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)

# What says nothing of how much somebody likes an item: an operator need not name these to use them.
ALWAYS: tuple[EventName, ...] = ("impression", "skip", "hide")
CREATOR_TYPE = ITEM_TYPES[CREATOR]


@dataclass(frozen=True, slots=True)
class OwnEvent:
    """``types``: of the items that it may be of; ``needs_value``: it says nothing without one; ``marks``: the least and
    the most that it may be."""

    means: EventName
    types: tuple[str, ...]
    needs_value: bool = False
    marks: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Words:
    """``types``: their numbers by name; ``kinds`` likewise. ``text_types``: those whose ids are text, which may be
    ``creator``."""

    types: Mapping[str, int]
    events: Mapping[str, OwnEvent]
    kinds: Mapping[str, int] = field(default_factory=dict)
    users_are_text: bool = False
    text_types: frozenset[str] = frozenset()
    has_creators: bool = True
    is_mapped: bool = True  # False: the first operator's
    kinds_of_terms: tuple[str, ...] = ("skills", "knowledges", "tools", "languages")  # (4,) as people are told

    @cached_property
    def _type_names(self) -> dict[int, str]:
        return {number: name for name, number in self.types.items()}

    @cached_property
    def _kind_names(self) -> dict[int, str]:
        return {number: name for name, number in self.kinds.items()}

    @property
    def type_names(self) -> tuple[str, ...]:
        """What an event can be of."""
        return (*self.types, *((CREATOR_TYPE,) if self.has_creators else ()))

    def type_name(self, number: int) -> str:
        """Raises IndexError for what no type bears."""
        return self._type_names.get(number) or item_keys.type_name(number)

    def type_number(self, name: str) -> int:
        """Raises ValueError."""
        number = self.types.get(name)
        return item_keys.type_of_name(name) if number is None else number

    def user_number(self, text: str) -> int:
        """Of a user's id as somebody writes it. Raises ValueError that says what is wrong."""
        if self.users_are_text:
            if not 0 < len(text) <= LONGEST_TEXT_ID:
                raise ValueError(f"must be an id of 1 to {LONGEST_TEXT_ID} characters, but is {text[:64]!r}")
            return number_of_text(text, USER_BITS)
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63):
            raise ValueError(f"must be a number from 0 to {2**63 - 1}, but is {text[:64]!r}")
        return int(text)

    def kind_name(self, number: int) -> str:
        """Raises IndexError for what no kind bears."""
        return self._kind_names.get(number) or kinds.kind_name(number)

    def kind_number(self, name: str) -> int:
        """Raises ValueError."""
        number = self.kinds.get(name)
        return kinds.kind_number(name) if number is None else number

    def meaning(self, event: str) -> EventName | None:
        """Of an event's name; None: it is no event of this operator's."""
        own = self.events.get(event)
        return own.means if own is not None else next((one for one in EVENT_NAMES if one == event), None)

    def names_of(self, meaning: EventName) -> tuple[str, ...]:
        """Of the events that mean it."""
        return tuple(dict.fromkeys((meaning, *(name for name, own in self.events.items() if own.means == meaning))))


def own_words(
    types: Mapping[str, int], events: Mapping[str, OwnEvent], *, has_creators: bool = True
) -> dict[str, OwnEvent]:
    """``events``, and of the service's own those that each operator has."""
    every: dict[str, OwnEvent] = {name: events.get(name) or OwnEvent(name, tuple(types)) for name in ALWAYS}
    if has_creators:
        hide = every["hide"]
        every["hide"] = OwnEvent(hide.means, (*hide.types, CREATOR_TYPE), hide.needs_value)
    return {**events, **every}


_FIRST_TYPES: dict[str, int] = {name: number for number, name in enumerate(ITEM_TYPES) if name != CREATOR_TYPE}
FIRST_WORDS = Words(
    _FIRST_TYPES,
    {
        name: OwnEvent(name, (*_FIRST_TYPES, *((CREATOR_TYPE,) if name == "hide" else ())), name == "rating")
        for name in EVENT_NAMES
    },
    is_mapped=False,
)
