"""`recs events` and `recs migrate`, on an embedded database."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pyarrow import parquet
from sqlalchemy.engine import Engine
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.demo.schema import metadata
from recommendation_service.events.dead_letters import DeadLetters
from recommendation_service.events.export import write_parquet
from recommendation_service.events.flush import EventWriter
from recommendation_service.events.tables import MIGRATIONS, make_writing_engine, migrate, statements
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path = tmp_path / "interacpedia.sqlite"
    path.touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return Settings()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_writing_engine(settings)
    metadata.tables["activity_log"].create(made)
    yield made
    made.dispose()


def recs(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def answer_of(*arguments: str) -> Any:
    result = recs(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_migrate_makes_the_tables_once_and_says_so(settings: Settings, engine: Engine) -> None:
    dry = recs("migrate", "--dry-run")
    assert "CREATE TABLE IF NOT EXISTS recs_events" in dry.stdout
    assert "recs_events" in recs("migrate").stdout
    assert "Nothing to do" in recs("migrate").stdout
    assert answer_of("migrate", "--json") == {"migrations": [], "done": True, "statements": []}
    assert EventWriter(engine).write([feedback()]).inserted == {"impression": 1}


def test_migrations_have_their_numbers_in_order() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_the_file_for_administrators_is_what_migrate_runs() -> None:
    text = (ROOT / "migrations" / "recs_events.sql").read_text("utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    assert body.strip() == ";\n".join(statements(MIGRATIONS, "mysql")) + ";"


def test_status_before_anything_and_after_a_flush(settings: Settings, engine: Engine) -> None:
    before = answer_of("events", "status", "--json")
    assert (before["flusher_runs"], before["flushed"], before["log_bytes"]) == (False, {}, 0)
    assert "does not run" in recs("events", "status").stdout
    write_segment(settings.events_dir, [feedback(), b"no record"])
    assert answer_of("events", "status", "--json")["log_bytes"] > 0
    flushed = answer_of("events", "flush", "--json")
    assert (flushed["flushed"], flushed["waiting_records"]) == ({"impression": 1}, 0)
    after = answer_of("events", "status", "--json")
    assert (after["log_bytes"], after["dead_letters_kept"], after["error"]) == (0, 1, None)
    assert "no record" in recs("events", "dead").stdout


def test_a_flush_that_fails_says_why(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(settings.events_dir, [feedback()])
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{settings.data_dir}/none.sqlite")
    result = recs("events", "flush")
    assert isinstance(result.exception, SourceError)
    assert "none.sqlite" in str(result.exception)


def test_dead_letters_that_cannot_be_read_stay(settings: Settings, engine: Engine) -> None:
    migrate(engine)
    assert recs("events", "dead").stdout == "There are no dead letters.\n"
    write_segment(settings.events_dir, [feedback(event_id="dead", item_type=9), b"no record"])
    answer_of("events", "flush", "--json")
    result = recs("events", "dead", "--replay", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"replayed": 0, "already_there": 0, "dead": 2})
    assert len(DeadLetters(settings.events_dir).all()) == 2


@pytest.fixture
def exported(settings: Settings, engine: Engine) -> Settings:
    migrate(engine)
    day_ms = 86_400_000
    EventWriter(engine).write(
        [
            feedback(event_id="a", event="rating", user_id=1, value=4.5, position=2, slot_kind=1),
            feedback(event_id="b", user_id=2, happened_ms=HAPPENED_MS + day_ms),
            feed(3, user_id=1, happened_ms=HAPPENED_MS + 2 * day_ms),
        ]
    )
    return settings


def exported_lines(*arguments: str) -> list[dict[str, Any]]:
    result = recs("events", "export", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_export_gives_every_field_of_an_event(exported: Settings) -> None:
    first, _, last = exported_lines()
    assert first.pop("received_at")
    assert first == {
        "event_id": "a", "event": "rating", "user_id": 1, "item_type": "resume", "item_id": 42, "slot_kind": "VMP",
        "position": 2, "value": 4.5, "flags": 0, "happened_at": "2026-09-21T14:13:20.250Z",
    }  # fmt: skip
    assert (last["endpoint"], last["catalog"], last["seed"]) == ("total", "20261124T064235.000000Z", 2**62 + 1)
    assert last["slots"][2] == {
        "position": 2, "item_type": "challenge", "item_id": 102, "slot": "FW", "pool": "FW", "propensity": 0.25,
        "relaxed": [], "features": [float(x) for x in range(36, 54)],
    }  # fmt: skip
    assert last["slots"][1]["relaxed"] == ["skill_novelty"]


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["--since", "2026-09-22"], ["impression", "feed"]),
        (["--until", "2026-09-22"], ["rating"]),
        (["--since", "2026-09-22", "--until", "2026-09-23"], ["impression"]),
        (["--event", "feed"], ["feed"]),
        (["--user", "1"], ["rating", "feed"]),
        (["--user", "3"], []),
    ],
)
def test_export_takes_what_is_asked_for(exported: Settings, arguments: list[str], events: list[str]) -> None:
    assert [line["event"] for line in exported_lines(*arguments)] == events


def test_export_as_parquet_has_the_same(exported: Settings, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    result = recs("events", "export", "--format", "parquet", "--output", str(path), "--json")
    assert (result.exit_code, json.loads(result.stderr)) == (0, {"events": 3})
    found = parquet.read_table(path).to_pylist()
    assert found[0]["happened_at"] == datetime(2026, 9, 21, 14, 13, 20, 250_000, UTC)
    present = [{name: value for name, value in row.items() if value is not None} for row in found]
    lines = exported_lines()
    assert [set(row) for row in present] == [set(line) for line in lines]
    assert [row.get("slots") for row in present] == [line.get("slots") for line in lines]


def test_export_of_many_comes_in_parts(exported: Settings, engine: Engine) -> None:
    EventWriter(engine).write([feedback(event_id=f"many-{i}", user_id=3) for i in range(4_500)])
    assert len({line["event_id"] for line in exported_lines("--user", "3")}) == 4_500


def test_without_pyarrow_parquet_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match="make setup"):
        write_parquet([], tmp_path / "events.parquet")


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--event", "dance"], "--event"), (["--format", "parquet"], "--output")]
)
def test_export_names_what_is_wrong(exported: Settings, arguments: list[str], named: str) -> None:
    result = recs("events", "export", *arguments)
    assert result.exit_code == 2
    assert named in result.output
