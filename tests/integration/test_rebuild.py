"""What users have seen comes back when the machine's memory is lost: from recs_events, and from the log before that."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service.events.user_memory import BOOT_FILE, UserMemory, as_entries, user_key
from tests.end_to_end.service import ADMIN_TOKEN, Service, load_demo, recs

ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
USER = 77
USER_IN_NO_NUMBER = 987654321  # that a log would have by chance


def shown(feed: dict[str, list[dict[str, Any]]]) -> set[tuple[str, int]]:
    return {(item["type"], item["id"]) for item in feed["items"]}


def is_rebuilt(service: Service) -> bool:
    memory = UserMemory(service.data_dir / "seen", 64 << 20)
    try:
        return memory.is_rebuilt()
    finally:
        memory.close()


@pytest.mark.parametrize("flushed", [True, False], ids=["from-the-database", "from-the-log"])
def test_a_lost_memory_is_read_again(tmp_path: Path, *, flushed: bool) -> None:
    load_demo(tmp_path, scale=0.2)
    settings = {"SEEN_MEGABYTES": "64"}
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
        service.wait_until(lambda: is_rebuilt(service))
        if flushed:
            done = recs("events", "flush", folder=tmp_path, settings=settings)
            assert done.returncode == 0, done.stderr
        for pid in service.pids:
            os.kill(pid, signal.SIGKILL)  # so that no last flush is made
        service.process.wait(30)

    shutil.rmtree(tmp_path / "data" / "seen")
    with Service.gunicorn(tmp_path, 2, settings) as service:
        service.wait_until_ready()
        service.wait_until(lambda: is_rebuilt(service))
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
    with Service.gunicorn(tmp_path, 1, {"SEEN_MEGABYTES": "64"}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: is_rebuilt(service))
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
