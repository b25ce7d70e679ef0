"""The record of one feed, looked for in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from recommendation_service.core.errors import SourceError
from recommendation_service.flush.lookup import find_feed
from tests.support.events import feedback, write_segment


def test_a_feed_that_nobody_has_is_not_found_whatever_else_has_its_bytes(tmp_path: Path) -> None:
    """Zeros are what the room is made of that a segment has left."""
    write_segment(tmp_path, [feedback()], name="1")
    engine = create_engine("sqlite://")
    assert [find_feed(engine, tmp_path, request_id) for request_id in ("0" * 32, "f" * 32, "no number")] == [None] * 3
    engine.dispose()


@pytest.mark.parametrize("slots", [b"", b"\x02short", b"\x01no zlib", b"\x09of a later release"])
def test_a_row_that_is_no_feed_of_a_release_is_said_to_be_none(
    slots: bytes, flushed_sqlite: Engine, tmp_path: Path
) -> None:
    with flushed_sqlite.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO recs_events (event_id, event, user_id, request_id, endpoint, flags, happened_at, "
                "received_at, properties, slots, flush_id) VALUES ('e', 'feed', 1, :request, 'total', 0, "
                "'2026-11-24 00:00:00', '2026-11-24 00:00:00', '{}', :slots, 'f')"
            ),
            {"request": "a" * 32, "slots": slots},
        )
    with pytest.raises(SourceError, match="cannot be read"):
        find_feed(flushed_sqlite, tmp_path, "A" * 32)
    with flushed_sqlite.begin() as connection:
        connection.execute(text("UPDATE recs_events SET slots = NULL"))
    assert find_feed(flushed_sqlite, tmp_path, "a" * 32) is None
