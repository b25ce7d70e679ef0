"""The demo on a real MariaDB: the rows of SQLite, the operator's column types, a database made on demand."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, Table, cast, create_engine, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from recommendation_service.demo import DemoError, load_interacpedia
from recommendation_service.demo.dirt import Dirt
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
        load_interacpedia(engine, scale=0.01, now=NOW)

    with maria.connect() as one, lite.connect() as other:
        for table in metadata.sorted_tables:
            assert rows_of(one, table) == rows_of(other, table), table.name


def test_zero_dates_are_stored_whatever_the_servers_mode(mariadb_url: URL) -> None:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    load_interacpedia(engine, scale=0.01, now=NOW)

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

    load_interacpedia(engine, scale=0.01, now=NOW)

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

    report = load_interacpedia(engine, scale=0.01, now=NOW)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM users")).scalar_one() == report.counts["users"]
        connection.execute(text(f"DROP DATABASE `{name}`"))


def test_loading_twice_is_refused_and_replacing_is_not(mariadb_url: URL) -> None:
    engine: Engine = create_engine(mariadb_url, poolclass=NullPool)
    load_interacpedia(engine, scale=0.01, now=NOW)

    with pytest.raises(DemoError, match="--replace"):
        load_interacpedia(engine, scale=0.01, now=NOW)

    assert load_interacpedia(engine, scale=0.01, now=NOW, replace=True).counts["users"] == 2_000


def in_utc() -> dict[str, str]:
    return {"init_command": "SET SESSION time_zone = '+00:00'"}
