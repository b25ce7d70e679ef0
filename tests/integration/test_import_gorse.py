"""Coming from Gorse: its exports become tables and a mapping, which is served at once."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.importing.gorse import FeedbackTypes, event_name, import_gorse, mapping_text
from recommendation_service.onboarding.examination import check_mapping
from recommendation_service.sources.mapping.mapping import load_mapping
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


def test_types_are_events_under_names_that_a_mapping_takes() -> None:
    assert event_name("star", set()) == "star"
    assert event_name("5 sterne", {"e_5_sterne"}) == "e_5_sterne_"
    types = FeedbackTypes(["star", "rate>=3"], ["read", "star"])
    assert [types.weight(name) for name in ("star", "rate", "read", "other")] == [1.0, 1.0, 0.2, 1.0]
