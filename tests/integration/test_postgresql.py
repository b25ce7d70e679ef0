"""PostgreSQL as the operator's database, on a real server: addresses, sessions, transactions, values, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import load_settings
from recommendation_service.core.database import address, attempt, begin_reading, make_engine, words_of
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import TablesError, read
from tests.postgresql import PrivatePgBouncer, PrivatePostgreSQL

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

# Types of PostgreSQL's own, and a server whose zone is not UTC.
TABLES = """
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE people (id uuid PRIMARY KEY, came timestamptz, languages text[], age numeric);
CREATE TABLE tracks (slug text PRIMARY KEY, title text, artist bigint, genres jsonb, moods mood[], seconds interval,
  price numeric(8, 2), out_at timestamp, is_live boolean);
CREATE TABLE plays (person uuid, track text, stars smallint, at timestamptz);
INSERT INTO people VALUES
  ('00000000-0000-0000-0000-000000000001', '2026-11-01 05:00:00-05', '{es,en}', 20.5),
  ('00000000-0000-0000-0000-000000000002', 'infinity', NULL, 'NaN');
INSERT INTO tracks VALUES
  ('a', 'A', 7, '["rock", "soul"]', '{calm}', '3 minutes', 1.50, '2026-11-20 10:00:00', true),
  ('b', 'B', NULL, '{"jazz": 0.5}', '{calm,wild}', NULL, NULL, '2026-11-20 10:00:00', false);
INSERT INTO plays VALUES
  ('00000000-0000-0000-0000-000000000001', 'a', 5, '2026-11-23 10:00:00+02'),
  ('00000000-0000-0000-0000-000000000001', 'b', 3, '2020-11-23 10:00:00+02');
"""

MAPPING = """ids = "text"
[users]
query = "SELECT id, languages, age, CAST(came AS text) AS came FROM people"
id = "id"
time = "came"
[creators]
ids = "integer"
[items.track]
query = '''SELECT slug, title, artist, genres, CAST(moods AS text[]) AS moods, price, out_at,
  EXTRACT(epoch FROM seconds) AS seconds FROM tracks WHERE is_live IS NOT NULL'''
id = "slug"
time = "out_at"
creator = "artist"
fields = ["title", "price"]
[vocabularies.genre]
items.track = { column = "genres", form = "json" }
[vocabularies.mood]
items.track = { column = "moods", form = "json" }
[vocabularies.language]
users = { column = "languages", form = "json" }
items.track = { column = "moods", form = "json" }
[numbers.seconds]
items.track = "seconds"
users = "age"
[events.play]
query = "SELECT person, track, stars, at FROM plays WHERE at >= CAST(:since AS timestamptz)"
user = "person"
item = "track"
time = "at"
value = "stars"
[filters.mood]
rule = "contained"
column = "moods"
user = "languages"
"""


@pytest.fixture
def engine(postgresql: PrivatePostgreSQL, postgresql_url: URL, tmp_path: Path) -> Iterator[Engine]:
    name = str(postgresql_url.database)
    postgresql.execute(f"ALTER DATABASE {name} SET timezone = 'America/Bogota'")
    postgresql.execute(*TABLES.split(";\n")[:-1], database=name)
    engine = _engine(postgresql_url, tmp_path)
    yield engine
    engine.dispose()


def _engine(url: URL, folder: Path, **settings: object) -> Engine:
    shown = url.render_as_string(hide_password=False)
    return make_engine(load_settings(database_url=shown, data_dir=folder, **settings))


# Addresses.


@pytest.mark.parametrize("driver", ["postgres", "postgresql", "postgresql+psycopg"])
def test_an_address_as_a_hoster_prints_it_is_taken(postgresql_url: URL, tmp_path: Path, driver: str) -> None:
    hosters = {"pgbouncer": "true", "connection_limit": "5", "sslmode": "prefer"}
    engine = _engine(postgresql_url.set(drivername=driver).update_query_dict(hosters), tmp_path)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert dict(engine.url.query) == {"sslmode": "prefer"}
    engine.dispose()


def test_an_address_with_an_unknown_argument_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL.* has sslmod, which PostgreSQL"):
        load_settings(database_url="postgres://reader:secret@db/shop?sslmod=require")


def test_an_address_of_several_servers_passes_over_one_that_is_down(
    postgresql: PrivatePostgreSQL, postgresql_url: URL, tmp_path: Path
) -> None:
    several = {"host": ["127.0.0.1:1", f"127.0.0.1:{postgresql.port}"]}
    engine = _engine(postgresql_url.set(host=None, port=None).update_query_dict(several), tmp_path)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert address(engine.url) == f"127.0.0.1:1,127.0.0.1:{postgresql.port}/{postgresql_url.database}"
    engine.dispose()


def test_an_offset_is_no_zone_as_postgresql_reads_its_sign_the_other_way() -> None:
    with pytest.raises(ConfigurationError, match="MYSQL_TIME_ZONE=-05:00 is an offset"):
        load_settings(database_url="postgres://reader@db/shop", mysql_time_zone="-05:00")


# Sessions.


def test_the_zone_of_the_settings_holds_at_every_use_of_a_connection(engine: Engine) -> None:
    for _ in range(3):
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW timezone")) == "UTC"
            assert (
                connection.scalar(text("SELECT CAST(CAST('2026-01-01T00:00Z' AS timestamptz) AS text)"))[-3:] == "+00"
            )
            assert (
                connection.scalar(text("SELECT EXTRACT(epoch FROM CAST(:t AS timestamptz))"), {"t": "1970-01-02"})
                == 86400
            )


def test_a_named_zone_is_that_of_times_that_say_none(postgresql_url: URL, tmp_path: Path) -> None:
    engine = _engine(postgresql_url, tmp_path, mysql_time_zone="America/Bogota")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT EXTRACT(hour FROM CAST('2026-01-01T12:00Z' AS timestamptz))")) == 7
    engine.dispose()


def test_a_statement_ends_in_time_and_its_connection_lives(postgresql_url: URL, tmp_path: Path) -> None:
    engine = _engine(postgresql_url, tmp_path, mysql_read_timeout_seconds=1)
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text("SELECT pg_sleep(20)"))
    assert words_of(raised.value) == "canceling statement due to statement timeout (57014)"
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == pid
    engine.dispose()


def test_a_limit_that_was_set_does_not_outlive_its_transaction(engine: Engine) -> None:
    """Behind a pooler in transaction mode it would reach another client."""
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) != "0"
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.rollback()
        assert driver.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_no_statement_is_prepared(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(20):
            connection.execute(text("SELECT title FROM tracks WHERE slug = :slug"), {"slug": "a"})
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


# One transaction a build.


def test_a_build_sees_one_moment_and_writes_nothing(postgresql: PrivatePostgreSQL, engine: Engine) -> None:
    with engine.connect() as connection:
        begin_reading(connection)
        assert connection.scalar(text("SELECT count(*) FROM plays")) == 2
        postgresql.execute("DELETE FROM plays", database=str(engine.url.database))
        assert connection.scalar(text("SELECT count(*) FROM plays")) == 2
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text("DELETE FROM people"))
        assert "(25006)" in words_of(raised.value)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM plays")) == 0
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
        assert connection.scalar(text("SHOW transaction_read_only")) == "off"


def test_a_query_that_fails_does_not_end_what_it_is_part_of(engine: Engine) -> None:
    with engine.connect() as connection:
        begin_reading(connection)
        with pytest.raises(DBAPIError), attempt(connection):
            connection.execute(text("SELECT nothing FROM plays"))
        assert connection.scalar(text("SELECT count(*) FROM plays")) == 2


def test_every_problem_of_all_queries_is_told(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(
        MAPPING.replace("title, artist", "titel, artist").replace("FROM plays", "FROM playz")
    )
    with engine.connect() as connection:
        begin_reading(connection)
        with pytest.raises(TablesError) as raised:
            read(load_mapping(tmp_path / "mapping.toml"), connection, NOW)
    told = "\n".join(str(problem) for problem in raised.value.found)
    assert "[items.track]: there is no column titel; did you mean title?" in told
    assert "[events.play]: there is no table playz; did you mean plays?" in told


# Values.


def test_a_mapping_reads_values_of_postgresqls_own_types(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    with engine.connect() as connection:
        begin_reading(connection)
        found = read(load_mapping(tmp_path / "mapping.toml"), connection, NOW)
    assert found.users.ids.tolist() == [f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2)]
    assert found.users.times[0] == datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()
    assert found.findings.aside[("users", "came", "not a time")] == 1  # infinity, which was selected as text
    track = found.items["track"]
    assert (track.ids.tolist(), track.creators.tolist() if track.creators is not None else None) == (["a", "b"], [7, 0])
    assert track.times[0] == datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
    genre, mood = (found.vocabularies[name].items["track"] for name in ("genre", "mood"))
    assert list(zip(genre.terms, genre.weights, strict=True)) == [("rock", 1.0), ("soul", 1.0), ("jazz", 0.5)]
    assert list(zip(mood.ids, mood.terms, strict=True)) == [("a", "calm"), ("b", "calm"), ("b", "wild")]
    assert np.array_equal(found.numbers["seconds"].items["track"], [180.0, np.nan], equal_nan=True)
    assert np.array_equal(found.numbers["seconds"].users, [20.5, np.nan], equal_nan=True)
    play = found.events["play"]
    assert (play.items.tolist(), play.weights.tolist()) == (["a"], [5.0])
    assert play.times[0] == datetime(2026, 11, 23, 8, tzinfo=UTC).timestamp()
    assert found.filters["mood"].users == (("es", "en"), ())
    assert found.filters["mood"].items["track"] == (("calm",), ("calm", "wild"))


def test_a_value_that_python_cannot_hold_is_a_problem_of_its_query(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(MAPPING.replace("CAST(came AS text) AS came", "came"))
    with engine.connect() as connection:
        begin_reading(connection)
        with pytest.raises(TablesError) as raised:
            read(load_mapping(tmp_path / "mapping.toml"), connection, NOW)
    (problem,) = raised.value.found
    assert "[users]: the database refused the query: timestamp too large" in str(problem)


# Errors.


def test_what_a_server_says_is_told_without_values_of_rows(engine: Engine) -> None:
    said = []
    for statement in (
        "SELECT CAST('secret' AS integer)",
        "INSERT INTO people (id) VALUES ('00000000-0000-0000-0000-000000000001')",
        "SELECT 1 FORM tracks",
    ):
        with engine.connect() as connection, pytest.raises(DBAPIError) as raised:
            connection.execute(text(statement))
        said.append(words_of(raised.value))
    assert said == [
        "a value cannot be read (22P02)",
        'duplicate key value violates unique constraint "people_pkey" (23505)',
        'syntax error at or near "tracks" (42601)',
    ]


def test_a_server_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    engine = _engine(URL.create("postgresql", "reader", "secret", "127.0.0.1", 1, "shop"), tmp_path)
    settings = load_settings(data_dir=tmp_path)
    with (
        pytest.raises(SourceError, match=r"^127\.0\.0\.1:1/shop: .*refused") as raised,
        Source(engine, settings).snapshot(NOW),
    ):
        pass
    assert "secret" not in str(raised.value)


def test_a_connection_that_the_server_ended_is_replaced(postgresql: PrivatePostgreSQL, engine: Engine) -> None:
    with engine.connect() as connection:
        first = connection.scalar(text("SELECT pg_backend_pid()"))
    postgresql.execute(f"SELECT pg_terminate_backend({first}, 10000)")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != first


# `recs source check`.


def test_rows_that_row_level_security_hides_are_told(
    postgresql: PrivatePostgreSQL, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives no row and no error."""
    monkeypatch.chdir(tmp_path)
    name = str(engine.url.database)
    postgresql.execute(
        *("DROP ROLE IF EXISTS reader", f"CREATE ROLE reader LOGIN PASSWORD '{postgresql.password}'"),
        *("GRANT SELECT ON people, tracks, plays TO reader", "ALTER TABLE plays ENABLE ROW LEVEL SECURITY"),
        database=name,
    )
    (tmp_path / "mapping.toml").write_text(MAPPING)
    reader = engine.url.set(username="reader").render_as_string(hide_password=False)
    done = CliRunner().invoke(cli.app, ["source", "check", "mapping.toml", "--database", reader, "--json"])
    postgresql.execute("DROP OWNED BY reader", "DROP ROLE reader", database=name)
    report = json.loads(done.stdout)
    hidden = [finding["name"] for finding in report["findings"] if "Row-level security" in finding["sentence"]]
    assert hidden == ["events.play"]
    # Of rows that nobody may see PostgreSQL 17 does not read the table at all.
    assert {query["section"] for query in report["queries"] if not query["plan"]} <= {"events.play"}


# Behind a pooler in transaction mode.


@pytest.fixture(scope="module")
def pgbouncer(postgresql: PrivatePostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePgBouncer]:
    pooler = PrivatePgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgresql)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.remove()


@pytest.fixture
def pooled(engine: Engine, pgbouncer: PrivatePgBouncer, tmp_path: Path) -> Iterator[Engine]:
    """The tables of ``engine``, read through the pooler, by its one connection."""
    pooled = _engine(pgbouncer.url(str(engine.url.database)).update_query_dict({"pgbouncer": "true"}), tmp_path)
    yield pooled
    pooled.dispose()


def test_a_mapping_is_read_through_a_pooler(pooled: Engine, tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    for _ in range(3):
        with pooled.connect() as connection:
            begin_reading(connection)
            found = read(load_mapping(tmp_path / "mapping.toml"), connection, NOW)
    assert found.items["track"].ids.tolist() == ["a", "b"]
    assert found.users.times[0] == datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()


def test_what_is_set_here_reaches_no_other_client_of_the_pooler(pooled: Engine) -> None:
    address = pooled.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with pooled.connect() as connection:
        begin_reading(connection)
        for _ in range(10):
            connection.execute(text("SELECT title FROM tracks WHERE slug = :slug"), {"slug": "a"})
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(address, autocommit=True, prepare_threshold=None) as other:
        found = other.execute(
            "SELECT pg_backend_pid(), current_setting('statement_timeout'), current_setting('transaction_isolation'), "
            "current_setting('transaction_read_only'), current_setting('TimeZone'), count(*) "
            "FROM pg_prepared_statements"
        ).fetchone()
    assert found == (pid, "0", "read committed", "off", "America/Bogota", 0)
    with pooled.connect() as connection:
        assert connection.scalar(text("SHOW timezone")) == "UTC"
