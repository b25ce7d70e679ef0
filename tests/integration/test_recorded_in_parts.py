"""Recorded feeds that several processes read."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.evaluation import recorded as reading
from recommendation_service.evaluation.recorded import read_recorded
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.rows import Event
from recommendation_service.learning.format import load_learning
from recommendation_service.log.records import ShadowRecord
from tests.support.events import HAPPENED_MS, feed
from tests.support.flushed import settings_for
from tests.unit.evaluation.test_recorded import ALL, save


@pytest.fixture
def many(flushed_sqlite: Engine, tmp_path: Path) -> Settings:
    """Feeds and what people did, of which some name no feed; and settings by which other processes find them."""
    rows: list[Event] = []
    for number in range(60):
        request = number.to_bytes(16, "little")
        shadow = ShadowRecord("v" if number % 3 else "w", np.full(3, 0.25, "<f4").tobytes())
        at = HAPPENED_MS + 1000 * number
        name = ("total", "songs", "flow")[number * 3 // 60]
        rows.append(feed(request_id=request, user_id=1 + number % 7, happened_ms=at, endpoint=name, shadows=(shadow,)))
        rows.append(
            save(request_id=request.hex() if number % 2 else None, user_id=1 + number % 7, happened_ms=at + 500)
        )
    assert not EventWriter(flushed_sqlite).write(rows).left
    return settings_for(flushed_sqlite.url, tmp_path)


def same(one: Recorded, other: Recorded) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


def test_parts_that_two_processes_read_are_what_one_reads(
    flushed_sqlite: Engine, many: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_recorded(flushed_sqlite, ALL, load_learning(), "v", lambda *_: None)
    monkeypatch.setattr(reading, "ROWS_OF_A_PART", 7)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    steps: list[float] = []
    in_parts = read_recorded(flushed_sqlite, ALL, load_learning(), "v", lambda _, done: steps.append(done), many)

    assert (len(whole.users), len(whole.names), np.nansum(whole.rewards)) == (60, 3, pytest.approx(60 * 0.6))
    assert same(whole, in_parts)
    assert same(whole, read_recorded(flushed_sqlite, ALL, load_learning(), "v", lambda *_: None))
    assert steps == sorted(steps)


def test_a_process_that_is_killed_is_told_of(
    flushed_sqlite: Engine, many: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROWS_OF_A_PART", 7)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    def kill(_what: str, _done: float) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(SourceError, match=r"ended from outside.*--since"):
        read_recorded(flushed_sqlite, ALL, load_learning(), "v", kill, many)
