"""Who watches what, and when: the one place where tastes and popularity meet.

Three quarters of what a user does is in the user's own fields, the rest anywhere; within that, a video is
chosen in proportion to its attention. So a recommender has something to find, and popularity alone does not
find it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recommendation_service.demo.draws import (
    DAY,
    Flags,
    Integers,
    Reals,
    batch_sizes,
    draw_index,
    generator,
    log_normal_weights,
)
from recommendation_service.demo.people import OUTSIDE_WINDOW, Population
from recommendation_service.demo.videos import State, Videos
from recommendation_service.demo.vocabulary import vocabulary

IN_TASTE_SHARE = 0.75
_FIRST_TASTE_SHARE = 0.7
_OTHERS_SHARE = 0.05
_MARGIN = 3 * DAY


@dataclass(frozen=True, slots=True)
class Events:
    """Who (user ids), what (video ids), when (epoch seconds), and is it in the user's fields: (n,) each."""

    users: Integers
    videos: Integers
    times: Integers
    in_taste: Flags

    @property
    def places(self) -> Integers:
        """Rows of `Videos`: ids run from 1."""
        return self.videos - 1


class _Shelf:
    """Videos that can be drawn in proportion to their attention, of all fields or of one."""

    def __init__(self, videos: Videos, places: Integers) -> None:
        self._all = (places, np.cumsum(videos.attention[places]))
        self._by_field: list[tuple[Integers, Reals]] = []
        for field in range(len(vocabulary().fields)):
            inside = places[videos.fields[places] == field]
            self._by_field.append((inside, np.cumsum(videos.attention[inside])))

    def draw(self, rng: np.random.Generator, fields: Integers) -> Integers:
        """A place for each wanted field; -1, and a field without videos, is any field."""
        chosen = self._of(rng, self._all, len(fields))
        for field, shelf in enumerate(self._by_field):
            wanted = np.flatnonzero(fields == field)
            if wanted.size and shelf[0].size:
                chosen[wanted] = self._of(rng, shelf, len(wanted))
        return chosen

    @staticmethod
    def _of(rng: np.random.Generator, shelf: tuple[Integers, Reals], n: int) -> Integers:
        places, running = shelf
        return places[draw_index(rng, running, n)]


class Audience:
    """Draws events inside the windows, and older ones for the all-time totals."""

    def __init__(self, people: Population, videos: Videos) -> None:
        self._people, self._videos = people, videos
        rng = generator(people.seed, "audience")
        self._activity = np.cumsum(log_normal_weights(rng, len(people.recent), 1.0))
        watchable = ~np.isin(videos.states, [State.FUTURE, State.ZERO_DATE, State.WITHOUT_VIDEO])
        self._now_shelf = _Shelf(videos, np.flatnonzero(watchable))
        self._old_limit = people.now - OUTSIDE_WINDOW
        old = watchable & (videos.created < self._old_limit - _MARGIN)
        self._old_shelf = _Shelf(videos, np.flatnonzero(old))

    def recent_events(self, purpose: str, n: int, days: int) -> Iterator[Events]:
        """n events of the last `days`, nearly all by recent users."""
        people = self._people
        for batch, rows in batch_sizes(n):
            rng = generator(people.seed, purpose, batch)
            users = people.recent[draw_index(rng, self._activity, rows)]
            others = np.flatnonzero(rng.random(rows) < _OTHERS_SHARE)
            users[others] = self._old_users(rng, len(others))
            earliest = np.full(rows, people.now - days * DAY)
            yield self._events(rng, users, self._now_shelf, earliest, people.now - 60)

    def older_events(self, purpose: str, n: int) -> Iterator[Events]:
        """n events from before the windows."""
        for batch, rows in batch_sizes(n):
            rng = generator(self._people.seed, purpose, batch)
            users = self._old_users(rng, rows)
            yield self._events(rng, users, self._old_shelf, np.zeros(rows, np.int64), self._old_limit)

    def _old_users(self, rng: np.random.Generator, n: int) -> Integers:
        """Anybody who registered before the windows."""
        return rng.integers(1, self._people.sizes.users - self._people.registered_in_window + 1, n)

    def _events(
        self, rng: np.random.Generator, users: Integers, shelf: _Shelf, earliest: Integers, latest: int
    ) -> Events:
        n = len(users)
        first, second = self._people.tastes(users).T
        liked = np.where((second < 0) | (rng.random(n) < _FIRST_TASTE_SHARE), first, second)
        wanted = np.where(rng.random(n) < IN_TASTE_SHARE, liked, -1)
        places = shelf.draw(rng, wanted)
        fields = self._videos.fields[places]
        # Nobody acts before registering, and on nothing that is not there yet.
        start = np.maximum(np.maximum(earliest, self._videos.created[places]), self._people.created(users))
        start = np.minimum(start, latest)
        times = start + (rng.random(n) * (latest - start)).astype(np.int64)
        return Events(users, self._videos.ids[places], times, (fields == first) | (fields == second))
