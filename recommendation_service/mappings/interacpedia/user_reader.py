"""What the first operator's tables say of one user, for those who are not in the catalog."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.local_time import local_text
from recommendation_service.mappings.interacpedia.statements import sql
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.item_keys import LARGEST_ITEM, item_key
from recommendation_service.sources.json_lists import read_list
from recommendation_service.sources.reader import ZERO_DATE
from recommendation_service.sources.users import Facts, Names, Question, User, UserFacts

# Four kinds of interactions, so many of each.
MOST_OF_A_KIND = 80
MOST_INTERACTIONS = 4 * MOST_OF_A_KIND
MOST_CONNECTIONS = 512
# The parts of user_facts.sql, in its order, and so many of each.
PROFILE, CONNECTIONS = "profile", ("connected to", "connected by")
INTERACTIONS = ("rating", "match", "save", "view")
MOST_OF_PART = {
    PROFILE: MOST_OF_A_KIND,
    **dict.fromkeys(CONNECTIONS, MOST_CONNECTIONS),
    **dict.fromkeys(INTERACTIONS, MOST_OF_A_KIND),
}
# Rows of a statement: as many as one user may fill, and more for each.
MOST_OF_ONE, MOST_OF_EACH = sum(MOST_OF_PART.values()), MOST_OF_A_KIND
MOST_NAMES = 8
MOST_CHARACTERS = 100
LARGEST_ID = 2**63 - 1
# Clocks of two machines differ; a time so little ahead is now, and one further ahead is an error.
CLOCK_TOLERANCE_SECONDS = 300
_DAY_SECONDS = 86400
_NO_HISTORY, _NO_NETWORK = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)


class UserReader:
    """Reads users in one statement. ``connect`` gives a connection to a replica or the primary."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._zone = settings.database_zone
        self._clock = clock
        self._windows: tuple[int, dict[str, Any]] = (-1, {})  # of a second
        self.version = (
            f"{settings.interactions_window_days}.{settings.views_window_days}.{settings.connections_window_days}"
        )
        if settings.database_zone is not UTC:
            self.version += f".{settings.mysql_time_zone}"

    def read(self, user_id: User) -> UserFacts | None:
        """None where there is no such user. Blocks: not on an event loop. Raises SourceError."""
        return self.read_all([user_id])[user_id]

    def read_all(self, user_ids: Sequence[User]) -> Facts:
        """The same of several different ones, each as if alone. Where they have more rows than a statement gives, each
        is read alone, and of one who has more alone the latest of each part."""
        question = self.question(user_ids)
        try:
            with self._connect() as connection:
                facts = question.facts(connection.execute(question.statement, question.parameters).fetchall())
                if facts is None and len(user_ids) == 1:
                    facts = self._latest_facts(connection, user_ids[0])
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            raise SourceError(f"user: {original or type(error).__name__}") from error
        if facts is None:
            return {user_id: self.read(user_id) for user_id in user_ids}
        return facts

    def question(self, user_ids: Sequence[User]) -> Question:
        """What says all of several different ones, unless they have more rows than it gives."""
        now = self._clock()
        filled = _filled(user_ids)
        most = MOST_OF_ONE + MOST_OF_EACH * len(user_ids)
        users = {f"user_id_{place}": user for place, user in enumerate(filled)}

        def facts(rows: Sequence[Any]) -> Facts | None:
            return self._facts_of(user_ids, rows, now) if len(rows) < most else None

        return Question(_statement(len(filled)), {**self._parameters(now), **users, "most": most}, facts)

    def _latest_facts(self, connection: Connection, user_id: User) -> Facts:
        """By the latest rows of each part."""
        now = self._clock()
        rows: list[Any] = []
        for place, most in enumerate(MOST_OF_PART.values()):
            statement = _latest_part(place)
            parameters = {**self._parameters(now), "user_id_0": user_id, "most": most}
            rows += connection.execute(statement, {name: parameters[name] for name in statement._bindparams})
        return self._facts_of([user_id], rows, now)

    def _facts_of(self, user_ids: Sequence[User], rows: Sequence[Any], now: float) -> Facts:
        found: dict[User, UserFacts | None] = dict.fromkeys(user_ids)
        for user_id, parts in _by_user(rows).items():
            if PROFILE in parts:
                found[user_id] = self._facts(user_id, parts, now)
        return found

    def _facts(self, user_id: int, parts: dict[str, list[Any]], now: float) -> UserFacts:
        if len(parts) == 1:  # as nearly all who are outside the catalog
            return UserFacts(_NO_HISTORY, _NO_NETWORK, 0, _attributes(parts[PROFILE]))
        others = _latest(
            (
                (other, when)
                for _, _, other, when, *_ in _latest_rows(parts, CONNECTIONS)
                if other != user_id and _is_id(other, LARGEST_ID)
            ),
            now,
            self._zone,
        )
        keys = (
            (item_key(CHALLENGE if int(is_challenge) else RESUME, number), when)
            for _, _, number, when, is_challenge, *_ in _latest_rows(parts, INTERACTIONS)
            if _is_id(number, LARGEST_ITEM)
        )
        history = _latest(keys, now, self._zone)[:MOST_INTERACTIONS]
        return UserFacts(
            np.array(history, np.int64).reshape(-1, 2),
            np.array(sorted(other for other, _ in others[:MOST_CONNECTIONS]), np.int64),
            len(others),
            _attributes(parts[PROFILE]),
        )

    def _parameters(self, now: float) -> dict[str, Any]:
        """The windows, which move by whole seconds."""
        second = int(now)
        known, windows = self._windows
        if second != known:
            settings, moment = self._settings, datetime.fromtimestamp(second, UTC)

            def since(days: int) -> str:
                return local_text(moment - timedelta(days=days), self._zone)

            windows = {
                "interactions_since": since(settings.interactions_window_days),
                "views_since": since(settings.views_window_days),
                "connections_since": since(settings.connections_window_days),
                "zero_date": ZERO_DATE,
            }
            self._windows = second, windows
        return windows


def _by_user(rows: Iterable[Any]) -> dict[int, dict[str, list[Any]]]:
    """By user and part."""
    found: dict[int, dict[str, list[Any]]] = {}
    for row in rows:
        found.setdefault(int(row[1]), {}).setdefault(row[0], []).append(row)
    return found


def _latest_rows(parts: dict[str, list[Any]], names: Iterable[str]) -> Iterator[Any]:
    """What there is of these parts, and of each where that is too much the latest."""
    for name in names:
        rows = parts.get(name, [])
        if len(rows) > MOST_OF_PART[name]:
            rows = sorted(rows, key=lambda row: str(row[3]), reverse=True)[: MOST_OF_PART[name]]
        yield from rows


def _filled(user_ids: Sequence[User]) -> list[User]:
    """So many that it is a power of two, so that there are few statements: the last one once more and again."""
    return [*user_ids, *[user_ids[-1]] * ((1 << (len(user_ids) - 1).bit_length()) - len(user_ids))]


def _facts_sql() -> str:
    """Without its comment, which a server would read with each."""
    return re.sub(r"--.*\n", "", sql("user_facts"))


@cache
def _statement(users: int) -> TextClause:
    """All parts of so many users, in no order."""
    names = ", ".join(f":user_id_{place}" for place in range(users))
    return text(_facts_sql().replace("IN (:user_id)", f"IN ({names})") + "\nLIMIT :most")


@cache
def _latest_part(place: int) -> TextClause:
    """One part of one user, the latest first."""
    part = _facts_sql().split("UNION ALL")[place].replace("IN (:user_id)", "IN (:user_id_0)")
    return text(f"{part} ORDER BY {'created_at' if place else 'p.id'} DESC LIMIT :most")


def _is_id(value: Any, largest: int) -> bool:
    return isinstance(value, int) and 0 < value <= largest


def _latest(entries: Iterable[tuple[int, Any]], now: float, zone: tzinfo) -> list[tuple[int, int]]:
    """(number or key, seconds since 1970) of what has a time, latest first, each once."""
    latest: dict[int, int] = {}
    for number, when in entries:
        seconds = _seconds(when, now, zone)
        if seconds is not None:
            latest[number] = max(seconds, latest.get(number, 0))
    return sorted(latest.items(), key=lambda entry: (-entry[1], entry[0]))


def _seconds(value: Any, now: float, zone: tzinfo) -> int | None:
    """Since 1970; None of what is zero, in the future, or no time. As `cleaning.epoch_seconds` does with a column."""
    try:
        moment = datetime.fromisoformat(str(value))
        seconds = (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).timestamp()
    except (ValueError, OverflowError):
        return None
    if not _DAY_SECONDS < seconds <= now + CLOCK_TOLERANCE_SECONDS:
        return None
    return int(min(seconds, now))


def _attributes(profiles: list[Any]) -> tuple[Names, Names, Names, Names]:
    """Of several profiles, the last that says something."""
    for row in sorted(profiles, key=lambda row: row[2] or 0, reverse=True):
        skills, knowledges, tools, languages = (_names(value) for value in row[5:])
        if skills or knowledges or tools or languages:
            return skills, knowledges, tools, languages
    return (), (), (), ()


def _names(value: Any) -> Names:
    """The different names of a JSON list, in the one spelling that is compared. As `cleaning.text_list` and
    `cleaning.tokens` do, which nothing of this folder may import; a test holds the two together."""
    content, _ = read_list(value)
    names = dict.fromkeys(" ".join(entry.split()).casefold() for entry in content if isinstance(entry, str))
    return tuple(name for name in names if 0 < len(name) <= MOST_CHARACTERS)[:MOST_NAMES]
