"""Entries that settle: whoever reads all of them, and whoever writes, notices nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.memory.changes import Change
from recommendation_service.memory.entries import as_entries
from recommendation_service.memory.memory_file import BOOT_FILE
from recommendation_service.memory.user_entries import MARK_BYTES, MOST_SINCE, has_mark
from recommendation_service.memory.user_memory import OLDER_RELEASE_SECONDS, UserMemory, opened
from recommendation_service.ranking.seen import EPOCH, HIDDEN, SERVED, Lifetimes

ALICE, BOB, CAROL = (b"u" + bytes(7) + bytes([number]) for number in (1, 2, 3))
LIMIT = 16 << 20
NOW = 1_795_000_000
SUMMARY = b"a summary"


def served(first: int, last: int, when: int = NOW, state: int = SERVED) -> bytes:
    """Entries of items."""
    return np.array([(item, (when - EPOCH) << 32 | state) for item in range(first, last)], np.int64).tobytes()


OLD, NEW, NEXT = served(0, 300), served(300, 324), served(324, 348)
LONG_AGO = Lifetimes(served=10, session=10, impressed=10, acted=10)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[UserMemory]:
    with opened(tmp_path / "seen", LIMIT) as memory:
        yield memory


@pytest.fixture
def settled(memory: UserMemory) -> UserMemory:
    """Alice's entries have."""
    settle(memory)
    return memory


def settle(memory: UserMemory, key: bytes = ALICE, old: bytes = OLD, new: bytes = NEW) -> None:
    if not memory.read(key):
        assert memory.replace(key, b"", old) is True
    assert memory.replace_all([Change(key, old, new, summary=SUMMARY)]) == [True]


def kept_apart(memory: UserMemory) -> int:
    """Pieces and summaries."""
    with memory._environment.begin() as transaction:
        table = memory._entries.settled
        assert table is not None
        return int(transaction.stat(table)["entries"])


def test_a_feed_reads_a_summary_and_what_came_since_and_everybody_else_all(settled: UserMemory) -> None:
    stored = settled.stored(ALICE)
    assert (stored.summary, stored.recent) == (SUMMARY, NEW)
    assert has_mark(stored.value)
    assert settled.read(ALICE) == OLD + NEW
    assert settled.users() == 1


def test_of_who_has_not_settled_a_feed_reads_all(memory: UserMemory) -> None:
    memory.replace(ALICE, b"", OLD)
    stored = memory.stored(ALICE)
    assert (stored.value, stored.summary) == (OLD, b"")
    assert memory.stored(BOB).value == b""


def test_a_feed_adds_to_what_came_since(settled: UserMemory) -> None:
    value = settled.stored(ALICE).value
    assert settled.replace(ALICE, value, value + NEXT) is True
    assert settled.replace(ALICE, value, value + NEXT) is False, "it is not as it was read any more"
    assert settled.stored(ALICE).recent == NEW + NEXT
    assert settled.read(ALICE) == OLD + NEW + NEXT


def test_who_has_read_all_replaces_all_and_what_has_settled_stays_so_where_it_is_as_it_was(
    settled: UserMemory,
) -> None:
    value = settled.stored(ALICE).value
    assert settled.replace(ALICE, OLD + NEW, OLD + NEW + NEXT) is True
    assert settled.stored(ALICE).summary == SUMMARY
    assert settled.replace(ALICE, value, value + NEXT) is False
    assert settled.replace(ALICE, OLD + NEW, OLD) is False
    assert settled.read(ALICE) == OLD + NEW + NEXT


def test_what_was_changed_of_what_has_settled_is_as_written_and_no_longer_settled(settled: UserMemory) -> None:
    value, changed = settled.stored(ALICE).value, OLD[16:] + NEW + OLD[:16]
    assert settled.replace(ALICE, OLD + NEW, changed) is True
    assert settled.stored(ALICE).value == changed
    assert kept_apart(settled) == 0
    assert settled.replace(ALICE, value, value + NEXT) is False


def test_whoever_read_before_entries_settled_anew_is_told(settled: UserMemory) -> None:
    """Same entries since, same size of all: the mark is another one."""
    value = settled.stored(ALICE).value
    other = served(1000, 1300)
    settled.replace(ALICE, OLD + NEW, other)
    settle(settled, old=other)
    assert settled.stored(ALICE).recent == value[MARK_BYTES:]
    assert settled.replace(ALICE, value, value + NEXT) is False
    assert settled.replace_all([Change(ALICE, OLD + NEW, NEXT, summary=SUMMARY)]) == [False]
    assert settled.read(ALICE) == other + NEW


def test_when_much_came_since_that_did_not_settle_all_is_read_and_may_settle_anew(settled: UserMemory) -> None:
    since = served(300, 301 + MOST_SINCE // 16)
    assert settled.replace(ALICE, OLD + NEW, OLD + since) is True
    stored = settled.stored(ALICE)
    assert (stored.value, stored.summary) == (OLD + since, b"")
    settle(settled, old=OLD + since, new=NEXT)
    assert settled.read(ALICE) == OLD + since + NEXT
    assert settled.stored(ALICE).recent == NEXT
    assert kept_apart(settled) == 2


def test_what_came_since_settles_piece_by_piece(settled: UserMemory) -> None:
    whole, new = OLD, NEW
    for number in range(1, 300):
        value = settled.stored(ALICE).value
        later = served(1000 * number, 1000 * number + 3)
        assert settled.replace_all([Change(ALICE, value, later, summary=b"%d" % number)]) == [True]
        assert settled.replace_all([Change(ALICE, value, later, summary=b"late")]) == [False]
        whole, new = whole + new, later
        stored = settled.stored(ALICE)
        assert (stored.recent, stored.summary) == (new, b"%d" % number)
        assert kept_apart(settled) == number + 2
    assert settled.read(ALICE) == whole + new
    assert settled.replace(ALICE, whole + new, whole + new + NEXT) is True
    assert settled.stored(ALICE).recent == new + NEXT
    assert settled.replace(ALICE, whole + new + NEXT, whole[16:]) is True
    assert settled.stored(ALICE).value == whole[16:]
    assert kept_apart(settled) == 0


def test_what_is_forgotten_is_gone_from_both_tables(settled: UserMemory) -> None:
    settle(settled, BOB)
    assert settled.forget(ALICE) == 324
    assert (settled.read(ALICE), settled.read(BOB)) == (b"", OLD + NEW)
    assert kept_apart(settled) == 2
    assert settled.forget(BOB, until=NOW - 1, now=NOW) == 0
    assert settled.read(BOB) == OLD + NEW


def test_other_memories_entries_are_added_to_all(settled: UserMemory) -> None:
    settled.merge(ALICE, as_entries(served(5, 6, NOW + 9, HIDDEN)))
    entries = as_entries(settled.read(ALICE))
    assert len(entries) == 324
    assert entries[-1].tolist() == [5, (NOW + 9 - EPOCH) << 32 | HIDDEN]


def test_what_nobody_was_shown_is_taken_back(settled: UserMemory) -> None:
    settled.take_back(ALICE, as_entries(NEW[:32]))
    assert settled.read(ALICE) == OLD + NEW[32:]
    assert settled.stored(ALICE).summary == SUMMARY


def test_a_sweep_looks_at_all_entries_and_clears_both_tables(settled: UserMemory) -> None:
    old = served(0, 300, NOW - 100)
    settle(settled, BOB, old, served(300, 301, NOW - 100))
    settle(settled, CAROL, old + served(900, 901, NOW - 100, HIDDEN), served(300, 301, NOW - 100))
    settled.sweep(LONG_AGO, NOW)
    assert settled.users() == 2
    assert kept_apart(settled) == 4
    assert settled.read(BOB) == b""
    assert has_mark(settled.stored(CAROL).value)


def test_where_room_is_made_what_has_settled_gives_way_as_well(tmp_path: Path) -> None:
    long = Lifetimes(served=10**6, session=10**6, impressed=10**7, acted=10**7)
    went = users = 0
    with opened(tmp_path / "seen", 12 << 20) as memory:
        while not went and users < 4_000:
            users += 1
            when = NOW + users
            hidden = served(900, 901, when, HIDDEN)
            settle(memory, b"u%08d" % users, served(0, 300, when) + hidden, served(300, 324, when))
            if memory.is_crowded:
                went = sum(memory.make_room(long, when))
        assert went > 0
        states = [set((as_entries(memory.read(b"u%08d" % user))[:, 1] & 15).tolist()) for user in range(1, users + 1)]
        assert states[0] == {HIDDEN}
        assert states[-1] == {SERVED, HIDDEN}
        assert all(HIDDEN in of_user for of_user in states)
        assert 0 < kept_apart(memory) < 2 * users


def test_in_a_full_memory_nothing_settles_and_what_is_there_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", 4 << 20) as memory:
        assert memory.replace(ALICE, b"", OLD) is True
        for number in range(100_000):
            [outcome] = memory.replace_all([Change(b"u%08d" % number, b"", OLD)])
            if outcome is not True:
                break
        [outcome] = memory.replace_all([Change(ALICE, OLD, NEW, summary=SUMMARY)])
        assert "limit" in str(outcome)
        assert memory.stored(ALICE).value == OLD


def as_of_an_older_release(folder: Path) -> None:
    """With a user, and without a table of what has settled."""
    with opened(folder, LIMIT) as memory:
        memory.replace(ALICE, b"", OLD)
        with memory._environment.begin(write=True) as transaction:
            transaction.drop(memory._entries.settled)
    (folder / BOOT_FILE).write_text((folder / BOOT_FILE).read_text().replace("3", "2", 1))


def test_beside_workers_of_an_older_release_nothing_settles_until_they_have_ended(tmp_path: Path) -> None:
    now = [float(NOW)]
    as_of_an_older_release(tmp_path / "seen")
    for _ in range(2):  # whoever opens it later knows, too
        memory = UserMemory(tmp_path / "seen", LIMIT, lambda: now[0])
        settle(memory, new=b"")
        assert memory.stored(ALICE).value == memory.read(ALICE) == OLD
        memory.close()
    now[0] += OLDER_RELEASE_SECONDS
    memory = UserMemory(tmp_path / "seen", LIMIT, lambda: now[0])
    settle(memory)
    assert memory.stored(ALICE).summary == SUMMARY
    memory.close()


def test_an_older_release_does_not_read_what_it_would_not_understand(tmp_path: Path) -> None:
    """It begins anew, as after a crash of the machine, and reads in recs_events what people saw."""
    with opened(tmp_path / "seen", LIMIT) as memory:
        settle(memory)
    assert (tmp_path / "seen" / BOOT_FILE).read_text().startswith("3 ")
    as_of_an_older_release(tmp_path / "other")
    with opened(tmp_path / "other", LIMIT) as memory:
        assert memory.read(ALICE) == OLD
    assert (tmp_path / "other" / BOOT_FILE).read_text().startswith("3 ")


def test_where_there_is_no_room_for_the_table_what_is_there_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_of_an_older_release(tmp_path / "seen")
    monkeypatch.setattr(UserMemory, "_has_room", lambda _self: False)
    with opened(tmp_path / "seen", LIMIT) as memory:
        assert memory.stored(ALICE).value == memory.read(ALICE) == OLD
        assert memory.replace_all([Change(ALICE, OLD, NEW, summary=SUMMARY)]) == [True]
        assert memory.stored(ALICE).value == OLD + NEW
