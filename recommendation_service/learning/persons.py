"""How much of what was learned is one person's: sums cannot unlearn anybody, so nobody's part in them may be large.

A person's shown items are counted as the sums are, each by 2^((t - T)/h): half as much after a half-life. Beyond
``most`` of them a person teaches nothing until some have aged. Which do not count follows from when they come and
where they stand in the feed, never from what was done with them, so nothing is learned askew.

Beside it stands what the items that count have brought, counted alike: what is known of a person before an experiment.

A user is a person, and so is the session of somebody anonymous. Who is anonymous and has no session is not told apart.
"""

import sqlite3

TABLE = """
CREATE TABLE IF NOT EXISTS persons (
  user INTEGER NOT NULL, session TEXT NOT NULL, weight REAL NOT NULL, moment REAL NOT NULL,
  reward REAL NOT NULL DEFAULT 0, PRIMARY KEY (user, session)
) WITHOUT ROWID
"""
# What is left of a part after so many half-lives, a thousandth, is not remembered.
HALF_LIVES = 10


class Persons:
    """The parts of all, in the ledger's database and its steps."""

    def __init__(self, database: sqlite3.Connection, most: float, half_life_seconds: float) -> None:
        self._database = database
        self._most = most
        self._half_life = half_life_seconds
        database.execute(TABLE)
        if "reward" not in [row[1] for row in database.execute("PRAGMA table_info(persons)")]:
            # Of a release that did not know what people's items had brought.
            database.execute("ALTER TABLE persons ADD COLUMN reward REAL NOT NULL DEFAULT 0")

    def admit(self, user_id: int, session_id: str | None, moment: float, new: int, gone: int) -> int:
        """How many of ``new`` shown items of a feed of ``moment`` (seconds since 1970) count, the first of them.

        ``gone``: of the same feed, those that do not any more.
        """
        if (not user_id and not session_id) or (not new and not gone):
            return new
        key = (user_id, "" if user_id else session_id)
        run = self._database.execute
        known = run("SELECT weight, moment, reward FROM persons WHERE (user, session) = (?, ?)", key).fetchone()
        weight, at, reward = known or (0.0, moment, 0.0)
        later = max(moment, at)
        each, aged = 2.0 ** ((moment - later) / self._half_life), 2.0 ** ((at - later) / self._half_life)
        weight = max(0.0, weight * aged - gone * each)
        admitted = new if weight + new * each <= self._most else max(0, int((self._most - weight) / each))
        run(
            "INSERT OR REPLACE INTO persons VALUES (?, ?, ?, ?, ?)",
            (*key, weight + admitted * each, later, reward * aged),
        )
        return admitted

    def reward(self, user_id: int, session_id: str | None, moment: float, more: float) -> None:
        """What items of a feed of ``moment`` that count have brought, less what those did that do not any more."""
        key = (user_id, "" if user_id else session_id)
        found = self._database.execute("SELECT moment FROM persons WHERE (user, session) = (?, ?)", key).fetchone()
        if more and found is not None:
            aged = 2.0 ** ((moment - found[0]) / self._half_life)
            self._database.execute(
                "UPDATE persons SET reward = reward + ? WHERE (user, session) = (?, ?)", (more * aged, *key)
            )

    def part(self, user_id: int, session_id: str | None) -> tuple[float, float]:
        """How many shown items of a person count, and what they have brought."""
        key = (user_id, "" if user_id else session_id)
        found = self._database.execute("SELECT weight, reward FROM persons WHERE (user, session) = (?, ?)", key)
        return found.fetchone() or (0.0, 0.0)

    def drop_old(self, now: float) -> None:
        self._database.execute("DELETE FROM persons WHERE moment < ?", (now - HALF_LIVES * self._half_life,))

    def forget(self, user_id: int) -> None:
        self._database.execute("DELETE FROM persons WHERE user = ?", (user_id,))
