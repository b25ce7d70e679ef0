"""What people did: away from their feeds from now on, and on the disk before anybody is told that it is accepted.

Calls that come while others are being taken are taken together, and each is answered as if it had come alone: an
operation of Redis, a transaction of the memory, a write and a sync cost far more than an event.
"""

import asyncio
import contextlib
import functools
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import structlog

from recommendation_service.core.logging import Seldom
from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import FeedbackRecord, Flag, StreamedRecord, encode
from recommendation_service.log.stream import MOST_TOGETHER, EventStream
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.serving.deeds import Deeds
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.seen_store import Note, SeenStore
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

USERS_AT_ONCE = 32  # whose memories are read, or replaced, in one step
# Of the answer and not of the record: the memory found no room, and the event counts all the same.
NOT_REMEMBERED = ("not_remembered",)
_own_name = attrgetter("own_name")


class NoLog(Exception):
    """This service records no events."""


class HideForgotten(Exception):
    """The memory could not keep what somebody hid: a hide is for ever, so it is not acknowledged."""


class Accepted(msgspec.Struct, frozen=True):
    """What the caller is told."""

    accepted: int
    flagged: list[dict[str, object]]  # event_id and flags of the odd ones


class _Call(msgspec.Struct):
    records: list[FeedbackRecord]
    now: int  # seconds since 1970
    outcome: "asyncio.Future[Accepted]"
    knows_past: bool = False  # what the database has of its users was asked for
    forgotten: Sequence[int] = ()  # places of the records that the memory had no room for
    payloads: Sequence[bytes] = ()

    def fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


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
        self._seldom = Seldom(log)
        self._accepted: dict[str, Any] = {}  # labels are slow to look up
        self._turns: deque[list[_Call]] = deque()  # not yet begun, of which the last may still be joined
        self._events = 0  # of the last
        self._is_taking = False  # a turn
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, read: list[FeedbackRecord], now_ms: int) -> Accepted:
        """Make the events durable. Raises NotReady, NoLog, HideForgotten, LogFull, and OSError where the disk failed;
        then none may be acknowledged."""
        self._serving.check_place()
        if self._event_log is None:
            raise NoLog
        # The first of each counts, and each user has ids of their own.
        unique = {(record.user_id, record.event_id): record for record in reversed(read)}
        records = read if len(unique) == len(read) else [*reversed(unique.values())]
        call = _Call(records, now_ms // 1000, asyncio.get_running_loop().create_future())
        self._join(self._event_log, call)
        return await call.outcome

    def _join(self, event_log: EventLog, call: _Call) -> None:
        if not self._turns or self._events + len(call.records) > MOST_TOGETHER:
            self._turns.append([])
            self._events = 0
        self._turns[-1].append(call)
        self._events += len(call.records)
        if not self._is_taking:
            self._go_on(event_log)

    def _go_on(self, event_log: EventLog) -> None:
        """One turn after the other, however the one before ended: what comes meanwhile is the next one."""
        self._is_taking = bool(self._turns)
        if self._is_taking:
            task = self._begin(self._take_turn(event_log), self._turns[0])
            task.add_done_callback(functools.partial(self._go_on_after, event_log))

    def _go_on_after(self, event_log: EventLog, ended: "asyncio.Future[None]") -> None:
        # A turn may be cancelled before it has begun; and where all is, as its loop closes, nobody waits for any.
        while ended.cancelled() and self._turns and all(call.outcome.done() for call in self._turns[0]):
            self._turns.popleft()
        self._go_on(event_log)

    async def _take_turn(self, event_log: EventLog) -> None:
        await self._take(event_log, self._turns.popleft())

    def _begin(self, work: Coroutine[Any, Any, None], calls: list[_Call]) -> "asyncio.Task[None]":
        """In the loop's next turn."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._end, calls))
        return task

    def _end(self, calls: list[_Call], task: "asyncio.Future[None]") -> None:
        """Nobody goes on waiting where it was cancelled, or failed in a way that nobody thought of."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        for call in calls:
            if task.cancelled():
                call.outcome.cancel()
            elif error is not None:
                call.fail(error)

    async def _take(self, event_log: EventLog, calls: list[_Call]) -> None:
        deeds = self._deeds(calls)
        entries = self._entries(list(deeds.users))
        if late := self._with_a_past(calls, deeds, entries):
            self._begin(self._take_late(event_log, late), late)  # on the database the others are not to wait
            if rest := [call for call in calls if call not in late]:
                await self._take(event_log, rest)
            return
        self._note_on_records(calls, deeds, await self._remember(deeds, entries))
        taken = self._append(event_log, [call for call in calls if self._keeps_hides(call)])
        if taken and await self._make_durable(event_log, taken):
            self._acknowledge(taken)

    def _deeds(self, calls: list[_Call]) -> Deeds:
        records = [record for call in calls for record in call.records]
        return Deeds(records, self._serving.lifetimes, max(call.now for call in calls))

    def _entries(self, users: list[bytes]) -> list[bytes] | None:
        """What is remembered of each here; None where the memory fails."""
        entries: list[bytes] = []
        try:
            for start in range(0, len(users), USERS_AT_ONCE):
                entries += self._store.read_all(users[start : start + USERS_AT_ONCE])
        except MemoryFailed as error:
            self._store.failed(error)
            return None
        return entries

    def _with_a_past(self, calls: list[_Call], deeds: Deeds, entries: list[bytes] | None) -> list[_Call]:
        """Calls of people who are unknown here, and of whom the database may know something."""
        unknown = {key for key, of_user in zip(deeds.users, entries or (), strict=False) if not of_user}
        asked_for = [key for key in unknown if self._store.may_know_more(key)]
        if not asked_for:
            return []
        places = {place for key in asked_for for place in deeds.users[key]}
        late, start = [], 0
        for call in calls:
            end = start + len(call.records)
            if not call.knows_past and not places.isdisjoint(range(start, end)):
                late.append(call)
            start = end
        return late

    async def _take_late(self, event_log: EventLog, calls: list[_Call]) -> None:
        """Once the database has told what it knows of their users, or has taken too long."""
        users = list(self._deeds(calls).users)
        for start in range(0, len(users), USERS_AT_ONCE):
            await asyncio.gather(*map(self._store.recall, users[start : start + USERS_AT_ONCE]))
        for call in calls:
            call.knows_past = True
        await self._take(event_log, calls)

    async def _remember(self, deeds: Deeds, entries: list[bytes] | None) -> set[int]:
        """Keep the items away from feeds from now on; the places of the events with which that failed."""
        if entries is None:
            return {place for places in deeds.users.values() for place in places}
        forgotten: set[int] = set()
        notes = [Note(key, of_user, deeds.after(key)) for key, of_user in zip(deeds.users, entries, strict=True)]
        for start in range(0, len(notes), USERS_AT_ONCE):
            some = notes[start : start + USERS_AT_ONCE]
            for note, is_kept in zip(some, await self._store.note_all(some), strict=True):
                if not is_kept:
                    forgotten.update(deeds.users[note.key])
        return forgotten

    def _note_on_records(self, calls: list[_Call], deeds: Deeds, forgotten: set[int]) -> None:
        """What is odd about each, and the kind of its item's slot."""
        catalog = self._serving.catalog
        flags = deeds.flags(catalog.arrays).tolist() if catalog is not None else [0] * len(deeds.kinds)
        noted = zip(flags, deeds.kinds.tolist(), strict=True)
        start = 0
        for call in calls:
            end = start + len(call.records)
            call.forgotten = [place - start for place in forgotten if start <= place < end] if forgotten else ()
            call.records = [
                msgspec.structs.replace(record, flags=record.flags | new, slot_kind=kind) if new or kind else record
                for record, (new, kind) in zip(call.records, noted, strict=False)
            ]
            start = end

    def _keeps_hides(self, call: _Call) -> bool:
        if not any(call.records[place].event == "hide" for place in call.forgotten):
            return True
        self._metrics.events_refused.inc(len(call.records))
        call.fail(HideForgotten())
        return False

    def _append(self, event_log: EventLog, calls: list[_Call]) -> list[_Call]:
        """In one write; where the log has no room for all, for each call by itself. The calls that found room."""
        if not calls:
            return []
        for call in calls:
            call.payloads = [encode(record) for record in call.records]
        try:
            event_log.append_all([payload for call in calls for payload in call.payloads])
        except LogFull as full:
            if len(calls) == 1:
                self._refuse(calls, full)
                return []
            return [call for one in calls for call in self._append(event_log, [one])]
        return calls

    async def _make_durable(self, event_log: EventLog, calls: list[_Call]) -> bool:
        """On this machine's disk, and on the fleet's stream where Redis takes it; whether they are on the disk."""
        try:
            await event_log.durable()  # first: what is refused must not reach the fleet
        except OSError as error:
            self._refuse(calls, error)
            return False
        if self._stream is not None:
            entry = await self._stream.add([payload for call in calls for payload in call.payloads])
            if entry is not None:
                with contextlib.suppress(LogFull):  # then the entry is flushed twice, and counts once
                    event_log.append(encode(StreamedRecord(entry)))
        return True

    def _acknowledge(self, calls: list[_Call]) -> None:
        for event, count in Counter(_own_name(record) for call in calls for record in call.records).items():
            accepted = self._accepted.get(event)
            if accepted is None:
                accepted = self._accepted[event] = self._metrics.events_accepted.labels(event)
            accepted.inc(count)
        odd: Counter[str] = Counter()
        for call in calls:
            flagged: list[dict[str, Any]] = [
                {"event_id": record.event_id, "flags": flags}
                for place, record in enumerate(call.records)
                if (flags := flag_names(record.flags) + (NOT_REMEMBERED if place in call.forgotten else ()))
            ]
            odd.update(name for entry in flagged for name in entry["flags"])
            if not call.outcome.done():  # else its request was cancelled
                call.outcome.set_result(Accepted(len(call.records), flagged))
        for name, count in odd.items():
            self._metrics.events_flagged.labels(name).inc(count)

    def _refuse(self, calls: list[_Call], error: Exception) -> None:
        for call in calls:
            self._metrics.events_refused.inc(len(call.records))
            call.fail(error)
        self._seldom.error("events are refused", error)


@functools.cache
def flag_names(flags: int) -> tuple[str, ...]:
    return tuple(str(flag.name).lower() for flag in Flag if flags & flag)
