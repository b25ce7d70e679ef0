"""Coming from Gorse: its exports become tables and a mapping, which is served at once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.importing.gorse import FeedbackTypes, Imported, event_name, import_gorse, mapping_text
from recommendation_service.onboarding.examination import check_mapping
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import read
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until

GENRES = ("comedy", "horror", "documentary")
CONFIG = """[recommend.data_source]
positive_feedback_types = ["star", "rate>=3"]
read_feedback_types = ["read"]
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """As release 0.5 gives it; 40 people star and read what is of their genre, and one item is hidden."""
    draw, folder = random.Random(5), tmp_path / "export"
    folder.mkdir()
    moment = datetime.now(UTC).replace(microsecond=0)

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("users.jsonl", [{"UserId": f"u{n}", "Labels": {"likes": GENRES[n % 3]}, "Comment": ""} for n in range(39)])
    items = [
        {
            "ItemId": f"film:{n}",
            "IsHidden": n == 30,
            "Categories": ["old" if n < 15 else "new"],
            "Timestamp": (moment - timedelta(days=n)).isoformat(),
            "Labels": {"genre": [GENRES[n % 3]]},
            "Comment": f"Film {n}",
        }
        for n in range(60)
    ]
    write("items.jsonl", items)
    feedback = [
        {
            "FeedbackType": draw.choice(("star", "read")),
            "UserId": f"u{user}",
            "ItemId": f"film:{3 * draw.randrange(20) + user % 3}",
            "Timestamp": (moment - timedelta(days=draw.uniform(0, 30))).isoformat(),
            "Value": 0,
        }
        for user in range(40)
        for _ in range(8)
    ]
    write("feedback.jsonl", feedback)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def test_the_command_writes_what_is_served_at_once(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (export / "feedback.jsonl").open("a") as file:
        file.write('{"FeedbackType":"star","UserId":"u1"}\nbroken\n')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["import", "gorse", str(export)])

    assert done.exit_code == 0, done.output
    assert "feedback.jsonl, line 321: has no item_id" in done.stderr
    assert "feedback.jsonl, line 322: is not JSON" in done.stderr
    assert "feedback.jsonl: 2 bad lines, left out" in done.stderr
    assert "40  users" in done.stdout
    assert "1 users are only in the feedback" in done.stdout
    mapping, address = tmp_path / "gorse.toml", f"sqlite:///{tmp_path / 'gorse.sqlite'}"
    assert f"export MAPPING_FILE={mapping} DATABASE_URL={address}" in done.stdout
    assert "weight = 0.2" in mapping.read_text()

    settings = Settings(data_dir=tmp_path / "data", database_url=address, mapping_file=mapping, catalog_refresher=False)
    engine = make_engine(settings)
    try:
        report = check_mapping(load_mapping(mapping), engine, settings, lambda _: None, with_feeds=False)
    finally:
        engine.dispose()
    assert (report.status, report.problems) == (0, [])
    built_and_published(settings)
    options = {"database_url": address, "mapping_file": mapping, "event_flusher": False, "seen_megabytes": 16}
    with logs_left_alone(), served(make_app(settings.data_dir, **options)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        feed = client.post("/api/feeds/home", json={"user": "u1", "size": 10, "filters": {"category": ["new"]}}).json()
        similar = client.get("/api/items/item/film:3/similar", params={"size": 5}).json()
        every = {
            one
            for offset in (0, 50)
            for one in client.get("/api/latest", params={"size": 50, "offset": offset}).json()["ids"]
        }

    assert len(feed["ids"]) == 10
    assert all(int(one.split(":")[1]) >= 15 for one in feed["ids"])
    assert {int(one.split(":")[1]) % 3 for one in similar["ids"]} == {0}
    assert similar["items"][0]["comment"].startswith("Film ")
    assert every == {f"film:{n}" for n in range(60) if n != 30}


@pytest.mark.parametrize("server", ["sqlite_url", "mariadb_url", "postgresql_url"])
def test_each_database_takes_it_and_its_mapping_reads_it(
    export: Path, tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    url: URL = request.getfixturevalue(server)
    (export / "items.jsonl").write_text((export / "items.jsonl").read_text().replace('film:1"', 'fílm: "1\\"', 1))
    engine = create_engine(url)
    try:
        found = import_gorse(export, engine, replace=False, tell=lambda *_: None)
        again = import_gorse(export, engine, replace=True, tell=lambda *_: None)
        with engine.connect() as connection:
            users = connection.execute(text("SELECT COUNT(*) FROM gorse_users")).scalar_one()
    finally:
        engine.dispose()
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(mapping_text(found, FeedbackTypes.of_folder(export)))
    settings = Settings(data_dir=tmp_path / "data", database_url=url.render_as_string(False), mapping_file=mapping)
    reader = make_engine(settings)
    try:
        report = check_mapping(load_mapping(mapping), reader, settings, lambda _: None, with_feeds=False)
    finally:
        reader.dispose()

    assert users == found.rows["users"] == again.rows["users"] == 40
    assert (report.status, report.problems) == (0, [])


def test_what_is_missing_or_in_the_way_is_told(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(cli.app, ["import", "gorse", str(export)]).exit_code == 0
    assert "--replace" in str(run(cli.app, ["import", "gorse", str(export)]).exception)
    other = ["import", "gorse", str(export), "--output", "other.toml"]
    assert "tables of these names: gorse_feedback" in str(run(cli.app, other).exception)
    assert run(cli.app, ["import", "gorse", str(export), "--replace", "--json"]).exit_code == 0
    (export / "items.jsonl").write_text("{}\n")
    assert "line 1: has no item_id" in str(run(cli.app, ["import", "gorse", str(export), "--replace"]).exception)
    (export / "items.jsonl").unlink()
    assert "has no items{.jsonl,.json,.csv}" in str(run(cli.app, [*other, "--database", "sqlite://"]).exception)


@pytest.fixture(params=["sqlite_url", "mariadb_url", "postgresql_url"])
def server(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = create_engine(request.getfixturevalue(request.param))
    yield engine
    engine.dispose()


def counts(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        there = sorted(name for name in inspect(connection).get_table_names() if name.startswith("gorse_"))
        return {name: connection.execute(text(f"SELECT COUNT(*) FROM {name}")).scalar_one() for name in there}


def test_an_import_that_fails_leaves_what_was_there(export: Path, server: Engine) -> None:
    def imported(*, replace: bool = False) -> Imported:
        return import_gorse(export, server, replace=replace, tell=lambda *_: None)

    feedback = (export / "feedback.jsonl").read_text()
    (export / "feedback.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match="nothing to import"):
        imported()
    assert counts(server) == {}, "what it had begun is gone, so that nothing is in the way of the next"
    (export / "feedback.jsonl").write_text(feedback)
    imported()
    before = counts(server)
    assert before == {"gorse_feedback": 320, "gorse_items": 60, "gorse_users": 40}
    (export / "users.jsonl").write_text('{"UserId": "u1"}\n')
    (export / "feedback.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match="nothing to import"):
        imported(replace=True)
    assert counts(server) == before
    (export / "feedback.jsonl").write_text(feedback.splitlines()[0] + "\n")
    imported(replace=True)
    assert counts(server)["gorse_feedback"] == 1


def test_types_of_any_letters_are_read_as_they_were_written(export: Path, tmp_path: Path, server: Engine) -> None:
    kinds = ["it's", 'a "b"', "back\\slash", "ends\\", "\\'", "12:30", ":now", "a\\:b", "50%", "größe", "-- no", "{x}"]
    feedback = [{"FeedbackType": kind, "UserId": "u1", "ItemId": "film:1"} for kind in kinds]
    (export / "feedback.jsonl").write_text("".join(json.dumps(one) + "\n" for one in feedback))
    found = import_gorse(export, server, replace=False, tell=lambda *_: None)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(mapping_text(found, FeedbackTypes([], [])))
    with server.connect() as connection:
        events = read(load_mapping(mapping), connection).events
    assert {name: len(table) for name, table in events.items()} == dict.fromkeys(events, 1)
    assert len(events) == len(kinds)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://h:port/x", "is not an SQLAlchemy address"),
        ("mssql://h/x", "names mssql; the service reads"),
        ("shop", "is not an SQLAlchemy address"),
    ],
)
def test_an_address_that_is_none_is_told(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["import", "gorse", str(export), "--database", address])
    assert isinstance(done.exception, ConfigurationError)
    assert said in done.exception.problems[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("broken =", "cannot be read"),
        ("[recommend]\ndata_source = 3", "must be lists of texts"),
        ('[recommend.data_source]\npositive_feedback_types = "star"', "must be lists of texts"),
        ("[recommend.data_source]\nread_feedback_types = [1]", "must be lists of texts"),
        ("[recommend.data_source]\nnegative_feedback_types = 2", "must be lists of texts"),
        ("recommend = 1", "must be lists of texts"),
        ("database = 1", "must be lists of texts"),
        ("[server]\nport = 8086", None),
        ("", None),
    ],
)
def test_a_configuration_is_read_before_anything_is_written(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (export / "config.toml").write_text(content)
    done = CliRunner().invoke(cli.app, ["import", "gorse", str(export)])
    if said is None:
        assert done.exit_code == 0, done.output
    else:
        assert isinstance(done.exception, SourceError)
        assert said in str(done.exception)
        assert "config.toml" in str(done.exception)
        assert not list(tmp_path.glob("gorse.*"))


def test_types_are_events_under_names_that_a_mapping_takes() -> None:
    assert event_name("star", set()) == "star"
    assert event_name("5 sterne", {"e_5_sterne"}) == "e_5_sterne_"
    types = FeedbackTypes(["star", "rate>=3"], ["read", "star"])
    assert [types.weight(name) for name in ("star", "rate", "read", "other")] == [1.0, 1.0, 0.2, 1.0]


def test_what_feedback_counts_hangs_on_its_value_where_gorse_says_so(
    export: Path, tmp_path: Path, server: Engine
) -> None:
    """The configuration that ships with Gorse 0.5 has read as read, and as positive from its third time on."""
    (export / "config.toml").write_text(
        '[recommend.data_source]\npositive_feedback_types = ["star", "read>=3", "rate>3.5"]\n'
        'read_feedback_types = ["read"]\nnegative_feedback_types = ["rate<=1", "ban"]\n'
    )
    given = {"read": (1, 3, 9), "rate": (1, 3, 4), "star": (0, 0, 0), "ban": (0, 0, 0)}
    feedback = [
        {"FeedbackType": kind, "UserId": f"u{n}", "ItemId": f"film:{n}", "Value": value}
        for kind, values in given.items()
        for n, value in enumerate(values)
    ]
    (export / "feedback.jsonl").write_text("".join(json.dumps(one) + "\n" for one in feedback))
    found = import_gorse(export, server, replace=False, tell=lambda *_: None)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(mapping_text(found, FeedbackTypes.of_folder(export)))
    loaded = load_mapping(mapping)
    with server.connect() as connection:
        events = read(loaded, connection).events

    counts = {name: sorted(float(weight) for weight in table.weights) for name, table in events.items()}
    assert counts == {"read": [0.2, 1, 1], "rate": [1], "star": [1, 1, 1], "ban": []}
    assert loaded.content.events["ban"].means == "hide"


def test_the_configuration_of_gorse_0_3_is_read_where_it_has_the_types(export: Path) -> None:
    (export / "config.toml").write_text(
        '[database]\npositive_feedback_types = ["star"]\nread_feedback_types = ["read"]\n'
    )
    types = FeedbackTypes.of_folder(export)
    assert [types.weight(name) for name in ("star", "read")] == [1.0, 0.2]


def test_a_type_without_values_counts_as_it_is_named() -> None:
    types = FeedbackTypes(["read >= 3", "like=2", "rate>"], ["read"], ["ban"])
    assert [types.weight(name) for name in ("read", "like", "rate", "ban")] == [0.2, 1.0, 1.0, 0.0]
    assert types.by_value("read") == "CASE WHEN value >= 3 THEN 1 ELSE 0.2 END"
    assert types.by_value("like") is None
    assert types.by_value("rate") == "CASE WHEN value > 0 THEN 1 ELSE 0 END"
