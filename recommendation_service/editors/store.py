"""Where a machine keeps what editors ruled: a folder of DATA_DIR, one small file that is put in its place whole.

Each ruling is in the history first, synced, then in the file. So a process that ends at any moment leaves the file
before or the one after, and a file that a disk damaged is made again of the one before it and the history. Where the
file cannot be written, the history is cut to what it was.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from recommendation_service.core.errors import Conflict, ServiceError
from recommendation_service.core.files import append_line, locked, write_whole
from recommendation_service.editors.fleet import Elsewhere, FleetRulings, FleetUnreachable
from recommendation_service.editors.rulings import Entry, Ruling, Rulings, decoded, ruled

log = structlog.get_logger(__name__)

FILE, BEFORE, HISTORY, LOCK = "rulings", "rulings.before", "history.jsonl", "rulings.lock"
TRIES = 20  # of a change, where other machines make theirs at the same time

Stamp = tuple[int, int, int]


class NotKept(ServiceError):
    """What could not be written down does not hold on this machine."""

    status = 503
    code = "folder_failed"


class RulingsStore:
    """``fleet``: None where there is none, and for whoever only reads."""

    def __init__(self, folder: Path, fleet: FleetRulings | None = None) -> None:
        self.folder = folder
        self._fleet = fleet
        self._followed_with: Stamp | None = None  # the file when the fleet was last followed

    def stamp(self) -> Stamp | None:
        """Another one after each change; None: there is no file yet."""
        try:
            found = os.stat(self.folder / FILE)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def read(self) -> tuple[Rulings, str | None]:
        """What holds, and why that is not what the file says; None: it is."""
        try:
            return decoded((self.folder / FILE).read_bytes()), None
        except FileNotFoundError:
            return Rulings(), None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            problem = f"{self.folder / FILE} cannot be read: {reason}; what was last read of it and its history hold"
            return self._recovered(), problem

    def history(self) -> list[Entry]:
        """Oldest first; lines that cannot be read, as of a machine that lost its power, are passed over."""
        try:
            lines = (self.folder / HISTORY).read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Entry))
        return found

    def rule(
        self, asked: Ruling, *, replace: bool = False, expect: int | None = None, alone: bool = False
    ) -> tuple[Rulings, bool]:
        """Have a ruling hold. ``expect``: the number of the state that it is for; ``alone``: where the fleet cannot be
        told, here, and there once it can. Gives the state then, and whether the fleet was told.

        Raises Conflict, NotFound, FleetUnreachable (nothing was changed) and NotKept, which says whether the fleet has
        it.
        """
        with self._locked():
            for _ in range(TRIES):
                told = self._followed(alone=alone)
                state, _ = self.read()
                if expect is not None and state.number != expect:
                    raise Conflict(
                        f"Nothing was changed: by now there is state {state.number}, and not {expect}. Look at what "
                        "holds, and ask again."
                    )
                new = ruled(state, asked, replace=replace)
                if self._fleet is None:
                    self._keep(new)
                elif told:
                    new = msgspec.structs.replace(new, shared=new.number)
                    try:
                        self._fleet.swap(new)
                    except Elsewhere:
                        continue
                    except FleetUnreachable as error:
                        look = "`recs items list` shows whether the ruling holds, once it answers again"
                        raise FleetUnreachable(f"{error} {look}.", retry_after_seconds=5) from error
                    try:
                        self._keep(new)
                    except NotKept as error:
                        there = "The fleet has the ruling; this machine follows it once it can. Do not ask again"
                        raise NotKept(f"{error} {there}.") from error
                else:
                    self._keep(msgspec.structs.replace(new, alone=(*new.alone, new.entries[-1])))
                return new, told
            raise _outrun()

    def follow(self) -> None:
        """Have what the fleet rules hold here, and there what was ruled here without it.

        Raises FleetUnreachable, NotKept.
        """
        if self._fleet is not None and (self._fleet.is_changed() or self.stamp() != self._followed_with):
            with self._locked():
                for _ in range(TRIES):
                    with contextlib.suppress(Elsewhere):
                        self._take_over(self._fleet)
                        self._followed_with = self.stamp()
                        return

    def _followed(self, *, alone: bool) -> bool:
        """Whether the fleet was asked. Raises Conflict, FleetUnreachable, NotKept."""
        if self._fleet is None:
            return False
        for _ in range(TRIES):
            try:
                self._take_over(self._fleet)
            except Elsewhere:
                continue
            except FleetUnreachable:
                if not alone:
                    raise
                return False
            return True
        raise _outrun()

    def _take_over(self, fleet: FleetRulings) -> None:
        """Raises Elsewhere, FleetUnreachable, NotKept."""
        theirs, (ours, problem) = fleet.read(), self.read()
        if theirs is not None and theirs.number >= ours.shared:
            state = self._with(theirs, _untold(ours, theirs))
        elif ours.number:
            state = ours
        else:
            fleet.note()
            return
        state = msgspec.structs.replace(state, shared=state.number, alone=())
        if state != theirs:
            fleet.swap(state)
        if state != ours or problem is not None:
            self._keep(state)
        fleet.note()  # last: what could not be kept is not followed, and is read again

    def _with(self, theirs: Rulings, untold: list[Entry]) -> Rulings:
        """The fleet's with what was ruled here meanwhile. What cannot hold beside theirs is dropped, and told."""
        for entry in untold:
            try:
                theirs = ruled(theirs, entry.ruling, replace=entry.replace)
            except ServiceError as error:
                log.warning("a ruling made without the fleet is dropped", item=entry.ruling.item, reason=str(error))
        return theirs

    def _keep(self, state: Rulings) -> None:
        """Whole, or not at all. Raises NotKept."""
        history = self.folder / HISTORY
        known = {(entry.number, entry.ruling) for entry in self.history()}
        length = history.stat().st_size if history.is_file() else 0
        try:
            for entry in state.entries:
                if (entry.number, entry.ruling) not in known:
                    append_line(history, msgspec.to_builtins(entry))
            with contextlib.suppress(FileNotFoundError):
                before = (self.folder / FILE).read_bytes()
                if _is_whole(before):
                    write_whole(self.folder / BEFORE, before, synced=True)
            write_whole(self.folder / FILE, state.encoded(), synced=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(history, length)
            raise NotKept(f"{self.folder} cannot be written: {error.strerror}.", retry_after_seconds=30) from error

    def _recovered(self) -> Rulings:
        """The file before the one that is damaged, with what the history has since."""
        state = Rulings()
        with contextlib.suppress(OSError, ValueError):
            state = decoded((self.folder / BEFORE).read_bytes())
        by_number = {entry.number: entry for entry in self.history()}  # of one number the last was made
        for number in sorted(number for number in by_number if number > state.number):
            with contextlib.suppress(ServiceError):
                state = ruled(state, by_number[number].ruling, replace=by_number[number].replace)
        return state

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises NotKept."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK))
            except OSError as error:
                raise NotKept(f"{self.folder} cannot be used: {error.strerror}.", retry_after_seconds=30) from error
            yield


def _is_whole(content: bytes) -> bool:
    try:
        decoded(content)
    except ValueError:
        return False
    return True


def _untold(ours: Rulings, theirs: Rulings) -> list[Entry]:
    """What the fleet has yet to be told: of a machine that comes into one with rulings of its own, all of them. What it
    was told, and this machine then could not write down, is not told again: somebody may have ruled otherwise since."""
    untold = ours.alone if ours.shared else [Entry(ours.number, one) for one in ours.held]
    known = {*theirs.held, *[entry.ruling for entry in theirs.entries]}
    return [entry for entry in untold if entry.ruling not in known]


def _outrun() -> Conflict:
    return Conflict("Nothing was changed: other machines changed what editors ruled at each attempt. Ask again.")
