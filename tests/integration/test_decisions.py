"""Decisions of a running service: which feeds have one, how they come out, how they are forgotten, and a disk that
takes none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service.core.config import Settings
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.log.decisions import MOST_BYTES, DecisionRecord, read_decisions
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import PolicyStore
from recommendation_service.ranking.decisions import recorded_propensities, unpack_decision
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, recs, sum_of_samples

TOKEN = "a token that only administrators know"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("decisions")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    with logs_left_alone():
        app = make_app(folder / "data", event_flusher=False, admin_token=TOKEN, **settings)
        with served(app) as client:
            yield client


def ask(client: httpx.Client, user: int, *, explain: bool = False) -> dict[str, Any]:
    answer = client.post("/api/search/total", json={"SELF_ID": user, "N_VIDEOS": 24, "explain": explain})
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()["body"]
    return body


def recorded(folder: Path, user: int) -> list[DecisionRecord]:
    return [record for record in read_decisions(folder / "data" / "decisions") if record.user_id == user]


def counted(client: httpx.Client, name: str) -> float:
    return sum_of_samples(client.get("/metrics").text, name)


def test_feeds_that_chance_chooses_have_decisions_until_their_user_is_forgotten(folder: Path) -> None:
    with serving(folder, decision_share=1) as client:
        shown = [ask(client, user) for user in (11, 12, 11)]
        mine = recorded(folder, 11)
        assert [record.request_id.hex() for record in mine] == [shown[0]["request_id"], shown[2]["request_id"]]
        for record in mine:
            assert (record.drawn, record.share, record.size) == (True, 1.0, 24)
            assert len(record.packed) <= MOST_BYTES
        decision = unpack_decision(mine[0].packed)
        assert [str(slot.item >> 1) for slot in decision.slots] == shown[0]["mix_ids"]
        served_with = [slot.propensity for slot in decision.slots]
        assert recorded_propensities(decision) == pytest.approx(served_with, rel=0, abs=1e-9)
        exported = recs(*("events", "export", "--what", "decisions", "--user", "11"), folder=folder).stdout.splitlines()
        assert [json.loads(line)["request_id"] for line in exported] == [record.request_id.hex() for record in mine]
        assert len(json.loads(exported[0])["slots"]) == 24

        answer = client.delete("/api/users/11", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.json()["body"]["decisions"] == 2
        assert recorded(folder, 11) == []
        assert len(recorded(folder, 12)) == 1


def followed(folder: Path, reader: str, user: int) -> list[dict[str, Any]]:
    """A user's feeds in the log, as somebody who reads it for the first time finds them."""
    lines = recs(*("events", "follow", reader, "--once"), folder=folder).stdout.splitlines()
    return [event for event in map(json.loads, lines) if (event["event"], event["user_id"]) == ("feed", user)]


def test_feeds_are_recorded_with_their_shadows_until_their_user_is_forgotten(folder: Path) -> None:
    store, deed = PolicyStore(folder / "data" / "policies", keep=10), Deed(datetime.now(UTC), "ana@desk", "to see")
    same = store.publish(read_policy_file(), None, deed, aside=True)
    bold = store.publish(read_policy_file().replace(b"alpha = ", b"alpha = 1"), None, deed, aside=True)
    store.shadow([same, bold], deed)
    try:
        with serving(folder) as client:
            shown = [ask(client, user) for user in (51, 52)]
            (mine,) = followed(folder, "before", 51)
            assert mine["request_id"] == shown[0]["request_id"]
            assert [shadow["policy"] for shadow in mine["shadows"]] == [same, bold]
            served_with = [slot["propensity"] for slot in mine["slots"]]
            assert mine["shadows"][0]["propensities"] == served_with
            assert mine["shadows"][1]["propensities"] != served_with
            assert len(mine["shadows"][1]["propensities"]) == 24
            client.delete("/api/users/51", headers={"Authorization": f"Bearer {TOKEN}"})
            assert followed(folder, "after", 51) == []
            assert len(followed(folder, "later", 52)) == 1
    finally:
        store.shadow([], deed)


def test_what_clients_ask_to_explain_is_marked_and_limited(folder: Path) -> None:
    with serving(folder, decision_share=0) as client:
        for _ in range(5):
            ask(client, 21, explain=True)
            ask(client, 21)
        some = recorded(folder, 21)
        assert 1 <= len(some) < 5
        assert not any(record.drawn for record in some)
        assert counted(client, "recs_decisions_total") == len(some)


def test_a_disk_that_takes_no_decision_is_counted_and_feeds_go_on(folder: Path) -> None:
    (folder / "data" / "decisions").rename(folder / "decisions")
    (folder / "data" / "decisions").touch()  # where a folder should be
    try:
        with serving(folder, decision_share=1) as client:
            for _ in range(3):
                assert len(ask(client, 31)["items"]) == 24
            assert counted(client, "recs_decisions_unrecorded_total") == 3
    finally:
        (folder / "data" / "decisions").unlink()
        (folder / "decisions").rename(folder / "data" / "decisions")


def test_without_records_there_are_no_decisions(folder: Path) -> None:
    with serving(folder, decision_share=1, record_events=False) as client:
        ask(client, 41, explain=True)
    assert recorded(folder, 41) == []
