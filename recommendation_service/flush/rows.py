"""Records as rows of ``recs_events``, and how the server makes ``activity_log``'s rows from those.

An event is sent once: the second table is filled by the server, from the first. So what an application reads in
``properties`` is written down here in SQL for feedback, and in Python for feeds, whose items SQL cannot take apart.
"""

import json
import re
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

import msgspec

from recommendation_service.core.local_time import offsets_between
from recommendation_service.log.records import (
    ITEM_TYPES,
    FeedbackRecord,
    FeedRecord,
    decode,
    encode,
    endpoint_name,
)
from recommendation_service.model.kinds import KINDS

Event = FeedbackRecord | FeedRecord
Value = int | float | str | bytes | None

FEEDBACK_COLUMNS: tuple[str, ...] = (
    *("event_id", "event", "user_id", "item_type", "item_id", "request_id", "session_id", "slot_kind", "position"),
    *("value", "watch_seconds", "flags", "happened_at", "received_at", "properties", "flush_id"),
)
FEED_COLUMNS: tuple[str, ...] = (
    *("event_id", "event", "user_id", "request_id", "session_id", "endpoint", "flags", "happened_at", "received_at"),
    *("properties", "slots", "flush_id"),
)
FEED = "feed"

# A feed's record as recs_events.slots has it: this byte, then zlib of its MessagePack.
_SLOTS_VERSION = b"\x01"
_ZLIB_LEVEL = 1

# Text that is the same inside quotes of SQL and of JSON, and in every character set: nothing in it wants escaping.
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")
# What a column of such a character set holds (None: a JSON column of MySQL); others are taken to hold ASCII only.
_ALL_OF_UNICODE = {None, "utf8mb4", "utf16", "utf16le", "utf32"}
_BASIC_PLANE = {"utf8", "utf8mb3", "ucs2"}
_CODECS = {"latin1": "cp1252"}


# The statement that makes activity_log's rows of a batch. What is absent is left out by CONCAT of a NULL being NULL. A
# row whose text wants escaping brings its properties. Rows that were there before bear another flush_id, and are not
# written again. For {local}: what ``local_expression`` says of the batch.
COPY_TO_ACTIVITY_LOG = """INSERT INTO activity_log (log_name, description, subject_id, subject_type, causer_id,
  causer_type, properties, url, created_at, updated_at)
SELECT 'app',
  CASE WHEN event = 'feed' THEN CONCAT('#feed #request #', endpoint)
    ELSE CONCAT('#video #view #', COALESCE(slot_kind, 'UNKNOWN')) END,
  item_id,
  CASE item_type WHEN 'resume' THEN :resume_type WHEN 'challenge' THEN :challenge_type
    WHEN 'creator' THEN :user_type END,
  NULLIF(user_id, 0), :user_type,
  COALESCE(properties, CONCAT('{"event":"', event, '","event_id":"', event_id, '","user_id":', user_id,
    ',"item_type":"', item_type, '","item_id":', item_id,
    COALESCE(CONCAT(',"request_id":"', request_id, '"'), ''),
    COALESCE(CONCAT(',"session_id":"', session_id, '"'), ''),
    COALESCE(CONCAT(',"slot_kind":"', slot_kind, '"'), ''),
    COALESCE(CONCAT(',"position":', position), ''),
    COALESCE(CONCAT(',"value":', value), ''),
    COALESCE(CONCAT(',"watch_seconds":', watch_seconds), ''),
    CASE WHEN flags = 0 THEN '' ELSE CONCAT(',"flags":', flags) END,
    ',"happened_at":"', REPLACE(happened_at, ' ', 'T'), 'Z"}')),
  CASE WHEN event = 'feed' THEN CONCAT('/api/search/', endpoint)
    ELSE CONCAT('/api/search/feed/video/', item_id) END,
  {local}, {local}
FROM recs_events WHERE id > :last_id AND flush_id = :flush_id"""


COPY_PARAMETERS = {
    "resume_type": r"App\Interacpedia\Resumes\Resume",
    "challenge_type": r"App\Interacpedia\Challenges\Challenge",
    "user_type": r"App\User",
}


def local_expression(batch: Iterable[Event], zone: tzinfo, *, mysql: bool) -> str:
    """When an event of the batch happened, as activity_log has times: in the operator's zone, to the second."""
    happened = [record.happened_ms // 1000 for record in batch]
    offsets = offsets_between(min(happened), max(happened), zone)
    if {offset for _, offset in offsets} == {0}:
        return "SUBSTR(happened_at, 1, 19)"
    pattern = (
        "SUBSTR(DATE_ADD(happened_at, INTERVAL {} SECOND), 1, 19)"
        if mysql
        else "datetime(happened_at, '{:+d} seconds')"
    )
    parts = [pattern.format(offset) for _, offset in offsets]
    changes = [f"WHEN happened_at < '{_second(since)}' THEN" for since, _ in offsets[1:]]
    if not changes:
        return parts[0]
    cases = " ".join(f"{change} {part}" for change, part in zip(changes, parts, strict=False))
    return f"CASE {cases} ELSE {parts[-1]} END"


def are_plain(records: Iterable[Event]) -> bool:
    """Whether no text of these, which clients chose, wants escaping in SQL or in JSON: nearly always so."""
    return _PLAIN.fullmatch("".join(map(_text_of_client, records))) is not None


def can_hold(character_set: str | None, record: Event) -> bool:
    """Whether a column of that character set, as MySQL names it, can hold the record's text without escapes."""
    chosen = _text_of_client(record)
    if chosen.isascii() or character_set in _ALL_OF_UNICODE:
        return True
    if character_set in _BASIC_PLANE:
        return max(chosen) <= "\uffff"
    try:
        chosen.encode(_CODECS.get(character_set or "", "ascii"))
    except UnicodeEncodeError:
        return False
    return True


def _text_of_client(record: Event) -> str:
    if isinstance(record, FeedbackRecord):
        return f"{record.event_id}{record.request_id or ''}{record.session_id or ''}"
    return record.session_id or ""


def properties_of(record: FeedbackRecord) -> str | None:
    """What activity_log gets, in ASCII; None: text is plain, and the server makes the same."""
    if are_plain([record]):
        return None
    names = ("request_id", "session_id", "slot_kind", "position", "value", "watch_seconds")
    slot_kind = KINDS[record.slot_kind - 1] if record.slot_kind else None
    given = (record.request_id, record.session_id, slot_kind, record.position, record.value, record.watch_seconds)
    properties: dict[str, object] = {
        "event": record.event,
        "event_id": record.event_id,
        "user_id": record.user_id,
        "item_type": ITEM_TYPES[record.item_type],
        "item_id": record.item_id,
        **{name: value for name, value in zip(names, given, strict=True) if value is not None},
        **({"flags": record.flags} if record.flags else {}),
        "happened_at": f"{text_of(record.happened_ms).replace(' ', 'T')}Z",
    }
    return _json(properties)


def _json(content: dict[str, object]) -> str:
    """ASCII, so that a column of any character set holds it. Raises ValueError for a number that is none."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def event_id_of(record: Event) -> str:
    return record.event_id if isinstance(record, FeedbackRecord) else record.event_id.hex()


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
        properties_of(record),
        flush_id,
    )


def feed_row(record: FeedRecord, flush_id: int) -> tuple[Value, ...]:
    """Values of FEED_COLUMNS. Raises IndexError or ValueError for what no column can hold."""
    happened = text_of(record.happened_ms)
    endpoint = endpoint_name(record.endpoint)
    properties: dict[str, object] = {
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
        msgspec.json.encode(properties).decode() if are_plain([record]) else _json(properties),
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
