"""Databases that events are flushed into: made, looked into, and short of privileges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from pydantic import SecretStr
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.migrations import (
    migrate,
)
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.flush.tables import make_writing_engine
from tests.servers import LOOPBACK, PrivateMariaDB

PATIENCE_SECONDS = 60.0
DATABASE = "interacpedia"


def settings_for(url: URL, folder: Path, **more: Any) -> Settings:
    return Settings(
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        data_dir=folder / "data",
        mysql_connect_timeout_seconds=2,
        **more,
    )


@contextmanager
def prepared(settings: Settings) -> Iterator[Engine]:
    """With the service's tables and the operator's activity_log."""
    made = make_writing_engine(settings)
    metadata.tables["activity_log"].create(made)
    migrate(made)
    yield made
    made.dispose()


def rows(engine: Engine, statement: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sqlalchemy.text(statement)).mappings()]


def counted(engine: Engine) -> tuple[Counter[str], Counter[str]]:
    """How often each event is in recs_events, and in activity_log."""
    ours = Counter(row["event_id"] for row in rows(engine, "SELECT event_id FROM recs_events"))
    theirs = Counter(
        json.loads(row["properties"])["event_id"] for row in rows(engine, "SELECT properties FROM activity_log")
    )
    return ours, theirs


def assert_each_is_there_once(engine: Engine, records: list[Event]) -> None:
    once = Counter(map(event_id_of, records))
    assert counted(engine) == (once, once)


@contextmanager
def restricted_user(server: PrivateMariaDB, *grants: str) -> Iterator[URL]:
    """Without the privileges that let the tests' own user write to a server that is read-only."""
    server.execute(f"CREATE USER 'app'@'{LOOPBACK}' IDENTIFIED BY 'app'")
    try:
        for grant in grants:
            server.execute(f"GRANT {grant} TO 'app'@'{LOOPBACK}'")
        yield server.url(DATABASE).set(username="app", password="app")
    finally:
        server.execute(f"DROP USER 'app'@'{LOOPBACK}'")
