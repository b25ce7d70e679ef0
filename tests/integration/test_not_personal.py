"""Feeds that are not personal, of a running service: by request, and of whoever is in the operator's table."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine, text

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.model.features import FEATURE_NAMES
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, recs, sum_of_samples
from tests.servers import PrivateRedis, wait_until
from tests.support.http_contract import ask, body_of
from tests.support.redis_workers import redis_settings

TOKEN = "a token that only administrators know"
ADMINISTRATOR = {"Authorization": f"Bearer {TOKEN}"}
LISTED_OUTSIDER = 7_654_321
# What the user decides, but for a similarity that is the same for all items where no skills are known.
OF_THE_USER = FEATURE_NAMES[6:9]


class Operator:
    """The demo's database, with a table of who is left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"not_personal_table": "opted_out"}
        database = folder / "data" / "interacpedia.sqlite"
        self._engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)
        self.run("CREATE TABLE opted_out (user_id INTEGER)")
        self.users = self._with_a_past()

    def run(self, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement))

    def _with_a_past(self) -> list[int]:
        store = CatalogStore(self.folder / "data" / "catalogs", keep=1)
        arrays = store.open(str(store.current())).arrays
        lengths = np.diff(arrays.history_offsets)
        return [int(user) for user in arrays.user_id[np.argsort(-lengths)[:20]]]

    @contextmanager
    def service(self, **settings: Any) -> Iterator[httpx.Client]:
        options = self.settings | {"event_flusher": False, "admin_token": TOKEN} | settings
        with logs_left_alone(), served(make_app(self.folder / "data", **options)) as client:
            yield client

    def fingerprint(self) -> str:
        """What the refresher goes by."""
        settings = Settings(data_dir=self.folder / "data", **self.settings)
        return Source(make_engine(settings), settings).fingerprint(datetime(2026, 12, 24, tzinfo=UTC))

    def build(self) -> None:
        """As the refresher does, at once."""
        publish_catalog(Settings(data_dir=self.folder / "data", **self.settings))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("not-personal")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder


@pytest.fixture
def operator(built: Path, tmp_path: Path) -> Operator:
    shutil.copytree(built / "data" / "catalogs", tmp_path / "data" / "catalogs")
    shutil.copy(built / "data" / "interacpedia.sqlite", tmp_path / "data")
    return Operator(tmp_path)


def personal_terms(client: httpx.Client, user: int, **fields: Any) -> float:
    """What a feed's features say of its user, in all: nothing where it is not personal."""
    items = ask(client, "total", SELF_ID=user, explain=True, **fields)["items"]
    return float(sum(item["why"]["features"][name] for item in items for name in OF_THE_USER))


def metric(client: httpx.Client, name: str) -> float:
    return sum_of_samples(client.get("/metrics").text, name)


def is_personal(client: httpx.Client, request_id: str) -> object:
    answer = client.get(f"/api/explain/{request_id}", headers=ADMINISTRATOR)
    return body_of(answer, 200)["personal"]


def is_listed(client: httpx.Client, user: int) -> object:
    """As the person is told."""
    return body_of(client.get(f"/api/users/{user}", headers=ADMINISTRATOR), 200)["not_personal"]


def previewed(client: httpx.Client, user: int) -> float:
    feed = body_of(client.get(f"/api/users/{user}/preview", headers=ADMINISTRATOR), 200)["feed"]
    return float(sum(item["why"]["features"][name] for item in feed["items"] for name in OF_THE_USER))


def test_a_request_may_ask_for_a_feed_that_is_not_personal_and_nothing_comes_twice(operator: Operator) -> None:
    user, *_ = operator.users
    with operator.service(not_personal_table=None) as client:
        one = ask(client, "discover", SELF_ID=user, N_VIDEOS=8, personal=False)
        other = ask(client, "discover", SELF_ID=user, N_VIDEOS=8)
        assert not {item["id"] for item in one["items"]} & {item["id"] for item in other["items"]}
        assert [is_personal(client, feed["request_id"]) for feed in (one, other)] == [False, True]
        assert personal_terms(client, user) > 0
        assert personal_terms(client, user, personal=False) == 0


def test_one_idempotency_key_is_for_a_feed_that_is_personal_or_for_one_that_is_not(operator: Operator) -> None:
    with operator.service() as client:
        for personal, status in ((True, 200), (False, 409), (None, 200)):
            body = {"SELF_ID": 5, "personal": personal}
            answer = client.post("/api/search/total", json=body, headers={"Idempotency-Key": "once"})
            assert answer.status_code == status


def test_whoever_is_in_the_table_gets_feeds_that_are_not_personal_and_stays_in_it_when_it_is_lost(
    operator: Operator,
) -> None:
    """Who is in the catalog and who is not; a running service takes the list up with the next build."""
    listed, other, *_ = operator.users
    operator.build()
    with operator.service() as client:
        assert wait_until(lambda: metric(client, "recs_problems") == 0, 30)
        assert personal_terms(client, listed) > 0
        before = operator.fingerprint()
        operator.run(f"INSERT INTO opted_out VALUES ({listed}), ({LISTED_OUTSIDER})")
        assert operator.fingerprint() != before
        operator.build()
        assert wait_until(lambda: metric(client, "recs_not_personal_users") == 2, 30)
        operator.run("DROP TABLE opted_out")
        operator.build()
        assert wait_until(lambda: "2 users who were last read" in client.get("/ready").text, 30)
        for user in (listed, LISTED_OUTSIDER):
            assert personal_terms(client, user, personal=True) == 0
            assert not is_personal(client, ask(client, "flow", SELF_ID=user)["request_id"])
        assert previewed(client, listed) == 0
        assert personal_terms(client, other) > 0
        assert is_personal(client, ask(client, "flow", SELF_ID=other)["request_id"])
    environment = {"NOT_PERSONAL_TABLE": "opted_out"}
    made = recs("feed", str(listed), folder=operator.folder, settings=environment).stdout
    assert made.startswith(f"Feed of user {listed} (not personal), catalog")
    shown = json.loads(recs("catalog", "show", "--json", folder=operator.folder).stdout)
    assert shown["report"]["not_personal"]["users"] == 2
    assert "2 users in NOT_PERSONAL_TABLE" in recs("catalog", "show", folder=operator.folder).stdout


def test_until_the_table_was_read_once_nobodys_feed_is_personal(operator: Operator) -> None:
    """A catalog of before it was named, and one that was built while it could not be read."""
    user, *_ = operator.users
    operator.run("DROP TABLE opted_out")
    with operator.service() as client:
        assert "nobody's feed is personal" in client.get("/ready").text
        assert personal_terms(client, user) == 0
        assert is_listed(client, user)
        operator.build()
        assert wait_until(lambda: "cannot be read, and never was" in client.get("/ready").text, 30)
        assert personal_terms(client, user) == 0
        operator.run("CREATE TABLE opted_out (user_id INTEGER)")
        operator.build()
        assert wait_until(lambda: metric(client, "recs_problems") == 0, 30)
        assert personal_terms(client, user) > 0
        time.sleep(1)  # one person is told of in a second
        assert not is_listed(client, user)


def test_with_redis_other_machines_facts_make_no_feed_personal(operator: Operator, redis: PrivateRedis) -> None:
    listed, *_ = operator.users
    operator.run(f"INSERT INTO opted_out VALUES ({listed})")
    operator.build()
    settings = redis_settings(redis)
    with operator.service(**{name: getattr(settings, name) for name in settings.model_fields_set}) as client:
        assert personal_terms(client, listed) == 0
