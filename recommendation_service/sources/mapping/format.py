"""The mapping file's format: what an operator's tables mean, in the operator's own names.

Columns are those of the section's own query. Everything but users, one type of items and one kind of event may be
left out. What a field alone cannot tell is checked in `checks`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
Column = Annotated[str, Field(min_length=1, max_length=128)]
IdForm = Literal["integer", "text"]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Mark = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)]
EventMeaning = Literal["impression", "view", "like", "save", "match", "rating", "skip", "hide"]
Signal = Literal["popularity", "closeness", "together", "friends", "newness"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Queried(Section):
    """A section with rows of its own: SQL in the file, or in a file beside it."""

    query: str | None = Field(
        default=None, description="a SELECT of yours; it may use :now, and :since where there are days"
    )
    file: str | None = Field(
        default=None, description="instead of query: the path of a SQL file, seen from the mapping's folder"
    )


class Users(Queried):
    """People, one row each."""

    id: Column = Field(default="id", description="column of the user's id")
    ids: IdForm | None = Field(default=None, description="how their ids look, where unlike ids at the top")
    time: Column | None = Field(default=None, description="column of when the user came")


class Creators(Section):
    """Who made the items: an id space of its own, unless creators are users."""

    ids: IdForm | None = Field(default=None, description="how their ids look, where unlike ids at the top")
    are_users: bool = Field(default=False, description="true: a creator's id is a user's")


class Items(Queried):
    """A type of items, one row each: those that may be shown."""

    id: Column = Field(default="id", description="column of the item's id")
    ids: IdForm | None = Field(default=None, description="how their ids look, where unlike ids at the top")
    time: Column | None = Field(
        default=None, description="column of when the item came; without it nothing of the type is new"
    )
    creator: Column | None = Field(default=None, description="column of its creator's id")
    fields: tuple[Column, ...] = Field(
        default=(), description="columns that answers bear under their names, beside id and type"
    )
    lives_days: Days | None = Field(default=None, description="how long after its time an item may be shown")


class Terms(Queried):
    """Terms of items or users: rows of a query of their own, or a column of the items' or users' query."""

    column: Column | None = Field(
        default=None, description="instead of a query: a column of the items' or users' own query"
    )
    id: Column = Field(default="id", description="in the query's rows: column of the item's or user's id")
    term: Column = Field(default="term", description="in the query's rows: column of the term")
    weight: Column | None = Field(default=None, description="in the query's rows: column of how much the term counts")
    form: Literal["term", "json", "commas", "words"] = Field(
        default="term",
        description="what a value is: one term, JSON (a list, or an object with weights), a list, or prose",
    )


class Vocabulary(Section):
    """What items are about, and optionally what users are about: skills, tags, words of a title."""

    items: dict[Name, Terms] = Field(min_length=1, description="by item type")
    users: Terms | None = None
    weight: Weight = Field(default=1.0, description="how much the vocabulary counts beside the others")


class Number(Section):
    """A number whose ranges become terms: price, length, rating."""

    items: dict[Name, Column] = Field(min_length=1, description="by item type: a column of its query")
    users: Column | None = Field(default=None, description="a column of the users' query")
    edges: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = Field(
        default=None, description="where ranges end, ascending", min_length=1, max_length=100
    )
    ranges: Annotated[int, Field(ge=2, le=100)] = Field(
        default=8, description="without edges: so many ranges, with equally many items in each"
    )
    weight: Weight = Field(default=1.0, description="how much it counts beside the vocabularies")


class Event(Queried):
    """Something that people do. Without a query it is only what applications send."""

    user: Column = Field(default="user_id", description="column of the user's id")
    item: Column = Field(default="item_id", description="column of the item's id")
    type: Name | None = Field(default=None, description="the item type; needed where there are several")
    type_column: Column | None = Field(default=None, description="instead of type: a column with the item type's name")
    time: Column | None = Field(default=None, description="column of when it happened")
    weight: Weight = Field(default=1.0, description="how much it says that somebody likes the item")
    value: Column | None = Field(
        default=None, description="column of a number that the weight is multiplied by; with marks, of a mark"
    )
    marks: Annotated[tuple[Mark, ...], Field(min_length=2, max_length=2)] | None = Field(
        default=None,
        description="the worst and the best mark that a value can be: those up to their middle count for no item, "
        "the best counts the weight",
    )
    days: Days | None = Field(
        default=None, description="how long it counts, and how far back :since is; unset: for ever, and a year"
    )
    means: EventMeaning | None = Field(
        default=None, description="which of the service's own events it is; unset: that of its name, else like"
    )


class Link(Queried):
    """Who follows whom."""

    user: Column = Field(default="user_id", description="column of the user who follows")
    other: Column = Field(default="other_id", description="column of who is followed")
    to: Literal["users", "creators"] = Field(default="users", description="what the other is")
    mutual: bool = Field(default=False, description="true: each row counts both ways; between users only")
    time: Column | None = Field(default=None, description="column of since when")
    days: Days | None = Field(default=None, description="how long it counts; unset: for ever")


class Filter(Section):
    """What must hold of an item that is shown."""

    rule: Literal["equal", "contained", "at_most"] = Field(
        description="equal: the item's value is the one asked for; contained: it is among those asked for, or, of a "
        "JSON list, one of it is; at_most: its number is no larger"
    )
    column: Column = Field(description="a column of the items' queries")
    types: tuple[Name, ...] | None = Field(
        default=None, description="item types that it holds for; unset: all", min_length=1
    )
    user: Column | None = Field(
        default=None, description="a column of the users' query: what is asked for where a request does not say"
    )
    missing: Literal["fails", "passes"] = Field(default="fails", description="what an item without a value does")


class Kind(Section):
    """A kind of slot: which items, and what they are ordered by."""

    items: tuple[Name, ...] | None = Field(default=None, description="item types; unset: all", min_length=1)
    weights: dict[Signal, Weight] = Field(
        description="popularity (with decay), closeness (by vocabularies), together (what people like this one take), "
        "friends, newness",
        min_length=1,
    )
    max_age_days: Days | None = Field(default=None, description="older items are none of it")


class FeedLimits(Section):
    """What a feed does not do, where it can help it. Unset: as it fits the data."""

    creator_window: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="no creator twice within so many items"
    )
    novelty_after_terms: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="once a feed has so many terms, each item brings a new one"
    )


class Feed(Section):
    """A feed: the kinds of its slots, over and over."""

    pattern: tuple[Name, ...] = Field(description="kinds of slots, in order", min_length=1, max_length=100)
    size: Annotated[int, Field(ge=1, le=100)] = Field(
        default=24, description="how many items where a request does not say"
    )
    limits: FeedLimits = FeedLimits()


Templates = dict[Column, str | int | float | dict[Name, str]]


class Log(Section):
    """A table of the operator's into which events are written as well: text by column, with {user}, {item}, …"""

    table: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    events: Templates = Field(
        description="column = text, or a text for each item type. In it: {event} {event_id} {user} {type} {item} "
        "{time} {request} {session} {kind} {position} {value} {json}, of feeds {feed}; a text that is one of them "
        "alone is the value itself",
        min_length=1,
    )
    feeds: Templates | None = Field(
        default=None, description="the same of each feed that was made; unset: none is written"
    )


class MappingFile(Section):
    """What an operator's tables mean to the recommendation service."""

    ids: IdForm = Field(default="integer", description="how ids look; UUIDs and slugs are text")
    users: Users
    creators: Creators = Creators()
    items: dict[Name, Items] = Field(min_length=1, description="by type; up to 64")
    vocabularies: dict[Name, Vocabulary] = Field(default_factory=dict)
    numbers: dict[Name, Number] = Field(default_factory=dict)
    events: dict[Name, Event] = Field(min_length=1, description="by name")
    links: dict[Name, Link] = Field(default_factory=dict)
    filters: dict[Name, Filter] = Field(default_factory=dict)
    kinds: dict[Name, Kind] = Field(default_factory=dict, description="unset: for_you, popular and new")
    feeds: dict[Name, Feed] = Field(default_factory=dict, description="unset: one, home")
    log: Log | None = None

    @property
    def user_ids(self) -> IdForm:
        return self.users.ids or self.ids

    @property
    def creator_ids(self) -> IdForm:
        return self.user_ids if self.creators.are_users else self.creators.ids or self.ids

    def item_ids(self, item_type: str) -> IdForm:
        return self.items[item_type].ids or self.ids
