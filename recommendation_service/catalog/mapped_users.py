"""What a mapping's tables say of one user, for those who are not in the catalog: what its next build will have."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.catalog.mapped import Terms, TermsBy, creator_numbers, numbers_of
from recommendation_service.catalog.people import UNTIMED
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.catalog.vocabulary import Lists
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.model.columns import Int64
from recommendation_service.model.item_keys import item_keys
from recommendation_service.model.text_ids import ITEM_BITS, LONGEST_TEXT_ID, USER_BITS
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import server_words
from recommendation_service.sources.mapping.reading import read_users
from recommendation_service.sources.mapping.results import Quote, UnfitIds
from recommendation_service.sources.mapping.tables import Tables
from recommendation_service.sources.mapping.words import TOKEN_KINDS, type_numbers
from recommendation_service.sources.users import OwnFilters, User, UserFacts
from recommendation_service.versions.store import MANIFEST

# Of a user from each query.
MOST_ROWS = 512
MOST_INTERACTIONS = 320
_NO_TERMS: Lists = ([], [], [], [])


class MappedUserReader:
    """Reads users by the mapping's own queries that name a user, each asked once for several of them. ``connect``
    gives a connection to a replica or the primary."""

    def __init__(
        self,
        mapping: Mapping,
        connect: Callable[[], AbstractContextManager[Connection]],
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._mapping = mapping
        self._connect = connect
        self._zone = settings.database_zone
        self._clock = clock
        self._types = list(type_numbers(mapping).values())
        self._store = CatalogStore(settings.catalog_dir, settings.catalog_keep)
        self._quotes: dict[str, Quote] = {}
        self._by: tuple[str | None, TermsBy] = (None, _no_terms_by())
        self.version = f"{mapping.digest}.{settings.mysql_time_zone}"

    def question(self, users: Sequence[User]) -> None:
        """A mapping's tables take several statements."""

    def read(self, user: User) -> UserFacts | None:
        """None where there is no such user. Blocks: not on an event loop. Raises SourceError."""
        return self.read_all([user])[user]

    def read_all(self, users: Sequence[User]) -> dict[User, UserFacts | None]:
        """The same of several different ones, each as if alone: who has so much that the limit of a query may have cut
        it is read alone, and so is each where the database cannot compare an id of them."""
        found: dict[User, UserFacts | None] = dict.fromkeys(users)
        wanted = [user for user in users if self._may_be(user)]
        if not wanted:
            return found
        try:
            tables = self._tables(wanted)
        except UnfitIds:
            tables = None
        if tables is not None and (len(wanted) == 1 or not _is_cut(tables, len(wanted))):
            return found | self._facts_of_all(tables, wanted)
        if len(wanted) > 1:
            for user in wanted:
                found |= self.read_all([user])
        return found

    def _may_be(self, user: User) -> bool:
        if self._mapping.content.user_ids == "text":
            return isinstance(user, str) and 0 < len(user) <= LONGEST_TEXT_ID and "\0" not in user
        return isinstance(user, int) and 0 < user < 1 << USER_BITS

    def _tables(self, users: Sequence[User]) -> Tables:
        try:
            with self._connect() as connection:
                return read_users(
                    self._mapping, connection, users, MOST_ROWS, self._moment(), self._zone, quotes=self._quotes
                )
        except SQLAlchemyError as error:
            raise SourceError(f"user: {server_words(error)}") from error

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _facts_of_all(self, tables: Tables, users: Sequence[User]) -> dict[User, UserFacts | None]:
        by = self._terms_by()
        terms = dict(Terms(self._mapping, tables, by).of_users())
        places = {one: place for place, one in enumerate(tables.users.ids.tolist())}
        facts: dict[User, UserFacts | None] = {}
        for user in users:
            history, others, network = self._history(tables, user), *self._links(tables, user)
            if user in places or user in terms or len(history) or len(others):
                skills, knowledges, tools, languages = map(tuple, terms.get(user, _NO_TERMS))
                facts[user] = UserFacts(
                    history,
                    network,
                    len(others),
                    (skills, knowledges, tools, languages),
                    _filters(tables, places[user]) if user in places else (),
                )
            else:
                facts[user] = None
        return facts

    def _history(self, tables: Tables, user: User) -> Int64:
        """(h, 2) the item's key, when; latest first, each item once."""
        latest = dict[int, int]()
        for table in tables.events.values():
            own = table.users == user
            when = np.nan_to_num(table.times, nan=UNTIMED).astype(np.int64)
            for place, item_type in enumerate(self._types):
                rows = np.flatnonzero(own & (table.types == place))
                numbers = numbers_of(table.items[rows], ITEM_BITS)
                rows, numbers = rows[numbers > 0], numbers[numbers > 0]
                for key, moment in zip(item_keys(item_type, numbers).tolist(), when[rows].tolist(), strict=True):
                    latest[key] = max(moment, latest.get(key, 0))
        found = sorted(latest.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_INTERACTIONS]
        return np.array(found, np.int64).reshape(-1, 2)

    def _links(self, tables: Tables, user: User) -> tuple[Int64, Int64]:
        """(numbers of whom the user is linked to, those of them whose items count), ascending."""
        content = self._mapping.content
        linked, network = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for name, table in tables.links.items():
            others = table.others[table.users == user]
            to_users = content.links[name].to == "users"
            numbers = numbers_of(others, USER_BITS) if to_users else creator_numbers(self._mapping, others)
            linked.append(numbers[numbers > 0])
            if not to_users or content.creators.are_users:
                creators = creator_numbers(self._mapping, others)
                network.append(creators[creators > 0])
        return np.unique(np.concatenate(linked)), np.unique(np.concatenate(network))[:MOST_ROWS]

    def _terms_by(self) -> TermsBy:
        """As the current catalog's; without one, or of an older release's, numbers give no terms."""
        version = self._store.current()
        if version != self._by[0]:
            try:
                said = json.loads((self._store.folder / str(version) / MANIFEST).read_bytes())["people_terms"]
                self._by = version, TermsBy(**said)
            except (OSError, ValueError, KeyError, TypeError):
                self._by = version, _no_terms_by()
        return self._by[1]


def _no_terms_by() -> TermsBy:
    return TermsBy((MOST_ROWS,) * TOKEN_KINDS, {})


def _is_cut(tables: Tables, users: int) -> bool:
    """Whether a limit may have cut what there is of some of so many users."""
    return any(facts.rows >= MOST_ROWS * users for facts in tables.findings.queries.values())


def _filters(tables: Tables, place: int) -> OwnFilters:
    """Of the user in a row of the users' table."""
    found: list[Any] = []
    for name, columns in tables.filters.items():
        if columns.users is None:
            continue
        own = columns.users[place]
        if isinstance(own, tuple):
            found += [(name, own)] if own else []
        elif not np.isnan(own):
            found.append((name, float(own)))
    return tuple(found)
