"""Feeds by which a shadow is weighed: how likely it and what served were to make each, and what each brought.

A version that is weighed may make a share of the feeds itself (LEARN_LIVE_SHARE). These are weighed together with those
of what serves, as draws from a mixture of both (the balance heuristic: Veach and Guibas 1995, "Optimally combining
sampling techniques for Monte Carlo rendering", SIGGRAPH): of a beginning that the one makes with probability P and the
other with Q, that of the mixture is (1 − s) P + s Q, s being the share of the feeds that it made. So no weight is above
1/s, however far apart the two are. That takes feeds of which each could have been made by either: those of an
experiment's arms are none, and what was made before the version made any is dropped when it makes its first.

The learner's candidate is a series: what is learned while one version is weighed takes its place in the shadow, and the
feeds of all of them are weighed as one policy's that learns meanwhile. What each was likely to make was told before
the feed was made, so that the mean of their differences is estimated as that of one version is.

In the ledger's file, so that they change in one step with the rewards that they have. A feed is here from when it was
read until nobody weighs its shadow any more, which is longer than it is waited for.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.log.records import FeedRecord
from recommendation_service.policies.experiment import LIVE

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
LEAST_PROPENSITY = 1e-38  # what a float32 has of one that is less is 0, and was drawn all the same

_TABLES = (
    # rewards: NULL until the feed is settled, empty where nothing was done with it.
    "CREATE TABLE IF NOT EXISTS weighed (request BLOB NOT NULL, version TEXT NOT NULL, serves TEXT NOT NULL, "
    "happened INTEGER NOT NULL, user INTEGER NOT NULL, person INTEGER NOT NULL, logged BLOB NOT NULL, "
    "target BLOB NOT NULL, rewards BLOB, live INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (request, version)) "
    "WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS weighed_pair ON weighed (serves, version, happened) WHERE rewards IS NOT NULL",
    # Of a version that took another's place: under whose name the feeds of all of them are weighed.
    "CREATE TABLE IF NOT EXISTS series (version TEXT PRIMARY KEY, first TEXT NOT NULL) WITHOUT ROWID",
)


class WeighedFeeds(NamedTuple):
    logged: LoggedFeeds
    live_share: float  # of them, that the version itself made


class Weighed:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        for statement in _TABLES:
            database.execute(statement)
        if "live" not in {row[1] for row in database.execute("PRAGMA table_info(weighed)")}:  # of an older release
            database.execute("ALTER TABLE weighed ADD COLUMN live INTEGER NOT NULL DEFAULT 0")

    def add(self, record: FeedRecord, propensities: npt.NDArray[np.float32], happened_ms: int) -> None:
        """``propensities``: of the record's slots."""
        if not record.shadows or record.arm not in ("", LIVE):
            return
        made = record.policy_version, np.asarray(propensities, "<f4").tobytes()
        person = number_of(record.user_id, record.session_id or record.request_id.hex())
        is_live = record.arm == LIVE
        for shadow in record.shadows:
            pair = made, (shadow.policy_version, shadow.propensities)
            if len(pair[0][1]) != len(pair[1][1]):
                continue
            (serves, logged), (version, target) = reversed(pair) if is_live else pair
            version = self._first_of(version)
            if is_live and not self._has_live(serves, version):
                self._database.execute("DELETE FROM weighed WHERE serves = ? AND version = ?", (serves, version))
            self._database.execute(
                "INSERT OR IGNORE INTO weighed "
                "(request, version, serves, happened, user, person, logged, target, live) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (record.request_id, version, serves, happened_ms, record.user_id, person, logged, target, is_live),
            )

    def _has_live(self, serves: str, version: str) -> bool:
        live = "SELECT 1 FROM weighed WHERE serves = ? AND version = ? AND live LIMIT 1"
        return self._database.execute(live, (serves, version)).fetchone() is not None

    def settle(self, rewards: Iterable[tuple[bytes, Floats]]) -> None:
        """Of each slot; what nobody has seen brought nothing. Also anew, where something came late."""
        self._database.executemany(
            "UPDATE weighed SET rewards = ? WHERE request = ?",
            ((np.nan_to_num(values).astype("<f4").tobytes(), request) for request, values in rewards),
        )

    def count(self, serves: str, version: str) -> int:
        """Feeds of a version, and of those whose place it took, that are settled."""
        return self.counts(serves).get(self._first_of(version), 0)

    def take_place(self, version: str, before: str) -> None:
        """What was gathered of the one before is of both from now on."""
        self._database.execute("INSERT OR REPLACE INTO series VALUES (?, ?)", (version, self._first_of(before)))

    def series(self, version: str) -> list[str]:
        """The version and those whose place it took, oldest first."""
        first = self._first_of(version)
        rows = self._database.execute("SELECT version FROM series WHERE first = ? AND version < ?", (first, version))
        return sorted({first, version, *(name for (name,) in rows)})

    def _first_of(self, version: str) -> str:
        row = self._database.execute("SELECT first FROM series WHERE version = ?", (version,)).fetchone()
        return version if row is None else str(row[0])

    def counts(self, serves: str) -> dict[str, int]:
        """Of each series' first version beside one that serves: feeds that are settled."""
        rows = self._database.execute(
            "SELECT version, count(*) FROM weighed WHERE serves = ? AND rewards IS NOT NULL GROUP BY version", (serves,)
        )
        return dict(rows.fetchall())

    def feeds(self, serves: str, version: str, most: int) -> WeighedFeeds:
        """In the order in which they were made, the first so many. Raises UnusableLog."""
        rows = self._database.execute(
            "SELECT person, logged, target, rewards, live FROM weighed WHERE serves = ? AND version = ? "
            "AND rewards IS NOT NULL ORDER BY happened LIMIT ?",
            (serves, self._first_of(version), most),
        ).fetchall()
        slots = max((len(row[1]) // 4 for row in rows), default=0)
        logged, target, rewards = (np.full((len(rows), slots), np.nan) for _ in range(3))
        for place, (_, served, shadow, brought, _) in enumerate(rows):
            has = len(served) // 4
            logged[place, :has] = np.frombuffer(served, "<f4")
            target[place, :has] = np.frombuffer(shadow, "<f4")
            values = np.frombuffer(brought, "<f4")
            rewards[place, :has] = values if len(values) == has else 0.0
        logged = np.clip(logged, LEAST_PROPENSITY, 1.0)  # records round
        persons = np.array([row[0] for row in rows], np.int64)
        live = np.array([row[4] for row in rows], bool)
        return mixed(rewards, logged, target, persons, live)

    def keep(self, serves: str, versions: Collection[str], most: int) -> None:
        """Drop what nobody weighs any more, and of the others what is beyond the first so many."""
        firsts = {self._first_of(version) for version in versions}
        marks = ", ".join("?" * len(firsts))
        run = self._database.execute
        run(f"DELETE FROM weighed WHERE serves != ? OR version NOT IN ({marks})", (serves, *firsts))
        run(f"DELETE FROM series WHERE first NOT IN ({marks})", tuple(firsts))
        for version, count in self.counts(serves).items():
            if count > most:
                run(
                    "DELETE FROM weighed WHERE (request, version) IN (SELECT request, version FROM weighed "
                    "WHERE serves = ? AND version = ? AND rewards IS NOT NULL ORDER BY happened LIMIT -1 OFFSET ?)",
                    (serves, version, most),
                )

    def forget(self, user_id: int) -> None:
        self._database.execute("DELETE FROM weighed WHERE user = ?", (user_id,))


def mixed(rewards: Floats, logged: Floats, target: Floats, persons: Integers, live: Flags) -> WeighedFeeds:
    """Of n feeds, each by what serves or (``live``) by the version itself, as of their mixture. Raises UnusableLog."""
    share = float(live.mean()) if len(live) else 0.0
    if 0.0 < share < 1.0:
        with np.errstate(divide="ignore", invalid="ignore"):
            by_serves, by_version = (np.cumsum(np.log(one), axis=1) for one in (logged, target))
            both = np.logaddexp(np.log1p(-share) + by_serves, np.log(share) + by_version)
        logged = np.exp(np.diff(both, axis=1, prepend=0.0)).clip(LEAST_PROPENSITY, 1.0)
    feeds = LoggedFeeds(rewards, logged, target, persons, np.ones(len(rewards)))
    return WeighedFeeds(feeds, share)


def number_of(user_id: int, session: str | None) -> int:
    """Of a person, as what one does hangs together. Who is anonymous is their session, and without one each feed is
    somebody else's."""
    if user_id:
        return user_id
    return -1 - (int.from_bytes(hashlib.blake2b((session or "").encode(), digest_size=8).digest(), "big") >> 1)
