"""A job board of a team of its own: ids are text, one type of items, skills, filters, and what people did."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

MAPPING = """ids = "text"

[users]
query = "SELECT handle, joined, years FROM candidates"
id = "handle"
time = "joined"

[items.job]
query = "SELECT slug, title, town, years, posted FROM ads WHERE open = 1"
id = "slug"
time = "posted"
fields = ["title", "town", "years"]

[vocabularies.skill]
items.job = { query = "SELECT ad AS id, skill AS term FROM ad_skills" }
users = { query = "SELECT candidate AS id, skill AS term FROM candidate_skills" }

[filters.town]
rule = "equal"
column = "town"

[filters.experience]
rule = "at_most"
column = "years"
user = "years"

[events.apply]
query = "SELECT candidate, ad, sent FROM applications"
user = "candidate"
item = "ad"
time = "sent"
"""

SCHEMA = """
CREATE TABLE candidates (handle TEXT PRIMARY KEY, joined TEXT, years INTEGER);
CREATE TABLE ads (slug TEXT PRIMARY KEY, title TEXT, town TEXT, years INTEGER, posted TEXT, open INTEGER);
CREATE TABLE ad_skills (ad TEXT, skill TEXT);
CREATE TABLE candidate_skills (candidate TEXT, skill TEXT);
CREATE TABLE applications (candidate TEXT, ad TEXT, sent TEXT);
"""

SKILLS = ("python", "sql", "welding", "nursing", "driving", "teaching")


def make_job_board(folder: Path, *, ads: int = 120, candidates: int = 60) -> tuple[str, Path]:
    """The address of its database, and its mapping. An ad wants a skill, and a candidate has one and applies by it."""
    draw, now = random.Random(7), datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    database, mapping = folder / "jobs.sqlite", folder / "mapping.toml"
    mapping.write_text(MAPPING)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(SCHEMA)
        for place in range(ads):
            posted = now - timedelta(days=draw.uniform(0.5, 60))
            row = (
                slug_of(place),
                f"Ad {place}",
                town_of(place),
                years_of(place),
                str(posted)[:19],
                int(is_open(place)),
            )
            connection.execute("INSERT INTO ads VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO ad_skills VALUES (?, ?)", (slug_of(place), skill_of(place)))
        for place in range(candidates):
            joined = str(now - timedelta(days=90))[:19]
            connection.execute(
                "INSERT INTO candidates VALUES (?, ?, ?)", (handle_of(place), joined, experience_of(place))
            )
            connection.execute("INSERT INTO candidate_skills VALUES (?, ?)", (handle_of(place), skill_of(place)))
            wanted = [ad for ad in range(ads) if skill_of(ad) == skill_of(place)]
            for ad in draw.sample(wanted, 5):
                sent = str(now - timedelta(days=draw.uniform(0.1, 20)))[:19]
                connection.execute("INSERT INTO applications VALUES (?, ?, ?)", (handle_of(place), slug_of(ad), sent))
    connection.close()
    return f"sqlite:///{database}", mapping


def slug_of(place: int) -> str:
    return f"ad-{place}-ñ"


def handle_of(place: int) -> str:
    return f"c{place}@example"


def skill_of(place: int) -> str:
    return SKILLS[place % len(SKILLS)]


def town_of(place: int) -> str:
    return ("Lima", "Cusco", "Puno")[place % 7 % 3]


def years_of(place: int) -> int | None:
    """That an ad asks for; of some it is not said."""
    return None if place % 11 == 10 else place % 5


def experience_of(place: int) -> int | None:
    return 2 if place == 1 else None


def is_open(place: int) -> bool:
    return place % 10 != 9
