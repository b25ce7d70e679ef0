"""What users have seen, filled again from the log by the reader `rebuild`."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from recommendation_service.core.config import Settings
from recommendation_service.flush import log_replay
from recommendation_service.flush.log_replay import replay
from recommendation_service.log.marks import FLUSH, REBUILD, Mark, registered
from recommendation_service.log.reader import Batch, LogReader
from recommendation_service.log.retention import remove_passed
from recommendation_service.log.segments import SUFFIX
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.user_memory import opened
from tests.support.events import feedback, write_segment

NOW = 1_790_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=SecretStr("sqlite://"), data_dir=tmp_path, seen_megabytes=64)


class InSteps(LogReader):
    def read(self, most: int = 2, most_bytes: int = 1 << 20) -> Batch:
        return super().read(most, most_bytes)


def write(settings: Settings, name: str, *items: int) -> None:
    records = [feedback(event="view", user_id=7, item_id=item, received_ms=int(NOW) * 1000) for item in items]
    write_segment(settings.events_dir, records, name=name)


def remembered(settings: Settings) -> int:
    key = user_key(7, 0)
    assert key is not None
    with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
        return len(as_entries(memory.read(key)))


def flushed(settings: Settings) -> list[str]:
    """Segments that are left after a flush of all of them."""
    flush = LogReader(settings.events_dir, FLUSH)
    flush.settle(flush.read().mark)
    remove_passed(settings.events_dir, flush.settled.places, 1 << 40)
    return sorted(path.name.removesuffix(SUFFIX) for path in settings.events_dir.glob(f"*{SUFFIX}"))


def test_a_new_memory_is_filled_from_the_log_and_the_reader_is_gone_afterwards(settings: Settings) -> None:
    write(settings, "1-1", 1, 2)
    write(settings, "2-1", 3)
    replay(settings, lambda: NOW, threading.Event())
    assert remembered(settings) == 3
    assert registered(settings.events_dir) == [FLUSH]
    assert flushed(settings) == []


def test_a_reader_that_was_done_and_killed_is_struck_off_by_the_next(settings: Settings) -> None:
    write(settings, "1-1", 1, 2)
    replay(settings, lambda: NOW, threading.Event())
    with LogReader(settings.events_dir, REBUILD, since=Mark()):
        pass  # as it was before the last thing that it did
    assert registered(settings.events_dir) == [FLUSH, REBUILD]
    replay(settings, lambda: NOW, threading.Event())
    assert registered(settings.events_dir) == [FLUSH]
    assert flushed(settings) == []


def test_until_it_is_filled_the_flush_removes_nothing_of_what_it_lacks_and_a_new_memory_begins_from_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings, "1-1", 1, 2)
    write(settings, "2-1", 3)
    stop = threading.Event()
    stop.set()  # after a step, as where the process ends
    monkeypatch.setattr(log_replay, "LogReader", InSteps)
    replay(settings, lambda: NOW, stop)
    assert registered(settings.events_dir) == [FLUSH, REBUILD]
    assert remembered(settings) == 2
    assert flushed(settings) == ["1-1", "2-1"]
    shutil.rmtree(settings.seen_dir)  # the machine was restarted, say
    replay(settings, lambda: NOW, threading.Event())
    assert remembered(settings) == 3
    assert flushed(settings) == []
