"""What users have seen, for several processes at once: replaced only where it is as it was read, and never half."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.memory.answers import StoredAnswer, answer_key
from recommendation_service.memory.changes import Change
from recommendation_service.memory.disk_room import file_system
from recommendation_service.memory.entries import NOTHING, Entries, as_entries, user_key
from recommendation_service.memory.memory_file import BOOT_FILE
from recommendation_service.memory.user_memory import MemoryFailed, NoRoomForAnswer, UserMemory, opened
from recommendation_service.ranking.seen import EPOCH, HIDDEN, SERVED, Lifetimes

LIMIT = 64 << 20
NOW = 1_795_000_000
LIFETIMES = Lifetimes(served=100, session=200, impressed=1000, acted=2000)


ALICE, BOB = b"u" + bytes(7) + b"\1", b"u" + bytes(7) + b"\2"
ANSWER = StoredAnswer(b"q" * 16, b'{"statusCode":200}')


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[UserMemory]:
    with opened(tmp_path / "seen", LIMIT) as memory:
        yield memory


def entries(*rows: tuple[int, int, int]) -> Entries:
    """(key, when, state)"""
    return np.array([(key, (when - EPOCH) << 32 | state) for key, when, state in rows], np.int64).reshape(-1, 2)


def stored(*rows: tuple[int, int, int]) -> bytes:
    return entries(*rows).tobytes()


ONE, TWO = stored((2, NOW, SERVED)), stored((2, NOW, SERVED), (4, NOW + 1, SERVED))


def test_a_user_who_is_not_remembered_has_nothing(memory: UserMemory) -> None:
    assert memory.read(ALICE) == b""
    assert as_entries(memory.read(ALICE)).shape == NOTHING.shape
    assert memory.users() == 0


def test_entries_are_replaced_only_where_they_are_as_they_were_read(memory: UserMemory) -> None:
    assert memory.replace(ALICE, b"", ONE) is True
    assert memory.replace(ALICE, b"", TWO) is False
    assert memory.read(ALICE) == ONE
    assert memory.replace(ALICE, ONE, TWO) is True
    assert memory.replace(ALICE, ONE, ONE) is False
    assert memory.read(ALICE) == TWO
    assert memory.read(BOB) == b""
    assert memory.users() == 1


def test_an_answer_is_kept_with_the_entries_or_not_at_all(memory: UserMemory) -> None:
    key = answer_key("caller", "total", "1", "key")
    assert memory.replace(ALICE, b"", ONE)
    assert memory.replace(ALICE, b"", TWO, (key, ANSWER)) is False
    assert memory.answer(key) is None
    assert memory.replace(ALICE, ONE, TWO, (key, ANSWER)) is True
    assert memory.answer(key) == ANSWER


def test_of_two_answers_to_one_request_the_first_is_given_and_the_seconds_items_are_not_remembered(
    memory: UserMemory,
) -> None:
    key = answer_key("caller", "total", "1", "key")
    assert memory.replace(ALICE, b"", ONE, (key, ANSWER)) is True
    second = StoredAnswer(b"r" * 16, b"another")
    assert memory.replace(ALICE, ONE, TWO, (key, second)) == ANSWER
    assert memory.read(ALICE) == ONE


def test_an_answer_is_kept_for_a_minute_at_least_and_two_at_most(
    memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, now = answer_key("key"), [0.0]
    monkeypatch.setattr(memory, "_now", lambda: now[0])
    for begins in (NOW // 60 * 60, NOW // 60 * 60 + 59.9):
        now[0] = begins
        key = answer_key(str(begins))
        assert memory.replace(ALICE, b"", b"", (key, ANSWER)) is True
        for later, there in ((0, True), (59.9, True), (120, False)):
            now[0] = begins + later
            assert (memory.answer(key) is not None) is there, (begins, later)


def test_keys_of_callers_endpoints_and_users_are_told_apart() -> None:
    differing = [
        *(("a", "total", "1", "k"), ("b", "total", "1", "k"), ("a", "flow", "1", "k"), ("a", "total", "2", "k")),
        *(("a", "total", "1", "l"), ("a", "total", "1k", ""), ("at", "otal", "1", "k")),
    ]
    keys = {answer_key(*parts) for parts in differing}
    assert len(keys) == 7
    assert {len(key) for key in keys} == {16}


def test_users_and_anonymous_sessions_are_told_apart() -> None:
    assert user_key(0, 0) is None
    assert user_key(5, 0) == user_key(5, 9), "a user is one, whatever the session"
    assert len({user_key(5, 0), user_key(0, 5), user_key(6, 0), user_key(2**63 - 1, 0)}) == 4


def test_merging_adds_what_another_memory_has(memory: UserMemory) -> None:
    memory.merge(ALICE, entries((2, NOW, SERVED), (6, NOW + 5, SERVED)))
    assert memory.replace(ALICE, stored((2, NOW, SERVED), (6, NOW + 5, SERVED)), ONE)
    memory.merge(ALICE, entries((2, NOW - 9, HIDDEN), (4, NOW + 1, SERVED)))
    assert memory.read(ALICE) == stored((2, NOW, HIDDEN), (4, NOW + 1, SERVED))


def test_forgetting_says_how_much_there_was_and_leaves_the_others(memory: UserMemory) -> None:
    memory.replace(ALICE, b"", TWO)
    memory.replace(BOB, b"", ONE)
    assert memory.forget(ALICE) == 2
    assert memory.forget(ALICE) == 0
    assert (memory.read(ALICE), memory.read(BOB)) == (b"", ONE)


def test_a_sweep_deletes_who_has_nothing_that_counts_and_nobody_else(memory: UserMemory) -> None:
    old, edge = NOW - 2001, NOW - 2000
    kept = {
        b"u1": stored((2, old, SERVED), (4, edge, SERVED)),
        b"u3": stored((2, old, HIDDEN), (4, old, SERVED)),
        b"u5": ONE,
    }
    gone = {b"u0": stored((2, old, SERVED)), b"u2": stored((2, old, SERVED), (4, old, SERVED)), b"u4": b"", b"u6": b""}
    gone[b"u7"] = stored((2, old - 50, SERVED))
    for key, value in {**kept, **gone}.items():
        memory.merge(key, as_entries(value))
    memory.sweep(LIFETIMES, NOW)
    assert memory.users() == len(kept)
    assert {key: memory.read(key) for key in kept} == kept


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_sweep_in_steps_reaches_everybody_and_begins_again(memory: UserMemory, step: int) -> None:
    for number in range(20):
        when = NOW if number % 3 == 0 else NOW - 5000
        memory.merge(b"u%02d" % number, entries((2, when, SERVED)))
    for _ in range(25):
        memory.sweep(LIFETIMES, NOW, most=step)
    assert memory.users() == 7
    for _ in range(25):
        memory.sweep(LIFETIMES, NOW + 5000, most=step)
    assert memory.users() == 0


def test_a_sweep_deletes_answers_that_nobody_may_ask_for_any_more(
    memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [float(NOW)]
    monkeypatch.setattr(memory, "_now", lambda: now[0])
    old, new = answer_key("old"), answer_key("new")
    memory.replace(ALICE, b"", b"", (old, ANSWER))
    now[0] += 125
    memory.replace(ALICE, b"", b"", (new, ANSWER))
    memory.sweep(LIFETIMES, now[0])
    now[0] -= 125  # were it still there, it would be found
    assert memory.answer(old) is None
    now[0] += 125
    assert memory.answer(new) == ANSWER


def test_the_log_is_read_once_for_each_memory(memory: UserMemory) -> None:
    assert not memory.is_log_read()
    memory.mark_log_read()
    assert memory.is_log_read()


def test_it_knows_since_when_it_has_everything(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", LIMIT) as memory:
        began = memory.began
    memory = UserMemory(tmp_path / "seen", LIMIT, lambda: began + 1e6)
    assert memory.began == began
    memory.close()


def test_a_memory_into_which_an_earlier_release_read_all_has_everything(tmp_path: Path) -> None:
    with opened(tmp_path, 16 << 20) as memory, memory._environment.begin(db=memory._facts, write=True) as transaction:
        transaction.delete(b"began")
        transaction.put(b"rebuilt", b"1")
    with opened(tmp_path, 16 << 20) as memory:
        assert memory.began == 0


def test_what_is_owed_to_a_user_is_owed_until_it_is_there(memory: UserMemory) -> None:
    memory.replace(ALICE, b"", ONE)
    memory.owe(ALICE)
    memory.owe(BOB)
    assert memory.owed(10) == [ALICE, BOB]
    assert memory.owed(1) == [ALICE]
    memory.merge_past(ALICE, entries((6, NOW - 5, HIDDEN)))
    memory.merge_past(BOB, NOTHING)
    assert memory.owed(10) == []
    assert memory.read(ALICE) == stored((6, NOW - 5, HIDDEN), (2, NOW, SERVED))
    assert memory.read(BOB) == b""


def test_what_it_takes_is_known(memory: UserMemory) -> None:
    before = memory.used_bytes
    for number in range(500):
        memory.replace(b"u%06d" % number, b"", ONE * 20)
    assert before < memory.used_bytes < LIMIT


def test_it_is_there_again_after_a_restart_of_the_service_but_not_of_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    with opened(folder, LIMIT) as memory:
        memory.replace(ALICE, b"", ONE)
        memory.mark_log_read()
    with opened(folder, LIMIT) as memory:
        assert memory.read(ALICE) == ONE
        assert memory.is_log_read()
    (folder / BOOT_FILE).write_text("1 another boot")
    with opened(folder, LIMIT) as memory:
        assert memory.read(ALICE) == b""
        assert not memory.is_log_read()
        memory.replace(ALICE, b"", TWO)
    with opened(folder, LIMIT) as memory:
        assert memory.read(ALICE) == TWO


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("no folder")
    with pytest.raises(MemoryFailed, match="seen"):
        UserMemory(tmp_path / "seen", LIMIT)


def test_a_file_that_is_no_memory_is_begun_anew(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", LIMIT) as memory:
        memory.replace(ALICE, b"", ONE)
        memory.mark_log_read()
    (tmp_path / "seen" / "lmdb" / "data.mdb").write_bytes(b"garbage" * 4096)
    with opened(tmp_path / "seen", LIMIT) as memory:
        assert memory.read(ALICE) == b""
        assert not memory.is_log_read()
        assert memory.replace(ALICE, b"", TWO) is True


def cut_off(file: Path, used: int) -> None:
    os.truncate(file, used // 2)


def cut_to_its_head(file: Path, _used: int) -> None:
    os.truncate(file, 8192)


def overwrite_its_head(file: Path, _used: int) -> None:
    with file.open("r+b") as content:
        content.write(b"garbage!" * 1024)


def overwrite_its_middle(file: Path, used: int) -> None:
    with file.open("r+b") as content:
        content.seek(16384)
        content.write(bytes(used - 16384))


DAMAGES = [cut_off, cut_to_its_head, overwrite_its_head, overwrite_its_middle]


@pytest.mark.parametrize("keeps_room", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_moved_aside_and_begun_anew_at_the_latest_when_that_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path, int], None], *, keeps_room: bool
) -> None:
    monkeypatch.setattr("recommendation_service.memory.memory_file.keeps_room", lambda _folder: keeps_room)
    folder = tmp_path / "seen"
    with opened(folder, LIMIT) as memory:
        for number in range(5_000):
            memory.replace(answer_key(str(number)), b"", ONE * 24)
        used = memory.used_bytes
    damage(folder / "lmdb" / "data.mdb", used)

    memory = UserMemory(folder, LIMIT)
    was_damaged, identity = memory.was_damaged, memory.identity
    for number in range(5_000):
        try:
            memory.read(answer_key(str(number)))
            memory.replace(answer_key(f"other {number}"), b"", ONE)
        except MemoryFailed:
            break
    assert was_damaged != memory.is_damaged, "the damage is met by the opening or by an access"
    if memory.is_damaged:
        memory.close()
        memory = UserMemory(folder, LIMIT, damaged=identity)
        assert memory.was_damaged
    assert (folder / "damaged" / "data.mdb").exists()
    assert memory.replace(ALICE, b"", TWO) is True
    memory.close()
    with opened(folder, LIMIT) as memory:
        assert not memory.was_damaged
        assert memory.read(ALICE) == TWO


def test_a_file_that_another_process_has_begun_anew_is_not_moved_aside(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", LIMIT) as memory:
        before = memory.identity
        assert not memory.is_replaced
        (tmp_path / "seen" / "lmdb").rename(tmp_path / "away")
        assert memory.is_replaced
        with opened(tmp_path / "seen", LIMIT) as other:
            other.replace(ALICE, b"", ONE)
            assert memory.is_replaced
        again = UserMemory(tmp_path / "seen", LIMIT, damaged=before)
        assert not again.was_damaged
        assert again.read(ALICE) == ONE
        again.close()


def test_where_it_is_full_it_says_so_and_what_is_there_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", 1 << 20) as memory:
        memory.replace(ALICE, b"", ONE)
        fill(memory)
        with pytest.raises(MemoryFailed):
            memory.replace(ALICE, ONE, ONE * 200)
        assert memory.read(ALICE) == ONE
        assert memory.answer(answer_key("key")) is None


def fill(memory: UserMemory) -> None:
    """With users in no order, until not even one with a single entry fits any more."""
    entries_of_each, number = 24, 0
    while entries_of_each:
        number += 1
        try:
            memory.replace(answer_key(str(number)), b"", ONE * entries_of_each)
        except MemoryFailed:
            entries_of_each -= 1


# Far from each other, as users come in no order; or one after the other.
ORDERS: dict[str, Callable[[int], int]] = {"mixed": lambda number: number * 2654435761 % 2**32, "rising": lambda n: n}


@pytest.mark.parametrize("order", ORDERS)
def test_where_it_is_full_what_was_served_longest_ago_gives_way_and_hides_never(tmp_path: Path, order: str) -> None:
    """Three times what there is room for, each user later than the one before; every tenth has hidden something."""
    long = Lifetimes(served=10**6, session=10**6, impressed=10**7, acted=10**7)
    users, evicted = 30_000, 0
    keys = [b"u" + (ORDERS[order](number) + 1).to_bytes(8, "big") for number in range(users)]
    served = entries(*((2 * item, NOW, SERVED) for item in range(1, 25)))
    with_hidden, later = np.vstack([served, entries((1000, NOW, HIDDEN))]), np.array([0, 1 << 32])
    with opened(tmp_path / "seen", 8 << 20) as memory:
        for number, key in enumerate(keys):
            when = NOW + number
            rows = with_hidden if number % 10 == 0 else served
            assert memory.replace(key, b"", (rows + later * number).tobytes()) is True, number
            if memory.is_crowded:
                evicted += sum(memory.make_room(long, when))
        states = [set((as_entries(memory.read(key))[:, 1] & 15).tolist()) for key in keys]

    assert evicted > 24 * users / 2
    assert all(HIDDEN in of_user for of_user in states[::10])
    has_served = [SERVED in of_user for of_user in states]
    assert has_served[-2_000:] == [True] * 2_000
    first = has_served.index(True)
    assert has_served[first + 300 :] == [True] * (users - first - 300), "of an age, all or none"


def written_until_it_fails(memory: UserMemory, changes: Iterator[Change]) -> tuple[int, MemoryFailed]:
    for number, change in enumerate(changes):
        [outcome] = memory.replace_all([change])
        if isinstance(outcome, MemoryFailed):
            return number, outcome
        assert outcome is True
    raise AssertionError("it never failed")


def test_what_people_do_finds_room_where_feeds_find_none(tmp_path: Path) -> None:
    hide = stored((1000, NOW, HIDDEN))
    feeds = (Change(answer_key(str(number)), b"", ONE * 24) for number in count())
    deeds = (Change(answer_key(f"deed {number}"), b"", hide, is_deed=True) for number in count())
    with opened(tmp_path / "seen", 8 << 20) as memory:
        served, failure = written_until_it_fails(memory, feeds)
        assert "limit of 8 MiB" in str(failure)
        with pytest.raises(NoRoomForAnswer):
            memory.replace(ALICE, b"", b"", (answer_key("key"), ANSWER))
        with pytest.raises(NoRoomForAnswer):
            memory.keep_answer(answer_key("key"), ANSWER)

        # Hides alone fill it: then it says so, and what is there stays.
        done, failure = written_until_it_fails(memory, deeds)
        assert done > 10_000
        assert "limit of 8 MiB" in str(failure)
        assert memory.make_room(LIFETIMES, NOW + 1) == (24 * served, 0)
        assert memory.read(answer_key("deed 7")) == hide


def test_answers_take_no_more_than_half_of_it(tmp_path: Path) -> None:
    answer = StoredAnswer(b"q" * 16, bytes(20_000))
    keyed = (Change(ALICE, b"", b"", (answer_key(str(number)), answer)) for number in count())
    with opened(tmp_path / "seen", 16 << 20) as memory:
        kept, failure = written_until_it_fails(memory, keyed)
        assert isinstance(failure, NoRoomForAnswer)
        assert kept > 100
        assert memory.replace(ALICE, b"", ONE * 24) is True


def test_a_full_memory_can_be_swept_and_then_remembers_again(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", 1 << 20) as memory:
        fill(memory)
        for _ in range(1000):
            memory.sweep(LIFETIMES, NOW + 5000)
        assert memory.users() == 0
        assert memory.replace(ALICE, b"", ONE * 100) is True


def test_where_the_file_system_keeps_no_room_it_is_written_by_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommendation_service.memory.disk_room.KEEPING_ROOM", set())
    with opened(tmp_path / "seen", LIMIT) as memory:
        assert memory._environment.flags()["writemap"] is False
        assert memory.replace(ALICE, b"", ONE) is True
        assert memory.replace(ALICE, TWO, ONE) is False
        memory.sweep(LIFETIMES, NOW)
        assert memory.read(ALICE) == ONE
    with opened(tmp_path / "seen", LIMIT) as memory:
        assert memory.read(ALICE) == ONE


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr("recommendation_service.memory.disk_room.MOUNTS", mounts)
    assert file_system(Path("/data")) == ""
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:5 / /data rw - zfs pool/data rw\n"
        "24 23 0:6 / /data/our\\040seen rw shared:7 master:2 - tmpfs tmpfs rw\n"
        "25 22 0:7 / /twice rw - nfs4 server:/a rw\n"
        "26 22 0:8 / /twice rw - xfs /dev/sdb rw\n"
    )
    for folder, name in (
        ("/dat", "ext4"),
        ("/data", "zfs"),
        ("/data/seen", "zfs"),
        ("/data/our seen/lmdb", "tmpfs"),
        ("/twice/seen", "xfs"),
    ):
        assert file_system(Path(folder)) == name


def test_answers_take_no_more_room_than_those_of_two_minutes(
    memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: here 100 a second for five minutes."""
    now = [float(NOW)]
    monkeypatch.setattr(memory, "_now", lambda: now[0])
    for number in range(30_000):
        now[0] += 0.01
        memory.replace(ALICE, b"", b"", (answer_key(str(number)), ANSWER))
        if number % 3_000 == 0:
            memory.sweep(LIFETIMES, now[0])
    with memory._environment.begin(db=memory._answers.database) as transaction:
        assert transaction.stat()["entries"] <= 13_000
