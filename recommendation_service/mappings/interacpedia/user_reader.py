"""What the first operator's tables say of one user, for those who are not in the catalog."""

import time
from collections.abc import Callable, Iterable, Sequence
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
from recommendation_service.sources.users import Names, User, UserFacts

# Four kinds of interactions, so many of each.
MOST_OF_A_KIND = 80
MOST_INTERACTIONS = 4 * MOST_OF_A_KIND
MOST_CONNECTIONS = 512
MOST_NAMES = 8
MOST_CHARACTERS = 100
LARGEST_ID = 2**63 - 1
# Clocks of two machines differ; a time so little ahead is now, and one further ahead is an error.
CLOCK_TOLERANCE_SECONDS = 300
_DAY_SECONDS = 86400


class UserReader:
    """Reads users in three statements. ``connect`` gives a connection to a replica or the primary."""

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
        self.version = (
            f"{settings.interactions_window_days}.{settings.views_window_days}.{settings.connections_window_days}"
        )
        if settings.database_zone is not UTC:
            self.version += f".{settings.mysql_time_zone}"

    def read(self, user_id: User) -> UserFacts | None:
        """None where there is no such user. Blocks: not on an event loop. Raises SourceError."""
        return self.read_all([user_id])[user_id]

    def read_all(self, user_ids: Sequence[User]) -> dict[User, UserFacts | None]:
        """The same of several different ones, each as if alone: who has so much that a limit of a statement may have
        cut it is read alone."""
        now = self._clock()
        parameters = self._parameters(now)
        found: dict[User, UserFacts | None] = dict.fromkeys(user_ids)
        try:
            with self._connect() as connection:
                profiles = _by_user(_run(connection, "user_profile", user_ids, parameters))
                connected = _latest_of_each(
                    connection, "user_connections", list(profiles), parameters, MOST_CONNECTIONS
                )
                interactions = _latest_of_each(
                    connection, "user_interactions", list(profiles), parameters, MOST_OF_A_KIND
                )
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            raise SourceError(f"user: {original or type(error).__name__}") from error
        for user_id, rows in profiles.items():
            found[user_id] = self._facts(user_id, rows, connected.get(user_id, []), interactions.get(user_id, []), now)
        return found

    def _facts(
        self, user_id: int, profiles: list[Any], connected: list[Any], interactions: list[Any], now: float
    ) -> UserFacts:
        others = _latest(
            ((other, when) for _, other, when in connected if other != user_id and _is_id(other, LARGEST_ID)),
            now,
            self._zone,
        )
        keys = (
            (item_key(CHALLENGE if int(is_challenge) else RESUME, number), when)
            for _, number, when, is_challenge in interactions
            if _is_id(number, LARGEST_ITEM)
        )
        history = _latest(keys, now, self._zone)[:MOST_INTERACTIONS]
        return UserFacts(
            np.array(history, np.int64).reshape(-1, 2),
            np.array(sorted(other for other, _ in others[:MOST_CONNECTIONS]), np.int64),
            len(others),
            _attributes(profiles),
        )

    def _parameters(self, now: float) -> dict[str, Any]:
        settings, moment = self._settings, datetime.fromtimestamp(now, UTC)

        def since(days: int) -> str:
            return local_text(moment - timedelta(days=days), self._zone)

        return {
            "interactions_since": since(settings.interactions_window_days),
            "views_since": since(settings.views_window_days),
            "connections_since": since(settings.connections_window_days),
            "zero_date": ZERO_DATE,
        }


def _latest_of_each(
    connection: Connection, query: str, user_ids: Sequence[int], parameters: dict[str, Any], most: int
) -> dict[int, list[Any]]:
    """By user, what the query gives of each alone, with its limit of ``most``."""
    if not user_ids:
        return {}
    most_of_all = most * len(user_ids)
    rows = _run(connection, query, user_ids, parameters | {"most": most_of_all})
    by_user = _by_user(rows)
    if len(user_ids) > 1:
        cut = user_ids if len(rows) >= most_of_all else [user for user, own in by_user.items() if len(own) > most]
        for user_id in cut:
            by_user[user_id] = _run(connection, query, [user_id], parameters | {"most": most})
    return by_user


def _by_user(rows: Iterable[Any]) -> dict[int, list[Any]]:
    """By the first column."""
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(int(row[0]), []).append(row)
    return found


def _run(connection: Connection, query: str, user_ids: Sequence[User], parameters: dict[str, Any]) -> list[Any]:
    count = 1 << (len(user_ids) - 1).bit_length()
    statement = _statement(query, count)
    parameters = parameters | {
        f"user_id_{place}": user_ids[min(place, len(user_ids) - 1)]  # the last one stands for those that are missing
        for place in range(count)
    }
    wanted = {name: parameters[name] for name in statement._bindparams}
    return list(connection.execute(statement, wanted).fetchall())


@cache
def _statement(query: str, users: int) -> TextClause:
    """Of so many users: a power of two, so that there are few statements."""
    names = ", ".join(f":user_id_{place}" for place in range(users))
    return text(sql(query).replace("IN (:user_id)", f"IN ({names})"))


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
    for _, *lists in reversed(profiles):
        skills, knowledges, tools, languages = (_names(value) for value in lists)
        if skills or knowledges or tools or languages:
            return skills, knowledges, tools, languages
    return (), (), (), ()


def _names(value: Any) -> Names:
    """The different names of a JSON list, in the one spelling that is compared. As `cleaning.text_list` and
    `cleaning.tokens` do, which nothing of this folder may import; a test holds the two together."""
    content, _ = read_list(value)
    names = dict.fromkeys(" ".join(entry.split()).casefold() for entry in content if isinstance(entry, str))
    return tuple(name for name in names if 0 < len(name) <= MOST_CHARACTERS)[:MOST_NAMES]
