"""What the release at commit 5484959 left in DATA_DIR is read by this one: nothing lost, nothing repeated.

tests/support/make_old_data_dir.py says how it was made. Half of it was flushed by that release.
"""

from __future__ import annotations

import json
import shutil
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
from recommendation_service.memory.user_memory import opened
from recommendation_service.model.item_keys import ITEM_TYPES, item_key
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED, SERVED, session_number
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.support.old_data_dir import OldDataDir, unpacked

STATES = {"impression": IMPRESSED, "like": ACTED, "hide": HIDDEN}


@pytest.fixture
def old(tmp_path: Path) -> OldDataDir:
    return unpacked(tmp_path)


@pytest.fixture
def settings(old: OldDataDir) -> Settings:
    return Settings(data_dir=old.data_dir, database_url=SecretStr(f"sqlite:///{old.database}"), seen_megabytes=16)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    found = make_writing_engine(settings)
    yield found
    found.dispose()


def values(engine: Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sqlalchemy.text(statement)).scalars())


def test_events_are_in_both_tables_once_and_feeds_as_they_were_shown(
    settings: Settings, engine: Engine, old: OldDataDir, tmp_path: Path
) -> None:
    before = values(engine, "SELECT event_id FROM recs_events")
    assert 0 < len(before) < len(old.events) + len(old.feeds)
    shutil.copytree(settings.events_dir, tmp_path / "events")
    for _ in range(2):
        flusher = Flusher(settings, engine)
        assert flusher.flush_all(), flusher.status.error
        flusher.close()
        found = list(read_events(engine, Selection()))
        events = Counter(event["event_id"] for event in found if event["event"] != "feed")
        assert events == Counter({event["event_id"]: 1 for event in old.events})
        shown = {
            event["request_id"]: [[slot["item_type"], slot["item_id"]] for slot in event["slots"]]
            for event in found
            if event["event"] == "feed"
        }
        assert shown == {feed["request_id"]: feed["items"] for feed in old.feeds}
        assert len(found) == len(old.events) + len(old.feeds)
        copied = Counter(json.loads(text)["event_id"] for text in values(engine, "SELECT properties FROM activity_log"))
        assert copied == Counter(event["event_id"] for event in found)
        # Once more from the beginning, as after its notes were lost.
        shutil.rmtree(settings.events_dir)
        shutil.copytree(tmp_path / "events", settings.events_dir)
        for mark in [*settings.events_dir.glob("*.position"), settings.events_dir / "flusher.json"]:
            mark.unlink()


def test_what_users_have_seen_is_known(settings: Settings, old: OldDataDir) -> None:
    with opened(settings.data_dir / "seen", settings.seen_megabytes << 20) as memory:
        for user in old.users:
            stored = as_entries(memory.read(user_key(user, session_number(old.session)) or b""))
            states = {int(key): int(detail) & 15 for key, detail in stored}
            wanted = {
                item_key(ITEM_TYPES.index(item_type), number): SERVED
                for feed in old.feeds
                if feed["user_id"] == user
                for item_type, number in feed["items"]
            }
            wanted |= {
                item_key(ITEM_TYPES.index(event["item_type"]), event["item_id"]): STATES[event["event"]]
                for event in old.events
                if event["user_id"] == user
            }
            assert states == wanted


def test_its_catalog_is_served_and_nothing_hidden_comes_back(settings: Settings, old: OldDataDir) -> None:
    store = CatalogStore(settings.catalog_dir, keep=1)
    version = store.current()
    assert version is not None
    assert store.verify(version) == []
    hidden = [
        [event["item_type"], event["item_id"]]
        for event in old.events
        if event["event"] == "hide" and event["user_id"] == old.users[0]
    ]
    app = make_app(old.data_dir, database_url=settings.database_url, event_flusher=False, seen_megabytes=16)
    with logs_left_alone(), served(app) as client:
        asked = {"user_id": old.users[0], "size": 50}
        body = client.post("/api/search/total", json=asked).raise_for_status().json()["body"]
    assert len(body["items"]) == 50
    assert not [item for item in body["items"] if [item["type"], item["id"]] in hidden]
