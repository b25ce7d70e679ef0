"""Two machines that learn together while learners and Redis are killed: feedback comes to either, and counts once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from recommendation_service.learning.format import SHIPPED
from recommendation_service.processes.registry import LEARNER
from tests.end_to_end.service import Service, command_of, load_demo, recs
from tests.servers import LOOPBACK, PrivateRedis

FEEDS = 16
SEEN = 4  # of each feed


class Machines(list[Service]):
    settings: dict[str, str]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, module_redis: PrivateRedis) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("learning-fleet")
    file = folder / "learning.toml"
    file.write_text(SHIPPED.read_text().replace("settle_minutes = 30.0", "settle_minutes = 0.001"))
    found = Machines()
    found.settings = {
        "LEARNER": "shadow",
        "LEARNING_FILE": str(file),
        "LEARN_PUBLISH_SECONDS": "1",
        "REDIS_HOST": LOOPBACK,
        "REDIS_PORT": str(module_redis.port),
        "REDIS_USERNAME": module_redis.user,
        "REDIS_PASSWORD": module_redis.password,
        "REDIS_SPACE": "fleet",
    }
    with ExitStack() as stack:
        for number in range(2):
            load_demo(folder / f"machine-{number}")
            service = Service.gunicorn(folder / f"machine-{number}", 1, found.settings)
            found.append(stack.enter_context(service))
        for service in found:
            service.wait_until_ready()
        yield found


def kill_the_learner(service: Service) -> None:
    for pid in service.pids:
        if LEARNER.module in command_of(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def look(machine: Service, told: Service, user: int) -> int:
    """Some of a feed is seen, and with its first item it is a match, which another machine may be told; how many of
    these teach, as no other kind's pool had to stand in."""
    feed = machine.feed(SELF_ID=user, N_VIDEOS=24, explain=True)
    named = {"user_id": user, "request_id": feed["request_id"]}
    seen = [
        {"event": "impression", "item_type": item["type"].lower(), "item_id": int(item["id"]), **named}
        for item in feed["items"][:SEEN]
    ]
    answer = told.client.post("/api/feedback", json=[*seen, {**seen[0], "event": "match"}])
    assert answer.status_code == 202, answer.text
    why = [item["why"] for item in feed["items"][:SEEN]]
    return sum(one["pool"] in (one["slot"], "exploration", "seen") for one in why)


def command(machines: Machines, number: int, *arguments: str) -> Any:
    done = recs(*arguments, "--json", folder=machines[number].folder, settings=machines.settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def slots(machines: Machines) -> float:
    return sum(machine.metric("recs_learn_slots_total") for machine in machines)


def test_what_people_do_counts_once_wherever_it_comes_whatever_is_killed_when(
    machines: Machines, module_redis: PrivateRedis
) -> None:
    taught = 0
    for number in range(FEEDS):
        taught += look(machines[number % 2], machines[number // 2 % 2], 1 + number % 10)
        if number % 5 == 4:
            kill_the_learner(machines[number // 5 % 2])
        if number == FEEDS // 2:
            module_redis.kill()
            module_redis.start()  # empty

    machines[0].wait_until(lambda: slots(machines) >= taught, 120)
    assert slots(machines) == taught

    def merged(publisher: int) -> bool:
        command(machines, publisher, "learn", "--once")
        return bool(command(machines, publisher, "learn", "--status")["totals"]["version_slots"] == taught)

    machines[1].wait_until(lambda: merged(1), 120)
    status = command(machines, 1, "learn", "--status")
    assert [each["host"] for each in status["fleet"]["machines"]] == [socket.gethostname()]
    assert status["fleet"]["publisher"] == status["fleet"]["machine"]
    version = status["totals"]["version"]
    machines[0].wait_until(lambda: version in command(machines, 0, "policy", "list")["shadows"], 60)
    listed = {each["version"]: each for each in command(machines, 0, "policy", "list")["versions"]}
    assert f"learned from {taught} shown items of 2 machines" in listed[version]["why"]
    assert machines[1].metric("recs_learn_fleet_machines") == 2
    shown = recs("learn", "--status", folder=machines[1].folder, settings=machines.settings).stdout
    assert "publishes" in shown
    assert "Traceback" not in machines[0].log + machines[1].log


def test_a_machine_that_is_cut_off_says_so_and_serves(machines: Machines, module_redis: PrivateRedis) -> None:
    module_redis.kill()
    try:
        machines[0].wait_until(lambda: machines[0].metric("recs_fleet_cut_off") == 1, 60)
        machines[0].wait_until(lambda: "cut off" in machines[0].get("/ready").text, 60)
        assert machines[0].get("/ready").status_code == 200
        machines[0].feed(SELF_ID=3)
        refused = recs("policy", "publish", folder=machines[0].folder, settings=machines.settings)
        assert refused.returncode == 1
        assert "--here" in refused.stderr
    finally:
        module_redis.start()
    machines[0].wait_until(lambda: not machines[0].get("/ready").json()["problems"], 120)
