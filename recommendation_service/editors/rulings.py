"""What editors ruled of items, as one value, and what a ruling more makes of it.

Where two rulings cannot both hold, what takes out of sight wins at once and what brings forward is refused with the
reason: a takedown ends all else of its item, a bury ends its pins, and a pin of what is buried, taken down or for a
place that is taken has to be asked for otherwise.
"""

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from recommendation_service.core.errors import Conflict, NotFound, ServiceError

Action = Literal["pin", "bury", "takedown", "release"]
PIN, BURY, TAKEDOWN, RELEASE = "pin", "bury", "takedown", "release"
EVERYWHERE = ""  # in place of a feed's name
FOR_GOOD = 0.0  # in place of an end
MOST_RULINGS = 10_000
# A state takes that many of the latest along, for machines that follow; each machine's history has all.
MOST_ENTRIES = 100
_DIGEST = 64  # characters of a checksum, before a state's content


class Ruling(msgspec.Struct, frozen=True):
    """What an editor asks for, and where it is no release, what then holds."""

    action: Action
    type: str  # of the item, as a catalog names it
    id: int | str  # as the operator's tables have it
    key: int  # model/item_keys.py
    who: str
    why: str
    when: float  # it was asked for, in seconds since 1970
    feed: str = EVERYWHERE
    place: int = 0  # of a pin, from 1
    until: float = FOR_GOOD  # seconds since 1970

    @property
    def item(self) -> str:
        """As people name it."""
        return f"{self.type}:{self.id}"

    def holds(self, now: float) -> bool:
        return self.until == FOR_GOOD or now < self.until

    def is_in(self, feed: str) -> bool:
        return self.feed in (EVERYWHERE, feed)


class Entry(msgspec.Struct, frozen=True):
    """A ruling in the history. ``number``: of the state that it made; ``replace``: it took a place that was taken."""

    number: int
    ruling: Ruling
    replace: bool = False


class Rulings(msgspec.Struct, frozen=True):
    """All that hold. ``number`` counts changes."""

    number: int = 0
    held: tuple[Ruling, ...] = ()
    entries: tuple[Entry, ...] = ()  # the latest
    shared: int = 0  # number that the fleet had last, as far as this machine knows
    alone: tuple[Entry, ...] = ()  # made here without the fleet, which has yet to be told

    def in_force(self, now: float) -> tuple[Ruling, ...]:
        return tuple([one for one in self.held if one.holds(now)])

    def encoded(self) -> bytes:
        content = msgspec.json.encode(self)
        return b"%b\n%b\n" % (hashlib.sha256(content).hexdigest().encode(), content)


def decoded(stored: bytes) -> Rulings:
    """Raises ValueError for what is none, or is damaged."""
    digest, content = stored[:_DIGEST], stored[_DIGEST + 1 : -1]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its checksum is another")
    try:
        return msgspec.json.decode(content, type=Rulings)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def ruled(state: Rulings, asked: Ruling, *, replace: bool = False) -> Rulings:
    """The state with a ruling more. ``replace``: a pin takes its place from another.

    Raises Conflict where that cannot be, and NotFound where there is nothing to be released.
    """
    held = state.in_force(asked.when)
    of_item = [one for one in held if one.key == asked.key and one.type == asked.type]
    ended = _ended_by(asked, held, of_item, replace=replace)
    kept = [one for one in held if one not in ended]
    if asked.action != RELEASE:
        if len(kept) >= MOST_RULINGS:
            raise Conflict(f"There are {MOST_RULINGS:,} rulings, which is the most: release some that are not needed.")
        kept.append(asked)
    number = state.number + 1
    return msgspec.structs.replace(
        state,
        number=number,
        held=tuple(kept),
        entries=(*state.entries, Entry(number, asked, replace))[-MOST_ENTRIES:],
    )


def held_at(history: Iterable[Entry], moment: float) -> tuple[Ruling, ...]:
    """What held at a moment, by the history, oldest first."""
    state = Rulings()
    for entry in history:
        if entry.ruling.when <= moment:
            with contextlib.suppress(ServiceError):
                state = ruled(state, entry.ruling, replace=entry.replace)
    return state.in_force(moment)


def _ended_by(asked: Ruling, held: tuple[Ruling, ...], of_item: list[Ruling], *, replace: bool) -> list[Ruling]:
    """What no longer holds once ``asked`` does."""
    if asked.action == TAKEDOWN:
        return of_item
    if asked.action == RELEASE:
        ended = [one for one in of_item if asked.feed in (EVERYWHERE, one.feed)]
        if not ended:
            where = f" in the feed {asked.feed}" if asked.feed else ""
            raise NotFound(f"No ruling of {asked.item}{where} holds, so there is nothing to release.")
        return ended
    for one in of_item:
        if one.action == TAKEDOWN:
            raise Conflict(f"{asked.item} was taken down by {one.who} ({one.why}): release it first.")
    if asked.action == BURY:
        return [one for one in of_item if asked.feed in (EVERYWHERE, one.feed)]
    for one in of_item:
        if one.action == BURY and one.is_in(asked.feed):
            raise Conflict(f"{asked.item} was buried by {one.who} ({one.why}): release it first.")
    ended = [one for one in of_item if one.action == PIN and one.feed == asked.feed]
    for one in held:
        if one.action == PIN and (one.feed, one.place) == (asked.feed, asked.place) and one not in ended:
            if not replace:
                raise Conflict(
                    f"Place {asked.place} of the feed {asked.feed} has {one.item}, which {one.who} pinned there "
                    f"({one.why}). Pin to another place, release that one, or replace it."
                )
            ended.append(one)
    return ended
