"""A server of these tests' own, which they kill, and an embedded database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.flush import event_writer as flush
from tests.servers import PrivateMariaDB
from tests.support.flushed import (
    DATABASE,
    PATIENCE_SECONDS,
    prepared,
    settings_for,
)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """Not the server of the whole run: it is killed here."""
    folder = tmp_path_factory.mktemp("flush-mariadb")
    with PrivateMariaDB(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def mariadb_settings(server: PrivateMariaDB, tmp_path: Path) -> Iterator[Settings]:
    server.start()
    server.execute(f"CREATE DATABASE {DATABASE}")
    yield settings_for(server.url(DATABASE), tmp_path)
    server.resume()
    server.start()
    server.execute(f"DROP DATABASE {DATABASE}")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection is tried again however long a slow machine took to lose it."""
    monkeypatch.setattr(flush, "ATTEMPTS_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(params=["mariadb", "sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "mariadb":
        found: Settings = request.getfixturevalue("mariadb_settings")
        return found
    path = tmp_path / "interacpedia.sqlite"
    path.touch()
    return settings_for(URL.create("sqlite", database=str(path)), tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with prepared(settings) as made:
        yield made


@pytest.fixture
def mariadb_engine(mariadb_settings: Settings) -> Iterator[Engine]:
    with prepared(mariadb_settings) as made:
        yield made
