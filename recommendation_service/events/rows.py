"""Records as rows of ``recs_events``, and how the server makes ``activity_log``'s rows from those.

An event is sent once: the second table is filled by the server, from the first. So what an application reads in
``properties`` is written down here in SQL for feedback, and in Python for feeds, whose items SQL cannot take apart.
"""

import re
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from recommendation_service.events.records import (
    ITEM_TYPES,
    FeedbackRecord,
    FeedRecord,
    decode,
    encode,
    endpoint_name,
)
from recommendation_service.ranking.policy import KINDS

Event = FeedbackRecord | FeedRecord
Value = int | float | str | bytes | None

FEEDBACK_COLUMNS: tuple[str, ...] = (
    *("event_id", "event", "user_id", "item_type", "item_id", "request_id", "session_id", "slot_kind", "position"),
    *("value", "watch_seconds", "flags", "happened_at", "received_at", "flush_id"),
)
FEED_COLUMNS: tuple[str, ...] = (
    *("event_id", "event", "user_id", "request_id", "session_id", "endpoint", "flags", "happened_at", "received_at"),
    *("properties", "slots", "flush_id"),
)
FEED = "feed"

# A feed's record as recs_events.slots has it: this byte, then zlib of its MessagePack.
_SLOTS_VERSION = b"\x01"
_ZLIB_LEVEL = 1

# Text that is the same inside quotes of SQL and of JSON: nothing in it wants escaping.
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")


def copy_to_activity_log(*, plain: bool) -> str:
    """The statement that makes activity_log's rows of a batch; ``plain``: all of its texts are, see ``are_plain``.

    The event first, then its id, and no space between: queries of the catalog's build look for it so. JSON_QUOTE for
    what a client chose (on SQLite that of a NULL is 'null'); elsewhere what is absent is left out by CONCAT of a NULL
    being NULL. Rows that were there before bear another flush_id, and are not written again.
    """
    pattern = """'"', {}, '"'""" if plain else "JSON_QUOTE({})"
    event_id, request_id, session_id = (pattern.format(name) for name in ("event_id", "request_id", "session_id"))
    return f"""INSERT INTO activity_log (log_name, description, subject_id, subject_type, causer_id,
  causer_type, properties, url, created_at, updated_at)
SELECT 'app',
  CASE WHEN event = 'feed' THEN CONCAT('#feed #request #', endpoint)
    ELSE CONCAT('#video #view #', COALESCE(slot_kind, 'UNKNOWN')) END,
  item_id,
  CASE item_type WHEN 'resume' THEN :resume_type WHEN 'challenge' THEN :challenge_type
    WHEN 'creator' THEN :user_type END,
  NULLIF(user_id, 0), :user_type,
  COALESCE(properties, CONCAT('{{"event":"', event, '","event_id":', {event_id}, ',"user_id":', user_id,
    ',"item_type":"', item_type, '","item_id":', item_id,
    CASE WHEN request_id IS NULL THEN '' ELSE CONCAT(',"request_id":', {request_id}) END,
    CASE WHEN session_id IS NULL THEN '' ELSE CONCAT(',"session_id":', {session_id}) END,
    COALESCE(CONCAT(',"slot_kind":"', slot_kind, '"'), ''),
    COALESCE(CONCAT(',"position":', position), ''),
    COALESCE(CONCAT(',"value":', value), ''),
    COALESCE(CONCAT(',"watch_seconds":', watch_seconds), ''),
    CASE WHEN flags = 0 THEN '' ELSE CONCAT(',"flags":', flags) END,
    ',"happened_at":"', REPLACE(happened_at, ' ', 'T'), 'Z"}}')),
  CASE WHEN event = 'feed' THEN CONCAT('/api/search/', endpoint)
    ELSE CONCAT('/api/search/feed/video/', item_id) END,
  SUBSTR(happened_at, 1, 19), SUBSTR(happened_at, 1, 19)
FROM recs_events WHERE id > :last_id AND flush_id = :flush_id"""


COPY_PARAMETERS = {
    "resume_type": r"App\Interacpedia\Resumes\Resume",
    "challenge_type": r"App\Interacpedia\Challenges\Challenge",
    "user_type": r"App\User",
}


def are_plain(records: Iterable[Event]) -> bool:
    """Whether no text of these, which clients chose, wants escaping in SQL or in JSON: nearly always so."""
    texts: list[str] = []
    for record in records:
        if isinstance(record, FeedbackRecord):
            texts += (record.event_id, record.request_id or "")
        texts.append(record.session_id or "")
    return _PLAIN.fullmatch("".join(texts)) is not None


def event_id_of(record: Event) -> str:
    return record.event_id if isinstance(record, FeedbackRecord) else record.event_id.hex()


def received_ms_of(record: Event) -> int:
    return record.received_ms if isinstance(record, FeedbackRecord) else record.happened_ms


def event_of(record: Event) -> str:
    return record.event if isinstance(record, FeedbackRecord) else FEED


def feedback_row(record: FeedbackRecord, flush_id: int) -> tuple[Value, ...]:
    """Values of FEEDBACK_COLUMNS. Raises IndexError or ValueError for what no column can hold."""
    return (
        record.event_id,
        record.event,
        record.user_id,
        ITEM_TYPES[record.item_type],
        record.item_id,
        record.request_id,
        record.session_id,
        KINDS[record.slot_kind - 1] if record.slot_kind else None,
        record.position,
        record.value,
        record.watch_seconds,
        record.flags,
        text_of(record.happened_ms),
        text_of(record.received_ms),
        flush_id,
    )


def feed_row(record: FeedRecord, flush_id: int) -> tuple[Value, ...]:
    """Values of FEED_COLUMNS. Raises IndexError or ValueError for what no column can hold."""
    happened = text_of(record.happened_ms)
    endpoint = endpoint_name(record.endpoint)
    properties = {
        "event": FEED,
        "event_id": record.event_id.hex(),
        "user_id": record.user_id,
        "request_id": record.request_id.hex(),
        "session_id": record.session_id,
        "endpoint": endpoint,
        "catalog": record.catalog_version,
        "policy": record.policy_version,
        "happened_at": f"{happened.replace(' ', 'T')}Z",
        "items": [
            {"id": item >> 1, "type": ITEM_TYPES[item & 1], "slot": KINDS[kind]}
            for item, kind in zip(record.slots().items.tolist(), record.kinds, strict=True)
        ],
    }
    if record.session_id is None:
        del properties["session_id"]
    return (
        record.event_id.hex(),
        FEED,
        record.user_id,
        record.request_id.hex(),
        record.session_id,
        endpoint,
        0,
        happened,
        happened,
        msgspec.json.encode(properties).decode(),
        pack_slots(record),
        flush_id,
    )


def pack_slots(record: FeedRecord) -> bytes:
    return _SLOTS_VERSION + zlib.compress(encode(record), _ZLIB_LEVEL)


def unpack_slots(packed: bytes) -> FeedRecord:
    """The feed that recs_events.slots holds. Raises ValueError where it is none of this release."""
    if packed[:1] != _SLOTS_VERSION:
        raise ValueError(f"slots of version {packed[:1]!r}")
    try:
        record = decode(zlib.decompress(packed[1:]))
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(record, FeedRecord):
        raise ValueError("no feed")
    return record


def text_of(milliseconds: int) -> str:
    """'2026-11-24 06:45:01.250', UTC. Raises ValueError."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}"


@lru_cache(4096)
def _second(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from None
