"""Ratings, matches, saves and connections, inside the windows and before them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recommendation_service.demo.audience import Audience, Events
from recommendation_service.demo.dirt import ZERO_DATE, Dirt
from recommendation_service.demo.draws import DAY, Flags, Integers, generator, timestamps
from recommendation_service.demo.loading import Batch, numbered
from recommendation_service.demo.people import OUTSIDE_WINDOW, Population
from recommendation_service.demo.videos import Videos

Columns = list[list[Any]]

WINDOW_DAYS = 88  # two days inside the 90, so that a demo stays as it is for a while

_OTHER_FEEDBACKS = ("ranking_team", "comment")
_OTHER_MATCHES = ("pending", "rejected")


def feedback_rows(audience: Audience, people: Population, videos: Videos, dirt: Dirt) -> Iterator[Batch]:
    """Ratings, and feedback of other types, whose model is no résumé."""

    def ratings(purpose: str, events: Iterator[Events]) -> Iterator[Columns]:
        for batch, some in enumerate(events):
            rng = generator(people.seed, f"values of {purpose}", batch)
            liking = videos.quality[some.places] + 0.5 * some.in_taste - 0.2
            values = np.clip(np.round(2 * (liking + rng.normal(0, 0.8, len(liking)))) / 2, 1, 5)
            yield _columns(some, ["ranking_resume"] * len(values), values.tolist())

    def others() -> Iterator[Columns]:
        for batch, some in enumerate(audience.older_events("other feedbacks", people.sizes.other_feedbacks)):
            rng = generator(people.seed, "kinds of other feedbacks", batch)
            kinds = [_OTHER_FEEDBACKS[kind] for kind in rng.integers(0, 2, len(some.users)).tolist()]
            yield _columns(some, kinds, rng.integers(1, 6, len(kinds)).astype(float).tolist())

    def parts() -> Iterator[Columns]:
        yield from others()
        older = audience.older_events("older ratings", people.sizes.older_ratings)
        yield from ratings("older ratings", older)
        recent = audience.recent_events("ratings", people.sizes.ratings, WINDOW_DAYS)
        yield from ratings("ratings", recent)
        amounts = dirt.of_table("team_feedbacks")

        def spoil(kind: tuple[str, str], columns: Columns, place: int) -> None:
            values: dict[tuple[str, str], float] = {
                ("value", "above_five"): (7.5, 10.0, 100.0)[place % 3],
                ("value", "zero"): 0.0,
                ("value", "negative"): -3.0,
            }
            columns[3][place] = values.get(kind, 4.0)

        n = sum(amounts.values())
        extra: Columns = [["ranking_resume"] * n, [4.0] * n]
        yield _dirty_events("ratings dirt", audience, people, videos, amounts, extra, spoil)

    return numbered(parts())


def match_rows(audience: Audience, people: Population, videos: Videos, dirt: Dirt) -> Iterator[Batch]:
    sizes = people.sizes
    return numbered(
        _marked_parts(
            audience,
            people,
            videos,
            purpose="matches",
            mark="accepted",
            others=_OTHER_MATCHES,
            amounts=(sizes.other_matches, sizes.older_matches, sizes.accepted_matches),
            dirt=dirt.of_table("matches"),
        )
    )


def like_rows(audience: Audience, people: Population, videos: Videos, dirt: Dirt) -> Iterator[Batch]:
    sizes = people.sizes
    return numbered(
        _marked_parts(
            audience,
            people,
            videos,
            purpose="likes",
            mark="save",
            others=("like", "heart"),
            amounts=(sizes.other_likes, sizes.older_saves, sizes.saves),
            dirt=dirt.of_table("likes"),
        )
    )


def _marked_parts(
    audience: Audience,
    people: Population,
    videos: Videos,
    *,
    purpose: str,
    mark: str,
    others: tuple[str, ...],
    amounts: tuple[int, int, int],
    dirt: dict[tuple[str, str], int],
) -> Iterator[Columns]:
    """Matches and likes differ only in the word that makes them count. `amounts`: others, older, recent."""
    other, older, recent = amounts
    for batch, some in enumerate(audience.recent_events(f"other {purpose}", other, WINDOW_DAYS)):
        kinds = generator(people.seed, f"kinds of {purpose}", batch).integers(0, len(others), len(some.users))
        yield _columns(some, [others[kind] for kind in kinds.tolist()])
    for some in audience.older_events(f"older {purpose}", older):
        yield _columns(some, [mark] * len(some.users))
    for some in audience.recent_events(purpose, recent, WINDOW_DAYS):
        yield _columns(some, [mark] * len(some.users))
    yield _dirty_events(f"{purpose} dirt", audience, people, videos, dirt, [[mark] * sum(dirt.values())])


def _columns(events: Events, *between: list[Any]) -> Columns:
    return [events.users.tolist(), events.videos.tolist(), *between, timestamps(events.times)]


def _dirty_events(
    purpose: str,
    audience: Audience,
    people: Population,
    videos: Videos,
    amounts: dict[tuple[str, str], int],
    between: Columns,
    spoil_value: Callable[[tuple[str, str], Columns, int], None] | None = None,
) -> Columns:
    """One row for each piece of dirt, right in all but that one thing."""
    kinds = [kind for kind, amount in amounts.items() for _ in range(amount)]
    (events,) = audience.recent_events(purpose, len(kinds), WINDOW_DAYS)
    columns = _columns(events, *between)
    absent_videos, absent_users = iter(videos.absent_ids(len(kinds))), iter(people.absent_ids(len(kinds)))
    for place, kind in enumerate(kinds):
        match kind:
            case ("model_id", _):
                columns[1][place] = next(absent_videos)
            case ("user_id", "null"):
                columns[0][place] = None
            case ("user_id", _):
                columns[0][place] = next(absent_users)
            case ("created_at", "future"):
                columns[-1][place] = timestamps(np.array([people.now + (place + 2) * DAY]))[0]
            case ("created_at", _):
                columns[-1][place] = ZERO_DATE
            case _ if spoil_value is not None:
                spoil_value(kind, columns, place)
            case _:
                pass
    return columns


def connection_rows(people: Population, dirt: Dirt) -> Iterator[Batch]:
    """Recent users with creators, more than half of them in a field that both like."""
    sizes = people.sizes
    creator_fields = people.tastes(people.creators)[:, 0]

    def pairs(rng: np.random.Generator, n: int) -> tuple[Integers, Integers]:
        givers = rng.choice(people.recent, n)
        takers = rng.choice(people.creators, n)
        fields = people.tastes(givers)[:, 0]
        alike: Flags = rng.random(n) < 0.6
        for field in np.unique(fields):
            same, chosen = people.creators[creator_fields == field], np.flatnonzero(alike & (fields == field))
            if same.size:
                takers[chosen] = rng.choice(same, len(chosen))
        return givers, np.where(takers == givers, np.roll(takers, 1), takers)

    def part(purpose: str, n: int, status: str, youngest: int, oldest: int) -> Columns:
        rng = generator(people.seed, purpose)
        givers, takers = pairs(rng, n)
        times = people.now - rng.integers(youngest, oldest, n)
        return [givers.tolist(), takers.tolist(), [status] * n, timestamps(times)]

    def parts() -> Iterator[Columns]:
        window, years = WINDOW_DAYS * DAY, 900 * DAY
        yield part("older connections", sizes.older_connections, "accepted", OUTSIDE_WINDOW, years)
        yield part("pending connections", sizes.pending_connections, "pending", 60, window)
        yield part("connections", sizes.connections, "accepted", 60, window)
        orphans, zero = dirt.user_connections_to_id_orphaned, dirt.user_connections_created_at_zero_date
        columns = part("connections dirt", orphans + zero, "accepted", 60, window)
        columns[1][:orphans] = people.absent_ids(orphans)
        columns[3][orphans:] = [ZERO_DATE] * zero
        yield columns

    return numbered(parts())
