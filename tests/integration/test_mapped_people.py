"""What administrators ask of one person, under a mapping: ids are text, of whatever letters an operator has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from recommendation_service.core.config import Settings
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import ADMIN_TOKEN, PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.http_contract import body_of, error_of
from tests.support.job_board import handle_of, slug_of

ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(scope="module")
def client(board: Settings) -> Iterator[httpx.Client]:
    options = {"database_url": board.database_url, "mapping_file": board.mapping_file, "event_flusher": False}
    app = make_app(board.data_dir, **options, seen_megabytes=16, admin_token=ADMIN_TOKEN)
    with logs_left_alone(), served(app) as client:
        client.headers.update(ADMINISTRATOR)
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        yield client


def told_of(client: httpx.Client, path: str) -> dict[str, Any]:
    """All that waits is read for each, so the service is asked once a second."""
    answers: list[httpx.Response] = []

    def asked() -> bool:
        answers.append(client.get(path))
        return answers[-1].status_code != 429

    assert wait_until(asked, PATIENCE_SECONDS)
    return body_of(answers[-1], 200)


@pytest.mark.parametrize("user", ["team/7", "/", "a/preview/b", "ñ@x/y z?"])
def test_a_person_whose_id_has_slashes_is_shown_told_of_and_forgotten(client: httpx.Client, user: str) -> None:
    path = f"/api/users/{quote(user, safe='/')}"
    feed = client.post("/api/feeds/home", json={"user": user, "size": 3}).json()
    previewed = body_of(client.get(f"{path}/preview", params={"size": 4}), 200)
    assert previewed["user_id"] == user
    assert len(previewed["feed"]["ids"]) == 4
    assert not set(previewed["feed"]["ids"]) & set(feed["ids"])
    told = told_of(client, path)
    assert told["user_id"] == user
    assert {one["id"] for one in told["seen"]} == set(feed["ids"])
    assert body_of(client.delete(path), 200)["user_id"] == user
    assert told_of(client, path)["seen"] == []


def test_a_preview_is_of_a_feed_of_the_mapping(client: httpx.Client) -> None:
    path = f"/api/users/{handle_of(1)}/preview"
    shown = body_of(client.get(path, params={"endpoint": "home", "size": 5}), 200)
    assert [item["id"] for item in shown["feed"]["items"]] == shown["feed"]["ids"]
    assert all(item["why"]["sentences"] for item in shown["feed"]["items"])
    [wrong] = error_of(client.get(path, params={"endpoint": "total"}), 422, "invalid_request")["details"]
    assert wrong == {"field": "endpoint", "problem": "must be one of home, but is 'total'"}
    parameters = client.get("/openapi.json").json()["paths"]["/api/users/{user_id}/preview"]["get"]["parameters"]
    [endpoint] = [one["schema"] for one in parameters if one["name"] == "endpoint"]
    assert (endpoint["enum"], endpoint["default"]) == (["home"], "home")


def test_a_preview_of_somebody_anonymous_is_the_sessions(client: httpx.Client) -> None:
    feed = client.post("/api/feeds/home", json={"session": "a tab", "size": 3}).json()
    shown = body_of(client.get("/api/users/0/preview", params={"session_id": "a tab", "size": 4}), 200)
    assert (shown["user_id"], shown["remembered_items"]) == (0, 3)
    assert not set(shown["feed"]["ids"]) & set(feed["ids"])
    of_a_user = body_of(client.get("/api/users/0/preview", params={"size": 4}), 200)
    assert (of_a_user["user_id"], of_a_user["remembered_items"]) == ("0", 0)


def test_rulings_are_of_what_is_served_while_the_mappings_file_is_being_edited(
    client: httpx.Client, board: Settings
) -> None:
    assert isinstance(board.mapping_file, Path)
    before = board.mapping_file.read_text()
    ruling = {"type": "job", "id": slug_of(1), "who": "ana", "why": "a reason"}
    try:
        board.mapping_file.write_text("[users\n")
        body_of(client.post("/api/editors", json={"action": "bury", **ruling}), 200)
        body_of(client.post("/api/editors", json={"action": "release", **ruling}), 200)
    finally:
        board.mapping_file.write_text(before)
