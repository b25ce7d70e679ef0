"""What was shown and watched: the activity log, the view counts and the exhibitions."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from recommendation_service.demo.audience import Audience, Events
from recommendation_service.demo.dirt import ZERO_DATE, Dirt
from recommendation_service.demo.draws import (
    DAY,
    Integers,
    Reals,
    batch_sizes,
    draw_index,
    generator,
    timestamps,
)
from recommendation_service.demo.loading import Batch, numbered
from recommendation_service.demo.people import OUTSIDE_WINDOW, Population
from recommendation_service.demo.schema import CHALLENGE_MODEL, RESUME_MODEL, USER_MODEL
from recommendation_service.demo.videos import State, Videos

Columns = list[list[Any]]

VIEW_WINDOW_DAYS = 29  # a day inside the 30
_KINDS = ("VMP", "AU", "NU", "home", "profile")
_POST_MODEL = r"App\Interacpedia\Posts\Post"

# description, subject type, what the subject's id is, url
_OTHER_ACTIVITY = (
    ("#user #login", USER_MODEL, "user", "/login"),
    ("#user #update", USER_MODEL, "user", "/api/users/{id}"),
    ("#resume #update", RESUME_MODEL, "video", "/api/resumes/{id}"),
    ("#video #share", RESUME_MODEL, "video", "/api/resumes/{id}/share"),
    ("#feed #request #total", None, None, "/api/search/total"),
    ("#challenge #join", CHALLENGE_MODEL, "challenge", "/api/challenges/{id}"),
    # Challenges are watched too; their ids are not résumés' ids.
    ("#video #view #FW", CHALLENGE_MODEL, "challenge", "/api/search/feed/video/{id}"),
)


def activity_rows(
    audience: Audience, people: Population, videos: Videos, challenges: int, dirt: Dirt
) -> Iterator[Batch]:
    """`sizes.activity_rows` rows in all: mostly other kinds and old views; then the views of the window."""
    sizes, amounts = people.sizes, dirt.of_table("activity_log")
    rest = sizes.activity_rows - sum(amounts.values())
    rest -= sizes.older_logged_views + sizes.logged_views + sizes.recent_other_activity

    def others(purpose: str, n: int, oldest: int, youngest: int) -> Iterator[Columns]:
        done = 0
        for batch, rows in batch_sizes(n):
            rng = generator(people.seed, purpose, batch)
            ages = oldest - (oldest - youngest) * (done + np.arange(rows)) / n
            yield _other_columns(rng, people, videos, challenges, people.now - ages.astype(np.int64))
            done += rows

    def parts() -> Iterator[Columns]:
        yield from others("older activity", rest, 900 * DAY, 32 * DAY)
        for purpose, events in (
            ("older logged views", audience.older_events("older logged views", sizes.older_logged_views)),
            ("logged views", audience.recent_events("logged views", sizes.logged_views, VIEW_WINDOW_DAYS)),
        ):
            for batch, some in enumerate(events):
                yield _view_columns(generator(people.seed, f"kinds of {purpose}", batch), some)
        yield from others("recent activity", sizes.recent_other_activity, VIEW_WINDOW_DAYS * DAY, 60)
        yield _dirty_views(audience, people, videos, amounts)

    return numbered(parts())


def _view_columns(rng: np.random.Generator, events: Events) -> Columns:
    n, times = len(events.users), timestamps(events.times)
    kinds = rng.integers(0, len(_KINDS), n).tolist()
    return [
        ["app"] * n,
        [f"#video #view #{_KINDS[kind]}" for kind in kinds],
        events.videos.tolist(),
        [RESUME_MODEL] * n,
        events.users.tolist(),
        [USER_MODEL] * n,
        [f'{{"seconds": {seconds}}}' for seconds in rng.integers(1, 90, n).tolist()],
        [f"/api/search/feed/video/{video_id}" for video_id in events.videos.tolist()],
        times,
        times,
    ]


def _other_columns(
    rng: np.random.Generator, people: Population, videos: Videos, challenges: int, times: Integers
) -> Columns:
    n = len(times)
    kinds = rng.integers(0, len(_OTHER_ACTIVITY), n).tolist()
    users = rng.integers(1, people.sizes.users + 1, n).tolist()
    ids = {
        "user": users,
        "video": rng.integers(1, len(videos.ids) + 1, n).tolist(),
        "challenge": rng.integers(1, challenges + 1, n).tolist(),
        None: [None] * n,
    }
    subjects = [ids[_OTHER_ACTIVITY[kind][2]][place] for place, kind in enumerate(kinds)]
    written = timestamps(times)
    return [
        ["app"] * n,
        [_OTHER_ACTIVITY[kind][0] for kind in kinds],
        subjects,
        [_OTHER_ACTIVITY[kind][1] for kind in kinds],
        users,
        [USER_MODEL] * n,
        ["[]"] * n,
        [_OTHER_ACTIVITY[kind][3].format(id=subject) for kind, subject in zip(kinds, subjects, strict=True)],
        written,
        written,
    ]


def _dirty_views(
    audience: Audience, people: Population, videos: Videos, amounts: dict[tuple[str, str], int]
) -> Columns:
    kinds = [kind for kind, amount in amounts.items() for _ in range(amount)]
    (events,) = audience.recent_events("logged views dirt", len(kinds), VIEW_WINDOW_DAYS)
    columns = _view_columns(generator(people.seed, "logged views dirt"), events)
    subject, causer = columns[2], columns[4]
    created, updated = list(columns[8]), list(columns[9])
    absent = iter(videos.absent_ids(len(kinds)))
    for place, kind in enumerate(kinds):
        match kind:
            case ("subject_id", "orphaned"):
                subject[place] = next(absent)
            case ("subject_id", _):
                subject[place] = None
            case ("causer_id", _):
                causer[place] = None
            case (_, "zero_date"):
                created[place] = updated[place] = ZERO_DATE
            case _:
                created[place] = updated[place] = timestamps(np.array([people.now + (place + 2) * DAY]))[0]
    return [*columns[:8], created, updated]


def view_rows(people: Population, videos: Videos, dirt: Dirt) -> Iterator[Batch]:
    """All-time view counts of résumés, and views of other models whose ids are résumés' ids as well."""

    shelf = _running_attention(videos, 1.0)

    def parts() -> Iterator[Columns]:
        for batch, rows in batch_sizes(people.sizes.other_views):
            rng = generator(people.seed, "other views", batch)
            models = rng.choice([CHALLENGE_MODEL, _POST_MODEL, USER_MODEL], rows).tolist()
            model_ids = rng.integers(1, len(videos.ids) + 1, rows)
            times = people.now - rng.integers(OUTSIDE_WINDOW, 900 * DAY, rows)
            yield [_watchers(rng, people, rows), model_ids.tolist(), models, timestamps(times)]
        for batch, rows in batch_sizes(people.sizes.resume_views):
            rng = generator(people.seed, "views", batch)
            video_ids, shown_at = _shown(rng, people, videos, shelf, rows)
            yield [_watchers(rng, people, rows), video_ids, [RESUME_MODEL] * rows, shown_at]
        n = dirt.views_model_id_orphaned
        times = people.now - np.arange(1, n + 1) * DAY
        yield [[None] * n, videos.absent_ids(n), [RESUME_MODEL] * n, timestamps(times)]

    return numbered(parts())


def exhibition_rows(people: Population, videos: Videos, dirt: Dirt) -> Iterator[Batch]:
    """Exhibitions follow attention too, but more evenly than views do."""
    shelf = _running_attention(videos, 0.7)

    def parts() -> Iterator[Columns]:
        for batch, rows in batch_sizes(people.sizes.exhibitions):
            rng = generator(people.seed, "exhibitions", batch)
            yield list(_shown(rng, people, videos, shelf, rows))
        n = dirt.resumes_exhibited_resume_id_orphaned
        yield [videos.absent_ids(n), timestamps(people.now - np.arange(1, n + 1) * DAY)]

    return numbered(parts())


def _running_attention(videos: Videos, evenness: float) -> Reals:
    """Running sum of attention to the power `evenness`, over the videos that could be watched."""
    visible = ~np.isin(videos.states, [State.FUTURE, State.ZERO_DATE, State.WITHOUT_VIDEO])
    running: Reals = np.cumsum(np.where(visible, videos.attention**evenness, 0.0))
    return running


def _shown(
    rng: np.random.Generator, people: Population, videos: Videos, shelf: Reals, n: int
) -> tuple[list[int], list[str]]:
    """Video ids by attention, and times since each was made."""
    places = draw_index(rng, shelf, n)
    created = videos.created[places]
    times = created + (rng.random(n) * (people.now - created)).astype(np.int64)
    return videos.ids[places].tolist(), timestamps(times)


def _watchers(rng: np.random.Generator, people: Population, n: int) -> list[int | None]:
    """Three in ten are not logged in."""
    users: list[int] = rng.integers(1, people.sizes.users + 1, n).tolist()
    return [None if away else user for user, away in zip(users, (rng.random(n) < 0.3).tolist(), strict=True)]
