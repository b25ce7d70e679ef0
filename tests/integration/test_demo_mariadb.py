"""The demo on a real MariaDB: the rows of SQLite, the operator's column types, a database made on demand."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, Table, cast, create_engine, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from recommendation_service.demo import DemoError, load_invented
from recommendation_service.demo.dirt import Dirt
from recommendation_service.demo.loading import load_tables
from recommendation_service.demo.schema import metadata

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def rows_of(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    """Times as text, as SQLite has them: PyMySQL would make a zero date None."""
    if connection.dialect.name == "sqlite":
        columns: list[Any] = list(table.c)
    else:
        columns = [cast(c, mysql.CHAR(19)) if c.name.endswith("_at") else c for c in table.c]
    return [tuple(row) for row in connection.execute(select(*columns).order_by(table.c.id))]


def test_mariadb_and_sqlite_hold_the_same_rows(mariadb_url: URL, tmp_path: Path) -> None:
    maria = create_engine(mariadb_url, poolclass=NullPool, connect_args=in_utc())
    lite = create_engine(f"sqlite:///{tmp_path / 'demo.sqlite'}", poolclass=NullPool)
    for engine in (maria, lite):
        load_invented(engine, scale=0.01, now=NOW)

    with maria.connect() as one, lite.connect() as other:
        for table in metadata.sorted_tables:
            assert rows_of(one, table) == rows_of(other, table), table.name


def test_zero_dates_are_stored_whatever_the_servers_mode(mariadb_url: URL) -> None:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    load_invented(engine, scale=0.01, now=NOW)

    with engine.connect() as connection:
        zero = connection.execute(
            text("SELECT COUNT(*) FROM users WHERE CAST(created_at AS CHAR) = '0000-00-00 00:00:00'")
        )
        assert zero.scalar_one() == Dirt().users_created_at_zero_date


def test_the_session_of_the_load_reaches_nobody_else(mariadb_url: URL) -> None:
    engine = create_engine(mariadb_url, pool_size=1, max_overflow=0)
    mode = text("SELECT @@SESSION.sql_mode, @@SESSION.time_zone")
    with engine.connect() as connection:
        before = tuple(connection.execute(mode).one())

    load_invented(engine, scale=0.01, now=NOW)

    with engine.connect() as connection:
        assert tuple(connection.execute(mode).one()) == before
    engine.dispose()


def test_columns_are_the_operators(mariadb_url: URL) -> None:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    metadata.create_all(engine)

    with engine.connect() as connection:
        ddl = {name: connection.execute(text(f"SHOW CREATE TABLE {name}")).one()[1] for name in metadata.tables}

    for statement in ddl.values():
        assert "`id` bigint(20) unsigned NOT NULL AUTO_INCREMENT" in statement
        assert "ENGINE=InnoDB" in statement
        assert "CHARSET=utf8mb4" in statement
        assert statement.count("KEY") == 1
    assert "`deleted_at` timestamp NULL DEFAULT NULL" in ddl["users"]
    assert "`skills` longtext DEFAULT NULL" in ddl["resumes"]
    assert "`views` int(10) unsigned DEFAULT 0" in ddl["resumes"]
    assert "`value` decimal(8,2) DEFAULT NULL" in ddl["team_feedbacks"]
    assert "`model_id` bigint(20) unsigned NOT NULL" in ddl["matches"]


def test_a_database_that_does_not_exist_is_created(mariadb_url: URL) -> None:
    name = f"{mariadb_url.database}-made 2"
    engine = create_engine(mariadb_url.set(database=name), poolclass=NullPool)

    report = load_invented(engine, scale=0.01, now=NOW)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM users")).scalar_one() == report.counts["users"]
        connection.execute(text(f"DROP DATABASE `{name}`"))


def test_loading_twice_is_refused_and_replacing_is_not(mariadb_url: URL) -> None:
    engine: Engine = create_engine(mariadb_url, poolclass=NullPool)
    load_invented(engine, scale=0.01, now=NOW)

    with pytest.raises(DemoError, match="--replace"):
        load_invented(engine, scale=0.01, now=NOW)

    assert load_invented(engine, scale=0.01, now=NOW, replace=True).counts["users"] == 2_000


APPLICATION = {
    "tables": ["CREATE TABLE users (id INT PRIMARY KEY, name TEXT)", "INSERT INTO users VALUES (1, 'Real Person')"],
    "empty tables": ["CREATE TABLE users (id INT PRIMARY KEY, name TEXT)"],
    "views": ["CREATE TABLE people (id INT)", "CREATE VIEW users AS SELECT * FROM people"],
    "a sequence": ["CREATE SEQUENCE likes"],
    # Of a demo elsewhere on the server: as a developer copies a schema, and as a dump brings the record alone.
    "a copy": ["CREATE TABLE users LIKE `{demo}`.users", "INSERT INTO users SELECT * FROM `{demo}`.users LIMIT 9"],
    "a record": ["CREATE TABLE users (id INT)", "CREATE TABLE recs_demo SELECT * FROM `{demo}`.recs_demo"],
}


@pytest.fixture(scope="module")
def demo_elsewhere(module_mariadb_url: URL) -> str:
    load_tables(create_engine(module_mariadb_url, poolclass=NullPool), [], source="some", replace=False)
    return str(module_mariadb_url.database)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("kind", APPLICATION)
def test_an_applications_tables_are_left_alone_whatever_the_options(
    mariadb_url: URL, demo_elsewhere: str, kind: str, replace: bool
) -> None:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in APPLICATION[kind]:
            connection.execute(text(statement.format(demo=demo_elsewhere)))
        before = contents(connection)

    with pytest.raises(DemoError, match="Name another database"):
        load_invented(engine, scale=0.01, now=NOW, replace=replace)

    with engine.connect() as connection:
        assert contents(connection) == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO users (name) VALUES ('Real Person')", "users holds 1 row that the demo did not write"),
        ("CREATE TRIGGER told AFTER INSERT ON likes FOR EACH ROW SET @n = 1", "likes has the trigger told"),
        ("CREATE TABLE orders (buyer BIGINT UNSIGNED, FOREIGN KEY (buyer) REFERENCES users (id))", "orders has a for"),
    ],
)
def test_what_others_added_to_the_demos_tables_is_not_dropped(mariadb_url: URL, statement: str, said: str) -> None:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    load_tables(engine, [], source="some", replace=False)
    with engine.begin() as connection:
        connection.execute(text(statement))
        before = contents(connection)

    with pytest.raises(DemoError, match=said):
        load_tables(engine, [], source="some", replace=True)

    with engine.connect() as connection:
        assert contents(connection) == before


def contents(connection: Connection) -> dict[str, Any]:
    """Definition and rows of each table and view."""
    found: dict[str, Any] = {}
    for name, kind in list(connection.execute(text("SHOW FULL TABLES"))):
        rows = [] if kind == "SEQUENCE" else [tuple(row) for row in connection.execute(text(f"SELECT * FROM `{name}`"))]
        found[name] = (kind, connection.execute(text(f"SHOW CREATE TABLE `{name}`")).one()[1], rows)
    return found


def in_utc() -> dict[str, str]:
    return {"init_command": "SET SESSION time_zone = '+00:00'"}
