"""When the flusher flushes, what it keeps of the log, and what it says of itself."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.demo.schema import metadata
from recommendation_service.flush import batches
from recommendation_service.flush import flusher as module
from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log import tail
from recommendation_service.log.forgotten import FILE as FORGOTTEN_FILE
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.marks import FLUSH, mark_path, read_mark
from recommendation_service.log.reader import LogReader
from recommendation_service.log.records import StreamedRecord, decode, encode, now_ms
from recommendation_service.log.segments import HEADER_BYTES, SUFFIX, SegmentWriter
from recommendation_service.processes.registry import FLUSHER
from recommendation_service.processes.requests import ask
from tests.support.events import feed, feedback, write_segment


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "interacpedia.sqlite"
    path.touch()
    return Settings(
        database_url=SecretStr(f"sqlite:///{path}"),
        data_dir=tmp_path / "data",
        flush_interval_seconds=900,
        flush_threshold_activities=50,
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_writing_engine(settings)
    metadata.tables["activity_log"].create(made)
    yield made
    made.dispose()


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT COUNT(*) FROM recs_events").scalar_one())


def segments(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.events_dir.glob(f"*{SUFFIX}"))


# When.


def test_events_are_in_the_database_within_the_interval(settings: Settings, engine: Engine) -> None:
    clock = Clock()
    flusher = Flusher(settings, engine, clock=clock)
    write_segment(settings.events_dir, [feedback()])
    flusher.step()
    clock.seconds = 899
    flusher.step()
    assert flusher.status.flushes == 0
    clock.seconds = 901
    flusher.step()
    assert count(engine) == 1


def test_what_waited_before_the_flusher_began_has_waited(settings: Settings, engine: Engine) -> None:
    write_segment(settings.events_dir, [feedback(received_ms=now_ms() - 901_000)])
    Flusher(settings, engine).step()
    assert count(engine) == 1


@pytest.mark.parametrize(("of_one_user", "flushed"), [(49, 0), (50, 51)])
def test_a_user_with_many_events_is_not_kept_waiting(
    settings: Settings, engine: Engine, of_one_user: int, flushed: int
) -> None:
    flusher = Flusher(settings, engine)
    migrate(engine)
    write_segment(settings.events_dir, [feedback(user_id=1), *(feedback(user_id=2) for _ in range(of_one_user))])
    flusher.step()
    assert count(engine) == flushed


def test_anonymous_people_are_not_one_user(settings: Settings, engine: Engine) -> None:
    flusher = Flusher(settings, engine)
    write_segment(settings.events_dir, [feedback(user_id=0) for _ in range(200)])
    flusher.step()
    assert flusher.status.flushes == 0


def test_more_than_the_bound_is_flushed_at_once_and_in_steps(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 10)
    for _ in range(3):
        write_segment(settings.events_dir, [feedback(user_id=0) for _ in range(12)])
    flusher = Flusher(settings, engine)
    flusher.step()
    assert count(engine) == 36
    assert (flusher.status.flushes, segments(settings)) == (4, [])


def test_a_flusher_that_loses_what_it_read_ahead_ends_and_the_next_one_reads_it_again(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 10)
    write_segment(settings.events_dir, [feedback() for _ in range(25)])
    numbers = itertools.count()

    def run_out_of_memory(payload: bytes) -> Any:
        if next(numbers) == 15:
            raise MemoryError
        return decode(payload)

    monkeypatch.setattr(tail, "decode", run_out_of_memory)
    flusher = Flusher(settings, engine)
    with pytest.raises(MemoryError):
        flusher.flush_all()
    flusher.close()
    assert count(engine) == 10
    assert Flusher(settings, engine).flush_all()
    assert count(engine) == 25


def test_a_log_over_half_its_limit_is_flushed_at_once(settings: Settings, engine: Engine) -> None:
    flusher = Flusher(settings.model_copy(update={"event_log_megabytes": 32}), engine)
    write_segment(settings.events_dir, [feedback()], size=15 << 20)
    flusher.step()
    assert flusher.status.flushes == 0
    write_segment(settings.events_dir, [feedback()], size=2 << 20)
    flusher.step()
    assert count(engine) == 2


def test_a_flush_that_is_asked_for_is_done_and_said(settings: Settings, engine: Engine) -> None:
    write_segment(settings.events_dir, [feedback()])
    token = ask(FLUSHER, settings.events_dir)
    flusher = Flusher(settings, engine)
    flusher.step()
    status = read_status(settings.events_dir)
    assert status is not None
    assert (status.flush_token, status.flushed, status.waiting_records) == (token, {"impression": 1}, 0)
    flusher.step()
    assert flusher.status.flushes == 1, "once"


def test_while_a_flush_rests_it_says_what_is_left_and_how_late_that_is(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "FEEDBACK_ROWS", 2)
    monkeypatch.setattr(module, "TELL_SECONDS", 0.0)
    rests: list[tuple[float, float]] = []

    def rest_seconds(_worked: float, share: float) -> float:
        status = read_status(settings.events_dir)
        assert status is not None
        assert status.promised_ms is not None
        rests.append((status.waiting_records, share))
        late.append(now - status.promised_ms)
        return 0.0

    late: list[int] = []
    monkeypatch.setattr(module, "rest_seconds", rest_seconds)
    now = now_ms()
    accepted = [now - 907_500] * 2 + [now - 903_000] * 2 + [now - 10_000]
    write_segment(settings.events_dir, [feedback(user_id=0, received_ms=moment) for moment in accepted])
    flusher = Flusher(settings, engine, clock=Clock(), now_ms=lambda: now)
    flusher.step()
    assert rests == [(3, pytest.approx(0.28, abs=0.01)), (1, pytest.approx(0.1, abs=0.01))]
    assert late == [3_000, -890_000]
    status = read_status(settings.events_dir)
    assert status is not None
    assert (count(engine), status.waiting_records, status.promised_ms) == (5, 0, None)


# Segments.


def test_a_live_segment_is_read_as_it_grows_and_goes_when_it_is_complete(settings: Settings, engine: Engine) -> None:
    settings.events_dir.mkdir(parents=True)
    writer = SegmentWriter(settings.events_dir / f"1-1{SUFFIX}", 1 << 16)
    flusher = Flusher(settings, engine)
    for expected in (1, 2, 3):
        writer.append(encode(feedback()))
        assert flusher.flush_all()
        assert count(engine) == expected
        assert segments(settings) == [writer.path.name]
    mark = read_mark(settings.events_dir, FLUSH)
    assert mark is not None
    assert mark.places[writer.path.name].position == writer.position
    writer.close()
    assert flusher.flush_all()
    assert list(settings.events_dir.glob("1-1*")) == []


def test_another_flusher_goes_on_where_the_last_one_was(settings: Settings, engine: Engine) -> None:
    settings.events_dir.mkdir(parents=True)
    writer = SegmentWriter(settings.events_dir / f"1-1{SUFFIX}", 1 << 16)
    writer.append(encode(feedback()))
    first = Flusher(settings, engine)
    assert first.flush_all()
    first.close()
    writer.append(encode(feedback()))
    second = Flusher(settings, engine)
    assert second.read() == 1
    second.close()
    # Without its notes, everything is flushed again and found to be there.
    mark_path(settings.events_dir, FLUSH).unlink()
    third = Flusher(settings, engine)
    assert third.flush_all()
    assert (count(engine), third.status.duplicates) == (2, 1)
    writer.close()


def test_an_upgrade_goes_on_where_the_release_before_was_in_its_own_log(settings: Settings, engine: Engine) -> None:
    """The folder is what the build of commit 5484959 wrote: two of its events flushed, two and a feed waiting."""
    shutil.copytree(Path(__file__).parent / "log_of_5484959", settings.events_dir)
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert event_ids(engine) == [f"{1:032x}", "waits-1", "waits-2"]
    assert [path.name for path in settings.events_dir.glob("0179*")] == []


def test_what_the_flush_is_done_with_and_another_reader_is_not_does_not_crowd_it(
    settings: Settings, engine: Engine
) -> None:
    flusher = Flusher(settings.model_copy(update={"event_log_megabytes": 32, "reader_log_share": 0.6}), engine)
    LogReader(settings.events_dir, "mine").close()
    write_segment(settings.events_dir, [feedback()], size=17 << 20)
    assert flusher.flush_all()
    write_segment(settings.events_dir, [feedback()], size=1 << 20)
    flusher.step()
    assert (count(engine), len(segments(settings))) == (1, 2)
    write_segment(settings.events_dir, [feedback()], size=2 << 20)
    flusher.step()
    assert len(segments(settings)) == 2, "beyond the share it gives way, and feedback need not wait"


def test_a_damaged_segment_is_flushed_as_far_as_it_can_be_read_and_put_aside(
    settings: Settings, engine: Engine
) -> None:
    path = write_segment(settings.events_dir, [feedback() for _ in range(10)])
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert (count(engine), flusher.status.damaged_segments) == (9, 1)
    assert (segments(settings), os.listdir(settings.events_dir / "damaged")) == ([], [path.name])
    assert forget_user(engine, settings.events_dir, 7)["damaged_segments"] == 1


def test_a_half_written_record_is_dropped_and_counted(settings: Settings, engine: Engine) -> None:
    path = write_segment(settings.events_dir, [feedback(), b"never completed"])
    content = path.read_bytes()
    place = content.index(b"never completed")
    path.write_bytes(content[: place - HEADER_BYTES] + bytes(HEADER_BYTES) + content[place:])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert (count(engine), flusher.status.torn_records, segments(settings)) == (1, 1, [])


def test_what_a_dead_worker_left_of_making_a_segment_is_removed(settings: Settings, engine: Engine) -> None:
    settings.events_dir.mkdir(parents=True)
    old, held, new = (settings.events_dir / f"{name}.unfinished" for name in ("old", "held", "new"))
    for path in (old, held, new):
        path.touch()
    for path in (old, held):
        os.utime(path, (0, 0))
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Flusher(settings, engine).step()
    assert [path.exists() for path in (old, held, new)] == [False, True, True]


# What cannot go into the database.


def test_without_a_database_events_wait_and_the_reason_is_told(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path}/none.sqlite")})
    flusher = Flusher(elsewhere, make_writing_engine(elsewhere))
    write_segment(settings.events_dir, [feedback(received_ms=now_ms() - 901_000)])
    flusher.step()
    status = read_status(settings.events_dir)
    assert status is not None
    assert "none.sqlite" in str(status.error)
    assert (status.failures, status.waiting_records, len(segments(settings))) == (1, 1, 1)
    assert status.waiting_bytes > 0


def test_an_embedded_database_without_an_activity_log_has_the_events_alone(settings: Settings) -> None:
    engine = make_writing_engine(settings)
    write_segment(settings.events_dir, [feedback(), feed()])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert flusher.status.flushed == {"impression": 1, "feed": 1}


def test_dead_letters_survive_half_a_line(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path)
    first, second = dead_letter(b"\xff", "first"), dead_letter(encode(feedback(event_id="e")), "second", feedback())
    letters.add([first])
    with open(tmp_path / "dead.jsonl", "ab") as file:
        file.write(b'{"died_at": "2026')
    letters.add([second])
    assert letters.all() == [first, second]
    letters.replace([first], [])
    assert letters.all() == [second]


def test_dead_letters_without_room_keep_the_segment(settings: Settings, engine: Engine) -> None:
    write_segment(settings.events_dir, [b"no record", feedback()])
    (settings.events_dir / "dead.jsonl").mkdir()
    flusher = Flusher(settings, engine)
    assert not flusher.flush_all()
    assert "dead letters" in str(flusher.status.error)
    assert len(segments(settings)) == 1
    (settings.events_dir / "dead.jsonl").rmdir()
    assert flusher.flush_all()
    assert (count(engine), segments(settings)) == (1, [])
    assert [letter.reason[:9] for letter in DeadLetters(settings.events_dir).all()] == ["no record"]


# The fleet.


class Stream:
    def __init__(self, *entries: tuple[bytes, list[bytes]]) -> None:
        self.entries = list(entries)
        self.removed: list[bytes] = []

    def remove(self, entries: list[bytes]) -> None:
        self.removed += entries

    def abandoned(self) -> list[tuple[bytes, list[bytes]]]:
        entries, self.entries = self.entries, []
        return entries


def test_copies_on_the_stream_are_removed_once_their_events_are_in_the_database(
    settings: Settings, engine: Engine
) -> None:
    stream = Stream((b"2-0", [encode(feedback()), encode(feedback())]))
    write_segment(settings.events_dir, [feedback(), encode(StreamedRecord(b"1-0"))])
    flusher = Flusher(settings, engine, fleet=stream)
    flusher.read()
    assert stream.removed == []
    assert flusher.flush_all()
    assert (count(engine), sorted(stream.removed)) == (3, [b"1-0", b"2-0"])


# Forgetting.


DAY_MS = 86_400_000


@pytest.mark.parametrize("days", [-450, -1, 1, 60], ids=lambda days: f"clock {days:+} days")
def test_what_comes_after_a_deletion_counts_and_what_was_there_does_not_whatever_the_clock_did(
    settings: Settings, engine: Engine, days: int
) -> None:
    """The log's order decides: here the worker's clock moves just after the deletion, within one segment."""
    folder = settings.events_dir
    folder.mkdir(parents=True)
    writer = SegmentWriter(folder / f"1-1{SUFFIX}", 1 << 16)
    flusher = Flusher(settings, engine)
    moment = now_ms()
    for event_id, ahead_ms in (("before", 0), ("before, by a clock that was ahead", 60 * DAY_MS)):
        writer.append(encode(feedback(event_id=event_id, user_id=7, received_ms=moment + ahead_ms)))
    flusher.read()  # so that the flusher has the first ones already
    writer.append(encode(feedback(event_id="before, not read yet", user_id=7, received_ms=moment)))
    forget_user(engine, folder, 7)
    writer.append(encode(feedback(event_id="after", user_id=7, received_ms=moment + days * DAY_MS)))
    assert flusher.flush_all()
    assert event_ids(engine) == ["after"]
    assert flusher.status.forgotten == 3
    writer.close()
    flusher.close()
    assert Flusher(settings, engine).flush_all()
    assert event_ids(engine) == ["after"]


def test_rows_of_a_flush_that_was_under_way_at_the_deletion_are_deleted(settings: Settings, engine: Engine) -> None:
    folder = settings.events_dir
    write_segment(folder, [feedback(event_id="mine", user_id=7), feedback(event_id="other", user_id=8)])
    flusher = Flusher(settings, engine)
    write = flusher._writer.write

    def write_and_forget(*arguments: Any) -> Any:
        outcome = write(*arguments)
        forget_user(make_writing_engine(settings), folder, 7)
        return outcome

    flusher._writer.write = write_and_forget  # type: ignore[method-assign]
    assert flusher.flush_all()
    assert event_ids(engine) == ["other"]


def test_an_order_of_another_machine_spares_what_was_accepted_before_this_one_heard_of_it(
    settings: Settings, engine: Engine
) -> None:
    folder, now = settings.events_dir, now_ms()
    write_segment(
        folder,
        [
            feedback(event_id="before", user_id=7, received_ms=now - 3_000),
            feedback(event_id="after", user_id=7, received_ms=now - 1_000),
        ],
    )

    class Fleet(Stream):
        def forgotten(self) -> dict[int, tuple[int, int]]:
            return {7: (123_456, 2_000)}  # by a clock that is quite another

    copies = [encode(feedback(event_id=f"copy {entry}", user_id=7)) for entry in (1, 2)]
    fleet = Fleet((b"123456-0", copies[:1]), (b"123457-0", copies[1:]))
    flusher = Flusher(settings, engine, fleet=fleet, now_ms=lambda: now)
    flusher.step()
    assert flusher.flush_all()
    assert event_ids(engine) == ["after", "copy 2"]


def event_ids(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(str(row[0]) for row in connection.exec_driver_sql("SELECT event_id FROM recs_events"))


def test_who_was_forgotten_is_remembered_only_as_long_as_a_segment_is_older(settings: Settings, engine: Engine) -> None:
    settings.events_dir.mkdir(parents=True)
    writer = SegmentWriter(settings.events_dir / f"{now_ms() * 1_000_000:020d}-1{SUFFIX}", 1 << 16)
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    forget_user(engine, settings.events_dir, 7)
    flusher.step()
    assert set(read_forgotten(settings.events_dir)) == {7}
    writer.close()
    assert flusher.flush_all()
    flusher.close()
    later: Any = Flusher(settings, engine)
    assert later.flush_all()
    later.step()
    assert read_forgotten(settings.events_dir) == {}
    assert (settings.events_dir / FORGOTTEN_FILE).exists()
