"""Files of decisions: what is appended is read, in bounded room; a user is forgotten, and no failure of the disk is
more than a decision that is missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from recommendation_service.log import decisions as module
from recommendation_service.log.decisions import (
    SUFFIX,
    DecisionRecord,
    DecisionWriter,
    UnknownDecision,
    delete_old,
    find_decision,
    forget_decisions,
    latest_drawn,
    read_decisions,
)

NOW = 1_795_000_000.0
DAY = 86_400


def decision(user_id: int = 7, happened_ms: int = int(NOW * 1000), size: int = 1_000) -> DecisionRecord:
    packed = os.urandom(size)
    return DecisionRecord(os.urandom(16), user_id, 0, happened_ms, 24, "catalog", "policy", 5, True, 0.05, packed)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_what_is_appended_is_read_in_order_by_whoever_looks(tmp_path: Path) -> None:
    some = [decision(user) for user in range(20)]
    writers = [DecisionWriter(tmp_path / "decisions", 1 << 30, lambda: NOW), DecisionWriter(tmp_path / "d", 1 << 30)]
    assert list(read_decisions(tmp_path / "decisions")) == []
    for record in some:
        writers[0].append(record)
    assert list(read_decisions(tmp_path / "decisions")) == some
    writers[0].close()


def test_a_day_and_a_full_file_have_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 5_000)
    times = iter([NOW + number for number in range(6)] + [NOW + DAY])
    writer = DecisionWriter(tmp_path, 1 << 30, lambda: next(times))
    some = [decision() for _ in range(7)]
    for record in some:
        writer.append(record)
    assert list(read_decisions(tmp_path)) == some
    assert len(files_in(tmp_path)) == 3
    writer.close()


def test_the_oldest_give_way_to_what_comes_but_for_those_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 2_500)
    times = (NOW + number for number in range(100))
    other = DecisionWriter(tmp_path, 10_000, lambda: NOW - DAY)
    kept = decision(1)
    other.append(kept)
    writer = DecisionWriter(tmp_path, 10_000, lambda: next(times))
    some = [decision() for _ in range(40)]
    for record in some:
        writer.append(record)
    read = list(read_decisions(tmp_path))
    assert read[0] == kept
    assert read[1:] == some[-len(read) + 1 :]
    assert 4 <= len(read) <= 10
    assert sum(path.stat().st_size for path in files_in(tmp_path)) <= 10_000
    other.close()
    writer.close()


def test_what_is_too_old_is_deleted_but_for_what_is_written(tmp_path: Path) -> None:
    for age in (40, 10):
        writer = DecisionWriter(tmp_path, 1 << 30, lambda age=age: NOW - age * DAY)
        writer.append(decision(age))
        if age == 40:
            writer.close()
    for path in files_in(tmp_path):
        os.utime(path, (NOW - 40 * DAY, NOW - 40 * DAY))
    assert delete_old(tmp_path, int((NOW - 41 * DAY) * 1000)) == 0
    assert delete_old(tmp_path, int((NOW - 30 * DAY) * 1000)) == 1
    assert [record.user_id for record in read_decisions(tmp_path)] == [10]
    writer.close()


def test_what_others_did_is_as_old_as_it_was_when_somebody_is_forgotten(tmp_path: Path) -> None:
    writer = DecisionWriter(tmp_path, 1 << 30)
    for user in (1, 2):
        writer.append(decision(user))
    writer.close()
    [path] = files_in(tmp_path)
    os.utime(path, (NOW - 40 * DAY, NOW - 40 * DAY))
    assert forget_decisions(tmp_path, 1) == 1
    assert delete_old(tmp_path, int((NOW - 30 * DAY) * 1000)) == 1


def test_the_latest_are_those_that_chance_drew(tmp_path: Path) -> None:
    some = [msgspec.structs.replace(decision(number), drawn=number % 3 == 0) for number in range(20)]
    for part in (some[:10], some[10:]):
        writer = DecisionWriter(tmp_path, 1 << 30)
        for record in part:
            writer.append(record)
        writer.close()
    assert sorted(record.user_id for record in latest_drawn(tmp_path, 5)) == [6, 9, 12, 15, 18]
    assert len(latest_drawn(tmp_path, 100)) == 7


def test_a_forgotten_user_is_nowhere_and_the_others_are_where_they_were(tmp_path: Path) -> None:
    some = [decision(number % 3, int(NOW * 1000) + number) for number in range(12)]
    writer = DecisionWriter(tmp_path, 1 << 30)
    for record in some:
        writer.append(record)
    assert forget_decisions(tmp_path, 1, until_ms=int(NOW * 1000) + 4) == 2
    assert forget_decisions(tmp_path, 1) == 2
    assert forget_decisions(tmp_path, 1) == 0
    assert list(read_decisions(tmp_path)) == [record for record in some if record.user_id != 1]
    content = b"".join(path.read_bytes() for path in files_in(tmp_path))
    assert not any(record.packed in content for record in some if record.user_id == 1)
    writer.append(some[1])  # what the user does afterwards counts again
    assert list(read_decisions(tmp_path))[-1] == some[1]
    writer.close()


def test_what_is_damaged_or_cut_short_is_passed_over(tmp_path: Path) -> None:
    writer = DecisionWriter(tmp_path, 1 << 30)
    some = [decision() for _ in range(4)]
    for record in some:
        writer.append(record)
    writer.close()
    [path] = files_in(tmp_path)
    content = bytearray(path.read_bytes())
    length = len(content) // 4
    content[length + 500] ^= 1
    path.write_bytes(content[:-3])
    assert list(read_decisions(tmp_path)) == [some[0], some[2]]
    content[2 * length] ^= 1  # a header
    path.write_bytes(content)
    assert list(read_decisions(tmp_path)) == [some[0], some[3]]
    assert forget_decisions(tmp_path, 7) == 3  # one of them was damaged where nobody need read it
    assert list(read_decisions(tmp_path)) == []
    path.write_bytes(b"something else")
    assert list(read_decisions(tmp_path)) == []
    assert forget_decisions(tmp_path, 7) == 0


def test_a_disk_that_fills_costs_the_decision_and_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DecisionWriter(tmp_path, 1 << 30)
    first, lost, last = decision(), decision(), decision()
    writer.append(first)
    write = os.write
    monkeypatch.setattr(module.os, "write", lambda descriptor, content: write(descriptor, content[:300]))
    with pytest.raises(OSError, match="full"):
        writer.append(lost)
    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(OSError, match="moments ago"):
        writer.append(lost)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(writer, "_pause_until", 0.0)
    writer.append(last)
    assert list(read_decisions(tmp_path)) == [first, last]
    writer.close()

    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(module, "create", refused)
    with pytest.raises(OSError, match="read-only"):
        writer.append(lost)


def test_one_is_found_by_its_feed_among_all(tmp_path: Path) -> None:
    some = [decision(user, size=200) for user in range(30)]
    writers = [DecisionWriter(tmp_path, 1 << 30, lambda number=number: NOW + number) for number in range(3)]
    for number, record in enumerate(some):
        writers[number % 3].append(record)
    for record in some:
        assert find_decision(tmp_path, record.request_id) == record
    assert find_decision(tmp_path, os.urandom(16)) is None
    assert find_decision(tmp_path / "none", os.urandom(16)) is None
    forget_decisions(tmp_path, 7)
    assert find_decision(tmp_path, some[7].request_id) is None
    for writer in writers:
        writer.close()


def test_files_of_other_days_are_left_alone_where_the_moment_is_known(tmp_path: Path) -> None:
    record = decision()
    writer = DecisionWriter(tmp_path, 1 << 30, lambda: NOW)
    writer.append(record)
    writer.close()
    (path,) = files_in(tmp_path)
    os.utime(path, (NOW, NOW))
    assert find_decision(tmp_path, record.request_id, record.happened_ms) == record
    for days in (-1, 1):
        assert find_decision(tmp_path, record.request_id, record.happened_ms + days * DAY * 1000) is None


def test_what_another_release_wrote_or_a_disk_damaged_is_no_decision(tmp_path: Path) -> None:
    ours, theirs, damaged = decision(), decision(), decision()
    writer = DecisionWriter(tmp_path, 1 << 30, lambda: NOW)
    for record in (ours, theirs, damaged):
        writer.append(record)
    writer.close()
    (path,) = files_in(tmp_path)
    content = path.read_bytes()
    payload = msgspec.msgpack.encode(theirs)
    later = payload.replace(b"decision1", b"decision9")
    header = module._HEADER.pack(b"RECD", len(payload), module.zlib.crc32(payload))
    assert header + payload in content
    content = content.replace(
        header + payload, module._HEADER.pack(b"RECD", len(later), module.zlib.crc32(later)) + later
    )
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert find_decision(tmp_path, ours.request_id) == ours
    assert find_decision(tmp_path, damaged.request_id) is None
    with pytest.raises(UnknownDecision, match="another release"):
        find_decision(tmp_path, theirs.request_id)
