"""Feedback over HTTP: what is taken, what is refused and how, what it does to feeds, and that it is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service import bootstrap
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.redis import open_redis
from recommendation_service.log.event_log import SEGMENT_BYTES, EventLog
from recommendation_service.log.records import EVENT_NAMES, FeedbackRecord, FeedRecord, Flag, Record, decode
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory
from recommendation_service.model.item_keys import LARGEST_ITEM, RESUME, item_key
from recommendation_service.model.kinds import KINDS
from recommendation_service.ranking.seen import ACTED, IMPRESSED, SERVED, pack_detail
from recommendation_service.serving.fleet_memory import FleetMemory
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.serving.seen_store import MachineStore
from recommendation_service.telemetry.metrics import Metrics
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, sum_of_samples
from tests.servers import PrivateRedis, wait_until
from tests.support.disks import fill_disk, small_disk
from tests.support.http_contract import ask, body_of, error_of

LARGEST_ID = 2**63 - 1
SMALLEST_LOG_MEGABYTES = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo database and a catalog of it."""
    folder = tmp_path_factory.mktemp("feedback")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder / "data"


@pytest.fixture(scope="module")
def catalog(data: Path) -> Catalog:
    store = CatalogStore(data / "catalogs", keep=1)
    version = store.current()
    assert version is not None
    return store.open(version)


@pytest.fixture(scope="module")
def videos(catalog: Catalog) -> list[str]:
    return [str(number) for number in catalog.arrays.item_id[: catalog.arrays.videos]]


class Running:
    """The application, with a folder of its own."""

    def __init__(self, stores: list[MachineStore], client: httpx.Client, data_dir: Path) -> None:
        self.stores = stores
        self.client = client
        self.data_dir = data_dir

    def send(self, *events: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post("/api/feedback", json=events[0] if len(events) == 1 else events, headers=headers)

    def accept(self, *events: dict[str, Any]) -> dict[str, Any]:
        """The body of the answer, which must be 202."""
        return body_of(self.send(*events), 202)

    def feed(self, endpoint: str = "discover", **fields: Any) -> dict[str, Any]:
        return ask(self.client, endpoint, **fields)

    def shown(self, endpoint: str = "discover", **fields: Any) -> list[str]:
        return [str(item["id"]) for item in self.feed(endpoint, **fields)["items"]]

    def metric(self, name: str, **labels: str) -> float:
        return sum_of_samples(self.client.get("/metrics").text, name, **labels)

    @property
    def memory(self) -> UserMemory:
        """Of the worker that runs here."""
        [store] = self.stores
        memory = store.group.memory
        assert memory is not None
        return memory

    def recorded(self) -> list[FeedbackRecord]:
        return [record for record in records_in(self.data_dir) if isinstance(record, FeedbackRecord)]

    def recorded_as(self, event_id: str) -> FeedbackRecord:
        [record] = [record for record in self.recorded() if record.event_id == event_id]
        return record


def records_in(data_dir: Path) -> list[Record]:
    """Everything in the log, oldest first."""
    paths = sorted((data_dir / "events").glob(f"*{SUFFIX}"))
    return [decode(payload) for path in paths for payload in scan(path).payloads]


Start = Callable[..., Running]


def folder_with(data: Path, folder: Path) -> Path:
    """A DATA_DIR with that catalog, and nothing of other services."""
    (folder / "data").mkdir(parents=True)
    for name in ("interacpedia.sqlite", "catalogs"):
        (folder / "data" / name).symlink_to(data / name)
    return folder / "data"


@contextlib.contextmanager
def running(data_dir: Path, **settings: Any) -> Iterator[Running]:
    stores: list[MachineStore] = []

    class Noted(MachineStore):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            stores.append(self)

    with logs_left_alone(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MachineStore", Noted)
        with served(make_app(data_dir, event_flusher=False, **settings)) as client:
            yield Running(stores, client, data_dir)


@pytest.fixture(scope="module")
def service(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that the tests of this file share: each has users of its own."""
    with running(folder_with(data, tmp_path_factory.mktemp("shared"))) as service:
        yield service


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts one with other settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(folder_with(data, tmp_path), **settings))


_USERS = iter(range(5_000_000, 6_000_000))


@pytest.fixture
def user() -> int:
    """Somebody whom no other test knows, and the catalog neither."""
    return next(_USERS)


def event(
    user: object, item_id: object, name: str = "view", item_type: str = "resume", **fields: Any
) -> dict[str, Any]:
    return {"event": name, "user_id": user, "item_type": item_type, "item_id": item_id, **fields}


# What is taken.


def test_an_event_is_taken_and_recorded_with_all_that_was_said_of_it(
    service: Running, user: int, videos: list[str]
) -> None:
    sent = event(
        user, videos[0], "rating", value=4, request_id="0f" * 16, session_id="a tab", position=3, watch_seconds=1.5,
        timestamp=1_700_000_000, event_id=f"all of {user}",
    )  # fmt: skip
    assert service.accept(sent)["accepted"] == 1
    record = service.recorded_as(f"all of {user}")
    assert (record.event, record.user_id, record.item_id, record.value) == ("rating", user, int(videos[0]), 4.0)
    assert (record.request_id, record.session_id, record.position) == ("0f" * 16, "a tab", 3)
    assert (record.watch_seconds, record.happened_ms) == (1.5, 1_700_000_000_000)


def test_a_list_of_a_thousand_is_taken_and_recorded_in_its_order(
    service: Running, user: int, videos: list[str]
) -> None:
    sent = [event(user, videos[n % len(videos)], event_id=f"{user} {n}") for n in range(1000)]
    before = service.metric("recs_events_accepted_total", event="view")
    assert service.accept(*sent)["accepted"] == 1000
    assert [r.event_id for r in service.recorded() if r.user_id == user] == [f"{user} {n}" for n in range(1000)]
    assert service.metric("recs_events_accepted_total", event="view") == before + 1000


def test_two_users_may_have_events_of_one_id(service: Running, user: int, videos: list[str]) -> None:
    first = event(user, videos[0], event_id="tap-1")
    assert service.accept(first, event(user + 1, videos[0], event_id="tap-1"), first)["accepted"] == 2


def test_one_id_twice_in_a_call_counts_once_and_the_first_of_them_counts(
    service: Running, user: int, videos: list[str]
) -> None:
    first, second = event(user, videos[0], event_id=f"twice {user}"), event(user, videos[1], event_id=f"twice {user}")
    assert service.accept(first, second, event(user, videos[2]))["accepted"] == 2
    assert service.recorded_as(f"twice {user}").item_id == int(videos[0])


def test_an_event_without_an_id_gets_one(service: Running, user: int, videos: list[str]) -> None:
    assert service.accept(event(user, videos[0]), event(user, videos[0]))["accepted"] == 2
    ids = [record.event_id for record in service.recorded() if record.user_id == user]
    assert len(set(ids)) == 2


def test_digit_strings_are_numbers(service: Running, user: int, videos: list[str]) -> None:
    service.accept(event(str(user), videos[0], event_id=f"digits {user}"))
    record = service.recorded_as(f"digits {user}")
    assert (record.user_id, record.item_id) == (user, int(videos[0]))


def test_unknown_users_and_items_are_accepted_and_flagged_and_not_lost(
    service: Running, catalog: Catalog, user: int, videos: list[str]
) -> None:
    arrays = catalog.arrays
    known, creator = int(arrays.user_id[0]), int(arrays.creator_id[0])
    only_video = next(number for number in videos if int(number) not in arrays.item_id[arrays.videos :])
    challenge = int(arrays.item_id[-1])
    sent = {
        "a": (event(known, only_video), []),
        "b": (event(known, 10**12), ["unknown_item"]),
        "c": (event(user, only_video), ["unknown_user"]),
        "d": (event(user, LARGEST_ITEM, timestamp=1), ["unknown_user", "unknown_item", "time_clamped"]),
        "e": (event(known, only_video, item_type="challenge"), ["unknown_item"]),
        "f": (event(known, challenge, item_type="challenge"), []),
        "g": (event(known, creator, "hide", "creator"), []),
        "h": (event(known, LARGEST_ITEM, "hide", "creator"), ["unknown_item"]),
        "i": (event(0, only_video), []),
        "j": (event(LARGEST_ID, only_video), ["unknown_user"]),
    }
    before = service.metric("recs_events_flagged_total", flag="unknown_item")
    body = service.accept(*(one | {"event_id": f"{user} {name}"} for name, (one, _) in sent.items()))
    assert body["accepted"] == len(sent)
    flagged = {one["event_id"]: one["flags"] for one in body["flagged"]}
    assert flagged == {f"{user} {name}": flags for name, (_, flags) in sent.items() if flags}
    for name, (_, flags) in sent.items():
        assert service.recorded_as(f"{user} {name}").flags == sum(Flag[flag.upper()] for flag in flags)
    assert service.metric("recs_events_flagged_total", flag="unknown_item") == before + 4


def test_times_in_the_future_and_before_2000_are_clamped_and_flagged(
    service: Running, user: int, videos: list[str]
) -> None:
    body = service.accept(
        event(user, videos[0], timestamp=-1, event_id=f"past {user}"),
        event(user, videos[0], timestamp="2999-01-01T00:00:00Z", event_id=f"future {user}"),
        event(user, videos[0], timestamp="2020-02-02", event_id=f"fine {user}"),
    )
    assert {one["event_id"] for one in body["flagged"] if "time_clamped" in one["flags"]} == {
        f"past {user}", f"future {user}",
    }  # fmt: skip
    past, future = service.recorded_as(f"past {user}"), service.recorded_as(f"future {user}")
    assert past.happened_ms == 946_684_800_000
    assert future.happened_ms == future.received_ms
    assert service.recorded_as(f"fine {user}").flags & Flag.TIME_CLAMPED == 0


def test_an_event_bears_the_kind_of_slot_that_its_item_was_served_in(service: Running, user: int) -> None:
    items = service.feed("total", SELF_ID=user, N_VIDEOS=12, explain=True, session_id="s")["items"]
    service.accept(
        *(event(user, i["id"], "impression", i["type"], event_id=f"kind {user} {n}") for n, i in enumerate(items)),
        event(user, 10**9, event_id=f"kind {user} none"),
    )
    kinds = [service.recorded_as(f"kind {user} {n}").slot_kind for n in range(len(items))]
    assert kinds == [1 + KINDS.index(item["why"]["slot"]) for item in items]
    assert service.recorded_as(f"kind {user} none").slot_kind == 0
    service.accept(event(user, items[0]["id"], "like", items[0]["type"], event_id=f"later {user}"))
    assert service.recorded_as(f"later {user}").slot_kind == kinds[0]


def test_what_a_user_did_meets_what_other_machines_remember(data: Path, tmp_path: Path, user: int) -> None:
    """Redis has what another machine served, this machine what Redis was too late for: both have all afterwards, and
    the event has the kind of the slot in which the other machine served its item."""
    key = user_key(user, 0)
    assert key is not None
    now = int(time.time())

    def entries(*rows: tuple[int, int, int]) -> bytes:
        """(item, state, kind of its slot)"""
        rows_of = [(item_key(RESUME, item), pack_detail(now, 0, kind, state)) for item, state, kind in rows]
        return np.array(rows_of, np.int64).tobytes()

    def states(stored: bytes) -> dict[int, tuple[int, int]]:
        return {item >> 1: (detail & 15, detail >> 4 & 15) for item, detail in as_entries(stored).tolist()}

    with PrivateRedis(tmp_path / "redis") as server:

        async def of_fleet(theirs: bytes | None = None) -> bytes:
            guard = open_redis(load_settings(redis_host="127.0.0.1", **settings), Metrics())
            assert guard is not None
            guard.space = "shared"
            fleet = FleetMemory(guard, 1000)
            if theirs is not None:
                assert await fleet.exchange(key, b"", theirs, fleet.allowance()) == theirs
            stored = await fleet.read(key, fleet.allowance())
            await guard.close()
            assert stored is not None
            return stored

        settings: dict[str, Any] = {
            "redis_port": server.port,
            "redis_password": server.password,
            "redis_space": "shared",
            "redis_timeout_milliseconds": 1000,
        }
        asyncio.run(of_fleet(entries((11, SERVED, 3))))
        with running(folder_with(data, tmp_path), redis_host="127.0.0.1", **settings) as service:
            assert service.memory.replace(key, b"", entries((12, SERVED, 4))) is True
            service.accept(event(user, 11, "like", event_id="liked"), event(user, 12, "impression", event_id="seen"))
            wanted = {11: (ACTED, 3), 12: (IMPRESSED, 4)}
            assert states(service.memory.read(key)) == wanted
            assert states(asyncio.run(of_fleet())) == wanted
            assert [service.recorded_as(name).slot_kind for name in ("liked", "seen")] == [3, 4]

            service.accept(event(user, 13, "skip", event_id="at once"))
            assert service.memory.read(key) == asyncio.run(of_fleet())
            outcomes = {
                operation: service.metric("recs_redis_operations_total", operation=operation, outcome="done")
                for operation in ("seen_exchange", "stream_add")
            }
            assert outcomes == {"seen_exchange": 3, "stream_add": 2}  # the first call had to ask twice


# What is refused: the unit tests have every rule of the body, these the form of the answer.


def test_everything_wrong_is_named_at_once_with_the_place_of_its_event(
    service: Running, user: int, videos: list[str]
) -> None:
    answer = service.send(event(user, videos[0]), event(-1, 0, "viewed"), event(user, "x", timestamp="then"))
    error = error_of(answer, 422, "invalid_request")
    named = {detail["field"]: detail["problem"] for detail in error["details"]}
    assert set(named) == {"[1].event", "[1].item_id", "[1].user_id", "[2].item_id", "[2].timestamp"}
    assert all(name in named["[1].event"] for name in EVENT_NAMES)
    assert not [record for record in service.recorded() if record.user_id == user], "nothing of it is taken"


@pytest.mark.parametrize("count", [0, 1001])
def test_422_for_an_empty_list_and_for_more_than_1000(
    service: Running, user: int, videos: list[str], count: int
) -> None:
    answer = service.client.post("/api/feedback", json=[event(user, videos[0])] * count)
    [detail] = error_of(answer, 422, "invalid_request")["details"]
    assert detail == {"field": "body", "problem": f"must have from 1 to 1000 events, but has {count}"}
    assert not [record for record in service.recorded() if record.user_id == user]


def test_the_errors_of_a_body_are_those_of_the_contract(service: Running) -> None:
    post = service.client.post
    error_of(post("/api/feedback", content=b"{"), 400, "not_json")
    error_of(post("/api/feedback", content=b" " * ((1 << 20) + 1)), 413, "body_too_large")
    error_of(
        post("/api/feedback", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type"
    )
    assert service.client.get("/api/feedback").status_code == 405


def test_a_key_is_asked_for_where_keys_are_set_and_users_are_limited(
    start: Start, user: int, videos: list[str]
) -> None:
    service = start(api_keys=("the key",), rate_limit_per_user=0.01)
    error_of(service.send(event(user, videos[0])), 401, "unauthorized")
    headers = {"X-API-Key": "the key"}
    assert service.client.post("/api/feedback", json=event(user, videos[0]), headers=headers).status_code == 202
    limited = service.client.post("/api/feedback", json=event(user, videos[0]), headers=headers)
    error_of(limited, 429, "too_many_requests")
    assert int(limited.headers["Retry-After"]) >= 1
    assert service.client.post("/api/feedback", json=event(user + 1, videos[0]), headers=headers).status_code == 202


def test_without_recording_feedback_is_refused_and_feeds_go_on(start: Start, user: int, videos: list[str]) -> None:
    service = start(record_events=False)
    answer = service.send(event(user, videos[0]))
    error_of(answer, 503, "not_recording")
    assert int(answer.headers["Retry-After"]) >= 1
    assert len(service.shown(SELF_ID=user, N_VIDEOS=5)) == 5
    assert not (service.data_dir / "events").exists()


def test_without_memory_feedback_is_taken_and_feeds_repeat(start: Start, user: int, videos: list[str]) -> None:
    service = start(seen_state=False)
    service.accept(event(user, videos[0], "hide", event_id="hidden"))
    assert service.recorded_as("hidden").event == "hide"
    pages = [service.feed(SELF_ID=user, N_VIDEOS=len(videos)) for _ in range(2)]
    assert all(set(page["resume_ids"]) == set(videos) and "seen" not in page["relaxed"] for page in pages)


# What it does to feeds.


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_what_people_do_keeps_the_item_away_from_the_very_next_feed(
    service: Running, user: int, videos: list[str], name: str
) -> None:
    service.accept(event(user, videos[3], name, value=2))
    page = service.feed(SELF_ID=user, N_VIDEOS=len(videos) - 1)
    assert set(page["resume_ids"]) == set(videos) - {videos[3]}
    assert "seen" not in page["relaxed"]
    again = service.feed(SELF_ID=user, N_VIDEOS=len(videos))
    assert "seen" in again["relaxed"]
    assert (videos[3] in again["resume_ids"]) is (name != "hide"), "a hidden one never comes back"


def test_what_is_hidden_stays_hidden_whatever_is_done_with_it_later(
    service: Running, user: int, videos: list[str]
) -> None:
    service.accept(event(user, videos[0], "hide"))
    service.accept(event(user, videos[0], "view"), event(user, videos[0], "impression"))
    assert videos[0] not in service.shown(SELF_ID=user, N_VIDEOS=len(videos))


def test_nothing_of_a_hidden_creator_comes_back(service: Running, catalog: Catalog, user: int) -> None:
    whole = service.feed("total", SELF_ID=user, N_VIDEOS=100)["items"]
    creators = [item["user_id"] for item in whole]
    creator = max(set(creators), key=creators.count)
    service.accept(event(user, creator, "hide", "creator"))
    after = service.feed("total", SELF_ID=user, N_VIDEOS=100)["items"]
    assert len(whole) == len(catalog.arrays.item_id)
    assert {item["id"] for item in after if item["user_id"] == creator} == set()
    assert len(after) == len(whole) - creators.count(creator)


def test_a_resume_and_a_challenge_of_one_number_are_two_items(service: Running, catalog: Catalog, user: int) -> None:
    arrays = catalog.arrays
    challenge = str(arrays.item_id[-1])
    service.accept(event(user, challenge, "hide", "resume"))
    assert challenge in service.shown("flow", SELF_ID=user, N_VIDEOS=100)
    service.accept(event(user, challenge, "hide", "challenge"))
    assert challenge not in service.shown("flow", SELF_ID=user, N_VIDEOS=100)


def test_what_one_user_does_is_nothing_to_another(service: Running, user: int, videos: list[str]) -> None:
    service.accept(*(event(user, number, "hide") for number in videos[:20]))
    assert len(service.shown(SELF_ID=user, N_VIDEOS=100)) == len(videos) - 20
    assert len(service.shown(SELF_ID=next(_USERS), N_VIDEOS=100)) == len(videos)


def test_an_anonymous_person_is_remembered_by_session_and_not_without(service: Running, videos: list[str]) -> None:
    service.accept(event(0, videos[0], "hide", session_id="somebody's"), event(0, videos[1], "hide"))
    assert videos[0] not in service.shown(session_id="somebody's", N_VIDEOS=100)
    assert videos[1] in service.shown(session_id="somebody's", N_VIDEOS=100)
    assert set(service.shown(N_VIDEOS=100)) == set(videos)


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
    service, read = start(), GroupCommit.read
    others = itertools.count(1_000_000)

    def forestalled(group: GroupCommit, key: bytes) -> bytes:
        """Between what was read and what will be written, another worker serves the user something else."""
        ours = read(group, key)
        assert group.memory is not None
        there = group.memory.read(key)
        served = np.array([item_key(RESUME, next(others)), pack_detail(int(time.time()), 0, 0, SERVED)])
        assert group.memory.replace(key, there, there + served.tobytes()) is True
        return ours

    with monkeypatch.context() as patch:
        patch.setattr(GroupCommit, "read", forestalled)
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
