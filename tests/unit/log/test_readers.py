"""Readers of the log: what each is given, what is kept for them, and what becomes of one that is slow, gone or hurt."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.core.errors import SourceError
from recommendation_service.flush.rows import event_id_of
from recommendation_service.log import reader as reader_module
from recommendation_service.log import retention, tail
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.marks import (
    FLUSH,
    OWN,
    Mark,
    Missed,
    Place,
    lock_path,
    mark_path,
    read_mark,
    registered,
)
from recommendation_service.log.reader import Batch, LogReader, ReaderTaken
from recommendation_service.log.records import StreamedRecord, encode
from recommendation_service.log.retention import DAMAGED_FOLDER, remove_passed
from recommendation_service.log.segments import FILE_HEADER, HEADER_BYTES, SUFFIX, SegmentWriter
from tests.support.events import feedback, write_segment

NO_BOUND = 1 << 40
SIZE = 1 << 16


def ids(batch: Batch) -> list[str]:
    return [event_id_of(record) for stretch in batch.stretches for record in stretch.records]


def write(folder: Path, name: str, *events: str, **fields: Any) -> Path:
    return write_segment(folder, [feedback(event_id=event, **fields) for event in events], name=name, size=SIZE)


def segments(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def read_and_settle(reader: LogReader) -> list[str]:
    batch = reader.read()
    reader.settle(batch.mark)
    return ids(batch)


@pytest.fixture
def flush(tmp_path: Path) -> LogReader:
    return LogReader(tmp_path, FLUSH)


@pytest.fixture
def learn(tmp_path: Path) -> Iterator[LogReader]:
    with LogReader(tmp_path, "learn") as reader:
        yield reader


# What is kept, and what goes.


def test_a_segment_goes_when_all_registered_readers_have_passed_it(
    tmp_path: Path, flush: LogReader, learn: LogReader
) -> None:
    write(tmp_path, "1-1", "a", "b")
    write(tmp_path, "2-1", "c")
    assert read_and_settle(flush) == ["a", "b", "c"]
    remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert segments(tmp_path) == ["1-1", "2-1"]
    learn.settle(learn.read(2).mark)
    learn.settle(learn.read(1).mark)
    remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert segments(tmp_path) == ["2-1"]
    assert read_and_settle(learn) == []  # only now it knows that nothing follows
    remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert segments(tmp_path) == []
    assert flush.read().mark.places == {}


def test_what_flush_has_not_passed_stays_however_full_the_log_is(
    tmp_path: Path, flush: LogReader, learn: LogReader
) -> None:
    write(tmp_path, "1-1", "a")
    assert read_and_settle(learn) == ["a"]
    flush.read()
    remove_passed(tmp_path, flush.settled.places, 0)
    assert segments(tmp_path) == ["1-1"]


def test_a_reader_that_is_struck_off_keeps_nothing(tmp_path: Path, flush: LogReader, learn: LogReader) -> None:
    write(tmp_path, "1-1", "a")
    read_and_settle(flush)
    learn.strike_off()
    assert registered(tmp_path) == [FLUSH]
    assert list((tmp_path / "readers").glob("learn*")) == []
    remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert segments(tmp_path) == []


def test_a_damaged_segment_is_put_aside_when_all_have_passed_it_unless_it_may_have_somebody_who_was_forgotten(
    tmp_path: Path, flush: LogReader
) -> None:
    for name, user in (("1-1", 7), ("2-1", 8)):
        path = write(tmp_path, name, "a", "b", user_id=user)
        if user == 7:
            note_forgotten(tmp_path, user, 1)
        content = bytearray(path.read_bytes())
        content[len(FILE_HEADER) + HEADER_BYTES] ^= 1
        path.write_bytes(content)
    flush.settle(flush.read().mark)
    remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert (segments(tmp_path), os.listdir(tmp_path / DAMAGED_FOLDER)) == ([], [f"2-1{SUFFIX}"])


# Where a reader goes on.


def test_a_reader_goes_on_after_what_it_settled_and_one_that_keeps_its_mark_after_that(tmp_path: Path) -> None:
    write(tmp_path, "1-1", "a", "b", "c")
    with LogReader(tmp_path, "learn") as reader:
        reader.settle(reader.read(1).mark)
        kept = reader.read(1).mark  # with its results; then it was killed
    with LogReader(tmp_path, "learn") as reader:
        assert ids(reader.read()) == ["b", "c"]
    with LogReader(tmp_path, "learn", Mark.decoded(kept.encoded())) as reader:
        assert ids(reader.read()) == ["c"]
    assert read_mark(tmp_path, "learn") == kept


def test_a_reader_may_note_nothing_on_a_full_disk_and_go_on(
    tmp_path: Path, learn: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1-1", "a", "b")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("recommendation_service.log.marks.write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            learn.settle(learn.read(1).mark)
    learn.settle(learn.settled)  # what could not be noted is noted with the next
    assert read_mark(tmp_path, "learn") == learn.settled
    assert ids(learn.read()) == ["b"]


def test_positions_of_an_earlier_release_are_those_of_flush(tmp_path: Path) -> None:
    path = write(tmp_path, "1-1", "a", "b")
    with LogReader(tmp_path, "other") as other:
        position = other.read(1).mark.places[path.name].position
    earlier = path.with_name(f"{path.name}.position")
    earlier.write_text(json.dumps({"position": position, "damaged": 0}))
    flush = LogReader(tmp_path, FLUSH)
    batch = flush.read()
    assert (ids(batch), batch.restarted) == (["b"], [])
    flush.settle(batch.mark)
    flush.close()
    assert LogReader(tmp_path, FLUSH).read().stretches == []  # its own note is the later one
    with LogReader(tmp_path, "learn") as learn:
        assert ids(learn.read()) == ["a", "b"]
        learn.strike_off()
    with LogReader(tmp_path, "other") as other:
        other.strike_off()
    remove_passed(tmp_path, batch.mark.places, NO_BOUND)
    assert sorted(os.listdir(tmp_path)) == ["readers"]


@pytest.mark.parametrize(
    "earlier", ["", "{", "[]", '{"position": "x", "damaged": 0}', '{"position": 9999999, "damaged": 0}']
)
def test_a_position_of_an_earlier_release_that_is_none_is_flushed_from_the_beginning(
    tmp_path: Path, earlier: str
) -> None:
    path = write(tmp_path, "1-1", "a", "b")
    path.with_name(f"{path.name}.position").write_text(earlier)
    assert ids(LogReader(tmp_path, FLUSH).read()) == ["a", "b"]


def moved(by: int) -> Any:
    """The position, so much further."""

    def change(content: bytes) -> bytes:
        mark = json.loads(content)
        for place in mark["places"].values():
            place[0] += by
        return json.dumps(mark).encode()

    return change


@pytest.mark.parametrize("name", [FLUSH, "learn"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        lambda _: b"\0" * 100,
        lambda _: b'{"places": {"1-1.segment": [16.5]}}',
        moved(8),
        moved(-8),
        moved(SIZE),
        moved(1 << 62),
    ],
    ids=["cut", "empty", "zeros", "no number", "within a record", "back", "ahead of the segment", "far ahead"],
)
def test_a_lost_position_costs_no_record_and_who_it_is_lost_to_is_told(
    tmp_path: Path, name: str, change: Any, flush: LogReader
) -> None:
    path = write(tmp_path, "1-1", "a", "b", "c")
    flush.close()
    reader = LogReader(tmp_path, name)
    reader.settle(reader.read(2).mark)
    reader.close()
    mark = mark_path(tmp_path, name)
    mark.write_bytes(change(mark.read_bytes()))
    reader = LogReader(tmp_path, name)
    flush.settle(flush.read().mark)
    if name != FLUSH:
        remove_passed(tmp_path, flush.settled.places, NO_BOUND)
    assert segments(tmp_path) == ["1-1"], "nothing is deleted on its word"
    batch = reader.read()
    assert (ids(batch), batch.restarted) == (["a", "b", "c"], [path.name])
    reader.settle(batch.mark)
    again = reader.read()
    assert (ids(again), again.restarted) == ([], [])
    reader.close()


def test_a_live_segment_is_not_skipped_by_a_position_that_its_writer_has_not_come_to(tmp_path: Path) -> None:
    """The writer would come to it: what it writes until then was never read."""
    writer = SegmentWriter(tmp_path / f"1-1{SUFFIX}", SIZE)
    writer.append(encode(feedback(event_id="a")))
    ahead = Mark({writer.path.name: Place(writer.position + 400)})
    with LogReader(tmp_path, "learn", ahead) as learn:
        assert ids(learn.read()) == ["a"]
        writer.append(encode(feedback(event_id="b")))
        assert ids(learn.read()) == ["b"]
    writer.close()


# Cut off.


def test_a_reader_that_holds_more_than_its_share_is_cut_off_and_told_once_what_it_missed(
    tmp_path: Path, flush: LogReader, learn: LogReader
) -> None:
    write(tmp_path, "1-1", "a", "b", received_ms=1_000)
    learn.settle(learn.read(1).mark)
    for number in (2, 3, 4):
        write(tmp_path, f"{number}-1", f"{number} a", f"{number} b", received_ms=number * 1_000)
    write_segment(tmp_path, [feedback(event_id="5 a"), encode(StreamedRecord(b"1-0"))], name="5-1", size=SIZE)
    read_and_settle(flush)
    remove_passed(tmp_path, flush.settled.places, 2 * SIZE)
    assert segments(tmp_path) == ["4-1", "5-1"]
    for _ in range(2):  # until it has settled
        batch = learn.read(1)
        assert batch.missed is not None
        told = batch.missed
        assert (told.segments, told.records, told.from_ms, told.until_ms) == (3, 5, 1_000, 3_000)
        assert told.bytes > 5 * 50
    learn.settle(batch.mark)  # "4 a" and "4 b", which is all of it
    write(tmp_path, "6-1", "6 a", "6 b", received_ms=6_000)
    read_and_settle(flush)
    remove_passed(tmp_path, flush.settled.places, 2 * SIZE)
    assert segments(tmp_path) == ["5-1", "6-1"]
    batch = learn.read(3)
    assert (ids(batch), batch.missed) == (["5 a", "6 a"], None)
    learn.settle(batch.mark)
    # And once more, of what came then.
    write(tmp_path, "7-1", "7 a", received_ms=7_000)
    read_and_settle(flush)
    remove_passed(tmp_path, flush.settled.places, SIZE)
    learn.close()
    with LogReader(tmp_path, "learn") as again:
        batch = again.read()
        assert batch.missed is not None
        told = batch.missed
        assert (told.segments, told.records, told.from_ms, told.until_ms) == (1, 1, 6_000, 6_000)
        assert ids(batch) == ["7 a"]


def test_a_flusher_that_is_killed_between_telling_and_removing_tells_it_once_and_gives_none_of_it(
    tmp_path: Path, flush: LogReader, learn: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1-1", "a")
    write(tmp_path, "2-1", "b")
    read_and_settle(flush)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_passed(tmp_path, flush.settled.places, SIZE)
    assert segments(tmp_path) == ["1-1", "2-1"]
    batch = learn.read()
    assert ids(batch) == ["b"]
    assert batch.missed is not None
    assert batch.missed.segments == 1
    flush.close()
    remove_passed(tmp_path, LogReader(tmp_path, FLUSH).settled.places, SIZE)
    assert segments(tmp_path) == ["2-1"]
    assert learn.read().missed == batch.missed


def test_on_a_full_disk_the_first_segment_makes_the_room_to_tell_of_it(
    tmp_path: Path, flush: LogReader, learn: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1-1", "a")
    read_and_settle(flush)
    write_missed = retention.write_missed

    def full(folder: Path, name: str, missed: Missed) -> None:
        if segments(folder):
            raise OSError(28, "No space left on device")
        write_missed(folder, name, missed)

    monkeypatch.setattr(retention, "write_missed", full)
    remove_passed(tmp_path, flush.settled.places, 0)
    missed = learn.read().missed
    assert missed is not None
    assert (missed.segments, missed.records) == (1, 1)


def test_a_reader_whose_mark_is_lost_fills_no_log(tmp_path: Path, flush: LogReader, learn: LogReader) -> None:
    write(tmp_path, "1-1", "a")
    read_and_settle(learn)
    learn.close()
    mark_path(tmp_path, "learn").write_bytes(b"\xff")
    read_and_settle(flush)
    remove_passed(tmp_path, flush.settled.places, SIZE)
    assert segments(tmp_path) == ["1-1"]
    remove_passed(tmp_path, flush.settled.places, SIZE - 1)
    assert segments(tmp_path) == []


def test_damaged_notes_of_what_was_missed_tell_nothing_twice(
    tmp_path: Path, flush: LogReader, learn: LogReader
) -> None:
    for number in (1, 2):
        write(tmp_path, f"{number}-1", f"{number}")
        read_and_settle(flush)
        remove_passed(tmp_path, flush.settled.places, 0)
        missed = learn.read().missed
        assert missed is not None
        assert missed.segments == 1
        learn.settle(learn.read().mark)
        (tmp_path / "readers" / "learn.missed").write_bytes(b"{")
        assert learn.read().missed is None


# Who reads.


@pytest.mark.parametrize("name", [*OWN, "mine"])
def test_a_name_is_taken_by_one_process_at_a_time_and_the_other_is_told_by_whom(tmp_path: Path, name: str) -> None:
    reader = LogReader(tmp_path, name)
    with pytest.raises(ReaderTaken, match=rf"The reader '{name}' of .* is taken by process {os.getpid()} since 20"):
        LogReader(tmp_path, name)
    reader.close()
    LogReader(tmp_path, name).close()


def test_on_a_disk_without_room_for_a_lock_the_flush_makes_room_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1-1", "a")

    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reader_module, "open_lock", full)
    assert ids(LogReader(tmp_path, FLUSH).read()) == ["a"]
    with pytest.raises(OSError, match="No space left"):
        LogReader(tmp_path, "mine")


def test_a_reader_that_nobody_has_any_more_holds_its_name_no_longer(tmp_path: Path) -> None:
    LogReader(tmp_path, "mine")
    LogReader(tmp_path, "mine").close()


@pytest.mark.parametrize("name", ["", "Learn", "../x", "-x", "a b", "a" * 41, "a.json"])
def test_a_name_that_would_be_no_file_of_a_reader_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="is no name of a reader"):
        LogReader(tmp_path, name)
    assert os.listdir(tmp_path) == []


def test_nobody_is_given_what_was_there_of_a_user_who_was_to_be_forgotten(
    tmp_path: Path, flush: LogReader, learn: LogReader
) -> None:
    writer = SegmentWriter(tmp_path / f"1-1{SUFFIX}", SIZE)
    writer.append(encode(feedback(event_id="a", user_id=7)), encode(feedback(event_id="b", user_id=8)))
    note_forgotten(tmp_path, 7, 1)
    writer.append(encode(feedback(event_id="c", user_id=7)))
    writer.close()
    for reader in (flush, learn):
        batch = reader.read()
        assert ids(batch) == ["b", "c"]
        assert [event_id_of(record) for stretch in batch.stretches for record in stretch.forgotten] == ["a"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": {}}', b'{"7": {"moment": 1, "other": 2}}'])
def test_nobody_reads_on_without_the_list_of_who_is_forgotten(tmp_path: Path, learn: LogReader, content: bytes) -> None:
    write(tmp_path, "1-1", "a")
    (tmp_path / "forgotten.json").write_bytes(content)
    with pytest.raises(OSError, match="no list of who is forgotten"):
        learn.read()
    (tmp_path / "forgotten.json").unlink()
    assert ids(learn.read()) == ["a"], "it was not taken for read"


def test_a_reading_that_fails_halfway_takes_nothing(
    tmp_path: Path, learn: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1-1", "a")
    write(tmp_path, "2-1", "b")
    assert ids(learn.read(1)) == ["a"]
    write(tmp_path, "3-1", "c")
    take_apart = tail.take_apart

    def run_out_of_memory(segment: str, payloads: list[bytes], begins: list[int]) -> tail.Stretch:
        if segment.startswith("3"):
            raise MemoryError
        return take_apart(segment, payloads, begins)

    with monkeypatch.context() as patch:
        patch.setattr(tail, "take_apart", run_out_of_memory)
        with pytest.raises(MemoryError):
            learn.read()
    assert ids(learn.read()) == ["b", "c"]


def test_a_name_that_is_only_looked_at_is_not_taken(tmp_path: Path, learn: LogReader) -> None:
    learn.close()
    with open(lock_path(tmp_path, "learn"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        looking = threading.Timer(0.05, fcntl.flock, (lock, fcntl.LOCK_UN))
        looking.start()
        LogReader(tmp_path, "learn").close()
        looking.join()
