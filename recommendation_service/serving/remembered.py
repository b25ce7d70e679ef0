"""Everything that the service remembers of one person, in words, for that person: what a machine's files and the
database have of a user, or of a session of somebody anonymous."""

from collections import deque
from typing import Any

import msgspec
from sqlalchemy.engine import Engine

from recommendation_service.catalog.dictionary import Dictionary, open_dictionary
from recommendation_service.catalog.inspection import describe_user
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError
from recommendation_service.core.local_time import utc_text
from recommendation_service.flush.person import Page, Person, dead_letters_of, events_of, waiting_of
from recommendation_service.learning.person import pending_of
from recommendation_service.log.decisions import read_decisions
from recommendation_service.memory.entries import as_entries
from recommendation_service.model.item_keys import unpack
from recommendation_service.model.words import Words
from recommendation_service.ranking.seen import EPOCH
from recommendation_service.sources.users import UserFacts

STATES = ("served", "impressed", "acted", "hidden")


class SeenItem(msgspec.Struct, frozen=True):
    """An item, or a creator who is hidden, that stays away from the person's feeds."""

    type: str
    id: int | str | None  # null: it is text, and the catalog does not know it any more
    state: str
    slot: str | None  # the kind of slot that it was served in, where that is known
    at: str


class Kept(msgspec.Struct, frozen=True):
    """A decision: that it is kept of a feed, which is among the events."""

    request_id: str
    at: str


class Remembered(msgspec.Struct, frozen=True):
    """Of one person. Times are UTC, in ISO 8601."""

    user_id: int | str
    session_id: str | None  # of an anonymous person
    not_personal: bool  # listed in NOT_PERSONAL_TABLE, or as all are until that was read
    catalog: dict[str, Any] | None  # past, connections and profile; null: none of them, the person is not in it
    cached_facts: dict[str, Any] | None  # of a user outside the catalog, as last read of the operator's tables
    seen: list[SeenItem]  # by this machine, the latest last
    fleet_seen: list[SeenItem] | None  # in Redis; null: there is none, or it does not answer
    waiting: int  # events of this machine's log that the database does not have yet
    waiting_events: list[dict[str, Any]]  # of them the latest, as an export has them
    events: list[dict[str, Any]]  # a page of recs_events, the latest first, as an export has them
    next: str | None  # what the next page of events is asked for with, as `page`; null: there is none
    decisions: int  # that this machine keeps
    latest_decisions: list[Kept]
    dead_letters: int  # events that the database refuses for ever
    learner: dict[str, float]  # feeds and events that may still teach something; how many shown items count in the sums


def seen_items(entries: bytes, ids: Dictionary) -> list[SeenItem]:
    """Of what ranking/seen.py says."""
    items, words = [], ids.words
    for key, detail in as_entries(entries).tolist():
        item_type, _ = unpack(key)
        kind = detail >> 4 & 15
        items.append(
            SeenItem(
                words.type_name(item_type),
                ids.item(key),
                STATES[(detail & 15) - 1],
                words.kind_name(kind - 1) if kind else None,
                utc_text((detail >> 32) + EPOCH),
            )
        )
    return items


def facts_in_words(facts: UserFacts | None, ids: Dictionary) -> dict[str, Any] | None:
    """A creator whom the dictionary does not tell is left out of the network."""
    if facts is None:
        return None
    words = ids.words
    history = [
        {"type": words.type_name(unpack(key)[0]), "id": ids.item(key), "at": utc_text(when)}
        for key, when in facts.history.tolist()
    ]
    connected = [one for one in map(ids.creator, facts.network.tolist()) if one is not None]
    told = {"history": history, "connected": connected, "connections": facts.connections} | {
        name: list(texts)
        for name, texts in zip(words.kinds_of_terms, facts.attributes, strict=True)
        if texts or not words.is_mapped
    }
    return told | {"filters": dict(facts.filters)} if words.is_mapped else told


def remembered(
    settings: Settings,
    engine: Engine,
    catalog: Catalog | None,
    person: Person,
    page: Page,
    seen: bytes,
    words: Words,
    fleet_seen: bytes | None = None,
    facts: UserFacts | None = None,
) -> Remembered:
    """Reads files and the database: not on an event loop. ``seen``, ``fleet_seen``: what this machine's memory and the
    fleet's have of the person; ``facts``: what is cached.

    Raises SourceError, OSError.
    """
    ids = open_dictionary(settings, words)
    events, following = events_of(engine, person, page, ids)
    waiting, waiting_events = waiting_of(settings.events_dir, person, page.most, ids)
    decisions, count = deque[Kept](maxlen=page.most), 0
    if person.user_id:  # one of an anonymous feed bears nobody's name
        for record in read_decisions(settings.decisions_dir):
            if record.user_id == person.user_id:
                count += 1
                decisions.append(Kept(record.request_id.hex(), utc_text(record.happened_ms / 1000)))
    return Remembered(
        user_id=person.given or person.user_id,
        session_id=person.session_id,
        not_personal=_is_listed(settings, catalog, person),
        catalog=_in_catalog(settings, catalog, person),
        cached_facts=facts_in_words(facts, ids),
        seen=seen_items(seen, ids),
        fleet_seen=None if fleet_seen is None else seen_items(fleet_seen, ids),
        waiting=waiting,
        waiting_events=waiting_events,
        events=events,
        next=following,
        decisions=count,
        latest_decisions=list(decisions),
        dead_letters=len(dead_letters_of(settings.events_dir, person)),
        learner=pending_of(settings.learning_dir, person.user_id, person.session_id),
    )


def _is_listed(settings: Settings, catalog: Catalog | None, person: Person) -> bool:
    """As FeedPipeline.is_listed."""
    if settings.not_personal_table is None:
        return False
    listed = catalog.not_personal if catalog is not None else None
    return listed is None or bool((listed == person.user_id).any())


def _in_catalog(settings: Settings, catalog: Catalog | None, person: Person) -> dict[str, Any] | None:
    if catalog is None or not person.user_id:
        return None
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    try:
        described = describe_user(catalog, store.names(catalog.version), person.user_id, person.given)
    except CatalogError:
        return None
    described.pop("user_id")
    return {"version": catalog.version, **described}
