"""How far behind readers of the log are: to the byte, and cheap to ask again."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from recommendation_service.log import lags
from recommendation_service.log.lags import LogLags
from recommendation_service.log.records import encode
from recommendation_service.log.segments import SUFFIX, SegmentFull, SegmentWriter, end_of_records
from tests.support.events import feedback


@pytest.mark.parametrize("size", [1 << 13, 1 << 20], ids=["small", "of many probes"])
@pytest.mark.parametrize("count", [0, 1, 3, 100, 500])
def test_what_was_really_written_is_behind_and_not_the_segments_room(tmp_path: Path, size: int, count: int) -> None:
    """Where nobody has read it yet, the first that looks finds out."""
    with contextlib.suppress(SegmentFull):
        writer = SegmentWriter(tmp_path / f"1-1{SUFFIX}", size)
        for _ in range(count):
            writer.append(encode(feedback(item_id=7)))
    look = LogLags(tmp_path)
    for _ in range(2):
        (flush,) = look.read()
        assert (flush.bytes, flush.segments) == (writer.position - 16, int(count > 0))
    writer.close()
    assert [lag.bytes for lag in (*look.read(), *look.read())] == [writer.position - 16] * 2
    end = writer.position
    with writer.path.open("r+b") as file:  # half a record, as after a kill: its end is not known
        file.seek(end)
        file.write(b"RECS" + bytes([9]) * 14)
    (flush,) = LogLags(tmp_path).read()
    assert flush.bytes == min(end + 24, size) - 16


def test_what_cannot_change_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape of /metrics is not to cost the more the more waits."""
    for number in (1, 2, 3):
        writer = SegmentWriter(tmp_path / f"{number}-1{SUFFIX}", 1 << 16)
        writer.append(encode(feedback(received_ms=number)))
        if number < 3:
            writer.close()
    look = LogLags(tmp_path)
    first = look.read()
    read: list[str] = []
    monkeypatch.setattr(lags, "end_of_records", lambda path: read.append(path.name) or end_of_records(path))
    monkeypatch.setattr(lags, "scan", lambda path, *_: pytest.fail(f"{path} was read again"))
    assert look.read() == first
    assert read == [writer.path.name], "that one may grow"
    writer.append(encode(feedback()))
    assert look.read()[0].bytes > first[0].bytes
    (tmp_path / f"1-1{SUFFIX}").unlink()
    monkeypatch.undo()
    assert (look.read()[0].segments, look.read()[0].oldest_ms) == (2, 2)
    writer.close()
