"""An invented `interacpedia` database at the operator's sizes: the same for the same seed and time."""

from datetime import datetime

from sqlalchemy import Engine

from recommendation_service.demo import schema
from recommendation_service.demo.activity import connection_rows, feedback_rows, like_rows, match_rows
from recommendation_service.demo.audience import Audience
from recommendation_service.demo.challenges import challenge_rows
from recommendation_service.demo.dirt import Dirt
from recommendation_service.demo.draws import epoch_seconds
from recommendation_service.demo.exposure import activity_rows, exhibition_rows, view_rows
from recommendation_service.demo.loading import LoadReport, Progress, TableRows, load_tables
from recommendation_service.demo.people import populate, profile_rows, user_rows
from recommendation_service.demo.sizes import sizes_at
from recommendation_service.demo.videos import film, resume_rows
from recommendation_service.demo.words import Words

DEFAULT_SEED = 7


def load_invented(
    engine: Engine,
    *,
    scale: float = 1.0,
    seed: int = DEFAULT_SEED,
    now: datetime | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> LoadReport:
    """Write the demo; `now` (default: the current time) is what all its ages are counted from.

    Raises `DemoError` for a scale out of range, tables that hold rows already (without `replace`), and a
    database that cannot be reached or refuses.
    """
    dirt = Dirt()
    return load_tables(
        engine,
        interacpedia_tables(scale=scale, seed=seed, now=now, dirt=dirt),
        source="interacpedia",
        replace=replace,
        progress=progress,
        dirt=dirt.as_dict(),
    )


def interacpedia_tables(*, scale: float, seed: int, now: datetime | None, dirt: Dirt) -> list[TableRows]:
    """The rows of every table; those of the large ones are made only as they are read."""
    people = populate(seed, epoch_seconds(now), sizes_at(scale))
    videos, words = film(people, dirt), Words()
    challenges = challenge_rows(people, dirt)
    audience, sizes = Audience(people, videos), people.sizes

    def spoiled(table: str) -> int:
        return sum(dirt.of_table(table).values())

    profiles = sizes.recent_users + round(0.15 * (sizes.users - sizes.recent_users))
    feedbacks = sizes.other_feedbacks + sizes.older_ratings + sizes.ratings
    matches = sizes.other_matches + sizes.older_matches + sizes.accepted_matches
    likes = sizes.other_likes + sizes.older_saves + sizes.saves
    connections = sizes.older_connections + sizes.pending_connections + sizes.connections
    views = sizes.other_views + sizes.resume_views
    return [
        TableRows(schema.users, sizes.users, user_rows(people, dirt)),
        TableRows(schema.profiles, profiles, profile_rows(people, words, dirt)),
        TableRows(schema.resumes, len(videos.ids), resume_rows(people, videos, words, dirt)),
        TableRows(schema.challenges, len(challenges), [challenges]),
        TableRows(
            schema.team_feedbacks,
            feedbacks + spoiled("team_feedbacks"),
            feedback_rows(audience, people, videos, dirt),
        ),
        TableRows(schema.matches, matches + spoiled("matches"), match_rows(audience, people, videos, dirt)),
        TableRows(schema.likes, likes + spoiled("likes"), like_rows(audience, people, videos, dirt)),
        TableRows(
            schema.resumes_exhibited,
            sizes.exhibitions + spoiled("resumes_exhibited"),
            exhibition_rows(people, videos, dirt),
        ),
        TableRows(schema.views, views + spoiled("views"), view_rows(people, videos, dirt)),
        TableRows(
            schema.user_connections,
            connections + spoiled("user_connections"),
            connection_rows(people, dirt),
        ),
        TableRows(
            schema.activity_log,
            sizes.activity_rows,
            activity_rows(audience, people, videos, len(challenges), dirt),
        ),
    ]
