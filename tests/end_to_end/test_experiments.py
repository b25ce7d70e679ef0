"""An experiment on a service with two workers, by an operator's commands, to the rows that are left of it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from scipy.stats import binomtest

from recommendation_service.experiments.assignment import Assignment
from recommendation_service.experiments.ratio import ALARM, p_value
from recommendation_service.learning.format import SHIPPED as LEARNING
from recommendation_service.policies.policy import read_policy_file
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, recs
from tests.servers import LOOPBACK

WORKERS = 2
USERS = 240
SHARE = 0.3  # of the second arm
CERTAIN = 1e-6


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("experiments")
    load_demo(folder)
    file = folder / "learning.toml"
    file.write_text(LEARNING.read_text().replace("settle_minutes = 30.0", "settle_minutes = 0.001"))
    settings = {"LEARNER": "store", "LEARNING_FILE": str(file), "LEARN_PUBLISH_SECONDS": "3600"}
    with Service.gunicorn(folder, WORKERS, settings) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == WORKERS)
        yield service


def command(service: Service, *arguments: str) -> Any:
    done = recs(*arguments, "--json", folder=service.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def taken_up(service: Service, name: str | None) -> int:
    """By how many workers, by their log."""
    lines = [json.loads(line) for line in service.log.splitlines() if '"experiment taken up"' in line]
    return sum(line["name"] == name for line in lines)


def rows(service: Service) -> list[dict[str, Any]]:
    """Of feeds, from the database."""
    assert recs("events", "flush", folder=service.folder).returncode == 0
    path = service.folder / "events.jsonl"
    assert recs("events", "export", "--output", str(path), "--event", "feed", folder=service.folder).returncode == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def evidence(service: Service, feeds: int) -> Any:
    """Once the learner has counted so many feeds."""
    service.wait_until(lambda: service.metric("recs_experiment_feeds") >= feeds)
    return command(service, "experiment", "show")["evidence"]


@pytest.fixture(scope="module")
def bold(service: Service) -> str:
    path = service.folder / "bold.toml"
    path.write_bytes(re.sub(rb"^temperature = .*", b"temperature = 1.5", read_policy_file(), flags=re.M))
    return str(command(service, "policy", "publish", str(path), "--aside", "--why", "bolder")["version"])


def feeds(service: Service, count: int) -> None:
    """Of each user so many, each over a connection of its own: any worker may make it."""
    port = service.client.base_url.port
    for user in count * list(range(1, USERS + 1)):
        with closing(HTTPConnection(LOOPBACK, port, timeout=PATIENCE_SECONDS)) as connection:
            body = json.dumps({"SELF_ID": user, "N_VIDEOS": 2})
            connection.request("POST", "/api/search/discover", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200


def test_each_user_has_one_arm_on_every_worker_and_it_is_in_the_rows(service: Service, bold: str) -> None:
    begun = command(
        *(service, "experiment", "start", "bolder", "--why", "are bolder feeds better?"),
        *("--arm", f"control=current:{1 - SHARE:g}", "--arm", f"bold={bold}:{SHARE:g}"),
    )
    service.wait_until(lambda: taken_up(service, "bolder") == WORKERS)
    feeds(service, 2)
    service.feed("discover", SELF_ID=1, N_VIDEOS=2, personal=False)

    found = rows(service)

    versions = {f"bolder:{arm['name']}": arm["version"] for arm in begun["arms"]}
    assert versions == {"bolder:control": command(service, "policy", "list")["current"], "bolder:bold": bold}
    arms = defaultdict(set)
    for row in found:
        if row["personal"]:
            assert row["policy"] == versions[row["arm"]]
            arms[row["user_id"]].add(row["arm"])
        else:
            assert "arm" not in row
    assert len(arms) == USERS
    assert {len(of_user) for of_user in arms.values()} == {1}
    in_bold = sum("bolder:bold" in of_user for of_user in arms.values())
    assert binomtest(in_bold, USERS, SHARE).pvalue > CERTAIN
    counted = evidence(service, 2 * USERS)
    assert [(arm["people"], arm["feeds"]) for arm in counted["arms"]] == [
        (USERS - in_bold, 2 * (USERS - in_bold)),
        (in_bold, 2 * in_bold),
    ]
    assert not counted["ratio_is_off"]
    assert service.metric("recs_experiment_people", arm="bold") == in_bold
    assert service.metric("recs_experiment_ratio_p_value") == counted["ratio_p_value"]
    thinned = [USERS - in_bold, sum(next(iter(arms[user])) == "bolder:bold" for user in arms if user % 3 == 0)]
    assert p_value(thinned, [1 - SHARE, SHARE]) < ALARM


def test_what_people_did_is_counted_for_their_arm(service: Service) -> None:
    feed = service.feed("discover", SELF_ID=1, N_VIDEOS=2, explain=True)
    item = feed["items"][0]
    event = {"user_id": 1, "request_id": feed["request_id"], "event": "match", "item_id": int(item["id"])}
    answer = service.client.post("/api/feedback", json={**event, "item_type": item["type"].lower()})
    assert answer.status_code == 202, answer.text
    place = Assignment("bolder", [1 - SHARE, SHARE]).of(1, 0, "")
    service.wait_until(lambda: service.metric("recs_experiment_reward") == 1.0)
    arm = command(service, "experiment", "show")["evidence"]["arms"][place]
    assert arm["reward"] == pytest.approx(1 / arm["feeds"])


def test_a_worker_that_dies_comes_back_with_the_experiment_and_the_second_of_two_people_is_told(
    service: Service, bold: str
) -> None:
    os.kill(min(service.workers), signal.SIGKILL)
    service.wait_until(lambda: taken_up(service, "bolder") == WORKERS + 1)
    second = recs("policy", "canary", bold, "--why", "me too", folder=service.folder)
    assert second.returncode == 1
    assert "experiment bolder of " in second.stderr
    wrong = recs("experiment", "start", "a", "--arm", "a=current", "--why", "x", folder=service.folder)
    assert wrong.returncode == 2
    assert "NAME=VERSION:SHARE" in wrong.stderr
    for words in (["experiment", "show"], ["experiment", "list"], ["policy", "list"]):
        shown = recs(*words, folder=service.folder)
        assert shown.returncode == 0, shown.stderr
        assert "bolder" in shown.stdout


def test_it_is_over_once_an_arm_is_promoted(service: Service, bold: str) -> None:
    command(service, "policy", "promote", bold, "--why", "it won")
    service.wait_until(lambda: taken_up(service, None) == WORKERS)
    before = len(rows(service))
    service.feed("discover", SELF_ID=1, N_VIDEOS=2)
    last = rows(service)[before:]
    assert [(row["policy"], row.get("arm")) for row in last] == [(bold, None)]
    [over] = command(service, "experiment", "list")
    assert (over["name"], over["ended"]["why"]) == ("bolder", "it won")
    assert "Traceback" not in service.log
