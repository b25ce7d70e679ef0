"""Feeds by which a shadow is weighed: how likely it and what served were to make each, and what each brought.

In the ledger's file, so that they change in one step with the rewards that they have. A feed is here from when it was
read until nobody weighs its shadow any more, which is longer than it is waited for.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.log.records import FeedRecord

Floats = npt.NDArray[np.float64]
LEAST_PROPENSITY = 1e-38  # what a float32 has of one that is less is 0, and was drawn all the same

_TABLES = (
    # rewards: NULL until the feed is settled, empty where nothing was done with it.
    "CREATE TABLE IF NOT EXISTS weighed (request BLOB NOT NULL, version TEXT NOT NULL, serves TEXT NOT NULL, "
    "happened INTEGER NOT NULL, user INTEGER NOT NULL, person INTEGER NOT NULL, logged BLOB NOT NULL, "
    "target BLOB NOT NULL, rewards BLOB, PRIMARY KEY (request, version)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS weighed_pair ON weighed (serves, version, happened) WHERE rewards IS NOT NULL",
)


class Weighed:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        for statement in _TABLES:
            database.execute(statement)

    def add(self, record: FeedRecord, happened_ms: int) -> None:
        """Raises ValueError where its slots cannot be unpacked."""
        if not record.shadows:
            return
        logged = np.asarray(record.slots().propensities, "<f4").tobytes()
        self._database.executemany(
            "INSERT OR IGNORE INTO weighed VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                (
                    record.request_id,
                    shadow.policy_version,
                    record.policy_version,
                    happened_ms,
                    record.user_id,
                    number_of(record.user_id, record.session_id or record.request_id.hex()),
                    logged,
                    shadow.propensities,
                )
                for shadow in record.shadows
                if len(shadow.propensities) == len(logged)
            ),
        )

    def settle(self, rewards: Iterable[tuple[bytes, Floats]]) -> None:
        """Of each slot; what nobody has seen brought nothing. Also anew, where something came late."""
        self._database.executemany(
            "UPDATE weighed SET rewards = ? WHERE request = ?",
            ((np.nan_to_num(values).astype("<f4").tobytes(), request) for request, values in rewards),
        )

    def counts(self, serves: str) -> dict[str, int]:
        """Of each version beside one that serves: feeds that are settled."""
        rows = self._database.execute(
            "SELECT version, count(*) FROM weighed WHERE serves = ? AND rewards IS NOT NULL GROUP BY version", (serves,)
        )
        return dict(rows.fetchall())

    def feeds(self, serves: str, version: str, most: int) -> LoggedFeeds:
        """In the order in which they were made, the first so many. Raises UnusableLog."""
        rows = self._database.execute(
            "SELECT person, logged, target, rewards FROM weighed WHERE serves = ? AND version = ? "
            "AND rewards IS NOT NULL ORDER BY happened LIMIT ?",
            (serves, version, most),
        ).fetchall()
        slots = max((len(row[1]) // 4 for row in rows), default=0)
        logged, target, rewards = (np.full((len(rows), slots), np.nan) for _ in range(3))
        for place, (_, served, shadow, brought) in enumerate(rows):
            has = len(served) // 4
            logged[place, :has] = np.frombuffer(served, "<f4")
            target[place, :has] = np.frombuffer(shadow, "<f4")
            values = np.frombuffer(brought, "<f4")
            rewards[place, :has] = values if len(values) == has else 0.0
        logged = np.clip(logged, LEAST_PROPENSITY, 1.0)  # records round
        persons = np.array([row[0] for row in rows], np.int64)
        return LoggedFeeds(rewards, logged, target, persons, np.ones(len(rows)))

    def keep(self, serves: str, versions: Collection[str], most: int) -> None:
        """Drop what nobody weighs any more, and of the others what is beyond the first so many."""
        marks = ", ".join("?" * len(versions))
        run = self._database.execute
        run(f"DELETE FROM weighed WHERE serves != ? OR version NOT IN ({marks})", (serves, *versions))
        for version, count in self.counts(serves).items():
            if count > most:
                run(
                    "DELETE FROM weighed WHERE (request, version) IN (SELECT request, version FROM weighed "
                    "WHERE serves = ? AND version = ? AND rewards IS NOT NULL ORDER BY happened LIMIT -1 OFFSET ?)",
                    (serves, version, most),
                )

    def forget(self, user_id: int) -> None:
        self._database.execute("DELETE FROM weighed WHERE user = ?", (user_id,))


def number_of(user_id: int, session: str | None) -> int:
    """Of a person, as what one does hangs together. Who is anonymous is their session, and without one each feed is
    somebody else's."""
    if user_id:
        return user_id
    return -1 - (int.from_bytes(hashlib.blake2b((session or "").encode(), digest_size=8).digest(), "big") >> 1)
