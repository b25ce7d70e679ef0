"""A mapping's queries become checked columns, on SQLite, MariaDB and PostgreSQL; what they lack is told by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import URL

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.sources.mapping.changes import fingerprint
from recommendation_service.sources.mapping.mapping import Mapping, load_mapping
from recommendation_service.sources.mapping.reading import TablesError, read, read_users
from recommendation_service.sources.mapping.results import By, OfUsers, of_users
from recommendation_service.sources.mapping.tables import Tables

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

SCHEMA = """
CREATE TABLE members (uid VARCHAR(36), town VARCHAR(50), age INT, speaks TEXT, came VARCHAR(30));
CREATE TABLE tracks (slug VARCHAR(50), title VARCHAR(100), artist INT, genres TEXT, seconds VARCHAR(20),
  out_at VARCHAR(30));
CREATE TABLE track_tags (track VARCHAR(50), tag VARCHAR(150), strength VARCHAR(20));
CREATE TABLE plays (member VARCHAR(36), track VARCHAR(50), stars VARCHAR(10), at VARCHAR(30));
CREATE TABLE follows (a VARCHAR(36), b VARCHAR(36), c INT);
INSERT INTO members VALUES
  ('u-1', 'Lima', 20, '["es", "en"]', '2026-11-01 10:00:00'),
  ('u-2', NULL, NULL, 'es', '0000-00-00 00:00:00'),
  ('', 'Lima', 3, NULL, NULL), ('u-3', ' Lima ', 40, NULL, '2027-01-01T00:00:00Z');
INSERT INTO tracks VALUES ('a-song', 'A Song of Rain', 7, '["rock", "  indie  rock ", 3, null]', '200', '2026-11-20'),
  ('b-song', 'B', NULL, '{"jazz": 0.5, "soul": 2}', 'long', '1795000000'),
  ('old', 'Old', 8, NULL, NULL, '2020-01-01'),
  ('c-song', 'C', 8, 'no json', NULL, '2026-11-20T10:00:00+02:00');
INSERT INTO track_tags VALUES
  ('a-song', 'calm', '2'),
  ('a-song', 'sad', '-1'),
  ('b-song', '', '1'),
  ('c-song', 'calm', NULL),
  (NULL, 'x', '1');
INSERT INTO plays VALUES ('u-1', 'a-song', '5', '2026-11-23 10:00:00'), ('u-1', 'b-song', 'x', '2026-11-23 10:00:00'),
  ('u-2', 'a-song', '3', 'yesterday'), (NULL, 'a-song', '3', NULL), ('u-2', 'c-song', '4', '2020-01-01 00:00:00');
INSERT INTO follows VALUES ('u-1', 'u-2', 7), ('u-2', 'u-2', NULL);
"""

MAPPING = """ids = "text"
[users]
query = "SELECT uid, town, age, speaks, came FROM members"
id = "uid"
time = "came"
[creators]
ids = "integer"
[items.track]
query = "SELECT slug, title, artist, genres, seconds, out_at FROM tracks"
id = "slug"
time = "out_at"
creator = "artist"
fields = ["title"]
lives_days = 400
[vocabularies.genre]
items.track = { column = "genres", form = "json" }
users = { column = "speaks", form = "json" }
[vocabularies.tag]
items.track = { query = "SELECT track, tag, strength FROM track_tags", id = "track", term = "tag", weight = "strength" }
[vocabularies.word]
items.track = { column = "title", form = "words" }
[numbers.length]
items.track = "seconds"
users = "age"
[events.play]
query = "SELECT member, track, stars, at FROM plays"
user = "member"
item = "track"
time = "at"
weight = 2
value = "stars"
days = 365
[links.friend]
query = "SELECT a, b FROM follows"
user = "a"
other = "b"
mutual = true
[links.fan]
query = "SELECT a, c FROM follows"
user = "a"
other = "c"
to = "creators"
[filters.language]
rule = "contained"
column = "genres"
user = "speaks"
[filters.seconds]
rule = "at_most"
column = "seconds"
"""


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """As the service reads it; the tables are made by somebody else."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    writer = create_engine(url, poolclass=NullPool)
    with writer.begin() as connection:
        if request.param == "mariadb":
            connection.exec_driver_sql("SET sql_mode = ''")
        for statement in filter(str.strip, SCHEMA.split(";\n")):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    shown = url.render_as_string(hide_password=False)
    engine = make_engine(load_settings(database_url=shown, data_dir=tmp_path))
    yield engine
    engine.dispose()


def mapping(folder: Path, content: str = MAPPING) -> Mapping:
    (folder / "mapping.toml").write_text(content)
    return load_mapping(folder / "mapping.toml")


def tables(engine: Engine, folder: Path, content: str = MAPPING) -> Tables:
    with engine.connect() as connection:
        return read(mapping(folder, content), connection, NOW)


def told(engine: Engine, folder: Path, *changes: tuple[str, str]) -> list[str]:
    content = MAPPING
    for one, other in changes:
        assert one in content
        content = content.replace(one, other)
    with pytest.raises(TablesError) as raised:
        tables(engine, folder, content)
    return [re.sub(r"^.*mapping\.toml, ", "", str(problem)) for problem in raised.value.found]


def test_every_part_of_a_mapping_is_read(engine: Engine, tmp_path: Path) -> None:
    found = tables(engine, tmp_path)
    assert found.users.ids.tolist() == ["u-1", "u-2", "u-3"]
    track = found.items["track"]
    assert track.ids.tolist() == ["a-song", "b-song", "c-song"]
    assert track.creators is not None
    assert track.creators.tolist() == [7, 0, 8]
    assert track.columns["title"] == ["A Song of Rain", "B", "C"]
    assert track.times.tolist() == [
        datetime(2026, 11, 20, tzinfo=UTC).timestamp(),
        1795000000 if NOW.timestamp() > 1795000000 else NOW.timestamp(),
        datetime(2026, 11, 20, 8, tzinfo=UTC).timestamp(),
    ]
    genre = found.vocabularies["genre"]
    assert list(
        zip(genre.items["track"].ids, genre.items["track"].terms, genre.items["track"].weights, strict=True)
    ) == [
        ("a-song", "rock", 1.0),
        ("a-song", "indie rock", 1.0),
        ("a-song", "3", 1.0),
        ("b-song", "jazz", 0.5),
        ("b-song", "soul", 2.0),
    ]
    assert genre.users is not None
    assert genre.users.terms == ["es", "en"]
    tag = found.vocabularies["tag"].items["track"]
    assert (tag.ids.tolist(), tag.terms, tag.weights.tolist()) == (["a-song"], ["calm"], [2.0])
    assert found.vocabularies["word"].items["track"].terms == ["song", "rain"]
    assert np.array_equal(found.numbers["length"].items["track"], [200.0, np.nan, np.nan], equal_nan=True)
    play = found.events["play"]
    assert list(zip(play.users, play.items, play.weights, strict=True)) == [
        ("u-1", "a-song", 10.0),
        ("u-2", "a-song", 6.0),
    ]
    assert play.times[0] == datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp()
    assert np.isnan(play.times[1])
    friend = found.links["friend"]
    assert list(zip(friend.users, friend.others, strict=True)) == [("u-1", "u-2"), ("u-2", "u-1")]
    assert (found.links["fan"].users.tolist(), found.links["fan"].others.tolist()) == (["u-1"], [7])
    assert found.filters["language"].users == (("es", "en"), ("es",), ())
    assert np.array_equal(found.filters["seconds"].items["track"], [200.0, np.nan, np.nan], equal_nan=True)


def test_what_is_dirty_is_set_aside_and_counted_by_column_and_reason(engine: Engine, tmp_path: Path) -> None:
    aside = tables(engine, tmp_path).findings.aside
    assert {
        ("users", "uid", "empty"): 1,
        ("users", "came", "zero date"): 1,
        ("users", "came", "in the future"): 1,
        ("items.track", "artist", "null"): 1,
        ("items.track", "out_at", "past lives_days"): 1,
        ("vocabularies.genre.items.track", "genres", "not JSON"): 1,
        ("vocabularies.tag.items.track", "strength", "below 0"): 1,
        ("vocabularies.tag.items.track", "strength", "null"): 1,
        ("vocabularies.tag.items.track", "track", "null"): 1,
        ("numbers.length", "seconds", "not a number"): 1,
        ("events.play", "at", "not a time"): 1,
        ("events.play", "at", "no time"): 1,
        ("events.play", "at", "older than days"): 1,
        ("events.play", "stars", "not a number"): 1,
        ("events.play", "member", "null"): 1,
    }.items() <= aside.items()


def test_every_missing_column_and_table_of_all_queries_is_told_with_line_and_nearest_name(
    engine: Engine, tmp_path: Path
) -> None:
    assert told(
        engine,
        tmp_path,
        ('query = "SELECT slug, title', "query = '''\nSELECT t.slug,\n  t.titel AS title, t.yaer"),
        ('out_at FROM tracks"', "out_at\nFROM tracks t\n'''"),
        ("FROM plays", "FROM playz"),
        ("SELECT a, b FROM follows", "SELECT f.a, g.b FROM follows f"),
        ('fields = ["title"]', 'fields = ["title", "yaer"]'),
    ) == [
        "line 11 [items.track]: there is no column t.titel; did you mean t.title?",
        "line 11 [items.track]: there is no column t.yaer; columns of tracks are slug, title, artist, genres, seconds, "
        "out_at",
        "line 30 [events.play]: there is no table playz; did you mean plays?",
        "line 38 [links.friend]: g is none of its tables; there are follows, f",
    ]


def test_a_column_that_the_query_does_not_give_is_told_with_those_that_it_gives(engine: Engine, tmp_path: Path) -> None:
    assert told(
        engine,
        tmp_path,
        ('id = "slug"', 'id = "slugg"'),
        ('fields = ["title"]', 'fields = ["title", "cover"]'),
        ('items.track = { column = "title", form = "words" }', 'items.track = { column = "tittle", form = "words" }'),
        ('user = "speaks"', 'user = "speeks"'),
    ) == [
        "line 10 [items.track]: id names the column slugg, which the query of items.track does not give; "
        "did you mean slug?",
        "line 13 [items.track]: fields names the column cover, which the query of items.track does not give; "
        "it gives slug, title, artist, genres, seconds, out_at",
        "line 21 [vocabularies.word.items.track]: column names the column tittle, which the query of items.track does "
        "not give; did you mean title?",
        "line 46 [filters.language]: user names the column speeks, which the query of users does not give; "
        "did you mean speaks?",
    ]


def test_columns_are_found_in_whatever_letters_a_mapping_names_them(engine: Engine, tmp_path: Path) -> None:
    content = MAPPING
    for one in (
        'fields = ["title"]',
        'column = "genres"',
        'column = "title"',
        'items.track = "seconds"',
        'users = "age"',
        'column = "seconds"',
        'user = "speaks"',
    ):
        assert one in content
        key, value = one.split(" = ")
        content = content.replace(one, f"{key} = {value.upper()}")
    found, usual = tables(engine, tmp_path, content), tables(engine, tmp_path)
    shown = found.items["track"]
    assert [shown.columns[field] for field in shown.fields] == [["A Song of Rain", "B", "C"]]
    for part in ("vocabularies", "numbers", "filters"):
        assert repr(getattr(found, part)) == repr(getattr(usual, part))


def test_ids_and_times_of_another_form_are_told_and_not_set_aside_one_by_one(engine: Engine, tmp_path: Path) -> None:
    found = told(
        engine,
        tmp_path,
        ('ids = "text"', 'ids = "integer"'),
        ('time = "at"', 'time = "stars"'),
        ('time = "came"', 'time = "town"'),
    )
    assert (
        "line 4 [users]: id: the column uid holds no ids of the form integer, but such as 'u-1'; write ids = \"text\""
    ) in found
    assert any(
        line.startswith("line 5 [users]: time: the column town holds no times, but such as 'Lima'") for line in found
    )


def test_two_items_of_one_id_are_a_fault_and_the_first_counts(engine: Engine, tmp_path: Path) -> None:
    content = MAPPING.replace("out_at FROM tracks", "out_at FROM tracks, members")
    found = tables(engine, tmp_path, content)
    assert found.items["track"].ids.tolist() == ["a-song", "b-song", "c-song"]
    (fault,) = found.findings.faults
    assert "[items.track]: 12 rows have an id that was there before, such as 'a-song'; select each once" in str(fault)


def test_two_columns_of_one_name_are_told(engine: Engine, tmp_path: Path) -> None:
    (found,) = told(engine, tmp_path, ("SELECT a, b FROM follows", "SELECT a, b, c AS b FROM follows"))
    assert found == "line 34 [links.friend]: 2 columns of the result are called b; give each a name of its own, with AS"


def test_a_query_that_is_no_sql_says_near_what(engine: Engine, tmp_path: Path) -> None:
    (found,) = told(engine, tmp_path, ("SELECT a, b FROM follows", "SELECT a, b FORM follows"))
    assert found.startswith("line 34 [links.friend]: the database cannot read the query near 'follows")


def test_a_query_that_breaks_off_is_told_by_its_last_line(engine: Engine, tmp_path: Path) -> None:
    (found,) = told(engine, tmp_path, ('"SELECT a, b FROM follows"', "'''\nSELECT a, b FROM follows\nWHERE a =\n'''"))
    assert found == "line 36 [links.friend]: the query ends where the database expects more of it"


def test_a_query_may_ask_for_now_and_since(engine: Engine, tmp_path: Path) -> None:
    content = MAPPING.replace("at FROM plays", "at FROM plays WHERE at > :since AND at < :now AND member <> ' \\\\:x'")
    assert tables(engine, tmp_path, content).findings.queries["events.play"].rows == 2


def test_one_user_is_read_alone_and_as_with_everybody(engine: Engine, tmp_path: Path) -> None:
    everything = tables(engine, tmp_path)
    with engine.connect() as connection:
        found = read_users(mapping(tmp_path), connection, ["u-2"], 10, NOW)
        nobody = read_users(mapping(tmp_path), connection, ["u-9"], 10, NOW)
    assert found.users.ids.tolist() == ["u-2"]
    assert found.users.columns["speaks"] == ["es"]
    play = everything.events["play"]
    own = play.users == "u-2"
    assert found.events["play"].items.tolist() == play.items[own].tolist()
    assert found.events["play"].weights.tolist() == play.weights[own].tolist()
    assert sorted(zip(found.links["friend"].users, found.links["friend"].others, strict=True)) == [
        ("u-1", "u-2"),
        ("u-2", "u-1"),
    ]
    assert (len(nobody.users), len(nobody.events["play"])) == (0, 0)


def test_the_latest_of_a_user_come_first_where_there_are_many(engine: Engine, tmp_path: Path) -> None:
    with engine.connect() as connection:
        found = read_users(mapping(tmp_path), connection, ["u-1", "u-2"], 1, NOW)
    assert found.findings.queries["events.play"].rows == 2


CHANGES = [
    "UPDATE tracks SET title = 'Another' WHERE slug = 'b-song'",
    "UPDATE members SET town = 'Quito' WHERE uid = 'u-2'",
    "DELETE FROM tracks WHERE slug = 'c-song'",
    "INSERT INTO plays VALUES ('u-1', 'b-song', '5', '2026-11-23 10:00:00')",
    "UPDATE track_tags SET tag = 'loud' WHERE tag = 'sad'",
    "UPDATE follows SET b = 'u-3' WHERE a = 'u-1'",
    "UPDATE tracks SET genres = (CASE slug WHEN 'a-song' THEN 'x' ELSE 'y' END) WHERE slug IN ('a-song', 'b-song')",
    "UPDATE tracks SET genres = (CASE slug WHEN 'a-song' THEN 'y' ELSE 'x' END) WHERE slug IN ('a-song', 'b-song')",
]


def test_every_change_that_a_catalog_is_made_of_is_seen(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def look(content: str = MAPPING) -> str:
        with engine.connect() as connection:
            return fingerprint(mapping(tmp_path, content), connection, NOW)

    seen = [look()]
    assert look() == seen[0]
    writer = create_engine(engine.url, poolclass=NullPool)
    for change in CHANGES:
        with writer.begin() as connection:
            connection.exec_driver_sql(change)
        seen.append(look())
    seen.append(look(MAPPING.replace("weight = 2", "weight = 3")))
    assert len(set(seen)) == len(seen)


INDEX = "CREATE INDEX plays_of_member ON plays (member)"


def test_what_is_read_of_one_user_is_found_by_the_index(engine: Engine, tmp_path: Path) -> None:
    """A query around the operator's own does not come between, however that one joins and filters."""
    writer = create_engine(engine.url, poolclass=NullPool)
    with writer.begin() as connection:
        connection.exec_driver_sql(INDEX)
        rows = [{"u": f"v-{number % 500}", "t": "a-song", "at": "2026-11-20 10:00:00"} for number in range(3000)]
        connection.execute(text("INSERT INTO plays VALUES (:u, :t, '1', :at)"), rows)
    query = "SELECT p.member, p.track, p.at FROM plays p JOIN tracks t ON t.slug = p.track WHERE p.at > :since"
    sql, asked = of_users(query, By(("member",), "at"), OfUsers(("v-3",), 80), lambda name: name)
    with engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        plan = connection.execute(text(explain + sql), {**asked, "since": "2026-01-01"}).fetchall()
    assert "plays_of_member" in str(plan)
    assert "DERIVED" not in str(plan)
