"""The record of one feed, looked for in the log."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine

from recommendation_service.flush.lookup import find_feed
from tests.support.events import feedback, write_segment


def test_a_feed_that_nobody_has_is_not_found_whatever_else_has_its_bytes(tmp_path: Path) -> None:
    """Zeros are what the room is made of that a segment has left."""
    write_segment(tmp_path, [feedback()], name="1")
    engine = create_engine("sqlite://")
    assert [find_feed(engine, tmp_path, request_id) for request_id in ("0" * 32, "f" * 32, "no number")] == [None] * 3
    engine.dispose()
