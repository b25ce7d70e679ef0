"""What users have seen, to a request: read it, make a feed, commit the feed. While one is made another worker or
machine may serve the same user; then nothing is committed, and the feed is to be made again.

Whether there is a memory, and whether it is this machine's alone or the fleet's as well (fleet_store.py), no request
has to know. Nothing is raised: where the memory fails, a feed is made and recorded all the same, and that is counted.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from recommendation_service.core.logging import Seldom
from recommendation_service.log.records import UnwrittenFeed
from recommendation_service.memory.answers import Asked, StoredAnswer
from recommendation_service.memory.changes import Change
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_entries import MARK_BYTES, Stored, has_mark
from recommendation_service.memory.user_memory import MemoryFailed, NoRoomForAnswer
from recommendation_service.serving.group_commit import ATTEMPTS, NOTHING_STORED, GroupCommit
from recommendation_service.serving.past import Past
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

NOBODY = b"nobody"  # the key under which nothing is remembered

After = Callable[[bytes], bytes]  # a user's entries as they are, and as they are after what the user did


class Note(msgspec.Struct, frozen=True, gc=False):
    """What is to be remembered of what a user did."""

    key: bytes
    entries: bytes  # of the user, as ``read_all`` gave them
    after: After  # may be asked more than once


class OtherRequest(Exception):
    """The Idempotency-Key stands for a request that asked something else."""


class MadeFeed(msgspec.Struct, frozen=True, gc=False):
    """A feed that may yet be thrown away."""

    body: bytes
    shown: bytes  # keys of its items, int64
    entries: bytes  # what is to be remembered of its user; of a feed by a summary, what is since that
    record: UnwrittenFeed | None  # where feeds are recorded
    summary: bytes = b""  # of what was read of the user, where that has settled


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the client gets."""

    body: bytes
    kept: bool = False  # the same Idempotency-Key gives it again
    repeated: bool = False  # it was given before


class Visit(Protocol):
    """One request's, from its first question to its commit."""

    async def answer(self) -> Answer | None:
        """What was answered before under the request's Idempotency-Key. Raises OtherRequest."""

    async def read(self) -> Stored:
        """The user's entries, as ranking/seen.py says; of one who scrolls on, the last ones and a summary."""

    async def read_whole(self) -> bytes:
        """All of the user's entries."""

    async def commit(self, feed: MadeFeed) -> Answer | None:
        """Remember what is about to be shown, keep the answer, and record the feed. None: somebody has served the
        user since ``read``, and nothing was done. Raises OtherRequest."""


class Forgotten(msgspec.Struct, frozen=True):
    """What there was of a user."""

    removed: dict[str, object]  # as the administrator is told
    failed: MemoryFailed | None = None


class SeenStore(Protocol):
    """One worker's."""

    def visit(self, user_id: int, session: int, asked: Asked | None) -> Visit: ...

    def peek(self, user_id: int, session: int) -> bytes:
        """What this machine remembers of a user, and nothing else is done. Raises MemoryFailed."""

    async def elsewhere(self, key: bytes) -> bytes | None:
        """What the fleet remembers of a user; None: there is no fleet, or it does not answer."""

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """What this machine remembers of users. Raises MemoryFailed."""

    def may_know_more(self, key: bytes) -> bool:
        """Whether the database may know something of a user of whom nothing was read."""

    async def recall(self, key: bytes) -> None:
        """Have that remembered here, where it comes in time."""

    async def note_all(self, notes: Sequence[Note]) -> list[bool]:
        """Remember what users did, each of whom is in one note; of each whether that can be."""

    def failed(self, error: MemoryFailed) -> None:
        """Count and log it."""

    async def forget(self, key: bytes) -> Forgotten: ...


class NoStore:
    """Nobody is remembered, as without SEEN_STATE: a feed is recorded, and all visits are one."""

    def __init__(self, group: GroupCommit) -> None:
        self._group = group

    def visit(self, _user_id: int, _session: int, _asked: Asked | None) -> Visit:
        return self

    async def answer(self) -> Answer | None:
        return None

    async def read(self) -> Stored:
        return NOTHING_STORED

    async def read_whole(self) -> bytes:
        return b""

    async def commit(self, feed: MadeFeed) -> Answer | None:
        if feed.record is not None:
            await self._group.write(None, feed.record)
        return Answer(feed.body)

    def peek(self, _user_id: int, _session: int) -> bytes:
        return b""

    async def elsewhere(self, _key: bytes) -> bytes | None:
        return None

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        return [b""] * len(keys)

    def may_know_more(self, _key: bytes) -> bool:
        return False

    async def recall(self, _key: bytes) -> None:
        return

    async def note_all(self, notes: Sequence[Note]) -> list[bool]:
        return [True] * len(notes)

    def failed(self, _error: MemoryFailed) -> None:
        return

    async def forget(self, _key: bytes) -> Forgotten:
        return Forgotten({"remembered_items": 0})


class MachineStore:
    """The memory of this machine, for all its workers."""

    def __init__(self, group: GroupCommit, past: Past, metrics: Metrics) -> None:
        self.group = group
        self.past = past
        self._metrics = metrics
        self._nobody = NoStore(group)
        self._seldom = Seldom(log)

    def visit(self, user_id: int, session: int, asked: Asked | None) -> Visit:
        key = user_key(user_id, session)
        if key is None and asked is None:
            return self._nobody
        return MachineVisit(self, key or NOBODY, asked)

    def peek(self, user_id: int, session: int) -> bytes:
        key = user_key(user_id, session)
        if key is None:
            return b""
        if self.group.memory is None:
            raise _no_memory()
        return self.group.read(key)

    async def elsewhere(self, _key: bytes) -> bytes | None:
        return None

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        if self.group.memory is None:
            raise _no_memory()
        return self.group.read_all(keys)

    def may_know_more(self, key: bytes) -> bool:
        return self.past.may_know(key)

    async def recall(self, key: bytes) -> None:
        await self.past.recall(key)

    async def note_all(self, notes: Sequence[Note]) -> list[bool]:
        writes = [
            self.group.write(Change(note.key, note.entries, note.after(note.entries), is_deed=True), None)
            for note in notes
        ]
        return [await self._noted(note, write) for note, write in zip(notes, writes, strict=True)]

    async def _noted(self, note: Note, write: "asyncio.Future[StoredAnswer | bool]") -> bool:
        try:
            if not await write:  # somebody else has changed what is remembered of the user
                await self.put(note.key, note.after)
        except MemoryFailed as error:
            self.failed(error)
            return False
        return True

    async def forget(self, key: bytes) -> Forgotten:
        self.past.forget(key)
        try:
            if self.group.memory is None:
                raise MemoryFailed("the memory cannot be opened")
            return Forgotten({"remembered_items": self.group.memory.forget(key)})
        except MemoryFailed as error:  # the rest is removed all the same
            return Forgotten({"remembered_items": 0}, error)

    async def read(self, key: bytes, elsewhere: bytes) -> bytes:
        """The user's entries here, with what the database knows of one of whom nothing is known, here or ``elsewhere``.

        Raises MemoryFailed.
        """
        if self.group.memory is None:
            raise _no_memory()
        ours = self.group.read(key)
        if not ours and not elsewhere and await self.past.recall(key):
            ours = self.group.read(key)
        return ours

    async def put(self, key: bytes, after: After) -> None:
        """Raises MemoryFailed."""
        for _ in range(ATTEMPTS):
            ours = self.group.read(key)
            if await self.group.write(Change(key, ours, after(ours), is_deed=True), None):
                return
        raise others_at_each_attempt()

    def failed(self, error: MemoryFailed) -> None:
        self._metrics.memory_failures.inc()
        self._seldom.error("what users have seen cannot be remembered", error)


class MachineVisit:
    """A request's dealings with the memory of this machine."""

    __slots__ = ("_asked", "_attempts", "_has_room", "_key", "_store", "is_lost", "ours")

    def __init__(self, store: MachineStore, key: bytes, asked: Asked | None) -> None:
        self._store = store
        self._key = key
        self._asked = asked
        self._attempts = 0
        self._has_room = True  # for the answer
        self.ours = b""  # the entries that were read, or the value that is stored
        self.is_lost = False  # the memory failed: the feed is made without

    async def answer(self) -> Answer | None:
        asked, memory = self._asked, self._store.group.memory
        if asked is None or memory is None:
            return None
        try:
            stored = memory.answer(asked.name)
        except MemoryFailed as error:
            self._store.failed(error)
            return None
        return given_again(stored, asked) if stored is not None else None

    async def read(self) -> Stored:
        try:
            stored = self._store.group.stored(self._key)
        except MemoryFailed as error:
            return Stored(self._lost(error))
        if not stored.value:
            return Stored(await self.read_whole())
        self.ours = stored.value
        return stored

    async def read_whole(self, elsewhere: bytes = b"") -> bytes:
        """``elsewhere``: what another memory has of the user."""
        try:
            self.ours = await self._store.read(self._key, elsewhere)
        except MemoryFailed as error:
            return self._lost(error)
        return self.ours

    def _lost(self, error: MemoryFailed) -> bytes:
        self._store.failed(error)
        self.is_lost = True
        return b""

    async def commit(self, feed: MadeFeed) -> Answer | None:
        if self.is_lost:
            return await self.give_up(feed)
        try:
            outcome = await self._store.group.write(self._change(feed), feed.record)
        except NoRoomForAnswer as error:
            self._store.failed(error)
            self._has_room = False
            return await self.commit(feed)
        except MemoryFailed as error:  # what was read counts all the same
            return await self.give_up(feed, error)
        if outcome is True:
            return Answer(feed.body, self._asked is not None and self._has_room)
        return await self.refused(feed, outcome)

    def _change(self, feed: MadeFeed) -> Change:
        new, summary, ours = self.after(feed), feed.summary, self.ours
        if summary and ours and new.startswith(ours):
            new = new[len(ours) :]
        else:
            summary = b""
        return Change(self._key, ours, new, self.to_keep(feed), summary=summary)

    def after(self, feed: MadeFeed) -> bytes:
        if self._key is NOBODY:
            return self.ours
        return self.ours[:MARK_BYTES] + feed.entries if has_mark(self.ours) else feed.entries

    def to_keep(self, feed: MadeFeed) -> tuple[bytes, StoredAnswer] | None:
        """The answer, under its name."""
        asked = self._asked
        if asked is None or not self._has_room:
            return None
        return asked.name, StoredAnswer(asked.request, feed.body)

    async def refused(self, feed: MadeFeed, outcome: StoredAnswer | bool) -> Answer | None:
        """What there is instead of the feed. ``outcome``: as UserMemory.replace gives it, and not True."""
        if isinstance(outcome, StoredAnswer) and self._asked is not None:
            return given_again(outcome, self._asked)
        self._attempts += 1
        return await self.give_up(feed, others_at_each_attempt()) if self._attempts == ATTEMPTS else None

    async def give_up(self, feed: MadeFeed, error: MemoryFailed | None = None) -> Answer:
        """The feed is shown and recorded, and not remembered."""
        if error is not None:
            self._store.failed(error)
        if feed.record is not None:
            await self._store.group.write(None, feed.record)
        return Answer(feed.body)


def given_again(stored: StoredAnswer, asked: Asked) -> Answer:
    """Raises OtherRequest."""
    if stored.request != asked.request:
        raise OtherRequest
    return Answer(stored.body, kept=True, repeated=True)


def _no_memory() -> MemoryFailed:
    return MemoryFailed("there is no memory of what users have seen")


def others_at_each_attempt() -> MemoryFailed:
    return MemoryFailed("others changed what the user has seen at each attempt")
