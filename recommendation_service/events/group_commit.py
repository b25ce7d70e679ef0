"""What the requests of one turn of a worker's event loop read and write, together: one look at the users' memory, one
transaction that changes it, and one append to the event log, however many they are.

A request waits until its part is written, so what it answers is as safe as if it had written alone: the memory knows
what was shown, and the log has it, before anybody sees it. Under load a turn has many requests, and what a transaction
and a system call cost is shared by them; a request that is alone is written at the next turn.
"""

import asyncio
from collections.abc import Callable

import msgspec

from recommendation_service.events.answers import StoredAnswer
from recommendation_service.events.log import EventLog, LogFull
from recommendation_service.events.records import UnwrittenFeed, encode_feeds
from recommendation_service.events.user_memory import Change, MemoryFailed, Snapshot, UserMemory

RECORDS_AT_ONCE = 64  # of the largest feeds, these are a tenth of a segment


class _Waiting(msgspec.Struct, frozen=True):
    change: Change | None
    feed: UnwrittenFeed | None
    outcome: asyncio.Future[StoredAnswer | bool]


class GroupCommit:
    """One worker's; its methods are called on one event loop."""

    def __init__(
        self, memory: UserMemory | None, event_log: EventLog | None, unrecorded: Callable[[LogFull, int], None]
    ) -> None:
        """``unrecorded`` is told why how many records found no room in the log."""
        self.memory = memory
        self._event_log = event_log
        self._unrecorded = unrecorded
        self._ends = False  # whether the end of the turn is about to be called
        self._snapshot: Snapshot | None = None
        self._waiting: list[_Waiting] = []
        self.records = event_log is not None
        self._pending: dict[bytes, bytes] = {}  # the users' entries as they are once the turn is written

    def read(self, key: bytes) -> bytes:
        """The user's entries as they were when the turn began, with what this worker is about to write.

        Raises MemoryFailed.
        """
        pending = self._pending.get(key)
        if pending is not None:
            return pending
        if self._snapshot is None:
            if self.memory is None:
                return b""
            self._snapshot = self.memory.snapshot()
            self._end_turn_soon()
        return self._snapshot.read(key)

    def write(self, change: Change | None, feed: UnwrittenFeed | None) -> "asyncio.Future[StoredAnswer | bool]":
        """Change the memory (None: nothing) as UserMemory.replace does, and where that was done, record the feed
        (None: nothing) in the log. To be awaited. Raises MemoryFailed, and then nothing was recorded."""
        outcome: asyncio.Future[StoredAnswer | bool] = asyncio.get_running_loop().create_future()
        self._end_turn_soon()
        self._waiting.append(_Waiting(change, feed, outcome))
        if change is not None:
            self._pending[change.key] = change.new
        return outcome

    def _end_turn_soon(self) -> None:
        if not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._ends = False
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
        if self._waiting:
            self._commit()

    def _commit(self) -> None:
        waiting, self._waiting, self._pending = self._waiting, [], {}
        try:
            outcomes = self._write(waiting)
        except BaseException as error:
            for each in waiting:
                if not each.outcome.done():
                    each.outcome.set_exception(error)
            raise
        for each, outcome in zip(waiting, outcomes, strict=True):
            if each.outcome.done():
                continue  # its request was cancelled
            if isinstance(outcome, MemoryFailed):
                each.outcome.set_exception(outcome)
            else:
                each.outcome.set_result(outcome)

    def _write(self, waiting: list[_Waiting]) -> list[StoredAnswer | bool | MemoryFailed]:
        """The memory first: only what was shown belongs into the log."""
        changes = [each.change for each in waiting if each.change is not None]
        replaced = iter(self.memory.replace_all(changes) if self.memory is not None and changes else ())
        outcomes = [True if each.change is None else next(replaced) for each in waiting]
        if self._event_log is not None:
            feeds = [
                each.feed
                for each, outcome in zip(waiting, outcomes, strict=True)
                if outcome is True and each.feed is not None
            ]
            for start in range(0, len(feeds), RECORDS_AT_ONCE):
                self._record(self._event_log, feeds[start : start + RECORDS_AT_ONCE])
        return outcomes

    def _record(self, event_log: EventLog, feeds: list[UnwrittenFeed]) -> None:
        try:
            event_log.append_if_roomy(encode_feeds(feeds))
        except LogFull as full:
            self._unrecorded(full, len(feeds))
