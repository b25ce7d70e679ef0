"""`recs events` and `recs migrate`, on an embedded database."""

from __future__ import annotations

import fcntl
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pytest
from click.testing import Result
from pyarrow import parquet
from sqlalchemy.engine import Engine
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.event_writer import EventWriter, Outcome
from recommendation_service.flush.export import EVENT_COLUMNS, write_parquet
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import MIGRATIONS, migrate, statements
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.processes.registry import FLUSHER
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


def next_flush() -> str:
    """What `recs events status` says of it; empty: nothing."""
    lines = recs("events", "status").stdout.splitlines()
    return next((line.removeprefix("next flush").strip() for line in lines if line.startswith("next flush")), "")


@contextmanager
def as_if_it_ran(settings: Settings) -> Iterator[None]:
    """The flusher's lock is held, as by the worker that keeps it."""
    with open(settings.events_dir / FLUSHER.lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_status_says_when_what_waits_will_be_flushed(settings: Settings, engine: Engine) -> None:
    clock = [1000.0]
    flusher = Flusher(settings, engine, clock=lambda: clock[0])
    flusher.step()
    assert next_flush() == ""
    write_segment(settings.events_dir, [feedback(user_id=user) for user in (1, 1, 2)])
    flusher.step()
    assert next_flush() == "when a flusher runs again; `recs events flush` does it now"
    with as_if_it_ran(settings):
        assert re.fullmatch(r"in \d+ s, or as soon as one user has 50 events that wait \(now 2\)", next_flush())
        clock[0] += 895
        flusher.step()
        assert re.match(r"(in [1-5] s|now)", next_flush())


def test_status_says_when_a_flush_that_failed_is_tried_again(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(settings.events_dir, [feedback()])
    flusher = Flusher(settings, engine, clock=lambda: 1000.0)
    monkeypatch.setattr(flusher._writer, "write", lambda records: Outcome(left=list(records), problem="away"))
    for _ in range(8):
        flusher.flush_all()
    flusher.tell()
    with as_if_it_ran(settings):
        assert re.fullmatch(r"tried again in \d+ s", next_flush())


def test_a_flush_that_fails_says_why(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(settings.events_dir, [feedback()])
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{settings.data_dir}/none.sqlite")
    result = recs("events", "flush")
    assert isinstance(result.exception, SourceError)
    assert "none.sqlite" in str(result.exception)


def test_dead_letters_that_cannot_be_read_stay(settings: Settings, engine: Engine) -> None:
    migrate(engine)
    assert recs("events", "dead").stdout == "There are no dead letters.\n"
    write_segment(settings.events_dir, [feedback(event_id="dead", item_type=999), b"no record"])
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
    assert [row.get("seed") for row in present] == [None, None, str(2**62 + 1)]


LARGE = 2**53 + 1  # what a float makes another number of


@pytest.fixture
def parquet_file(exported: Settings, engine: Engine, tmp_path: Path) -> Path:
    EventWriter(engine).write([feedback(event_id="large", user_id=LARGE, item_id=LARGE - 2, position=7)])
    path = tmp_path / "events.parquet"
    assert recs("events", "export", "--format", "parquet", "--output", str(path)).exit_code == 0
    return path


def test_parquet_has_types_that_every_reader_takes(parquet_file: Path) -> None:
    def leaves(kind: Any) -> list[Any]:
        return (
            [kind] if not kind.num_fields else [x for n in range(kind.num_fields) for x in leaves(kind.field(n).type)]
        )

    schema = parquet.read_schema(parquet_file)
    assert {str(leaf) for kind in schema.types for leaf in leaves(kind)} == {
        "bool", "string", "int64", "int32", "double", "float", "timestamp[ms, tz=UTC]",
    }  # fmt: skip
    assert all(field.nullable for field in schema)


def test_duckdb_reads_the_parquet_and_takes_differences(parquet_file: Path) -> None:
    events = duckdb.read_parquet(str(parquet_file))
    types = dict(zip(events.columns, map(str, events.types), strict=True))
    assert (types["user_id"], types["item_id"], types["happened_at"]) == (
        "BIGINT",
        "BIGINT",
        "TIMESTAMP WITH TIME ZONE",
    )
    assert events.aggregate("min(item_id - user_id), sum(item_id IS NULL), max(user_id)").fetchall() == [(-2, 1, LARGE)]


def test_pandas_reads_the_parquet_with_whole_numbers_that_may_be_absent(parquet_file: Path) -> None:
    events = pandas.read_parquet(parquet_file)
    kinds = {name: str(events.dtypes[name]) for name in ("user_id", "item_id", "position", "flags")}
    assert kinds == {"user_id": "Int64", "item_id": "Int64", "position": "Int32", "flags": "Int32"}
    assert list(events.item_id - events.user_id) == [41, 40, pandas.NA, -2]
    assert str(events.happened_at.dt.tz) == "UTC"


def test_polars_reads_the_parquet_lazily(parquet_file: Path) -> None:
    events = polars.scan_parquet(parquet_file).filter(polars.col("item_id") == LARGE - 2).collect()
    assert events.schema["item_id"] == events.schema["user_id"] == polars.Int64
    assert events["user_id"].to_list() == [LARGE]
    assert events.schema["happened_at"] == polars.Datetime("ms", "UTC")


def test_an_id_that_int64_cannot_hold_is_named(exported: Settings, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"item_id of the event 'odd' is 9223372036854775808"):
        write_parquet([dict.fromkeys(EVENT_COLUMNS) | {"event_id": "odd", "item_id": 2**63}], io.BytesIO())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_was_there_stays_until_an_export_is_whole(
    exported: Settings, engine: Engine, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "exports" / "events"
    path.parent.mkdir()
    path.write_text("of yesterday")
    path.chmod(0o640)

    def export() -> Result:
        return recs("events", "export", "--format", form, "--output", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", "mysql+pymysql://nobody@127.0.0.1:1/nowhere")
        assert (export().exit_code, path.read_text()) == (1, "of yesterday")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE recs_events SET slots = 'none' WHERE event = 'feed'")
    in_the_middle = export()
    assert (in_the_middle.exit_code, path.read_text()) == (1, "of yesterday")
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM recs_events WHERE event = 'feed'")
    assert export().exit_code == 0
    assert path.stat().st_size > 100
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [("", "Is a directory"), ("none/events", "No such file"), ("/dev/full", "No space left"), ("file/x", "Not a dir")],
)
def test_where_nothing_can_be_written_is_said_in_a_sentence(
    exported: Settings, tmp_path: Path, form: str, place: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    result = recs("events", "export", "--format", form, "--output", str(tmp_path / place))
    assert result.exit_code == 1
    assert isinstance(result.exception, SourceError)  # which `recs` says
    assert reason in str(result.exception)


def test_an_export_may_go_into_a_pipe_or_through_a_link(exported: Settings, tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    assert recs("events", "export", "--output", str(link)).exit_code == 0
    assert link.is_symlink()
    assert len(file.read_text().splitlines()) == 3
    assert recs("events", "export", "--output", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_export_of_many_comes_in_parts(exported: Settings, engine: Engine) -> None:
    EventWriter(engine).write([feedback(event_id=f"many-{i}", user_id=3) for i in range(4_500)])
    assert len({line["event_id"] for line in exported_lines("--user", "3")}) == 4_500


def test_without_pyarrow_parquet_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match="make setup"):
        write_parquet([], io.BytesIO())


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--event", "dance"], "--event"), (["--format", "parquet"], "--output")]
)
def test_export_names_what_is_wrong(exported: Settings, arguments: list[str], named: str) -> None:
    result = recs("events", "export", *arguments)
    assert result.exit_code == 2
    assert named in result.output
