"""Whatever a person is shown of an operator whose ids are text bears these ids, and is asked by them: slugs that have
slashes and colons, people, and authors who are people."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError
from recommendation_service.serving import decisions as serving_decisions
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import ADMIN_TOKEN, PATIENCE_SECONDS
from tests.end_to_end.service import recs as other_process
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until
from tests.support.http_contract import body_of, error_of
from tests.support.notes import NOTES, PEOPLE, handle_of, make_notes, slug_of

ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
Recs = Callable[..., Result]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = make_notes(tmp_path_factory.mktemp("notes"))
    built_and_published(settings)
    return settings


@pytest.fixture(scope="module")
def client(notes: Settings) -> Iterator[httpx.Client]:
    options = {"database_url": notes.database_url, "mapping_file": notes.mapping_file, "event_flusher": False}
    app = make_app(notes.data_dir, **options, seen_megabytes=16, admin_token=ADMIN_TOKEN, decision_share=0)
    with logs_left_alone(), pytest.MonkeyPatch.context() as patch, served(app) as client:
        patch.setattr(serving_decisions, "EXPLAINED_EVERY_SECONDS", 0.0)
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        yield client


def of_mapping(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    return {"DATABASE_URL": settings.database_url.get_secret_value(), "MAPPING_FILE": str(settings.mapping_file)}


@pytest.fixture
def recs(notes: Settings, monkeypatch: pytest.MonkeyPatch) -> Recs:
    monkeypatch.setenv("DATA_DIR", str(notes.data_dir))
    for name, value in of_mapping(notes).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


def fed(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/feeds/home", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def asked(client: httpx.Client, request_id: str, *missing: str) -> httpx.Response:
    """What comes too early is asked again."""
    answers: list[httpx.Response] = []

    def once() -> bool:
        answers.append(client.get(f"/api/explain/{request_id}", params={"missing": missing}, headers=ADMINISTRATOR))
        return answers[-1].status_code != 429

    assert wait_until(once, PATIENCE_SECONDS)
    return answers[-1]


def named(items: list[dict[str, Any]]) -> list[tuple[str, int | str]]:
    return [(item["type"], item["id"]) for item in items]


@pytest.mark.parametrize("with_decision", [True, False])
def test_a_recorded_feed_is_explained_in_the_operators_ids(client: httpx.Client, with_decision: bool) -> None:
    feed = fed(client, user=handle_of(3), size=6, explain=with_decision)
    absent = next(slug_of(place) for place in range(NOTES) if place % 10 != 9 and slug_of(place) not in feed["ids"])
    wanted = [f"note:{feed['ids'][0]}", f"note:{absent}", "note:no/such:note", "talk:3"]

    body = body_of(asked(client, feed["request_id"], *wanted), 200)

    assert body["decision"]["recorded"] == with_decision
    assert body["user_id"] == handle_of(3)
    assert named(body["items"]) == named(feed["items"])
    reasons = [item["why"] for item in body["items"]]
    assert all("friends" in why["features"] and "same_city" not in why["features"] for why in reasons)
    assert [f"{one['type']}:{one['id']}" for one in body["missing"]] == wanted
    assert isinstance(body["missing"][3]["id"], int)
    assert (body["missing"][0]["stage"], body["missing"][2]["stage"]) == ("shown", "not_read")


def test_a_person_and_an_item_that_no_catalog_has_any_more_are_not_told_as_numbers(
    client: httpx.Client, notes: Settings
) -> None:
    stranger = "nobody/of:theirs"
    feed = fed(client, user=stranger, size=3)
    assert body_of(asked(client, feed["request_id"]), 200)["user_id"] == stranger
    with closing(sqlite3.connect(notes.data_dir.parent / "notes.sqlite")) as database:
        for change in ("DELETE FROM notes WHERE slug = ?", "INSERT INTO notes VALUES (?, 'x', '2026-01-01', 0, '')"):
            with database:
                database.execute(change, (feed["ids"][1],))
    before = {one.name for one in notes.catalog_dir.iterdir() if one.is_dir()}
    for _ in range(2):  # of which two are kept
        built_and_published(notes)
    assert not before & {one.name for one in notes.catalog_dir.iterdir() if one.is_dir()}
    catalog = {"value": ""}

    def taken_up() -> bool:
        catalog["value"] = fed(client, user="somebody:else", size=1)["request_id"]
        return body_of(asked(client, catalog["value"]), 200)["catalog"] not in before

    assert wait_until(taken_up, PATIENCE_SECONDS)
    items = body_of(asked(client, feed["request_id"]), 200)["items"]
    assert [one["id"] for one in items] == [feed["ids"][0], None, feed["ids"][2]]


@pytest.mark.parametrize("wrong", ["note:", f"note:{'x' * 192}", "talk:a/b", "shoe:1", "note"])
def test_what_is_no_item_of_theirs_is_refused_by_its_name(client: httpx.Client, wrong: str) -> None:
    feed = fed(client, size=2)
    [problem] = error_of(asked(client, feed["request_id"], wrong), 422, "invalid_request")["details"]
    assert problem["field"] == "missing[0]"


def test_commands_ask_and_answer_by_the_operators_ids(recs: Recs) -> None:
    told = json.loads(recs("feed", handle_of(3), "--json", "--missing", f"note:{slug_of(5)}").stdout)
    assert (told["missing"][0]["type"], told["missing"][0]["id"]) == ("note", slug_of(5))
    explained = recs("feed", handle_of(3), "--explain", "--size", "3", "--missing", "note:a:b").output
    assert "note a:b: not read" in explained

    person = json.loads(recs("catalog", "show", "--user", handle_of(1), "--json").stdout)
    assert person["user_id"] == handle_of(1)
    left = {one["id"] for one in person["history"]}  # by the test before one item is gone
    assert len(left) >= 3
    assert left <= {slug_of(place) for place in (2, 3, 4, 21)}
    assert person["creators_in_network"] == [handle_of(2)]
    note = json.loads(recs("catalog", "show", "--item", f"note:{slug_of(2)}", "--json").stdout)
    assert note["item"]["id"] == slug_of(2)
    assert person["profile"] == note["tokens"] == [["theme", "rain"]]
    assert set(note["static_sums"]) == {"for_you", "popular", "new"}
    assert all(isinstance(one["id"], str) for one in note["taken_after_it"])
    with pytest.raises(CatalogError, match="There is no note a:b in catalog"):
        recs("catalog", "show", "--item", "note:a:b")
    with pytest.raises(CatalogError, match="User a:b is not in catalog"):
        recs("catalog", "show", "--user", "a:b")


def test_an_author_who_is_hidden_stays_away_and_is_told_by_name(client: httpx.Client, notes: Settings) -> None:
    reader, author = "hides/an:author", handle_of(4)
    event = {"event": "hide", "user_id": reader, "item_type": "creator", "item_id": author}
    assert client.post("/api/feedback", json=event).status_code == 202
    written = {slug_of(place) for place in range(NOTES) if place % PEOPLE == 4}
    assert written & set(fed(client, user="somebody/else", size=40)["ids"])
    assert not written & set(fed(client, user=reader, size=40)["ids"])

    answered = body_of(client.get(f"/api/users/{quote(reader)}", headers=ADMINISTRATOR), 200)
    # In a process of its own, as no other may open the memory of users twice.
    printed = other_process("data", "user", reader, "--json", folder=notes.data_dir.parent, settings=of_mapping(notes))
    for told in (answered, json.loads(printed.stdout)):
        assert told["user_id"] == reader
        assert ("creator", author) in named(told["seen"])
        assert None not in {one["id"] for one in told["seen"]}
