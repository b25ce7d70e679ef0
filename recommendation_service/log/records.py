"""The two kinds of records in the event log, as bytes: a feed that was shown, and something that a person did.

A record is MessagePack: an array whose first element names the kind and its version, so that a log written by an
older release is read by a newer one. docs/events.md describes every field.
"""

import os
import time
from collections.abc import Sequence
from enum import IntFlag
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.model.features import FEATURES
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED

EventName = Literal["impression", "view", "like", "save", "match", "rating", "skip", "hide"]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)
ItemType = Literal["resume", "challenge", "creator"]
ITEM_TYPES: tuple[ItemType, ...] = get_args(ItemType)

STATE_OF: dict[EventName, int] = dict.fromkeys(EVENT_NAMES, ACTED)
STATE_OF["impression"], STATE_OF["hide"] = IMPRESSED, HIDDEN


class Flag(IntFlag):
    """What was odd about an event that was accepted all the same."""

    UNKNOWN_USER = 1
    UNKNOWN_ITEM = 2
    TIME_CLAMPED = 4


class FeedbackRecord(msgspec.Struct, array_like=True, tag="event1", frozen=True, gc=False):
    """Something that a person did, one of the events that `/docs` lists. Times are milliseconds since 1970."""

    event_id: str
    event: EventName
    user_id: int
    item_type: int  # index into ITEM_TYPES
    item_id: int
    happened_ms: int
    received_ms: int
    request_id: str | None = None
    session_id: str | None = None
    position: int | None = None
    value: float | None = None
    watch_seconds: float | None = None
    slot_kind: int = 0  # 1 + index into KINDS of the slot that the item was served in; 0 where not known
    flags: int = 0  # Flag


class FeedRecord(msgspec.Struct, array_like=True, tag="feed1", frozen=True, gc=False):
    """A feed: what determined it, and each slot as columns of n slots, packed little-endian."""

    event_id: bytes  # 16 random bytes
    request_id: bytes  # 16 bytes; its hexadecimal digits are the request_id of the answer
    user_id: int
    session_id: str | None
    endpoint: int  # index into ENDPOINTS
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int  # 63 bits: with the versions and the user's memory, it gives the feed again
    items: bytes  # n int64: number << 1 | is_challenge
    kinds: bytes  # n uint8: index into KINDS, what the pattern asked for
    pools: bytes  # n uint8: index into KINDS, or slate.EXPLORATION, seen.SEEN_POOL
    relaxed: bytes  # n uint8: bits of slate.RULES that gave way for the slot
    propensities: bytes  # n float64
    features: bytes  # (n, 18) float32

    def slots(self) -> "Slots":
        return Slots(
            np.frombuffer(self.items, "<i8"),
            np.frombuffer(self.kinds, np.uint8),
            np.frombuffer(self.pools, np.uint8),
            np.frombuffer(self.relaxed, np.uint8),
            np.frombuffer(self.propensities, "<f8"),
            np.frombuffer(self.features, "<f4").reshape(-1, FEATURES),
        )


class StreamedRecord(msgspec.Struct, array_like=True, tag="stream1", frozen=True, gc=False):
    """The feedback before it, of one call, is on the fleet's stream too (stream.py), under this entry."""

    entry_id: bytes


class Slots(NamedTuple):
    """A feed's slots, as arrays of n."""

    items: npt.NDArray[np.int64]  # number << 1 | is_challenge
    kinds: npt.NDArray[np.uint8]
    pools: npt.NDArray[np.uint8]
    relaxed: npt.NDArray[np.uint8]
    propensities: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]  # (n, 18)


Record = FeedbackRecord | FeedRecord
LogRecord = Record | StreamedRecord

_encoder = msgspec.msgpack.Encoder()
_FEED_TAG = FeedRecord.__struct_config__.tag
_FEED_ARRAY = _encoder.encode((None,) * (1 + len(FeedRecord.__struct_fields__)))[:3]  # what begins an array so long
_decoder: msgspec.msgpack.Decoder[LogRecord] = msgspec.msgpack.Decoder(LogRecord)


def encode(record: LogRecord) -> bytes:
    return _encoder.encode(record)


class UnwrittenFeed(msgspec.Struct, frozen=True, gc=False):
    """A FeedRecord that has no event_id yet: it gets one when it is written, together with others."""

    request_id: str
    user_id: int
    session_id: str | None
    endpoint: int
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int
    columns: bytes  # from ``items`` on, as encoded_parts gives them


def encoded_parts(columns: Sequence[memoryview]) -> list[bytes | memoryview]:
    """What, joined, encodes a FeedRecord's columns; with the views themselves among it."""
    parts: list[bytes | memoryview] = []
    for column in columns:
        encoded = _encoder.encode(column)
        parts += (encoded[: len(encoded) - column.nbytes], column)
    return parts


def encode_feeds(feeds: Sequence[UnwrittenFeed]) -> list[bytes]:
    """FeedRecords, each with an event_id of its own."""
    event_ids = os.urandom(16 * len(feeds))
    records = []
    for place, feed in enumerate(feeds):
        fields = _encoder.encode(
            (
                _FEED_TAG,
                event_ids[16 * place : 16 * place + 16],
                bytes.fromhex(feed.request_id),
                feed.user_id,
                feed.session_id,
                feed.endpoint,
                feed.happened_ms,
                feed.catalog_version,
                feed.policy_version,
                feed.seed,
            )
        )
        records.append(b"".join((_FEED_ARRAY, fields[1:], feed.columns)))
    return records


def decode(payload: bytes | memoryview) -> LogRecord:
    """Raises msgspec.DecodeError (ValidationError) for what is no record of this release."""
    return _decoder.decode(payload)


def received_ms_of(record: Record) -> int:
    """When it was accepted, in milliseconds since 1970."""
    return record.received_ms if isinstance(record, FeedbackRecord) else record.happened_ms


def kind_name(slot_kind: int) -> str:
    """Name of a FeedbackRecord's slot kind."""
    return KINDS[slot_kind - 1] if slot_kind else "UNKNOWN"


def endpoint_name(endpoint: int) -> str:
    return ENDPOINTS[endpoint]


def now_ms() -> int:
    return time.time_ns() // 1_000_000
