"""What the release at commit 5484959 left in DATA_DIR is read by this one: nothing lost, nothing repeated.

tests/support/make_old_data_dir.py says how it was made. Half of it was flushed by that release.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.flush.export import Selection, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.memory_file import BOOT_FILE, BOOT_ID, FORMAT
from recommendation_service.memory.user_memory import opened
from recommendation_service.model.item_keys import ITEM_TYPES, item_key
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED, SERVED, session_number
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import REPOSITORY

ARCHIVE = REPOSITORY / "tests" / "support" / "data_dir_5484959.tar.xz"
STATES = {"impression": IMPRESSED, "like": ACTED, "hide": HIDDEN}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    # As if the upgrade came in the boot of the machine in which it was written: a memory of another one is begun anew.
    (tmp_path / "data" / "seen" / BOOT_FILE).write_text(f"{FORMAT} {BOOT_ID.read_text().strip()}")
    return tmp_path / "data"


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    database = SecretStr(f"sqlite:///{data_dir / 'interacpedia.sqlite'}")
    return Settings(data_dir=data_dir, database_url=database, seen_megabytes=16)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    found = make_writing_engine(settings)
    yield found
    found.dispose()


@pytest.fixture
def expected(data_dir: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads((data_dir / "expected.json").read_bytes())
    return found


def values(engine: Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sqlalchemy.text(statement)).scalars())


def test_events_are_in_both_tables_once_and_feeds_as_they_were_shown(
    settings: Settings, engine: Engine, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    before = values(engine, "SELECT event_id FROM recs_events")
    assert 0 < len(before) < len(expected["events"]) + len(expected["feeds"])
    shutil.copytree(settings.events_dir, tmp_path / "events")
    for _ in range(2):
        flusher = Flusher(settings, engine)
        assert flusher.flush_all(), flusher.status.error
        found = list(read_events(engine, Selection()))
        events = Counter(event["event_id"] for event in found if event["event"] != "feed")
        assert events == Counter({event["event_id"]: 1 for event in expected["events"]})
        shown = {
            event["request_id"]: [[slot["item_type"], slot["item_id"]] for slot in event["slots"]]
            for event in found
            if event["event"] == "feed"
        }
        assert shown == {feed["request_id"]: feed["items"] for feed in expected["feeds"]}
        assert len(found) == len(expected["events"]) + len(expected["feeds"])
        copied = Counter(json.loads(text)["event_id"] for text in values(engine, "SELECT properties FROM activity_log"))
        assert copied == Counter(event["event_id"] for event in found)
        # Once more from the beginning, as after its notes were lost.
        shutil.rmtree(settings.events_dir)
        shutil.copytree(tmp_path / "events", settings.events_dir)
        for mark in [*settings.events_dir.glob("*.position"), settings.events_dir / "flusher.json"]:
            mark.unlink()


def test_what_users_have_seen_is_known(settings: Settings, expected: dict[str, list[Any]]) -> None:
    with opened(settings.data_dir / "seen", settings.seen_megabytes << 20) as memory:
        for user in expected["users"]:
            stored = as_entries(memory.read(user_key(user, session_number(expected["sessions"][0])) or b""))
            states = {int(key): int(detail) & 15 for key, detail in stored}
            wanted = {
                item_key(ITEM_TYPES.index(item_type), number): SERVED
                for feed in expected["feeds"]
                if feed["user_id"] == user
                for item_type, number in feed["items"]
            }
            wanted |= {
                item_key(ITEM_TYPES.index(event["item_type"]), event["item_id"]): STATES[event["event"]]
                for event in expected["events"]
                if event["user_id"] == user
            }
            assert states == wanted


def test_its_catalog_is_served_and_nothing_hidden_comes_back(
    settings: Settings, data_dir: Path, expected: dict[str, list[Any]]
) -> None:
    store = CatalogStore(settings.catalog_dir, keep=1)
    version = store.current()
    assert version is not None
    assert store.verify(version) == []
    hidden = [
        [event["item_type"], event["item_id"]]
        for event in expected["events"]
        if event["event"] == "hide" and event["user_id"] == expected["users"][0]
    ]
    app = make_app(data_dir, database_url=settings.database_url, event_flusher=False, seen_megabytes=16)
    with logs_left_alone(), served(app) as client:
        asked = {"user_id": expected["users"][0], "size": 50}
        body = client.post("/api/search/total", json=asked).raise_for_status().json()["body"]
    assert len(body["items"]) == 50
    assert not [item for item in body["items"] if [item["type"], item["id"]] in hidden]
