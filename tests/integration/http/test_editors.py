"""Editors over HTTP: in effect at once, for administrators, with every wrong field named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.catalog.store import Catalog
from recommendation_service.editors.store import FILE
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.http_contract import body_of, error_of

ADMINISTRATOR = {"Authorization": "Bearer editors-token"}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_DIR of its own, as things are ruled here."""
    folder = tmp_path_factory.mktemp("editors") / "data"
    folder.mkdir()
    shutil.copytree(data_dir / "catalogs", folder / "catalogs")
    shutil.copy(data_dir / "interacpedia.sqlite", folder)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    app = make_app(folder, admin_token="editors-token", event_flusher=False)
    with logs_left_alone(), served(app) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_ruled(client: httpx.Client) -> Iterator[None]:
    yield
    for one in listed(client)["rulings"]:
        if one["action"] != "release" and not post(client, "release", one["id"], type=one["type"]).is_success:
            # It was released by a command, which the list tells within a second.
            assert wait_until(
                lambda one=one: all(each["id"] != one["id"] for each in listed(client)["rulings"]), PATIENCE_SECONDS
            )


def post(client: httpx.Client, action: str, number: Any, **fields: Any) -> httpx.Response:
    asked = {"action": action, "type": "resume", "id": number, "who": "ana", "why": "a reason", **fields}
    return client.post("/api/editors", json=asked, headers=ADMINISTRATOR)


def rule(client: httpx.Client, action: str, number: Any, **fields: Any) -> dict[str, Any]:
    return body_of(post(client, action, number, **fields), 200)


def listed(client: httpx.Client) -> dict[str, Any]:
    return body_of(client.get("/api/editors", headers=ADMINISTRATOR), 200)


def shown(client: httpx.Client, **fields: Any) -> list[str]:
    """A résumé and a challenge may bear one number."""
    body = body_of(client.post("/api/search/total", json={"N_VIDEOS": 24, **fields}), 200)
    return [f"{item['type']}:{item['id']}" for item in body["items"]]


@pytest.fixture
def video(catalog: Catalog) -> int:
    return int(catalog.arrays.item_id[3])


def test_a_pin_is_at_its_place_at_once_and_gone_once_it_is_released(client: httpx.Client, video: int) -> None:
    made = rule(client, "pin", video, feed="total", place=2, until=LATER)
    assert (made["in_catalog"], made["fleet_told"]) == (True, None)
    assert shown(client)[1] == f"resume:{video}"
    [one] = listed(client)["rulings"]
    assert {name: one[name] for name in ("action", "type", "id", "feed", "place", "who", "why")} == {
        "action": "pin",
        "type": "resume",
        "id": video,
        "feed": "total",
        "place": 2,
        "who": "ana",
        "why": "a reason",
    }
    assert one["until"] == datetime.fromisoformat(LATER).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    metrics = client.get("/metrics").text
    assert 'recs_editors_rulings{action="pin"} 1.0' in metrics
    assert "recs_editors_pins_absent 0.0" in metrics
    assert "recs_pinned_slots_total 0.0" not in metrics
    named = client.post("/api/feeds/total", json={"size": 5}).json()
    assert named["ids"][1] == video

    rule(client, "release", video)
    assert listed(client)["rulings"] == []
    entries = body_of(client.get(f"/api/editors/history?item=resume:{video}&most=2", headers=ADMINISTRATOR), 200)
    assert [one["action"] for one in entries["entries"]] == ["release", "pin"]


def test_a_pin_is_shown_to_a_person_once(client: httpx.Client, video: int) -> None:
    rule(client, "pin", video, feed="total", place=1, until=LATER)
    first, second = (shown(client, session_id="a-scroll") for _ in range(2))
    assert first[0] == f"resume:{video}"
    assert f"resume:{video}" not in second
    assert shown(client, session_id="another")[0] == f"resume:{video}"


def test_what_is_taken_down_is_in_no_feed_nor_in_an_answer_that_is_given_again(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "the-same"}
    asked = {"user_id": 0, "N_VIDEOS": 24}

    def answer() -> dict[str, Any]:
        return body_of(client.post("/api/search/discover", json=asked, headers=headers), 200)

    before = answer()
    assert answer() == before
    taken = int(before["resume_ids"][0])
    rule(client, "takedown", taken)
    after = answer()
    assert str(taken) not in after["resume_ids"]
    assert answer() == after, "that one is kept"
    for feed in ("total", "discover"):
        for _ in range(5):
            assert taken not in client.post(f"/api/feeds/{feed}", json={"size": 100}).json()["ids"]
    rule(client, "release", taken)
    assert answer() == before


def test_what_is_out_of_all_feeds_is_in_no_list(client: httpx.Client, catalog: Catalog) -> None:
    """Taken down or buried everywhere; what is buried in one feed is in lists as before."""

    def lists(number: int) -> list[bool]:
        found = []
        for path in ("/popular", "/latest", f"/items/resume/{number}/similar"):
            answer = client.get(f"/api{path}", params={"type": "resume", "size": 100})
            assert answer.status_code == 200, answer.text
            found.append(video in answer.json()["ids"])
        return found

    similar = client.get(f"/api/items/resume/{int(catalog.arrays.item_id[0])}/similar", params={"size": 1}).json()
    video, other = similar["ids"][0], int(catalog.arrays.item_id[0])
    if catalog.rows_of_type["resume"][1] > 100:
        pytest.fail("the lists of this test are not whole")
    assert lists(other) == [True] * 3
    for action, fields, is_listed in (
        ("bury", {"feed": "total"}, True),
        ("bury", {}, False),
        ("takedown", {}, False),
        ("release", {}, True),
    ):
        rule(client, action, video, **fields)
        assert lists(other) == [is_listed] * 3, action


def test_an_explanation_says_what_an_editor_did(client: httpx.Client, video: int, catalog: Catalog) -> None:
    buried = int(catalog.arrays.item_id[5])
    rule(client, "pin", video, feed="total", place=1, until=LATER)
    rule(client, "bury", buried, feed="total")
    rule(client, "takedown", 1, type="challenge")
    body = body_of(client.post("/api/search/total", json={"user_id": 0, "N_VIDEOS": 6, "explain": True}), 200)
    assert body["items"][0]["why"]["sentences"][0]["text"] == "Pinned to this place by an editor."
    rule(client, "release", buried)

    wanted = f"missing=resume:{buried}&missing=challenge:1&lang=es"
    told = body_of(client.get(f"/api/explain/{body['request_id']}?{wanted}", headers=ADMINISTRATOR), 200)
    assert told["items"][0]["why"]["pool"] == "editor"
    assert told["items"][0]["why"]["propensity"] is None
    assert told["items"][0]["why"]["sentences"][0]["text"] == "Fijado en este lugar por un editor."
    assert [one["stage"] for one in told["missing"]] == ["buried", "taken_down"], "as it was when the feed was made"
    assert told["missing"][1]["sentences"][0]["text"].startswith("Un editor lo retiró (20")


def test_a_preview_and_a_command_show_what_a_person_would_get(client: httpx.Client, folder: Path, video: int) -> None:
    rule(client, "pin", video, feed="total", place=1, until=LATER)
    preview = body_of(client.get("/api/users/0/preview", headers=ADMINISTRATOR), 200)
    assert preview["feed"]["mix_ids"][0] == str(video)
    made = recs(folder, "feed", "0", "--json", "--size", "3")
    assert json.loads(made)["body"]["mix_ids"][0] == str(video)
    assert "editor" in recs(folder, "feed", "0", "--size", "3")


def recs(folder: Path, *arguments: str, fails: bool = False) -> str:
    result = CliRunner().invoke(cli.app, arguments, env={"DATA_DIR": str(folder)}, catch_exceptions=fails)
    assert (result.exit_code != 0) == fails, result.output
    return str(result.exception or "") + result.output if fails else result.stdout


def test_the_command_rules_while_the_service_runs(client: httpx.Client, folder: Path, video: int) -> None:
    said = recs(folder, "items", "takedown", f"resume:{video}", "--why", "not ours", "--by", "ben")
    assert f"resume:{video} is taken down" in said
    assert wait_until(lambda: len(listed(client)["rulings"]) == 1, PATIENCE_SECONDS)
    assert listed(client)["rulings"][0]["who"] == "ben"
    assert f"resume:{video}" not in shown(client, N_VIDEOS=100)
    assert "taken down by ben (not ours)" in recs(
        folder,
        "items",
        "pin",
        f"resume:{video}",
        "--feed",
        "total",
        "--place",
        "1",
        "--for",
        "3d",
        "--why",
        "x",
        fails=True,
    )
    number = json.loads(recs(folder, "items", "list", "--json"))["number"]
    changed = recs(folder, "items", "release", f"resume:{video}", "--why", "x", "--expect", str(number - 1), fails=True)
    assert f"by now there is state {number}" in changed
    released = recs(folder, "items", "release", f"resume:{video}", "--why", "theirs", "--expect", str(number), "--json")
    assert json.loads(released)["number"] == number + 1
    assert "Nothing is ruled" in recs(folder, "items", "list")
    history = json.loads(recs(folder, "items", "history", f"resume:{video}", "--json"))
    assert [one["why"] for one in history][:2] == ["theirs", "not ours"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("pin", "resume:1", "--feed", "discover", "--place", "1", "--why", "x"),
            "until of a pin must say when it ends",
        ),
        (
            ("pin", "challenge:1", "--feed", "discover", "--place", "1", "--for", "1d", "--why", "x"),
            "type must be one that",
        ),
        (("bury", "song:1", "--why", "x"), "type must be one of resume, challenge, but is 'song'"),
        (("bury", "resume:x", "--why", ""), "id must be an integer"),
        (("bury", "resume:1", "--for", "3 days", "--why", "x"), "must be a number with m, h or d"),
        (("bury", "resume:1", "--until", "2026-01-01", "--why", "x"), "must be a time with its zone"),
        (("bury", "resume:1", "--feed", "mine", "--why", "x"), "feed must be one of total, discover, flow"),
    ],
)
def test_a_command_that_cannot_be_says_what_is_wrong(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(cli.app, ["items", *arguments], env={"DATA_DIR": str(folder), "COLUMNS": "500"})
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


def test_all_that_is_wrong_is_named(client: httpx.Client) -> None:
    answer = post(client, "hide", True, type="song", feed="mine", place=0, until="soon", who="", why=" ")
    wrong = {one["field"]: one["problem"] for one in error_of(answer, 422, "invalid_request")["details"]}
    assert set(wrong) == {"action", "type", "feed", "place", "until", "who", "why"}
    answer = post(client, "pin", 0, feed=None, place=101)
    wrong = {one["field"]: one["problem"] for one in error_of(answer, 422, "invalid_request")["details"]}
    assert set(wrong) == {"id", "feed", "place", "until"}
    wrong = {
        one["field"]
        for one in error_of(post(client, "bury", 1, expect="3", replace=1, when=2), 422, "invalid_request")["details"]
    }
    assert set(wrong) == {"expect", "replace", "when"}
    answer = post(client, "pin", 0, feed="mine", place=0, until="soon", when=2, alone="yes")
    wrong = {one["field"] for one in error_of(answer, 422, "invalid_request")["details"]}
    assert wrong == {"id", "feed", "place", "until", "when", "alone"}
    for wrong_type in ([], {}, ["total"], {"a": 1}, 1.5, "x" * 300, "\u0000"):
        answer = post(client, "pin", wrong_type, type=wrong_type, feed=wrong_type, place=wrong_type, until=wrong_type)
        wrong = {one["field"] for one in error_of(answer, 422, "invalid_request")["details"]}
        assert wrong == {"type", "feed", "place", "until"}
    for until in ("1970-01-01T00:00:00Z", "1970-01-01T01:00:00+01:00", "0001-01-01T00:00:00Z"):
        over = error_of(post(client, "bury", 1, until=until), 409, "conflict")
        assert "would be over already" in over["message"]
    for body, status in ((b"[1]", 422), (b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400)):
        headers = {**ADMINISTRATOR, "content-type": "application/json"}
        error_of(
            client.post("/api/editors", content=body, headers=headers),
            status,
            "not_json" if status == 400 else "invalid_request",
        )
    refused = error_of(client.get("/api/editors/history?most=0", headers=ADMINISTRATOR), 422, "invalid_request")
    assert refused["details"] == [{"field": "most", "problem": "must be greater than or equal to 1, but is '0'"}]
    assert error_of(post(client, "release", 999_999), 404, "not_found")


@pytest.mark.parametrize("item", ["812", "song:1", "resume:x", "resume:"])
def test_no_history_is_told_of_what_is_no_item(client: httpx.Client, folder: Path, item: str) -> None:
    answer = client.get("/api/editors/history", params={"item": item}, headers=ADMINISTRATOR)
    [wrong] = error_of(answer, 422, "invalid_request")["details"]
    assert wrong["field"] == "item"
    assert f"but is {item!r}" in wrong["problem"]
    result = CliRunner().invoke(cli.app, ["items", "history", item], env={"DATA_DIR": str(folder), "COLUMNS": "500"})
    assert result.exit_code == 2
    assert wrong["problem"] in result.output
    never = client.get("/api/editors/history?item=resume:77777", headers=ADMINISTRATOR)
    assert body_of(never, 200) == {"entries": []}


def test_two_who_want_one_place_are_told(client: httpx.Client, video: int) -> None:
    rule(client, "pin", video, feed="total", place=1, until=LATER)
    number = listed(client)["number"]
    conflict = error_of(post(client, "pin", 2, feed="total", place=1, until=LATER), 409, "conflict")
    assert f"Place 1 of the feed total has resume:{video}, which ana pinned there" in conflict["message"]
    assert error_of(post(client, "bury", 2, expect=number - 1), 409, "conflict")
    assert rule(client, "bury", 2, expect=number)["number"] == number + 1
    replaced = rule(client, "pin", 999_999, feed="total", place=1, until=LATER, replace=True)
    assert replaced["in_catalog"] is False
    assert "recs_editors_pins_absent 1.0" in client.get("/metrics").text
    assert shown(client)[0] != f"resume:{video}" or len(listed(client)["rulings"]) == 2


def test_only_administrators_may(client: httpx.Client) -> None:
    for method, path in (("POST", ""), ("GET", ""), ("GET", "/history")):
        error_of(client.request(method, f"/api/editors{path}", json={}), 401, "unauthorized")


def test_a_damaged_file_is_told_and_what_was_ruled_holds(client: httpx.Client, folder: Path, video: int) -> None:
    rule(client, "takedown", video)
    (folder / "editors" / FILE).write_bytes(b"nonsense")
    assert wait_until(lambda: client.get("/ready").json()["problems"], PATIENCE_SECONDS)
    assert "what was last read of it and its history hold" in " ".join(client.get("/ready").json()["problems"])
    assert "recs_editors_unreadable 1.0" in client.get("/metrics").text
    assert f"resume:{video}" not in shown(client, N_VIDEOS=100)
    with served(make_app(folder, admin_token="editors-token", event_flusher=False, seen_state=False)) as another:
        assert [one["id"] for one in listed(another)["rulings"]] == [video], "one that starts has it, too"
    rule(client, "release", video)
    assert client.get("/ready").json()["problems"] == []


def test_what_is_over_is_gone_by_itself(client: httpx.Client, video: int) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    rule(client, "pin", video, feed="flow", place=1, until=LATER, type="challenge")
    rule(client, "takedown", video, until=soon.isoformat())
    assert wait_until(lambda: len(listed(client)["rulings"]) == 1, PATIENCE_SECONDS)
    assert datetime.now(UTC) >= soon
