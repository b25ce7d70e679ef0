"""What users have seen, to a request, where there is a fleet: this machine's memory and the fleet's in Redis, as one.

This machine's comes first: it sees all that its own workers show, also what Redis was too late for, and it has the last
word on answers. The fleet may have been told something else meanwhile, by this machine's own workers for one: only
where that has an item of the feed was the feed made in vain. Where Redis does not answer in time, a visit is one to
this machine's memory.
"""

import asyncio
from collections.abc import Sequence

import numpy as np

from recommendation_service.core.redis import Allowance
from recommendation_service.memory.answers import Asked, StoredAnswer
from recommendation_service.memory.changes import Change
from recommendation_service.memory.entries import Entries, as_entries, user_key
from recommendation_service.memory.user_entries import Stored
from recommendation_service.memory.user_memory import AnswerNotKept, MemoryFailed, NoRoomForAnswer
from recommendation_service.model.columns import Int64
from recommendation_service.ranking.seen import merge_entries
from recommendation_service.serving.fleet_memory import FleetMemory
from recommendation_service.serving.seen_store import (
    NOBODY,
    Answer,
    Forgotten,
    MachineStore,
    MachineVisit,
    MadeFeed,
    NoStore,
    Note,
    Visit,
    given_again,
)

AGREEMENTS = 8  # tries to add to what others add to at the same time


class FleetStore:
    """One worker's."""

    def __init__(self, machine: MachineStore, fleet: FleetMemory) -> None:
        self.machine = machine
        self.fleet = fleet
        self._nobody = NoStore(machine.group)

    def visit(self, user_id: int, session: int, asked: Asked | None) -> Visit:
        key = user_key(user_id, session)
        if key is None and asked is None:
            return self._nobody
        return FleetVisit(self, key or NOBODY, asked)

    def peek(self, user_id: int, session: int) -> bytes:
        return self.machine.peek(user_id, session)

    async def elsewhere(self, key: bytes) -> bytes | None:
        return await self.fleet.read(key, self.fleet.allowance())

    def read_all(self, keys: Sequence[bytes]) -> list[bytes]:
        return self.machine.read_all(keys)

    def may_know_more(self, key: bytes) -> bool:
        return self.machine.may_know_more(key)

    async def recall(self, key: bytes) -> None:
        await self.machine.recall(key)

    async def note_all(self, notes: Sequence[Note]) -> list[bool]:
        """Nobody is shown anything, so it does not matter who is told first.

        Most of the time the fleet has what this machine has, and takes the new entries for these at once; else it says
        what it has, and is told again.
        """
        allowance = self.fleet.allowance()
        wanted = [(note.key, note.entries, note.after(note.entries)) for note in notes]
        there = await self.fleet.exchange_all(wanted, allowance)
        agreed, others = [], {}
        for note, (_, _, new), theirs in zip(notes, wanted, there, strict=True):
            if theirs is None or theirs == new:
                agreed.append(note)
            else:
                others[note.key] = self._agree(note, theirs, allowance)
        noted = dict(zip(others, await asyncio.gather(*others.values()), strict=True)) if others else {}
        are_kept = await self.machine.note_all(agreed)
        noted |= {note.key: is_kept for note, is_kept in zip(agreed, are_kept, strict=True)}
        return [noted[note.key] for note in notes]

    async def _agree(self, note: Note, theirs: bytes, allowance: Allowance) -> bool:
        """With a fleet that has other entries of the user; whether they are remembered here, too."""
        try:
            for _ in range(AGREEMENTS - 1):
                new = note.after(merged(self.machine.group.read(note.key), theirs))
                [there] = await self.fleet.exchange_all([(note.key, theirs, new)], allowance)
                if there is None or there == new:
                    break
                theirs = there
            await self.machine.put(note.key, lambda ours: note.after(merged(ours, theirs)))
        except MemoryFailed as error:
            self.machine.failed(error)
            return False
        return True

    def failed(self, error: MemoryFailed) -> None:
        self.machine.failed(error)

    async def forget(self, key: bytes) -> Forgotten:
        here = await self.machine.forget(key)
        return Forgotten({**here.removed, "fleet_memory": await self.fleet.forget(key)}, here.failed)


class FleetVisit:
    """A request's dealings with both memories."""

    def __init__(self, store: FleetStore, key: bytes, asked: Asked | None) -> None:
        self._machine, self._fleet = store.machine, store.fleet
        self._key = key
        self._asked = asked
        self._here = MachineVisit(store.machine, key, asked)
        self._allowance: Allowance = store.fleet.allowance()
        self._theirs: bytes | None = None  # the fleet's entries, where it answered

    async def answer(self) -> Answer | None:
        asked, memory = self._asked, self._machine.group.memory
        if asked is None or memory is None:
            return None
        try:
            stored = memory.answer(asked.name)
        except MemoryFailed as error:
            self._machine.failed(error)
            return None
        if stored is None:
            stored = await self._given_elsewhere(asked)
        return given_again(stored, asked) if stored is not None else None

    async def _given_elsewhere(self, asked: Asked) -> StoredAnswer | None:
        stored = await self._fleet.answer(self._key, asked.name, self._allowance)
        if stored is not None:
            try:
                return self._keep(asked.name, stored) or stored
            except MemoryFailed as error:  # the fleet has it
                self._machine.failed(error)
        return stored

    async def read(self) -> Stored:
        return Stored(await self.read_whole())

    async def read_whole(self) -> bytes:
        if self._machine.group.memory is not None:
            self._theirs = b"" if self._key is NOBODY else await self._fleet.read(self._key, self._allowance)
        ours = await self._here.read_whole(self._theirs or b"")
        return b"" if self._here.is_lost else merged(ours, self._theirs)

    async def commit(self, feed: MadeFeed) -> Answer | None:
        if self._here.is_lost or self._theirs is None:
            return await self._here.commit(feed)
        try:
            outcome = await self._replace(feed, self._theirs)
        except AnswerNotKept as error:
            self._machine.failed(error)
            return Answer(feed.body)
        except MemoryFailed as error:
            return await self._here.give_up(feed, error)
        if outcome is True:
            return Answer(feed.body, self._here.to_keep(feed) is not None)
        return await self._here.refused(feed, outcome)

    async def _replace(self, feed: MadeFeed, theirs: bytes) -> StoredAnswer | bool:
        """Put the feed's entries in the place of what was read, here and in the fleet, and record the feed.

        False where somebody else has shown the user one of its items meanwhile; the other answer where one was given.
        Then what was put is taken back, and nothing recorded. Raises MemoryFailed, and then neither; but AnswerNotKept,
        and then all was done but that.
        """
        group, ours, new = self._machine.group, self._here.ours, self._here.after(feed)
        answer, shown = self._here.to_keep(feed), np.frombuffer(feed.shown, np.int64)
        failed: MemoryFailed | None = None
        unkept: NoRoomForAnswer | None = None
        try:
            if await group.write(Change(self._key, ours, new), None) is False:
                return False
        except MemoryFailed as error:
            failed = error  # the fleet remembers all the same
        agreed = await self._agree(theirs, new, shown, answer)
        kept = agreed
        if answer is not None and agreed is not False and failed is None:
            try:
                kept = self._keep(answer[0], agreed if isinstance(agreed, StoredAnswer) else answer[1]) or agreed
            except NoRoomForAnswer as error:
                unkept = error
        if kept is not True and failed is None and group.memory is not None:
            group.memory.take_back(self._key, _fresh(new, shown, ours, theirs))  # nobody was shown it
        if failed is not None and kept is True:
            raise failed
        if kept is True and feed.record is not None:
            await group.write(None, feed.record)
        if kept is True and unkept is not None:
            raise AnswerNotKept(str(unkept))
        return kept

    async def _agree(
        self, theirs: bytes, new: bytes, shown: Int64, answer: tuple[bytes, StoredAnswer] | None
    ) -> StoredAnswer | bool:
        """Whether the fleet may be shown it. So it may where Redis does not answer any more."""
        told = new
        for _ in range(AGREEMENTS):
            agreed = await self._fleet.replace(self._key, theirs, told, answer, self._allowance)
            if agreed is None or agreed is True or isinstance(agreed, StoredAnswer):
                return True if agreed is None else agreed
            now = await self._fleet.read(self._key, self._allowance)
            if now is None:
                return True
            if np.isin(shown, as_entries(now)[:, 0]).any():
                return False
            theirs, told = now, merge_entries(as_entries(new), as_entries(now)).tobytes()
        return False

    def _keep(self, name: bytes, answer: StoredAnswer) -> StoredAnswer | None:
        """Another answer, where this machine has one. Raises MemoryFailed."""
        memory = self._machine.group.memory
        return memory.keep_answer(name, answer) if memory is not None else None


def merged(ours: bytes, theirs: bytes | None) -> bytes:
    """A user's entries of this machine and of the fleet, as one."""
    if not theirs or theirs == ours:
        return ours
    return merge_entries(as_entries(ours), as_entries(theirs)).tobytes()


def _fresh(new: bytes, shown: Int64, ours: bytes, theirs: bytes) -> Entries:
    """The entries of what is about to be shown and was not remembered before."""
    entries = as_entries(new)
    before = np.concatenate([as_entries(ours)[:, 0], as_entries(theirs)[:, 0]])
    return entries[np.isin(entries[:, 0], shown) & ~np.isin(entries[:, 0], before)]
