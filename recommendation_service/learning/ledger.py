"""What the learner knows, in one file: the sums, how far the log was read, and the feeds that may still bring rewards.

One SQLite file, so that what was read, what follows from it, and what is owed change in one step: a process that ends
at any moment is one that did not begin the step. What is damaged, or of another release, is refused whole, since sums
cannot be told to be wrong.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import create, make_folder
from recommendation_service.learning.abroad import Abroad
from recommendation_service.learning.arms import Arms
from recommendation_service.learning.fleet_notes import FleetNotes
from recommendation_service.learning.persons import Persons
from recommendation_service.learning.rewards import Happening
from recommendation_service.learning.row_notes import BY_ROW, RowNotes
from recommendation_service.learning.status import Totals
from recommendation_service.learning.sums import Sums
from recommendation_service.learning.weighed import Weighed
from recommendation_service.log.marks import Mark

FILE = "learned.sqlite"
LAYOUT = 1
# A statement names so many values at most.
_AT_ONCE = 500

_TABLES = """
CREATE TABLE known (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE feeds (
  request BLOB NOT NULL UNIQUE, happened INTEGER NOT NULL, user INTEGER NOT NULL, session TEXT, packed BLOB NOT NULL,
  due INTEGER, rewards BLOB, personal INTEGER NOT NULL DEFAULT 1, arm TEXT NOT NULL DEFAULT '',
  counted REAL NOT NULL DEFAULT 0
);
CREATE INDEX feeds_due ON feeds (due) WHERE due IS NOT NULL;
CREATE INDEX feeds_happened ON feeds (happened);
CREATE INDEX feeds_user ON feeds (user, session, happened);
CREATE TABLE happenings (
  request BLOB NOT NULL, item INTEGER NOT NULL, event TEXT NOT NULL,
  reward REAL NOT NULL, shows INTEGER NOT NULL, happened INTEGER NOT NULL, received INTEGER NOT NULL,
  source TEXT NOT NULL, PRIMARY KEY (request, item, event)
) WITHOUT ROWID;
CREATE INDEX happenings_received ON happenings (received);
CREATE TABLE unmatched (
  user INTEGER NOT NULL, session TEXT, item INTEGER NOT NULL, event TEXT NOT NULL,
  reward REAL NOT NULL, shows INTEGER NOT NULL, happened INTEGER NOT NULL, received INTEGER NOT NULL
);
CREATE TABLE forgotten (user INTEGER PRIMARY KEY, moment INTEGER NOT NULL);
"""


_LATER_COLUMNS = {
    "personal": "INTEGER NOT NULL DEFAULT 1",
    "arm": "TEXT NOT NULL DEFAULT ''",
    "counted": "REAL NOT NULL DEFAULT 0",
}


class LedgerRefused(SourceError):
    """What was learned cannot be used: it is damaged, or another release's."""


def put_aside(folder: Path, moment: datetime) -> Path | None:
    """Give the file another name, while nobody has it open; None: there is none. Raises OSError."""
    path = folder / FILE
    if not path.exists():
        return None
    kept = path.with_stem(f"{path.stem}-{moment:%Y%m%dT%H%M%SZ}")
    for suffix in ("-wal", "-shm", ""):  # SQLite's own files go by the name of the first
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
    return kept


def identity_in(folder: Path) -> str | None:
    """By which the fleet knows the file's sums; None: it has none, or cannot be read. Changes nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)) as database:
            [[value]] = database.execute("SELECT value FROM known WHERE name = 'identity'")
        return str(json.loads(value)["machine"])
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


class Feed(NamedTuple):
    request: bytes
    happened_ms: int
    user_id: int
    session_id: str | None
    packed: bytes
    personal: bool = True  # False: it is known so that what was done with it is told from what belongs to no feed
    arm: str = ""  # of an experiment, that made it
    counted: float = 0.0  # what it has brought, as the arm's


class Event(NamedTuple):
    """Feedback, with what it is worth."""

    item: int
    name: str
    reward: float
    shows: bool
    happened_ms: int
    received_ms: int


class Added(Enum):
    """What became of an event."""

    NEW = 1
    INSTEAD = 2  # it took the place of one that was later, or that a row of the operator's told
    NOTHING = 3


class Happened(NamedTuple):
    """Something that happened with an item of a feed, and who told it."""

    event: Event
    source: str

    @property
    def what(self) -> Happening:
        return Happening(self.event.item, self.event.reward, self.event.shows)

    @property
    def is_by_row(self) -> bool:
        return self.source.startswith(BY_ROW)


class Owed(NamedTuple):
    """A feed whose rewards are to be looked at."""

    feed: Feed
    rewards: npt.NDArray[np.float64] | None  # that are in the sums; None: nothing of it is


class Ledger:
    """One process's. Raises LedgerRefused where the file cannot be used, and OSError where the disk fails."""

    def __init__(self, folder: Path, sums: Sums, now: float, person_slots: float) -> None:
        """``sums``: empty ones, of this release's kinds and features; those of the file are read into them.

        ``person_slots``: the most shown items of one person that count.
        """
        self.path = folder / FILE
        self.sums = sums
        self._now = now
        self.mark = Mark()
        self.taken: dict[str, int] = {}  # segments that are read once more: up to where that was done before
        self.totals = Totals()
        make_folder(folder)
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        if is_new:
            with open(create(self.path), "rb"):
                pass
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
        except sqlite3.Error as error:
            raise OSError(5, str(error), str(self.path)) from error
        try:
            self._open(is_new)
            self.persons = Persons(self._database, person_slots, sums.half_life_seconds)
            self.arms = Arms(self._database, self.persons)
            self.rows = RowNotes(self._database)
            self.abroad = Abroad(self._database)
            self.weighed = Weighed(self._database)
            self.fleet = FleetNotes(self._database)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            self._database.close()
            raise LedgerRefused(f"{self.path} cannot be used: {error}.") from error
        except BaseException:
            self._database.close()
            raise

    def _open(self, is_new: bool) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if is_new:
            with self.step():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._database.execute(statement)
                self._write("layout", LAYOUT)
                self.keep(self.mark)
            return
        [[found]] = self._database.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise ValueError(f"it is damaged ({found})")
        layout = self._read("layout")
        if layout != LAYOUT:
            raise ValueError(f"it is of another release: its layout is {layout}, and this one's {LAYOUT}")
        known = [row[1] for row in self._database.execute("PRAGMA table_info(feeds)")]
        for name, column in _LATER_COLUMNS.items():
            if name not in known:  # of a release whose feeds were all personal, or of no experiment
                self._database.execute(f"ALTER TABLE feeds ADD COLUMN {name} {column}")
        self.mark = Mark.decoded(json.dumps(self._read("mark")))
        self.taken = {str(name): int(position) for name, position in self._read("taken").items()}
        self.totals = Totals(**self._read("totals"))
        self._take_sums(self._read("sums"), *(self._bytes(name) for name in ("total", "low")))

    def _take_sums(self, described: dict[str, Any], total: bytes, low: bytes) -> None:
        if hashlib.sha256(total + low).hexdigest() != described["sha256"]:
            raise ValueError("its sums do not match their checksum")
        found = Sums(described["kinds"], described["features"], described["half_life_seconds"])
        for array, content in ((found.total, total), (found.low, low)):
            array[:] = np.frombuffer(content, "<f8").reshape(array.shape)
            if not np.isfinite(array).all():
                raise ValueError("its sums are not finite")
        found.epoch = int(described["epoch"])
        self.sums.take(found, self._now)

    @contextmanager
    def step(self) -> Iterator[None]:
        """All or nothing of what is done within. Raises OSError."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(5, str(error), str(self.path)) from error

    def keep(self, mark: Mark) -> None:
        """Sums, totals and how far the log was read, within a step."""
        self.mark = mark
        total, low = (np.ascontiguousarray(array, "<f8").tobytes() for array in (self.sums.total, self.sums.low))
        described = {
            "kinds": self.sums.kinds,
            "features": self.sums.features,
            "half_life_seconds": self.sums.half_life_seconds,
            "epoch": self.sums.epoch,
            "sha256": hashlib.sha256(total + low).hexdigest(),
        }
        self._write("mark", json.loads(mark.encoded()))
        self._write("taken", self.taken)
        self._write("totals", asdict(self.totals))
        self._write("sums", described)
        for name, content in (("total", total), ("low", low)):
            self._database.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (name, content))

    # What comes from the log. All of these within a step.

    def add_feeds(self, feeds: Iterable[Feed], settle_ms: int) -> None:
        insert = (
            "INSERT OR IGNORE INTO feeds (request, happened, user, session, packed, personal, arm, counted, due) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        for feed in feeds:
            is_new = self._database.execute(insert, (*feed, feed.happened_ms + settle_ms)).rowcount
            if feed.arm and is_new:
                self.arms.show(feed.arm, feed.user_id, feed.session_id, feed.request, feed.happened_ms)

    def add_event(self, request: bytes, event: Event, source: str) -> tuple[Added, str | None]:
        """Each event of an item of a feed counts once, in whatever order they come: what feedback tells before what a
        row does, which knows less of it, and of either the first by its own time. And whose place it took."""
        run, key = self._database.execute, (request, event.item, event.name)
        found = run(
            "SELECT happened, reward, source FROM happenings WHERE (request, item, event) = (?, ?, ?)", key
        ).fetchone()
        told = found[2] if found is not None else None
        if found is not None and _order(*found) <= _order(event.happened_ms, event.reward, source):
            return Added.NOTHING, told
        run("INSERT OR REPLACE INTO happenings VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (request, *event, source))
        return (Added.NEW if found is None else Added.INSTEAD), told

    def add_unmatched(self, user_id: int, session_id: str | None, event: Event) -> None:
        self._database.execute("INSERT INTO unmatched VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (user_id, session_id, *event))

    def unmatched(self) -> list[tuple[int, str | None, Event]]:
        """Events that name no feed, each given once."""
        rows = self._database.execute("SELECT * FROM unmatched").fetchall()
        self._database.execute("DELETE FROM unmatched")
        return [
            (user, session, Event(item, name, reward, bool(shows), happened_ms, received_ms))
            for user, session, item, name, reward, shows, happened_ms, received_ms in rows
        ]

    def feeds_of(self, user_id: int, session_id: str | None, since_ms: int, until_ms: int, most: int) -> list[Feed]:
        """The latest of a user, or of a session of an anonymous one."""
        where = "user = ?" if user_id else "user = ? AND session = ?"
        who: list[int | str | None] = [user_id] if user_id else [user_id, session_id]
        rows = self._database.execute(
            f"SELECT request, happened, user, session, packed, personal FROM feeds WHERE {where} "
            "AND happened BETWEEN ? AND ? ORDER BY happened DESC LIMIT ?",
            (*who, since_ms, until_ms, most),
        )
        return [Feed(*row) for row in rows]

    def has_feed(self, request: bytes) -> bool:
        return self._database.execute("SELECT 1 FROM feeds WHERE request = ?", (request,)).fetchone() is not None

    def touch(self, requests: Iterable[bytes], now_ms: int) -> None:
        """Have the rewards of these feeds looked at again, where they were looked at before."""
        self._database.executemany(
            "UPDATE feeds SET due = ? WHERE request = ? AND due IS NULL", ((now_ms, request) for request in requests)
        )

    def due(self, now_ms: int, most: int) -> list[Owed]:
        rows = self._database.execute(
            "SELECT request, happened, user, session, packed, personal, arm, counted, rewards FROM feeds "
            "WHERE due <= ? ORDER BY due LIMIT ?",
            (now_ms, most),
        ).fetchall()
        return [Owed(Feed(*row[:-1]), None if row[-1] is None else np.frombuffer(row[-1], "<f8")) for row in rows]

    def happened(self, requests: Sequence[bytes]) -> dict[bytes, list[Happened]]:
        """What happened with each feed."""
        found: dict[bytes, list[Happened]] = {request: [] for request in requests}
        for start in range(0, len(requests), _AT_ONCE):
            some = requests[start : start + _AT_ONCE]
            rows = self._database.execute(
                "SELECT request, item, event, reward, shows, happened, received, source FROM happenings "
                f"WHERE request IN ({', '.join('?' * len(some))})",
                some,
            )
            for request, item, name, reward, shows, happened_ms, received_ms, source in rows:
                event = Event(item, name, reward, bool(shows), happened_ms, received_ms)
                found[request].append(Happened(event, source))
        return found

    def drop_event(self, request: bytes, item: int, event: str) -> None:
        self._database.execute(
            "DELETE FROM happenings WHERE (request, item, event) = (?, ?, ?)", (request, item, event)
        )

    def settle(self, rewards: Iterable[tuple[bytes, npt.NDArray[np.float64]]]) -> None:
        """These rewards of these feeds are in the sums now."""
        self._database.executemany(
            "UPDATE feeds SET due = NULL, rewards = ? WHERE request = ?",
            ((array.astype("<f8").tobytes(), request) for request, array in rewards),
        )

    def count_for_arm(self, feed: Feed, reward: float) -> None:
        """What a feed of an experiment has brought by now."""
        if reward != feed.counted:
            more = reward - feed.counted
            self.arms.reward(feed.arm, feed.user_id, feed.session_id, feed.request, more)
            self._database.execute("UPDATE feeds SET counted = ? WHERE request = ?", (reward, feed.request))

    def drop_before(self, feeds_ms: int, events_ms: int) -> int:
        """Drop feeds that nothing can come for any more, with what happened, and events that found no feed; how many
        of the latter."""
        run = self._database.execute
        gone = "SELECT request FROM feeds WHERE happened < ? AND due IS NULL"
        run(f"DELETE FROM happenings WHERE request IN ({gone})", (feeds_ms,))
        run("DELETE FROM feeds WHERE happened < ? AND due IS NULL", (feeds_ms,))
        unknown = "received < ? AND NOT EXISTS (SELECT 1 FROM feeds WHERE feeds.request = happenings.request)"
        return run(f"DELETE FROM happenings WHERE {unknown}", (events_ms,)).rowcount

    def drop_oldest(self, most: int) -> int:
        """All but so many of the feeds give way, settled or not; how many did."""
        run = self._database.execute
        [[count]] = run("SELECT count(*) FROM feeds")
        if count <= most:
            return 0
        some = "SELECT request FROM feeds ORDER BY happened LIMIT ?"
        run(f"DELETE FROM happenings WHERE request IN ({some})", (count - most,))
        return run(f"DELETE FROM feeds WHERE request IN ({some})", (count - most,)).rowcount

    def forget(self, users: dict[int, int]) -> None:
        """Drop what is owed to users who were to be forgotten, by the moment of that; each time once."""
        known = dict(self._database.execute("SELECT user, moment FROM forgotten"))
        for user, moment in users.items():
            if known.get(user) != moment:
                run = self._database.execute
                run("DELETE FROM happenings WHERE request IN (SELECT request FROM feeds WHERE user = ?)", (user,))
                run("DELETE FROM feeds WHERE user = ?", (user,))
                run("DELETE FROM unmatched WHERE user = ?", (user,))
                self.persons.forget(user)
                self.arms.forget(user)
                self.abroad.forget(user)
                self.weighed.forget(user)
                run("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user, moment))
        for user in known.keys() - users.keys():
            self._database.execute("DELETE FROM forgotten WHERE user = ?", (user,))

    def pending_feeds(self) -> int:
        [[count]] = self._database.execute("SELECT count(*) FROM feeds")
        return int(count)

    def close(self) -> None:
        self._database.close()

    def _write(self, name: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (name, json.dumps(value).encode()))

    def _read(self, name: str) -> Any:
        return json.loads(self._bytes(name))

    def _bytes(self, name: str) -> bytes:
        row = self._database.execute("SELECT value FROM known WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise ValueError(f"it lacks {name}")
        return bytes(row[0])


def _order(happened_ms: int, reward: float, source: str) -> tuple[bool, int, float, str]:
    """The least of several that tell the same of an item is the one that counts."""
    return source.startswith(BY_ROW), happened_ms, reward, source
