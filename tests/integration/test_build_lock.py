"""Of processes that build a catalog one does at a time, and one that was killed holds up nobody."""

import fcntl
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from recommendation_service.catalog.store import CatalogStore


@pytest.fixture
def store(tmp_path: Path) -> CatalogStore:
    return CatalogStore(tmp_path / "catalogs", keep=3)


def hold_lock(folder: Path, connection: Connection) -> None:
    with CatalogStore(folder, 3).build_lock():
        connection.send("held")
        connection.recv()


def in_another_process(store: CatalogStore) -> tuple[SpawnProcess, Connection]:
    """Who holds the lock of builds, and where to send a word when it is to be let go."""
    context = get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=hold_lock, args=(store.folder, there))
    other.start()
    assert here.recv() == "held"
    return other, here


def test_only_one_process_builds_at_a_time(store: CatalogStore) -> None:
    other, here = in_another_process(store)
    entered = threading.Event()

    def build() -> None:
        with store.build_lock():
            entered.set()

    with open(store.folder / "build.lock", "w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    waiting = threading.Thread(target=build)
    waiting.start()
    assert not entered.is_set()
    here.send("go")
    waiting.join(timeout=60)
    other.join(timeout=60)
    assert entered.is_set()
    assert other.exitcode == 0


def test_the_lock_is_free_after_its_holder_was_killed(store: CatalogStore) -> None:
    other, _ = in_another_process(store)

    other.kill()
    other.join()

    with open(store.folder / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
