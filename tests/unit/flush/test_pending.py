"""What is read of the log and waits: nothing of it is noted as flushed before it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from recommendation_service.flush.pending import Pending
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.log.segments import SUFFIX
from tests.support.events import feedback, write_segment

MOST_BYTES = 1 << 20
RECORDS: list[Event] = [feedback(event_id=f"e-{number:02d}", user_id=number % 2) for number in range(25)]
IDS = [event_id_of(record) for record in RECORDS]


def waiting(folder: Path, most: int = 10) -> Pending:
    return Pending(folder, None, most, MOST_BYTES)


def ids(pending: Pending) -> list[str]:
    return [event_id_of(record) for record in pending.records]


def is_all_flushed(pending: Pending) -> bool:
    """Every segment, to its end: nothing of them is needed."""
    return pending.waiting_bytes == 0 and all(place.finished for place in pending.settled.values())


@pytest.mark.parametrize("segments", [1, 5])
def test_what_was_read_ahead_is_not_settled_with_what_was_pending(tmp_path: Path, segments: int) -> None:
    each = len(RECORDS) // segments
    for number in range(segments):
        write_segment(tmp_path, RECORDS[number * each : (number + 1) * each], name=f"{number}-1")
    pending = waiting(tmp_path)
    assert (pending.read(), pending.has_more) == (10, True)
    pending.read_ahead()
    pending.settle()
    pending.keep([])
    # Killed now, another goes on after the ten.
    pending.close()
    another = waiting(tmp_path, most=100)
    another.read()
    assert ids(another) == IDS[10:]
    assert (pending.read(), ids(pending), pending.has_more) == (10, IDS[10:20], True)
    pending.settle()
    pending.keep([])
    assert (pending.read(), ids(pending), pending.has_more) == (5, IDS[20:], False)
    pending.settle()
    assert is_all_flushed(pending)


def test_after_a_failed_flush_what_was_read_ahead_waits_too_and_no_more_is_read(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS)
    pending = waiting(tmp_path)
    pending.read()
    assert pending.may_read_ahead
    pending.read_ahead()
    pending.keep(pending.records)
    for _ in range(3):
        pending.read()
        assert (ids(pending), pending.has_more, pending.may_read_ahead) == (IDS[:20], True, False)
    assert (pending.is_full, pending.most_of_a_user) == (True, 10)
    pending.settle()
    pending.keep([])
    pending.read()
    assert (ids(pending), pending.most_of_a_user) == (IDS[20:], 2)


def test_a_segment_that_cannot_be_read_takes_nothing_of_others_with_it(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS, name="1-1")
    unreadable = tmp_path / f"2-1{SUFFIX}"
    unreadable.mkdir()
    pending = waiting(tmp_path, most=100)
    pending.read()
    assert ids(pending) == IDS
    with pytest.raises(IsADirectoryError):
        pending.read()
    with pytest.raises(IsADirectoryError):
        pending.read_ahead()
    assert ids(pending) == IDS
    unreadable.rmdir()
    pending.read()
    pending.settle()
    assert ids(pending) == IDS
    assert is_all_flushed(pending)
