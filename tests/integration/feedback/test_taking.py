"""Feedback over HTTP: what is taken, and what is refused and how."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.catalog.store import Catalog
from recommendation_service.core.config import load_settings
from recommendation_service.core.redis import open_redis
from recommendation_service.log.records import Flag
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.model.item_keys import LARGEST_ITEM, item_key
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.words import EVENT_NAMES
from recommendation_service.ranking.seen import ACTED, IMPRESSED, SERVED, pack_detail
from recommendation_service.serving.fleet_memory import FleetMemory
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import PrivateRedis
from tests.support.feedback import Running, Start, event, folder_with, running
from tests.support.http_contract import error_of

LARGEST_ID = 2**63 - 1


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
    only_video = next(number for number in videos if int(number) not in arrays.item_id[arrays.worded :])
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
                assert await fleet.exchange_all([(key, b"", theirs)], fleet.allowance()) == [theirs]
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
