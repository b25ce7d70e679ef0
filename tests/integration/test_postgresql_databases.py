"""Databases of PostgreSQL that are not as most are: with the hstore extension, and with collations of ICU."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.export import Selection, event_of_record, read_events
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.source import MappedSource
from tests.postgresql import PrivatePostgreSQL
from tests.support.events import feed, feedback

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
# Which each collation puts into another order.
IDS = ("b", "B", "_c", "a", "A", "1", "á", "a-b", "ab")
MAPPING = """ids = "text"
[users]
query = "SELECT id FROM people ORDER BY id"
[items.song]
query = "SELECT id, title, made_at FROM songs ORDER BY id"
time = "made_at"
fields = ["title"]
[vocabularies.genre]
items.song = { query = "SELECT song, genre FROM genres", id = "song", term = "genre" }
[events.play]
query = "SELECT person, song, at FROM plays"
user = "person"
item = "song"
time = "at"
"""


def tables(collation: str = "") -> tuple[str, ...]:
    word = f"text {collation}"
    return (
        f"CREATE TABLE people (id {word} PRIMARY KEY)",
        f"CREATE TABLE songs (id {word} PRIMARY KEY, title {word}, made_at timestamp)",
        f"CREATE TABLE genres (song {word}, genre {word})",
        f"CREATE TABLE plays (person {word}, song {word}, at timestamp)",
        *(f"INSERT INTO people VALUES ('{name}')" for name in IDS),
        *(f"INSERT INTO songs VALUES ('{name}', 'Song {name}', '2026-11-20')" for name in IDS),
        *(f"INSERT INTO genres VALUES ('{name}', '{IDS[place % 5]}')" for place, name in enumerate(IDS)),
        *(f"INSERT INTO plays VALUES ('{name}', '{IDS[place - 1]}', '2026-11-23')" for place, name in enumerate(IDS)),
    )


@pytest.fixture
def settings(postgresql_url: URL, tmp_path: Path) -> Settings:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    return settings_of(postgresql_url, tmp_path)


def settings_of(url: URL, folder: Path) -> Settings:
    shown = url.render_as_string(hide_password=False)
    return load_settings(database_url=shown, mapping_file=folder / "mapping.toml", data_dir=folder / "data")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    yield engine
    engine.dispose()


def built(settings: Settings) -> BuiltCatalog:
    engine = make_engine(settings)
    try:
        return build_catalog(open_source(settings, engine), settings, PolicyChoice(settings).policy)
    finally:
        engine.dispose()


def assert_events_come_back(settings: Settings, records: list[Event]) -> None:
    engine = make_writing_engine(settings)
    try:
        migrate(engine)
        outcome = EventWriter(engine).write(records)
        assert (outcome.inserted.total(), outcome.refused, outcome.problem) == (len(records), [], "")
        assert EventWriter(engine).write(records).duplicates == len(records)
        found = {event["event_id"]: event for event in read_events(engine, Selection(None, None, None, None))}
        assert found == {event_id_of(record): event_of_record(record) for record in records}
    finally:
        engine.dispose()


# hstore: SQLAlchemy and psycopg then read it as a dict, and take a dict that is bound for one.


def test_a_column_of_hstore_is_read_as_terms_with_weights_and_as_a_field(
    postgresql: PrivatePostgreSQL, settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    name = str(engine.url.database)
    postgresql.execute(
        *("CREATE EXTENSION hstore", *tables(), "ALTER TABLE songs ADD moods hstore"),
        "UPDATE songs SET moods = 'calm=>0.5, \"very wild\"=>2' WHERE id = 'a'",
        database=name,
    )
    (tmp_path / "mapping.toml").write_text(
        MAPPING.replace("title, made_at", "title, made_at, moods").replace('["title"]', '["title", "moods"]')
        + '[vocabularies.mood]\nitems.song = { column = "moods", form = "json" }\n'
    )
    found = MappedSource(load_mapping(tmp_path / "mapping.toml"), engine, settings).tables(NOW)
    mood = found.vocabularies["mood"].items["song"]
    assert set(zip(mood.ids, mood.terms, mood.weights, strict=True)) == {("a", "calm", 0.5), ("a", "very wild", 2.0)}
    assert found.items["song"].columns["moods"][found.items["song"].ids.tolist().index("a")] == {
        "calm": "0.5",
        "very wild": "2",
    }


def test_events_with_properties_are_written_where_hstore_is(
    postgresql: PrivatePostgreSQL, settings: Settings, postgresql_url: URL
) -> None:
    postgresql.execute("CREATE EXTENSION hstore", database=str(postgresql_url.database))
    assert_events_come_back(settings, [feed(3), feedback(event_id="e-1", position=3, session_id="a=>b", value=4.5)])


# ICU: its order is another than that of bytes, and what it holds for equal may be.


def test_a_catalog_is_the_same_whatever_the_order_of_text(
    postgresql: PrivatePostgreSQL, settings: Settings, postgresql_url: URL, tmp_path: Path
) -> None:
    plain = str(postgresql_url.database)
    postgresql.execute(*tables(), database=plain)
    name = f"{plain}_icu"
    postgresql.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        postgresql.execute(*tables(), database=name)
        [ordered] = postgresql.rows("SELECT array_agg(id ORDER BY id) FROM people", name)
        assert ordered[0] != sorted(IDS), "its order is another"
        other = settings_of(postgresql_url.set(database=name), tmp_path)
        one, two = built(settings), built(other)
    finally:
        postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert one.item_bodies == two.item_bodies
    for column, values in one.arrays._asdict().items():
        # Ages are of the moment of each build.
        np.testing.assert_allclose(values, getattr(two.arrays, column), rtol=1e-5, err_msg=column)


CARELESS = """CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"""


def test_where_letters_are_equal_that_differ_a_change_of_them_is_seen_all_the_same(
    postgresql: PrivatePostgreSQL, settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    name = str(engine.url.database)
    postgresql.execute(CARELESS, *tables(), "ALTER TABLE songs ALTER title TYPE text COLLATE careless", database=name)
    read = MappedSource(load_mapping(tmp_path / "mapping.toml"), engine, settings)
    before = read.fingerprint(NOW)
    assert read.fingerprint(NOW) == before
    postgresql.execute("UPDATE songs SET title = 'SONG A' WHERE id = 'a'", database=name)
    assert postgresql.rows("SELECT count(*) FROM songs WHERE title = 'song a'", name) == [(2,)]
    assert read.fingerprint(NOW) != before


def test_events_count_by_their_very_letters_whatever_the_order_of_text(
    postgresql: PrivatePostgreSQL, settings: Settings, postgresql_url: URL, tmp_path: Path
) -> None:
    name = f"{postgresql_url.database}_icu"
    postgresql.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        records: list[Event] = [feed(3), *(feedback(event_id=name) for name in IDS)]
        assert_events_come_back(settings_of(postgresql_url.set(database=name), tmp_path), records)
    finally:
        postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")
