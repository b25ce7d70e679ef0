"""`recs events readers …` and `recs events follow`, and what /metrics tells of readers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.export import Selection, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.lags import LogLags
from recommendation_service.log.marks import FLUSH, mark_path
from recommendation_service.log.reader import LogReader
from recommendation_service.log.records import encode, now_ms
from recommendation_service.log.segments import SUFFIX, SegmentWriter
from tests.support.events import feed, feedback, write_segment


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


def recs(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["events", *arguments])


def printed(*arguments: str) -> list[dict[str, Any]]:
    result = recs(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def listed() -> dict[str, dict[str, Any]]:
    return {lag["reader"]: lag for lag in printed("readers", "list", "--json")[0]}  # type: ignore[union-attr]


def test_what_follow_prints_is_what_export_gives_of_the_same_events_and_none_comes_twice(
    settings: Settings, engine: Engine
) -> None:
    write_segment(settings.events_dir, [feedback(value=2.5, session_id="tab"), feed(), feedback(user_id=0)])
    lines = printed("follow", "mine", "--once")
    migrate(engine)
    assert Flusher(settings, engine).flush_all()
    exported = [{n: v for n, v in event.items() if v is not None} for event in read_events(engine, Selection())]
    assert sorted(lines, key=lambda event: event["event_id"]) == sorted(exported, key=lambda event: event["event_id"])
    write_segment(settings.events_dir, [feedback(event_id="later")])
    assert [event["event_id"] for event in printed("follow", "mine", "--once")] == ["later"]


def test_what_cannot_be_printed_or_was_missed_is_said_beside_the_lines(settings: Settings, engine: Engine) -> None:
    folder = settings.events_dir
    LogReader(folder, "mine").close()
    write_segment(folder, [feedback(), feedback()], name="1-1")
    small = settings.model_copy(update={"reader_log_share": 0.0})
    assert Flusher(small, engine).flush_all()
    write_segment(folder, [b"no record", feedback(item_type=999), feedback(event_id="good")], name="2-1")
    result = recs("follow", "mine", "--once")
    assert result.exit_code == 0
    assert [json.loads(line)["event_id"] for line in result.stdout.splitlines()] == ["good"]
    assert "Cut off from at most 2 records" in result.stderr
    assert "READER_LOG_SHARE" in result.stderr
    assert "1 records are none of this release" in result.stderr
    assert f"A record in 2-1{SUFFIX} is left out" in result.stderr
    mark_path(folder, "mine").write_bytes(b"{")
    result = recs("follow", "mine", "--once")
    assert f"The position in 2-1{SUFFIX} was lost" in result.stderr
    assert "good" in result.stdout
    assert "Cut off" not in recs("follow", "mine", "--once").stderr, "it was told"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("follow", "flush", "--once"), "The reader 'flush' is the service's own"),
        (("follow", "Mine", "--once"), "'Mine' is no name of a reader"),
        (("readers", "remove", "flush"), "cannot be struck off"),
        (("readers", "remove", "ghost"), "'ghost' is no reader of .*: there are flush, mine"),
        (("readers", "remove", "mine"), "The reader 'mine' of .* is taken by process {pid} since"),
        (("follow", "mine", "--once"), "The reader 'mine' of .* is taken by process {pid} since"),
    ],
)
def test_what_would_harm_is_refused_in_a_sentence(
    settings: Settings, arguments: tuple[str, ...], sentence: str
) -> None:
    with LogReader(settings.events_dir, "mine"):
        result = recs(*arguments)
    assert result.exit_code == 1
    with pytest.raises(type(result.exception), match=sentence.format(pid=os.getpid())):
        raise result.exception


def test_each_reader_is_listed_with_its_lag_until_it_is_struck_off(settings: Settings, engine: Engine) -> None:
    assert listed() == {FLUSH: listed()[FLUSH]}
    assert listed()[FLUSH]["behind_bytes"] == 0
    settings.events_dir.mkdir(parents=True)
    writer = SegmentWriter(settings.events_dir / f"1-1{SUFFIX}", 1 << 16)
    writer.append(*(encode(feedback(received_ms=now_ms() - 60_000)) for _ in range(3)))
    with LogReader(settings.events_dir, "mine") as mine:
        batch = mine.read(2)
        mine.settle(batch.mark)
        assert listed()["mine"]["read_by"].startswith(f"process {os.getpid()}")
    LogReader(settings.events_dir, "other").close()
    assert Flusher(settings, engine).flush_all()
    found = listed()
    end = writer.position
    assert found[FLUSH]["behind_bytes"] == 0
    assert found["mine"]["behind_bytes"] == end - batch.mark.places[writer.path.name].position
    assert found["other"]["behind_bytes"] == end - 16
    assert 60 <= found["mine"]["behind_seconds"] < 1_000
    assert (found["mine"]["read_by"], found["mine"]["behind_segments"]) == (None, 1)
    assert "bytes of 1 segments behind, the oldest for" in recs("status").stdout
    assert "1 segments behind" in recs("readers", "list").stdout
    mark_path(settings.events_dir, "other").write_bytes(b"{")
    assert "cannot be used" in listed()["other"]["problem"]
    assert recs("readers", "remove", "other").exit_code == 0
    assert list(listed()) == [FLUSH, "mine"]
    writer.close()


def test_a_reader_ahead_of_the_flush_is_at_the_end(settings: Settings) -> None:
    """The room of a live segment that nobody has written to is nobody's lag."""
    settings.events_dir.mkdir(parents=True)
    writer = SegmentWriter(settings.events_dir / f"1-1{SUFFIX}", 1 << 16)
    writer.append(encode(feedback()))
    with LogReader(settings.events_dir, "ahead") as ahead:
        ahead.settle(ahead.read().mark)
        flush, mine = LogLags(settings.events_dir).read()
        assert (flush.bytes, mine.bytes) == (writer.position - 16, 0)
    writer.close()
