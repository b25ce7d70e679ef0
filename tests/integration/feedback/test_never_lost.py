"""What was acknowledged is never lost, and what finds no room is refused."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.log.event_log import SEGMENT_BYTES, EventLog
from recommendation_service.log.records import FeedbackRecord, FeedRecord
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_entries import Stored
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory
from recommendation_service.model.item_keys import item_key
from recommendation_service.ranking.seen import SERVED, pack_detail
from recommendation_service.serving.group_commit import GroupCommit
from tests.end_to_end.service import PATIENCE_SECONDS, Service
from tests.servers import wait_until
from tests.support.disks import fill_disk, small_disk
from tests.support.feedback import Running, Start, event, folder_with, records_in, running
from tests.support.http_contract import error_of

SMALLEST_LOG_MEGABYTES = 32


# Never lost.


def test_what_was_acknowledged_is_in_the_log_though_the_worker_is_killed_at_once(
    data: Path, tmp_path: Path, videos: list[str]
) -> None:
    folder_with(data, tmp_path)
    acknowledged: list[str] = []
    with Service.uvicorn(tmp_path, {"CATALOG_REFRESHER": "false", "EVENT_FLUSHER": "false"}) as service:
        service.wait_until_ready()

        def send(sender: int) -> None:
            with httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS) as client:
                for call in range(10_000):
                    ids = [f"{sender} {call} {n}" for n in range(7)]
                    sent = [event(sender + 1, videos[0], event_id=one) for one in ids]
                    try:
                        answer = client.post("/api/feedback", json=sent)
                        assert answer.status_code == 202, answer.text
                        acknowledged.extend(ids)
                        client.post("/api/search/total", json={"SELF_ID": sender + 1})
                    except httpx.TransportError:
                        return

        senders = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for sender in senders:
            sender.start()
        assert wait_until(lambda: len(acknowledged) > 500, PATIENCE_SECONDS)
        os.kill(service.process.pid, signal.SIGKILL)
        for sender in senders:
            sender.join(PATIENCE_SECONDS)
    records = records_in(tmp_path / "data")
    found = [record.event_id for record in records if isinstance(record, FeedbackRecord)]
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    assert any(isinstance(record, FeedRecord) for record in records)
    for path in (tmp_path / "data" / "events").glob(f"*{SUFFIX}"):
        read = scan(path)
        assert (read.damaged, read.torn, read.finished) == (0, False, True)


def test_a_disk_that_fails_is_no_acknowledgement(
    start: Start, user: int, videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start()

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "_sync", fails)
        answer = service.send(event(user, videos[0], event_id="lost"))
        error_of(answer, 503, "not_durable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert len(service.shown(SELF_ID=user, N_VIDEOS=5)) == 5
    assert service.metric("recs_events_refused_total") == 1
    assert service.accept(event(user, videos[0], event_id="kept"))["accepted"] == 1
    assert service.recorded_as("kept").user_id == user


def test_who_meets_another_worker_at_each_attempt_is_answered_and_counted(
    start: Start, user: int, videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, read, read_all, stored = start(), GroupCommit.read, GroupCommit.read_all, GroupCommit.stored
    others = itertools.count(1_000_000)

    def serve_another(group: GroupCommit, key: bytes) -> None:
        assert group.memory is not None
        there = group.memory.read(key)
        served = np.array([item_key(RESUME, next(others)), pack_detail(int(time.time()), 0, 0, SERVED)])
        assert group.memory.replace(key, there, there + served.tobytes()) is True

    def forestalled(group: GroupCommit, key: bytes) -> bytes:
        """Between what was read and what will be written, another worker serves the user something else."""
        ours = read(group, key)
        serve_another(group, key)
        return ours

    def stored_forestalled(group: GroupCommit, key: bytes) -> Stored:
        ours = stored(group, key)
        serve_another(group, key)
        return ours

    def all_forestalled(group: GroupCommit, keys: Sequence[bytes]) -> list[bytes]:
        ours = read_all(group, keys)
        for key in keys:
            serve_another(group, key)
        return ours

    with monkeypatch.context() as patch:
        patch.setattr(GroupCommit, "read", forestalled)
        patch.setattr(GroupCommit, "stored", stored_forestalled)
        patch.setattr(GroupCommit, "read_all", all_forestalled)
        assert service.accept(event(user, videos[0], event_id="kept"))["accepted"] == 1
        assert service.metric("recs_memory_failures_total") == 1
        assert len(service.shown(SELF_ID=user, N_VIDEOS=5)) == 5
        assert service.metric("recs_memory_failures_total") == 2
    assert service.recorded_as("kept").user_id == user


# No room.


def refused_for_want_of_room(service: Running, *events: dict[str, Any]) -> None:
    before = service.metric("recs_events_refused_total")
    answer = service.send(*events)
    error_of(answer, 503, "backlog_full")
    assert int(answer.headers["Retry-After"]) >= 1
    assert service.metric("recs_events_refused_total") == before + len(events)


def feeds_go_on_unrecorded(service: Running, user: int) -> None:
    before = service.metric("recs_feeds_unrecorded_total")
    first, second = service.shown(SELF_ID=user, N_VIDEOS=10), service.shown(SELF_ID=user, N_VIDEOS=10)
    assert len(first) == len(second) == 10
    assert not set(first) & set(second), "what was shown is remembered all the same"
    assert service.metric("recs_feeds_unrecorded_total") == before + 2


def taken_again(service: Running, *events: dict[str, Any]) -> None:
    assert wait_until(lambda: service.send(*events).status_code == 202, PATIENCE_SECONDS)


def make_backlog(service: Running, size: int) -> Path:
    """A segment of another worker, so large."""
    path = service.data_dir / "events" / f"0-1{SUFFIX}"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_past_the_bound_of_the_backlog_feedback_waits_and_feeds_go_on(
    start: Start, user: int, videos: list[str]
) -> None:
    service = start(event_log_megabytes=SMALLEST_LOG_MEGABYTES)
    backlog = make_backlog(service, (SMALLEST_LOG_MEGABYTES << 20) - SEGMENT_BYTES + 1)
    refused_for_want_of_room(service, event(user, videos[0], event_id="first"))
    feeds_go_on_unrecorded(service, user)
    backlog.unlink()  # as the flusher does
    taken_again(service, event(user, videos[0], event_id="second"))
    assert [record.event_id for record in service.recorded()] == ["second"]


def test_of_a_list_that_finds_no_room_nothing_is_taken(start: Start, user: int, videos: list[str]) -> None:
    """Else those events without an id of the client's would be there twice, once it has sent them again."""
    service = start(event_log_megabytes=SMALLEST_LOG_MEGABYTES)
    make_backlog(service, (SMALLEST_LOG_MEGABYTES << 20) - SEGMENT_BYTES)  # room for one segment
    batch = [event(user, videos[0], request_id="r" * 100) for _ in range(1000)]
    taken = 0
    while (answer := service.send(*batch)).status_code == 202:
        taken += 1000
    error_of(answer, 503, "backlog_full")
    assert taken > 0
    assert len(service.recorded()) == taken


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "fault",
    [lambda folder: small_disk(folder, 3), lambda _: largest_file(3 << 20)],
    ids=["full-disk", "file-size-limit"],
)
def test_a_disk_without_room_for_events_refuses_them_and_feeds_go_on(
    start: Start, user: int, videos: list[str], fault: Callable[[Path], AbstractContextManager[None]]
) -> None:
    service = start()
    with fault(service.data_dir / "events"):
        refused_for_want_of_room(service, event(user, videos[0], event_id="first"), event(user, videos[1]))
        feeds_go_on_unrecorded(service, user)
    taken_again(service, event(user, videos[0], event_id="second"))
    assert [record.event_id for record in service.recorded()] == ["second"]


def test_a_memory_that_cannot_be_opened_is_done_without(
    data: Path, tmp_path: Path, user: int, videos: list[str]
) -> None:
    data_dir = folder_with(data, tmp_path)
    (data_dir / "seen").write_text("no folder")
    with running(data_dir) as service:
        assert len(service.shown(SELF_ID=user, N_VIDEOS=5)) == 5
        assert service.accept(event(user, videos[0], event_id="taken"))["accepted"] == 1
        assert service.recorded_as("taken").user_id == user


def test_where_the_memory_is_full_the_oldest_gives_way_and_what_was_hidden_stays_hidden(
    start: Start, user: int, videos: list[str]
) -> None:
    service = start(seen_megabytes=16)
    service.accept(event(user, videos[0], "hide"))
    fill(service.memory, beside=user)
    assert wait_until(lambda: service.metric("recs_seen_evicted_total", state="acted") > 0, 60)
    page = service.feed(SELF_ID=user, N_VIDEOS=len(videos))
    assert set(page["resume_ids"]) == set(videos[1:])
    assert service.accept(event(user, videos[1], "hide", event_id="taken"))["accepted"] == 1
    assert service.recorded_as("taken").event == "hide"
    assert service.metric("recs_requests_total", status="500") == 0


def fill(memory: UserMemory, beside: int) -> None:
    """With the entries of neighbours, until none fit any more."""
    size, number = 16 * 12, beside
    while size:
        number += 1
        key = user_key(number, 0)
        assert key is not None
        try:
            memory.replace(key, b"", bytes(size))
        except MemoryFailed:
            size -= 16


def test_where_the_memorys_disk_is_full_feeds_go_on_and_it_remembers_again_once_there_is_room(
    data: Path, tmp_path: Path, user: int, videos: list[str]
) -> None:
    data_dir = folder_with(data, tmp_path)
    with small_disk(data_dir / "seen", 3), running(data_dir) as service:
        service.accept(event(user, videos[0], "hide"))
        fill_disk(ballast := data_dir / "seen" / "ballast")
        fill(service.memory, beside=user)
        before = service.metric("recs_memory_failures_total")
        page = service.feed(SELF_ID=user, N_VIDEOS=len(videos))
        assert service.metric("recs_memory_failures_total") > before, "there was room: this proves nothing"
        assert set(page["resume_ids"]) == set(videos[1:])
        ballast.unlink()
        shown = service.shown(SELF_ID=user, N_VIDEOS=10) + service.shown(SELF_ID=user, N_VIDEOS=10)
        assert len(set(shown)) == 20
