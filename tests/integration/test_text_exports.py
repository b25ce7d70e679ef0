"""What is exported of an operator whose ids are text bears these ids, and the operator's names of types and kinds."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from click.testing import Result
from pyarrow import parquet
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.catalog.dictionary import Dictionary, KeptDictionary
from recommendation_service.core.config import Settings
from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
from recommendation_service.flush.export import event_of_record, write_parquet
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.rows import Event
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.records import FeedbackRecord, encode
from recommendation_service.model.item_keys import item_key
from recommendation_service.model.text_ids import ITEM_BITS, USER_BITS, number_of_text
from recommendation_service.model.words import OwnEvent, Words
from recommendation_service.sources.mapping.words import open_words
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until
from tests.support.feedback import records_in
from tests.support.notes import handle_of, make_notes, slug_of

EVER = ("--since", "2020-01-01", "--until", "2100-01-01")
USER = handle_of(3)
Recs = Callable[..., Result]


class Team(NamedTuple):
    settings: Settings
    feeds: list[dict[str, Any]]  # as answered: the user's, and one of somebody anonymous
    records: list[Event]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Two feeds with their decisions, and what the user did, in the log; the service runs no more."""
    settings = make_notes(tmp_path_factory.mktemp("exports"))
    built_and_published(settings)
    options = {"database_url": settings.database_url, "mapping_file": settings.mapping_file, "event_flusher": False}
    app = make_app(settings.data_dir, **options, seen_megabytes=16, decision_share=1.0)
    with logs_left_alone(), served(app) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        feeds = [
            client.post("/api/feeds/home", json={**who, "size": 6}).json()
            for who in ({"user": USER}, {"session": "tab"})
        ]
        did = {"user": USER, "request_id": feeds[0]["request_id"]}
        events = [
            did | {"event": "read", "type": "note", "item": slug_of(4), "event_id": "read"},
            did | {"event": "hide", "type": "talk", "item": 3, "event_id": "talk"},
            did | {"event": "hide", "type": "creator", "item": handle_of(4), "event_id": "author"},
        ]
        answer = client.post("/api/feedback", json=events)
        assert answer.status_code == 202, answer.text
    return Team(settings, feeds, [one for one in records_in(settings.data_dir) if isinstance(one, Event)])


@pytest.fixture
def recs(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recs]:
    assert team.settings.database_url is not None
    monkeypatch.setenv("DATA_DIR", str(team.settings.data_dir))
    monkeypatch.setenv("DATABASE_URL", team.settings.database_url.get_secret_value())
    monkeypatch.setenv("MAPPING_FILE", str(team.settings.mapping_file))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)

    with logs_left_alone():
        yield call


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def by_id(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["event_id"]: one for one in events}


def test_events_bear_the_operators_ids_as_they_come_and_from_the_database(team: Team, recs: Recs) -> None:
    followed = by_id(lines(recs("events", "follow", "mine", "--once")))
    engine = make_writing_engine(team.settings)
    migrate(engine)
    flusher = Flusher(team.settings, engine)
    assert flusher.flush_all(), flusher.status.error
    flusher.close()
    engine.dispose()
    exported = by_id(lines(recs("events", "export")))

    assert exported == followed
    feeds = {one["request_id"]: one for one in exported.values() if one["event"] == "feed"}
    for answered, user in zip(team.feeds, (USER, 0), strict=True):
        feed = feeds[answered["request_id"]]
        assert feed["user_id"] == user
        told = [(slot["item_type"], slot["item_id"]) for slot in feed["slots"]]
        assert told == [(item["type"], item["id"]) for item in answered["items"]]
        assert {slot["slot"] for slot in feed["slots"]} == {"popular", "new"}
    done = [(exported[one]["item_type"], exported[one]["item_id"]) for one in ("read", "talk", "author")]
    assert done == [("note", slug_of(4)), ("talk", 3), ("creator", handle_of(4))]
    assert all(exported[one]["user_id"] == USER for one in ("read", "talk", "author"))

    ours = by_id(lines(recs("events", "export", "--user", USER)))
    assert ours == {name: one for name, one in exported.items() if one["user_id"] == USER}
    assert lines(recs("events", "export", "--user", handle_of(4))) == []


def test_in_parquet_ids_that_may_be_text_are_text(recs: Recs, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    assert recs("events", "export", "--format", "parquet", "--output", str(file)).exit_code == 0
    table = parquet.read_table(file)
    slot = table.schema.field("slots").type.value_type
    ids = (table.schema.field("user_id").type, table.schema.field("item_id").type, slot.field("item_id").type)
    assert ids == (pa.string(), pa.string(), pa.string())
    exported = by_id(lines(recs("events", "export")))
    for row in table.to_pylist():
        event = exported[row["event_id"]]
        assert row["user_id"] == (event["user_id"] or None)
        assert row["item_id"] == (str(event["item_id"]) if "item_id" in event else None)
        assert [one["item_id"] for one in row["slots"] or ()] == [str(one["item_id"]) for one in event.get("slots", ())]


def test_decisions_bear_the_operators_ids_types_and_kinds(team: Team, recs: Recs) -> None:
    told = {one["request_id"]: one for one in lines(recs("events", "export", "--what", "decisions"))}
    assert len(told) == len(team.feeds)
    for answered, user in zip(team.feeds, (USER, 0), strict=True):
        decision = told[answered["request_id"]]
        assert decision["user_id"] == user
        assert [(one["type"], one["id"]) for one in decision["slots"]] == [
            (one["type"], one["id"]) for one in answered["items"]
        ]
        assert {one["slot"] for one in decision["slots"]} == set(decision["pools"]) == {"popular", "new"}
        assert {one["type"] for one in decision["items"]} == {"note", "talk"}
        assert all(isinstance(one["id"], {"note": str, "talk": int}[one["type"]]) for one in decision["items"])
    assert len(lines(recs("events", "export", "--what", "decisions", "--user", USER))) == 1


def test_decisions_for_vowpal_wabbit_have_tags_of_the_operators_ids(team: Team, recs: Recs) -> None:
    written = {one["EventId"]: one for one in lines(recs("evaluate", "export", *EVER, "--endpoint", "home"))}
    assert len(written) == len(team.feeds)
    for answered in team.feeds:
        line = written[answered["request_id"]]
        actions = line["c"]["_multi"]
        shown = [actions[slot["_a"][0]]["_tag"] for slot in line["_outcomes"]]
        assert shown == [f"{one['type']}:{one['id']}" for one in answered["items"]]
        assert {slot["slot"]["kind"] for slot in line["c"]["_slots"]} == {"popular", "new"}
        assert {kind for action in actions for kind in action["hand_set"]} <= {"popular", "new"}


def test_a_dead_letter_is_told_by_the_users_own_id(team: Team, recs: Recs) -> None:
    letters = [dead_letter(encode(one), "refused", one) for one in team.records] + [
        dead_letter(b"nothing", "no record")
    ]
    DeadLetters(team.settings.events_dir).add(letters)
    told = json.loads(recs("events", "dead", "--json").stdout)
    assert [one["user_id"] for one in told] == [USER, 0, USER, USER, USER, None]


def test_where_ids_are_numbers_parquet_has_them_as_such() -> None:
    words = Words({"film": 3}, {"watch": OwnEvent("view", ("film",))}, {"new": 5})
    file = io.BytesIO()
    record = FeedbackRecord("e", "view", 7, 3, 812, 1_790_000_000_000, 1_790_000_000_000, name="watch")
    assert write_parquet([event_of_record(record, Dictionary(words))], file, words) == 1
    table = parquet.read_table(file)
    assert {table.schema.field(name).type for name in ("user_id", "item_id")} == {pa.int64()}
    assert table.schema.field("slots").type.value_type.field("item_id").type == pa.int64()
    [row] = table.to_pylist()
    assert (row["event"], row["user_id"], row["item_type"], row["item_id"]) == ("watch", 7, "film", 812)


def test_who_follows_the_log_knows_what_a_later_catalog_brings(team: Team) -> None:
    kept = KeptDictionary(team.settings, open_words(team.settings))
    key = item_key(3, number_of_text("a/late:note", ITEM_BITS))
    before = kept.now()
    assert (before.item(key), before is kept.now()) == (None, True)
    with closing(sqlite3.connect(team.settings.data_dir.parent / "notes.sqlite")) as database, database:
        database.execute("INSERT INTO notes VALUES ('a/late:note', ?, '2026-01-01', 1, 'rain')", (USER,))
    built_and_published(team.settings)
    assert kept.now().item(key) == "a/late:note"


def test_an_id_that_no_catalog_has_any_more_is_missing_and_that_is_said(team: Team, recs: Recs) -> None:
    gone = next(one["id"] for one in team.feeds[0]["items"] if one["type"] == "note")
    with closing(sqlite3.connect(team.settings.data_dir.parent / "notes.sqlite")) as database, database:
        database.execute("DELETE FROM notes WHERE slug = ?", (gone,))
        database.execute("DELETE FROM people WHERE handle = ?", (USER,))
        database.execute("DELETE FROM reads WHERE reader = ?", (USER,))
    before = {one.name for one in team.settings.catalog_dir.iterdir() if one.is_dir()}
    for _ in range(2):  # of which two are kept
        built_and_published(team.settings)
    assert not before & {one.name for one in team.settings.catalog_dir.iterdir() if one.is_dir()}

    result = recs("events", "export", "--event", "feed", "--user", USER)
    [feed] = lines(result)
    assert feed["user_id"] == USER, "the record of a feed has it"
    answered = [one["id"] for one in team.feeds[0]["items"]]
    assert [one["item_id"] for one in feed["slots"]] == [None if one == gone else one for one in answered]
    assert result.stderr == "1 ids are missing: they are text, and no catalog that is kept here has them any more.\n"

    result = recs("events", "export", "--what", "decisions", "--user", USER, "--json")
    [decision] = lines(result)
    assert "user_id" not in decision
    assert json.loads(result.stderr) == {"decisions": 1, "ids_missing": 2}
    assert str(number_of_text(USER, USER_BITS)) not in result.stdout
    result = recs("evaluate", "export", *EVER)
    assert "1 ids are missing" in result.stderr
    assert sum("_tag" not in action for action in lines(result)[0]["c"]["_multi"]) == 1
