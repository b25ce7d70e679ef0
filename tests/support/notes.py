"""An invented team's notes and talks: ids that are slugs with slashes and colons, of people, too, who are the authors;
talks have numbers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recommendation_service.core.config import Settings

MAPPING = """ids = "text"

[users]
query = "SELECT handle, likes FROM people"
id = "handle"

[items.note]
query = "SELECT slug, author, written, theme FROM notes WHERE shown = 1"
id = "slug"
time = "written"
creator = "author"

[items.talk]
ids = "integer"
query = "SELECT number, held FROM talks"
id = "number"
time = "held"

[creators]
are_users = true

[vocabularies.theme]
items.note = { column = "theme" }
users = { column = "likes" }

[events.read]
query = "SELECT reader, slug, at FROM reads"
user = "reader"
item = "slug"
type = "note"
time = "at"

[links.friend]
query = "SELECT one, other FROM friends"
user = "one"
other = "other"

[feeds.home]
pattern = ["popular", "new"]
"""

SCHEMA = """
CREATE TABLE people (handle TEXT PRIMARY KEY, likes TEXT);
CREATE TABLE notes (slug TEXT PRIMARY KEY, author TEXT, written TEXT, shown INTEGER, theme TEXT);
CREATE TABLE talks (number INTEGER PRIMARY KEY, held TEXT);
CREATE TABLE reads (reader TEXT, slug TEXT, at TEXT);
CREATE TABLE friends (one TEXT, other TEXT);
"""

NOTES, PEOPLE = 60, 12


def slug_of(place: int) -> str:
    return f"2026/notes:part-{place}/ñ"


def handle_of(place: int) -> str:
    return f"team/{place}:x"


def make_notes(folder: Path) -> Settings:
    """Its database and mapping; a catalog is not built."""
    (folder / "mapping.toml").write_text(MAPPING)
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    with closing(sqlite3.connect(folder / "notes.sqlite")) as database, database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO people VALUES (?, 'rain')", [(handle_of(place),) for place in range(PEOPLE)])
        rows = [
            (slug_of(place), handle_of(place % PEOPLE), str(now - timedelta(hours=place + 1)), int(place % 10 != 9))
            for place in range(NOTES)
        ]
        database.executemany("INSERT INTO notes VALUES (?, ?, ?, ?, 'rain')", rows)
        database.executemany("INSERT INTO talks VALUES (?, ?)", [(place, str(now)) for place in range(1, 9)])
        reads = [
            (handle_of(place), slug_of(place + step), str(now)) for place in range(PEOPLE) for step in (1, 2, 3, 20)
        ]
        database.executemany("INSERT INTO reads VALUES (?, ?, ?)", reads)
        database.executemany("INSERT INTO friends VALUES (?, ?)", [(handle_of(1), handle_of(2))])
    return Settings(
        data_dir=folder / "data",
        database_url=f"sqlite:///{folder / 'notes.sqlite'}",
        mapping_file=folder / "mapping.toml",
        catalog_refresher=False,
    )
