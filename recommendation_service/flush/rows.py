"""Records as rows of ``recs_events``. Of feeds it has the items in few letters: ITEM_MARKS."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from recommendation_service.core.local_time import offsets_between
from recommendation_service.log.records import (
    FeedbackRecord,
    FeedRecord,
    ShadowRecord,
    decode,
    endpoint_name,
)
from recommendation_service.model.item_keys import item_key, type_name, unpack
from recommendation_service.model.kinds import feed_code, kind_name, kind_number
from recommendation_service.model.words import Words
from recommendation_service.ranking.packed_slots import pack_shown, unpack_shown

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
# Of an operator whose words are a mapping's, beside the others.
TEXT_COLUMNS = ("user_text", "item_text")
FEED = "feed"
# What ``feed_of_row`` wants of a row.
COLUMNS_OF_FEED = ("event_id", "request_id", "user_id", "session_id", "endpoint", "happened_at", "properties", "slots")

# What recs_events.slots begins with: of a feed the seed and, as packed_slots.py packs them, the columns that
# ``properties`` does not have; where there were shadows, between them how long these are, and they in MessagePack; or,
# as older releases wrote it, zlib of the whole record.
_SLOTS_VERSION = b"\x02"
_SHADOWED_VERSION = b"\x03"
_RECORD_VERSION = b"\x01"
_SEED_BYTES = 8
_LENGTH_BYTES = 2
# What marks the type of an item in recs_events.properties, by the type's number; others have t and the number.
ITEM_MARKS = ("", "c")
_OTHER = "t"
_MARKED = re.compile(r"(\d+)(?:(c)|t(\d+))?", re.ASCII)

# Text that is the same inside quotes of SQL and of JSON, and in every character set: nothing in it wants escaping.
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")
# What a column of such a character set holds (None: a JSON column of MySQL); others are taken to hold ASCII only.
_ALL_OF_UNICODE = {None, "utf8mb4", "utf16", "utf16le", "utf32"}
_BASIC_PLANE = {"utf8", "utf8mb3", "ucs2"}
_CODECS = {"latin1": "cp1252"}


def local_expression(batch: Iterable[Event], zone: tzinfo, *, mysql: bool) -> str:
    """When an event of the batch happened, as the operator's log has times: in the operator's zone, to the second."""
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
    """What the operator's log gets, in ASCII; None: text is plain, and the server makes the same."""
    if are_plain([record]):
        return None
    names = ("request_id", "session_id", "slot_kind", "position", "value", "watch_seconds")
    slot_kind = kind_name(record.slot_kind - 1) if record.slot_kind else None
    given = (record.request_id, record.session_id, slot_kind, record.position, record.value, record.watch_seconds)
    properties: dict[str, object] = {
        "event": record.event,
        "event_id": record.event_id,
        "user_id": record.user_id,
        "item_type": type_name(record.item_type),
        "item_id": record.item_id,
        **{name: value for name, value in zip(names, given, strict=True) if value is not None},
        **({"flags": record.flags} if record.flags else {}),
        "happened_at": f"{text_of(record.happened_ms).replace(' ', 'T')}Z",
    }
    return json_text(properties)


def json_text(content: dict[str, object]) -> str:
    """ASCII, so that a column of any character set holds it. Raises ValueError for a number that is none."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def event_id_of(record: Event) -> str:
    return record.event_id if isinstance(record, FeedbackRecord) else record.event_id.hex()


def event_of(record: Event) -> str:
    """As the operator calls it."""
    return record.own_name if isinstance(record, FeedbackRecord) else FEED


def own_feedback_row(record: FeedbackRecord, flush_id: int, words: Words) -> tuple[Value, ...]:
    """Values of FEEDBACK_COLUMNS and TEXT_COLUMNS, in a mapping's words. Raises as ``feedback_row``."""
    own = {
        "event": record.own_name,
        "item_type": words.type_name(record.item_type),
        "slot_kind": words.kind_name(record.slot_kind - 1) if record.slot_kind else None,
        "properties": None,  # which no other table is made from
    }
    row = zip(FEEDBACK_COLUMNS, feedback_row(record, flush_id), strict=True)
    return *(own.get(name, value) for name, value in row), record.user_text or None, record.item_text or None


def own_feed_row(record: FeedRecord, flush_id: int) -> tuple[Value, ...]:
    """The same of FEED_COLUMNS and TEXT_COLUMNS."""
    return *feed_row(record, flush_id), record.user_text or None, None


def feedback_row(record: FeedbackRecord, flush_id: int) -> tuple[Value, ...]:
    """Values of FEEDBACK_COLUMNS. Raises IndexError or ValueError for what no column can hold."""
    return (
        record.event_id,
        record.event,
        record.user_id,
        type_name(record.item_type),
        record.item_id,
        record.request_id,
        record.session_id,
        kind_name(record.slot_kind - 1) if record.slot_kind else None,
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
    items, kinds, others = unpack_shown(record.packed)
    properties: dict[str, object] = (
        {} if are_plain([record]) else {"session_id": record.session_id, "endpoint": endpoint}
    )
    properties |= common_properties(record) | {"items": shown_text(items, kinds)}
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
        json_text(properties),
        slots_of(record, others),
        flush_id,
    )


def common_properties(record: FeedRecord) -> dict[str, object]:
    """Of a feed's ``properties``, what is the same in many."""
    seldom: dict[str, object] = {} if record.personal else {"personal": False}
    if record.arm:
        seldom["arm"] = record.arm
    return {"catalog": record.catalog_version, "policy": record.policy_version, **seldom}


def shown_text(items: Iterable[int], kinds: Iterable[int]) -> str:
    """What ``properties`` say of the slots: ``12 VMP,7c FW``. Raises IndexError for what no feed holds."""
    return ",".join(map(_slot_text, items, kinds))


@lru_cache(1 << 16)
def _slot_text(item: int, kind: int) -> str:
    item_type, number = unpack(item)
    mark = ITEM_MARKS[item_type] if item_type < len(ITEM_MARKS) else f"{_OTHER}{item_type}"
    return f"{number}{mark} {kind_name(kind)}"


def slots_of(record: FeedRecord, others: bytes) -> bytes:
    """``others``: the columns that ``properties`` does not have."""
    seed = record.seed.to_bytes(_SEED_BYTES, "little")
    if not record.shadows:
        return _SLOTS_VERSION + seed + others
    shadows = msgspec.msgpack.encode(record.shadows)
    return _SHADOWED_VERSION + seed + len(shadows).to_bytes(_LENGTH_BYTES, "little") + shadows + others


def _taken_apart(slots: bytes) -> tuple[int, tuple[ShadowRecord, ...], bytes]:
    """Seed, shadows, and the columns that ``properties`` does not have. Raises ValueError, DecodeError."""
    version, place = slots[:1], 1 + _SEED_BYTES
    if version not in (_SLOTS_VERSION, _SHADOWED_VERSION):
        raise ValueError(f"slots of version {version!r}")
    seed = int.from_bytes(slots[1:place], "little")
    shadows: tuple[ShadowRecord, ...] = ()
    if version == _SHADOWED_VERSION:
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(slots[place:start], "little")
        shadows = _decode_shadows(slots[start:place])
    return seed, shadows, slots[place:]


class _FeedProperties(msgspec.Struct):
    """Of a feed in recs_events, what is nowhere else."""

    catalog: str
    policy: str
    items: str  # of each slot the item's number, a mark of its type, a blank and the kind; commas between
    personal: bool = True
    arm: str = ""

    def shown(self) -> list[tuple[int, int]]:
        """Key of the item and kind of each slot. Raises ValueError."""
        return [_shown_of_text(item) for item in self.items.split(",")] if self.items else []

    def shown_items(self) -> list[int]:
        """The keys alone. Raises ValueError."""
        return [shown[0] for shown in map(_shown_of_text, self.items.split(","))] if self.items else []


@lru_cache(1 << 16)
def _shown_of_text(item: str) -> tuple[int, int]:
    """Of what ``_slot_text`` made. Raises ValueError."""
    marked, _, kind = item.partition(" ")
    parts = _MARKED.fullmatch(marked)
    if parts is None:
        raise ValueError(f"{marked!r} is no item")
    number, mark, other = parts.groups()
    key = item_key(int(other) if other else ITEM_MARKS.index(mark or ""), int(number))
    return key, kind_number(kind)


_decode_properties = msgspec.json.Decoder(_FeedProperties).decode
_decode_shadows = msgspec.msgpack.Decoder(tuple[ShadowRecord, ...]).decode


def shown_of_row(properties: str, slots: bytes) -> list[tuple[int, int]]:
    """Key of the item and kind of each slot of a feed's row. Raises ValueError for what no release wrote."""
    if slots[:1] == _RECORD_VERSION:
        return list(_older(slots).shown())
    try:
        return _decode_properties(properties).shown()
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def feed_of_row(row: Mapping[Any, Any]) -> FeedRecord:
    """The record of a feed, from its row's COLUMNS_OF_FEED. Raises ValueError for what no release wrote."""
    slots = row["slots"]
    if slots[:1] == _RECORD_VERSION:
        return _older(slots)
    try:
        seed, shadows, others = _taken_apart(slots)
        properties = _decode_properties(row["properties"])
        shown = properties.shown()
        return FeedRecord(
            bytes.fromhex(row["event_id"]),
            bytes.fromhex(row["request_id"]),
            row["user_id"],
            row["session_id"],
            feed_code(row["endpoint"]),
            milliseconds_of(row["happened_at"]),
            properties.catalog,
            properties.policy,
            seed,
            pack_shown([item for item, _ in shown], [kind for _, kind in shown], others),
            shadows,
            properties.personal,
            properties.arm,
            row.get("user_text") or "",
        )
    except (msgspec.DecodeError, TypeError) as error:
        raise ValueError(str(error)) from None


class WeighedRow(NamedTuple):
    """Of a feed's row, what an estimate needs."""

    policy: str
    is_personal: bool
    items: list[int]  # keys
    others: bytes  # with the propensities, see packed_slots.unpack_propensities_of_each
    shadows: tuple[ShadowRecord, ...]


def weighed_row(properties: str, slots: bytes) -> WeighedRow:
    """Raises ValueError for what no release wrote."""
    if slots[:1] == _RECORD_VERSION:
        record = _older(slots)
        items, _, others = unpack_shown(record.packed)
        return WeighedRow(record.policy_version, record.personal, items, others, record.shadows)
    try:
        _, shadows, others = _taken_apart(slots)
        found = _decode_properties(properties)
        return WeighedRow(found.policy, found.personal, found.shown_items(), others, shadows)
    except (msgspec.DecodeError, TypeError) as error:
        raise ValueError(str(error)) from None


def _older(slots: bytes) -> FeedRecord:
    """What an older release wrote into recs_events.slots. Raises ValueError."""
    try:
        record = decode(zlib.decompress(slots[1:]))
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(record, FeedRecord):
        raise ValueError("no feed")
    return record


def milliseconds_of(moment: str) -> int:
    """Of what ``text_of`` made."""
    return (datetime.fromisoformat(moment) - datetime(1970, 1, 1)) // timedelta(milliseconds=1)  # noqa: DTZ001


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
