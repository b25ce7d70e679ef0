"""The table of users whose feeds are not personal: what is read of it, and that whoever was listed stays listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.sources.not_personal import KEPT_NAME, NotPersonal, not_personal_stamp, read_not_personal


class Database:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'operator.sqlite'}"
        (folder / "operator.sqlite").touch()
        self.engine: Engine = make_engine(self.settings())
        self._writer = create_engine(self.url, poolclass=NullPool)

    def settings(self, **given: Any) -> Settings:
        return Settings(
            **{"database_url": self.url, "data_dir": self.folder / "data", "not_personal_table": "opted_out"} | given
        )

    def run(self, statement: str) -> None:
        with self._writer.begin() as connection:
            connection.execute(text(statement))

    def read(self, **given: Any) -> NotPersonal:
        with self.engine.connect() as connection:
            return read_not_personal(connection, self.settings(**given))

    def stamp(self, **given: Any) -> object:
        with self.engine.connect() as connection:
            return not_personal_stamp(connection, self.settings(**given))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def listed(found: NotPersonal) -> list[int]:
    assert found.users is not None
    return np.asarray(found.users).tolist()


def test_whoever_is_in_the_table_is_listed_each_once_and_what_is_no_user_is_told(database: Database) -> None:
    database.run("CREATE TABLE opted_out (user_id TEXT)")
    database.run("INSERT INTO opted_out VALUES ('9'), ('7'), ('9'), (NULL), ('x'), ('0'), ('9223372036854775808')")

    found = database.read()

    assert listed(found) == [7, 9]
    assert (found.held, found.warnings) == (None, ("NOT_PERSONAL_TABLE opted_out: 4 rows have no number of a user",))


def test_a_view_is_a_table_and_a_schema_may_be_named(database: Database) -> None:
    database.run("CREATE TABLE people (number INTEGER, opted_out INTEGER)")
    database.run("INSERT INTO people VALUES (1, 0), (2, 1)")
    database.run("CREATE VIEW opted_out AS SELECT number AS user_id FROM people WHERE opted_out = 1")

    assert listed(database.read(not_personal_table="main.opted_out")) == [2]


def test_without_a_table_that_is_named_nobody_is_listed_and_nothing_kept(database: Database) -> None:
    found = database.read(not_personal_table=None)

    assert (found.users, found.held, list(found.listed)) == (None, None, [])
    assert not (database.folder / "data").exists()


@pytest.mark.parametrize("loss", ["DROP TABLE opted_out", "ALTER TABLE opted_out RENAME COLUMN user_id TO member"])
def test_whoever_was_listed_stays_listed_where_the_table_is_lost(database: Database, loss: str) -> None:
    database.run("CREATE TABLE opted_out (user_id INTEGER)")
    database.run("INSERT INTO opted_out VALUES (7), (9)")
    database.read()
    database.run(loss)

    for found in (database.read(), database.read(not_personal_table="another")):
        assert listed(found) == [7, 9]
        assert found.held is not None
        assert "the 2 users who were last read of it stay listed" in found.held
        assert found.warnings == (found.held,)


def test_a_table_that_could_never_be_read_lists_nobody_by_name(database: Database) -> None:
    found = database.read()

    assert found.users is None
    assert found.held is not None
    assert found.held.startswith("NOT_PERSONAL_TABLE opted_out cannot be read, and never was (no such table")


def test_an_emptied_table_lists_nobody_any_more_and_that_is_told(database: Database) -> None:
    database.run("CREATE TABLE opted_out (user_id INTEGER)")
    database.run("INSERT INTO opted_out VALUES (7), (9)")
    database.read()
    database.run("DELETE FROM opted_out")

    found = database.read()

    assert listed(found) == []
    assert found.warnings == ("NOT_PERSONAL_TABLE opted_out: nobody is in it any more; there were 2",)
    database.run("DROP TABLE opted_out")
    assert listed(database.read()) == []


@pytest.mark.parametrize("damage", [b"# kept of opted_out at noon\n7\n", b"# kept of o\n7x\n# the end\n", b"\0"])
def test_a_kept_list_that_is_damaged_stops_the_build(database: Database, damage: bytes) -> None:
    database.run("CREATE TABLE opted_out (user_id INTEGER)")
    database.read()
    (database.folder / "data" / KEPT_NAME).write_bytes(damage)

    with pytest.raises(SourceError, match="Mend it; or remove it"):
        database.read()


def test_every_change_of_the_table_is_seen(database: Database) -> None:
    changes = [
        "CREATE TABLE opted_out (user_id INTEGER)",
        "INSERT INTO opted_out VALUES (7)",
        "UPDATE opted_out SET user_id = 8",
        "INSERT INTO opted_out VALUES (9)",
        "DELETE FROM opted_out WHERE user_id = 8",
        "DROP TABLE opted_out",
    ]
    stamps = [database.stamp(not_personal_table=None), database.stamp()]
    for change in changes:
        database.run(change)
        stamps.append(database.stamp())
    assert stamps[0] is None
    assert stamps[-1] == stamps[1]
    assert len(set(map(repr, stamps[1:-1]))) == len(changes)
