"""The memory of what users have seen, full, damaged or without a disk, beside a running service: hides hold, or are not
acknowledged, and the service mends itself."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.memory.answers import answer_key
from recommendation_service.memory.changes import Change
from recommendation_service.memory.entries import Entries
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, opened
from recommendation_service.ranking.seen import EPOCH, HIDDEN, SERVED
from tests.end_to_end.service import ADMIN_TOKEN, Service, load_demo
from tests.support.disks import fill_disk, small_disk

LIMIT_MEGABYTES = 16
SETTINGS = {"SEEN_MEGABYTES": str(LIMIT_MEGABYTES)}
ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
USERS = itertools.count(5_000)


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("memory-trouble")
    load_demo(folder, scale=0.2)
    with Service.uvicorn(folder, SETTINGS) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def service(shared_service: Service) -> Service:
    """With a memory that is new."""
    begin_anew(shared_service)
    return shared_service


def begin_anew(service: Service) -> None:
    (service.data_dir / "seen").rename(service.data_dir / "seen-before")
    shutil.rmtree(service.data_dir / "seen-before")
    service.wait_until((service.data_dir / "seen" / "lmdb" / "data.mdb").exists)
    service.wait_until(lambda: hide_holds(service))


def feedback(service: Service, event: str, user: int, item: Any, kind: str = "resume") -> httpx.Response:
    content = {"event": event, "user_id": user, "item_type": kind, "item_id": item}
    return service.client.post("/api/feedback", json=content)


def hide_holds(service: Service) -> bool:
    """Whether what a user hides is acknowledged, and then shown no more."""
    user = next(USERS)
    first = service.feed(SELF_ID=user, N_VIDEOS=1)["items"][0]
    if feedback(service, "hide", user, first["id"], first["type"]).status_code != 202:
        return False
    for _ in range(3):
        items = service.feed(SELF_ID=user, N_VIDEOS=24)["items"]
        assert (first["type"], first["id"]) not in {(item["type"], item["id"]) for item in items}
    return True


def entries(count: int, state: int) -> Entries:
    detail = (int(time.time()) - EPOCH) << 32 | state
    return np.array([(2 * item, detail) for item in range(1, count + 1)], np.int64)


def fill(memory: UserMemory, what: Entries, most: int, *, is_deed: bool) -> int:
    """With entries of so many users at most; how many found room."""
    for number in range(most):
        name = answer_key(f"{is_deed} {number} {time.time_ns()}")
        [outcome] = memory.replace_all([Change(name, b"", what.tobytes(), is_deed=is_deed)])
        if isinstance(outcome, MemoryFailed):
            return number
    return most


def test_in_a_full_memory_the_oldest_gives_way_and_a_hide_holds(service: Service) -> None:
    """Another process of the machine, as other workers do, fills it over and over."""
    with opened(service.data_dir / "seen", LIMIT_MEGABYTES << 20) as memory:

        def is_filled_twice() -> bool:
            fill(memory, entries(24, SERVED), 2_000, is_deed=False)
            assert hide_holds(service)
            return service.metric("recs_seen_evicted_total", state="served") > 24 * 20_000

        service.wait_until(is_filled_twice, 120)
    assert service.metric("recs_seen_limit_bytes") == LIMIT_MEGABYTES << 19
    service.wait_until(lambda: service.metric("recs_seen_bytes") < LIMIT_MEGABYTES << 19)


def test_a_hide_that_finds_no_room_is_not_acknowledged(service: Service) -> None:
    with opened(service.data_dir / "seen", LIMIT_MEGABYTES << 20) as memory:
        assert fill(memory, entries(24, HIDDEN), 100_000, is_deed=True) < 100_000
    before = service.metric("recs_memory_failures_total")
    refused = feedback(service, "hide", next(USERS), 1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_remembered")
    assert refused.headers["Retry-After"] == "5"
    taken = feedback(service, "like", next(USERS), 1)
    assert taken.status_code == 202
    assert "not_remembered" in taken.json()["body"]["flagged"][0]["flags"]
    body = {"SELF_ID": next(USERS), "N_VIDEOS": 2}
    feed = service.client.post("/api/search/total", json=body, headers={"Idempotency-Key": "full"})
    assert (feed.status_code, feed.headers["Idempotency-Key-Kept"]) == (200, "false")
    assert service.metric("recs_memory_failures_total") >= before + 3

    begin_anew(service)
    feed = service.client.post("/api/search/total", json=body, headers={"Idempotency-Key": "full"})
    assert "Idempotency-Key-Kept" not in feed.headers


def test_a_memory_that_is_damaged_while_it_is_used_is_begun_anew(service: Service) -> None:
    damaged = service.metric("recs_seen_damaged_total")
    with opened(service.data_dir / "seen", LIMIT_MEGABYTES << 20) as memory:
        fill(memory, entries(24, SERVED), 5_000, is_deed=False)
        used = memory.used_bytes
    with (service.data_dir / "seen" / "lmdb" / "data.mdb").open("r+b") as file:
        file.seek(16384)
        file.write(bytes(used - 16384))

    def is_found() -> bool:
        hide_holds(service)
        return service.metric("recs_seen_damaged_total") > damaged

    service.wait_until(is_found, 60)
    assert (service.data_dir / "seen" / "damaged").is_dir()
    service.wait_until(lambda: hide_holds(service))


def test_a_memory_whose_lock_file_is_gone_is_begun_anew(service: Service) -> None:
    """Others may have written to it at the same time, with a lock of their own."""
    damaged = service.metric("recs_seen_damaged_total")
    (service.data_dir / "seen" / "lmdb" / "lock.mdb").unlink()
    with opened(service.data_dir / "seen", LIMIT_MEGABYTES << 20) as memory:
        fill(memory, entries(24, SERVED), 500, is_deed=False)
    service.wait_until(lambda: service.metric("recs_seen_damaged_total") > damaged, 60)
    service.wait_until(lambda: hide_holds(service))


def test_a_memory_whose_folder_cannot_be_used_is_taken_up_once_it_can(service: Service) -> None:
    seen = service.data_dir / "seen"
    seen.rename(service.data_dir / "seen-before")
    seen.write_text("no folder")
    shutil.rmtree(service.data_dir / "seen-before")
    service.wait_until(lambda: service.metric("recs_seen_open") == 0)
    before = service.metric("recs_memory_failures_total")
    assert len(service.feed(SELF_ID=next(USERS))["items"]) == 24
    assert feedback(service, "hide", next(USERS), 1).status_code == 503
    assert service.metric("recs_memory_failures_total") == before + 2
    assert service.client.delete("/api/users/77", headers=ADMINISTRATOR).status_code == 503

    seen.unlink()
    service.wait_until(lambda: hide_holds(service))


def test_a_worker_that_starts_on_a_full_disk_remembers_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data", 48):
        load_demo(tmp_path, scale=0.1)
        with Service.uvicorn(tmp_path, SETTINGS) as service:
            service.wait_until_ready()
        shutil.rmtree(service.data_dir / "seen")
        for segment in (service.data_dir / "events").glob("*.segment"):
            segment.unlink()
        fill_disk(ballast := service.data_dir / "ballast")
        with Service.uvicorn(tmp_path, SETTINGS) as service:
            service.wait_until_ready()
            assert service.metric("recs_seen_open") == 0
            assert len(service.feed(SELF_ID=next(USERS))["items"]) == 24
            assert feedback(service, "hide", next(USERS), 1).status_code == 503
            assert service.metric("recs_memory_failures_total") >= 2
            ballast.unlink()
            service.wait_until(lambda: service.metric("recs_seen_open") == 1)
            service.wait_until(lambda: hide_holds(service))
            served = [service.feed(SELF_ID=4_999, N_VIDEOS=8)["items"] for _ in range(2)]
            one, other = ({(item["type"], item["id"]) for item in items} for items in served)
            assert not one & other
