"""The memory of what users have seen, opened by several processes at once, with room on the disk and without."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from recommendation_service.memory.answers import answer_key
from recommendation_service.memory.entries import as_entries
from recommendation_service.memory.user_memory import MemoryFailed, opened
from recommendation_service.ranking.seen import SERVED
from tests.support.disks import fill_disk, small_disk
from tests.unit.memory.test_user_memory import ALICE, LIMIT, NOW, ONE, TWO, stored

SPAWN = multiprocessing.get_context("spawn")


PATIENCE_SECONDS = 60.0


def test_a_full_disk_is_met_before_a_page_is_written_and_ends_no_process(tmp_path: Path) -> None:
    """Two processes write in turns until the room that was taken ahead is used up; then there is room again."""
    disk = tmp_path / "disk"
    with small_disk(disk, 24), opened(disk / "seen", LIMIT) as memory, opened_elsewhere(disk / "seen") as other:
        fill_disk(ballast := disk / "ballast")
        written = 0
        with suppress(MemoryFailed):  # one of the two is the first to meet it
            while other("replace", answer_key(f"other {written}"), b"", ONE * 100) == "True":
                memory.replace(answer_key(str(written)), b"", ONE * 100)
                written += 1
        assert written > 500, "nothing was taken ahead"
        with pytest.raises(MemoryFailed, match="no room"):
            memory.replace(ALICE, b"", ONE)
        with opened_elsewhere(disk / "seen") as third:
            assert "no room" in third("replace", ALICE, b"", ONE)
            assert third("read", answer_key("0")) == str(ONE * 100)
        assert memory.read(answer_key("0")) == ONE * 100  # what is there is read all the same
        ballast.unlink()
        assert memory.replace(ALICE, b"", TWO) is True
        assert other("replace", ALICE, TWO, ONE) == "True"
        assert memory.read(ALICE) == ONE


def test_a_process_with_a_lower_limit_cuts_nothing_off(tmp_path: Path) -> None:
    with opened(tmp_path / "seen", LIMIT) as memory:
        fill_to = LIMIT // 4
        number = 0
        while memory.used_bytes < fill_to:
            number += 1
            memory.replace(answer_key(str(number)), b"", ONE * 200)
        with opened_elsewhere(tmp_path / "seen", LIMIT // 8) as lower:
            assert lower("read", answer_key("1")) == str(ONE * 200)
            assert "limit" in lower("replace", ALICE, b"", ONE)
        while memory.used_bytes < 2 * fill_to:
            number += 1
            assert memory.replace(answer_key(str(number)), b"", ONE * 200) is True


def _obey(folder: Path, limit: int, gate: Connection) -> None:
    with opened(folder, limit) as memory:
        gate.send("ready")
        while (order := gate.recv()) is not None:
            try:
                gate.send(str(getattr(memory, order[0])(*order[1:])))
            except MemoryFailed as error:
                gate.send(str(error))


@contextmanager
def opened_elsewhere(folder: Path, limit: int = LIMIT) -> Iterator[Callable[..., str]]:
    """The same memory in another process; called with a method's name and arguments it gives what came of it."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_obey, args=(folder, limit, theirs))
    process.start()
    theirs.close()

    def call(*order: object) -> str:
        if order:
            ours.send(order)
        assert ours.poll(PATIENCE_SECONDS), "the other process does not answer"
        return str(ours.recv())

    try:
        assert call() == "ready"
        yield call
        ours.send(None)
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        ours.close()


def _count_up(folder: Path, turns: int, gate: Connection) -> None:
    """Add entries one by one, each replacement after a new look where another process was quicker."""
    with opened(folder, LIMIT) as memory:
        gate.send("ready")
        gate.recv()
        for turn in range(turns):
            while True:
                old = memory.read(ALICE)
                os.sched_yield()
                new = old + stored((2 * (os.getpid() * 1000 + turn), NOW, SERVED))
                if memory.replace(ALICE, old, new):
                    break


def _hold_a_write(folder: Path, gate: Connection) -> None:
    """Stand still in the middle of a replacement."""
    with opened(folder, LIMIT) as memory, memory._environment.begin(write=True) as transaction:
        transaction.put(ALICE, TWO, db=memory._entries.database)
        gate.send("holding")
        threading.Event().wait(PATIENCE_SECONDS)


def test_no_replacement_of_several_processes_is_lost(tmp_path: Path) -> None:
    folder, turns, processes = tmp_path / "seen", 400, 3
    pairs = [SPAWN.Pipe() for _ in range(processes)]
    started = [SPAWN.Process(target=_count_up, args=(folder, turns, theirs), daemon=True) for _, theirs in pairs]
    for process in started:
        process.start()
    for ours, _ in pairs:
        assert ours.poll(PATIENCE_SECONDS)
        ours.recv()
    for ours, _ in pairs:
        ours.send("go")
    for process in started:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    with opened(folder, LIMIT) as memory:
        keys = as_entries(memory.read(ALICE))[:, 0]
    assert len(keys) == len(set(keys.tolist())) == turns * processes


def test_a_process_that_is_killed_in_the_middle_of_a_replacement_holds_up_nobody_and_leaves_nothing_half(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "seen"
    with opened(folder, LIMIT) as memory:
        memory.replace(ALICE, b"", ONE)
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_hold_a_write, args=(folder, theirs), daemon=True)
        process.start()
        assert ours.poll(PATIENCE_SECONDS)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE_SECONDS)
        assert memory.read(ALICE) == ONE
        assert memory.replace(ALICE, ONE, TWO) is True
        assert memory.read(ALICE) == TWO
