"""Finding the record of one feed: in the database, or in the log that has not been flushed yet."""

import mmap
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import Engine

from recommendation_service.core.errors import NotFound, SourceError
from recommendation_service.flush.rows import COLUMNS_OF_FEED, feed_of_row
from recommendation_service.flush.tables import has_events, selected, transaction
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.records import FeedRecord, Record
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.log.tail import take_apart

_QUERY = "SELECT {columns} FROM recs_events WHERE request_id = :request_id AND event = 'feed' LIMIT 1"


def find_feed(engine: Engine, folder: Path, request_id: str) -> FeedRecord | None:
    """Reads the log first, which is this machine's. Blocks.

    Raises SourceError where the database cannot be read, or what it has is no feed; NotFound for a forgotten user's.
    """
    try:
        raw = bytes.fromhex(request_id)
    except ValueError:
        return None
    if len(raw) != 16:
        return None
    found, forgotten = _in_log(folder, raw)
    if forgotten:
        raise NotFound("The user of that feed was forgotten, and with the user what the feed was made of.")
    if found is None and has_events(engine):
        return _in_database(engine, request_id.lower())
    return found


def _in_database(engine: Engine, request_id: str) -> FeedRecord | None:
    with transaction(engine) as connection:
        there = {column["name"] for column in inspect(connection).get_columns("recs_events")}
        columns = selected(engine, (*COLUMNS_OF_FEED, *({"user_text"} & there)))  # which only a mapping's table has
        row = (
            connection.execute(text(_QUERY.format(columns=columns)), {"request_id": request_id})
            .mappings()
            .one_or_none()
        )
    try:
        return feed_of_row(row) if row is not None and row["slots"] is not None else None
    except ValueError as error:
        raise SourceError(f"The row of that feed in recs_events cannot be read: {error}.") from None


def _in_log(folder: Path, raw: bytes) -> tuple[FeedRecord | None, bool]:
    """The record, and whether its user was forgotten since."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
                if memory.find(raw) < 0:
                    continue
            found = scan(path)
        except (FileNotFoundError, PermissionError, ValueError):
            continue  # flushed just now, another user's, or made just now and empty
        # The bytes may stand elsewhere than in a payload, too: zeros do.
        near = [place for place, payload in enumerate(found.payloads) if raw in payload]
        payloads, begins = [found.payloads[place] for place in near], [found.begins[place] for place in near]
        stretch = take_apart(path.name, payloads, begins).without(read_forgotten(folder))
        for records, is_forgotten in ((stretch.records, False), (stretch.forgotten, True)):
            record = next((record for record in records if _is_of(record, raw)), None)
            if isinstance(record, FeedRecord):
                return record, is_forgotten
    return None, False


def _is_of(record: Record, raw: bytes) -> bool:
    return isinstance(record, FeedRecord) and record.request_id == raw
