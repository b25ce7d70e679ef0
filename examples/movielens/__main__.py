"""Fills a database with MovieLens-100K as tables of its own: `python -m examples.movielens URL`.

The data are fetched once by pip, as for the demo, and nothing of them is in this repository; their terms are printed.
"""

import sys

from sqlalchemy import Column, DateTime, ForeignKey, Integer, MetaData, String, Table

from examples.world import Rows, World, run
from recommendation_service.demo.loading import DemoError
from recommendation_service.demo.movielens import licence_notice, read_log
from recommendation_service.demo.wheel import fetch_wheel, wheel_folder

METADATA = MetaData()
Table("users", METADATA, Column("id", Integer, primary_key=True), Column("occupation", String(40)))
Table(
    "items",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("title", String(200), nullable=False),
    Column("released", Integer),
)
Table(
    "genres",
    METADATA,
    Column("item_id", Integer, ForeignKey("items.id"), primary_key=True),
    Column("name", String(40), primary_key=True),
)
Table(
    "ratings",
    METADATA,
    Column("user_id", Integer, ForeignKey("users.id"), primary_key=True),
    Column("item_id", Integer, ForeignKey("items.id"), primary_key=True),
    Column("stars", Integer, nullable=False),
    Column("rated_at", DateTime, nullable=False, index=True),
)


def make(world: World) -> Rows:
    """The last rating is now; of people all, however many are asked for. Raises DemoError."""
    wheel = fetch_wheel(wheel_folder())
    sys.stderr.write(f"{licence_notice(wheel)}\n")
    now = world.now.timestamp()
    log = read_log(wheel, int(now))
    return {
        "users": [{"id": user, "occupation": occupation} for user, occupation in sorted(log.occupations.items())],
        "items": [
            {"id": film.film_id, "title": film.title, "released": int(film.year) if film.year.isdigit() else None}
            for film in log.films
        ],
        "genres": [
            {"item_id": film.film_id, "name": genre} for film in log.films for genre in dict.fromkeys(film.genres)
        ],
        "ratings": [
            {"user_id": user, "item_id": item, "stars": int(stars), "rated_at": world.ago((now - time) / 86400)}
            for user, item, stars, time in zip(
                log.users.tolist(), log.film_ids.tolist(), log.ratings.tolist(), log.times.tolist(), strict=True
            )
        ],
    }


if __name__ == "__main__":
    try:
        sys.exit(run("movielens", METADATA, make))
    except DemoError as error:
        sys.exit(f"{error}")
