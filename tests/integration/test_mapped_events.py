"""What people do, in a team's own words: `POST /api/feedback` under a mapping, and into the team's own table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL

from recommendation_service.core.config import Settings
from recommendation_service.flush.export import Selection, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.person import Page, Person, events_of
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.records import FeedbackRecord
from recommendation_service.memory.user_memory import Lifetimes
from recommendation_service.model.text_ids import ITEM_BITS, USER_BITS, number_of_text
from recommendation_service.serving.past import PastReader
from recommendation_service.serving.remembered import seen_items
from recommendation_service.sources.mapping.words import open_words
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.integration.test_source_check import EXAMPLES, fill
from tests.servers import wait_until
from tests.support.feedback import records_in
from tests.support.job_board import handle_of, is_open, make_job_board, slug_of

TOKEN = "administrator"
OWN_TABLE = """CREATE TABLE app_log (id INTEGER PRIMARY KEY {numbered}, what VARCHAR(40) NOT NULL, who VARCHAR(60),
  subject VARCHAR(60), subject_id VARCHAR(60), url VARCHAR(40), at DATETIME NOT NULL, data TEXT)"""
OWN_LOG = """
[events.share]
weight = 2

[events.stars]
weight = 0.2
means = "rating"

[log]
table = "app_log"
[log.events]
what = "{event}"
who = "{user}"
subject = { job = "App\\\\Job" }
subject_id = "{item}"
url = "/jobs/{item}?from={kind}"
at = "{time}"
data = "{json}"
[log.feeds]
what = "feed {feed}"
who = "{user}"
at = "{time}"
"""


def with_log(mapping: Path, folder: Path) -> Path:
    file = folder / "with_log.toml"
    file.write_text(mapping.read_text("utf-8") + OWN_LOG, "utf-8")
    return file


def make_table(engine: Engine) -> None:
    numbered = "AUTOINCREMENT" if engine.dialect.name == "sqlite" else "AUTO_INCREMENT"
    with engine.begin() as connection:
        connection.execute(text(OWN_TABLE.format(numbered=numbered)))


def rows_of(engine: Engine, statement: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(statement)).mappings()]


def flushed(settings: Settings, engine: Engine) -> None:
    flusher = Flusher(settings, engine)
    assert flusher.flush_all(), flusher.status.error
    flusher.close()


# Ids that are text.


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("events")
    address, mapping = make_job_board(folder)
    settings = Settings(
        data_dir=folder / "data",
        database_url=address,
        mapping_file=with_log(mapping, folder),
        catalog_refresher=False,
        admin_token=SecretStr(TOKEN),
    )
    built_and_published(settings)
    engine = make_writing_engine(settings)
    make_table(engine)
    engine.dispose()
    return settings


@pytest.fixture(scope="module")
def client(board: Settings) -> Iterator[httpx.Client]:
    options = {name: getattr(board, name) for name in ("database_url", "mapping_file", "admin_token")}
    with served(make_app(board.data_dir, **options, event_flusher=False, seen_megabytes=16)) as client:
        ready = wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        assert ready, client.get("/ready").text
        yield client


def send(client: httpx.Client, *events: dict[str, Any], status: int = 202) -> dict[str, Any]:
    answer = client.post("/api/feedback", json=events[0] if len(events) == 1 else events)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.json()
    return content


def problems(client: httpx.Client, *events: dict[str, Any]) -> dict[str, str]:
    return {one["field"]: one["problem"] for one in send(client, *events, status=422)["error"]["details"]}


def shown(client: httpx.Client, **body: Any) -> list[str]:
    answer = client.post("/api/feeds/home", json=body)
    assert answer.status_code == 200, answer.text
    ids: list[str] = answer.json()["ids"]
    return ids


def applied(user: str | None, item: str, **fields: Any) -> dict[str, Any]:
    return {"event": "apply", "user_id": user, "item_type": "job", "item_id": item, **fields}


def test_what_somebody_did_is_kept_in_the_teams_words_and_the_next_feed_is_another(
    client: httpx.Client, board: Settings
) -> None:
    user = handle_of(7)
    first = shown(client, user=user, size=5)
    body = send(client, applied(user, first[0], event_id="mine", position=0))["body"]

    assert body == {"accepted": 1, "flagged": []}
    assert first[0] not in shown(client, user=user, size=20)
    [record] = [one for one in records_in(board.data_dir) if isinstance(one, FeedbackRecord) and one.event_id == "mine"]
    assert (record.event, record.name, record.user_text, record.item_text) == ("like", "apply", user, first[0])
    assert (record.user_id, record.item_id) == (number_of_text(user, USER_BITS), number_of_text(first[0], ITEM_BITS))
    assert record.item_type == 3


def test_short_names_and_a_type_that_goes_without_saying_are_taken(client: httpx.Client, board: Settings) -> None:
    send(client, {"event": "share", "user": handle_of(8), "item": slug_of(1), "session": "s", "event_id": "short"})
    [record] = [
        one for one in records_in(board.data_dir) if isinstance(one, FeedbackRecord) and one.event_id == "short"
    ]
    assert (record.name, record.user_text, record.item_text, record.session_id) == (
        "share",
        handle_of(8),
        slug_of(1),
        "s",
    )


def test_an_anonymous_person_is_known_by_the_session(client: httpx.Client) -> None:
    first = shown(client, session="somebody", size=5)
    send(client, {"event": "hide", "item_id": first[0], "session_id": "somebody"})
    send(client, applied(None, first[1], session_id="somebody"))
    assert not {first[0], first[1]} & set(shown(client, session="somebody", size=20))
    assert first[0] in shown(client, session="another", size=20)


def test_who_and_what_is_unknown_is_taken_and_flagged(client: httpx.Client) -> None:
    body = send(client, applied("nobody-we-know", "no-such-ad", event_id="odd"))["body"]
    assert body["flagged"] == [{"event_id": "odd", "flags": ["unknown_user", "unknown_item"]}]


def test_everything_wrong_is_told_at_once_with_field_value_and_rule(client: httpx.Client) -> None:
    found = problems(
        client,
        applied(handle_of(1), slug_of(1)),
        {"event": "like", "user_id": 7, "item_type": "resume", "item_id": slug_of(1)},
        {"event": "apply", "user_id": handle_of(1), "item_id": 812, "position": -1},
        {"event": "stars", "item_id": ""},
        {"event": "apply", "item_id": "x" * 192},
    )
    assert found == {
        "[1].event": 'must be one of apply, share, stars, impression, skip, hide, but is "like"',
        "[1].item_type": 'must be one of job, but is "resume"',
        "[1].user_id": "must be text, as these ids are, but is 7",
        "[2].item_id": "must be text, as these ids are, but is 812",
        "[2].position": "must be an integer from 0 to 10000, but is -1",
        "[3].item_id": 'must be text of 1 to 191 characters that can be seen, but is ""',
        "[3].value": "is missing: a stars needs it",
        "[4].item_id": f'must be text of 1 to 191 characters that can be seen, but is "{"x" * 36}…',
    }
    assert problems(client, {"event": ["apply"], "item_type": {}, "item_id": []}) == {
        "event": 'must be one of apply, share, stars, impression, skip, hide, but is ["apply"]',
        "item_type": "must be one of job, but is {}",
    }
    assert problems(client, {"user_id": handle_of(1)}) == {
        "event": "is missing: one of apply, share, stars, impression, skip, hide",
        "item_id": "is missing: the item's id",
    }


def test_the_document_shows_the_teams_own_words(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["FeedbackEvent"]
    told = {one["properties"]["event"]["const"]: one for one in schema["anyOf"]}
    assert list(told) == ["apply", "share", "stars", "impression", "skip", "hide"]
    assert told["apply"]["properties"]["item_type"] == {"const": "job"}
    assert told["apply"]["required"] == ["event", "item_id"]
    assert told["stars"]["required"] == ["event", "item_id", "value"]
    assert told["apply"]["properties"]["item_id"]["type"] == "string"
    assert "resume" not in json.dumps(schema)


def test_a_machine_that_knows_nothing_learns_from_the_table_what_somebody_did(
    client: httpx.Client, board: Settings
) -> None:
    user, ads = handle_of(11), [slug_of(place) for place in range(20) if is_open(place)]
    send(client, applied(user, ads[0], event_id="past-1"), {"event": "hide", "user": user, "item": ads[1]})
    engine = make_writing_engine(board)
    flushed(board, engine)
    words = open_words(board)
    reader = PastReader(engine.connect, Lifetimes(), board.events_dir, words=words)
    found = {(one.id, one.state) for one in seen_items(reader.read(number_of_text(user, USER_BITS)).tobytes())}
    assert found == {
        (number_of_text(ads[0], ITEM_BITS), "acted"),
        (number_of_text(ads[1], ITEM_BITS), "hidden"),
    }
    told = [one for one in read_events(engine, Selection(event="apply"), words) if one["event_id"] == "past-1"]
    assert [(one["item_type"], one["user_text"], one["item_text"]) for one in told] == [("job", user, ads[0])]
    engine.dispose()


def test_an_administrator_is_told_of_a_person_by_their_own_id_and_has_them_forgotten(
    client: httpx.Client, board: Settings
) -> None:
    user, token = handle_of(12), {"Authorization": f"Bearer {TOKEN}"}
    item = shown(client, user=user, size=5)[0]
    send(client, applied(user, item, event_id="told"))
    engine = make_writing_engine(board)
    flushed(board, engine)

    told = client.get(f"/api/users/{user}", headers=token).json()["body"]
    assert told["user_id"] == user
    assert (item, "acted") in {(one["id"], one["state"]) for one in told["seen"]}
    assert {"job"} == {one["type"] for one in told["seen"]}
    assert [one["item_text"] for one in told["events"] if one["event"] == "apply"] == [item]

    gone = client.delete(f"/api/users/{user}", headers=token)
    assert gone.status_code == 200, gone.text
    assert gone.json()["body"]["user_id"] == user
    assert gone.json()["body"]["events"] > 0
    person = Person(number_of_text(user, USER_BITS))
    assert events_of(engine, person, Page(10), open_words(board)) == ([], None)
    engine.dispose()


# The team's own table.


def test_events_are_in_the_teams_own_table_once_with_its_own_ids(client: httpx.Client, board: Settings) -> None:
    user, item = handle_of(13), slug_of(2)
    for _ in range(2):  # the client did not get the first answer
        send(
            client,
            applied(user, item, event_id="once", timestamp=1_700_000_000),
            {"event": "impression", "user": user, "item": item, "event_id": "seen"},
        )
    engine = make_writing_engine(board)
    flushed(board, engine)
    statement = f"SELECT * FROM app_log WHERE who = '{user}' AND what NOT LIKE 'feed%'"
    [row] = rows_of(engine, statement)
    engine.dispose()
    data = json.loads(row.pop("data"))
    row.pop("id")
    assert row == {
        "what": "apply",
        "who": user,
        "subject": "App\\Job",
        "subject_id": item,
        "url": f"/jobs/{item}?from=",
        "at": "2023-11-14 22:13:20",
    }
    assert data == {
        "event": "apply",
        "event_id": "once",
        "user": user,
        "type": "job",
        "item": item,
        "happened_at": "2023-11-14T22:13:20.000Z",
    }


# Ids that are numbers, on each database.


@pytest.fixture(params=["sqlite", "mariadb"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url: URL = request.getfixturevalue(f"{request.param}_url")
    fill("jobs", url)
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        mapping_file=with_log(EXAMPLES / "jobs" / "mapping.toml", tmp_path),
        catalog_refresher=False,
        mysql_time_zone="America/Bogota",
    )
    built_and_published(settings)
    return settings


def test_an_example_goes_from_a_feed_to_the_teams_own_table(jobs: Settings) -> None:
    options = {name: getattr(jobs, name) for name in ("database_url", "mapping_file", "mysql_time_zone")}
    engine = make_writing_engine(jobs)
    with served(make_app(jobs.data_dir, **options, event_flusher=False, seen_megabytes=16)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        answer = client.post("/api/feeds/home", json={"user": 3, "size": 5}).json()
        item = answer["ids"][1]
        event = {
            "event": "apply",
            "user_id": 3,
            "item_type": "job",
            "item_id": item,
            "timestamp": "2026-06-01T12:00:00Z",
        }
        send(client, event | {"request_id": answer["request_id"], "position": 1, "event_id": "e"})
        assert item not in shown(client, user=3, size=20)

        waits = Flusher(jobs, engine)
        assert not waits.flush_all()  # the table is not there: nothing is lost, and it says why
        assert waits.status.error is not None
        assert "there is no table app_log" in waits.status.error
        waits.close()
    make_table(engine)
    flushed(jobs, engine)
    flushed(jobs, engine)
    [row] = rows_of(engine, "SELECT what, who, subject_id, url, at FROM app_log WHERE what = 'apply'")
    assert {name: str(value) for name, value in row.items()} == {
        "what": "apply",
        "who": "3",
        "subject_id": str(item),
        "url": f"/jobs/{item}?from={answer_kind(engine)}",
        "at": "2026-06-01 07:00:00",
    }
    feeds = rows_of(engine, "SELECT what, who FROM app_log WHERE what = 'feed home'")
    assert [str(one["who"]) for one in feeds] == ["3", "3"]
    engine.dispose()


def answer_kind(engine: Engine) -> str:
    [row] = rows_of(engine, "SELECT slot_kind FROM recs_events WHERE event_id = 'e'")
    assert row["slot_kind"] in {"for_you", "popular", "new"}
    return str(row["slot_kind"])


def test_what_the_teams_own_table_refuses_is_a_dead_letter_and_all_else_is_written(jobs: Settings) -> None:
    engine = make_writing_engine(jobs)
    make_table(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one_each ON app_log (who, subject_id)"))
    options = {name: getattr(jobs, name) for name in ("database_url", "mapping_file", "mysql_time_zone")}
    with served(make_app(jobs.data_dir, **options, event_flusher=False, seen_megabytes=16)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        events = [
            {"event": "share", "user_id": 3, "item_id": item, "event_id": f"n{place}"}
            for place, item in enumerate([1, 2, 1, 3])
        ]
        send(client, *events)
    flusher = Flusher(jobs, engine)
    assert flusher.flush_all(), flusher.status.error
    assert flusher.status.dead_letters == 1
    flusher.close()
    assert len(rows_of(engine, "SELECT * FROM app_log")) == 3
    assert len(rows_of(engine, "SELECT * FROM recs_events WHERE event = 'share'")) == 3
    engine.dispose()
