"""The two kinds of records in the event log, as bytes: a feed that was shown, and something that a person did.

A record is MessagePack: an array whose first element names the kind and its version, so that a log written by an
older release is read by a newer one. docs/events.md describes every field.
"""

import os
import time
from collections.abc import Iterator, Sequence
from enum import IntFlag

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.log.names import Short, session_name, short_session, short_version, version_name
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.model.words import EVENT_NAMES, EventName
from recommendation_service.ranking.packed_slots import Slots, pack_as_they_are, unpack_shown, unpack_slots
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED

STATE_OF: dict[EventName, int] = dict.fromkeys(EVENT_NAMES, ACTED)
# What was acted on tells what a person likes: of what was skipped no more is known than that it was looked at.
STATE_OF["impression"], STATE_OF["skip"], STATE_OF["hide"] = IMPRESSED, IMPRESSED, HIDDEN


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
    item_type: int  # index into item_keys.ITEM_TYPES
    item_id: int
    happened_ms: int
    received_ms: int
    request_id: str | None = None
    session_id: str | None = None
    position: int | None = None
    value: float | None = None
    watch_seconds: float | None = None
    slot_kind: int = 0  # 1 + number of the kind of the slot that the item was served in; 0 where not known
    flags: int = 0  # Flag
    # Of an operator whose words are a mapping's; so too of an older release.
    name: str = ""  # the event's own, which means ``event``
    user_text: str = ""  # ids that are text, whose numbers are above
    item_text: str = ""

    @property
    def own_name(self) -> str:
        """The event as its operator calls it."""
        return self.name or self.event


class ShadowRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How likely a policy that did not serve was to fill each slot of a feed as it was filled."""

    policy_version: str
    propensities: bytes  # n float32, little-endian; given the slots before, as those that were served

    def values(self) -> npt.NDArray[np.float32]:
        """(n,)."""
        return np.frombuffer(self.propensities, "<f4")


class FeedRecord(msgspec.Struct, array_like=True, tag="feed2", frozen=True, gc=False):
    """A feed: what determined it, and its slots. The log has it as a ``_ShortFeedRecord``."""

    event_id: bytes  # 16 bytes, 8 of them random
    request_id: bytes  # 16 bytes; its hexadecimal digits are the request_id of the answer
    user_id: int
    session_id: str | None
    endpoint: int | str  # feed_code of the feed
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int  # 63 bits: with the versions and the user's memory, it gives the feed again
    packed: bytes  # the slots, see packed_slots.py
    shadows: tuple[ShadowRecord, ...] = ()  # of an older release, and without any, it ends before them
    personal: bool = True  # so too; False: made without any fact of the user, and nothing is to be learned from it
    arm: str = ""  # so too; EXPERIMENT:ARM by which it was made
    user_text: str = ""  # so too; the id of the user where that is text

    @property
    def size(self) -> int:
        """How many slots."""
        return self.packed[0] if self.packed else 0

    def slots(self) -> Slots:
        """Raises ValueError for what no feed was packed into."""
        return unpack_slots(self.packed)

    def shown(self) -> Iterator[tuple[int, int]]:
        """Key of the item and kind of each slot. Raises ValueError."""
        items, kinds, _ = unpack_shown(self.packed)
        return zip(items, kinds, strict=True)


class _ShortFeedRecord(msgspec.Struct, array_like=True, tag="feed3", frozen=True, gc=False):
    """As the log has it."""

    random: bytes  # 8; with as many of the request's the event_id
    request_id: bytes
    user_id: int
    session_id: Short | None  # names.py, as are the versions
    endpoint: int | str
    happened_ms: int
    catalog_version: Short
    policy_version: Short
    seed: int
    packed: bytes
    shadows: tuple[tuple[Short, bytes], ...] = ()
    personal: bool = True
    arm: str = ""
    user_text: str = ""

    def in_full(self) -> FeedRecord:
        """Raises ValueError for names that are none."""
        return FeedRecord(
            self.random + self.request_id[:8],
            self.request_id,
            self.user_id,
            session_name(self.session_id),
            self.endpoint,
            self.happened_ms,
            version_name(self.catalog_version),
            version_name(self.policy_version),
            self.seed,
            self.packed,
            tuple(ShadowRecord(version_name(version), propensities) for version, propensities in self.shadows),
            self.personal,
            self.arm,
            self.user_text,
        )


class _OlderFeedRecord(msgspec.Struct, array_like=True, tag="feed1", frozen=True, gc=False):
    """As older releases wrote it: the slots are columns of n slots, little-endian."""

    event_id: bytes
    request_id: bytes
    user_id: int
    session_id: str | None
    endpoint: int
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int
    items: bytes  # n int64: keys (model/item_keys.py)
    kinds: bytes  # n uint8
    pools: bytes  # n uint8
    relaxed: bytes  # n uint8
    propensities: bytes  # n float64
    features: bytes  # (n, 18) float32

    def in_full(self) -> FeedRecord:
        """Raises ValueError for columns that do not fit together."""
        slots = Slots(
            np.frombuffer(self.items, "<i8"),
            np.frombuffer(self.kinds, np.uint8),
            np.frombuffer(self.pools, np.uint8),
            np.frombuffer(self.relaxed, np.uint8),
            np.frombuffer(self.propensities, "<f8").astype(np.float32),
            np.frombuffer(self.features, "<f4").reshape(-1, 18),
        )
        if {len(column) for column in slots} != {len(slots.items)}:
            raise ValueError("the columns of the feed's slots are not of one length")
        return FeedRecord(
            self.event_id,
            self.request_id,
            self.user_id,
            self.session_id,
            self.endpoint,
            self.happened_ms,
            self.catalog_version,
            self.policy_version,
            self.seed,
            pack_as_they_are(slots),
        )


class StreamedRecord(msgspec.Struct, array_like=True, tag="stream1", frozen=True, gc=False):
    """Feedback before it, of calls that came together, is on the fleet's stream too (stream.py), under this entry."""

    entry_id: bytes


Record = FeedbackRecord | FeedRecord
LogRecord = Record | StreamedRecord

_encoder = msgspec.msgpack.Encoder()
_encode = _encoder.encode
_FEED_TAG = _ShortFeedRecord.__struct_config__.tag
_AnyRecord = LogRecord | _ShortFeedRecord | _OlderFeedRecord
_decoder: msgspec.msgpack.Decoder[_AnyRecord] = msgspec.msgpack.Decoder(_AnyRecord)


def encode(record: LogRecord) -> bytes:
    return _encoder.encode(record)


class UnwrittenFeed(msgspec.Struct, frozen=True, gc=False):
    """A FeedRecord that has no event_id yet: it gets one when it is written, together with others."""

    request_id: str
    user_id: int
    session_id: str | None
    endpoint: int | str
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int
    packed: bytes
    shadows: Sequence[tuple[str, bytes]] = ()  # what a ShadowRecord holds
    personal: bool = True
    arm: str = ""
    user_text: str = ""


def encode_feeds(feeds: Sequence[UnwrittenFeed]) -> list[bytes]:
    """FeedRecords, each with an event_id of its own."""
    random = os.urandom(8 * len(feeds))
    records = []
    for place, feed in enumerate(feeds):
        seldom = _seldom(feed)
        usual = (
            _FEED_TAG,
            random[8 * place : 8 * place + 8],
            bytes.fromhex(feed.request_id),
            feed.user_id,
            short_session(feed.session_id),
            feed.endpoint,
            feed.happened_ms,
            short_version(feed.catalog_version),
            short_version(feed.policy_version),
            feed.seed,
            feed.packed,
        )
        records.append(_encode(usual + seldom if seldom else usual))
    return records


def _seldom(feed: UnwrittenFeed) -> tuple[object, ...]:
    """What most feeds have none of, without those at the end that this one has none of."""
    if feed.user_text:
        return _short(feed.shadows), feed.personal, feed.arm, feed.user_text
    if feed.arm:
        return _short(feed.shadows), feed.personal, feed.arm
    if not feed.personal:
        return _short(feed.shadows), feed.personal
    return (_short(feed.shadows),) if feed.shadows else ()


def _short(shadows: Sequence[tuple[str, bytes]]) -> list[tuple[Short, bytes]]:
    return [(short_version(version), propensities) for version, propensities in shadows]


def decode(payload: bytes | memoryview) -> LogRecord:
    """Raises msgspec.DecodeError (ValidationError) for what is no record of this release, nor of one before."""
    record = _decoder.decode(payload)
    if not isinstance(record, _ShortFeedRecord | _OlderFeedRecord):
        return record
    try:
        return record.in_full()
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from None


def received_ms_of(record: Record) -> int:
    """When it was accepted, in milliseconds since 1970."""
    return record.received_ms if isinstance(record, FeedbackRecord) else record.happened_ms


def endpoint_name(endpoint: int | str) -> str:
    return endpoint if isinstance(endpoint, str) else ENDPOINTS[endpoint]


def now_ms() -> int:
    return time.time_ns() // 1_000_000
