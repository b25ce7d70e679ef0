"""Two machines and one Redis: no repeats across them, one answer to one Idempotency-Key, and a lost disk's events."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from recommendation_service.demo import load_invented
from recommendation_service.doctor.redis_server import PROBES
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.user_memory import UserMemory
from tests.end_to_end.service import ADMIN_TOKEN, Service, recs
from tests.servers import PrivateRedis, wait_until

FLUSH_SECONDS = 1
PAGE = 12  # items; the demo has a few hundred


@pytest.fixture(scope="module")
def database(module_mariadb_url: sqlalchemy.URL) -> str:
    engine = sqlalchemy.create_engine(module_mariadb_url)
    load_invented(engine, scale=0.1)
    engine.dispose()
    return module_mariadb_url.render_as_string(hide_password=False)


def redis_of(redis: PrivateRedis) -> dict[str, str]:
    return {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "REDIS_USERNAME": redis.user,
        "REDIS_PASSWORD": redis.password,
    }


class Fleet:
    """Machines of two workers each, that share a database and a Redis."""

    def __init__(self, stack: ExitStack, folder: Path, database: str, redis: PrivateRedis, machines: int) -> None:
        settings = {
            "DATABASE_URL": database,
            **redis_of(redis),
            "REDIS_TIMEOUT_MILLISECONDS": "200",  # a busy test machine is no reason to do without
            "FLUSH_INTERVAL_SECONDS": str(FLUSH_SECONDS),
            "CATALOG_REFRESH_SECONDS": "3600",
            "SEEN_MEGABYTES": "64",
        }
        self.machines = [
            stack.enter_context(Service.gunicorn(folder / f"machine-{number}", 2, settings))
            for number in range(machines)
        ]
        for machine in self.machines:
            machine.wait_until_ready()


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, database: str, module_redis: PrivateRedis
) -> Iterator[list[Service]]:
    """The last test of this file takes it apart."""
    with ExitStack() as stack:
        yield Fleet(stack, tmp_path_factory.mktemp("fleet"), database, module_redis, 2).machines


def told(fleet: list[Service]) -> list[str]:
    """What Redis did for each machine, for a failure's message."""
    return [
        line
        for machine in fleet
        for line in machine.get("/metrics").text.splitlines()
        if line.startswith(
            ("recs_redis_operations_total", "recs_feeds_ranked_again_total", "recs_memory_failures_total")
        )
    ]


def shown(body: dict[str, Any]) -> list[tuple[str, int]]:
    return [(item["type"], item["id"]) for item in body["items"]]


def test_a_user_who_is_served_by_several_machines_sees_nothing_twice(
    fleet: list[Service], module_redis: PrivateRedis
) -> None:
    seen: set[tuple[str, int]] = set()

    def scroll(machine: Service) -> None:
        body = machine.feed(SELF_ID=5, session_id="scroll", N_VIDEOS=PAGE)
        assert "seen" not in body["relaxed"]
        assert not seen & set(shown(body)), told(fleet)
        seen.update(shown(body))

    for machine in (*fleet, *fleet):
        scroll(machine)
    module_redis.kill()
    # Without Redis a user who stays with a machine sees nothing twice: that one was told of all before.
    for _ in range(2):
        scroll(fleet[1])
    module_redis.start()  # empty
    for user, machine in enumerate(fleet, start=6):
        machine.wait_until(lambda machine=machine, user=user: tells_redis(machine, module_redis, user))
    scroll(fleet[1])  # tells Redis what it showed meanwhile
    for machine in (*fleet, *fleet):
        scroll(machine)
    assert len(seen) == 11 * PAGE


def tells_redis(machine: Service, module_redis: PrivateRedis, user: int) -> bool:
    """Whether the machine has found out that Redis is there again."""
    machine.feed(SELF_ID=user)
    return int(module_redis.execute("EXISTS", key_of(module_redis, user))[1:]) == 1


def key_of(redis: PrivateRedis, user: int) -> str:
    """Of what the fleet remembers of a user."""
    return f"{space_in(redis)}seen:{{{b'u'.hex()}{user:016x}}}"


def stream_in(redis: PrivateRedis) -> str:
    return f"{space_in(redis)}events"


def space_in(redis: PrivateRedis) -> str:
    """With which the fleet's keys begin: all machines have found the same."""
    script = (
        "local found, names = {}, {} "
        "for _, key in ipairs(redis.call('KEYS', 'recs:*')) do found[string.match(key, '^recs:[^:]*:')] = 1 end "
        "for name in pairs(found) do names[#names + 1] = name end return table.concat(names, ' ')"
    )
    spaces = redis.execute("EVAL", script, "0").split()
    assert len(spaces) <= 1, spaces
    return spaces[0] if spaces else "recs:none:"


def test_two_machines_that_serve_one_user_at_once_show_different_items(fleet: list[Service]) -> None:
    with ThreadPoolExecutor(8) as clients:
        feeds = list(
            clients.map(
                lambda n: fleet[n % 2].client.post(
                    "/api/search/total", json={"SELF_ID": 9, "N_VIDEOS": PAGE, "session_id": f"tab-{n % 2}"}
                ),
                range(8),
            )
        )
    items = [item for feed in feeds for item in shown(feed.json()["body"])]
    assert len(items) == 8 * PAGE
    assert len(set(items)) == len(items), told(fleet)


def test_one_idempotency_key_has_one_answer_on_all_machines(fleet: list[Service]) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(
                lambda n: fleet[n % 2].client.post(
                    "/api/search/total", json={"SELF_ID": 11}, headers={"Idempotency-Key": "one"}
                ),
                range(8),
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def test_what_one_machine_was_told_to_hide_is_hidden_on_the_other(fleet: list[Service]) -> None:
    item = fleet[0].feed(SELF_ID=13)["items"][0]
    hide = {"event": "hide", "user_id": 13, "item_type": "creator", "item_id": item["user_id"]}
    assert fleet[0].client.post("/api/feedback", json=hide).status_code == 202
    for _ in range(3):
        assert item["user_id"] not in {shown["user_id"] for shown in fleet[1].feed(SELF_ID=13, N_VIDEOS=100)["items"]}


def test_what_one_machine_is_told_to_forget_the_others_forget_too(fleet: list[Service], database: str) -> None:
    user = 41
    for machine in fleet:
        machine.feed(SELF_ID=user, N_VIDEOS=PAGE)
    answer = fleet[0].client.delete(f"/api/users/{user}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    assert answer.status_code == 200
    assert answer.json()["body"]["fleet_told"] is True
    engine = sqlalchemy.create_engine(database)
    try:
        for machine in fleet:
            machine.wait_until(lambda machine=machine: remembered(machine, user) == 0, 60)

        def rows() -> int:
            query = sqlalchemy.text("SELECT COUNT(*) FROM recs_events WHERE user_id = :user")
            with engine.connect() as connection:
                return int(connection.execute(query, {"user": user}).scalar_one())

        assert wait_until(lambda: rows() == 0, 30)
        # It is no ban: what comes after is remembered and recorded.
        fleet[1].feed(SELF_ID=user, N_VIDEOS=PAGE)
        assert remembered(fleet[1], user) == PAGE
        assert wait_until(lambda: rows() == 1, 60)
    finally:
        engine.dispose()


def remembered(machine: Service, user: int) -> int:
    key = user_key(user, 0)
    assert key is not None
    memory = UserMemory(machine.data_dir / "seen", 64 << 20)
    try:
        return len(as_entries(memory.read(key)))
    finally:
        memory.close()


def test_a_user_whose_key_holds_anything_else_is_served_heard_and_remembered_again(
    fleet: list[Service], module_redis: PrivateRedis
) -> None:
    hide = {"event": "hide", "user_id": 17, "item_type": "resume", "item_id": 3}
    for spoil in (("SET", "7 bytes"), ("SET", "x" * 32), ("HSET", "field", "value")):
        for method in ("feed", "feedback"):
            for machine in fleet:
                machine.feed(SELF_ID=17)
            before = sum(machine.metric("recs_redis_damaged_total", kind="seen") for machine in fleet)
            key = key_of(module_redis, 17)
            module_redis.execute("DEL", key)
            module_redis.execute(spoil[0], key, *spoil[1:])
            if method == "feed":
                fleet[0].feed(SELF_ID=17)
            else:
                assert fleet[1].client.post("/api/feedback", json=hide).status_code == 202
            assert module_redis.execute("TYPE", key) == "+string"
            assert int(module_redis.execute("STRLEN", key)[1:]) % 16 == 0
            assert sum(machine.metric("recs_redis_damaged_total", kind="seen") for machine in fleet) == before + 1


def test_a_policy_that_is_decided_on_one_machine_is_served_on_the_other_within_seconds(
    fleet: list[Service], database: str, module_redis: PrivateRedis
) -> None:
    settings = {**redis_of(module_redis), "DATABASE_URL": database}
    for machine, other in (fleet, fleet[::-1]):
        done = recs("policy", "publish", "--json", folder=machine.folder, settings=settings)
        assert done.returncode == 0, done.stderr
        version = json.loads(done.stdout)["version"]
        other.wait_until(lambda other=other, version=version: policy_of(other) == version, 60)
        assert "recs_fleet_cut_off 0.0" in other.get("/metrics").text


def policy_of(machine: Service) -> str | None:
    try:
        return (machine.data_dir / "policies" / "CURRENT").read_text().strip()
    except FileNotFoundError:
        return None


def test_a_machines_own_flush_takes_its_entries_off_the_stream_and_every_key_has_an_end(
    fleet: list[Service], module_redis: PrivateRedis
) -> None:
    events = [{"event": "view", "user_id": 31, "item_type": "resume", "item_id": number} for number in range(1, 6)]
    for machine in fleet:
        machine.feed(SELF_ID=31)
        assert machine.client.post("/api/feedback", json=events).status_code == 202
    assert wait_until(lambda: module_redis.execute("XLEN", stream_in(module_redis)) == ":0", 30)
    fleet[0].client.post("/api/search/total", json={"SELF_ID": 31}, headers={"Idempotency-Key": "ends"})
    ends = module_redis.execute(
        "EVAL",
        "local without = {} for _, key in ipairs(redis.call('KEYS', '*')) do "
        "if redis.call('TTL', key) < 0 then table.insert(without, key) end end return cjson.encode(without)",
        "0",
    )
    assert json.loads(ends) in ([], {}), ends


def test_the_user_of_the_guide_may_do_all_that_the_service_does_and_the_doctor_tries_all_of_it(
    fleet: list[Service], module_redis: PrivateRedis
) -> None:
    for machine in fleet:
        machine.feed(SELF_ID=31)
        event = {"event": "view", "user_id": 31, "item_type": "resume", "item_id": 1}
        assert machine.client.post("/api/feedback", json=event).status_code == 202
    assert wait_until(lambda: module_redis.execute("XLEN", "recs:events") == ":0", 30), "and the flushers took it off"

    lines = re.findall(
        r"cmdstat_(\S+?):calls=(\d+),.*rejected_calls=(\d+)", module_redis.execute("INFO", "commandstats")
    )
    tried = {"|".join(str(word) for word in probe[: 2 if probe[0] in {"SCRIPT", "XGROUP"} else 1]) for probe in PROBES}
    ours = {"auth", "ping", "info", "flushall", "script|flush", "xlen", "keys", "ttl", "exists", "strlen"}
    ours.add("hset")  # of a script; it has no form that changes nothing

    assert [name for name, _, rejected in lines if int(rejected)] == []
    assert {name for name, _, _ in lines} - ours <= {name.lower() for name in tried}


def test_the_events_of_a_machine_that_lost_its_disk_reach_the_database(
    fleet: list[Service], database: str, module_redis: PrivateRedis
) -> None:
    lost, other = fleet
    lost.wait_until(lambda: bool(flushers(lost)))
    for pid in flushers(lost):
        os.kill(pid, signal.SIGSTOP)  # so that it cannot flush before its end
    events = [
        {"event": "view", "user_id": 21, "item_type": "resume", "item_id": number, "event_id": f"lost-{number}"}
        for number in range(1, 41)
    ]
    assert lost.client.post("/api/feedback", json=events).json()["body"]["accepted"] == 40
    for pid in lost.pids:
        os.kill(pid, signal.SIGKILL)
    lost.process.wait(30)
    shutil.rmtree(lost.data_dir)

    engine = sqlalchemy.create_engine(database)
    try:

        def rows(table: str, condition: str) -> int:
            with engine.connect() as connection:
                return int(
                    connection.execute(sqlalchemy.text(f"SELECT COUNT(*) FROM {table} WHERE {condition}")).scalar_one()
                )

        other.wait_until(lambda: rows("recs_events", "event_id LIKE 'lost-%'") == 40, 60)
        assert rows("activity_log", 'properties LIKE \'%"event_id":"lost-%\'') == 40
    finally:
        engine.dispose()
    assert wait_until(lambda: module_redis.execute("XLEN", stream_in(module_redis)) == ":0", 30), (
        "and is off the stream"
    )


def flushers(service: Service) -> list[int]:
    return [
        pid
        for pid in service.pids
        if b"recommendation_service.flush.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
