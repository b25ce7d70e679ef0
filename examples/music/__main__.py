"""Fills a database with an invented music app: `python -m examples.music URL`."""

import json
import sys

import numpy as np
from sqlalchemy import BigInteger, Boolean, Column, Date, DateTime, ForeignKey, Integer, MetaData, String, Table, Text

from examples.world import Rows, World, run

METADATA = MetaData()
ID = String(36)
Table("artists", METADATA, Column("uuid", ID, primary_key=True), Column("name", String(100), nullable=False))
Table(
    "listeners",
    METADATA,
    Column("uuid", ID, primary_key=True),
    Column("nickname", String(60)),
    Column("birth_year", Integer),
    Column("joined", DateTime, nullable=False),
)
Table(
    "tracks",
    METADATA,
    Column("uuid", ID, primary_key=True),
    Column("artist_uuid", ID, ForeignKey("artists.uuid"), nullable=False),
    Column("title", String(120), nullable=False),
    Column("genres", Text),
    Column("seconds", Integer),
    Column("explicit", Boolean, nullable=False),
    Column("released_on", Date),
)
Table(
    "plays",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("listener_uuid", ID, nullable=False, index=True),
    Column("track_uuid", ID, nullable=False, index=True),
    Column("started_at", BigInteger, nullable=False, comment="milliseconds since 1970"),
)
Table(
    "favourites",
    METADATA,
    Column("listener_uuid", ID, primary_key=True),
    Column("track_uuid", ID, primary_key=True),
)
Table(
    "follows",
    METADATA,
    Column("listener_uuid", ID, primary_key=True),
    Column("artist_uuid", ID, primary_key=True),
)
Table(
    "friendships",
    METADATA,
    Column("one_uuid", ID, primary_key=True),
    Column("other_uuid", ID, primary_key=True, index=True),
    Column("since", DateTime),
)

GENRES = ("ambient", "bolero", "cumbia", "folk", "funk", "jazz", "metal", "punk", "salsa", "techno", "trova", "waltz")
WORDS = "river night paper garden signal winter copper island letter window harbour morning engine velvet salt".split()


def make(world: World) -> Rows:
    rng = world.rng
    artists = max(20, world.people // 4)
    tracks = artists * 6
    style = world.tastes(artists, len(GENRES), 0.15)
    by = rng.integers(0, artists, tracks)
    topics = 0.8 * style[by] + 0.2 * world.tastes(tracks, len(GENRES))
    tastes = world.tastes(world.people, len(GENRES))
    born = rng.uniform(1, 400, tracks)
    chosen = world.choices(tastes, topics, born, each=25, fading_days=120)
    of_artist, of_track, of_listener = (
        [world.uuid() for _ in range(count)] for count in (artists, tracks, world.people)
    )
    likes = {(person, item) for person, item, _ in chosen[::6]}
    friends = {
        (min(one, other), max(one, other))
        for one, other in rng.integers(0, world.people, (world.people, 2)).tolist()
        if one != other and tastes[one] @ tastes[other] > 0.1
    }
    now = world.now.timestamp()
    return {
        "artists": [{"uuid": of_artist[one], "name": f"{world.name()} {one + 1}"} for one in range(artists)],
        "listeners": [
            {
                "uuid": of_listener[one],
                "nickname": world.name().split()[0].lower() + str(one),
                "birth_year": world.now.year - int(rng.integers(14, 70)) if rng.random() > 0.1 else None,
                "joined": world.ago(float(rng.uniform(151, 700))),
            }
            for one in range(world.people)
        ],
        "tracks": [
            {
                "uuid": of_track[one],
                "artist_uuid": of_artist[by[one]],
                "title": " ".join(str(word) for word in rng.choice(WORDS, 2, replace=False)).title(),
                "genres": json.dumps(world.some(GENRES, np.round(topics[one], 2) + 1e-3, 3)),
                "seconds": int(rng.normal(220, 50)),
                "explicit": bool(rng.random() < 0.1),
                "released_on": world.ago(float(born[one])).date(),
            }
            for one in range(tracks)
        ],
        "plays": [
            {
                "id": row + 1,
                "listener_uuid": of_listener[person],
                "track_uuid": of_track[item],
                "started_at": int(1000 * (now - days * 86400)),
            }
            for row, (person, item, days) in enumerate(chosen)
        ],
        "favourites": [
            {"listener_uuid": of_listener[person], "track_uuid": of_track[item]} for person, item in sorted(likes)
        ],
        "follows": [
            {"listener_uuid": of_listener[person], "artist_uuid": of_artist[artist]}
            for person, artist in sorted({(person, int(by[item])) for person, item, _ in chosen[::9]})
        ],
        "friendships": [
            {
                "one_uuid": of_listener[one],
                "other_uuid": of_listener[other],
                "since": world.ago(float(rng.uniform(1, 150))),
            }
            for one, other in sorted(friends)
        ],
    }


if __name__ == "__main__":
    sys.exit(run("music", METADATA, make))
