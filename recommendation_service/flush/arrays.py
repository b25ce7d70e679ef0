"""Records into PostgreSQL's ``recs_events``: an array a column, one statement a batch, which says what was new."""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection

from recommendation_service.flush.rows import Value

# Columns that are no text. Text longer than its column is refused: it is cast to text, and not to varchar, which cuts.
_TYPES = {
    **dict.fromkeys(("user_id", "item_id", "flush_id"), "bigint"),
    **dict.fromkeys(("position", "flags"), "integer"),
    **dict.fromkeys(("value", "watch_seconds"), "double precision"),
    **dict.fromkeys(("happened_at", "received_at"), "timestamp"),
    "slots": "bytea",
}


def insert_arrays(
    connection: Connection, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]]
) -> list[tuple[str, int, str]]:
    """(event, user, event_id) of the rows that were inserted."""
    values = {name: list(column) for name, column in zip(columns, zip(*rows, strict=True), strict=True)}
    inserted = connection.execute(_statement(columns), values)
    return [(str(event), int(user_id), str(event_id)) for event, user_id, event_id in inserted]


@lru_cache
def _statement(columns: tuple[str, ...]) -> TextClause:
    arrays = ", ".join(f"CAST(:{name} AS {_TYPES.get(name, 'text')}[])" for name in columns)
    names = ", ".join(columns)
    return text(
        f"INSERT INTO recs_events ({names}) SELECT {names} FROM unnest({arrays}) AS new ({names}) "
        "ON CONFLICT (event_id, user_id) DO NOTHING RETURNING event, user_id, event_id"
    )
