"""Records into PostgreSQL's ``recs_events``: an array a column, one statement a batch, which says what was new."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection

from recommendation_service.flush.rows import (
    FEED_COLUMNS,
    FEEDBACK_COLUMNS,
    Event,
    feed_row,
    feedback_row,
)
from recommendation_service.log.records import FeedbackRecord, FeedRecord

# Columns that are no text. Text longer than its column is refused: it is cast to text, and not to varchar, which cuts.
_TYPES = {
    **dict.fromkeys(("user_id", "item_id", "flush_id"), "bigint"),
    **dict.fromkeys(("position", "flags"), "integer"),
    **dict.fromkeys(("value", "watch_seconds"), "double precision"),
    **dict.fromkeys(("happened_at", "received_at"), "timestamp"),
    "slots": "bytea",
}


def insert_arrays(connection: Connection, batch: Sequence[Event], flush_id: int) -> Counter[str]:
    """Rows inserted, by event. ``batch``: of one kind. Raises IndexError or ValueError for what no column can hold."""
    feedback = [feedback_row(record, flush_id) for record in batch if isinstance(record, FeedbackRecord)]
    feeds = [feed_row(record, flush_id) for record in batch if isinstance(record, FeedRecord)]
    columns = FEEDBACK_COLUMNS if feedback else FEED_COLUMNS
    values = {name: list(column) for name, column in zip(columns, zip(*feedback, *feeds, strict=True), strict=True)}
    return Counter(map(str, connection.execute(_statement(columns), values).scalars()))


@lru_cache
def _statement(columns: tuple[str, ...]) -> TextClause:
    arrays = ", ".join(f"CAST(:{name} AS {_TYPES.get(name, 'text')}[])" for name in columns)
    names = ", ".join(columns)
    return text(
        f"INSERT INTO recs_events ({names}) SELECT {names} FROM unnest({arrays}) AS new ({names}) "
        "ON CONFLICT (event_id, user_id) DO NOTHING RETURNING event"
    )
