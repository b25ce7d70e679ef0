"""A segment of the log, cut off and damaged anywhere: everything whole is kept, and nothing ever raises."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.log import segments
from recommendation_service.log.segments import (
    FILE_HEADER,
    HEADER_BYTES,
    MAGIC,
    SUFFIX,
    UNFINISHED,
    Scan,
    SegmentFull,
    SegmentWriter,
    ends_a_record,
    scan,
)

SIZE = 1 << 14
unhurried = settings(deadline=None)
# Among others such as hold what a reader looks for.
payloads = st.lists(
    st.binary(min_size=1, max_size=200) | st.sampled_from([MAGIC, MAGIC * 5, bytes(40), FILE_HEADER]), max_size=20
)
some_payloads = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20)


@contextmanager
def segment(content: list[bytes], size: int = SIZE) -> Iterator[tuple[Path, list[int]]]:
    """A complete one, and where its records end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"1{SUFFIX}"
        writer = SegmentWriter(path, size)
        ends = []
        for payload in content:
            writer.append(payload)
            ends.append(writer.position)
        writer.close()
        yield path, ends


def change(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@unhurried
@given(payloads)
def test_what_was_appended_is_read(content: list[bytes]) -> None:
    with segment(content) as (path, ends):
        *begins, end = len(FILE_HEADER), *ends
        assert scan(path) == Scan(content, begins, end, 0, torn=False, finished=True)
        places = [*range(min(end + 20, SIZE + 9)), *range(SIZE - 20, SIZE + 9)]
        assert sorted({place for place in places if ends_a_record(path, place)}) == [*begins, end]


@unhurried
@given(payloads, st.data())
def test_reading_goes_on_where_it_ended(content: list[bytes], data: st.DataObject) -> None:
    with segment(content) as (path, _):
        read: list[bytes] = []
        position = 0
        while True:
            found = scan(path, position, data.draw(st.integers(1, 7)))
            read += found.payloads
            position = found.position
            if found.finished:
                break
        assert read == content


@unhurried
@given(some_payloads, st.data())
def test_a_segment_cut_off_anywhere_keeps_every_record_before(content: list[bytes], data: st.DataObject) -> None:
    with segment(content) as (path, ends):
        cut = data.draw(st.integers(0, ends[-1]))
        change(path, path.read_bytes()[:cut])
        found = scan(path)
        # The padding after a payload need not be there.
        starts = [len(FILE_HEADER), *ends[:-1]]
        kept = sum(start + HEADER_BYTES + len(payload) <= cut for start, payload in zip(starts, content, strict=True))
        assert found.payloads == content[:kept]
        assert (found.damaged, found.finished) == (0, True)


@unhurried
@given(some_payloads, st.data())
def test_a_flipped_byte_anywhere_costs_at_most_its_record(content: list[bytes], data: st.DataObject) -> None:
    with segment(content) as (path, ends):
        place = data.draw(st.integers(0, ends[-1] - 1))
        raw = bytearray(path.read_bytes())
        raw[place] ^= data.draw(st.integers(1, 255))
        change(path, bytes(raw))
        found = scan(path)
        hit = next(i for i, end in enumerate(ends) if place < end)
        without = content[:hit] + content[hit + 1 :]
        if found.payloads == content:  # in the file's header, or in padding
            assert (found.damaged, found.torn) == (0, False)
        else:
            assert found.payloads == without
            is_last = hit == len(content) - 1
            assert (found.damaged, found.torn) == ((0, True) if is_last else (1, False))
        assert found.finished


@unhurried
@given(some_payloads, st.binary(min_size=1, max_size=500), st.data())
def test_any_damage_keeps_what_is_before_it_and_raises_nothing(
    content: list[bytes], noise: bytes, data: st.DataObject
) -> None:
    with segment(content) as (path, ends):
        place = data.draw(st.integers(0, ends[-1]))
        raw = path.read_bytes()
        change(path, (raw[:place] + noise + raw[place + len(noise) :])[:SIZE])
        found = scan(path)
        before = sum(end <= place for end in ends)
        after = sum(start >= place + len(noise) for start in [len(FILE_HEADER), *ends[:-1]])
        assert found.payloads[:before] == content[:before]
        if after:
            assert found.payloads[-after:] == content[-after:]
        assert found.finished


@unhurried
@given(st.binary(max_size=2_000))
def test_a_file_of_anything_is_read_without_an_error(content: bytes) -> None:
    with segment([]) as (path, _):
        change(path, content)
        assert scan(path).finished


def test_a_half_written_record_is_left_alone_while_its_writer_lives_and_torn_afterwards(tmp_path: Path) -> None:
    path = tmp_path / f"1{SUFFIX}"
    writer = SegmentWriter(path, SIZE)
    writer.append(b"whole")
    end = writer.position
    os.pwrite(writer.descriptor, MAGIC + b"\x08", end)  # as far as it was when the process ended
    os.pwrite(writer.descriptor, b"half", end + HEADER_BYTES)
    found = scan(path)
    assert (found.payloads, found.position, found.torn, found.finished) == ([b"whole"], end, False, False)
    writer.close()
    found = scan(path)
    assert (found.payloads, found.torn, found.finished) == ([b"whole"], True, True)


def test_a_record_that_is_completed_while_it_is_looked_at_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader finds half of it; before it looks for what follows, the writer completes it and appends another."""
    path = tmp_path / f"1{SUFFIX}"
    writer = SegmentWriter(path, SIZE)
    writer.append(b"first")
    os.pwrite(writer.descriptor, MAGIC + b"\x06", writer.position)
    look_on = segments._next_record

    def next_record(*place: Any) -> int:
        monkeypatch.undo()
        writer.append(b"second")
        writer.append(b"third")
        return look_on(*place)

    monkeypatch.setattr(segments, "_next_record", next_record)
    found = scan(path)
    assert (found.payloads, found.damaged, found.position) == ([b"first", b"second", b"third"], 0, writer.position)
    writer.close()


def test_a_damaged_record_is_skipped_while_its_writer_lives_too(tmp_path: Path) -> None:
    path = tmp_path / f"1{SUFFIX}"
    writer = SegmentWriter(path, SIZE)
    writer.append(b"first", b"second")
    os.pwrite(writer.descriptor, b"F", len(FILE_HEADER) + HEADER_BYTES)
    found = scan(path)
    assert (found.payloads, found.damaged, found.position) == ([b"second"], 1, writer.position)
    writer.close()


def test_a_record_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / f"1{SUFFIX}", 256)
    writer.append(b"first")
    with pytest.raises(SegmentFull):
        writer.append(bytes(256))
    writer.append(b"second")
    writer.close()
    assert scan(writer.path).payloads == [b"first", b"second"]


def test_a_name_that_is_taken_leaves_the_other_file_alone(tmp_path: Path) -> None:
    (tmp_path / f"1{UNFINISHED}").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        SegmentWriter(tmp_path / f"1{SUFFIX}", SIZE)
    assert (tmp_path / f"1{UNFINISHED}").read_bytes() == b"somebody's"
