"""Engines: what a connection is opened with, and that nothing is connected before it is used."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import QueuePool, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import POOL_RECYCLE_SECONDS, address, make_engine

SERVER = {"mysql_host": "127.0.0.1", "mysql_port": 1, "mysql_user": "recs", "mysql_password": "hunter2hunter2"}


def test_nothing_is_connected_until_it_is_used(tmp_path: Path) -> None:
    make_engine(load_settings(**SERVER)).dispose()
    make_engine(load_settings(data_dir=tmp_path)).dispose()

    assert list(tmp_path.iterdir()) == []


def test_a_pool_has_as_many_connections_as_set_and_no_more() -> None:
    pool = make_engine(load_settings(**SERVER, mysql_pool_size=7)).pool

    assert isinstance(pool, QueuePool)
    assert pool.size() == 7
    assert pool._max_overflow == 0
    assert pool._recycle == POOL_RECYCLE_SECONDS
    assert pool._pre_ping


def test_making_a_pool_is_logged_without_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    make_engine(load_settings(**SERVER, mysql_pool_size=7))

    said = "".join(capsys.readouterr())
    assert "Connection pool inicializado: 7 conexiones" in said
    assert "hunter2" not in said


def test_an_address_shows_no_user_and_no_password(tmp_path: Path) -> None:
    assert address(load_settings(**SERVER).source_url) == "127.0.0.1:1/interacpedia"
    assert address(URL.create("mysql+pymysql", "u", "p", "db", database="x")) == "db:3306/x"
    assert address(load_settings(data_dir=tmp_path).source_url) == str(tmp_path / "interacpedia.sqlite")


@pytest.mark.parametrize("name", ["plain", "with space", "ñandú", "100% real?", "a#b", "a;b&mode=rwc"])
def test_an_sqlite_file_of_any_name_is_opened_for_reading_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "interacpedia.sqlite"
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    engine = make_engine(load_settings(data_dir=path.parent))

    with engine.connect() as opened:
        assert opened.execute(text("SELECT COUNT(*) FROM t")).scalar_one() == 0
        with pytest.raises(DBAPIError, match="readonly"):
            opened.execute(text("INSERT INTO t VALUES (1)"))


@pytest.mark.parametrize("backend", ["mysql", "mariadb"])
def test_an_address_without_a_driver_is_read_with_the_one_that_is_installed(backend: str) -> None:
    engine = make_engine(load_settings(database_url=f"{backend}://recs:secret@127.0.0.1:1/interacpedia"))

    assert engine.driver == "pymysql"
