"""What the requests of one turn of a worker's event loop write, together: one transaction of the users' memory and one
append to the event log, however many they are.

A request waits until its part is written, so what it answers is as safe as if it had written alone: the memory knows
what was shown, and the log has it, before anybody sees it. Under load a turn has many requests, and what a transaction
and a system call cost is shared by them; a request that is alone is written at the next turn.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import msgspec

from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import UnwrittenFeed, encode_feeds
from recommendation_service.memory.answers import StoredAnswer
from recommendation_service.memory.changes import Change
from recommendation_service.memory.user_entries import Stored, has_mark
from recommendation_service.memory.user_memory import MemoryFailed, PagesHeld, UserMemory

RECORDS_AT_ONCE = 64  # of the largest feeds, these are a tenth of a segment
# A request whose change is refused, as somebody else made one meanwhile, tries again so often. Of workers that serve
# one user at once, one succeeds at each turn.
ATTEMPTS = 128
# A process that is halted while it reads holds the pages that gave way since. So long a request waits for it, looking
# again and again; after one that waited in vain the next ones wait no more for a while.
HELD_SECONDS, HELD_LOOK_SECONDS, HELD_IN_VAIN_SECONDS = 0.5, 0.01, 5.0
NOTHING_STORED = Stored(b"")


class _Waiting(msgspec.Struct):
    change: Change | None
    feed: UnwrittenFeed | None
    outcome: asyncio.Future[StoredAnswer | bool]
    until: float = 0.0  # of time.monotonic(), where it waits for pages that are held


class GroupCommit:
    """One worker's; its methods are called on one event loop."""

    def __init__(
        self,
        memory: Callable[[], UserMemory | None],
        event_log: EventLog | None,
        unrecorded: Callable[[LogFull, int], None],
    ) -> None:
        """``memory``: as it is now, None while there is none. ``unrecorded`` is told why how many records found no
        room in the log."""
        self._memory = memory
        self._event_log = event_log
        self._unrecorded = unrecorded
        self._loop: asyncio.AbstractEventLoop  # from the first write on
        self._waiting: list[_Waiting] = []
        self._waits_again = 0.0  # of time.monotonic(): until then nobody waits for pages that are held
        self._pending: dict[bytes, Change] = {}  # what is written of each user with this turn

    @property
    def memory(self) -> UserMemory | None:
        return self._memory()

    def read(self, key: bytes) -> bytes:
        """The user's entries, with what this worker is about to write. Raises MemoryFailed."""
        memory, pending = self._memory(), self._pending.get(key)
        if pending is not None:
            return _after(pending, memory)
        return memory.read(key) if memory is not None else b""

    def stored(self, key: bytes) -> Stored:
        """The same as a feed takes them. Raises MemoryFailed."""
        if key in self._pending:
            return Stored(self.read(key))
        memory = self._memory()
        return memory.stored(key) if memory is not None else NOTHING_STORED

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """``read`` of several. Raises MemoryFailed."""
        memory = self._memory()
        stored = memory.read_all(keys) if memory is not None else [b""] * len(keys)
        return [
            _after(self._pending[key], memory) if key in self._pending else of_user
            for key, of_user in zip(keys, stored, strict=True)
        ]

    def write(self, change: Change | None, feed: UnwrittenFeed | None) -> "asyncio.Future[StoredAnswer | bool]":
        """Change the memory (None: nothing) as UserMemory.replace does, and where that was done, record the feed
        (None: nothing) in the log. To be awaited. Raises MemoryFailed, and then nothing was recorded."""
        if not self._waiting:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._commit)
        outcome: asyncio.Future[StoredAnswer | bool] = self._loop.create_future()
        self._waiting.append(_Waiting(change, feed, outcome))
        if change is not None:
            self._pending[change.key] = change
        return outcome

    def _commit(self) -> None:
        """At the end of the turn."""
        waiting, self._waiting, self._pending = self._waiting, [], {}
        try:
            outcomes = self._write(waiting)
        except BaseException as error:
            for each in waiting:
                if not each.outcome.done():
                    each.outcome.set_exception(error)
            raise
        held: list[_Waiting] = []
        for each, outcome in zip(waiting, outcomes, strict=True):
            if each.outcome.done():
                continue  # its request was cancelled
            if not isinstance(outcome, MemoryFailed):
                each.outcome.set_result(outcome)
            elif isinstance(outcome, PagesHeld) and self._may_wait(each):
                held.append(each)
            else:
                each.outcome.set_exception(outcome)
        if held:
            self._loop.call_later(HELD_LOOK_SECONDS, self._try_again, held)

    def _may_wait(self, each: _Waiting) -> bool:
        """For pages that are held."""
        now = time.monotonic()
        if not each.until:
            if now < self._waits_again:
                return False
            each.until = now + HELD_SECONDS
        if now < each.until:
            return True
        self._waits_again = now + HELD_IN_VAIN_SECONDS
        return False

    def _try_again(self, held: list[_Waiting]) -> None:
        nobody_waits = not self._waiting
        self._waiting[:0] = [each for each in held if not each.outcome.done()]
        if nobody_waits:
            self._commit()  # at once: until the next turn one of them might be cancelled, and be written all the same

    def _write(self, waiting: list[_Waiting]) -> list[StoredAnswer | bool | MemoryFailed]:
        """The memory first: only what was shown belongs into the log. By then the records are ready, as a process that
        is killed in between leaves what was shown without its record."""
        changes = [each.change for each in waiting if each.change is not None]
        feeds = [each.feed for each in waiting if each.feed is not None]
        records = encode_feeds(feeds) if self._event_log is not None else []
        replaced = iter(self._replace(changes))
        outcomes = [True if each.change is None else next(replaced) for each in waiting]
        shown = [outcome is True for each, outcome in zip(waiting, outcomes, strict=True) if each.feed is not None]
        if self._event_log is not None:
            self._record(self._event_log, list(itertools.compress(records, shown)))
        return outcomes

    def _replace(self, changes: list[Change]) -> list[StoredAnswer | bool | MemoryFailed]:
        memory = self._memory()
        if memory is None:
            return [MemoryFailed("there is no memory")] * len(changes)
        return memory.replace_all(changes) if changes else []

    def _record(self, event_log: EventLog, records: list[bytes]) -> None:
        for start in range(0, len(records), RECORDS_AT_ONCE):
            some = records[start : start + RECORDS_AT_ONCE]
            try:
                event_log.append_if_roomy(some)
            except LogFull as full:
                self._unrecorded(full, len(some))


def _after(change: Change, memory: UserMemory | None) -> bytes:
    """All of a user's entries as they are once it is written. Raises MemoryFailed."""
    value = change.old + change.new if change.summary else change.new
    return memory.whole(change.key, value) if has_mark(value) and memory is not None else value
