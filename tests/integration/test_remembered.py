"""What a running service tells of one person: all that there is, from wherever it is, and nothing of anybody else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.learning.format import SHIPPED, load_learning
from recommendation_service.learning.learner import Learner
from recommendation_service.log.records import Record
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, recs
from tests.servers import PrivateRedis
from tests.support.events import feed, write_segment
from tests.support.http_contract import ask, body_of, error_of
from tests.support.redis_workers import redis_settings
from tests.unit.learning.test_learner import SETTLED_MS, shown

TOKEN = "a token that only administrators know"
ADMINISTRATOR = {"Authorization": f"Bearer {TOKEN}"}
OTHER, NOBODY = 8_000_001, 8_000_002


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("remembered")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder


@pytest.fixture(autouse=True)
def calls_as_often_as_a_test_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommendation_service.api.people.CALLS_PER_SECOND", 0)


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    options = {"event_flusher": False, "admin_token": TOKEN, "decision_share": 1.0} | settings
    with logs_left_alone(), served(make_app(folder / "data", **options)) as client:
        yield client


def told(client: httpx.Client, user: int, **parameters: Any) -> dict[str, Any]:
    return body_of(client.get(f"/api/users/{user}", params=parameters, headers=ADMINISTRATOR), 200)


def known_user(folder: Path) -> int:
    store = CatalogStore(folder / "data" / "catalogs", keep=1)
    arrays = store.open(str(store.current())).arrays
    return int(arrays.user_id[int(np.argmax(np.diff(arrays.history_offsets)))])


def act(client: httpx.Client, user: int, session: str) -> tuple[str, int]:
    """A feed, and a view and a hide of what it showed: its request_id, and the item that was viewed."""
    shown = ask(client, "discover", SELF_ID=user, N_VIDEOS=5, session_id=session)
    [viewed, hidden, *_] = [item["id"] for item in shown["items"]]
    common = {"user_id": user, "item_type": "resume", "request_id": shown["request_id"], "session_id": session}
    events = [
        common | {"event": "view", "item_id": viewed, "event_id": f"view-{user}-{session}"},
        common | {"event": "hide", "item_id": hidden, "event_id": f"hide-{user}-{session}"},
    ]
    assert client.post("/api/feedback", json=events).status_code == 202
    return shown["request_id"], viewed


def forget(client: httpx.Client, user: int) -> tuple[int, int]:
    """How many events were in the database, and how many in the log."""
    body = body_of(client.delete(f"/api/users/{user}", headers=ADMINISTRATOR), 200)
    return body["events"], body["waiting"]


def test_a_person_is_told_everything_and_nothing_of_another(folder: Path) -> None:
    user = known_user(folder)
    with serving(folder) as client:
        act(client, OTHER, "other")
        request_id, viewed = act(client, user, "mine")
        waiting = told(client, user)
        assert (waiting["waiting"], waiting["events"], waiting["next"]) == (3, [], None)
        assert {event["event"] for event in waiting["waiting_events"]} == {"feed", "view", "hide"}
        assert recs("events", "flush", folder=folder).returncode == 0
        body = told(client, user)
        pages = [told(client, user, most=2)]
        pages.append(told(client, user, most=2, page=pages[0]["next"]))
        nobody = told(client, NOBODY)
        anonymous_events = told(client, 0, session_id="mine")
        removed = [forget(client, user)]
        forgotten = told(client, user)
        act(client, OTHER, "waits")
        removed += [forget(client, OTHER), forget(client, OTHER)]

    # Of the other 3 are in the database and 3 in the log, where they stay until they are read.
    assert removed == [(3, 0), (3, 3), (0, 3)]
    assert len(body["catalog"]["history"]) > 0
    assert (body["waiting"], body["waiting_events"], body["dead_letters"], body["fleet_seen"]) == (0, [], 0, None)
    [feed] = [event for event in body["events"] if event["event"] == "feed"]
    assert (feed["request_id"], len(feed["slots"]), feed["personal"]) == (request_id, 5, True)
    assert {event["user_id"] for event in body["events"]} == {user}
    states = {item["state"]: item for item in body["seen"]}
    assert [item["id"] for item in body["seen"] if item["state"] == "acted"] == [viewed]
    assert set(states) == {"served", "acted", "hidden"}
    assert all(item["at"].endswith("Z") and item["type"] == "resume" for item in body["seen"])
    assert (body["decisions"], body["latest_decisions"][0]["request_id"]) == (1, request_id)
    assert str(OTHER) not in json.dumps(body)

    assert [len(page["events"]) for page in pages] == [2, 1]
    assert pages[1]["next"] is None
    assert pages[0]["events"] + pages[1]["events"] == body["events"]

    empty = {"seen": [], "events": [], "waiting": 0, "decisions": 0, "dead_letters": 0, "catalog": None}
    for found in (nobody, anonymous_events):
        assert {name: found[name] for name in empty} == empty
    assert {name: forgotten[name] for name in empty if name != "catalog"} | {"catalog": None} == empty


@pytest.fixture
def learning(folder: Path) -> Iterator[Callable[[Sequence[Record]], Settings]]:
    """Teaches the machine what its log does not have; the sums are gone after the test."""
    made = Settings(data_dir=folder / "data")

    def teach(records: Sequence[Record]) -> Settings:
        path = write_segment(made.events_dir, records)
        learner = Learner(made, load_learning(), lambda: SETTLED_MS / 1000)
        while learner.step():
            pass
        learner.close()
        path.unlink()
        return made

    yield teach
    shutil.rmtree(made.learning_dir, ignore_errors=True)


def test_a_person_who_is_forgotten_is_told_how_much_of_them_stays_learned_also_with_the_learner_off(
    folder: Path, learning: Callable[[Sequence[Record]], Settings], tmp_path: Path
) -> None:
    """And before that, what of the sums is theirs."""
    mine, other = feed(6, user_id=OTHER + 30), feed(6, user_id=NOBODY)

    def stays(**settings: Any) -> float | None:
        with serving(folder, **settings) as client:
            answer = client.delete(f"/api/users/{mine.user_id}", headers=ADMINISTRATOR)
        found: float | None = body_of(answer, 200)["learned_stays"]
        return found

    assert stays(learner="off") is None, "nothing was ever learned here"
    learning([mine, other, *(shown(mine, place) for place in range(3)), shown(mine, 1, "match"), shown(other, 0)])
    with serving(folder, learner="off") as client:
        kept, nobody = told(client, mine.user_id)["learner"], told(client, OTHER + 31)["learner"]
    assert kept["learned_slots"] == pytest.approx(3)
    assert kept["learned_reward"] == pytest.approx(1)
    assert (kept["pending_feeds"], kept["pending_events"]) == (1, 4)
    assert set(nobody.values()) == {0}

    file = tmp_path / "learning.toml"
    file.write_text(SHIPPED.read_text().replace("person_slots = 1000.0", "person_slots = 40.0"))
    assert stays(learner="off") == stays(learner="shadow") == 1000
    assert stays(learner="off", learning_file=file) == 40
    file.write_text("no TOML")
    assert stays(learner="off", learning_file=file) == 1000


def test_an_anonymous_person_is_told_what_a_session_has(folder: Path) -> None:
    with serving(folder) as client:
        act(client, 0, "another tab")
        request_id, viewed = act(client, 0, "tab")
        body = told(client, 0, session_id="tab")
    assert {event["session_id"] for event in body["waiting_events"]} == {"tab"}
    assert request_id in {event["request_id"] for event in body["waiting_events"]}
    assert viewed in {item["id"] for item in body["seen"] if item["state"] == "acted"}


def test_with_redis_what_the_fleet_remembers_is_told_too(folder: Path, redis: PrivateRedis) -> None:
    settings = redis_settings(redis)
    named = {name: getattr(settings, name) for name in settings.model_fields_set}
    with serving(folder, **named) as client:
        act(client, OTHER + 10, "mine")
        body = told(client, OTHER + 10)
        assert body["fleet_seen"] == body["seen"] != []
        assert body["cached_facts"] is None
    environment = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "REDIS_USERNAME": redis.user,
        "REDIS_PASSWORD": redis.password,
        "REDIS_TIMEOUT_MILLISECONDS": "1000",
    }
    printed = recs("data", "user", str(OTHER + 10), "--json", folder=folder, settings=environment).stdout
    found = json.loads(printed)
    assert (found["seen"], found["fleet_seen"]) == (body["seen"], body["fleet_seen"])


def test_the_command_tells_the_same_without_a_service(folder: Path) -> None:
    user = OTHER + 20
    with serving(folder) as client:
        act(client, user, "mine")
        body = told(client, user)
    found = json.loads(recs("data", "user", str(user), "--json", folder=folder).stdout)
    assert found == body
    assert "events that wait in the log" in recs("data", "user", str(user), folder=folder).stdout
    assert "Nothing is remembered" in recs("data", "user", str(NOBODY), folder=folder).stdout
    wrong = recs("data", "user", "0", folder=folder)
    assert (wrong.returncode, "--session" in wrong.stderr) == (2, True)


def test_only_administrators_are_told_and_what_they_ask_wrongly(folder: Path) -> None:
    with serving(folder) as client:
        assert client.get("/api/users/5").status_code == 401
        assert client.get("/api/users/5", headers={"Authorization": "Bearer x"}).status_code == 403
        for path, field in (
            ("/api/users/0", "session_id"),
            ("/api/users/5?session_id=a", "session_id"),
            ("/api/users/5?most=0", "most"),
            ("/api/users/5?page=20260101", "page"),
            ("/api/users/-1", "user_id"),
        ):
            error = error_of(client.get(path, headers=ADMINISTRATOR), 422, "invalid_request")
            assert [detail["field"] for detail in error["details"]] == [field]
        assert client.put("/api/users/5").headers["Allow"] == "DELETE, GET, HEAD"
    with serving(folder, admin_token=None) as client:
        assert client.get("/api/users/5").status_code == 403


def test_it_is_told_once_a_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommendation_service.api.people.CALLS_PER_SECOND", 0.01)
    with serving(folder) as client:
        statuses = [client.get("/api/users/5", headers=ADMINISTRATOR).status_code for _ in range(2)]
    assert statuses == [200, 429]
