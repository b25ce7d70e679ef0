"""What people did: away from their feeds from now on, and on the disk before anybody is told that it is accepted."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import structlog

from recommendation_service.core.logging import Seldom
from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import STATE_OF, FeedbackRecord, Flag, StreamedRecord, encode
from recommendation_service.log.stream import EventStream
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.model.columns import rows_of
from recommendation_service.model.item_keys import CREATOR, item_key
from recommendation_service.ranking.places import find
from recommendation_service.ranking.seen import (
    remember_events,
    session_number,
)
from recommendation_service.ranking.working_memory import LIVE_SESSIONS, SEEN_CAPACITY
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.seen_store import SeenStore
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

USERS_AT_ONCE = 16  # of one call, whose memories are read and replaced side by side
# Of the answer and not of the record: the memory found no room, and the event counts all the same.
NOT_REMEMBERED = ("not_remembered",)
UNKNOWN_ITEM, UNKNOWN_USER = int(Flag.UNKNOWN_ITEM), int(Flag.UNKNOWN_USER)  # sums of enums are slow


class NoLog(Exception):
    """This service records no events."""


class HideForgotten(Exception):
    """The memory could not keep what somebody hid: a hide is for ever, so it is not acknowledged."""


class Accepted(msgspec.Struct, frozen=True):
    """What the caller is told."""

    accepted: int
    flagged: list[dict[str, object]]  # event_id and flags of the odd ones


class Feedback:
    """One worker's. ``event_log``: None where no events are recorded; ``stream``: None without Redis."""

    def __init__(
        self,
        serving: Serving,
        store: SeenStore,
        event_log: EventLog | None,
        stream: EventStream | None,
        metrics: Metrics,
    ) -> None:
        self._serving = serving
        self._store = store
        self._event_log = event_log
        self._stream = stream
        self._metrics = metrics
        self._lifetimes = np.array(serving.lifetimes, np.int64)
        self._live = np.zeros(LIVE_SESSIONS, np.int64)
        self._seldom = Seldom(log)
        self._accepted: dict[str, Any] = {}  # labels are slow to look up

    async def accept(self, read: list[FeedbackRecord], now_ms: int) -> Accepted:
        """Make the events durable. Raises NotReady, NoLog, HideForgotten, LogFull, and OSError where the disk failed;
        then none may be acknowledged."""
        self._serving.check_place()
        if self._event_log is None:
            raise NoLog
        # The first of each counts, and each user has ids of their own.
        unique = {(record.user_id, record.event_id): record for record in reversed(read)}
        records = self._flagged([*reversed(unique.values())])
        kinds, forgotten = await self._remember(records, now_ms // 1000)
        self._check_hides(records, forgotten)
        payloads = [
            encode(msgspec.structs.replace(record, slot_kind=kind) if kind else record)
            for record, kind in zip(records, kinds, strict=True)
        ]
        try:
            self._event_log.append_all(payloads)
        except LogFull as full:
            self._refuse(len(records), full)
            raise
        try:
            if self._stream is None:
                await self._event_log.durable()
            else:
                await self._durable_twice(self._event_log, self._stream, payloads)
        except OSError as error:
            self._refuse(len(records), error)
            raise
        for event, count in Counter(record.own_name for record in records).items():
            accepted = self._accepted.get(event)
            if accepted is None:
                accepted = self._accepted[event] = self._metrics.events_accepted.labels(event)
            accepted.inc(count)
        flagged: list[dict[str, Any]] = [
            {"event_id": record.event_id, "flags": flags}
            for place, record in enumerate(records)
            if (flags := flag_names(record.flags) + (NOT_REMEMBERED if place in forgotten else ()))
        ]
        for name, count in Counter(name for entry in flagged for name in entry["flags"]).items():
            self._metrics.events_flagged.labels(name).inc(count)
        return Accepted(len(records), flagged)

    def _check_hides(self, records: list[FeedbackRecord], forgotten: set[int]) -> None:
        """Raises HideForgotten."""
        if any(records[place].event == "hide" for place in forgotten):
            self._metrics.events_refused.inc(len(records))
            raise HideForgotten

    async def _durable_twice(self, event_log: EventLog, stream: EventStream, payloads: list[bytes]) -> None:
        """On this machine's disk, and on the fleet's stream where Redis takes it."""
        await event_log.durable()  # first: what is refused must not reach the fleet
        entry = await stream.add(payloads)
        if entry is not None:
            with contextlib.suppress(LogFull):  # then the entry is flushed twice, and counts once
                event_log.append(encode(StreamedRecord(entry)))

    def _flagged(self, records: list[FeedbackRecord]) -> list[FeedbackRecord]:
        """With what is unknown here noted: it may have left the catalog, or not have come into it yet."""
        catalog = self._serving.catalog
        if catalog is None:
            return records
        arrays = catalog.arrays
        # Mostly all are of one user.
        users = {record.user_id for record in records if record.user_id}
        strangers = {user for user in users if find(arrays.user_id, user, 0, len(arrays.user_id)) < 0}
        flagged = []
        for record in records:
            if record.item_type == CREATOR:
                place = find(arrays.creator_id, record.item_id, 0, len(arrays.creator_id))
            else:
                place = find(arrays.item_id, record.item_id, *rows_of(arrays, record.item_type))
            flags = record.flags
            if place < 0:
                flags |= UNKNOWN_ITEM
            if record.user_id in strangers:
                flags |= UNKNOWN_USER
            flagged.append(record if flags == record.flags else msgspec.structs.replace(record, flags=flags))
        return flagged

    async def _remember(self, records: list[FeedbackRecord], now: int) -> tuple[list[int], set[int]]:
        """Keep the items away from feeds from now on; the kinds of the slots that they were served in (0: not known),
        and the places of the records with which that failed."""
        kinds = [0] * len(records)
        forgotten: set[int] = set()
        users = list(_by_user(records).items())
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            remembered = [self._remember_user(key, [records[p] for p in places], now) for key, places in some]
            # Mostly there is one, who needs no task.
            found: Sequence[list[int] | None] = (
                [await remembered[0]] if len(remembered) == 1 else await asyncio.gather(*remembered)
            )
            for (_, places), of_user in zip(some, found, strict=True):
                if of_user is None:
                    forgotten.update(places)
                    continue
                for place, kind in zip(places, of_user, strict=True):
                    kinds[place] = kind
        return kinds, forgotten

    async def _remember_user(self, key: bytes, records: list[FeedbackRecord], now: int) -> list[int] | None:
        """Kinds of the slots; None: it cannot be remembered."""
        count = len(records)
        keys = np.array([item_key(record.item_type, record.item_id) for record in records], np.int64)
        states = np.array([STATE_OF[record.event] for record in records], np.uint8)
        sessions = np.array([session_number(record.session_id) for record in records], np.int32)
        kinds = np.zeros(count, np.uint8)
        out = np.empty((SEEN_CAPACITY + count, 2), np.int64)

        last: tuple[bytes, bytes] | None = None  # mostly the fleet has what is here; kinds are those of the last call

        def after(known: bytes) -> bytes:
            nonlocal last
            if last is None or last[0] != known:
                entries = as_entries(known).copy()  # a copy: the kernel is compiled for what may be written
                size = remember_events(
                    entries, len(entries), keys, states, sessions, kinds, now, self._lifetimes, self._live, out
                )
                last = known, out[:size].tobytes()
            return last[1]

        if not await self._store.note(key, after):
            return None
        return [int(kind) for kind in kinds]

    def _refuse(self, count: int, error: Exception) -> None:
        self._metrics.events_refused.inc(count)
        self._seldom.error("events are refused", error)


@functools.cache
def flag_names(flags: int) -> tuple[str, ...]:
    return tuple(str(flag.name).lower() for flag in Flag if flags & flag)


def _by_user(records: Iterable[FeedbackRecord]) -> dict[bytes, list[int]]:
    """Places of the records of each requester who can be remembered."""
    places: dict[bytes, list[int]] = {}
    for place, record in enumerate(records):
        if key := user_key(record.user_id, session_number(record.session_id)):
            places.setdefault(key, []).append(place)
    return places
