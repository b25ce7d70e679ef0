"""What users have seen comes back where a machine does not have it: from recs_events as they come, and from the log."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy

from recommendation_service.demo import load_invented
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.memory_file import BOOT_FILE
from recommendation_service.memory.user_memory import UserMemory
from tests.end_to_end.service import ADMIN_TOKEN, Service, load_demo, recs
from tests.servers import LOOPBACK, PrivateMariaDB

ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
PATIENT = {"USER_READ_TIMEOUT_MILLISECONDS": "10000"}  # however slow the machine is
USER = 77
USERS = [11, 12, 13]
DATABASE = "interacpedia"
USER_IN_NO_NUMBER = 987654321  # that a log would have by chance


class Before(NamedTuple):
    items: set[Any]
    hidden: int  # a creator


def shown(feed: dict[str, list[dict[str, Any]]]) -> set[tuple[str, int]]:
    return {(item["type"], item["id"]) for item in feed["items"]}


def is_log_read(service: Service) -> bool:
    memory = UserMemory(service.data_dir / "seen", 64 << 20)
    try:
        return memory.is_log_read()
    finally:
        memory.close()


@pytest.mark.parametrize("flushed", [True, False], ids=["from-the-database", "from-the-log"])
def test_a_lost_memory_is_read_again(tmp_path: Path, *, flushed: bool) -> None:
    load_demo(tmp_path, scale=0.2)
    settings = {"SEEN_MEGABYTES": "64", **PATIENT}
    with Service.gunicorn(tmp_path, 2, settings) as service:
        service.wait_until_ready()
        before = shown(service.feed(SELF_ID=USER)) | shown(service.feed(SELF_ID=USER))
        kind, number = sorted(before)[0]
        hidden_creator = service.feed(SELF_ID=USER + 1)["items"][0]["user_id"]
        events = [
            {"event": "like", "user_id": USER, "item_type": kind, "item_id": number},
            {"event": "hide", "user_id": USER, "item_type": "creator", "item_id": hidden_creator},
        ]
        assert service.client.post("/api/feedback", json=events).status_code == 202
        if flushed:
            done = recs("events", "flush", folder=tmp_path, settings=settings)
            assert done.returncode == 0, done.stderr
        for pid in service.pids:
            os.kill(pid, signal.SIGKILL)  # so that no last flush is made
        service.process.wait(30)

    shutil.rmtree(tmp_path / "data" / "seen")
    with Service.gunicorn(tmp_path, 2, settings) as service:
        service.wait_until_ready()
        if not flushed:
            service.wait_until(lambda: is_log_read(service))
        after = [service.feed(SELF_ID=USER) for _ in range(3)]
        for feed in after:
            assert "seen" not in feed["relaxed"]
            assert not before & shown(feed)
            assert hidden_creator not in {item["user_id"] for item in feed["items"]}


def test_after_a_restart_of_the_machine_it_is_not_trusted_and_read_again(tmp_path: Path) -> None:
    load_demo(tmp_path, scale=0.2)
    with Service.gunicorn(tmp_path, 1, {"SEEN_MEGABYTES": "64"}) as service:
        service.wait_until_ready()
        before = shown(service.feed(SELF_ID=USER))
        assert service.stop() == 0
    (tmp_path / "data" / "seen" / BOOT_FILE).write_text("1 another boot")
    with Service.gunicorn(tmp_path, 1, {"SEEN_MEGABYTES": "64", **PATIENT}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: is_log_read(service))
        assert not before & shown(service.feed(SELF_ID=USER))


def test_a_user_is_forgotten_everywhere_and_says_what_was_removed(tmp_path: Path) -> None:
    load_demo(tmp_path, scale=0.2)
    with Service.gunicorn(tmp_path, 2, {"SEEN_MEGABYTES": "64"}) as service:
        service.wait_until_ready()
        first = service.feed(SELF_ID=USER_IN_NO_NUMBER)
        event = {"event": "view", "user_id": USER_IN_NO_NUMBER, "item_type": "resume", "item_id": 3}
        assert service.client.post("/api/feedback", json=event).status_code == 202
        assert recs("events", "flush", folder=tmp_path).returncode == 0
        assert explained(service, first["request_id"]).status_code == 200
        later = service.feed(SELF_ID=USER_IN_NO_NUMBER)["request_id"]  # in the log only
        kept = service.feed(SELF_ID=78)["request_id"]

        answer = service.client.delete(f"/api/users/{USER_IN_NO_NUMBER}", headers=ADMINISTRATOR)
        assert answer.status_code == 200, answer.text
        removed = answer.json()["body"]
        assert removed["user_id"] == USER_IN_NO_NUMBER
        assert removed["remembered_items"] == len(shown(first)) + 1 + 24 - (("resume", "3") in shown(first))
        assert removed["events"] == 2
        memory = UserMemory(service.data_dir / "seen", 64 << 20)
        key = user_key(USER_IN_NO_NUMBER, 0)
        assert key is not None
        assert len(as_entries(memory.read(key))) == 0
        memory.close()

        assert recs("events", "flush", folder=tmp_path).returncode == 0
        assert explained(service, first["request_id"]).status_code == 404
        assert explained(service, later).status_code == 404
        assert explained(service, kept).status_code == 200
        # What comes after is remembered again.
        again = service.feed(SELF_ID=USER_IN_NO_NUMBER)
        assert not shown(again) & shown(service.feed(SELF_ID=USER_IN_NO_NUMBER))
        assert shown(explained(service, again["request_id"]).json()["body"]) == shown(again), "ids are numbers in both"
        assert str(USER_IN_NO_NUMBER) not in service.log


def explained(service: Service, request_id: str) -> httpx.Response:
    return service.client.get(f"/api/explain/{request_id}", headers=ADMINISTRATOR)


# A machine that is new beside a large recs_events.

OTHERS = 40_000  # rows of other users


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """With the demo, what users did on another machine, and much of others. Not the server of the whole run: it is
    frozen here."""
    folder = tmp_path_factory.mktemp("past-mariadb")
    with PrivateMariaDB(folder) as server:
        engine = sqlalchemy.create_engine(server.url(DATABASE), poolclass=sqlalchemy.NullPool)
        load_invented(engine, scale=0.1)
        engine.dispose()
        yield server
    shutil.rmtree(folder)


def settings_for(database: PrivateMariaDB) -> dict[str, str]:
    return {
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": database.user,
        "MYSQL_PASSWORD": database.password,
        "MYSQL_DB": DATABASE,
        "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
        "MYSQL_READ_TIMEOUT_SECONDS": "2",
        "SEEN_MEGABYTES": "64",
    }


@pytest.fixture(scope="module")
def before(database: PrivateMariaDB, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Before]:
    """What three users saw and hid on a machine that is not there any more."""
    folder, settings = tmp_path_factory.mktemp("past-before"), settings_for(database)
    with Service.uvicorn(folder, settings) as service:
        service.wait_until_ready()
        found = {}
        for user in USERS:
            feed = service.feed(SELF_ID=user, N_VIDEOS=12)
            hidden = feed["items"][0]["user_id"]
            hide = {"event": "hide", "user_id": user, "item_type": "creator", "item_id": hidden}
            assert service.client.post("/api/feedback", json=hide).status_code == 202
            found[user] = Before(shown(feed), hidden)
        assert recs("events", "flush", folder=folder, settings=settings).returncode == 0
    digits = " UNION ALL ".join(f"SELECT {digit} AS n" for digit in range(10))
    numbers = " CROSS JOIN ".join(f"({digits}) AS d{place}" for place in range(5))
    database.execute(
        f"INSERT INTO {DATABASE}.recs_events (event_id, event, user_id, item_type, item_id, flags, happened_at, "
        "received_at, flush_id) SELECT CONCAT('other ', seq), 'view', 1000000 + seq % 5000, 'resume', seq % 100 + 1, "
        "0, UTC_TIMESTAMP(3), UTC_TIMESTAMP(3), 0 FROM "
        f"(SELECT d0.n + 10 * d1.n + 100 * d2.n + 1000 * d3.n + 10000 * d4.n AS seq FROM {numbers}) AS numbers "
        f"WHERE seq < {OTHERS}"
    )
    return found


def test_a_new_machine_flushes_at_once_and_knows_whoever_comes_back(
    database: PrivateMariaDB, before: dict[int, Before], tmp_path: Path
) -> None:
    settings = settings_for(database) | PATIENT
    with Service.uvicorn(tmp_path, settings) as service:
        service.wait_until_ready()
        event = {"event": "view", "user_id": 1, "item_type": "resume", "item_id": 3, "event_id": "on the new one"}
        assert service.client.post("/api/feedback", json=event).status_code == 202
        service.wait_until(lambda: service.metric("recs_events_waiting") == 1)
        assert recs("events", "flush", folder=tmp_path, settings=settings).returncode == 0
        for feed in (service.feed(SELF_ID=USERS[0], N_VIDEOS=12) for _ in range(2)):
            assert not before[USERS[0]].items & shown(feed)
            assert before[USERS[0]].hidden not in {item["user_id"] for item in feed["items"]}
        # One who does something before asking for a feed.
        event = {"event": "view", "user_id": USERS[1], "item_type": "resume", "item_id": 3}
        assert service.client.post("/api/feedback", json=event).status_code == 202
        feed = service.feed(SELF_ID=USERS[1], N_VIDEOS=12)
        assert not before[USERS[1]].items & shown(feed)
        assert before[USERS[1]].hidden not in {item["user_id"] for item in feed["items"]}
        # Nobody is read but who came.
        memory = UserMemory(service.data_dir / "seen", 64 << 20)
        assert memory.users() <= 4
        memory.close()
        assert service.metric("recs_past_reads_total", outcome="found") == 2


def test_where_the_database_has_nothing_older_than_the_memory_new_users_are_not_read(tmp_path: Path) -> None:
    """An operator's first day: each read would cost a new user's first feed more than ranking it."""
    load_demo(tmp_path, scale=0.1)
    settings = {"SEEN_MEGABYTES": "64", **PATIENT}
    for asked_for in (1, 0):  # the second service finds it noted, beside rows that the first one left
        with Service.uvicorn(tmp_path, settings) as service:
            service.wait_until_ready()
            for user in USERS:
                service.feed(SELF_ID=user + asked_for * 1000)
            assert service.metric("recs_past_reads_total", outcome="nothing") == asked_for
            assert service.metric("recs_past_reads_total", outcome="found") == 0
            assert recs("events", "flush", folder=tmp_path, settings=settings).returncode == 0


def test_who_comes_back_while_the_database_hangs_is_known_once_it_goes_on(
    database: PrivateMariaDB, before: dict[int, Before], tmp_path: Path
) -> None:
    user = USERS[2]
    with Service.uvicorn(tmp_path, settings_for(database)) as service:
        service.wait_until_ready()
        database.pause()
        try:
            first = service.feed(SELF_ID=user, N_VIDEOS=4)
            assert len(first["items"]) == 4
        finally:
            database.resume()
        service.wait_until(
            lambda: sum(service.metric("recs_past_reads_total", outcome=name) for name in ("found", "owed")) >= 1
        )
        feed = service.feed(SELF_ID=user, N_VIDEOS=12)
        assert not (before[user].items | shown(first)) & shown(feed)
        assert before[user].hidden not in {item["user_id"] for item in feed["items"]}
