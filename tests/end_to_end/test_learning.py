"""A service that learns: feedback by HTTP becomes a policy version, while its learner is killed again and again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from recommendation_service.learning.format import SHIPPED
from recommendation_service.processes.registry import LEARNER
from tests.end_to_end.service import Service, command_of, load_demo, recs

FEEDS = 40
SEEN = 4  # of each feed
SAVED = 3  # feeds of which the operator's application writes down that an item was saved


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("learning")
    load_demo(folder)
    file = folder / "learning.toml"
    file.write_text(SHIPPED.read_text().replace("settle_minutes = 30.0", "settle_minutes = 0.001"))
    settings = {
        "LEARNER": "shadow",
        "LEARNING_FILE": str(file),
        "LEARN_PUBLISH_SECONDS": "1",
        "DECISION_SHARE": "1",
    }
    with Service.gunicorn(folder, 2, settings) as service:
        service.wait_until_ready()
        yield service


def learners(service: Service) -> set[int]:
    return {pid for pid in service.pids if LEARNER.module in command_of(pid)}


def kill_the_learner(service: Service) -> None:
    for pid in learners(service):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def look(service: Service, user: int, saved: bool = False) -> int:
    """Some of a feed is seen, and with its first item it is a match, which the operator's application writes down too;
    how many of these teach, as no other kind's pool had to stand in. ``saved``: by that application alone."""
    feed = service.feed(SELF_ID=user, N_VIDEOS=24, explain=True)
    named = {"user_id": user, "request_id": feed["request_id"]}
    seen = [
        {"event": "impression", "item_type": item["type"].lower(), "item_id": int(item["id"]), **named}
        for item in feed["items"][:SEEN]
    ]
    answer = service.client.post("/api/feedback", json=[*seen, {**seen[0], "event": "match"}])
    assert answer.status_code == 202, answer.text
    write_down(service, "matches", "status", "accepted", seen[0])
    if saved:
        write_down(service, "likes", "type", "save", seen[0])
    why = [item["why"] for item in feed["items"][:SEEN]]
    return sum(one["pool"] in (one["slot"], "exploration", "seen") for one in why)


def write_down(service: Service, table: str, column: str, says: str, what: dict[str, Any]) -> None:
    statement = f"INSERT INTO {table} (user_id, model_id, {column}, created_at) VALUES (?, ?, ?, ?)"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    with closing(sqlite3.connect(service.folder / "data" / "interacpedia.sqlite", timeout=30)) as database, database:
        database.execute(statement, (what["user_id"], what["item_id"], says, now))


def command(service: Service, *arguments: str) -> Any:
    done = recs(*arguments, "--json", folder=service.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_people_do_becomes_a_version_whatever_is_killed_when(service: Service) -> None:
    taught = 0
    for number in range(FEEDS):
        taught += look(service, 1 + number % 10, saved=number < SAVED)
        if number % 8 == 4:
            service.wait_until(lambda: bool(learners(service)))
            kill_the_learner(service)

    service.wait_until(lambda: service.metric("recs_learn_slots_total") >= taught, 60)
    service.wait_until(lambda: service.metric("recs_learn_events_total", source="table:likes") >= SAVED, 60)
    assert command(service, "learn", "--once")["error"] is None
    totals = command(service, "learn", "--status")["totals"]
    assert sum(totals["slots"].values()) == taught
    assert totals["events"].pop("save") == {"table:likes": SAVED}
    assert totals["events"].pop("match")["request"] == FEEDS
    assert totals["events"] == {"impression": {"request": FEEDS * SEEN}}
    left = {reason for reason in totals["left"] if not reason.startswith("row_")}  # the demo's rows are from before
    assert left <= {"again"}, "each match is in both"
    assert totals["version_slots"] == taught

    listed = command(service, "policy", "list")
    assert listed["current"] is None
    assert listed["shadows"] == [totals["version"]]
    assert f"learned from {taught} shown items: " in listed["versions"][0]["why"]
    told = recs("policy", "diff", "ships", totals["version"], folder=service.folder).stdout
    assert "counts " in told
    assert " instead of " in told


def test_it_is_served_once_it_is_promoted_and_learning_goes_on(service: Service) -> None:
    version = command(service, "policy", "list")["versions"][0]["version"]
    command(service, "policy", "promote", version, "--why", "looks right")
    service.wait_until(lambda: service.metric("recs_policy_swaps_total") >= 2)
    before = service.metric("recs_learn_slots_total")
    taught = sum(look(service, user) for user in range(1, 5))
    assert taught
    service.wait_until(lambda: service.metric("recs_learn_slots_total") == before + taught, 60)
    assert command(service, "policy", "list")["current"] == version


def test_a_second_learner_is_refused_and_what_is_refused_is_told(service: Service) -> None:
    second = recs("learn", folder=service.folder)
    assert second.returncode == 1
    assert "runs already" in second.stderr
    anew = recs("learn", "--anew", folder=service.folder)
    assert anew.returncode == 1
    assert "'learn'" in anew.stderr
    assert "Traceback" not in service.log
