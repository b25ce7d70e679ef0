"""How much of what was learned is one person's: sums cannot unlearn anybody, so nobody's part in them may be large.

A person's shown items are counted as the sums are, each by 2^((t - T)/h): half as much after a half-life. Beyond
``most`` of them a person teaches nothing until some have aged. Which do not count follows from when they come and
where they stand in the feed, never from what was done with them, so nothing is learned askew.

Beside it stands what the items that count have brought, counted alike: what is known of a person before an experiment.

A user is a person, and so is the session of somebody anonymous. Who is anonymous and has no session is not told apart.
"""

import sqlite3

TABLES = (
    "CREATE TABLE IF NOT EXISTS persons (user INTEGER NOT NULL, session TEXT NOT NULL, weight REAL NOT NULL, "
    "moment REAL NOT NULL, PRIMARY KEY (user, session)) WITHOUT ROWID",
    # Beside it and not in it, so that a release before goes on with the same file.
    "CREATE TABLE IF NOT EXISTS person_rewards (user INTEGER NOT NULL, session TEXT NOT NULL, reward REAL NOT NULL, "
    "moment REAL NOT NULL, PRIMARY KEY (user, session)) WITHOUT ROWID",
)
# What is left of a part after so many half-lives, a thousandth, is not remembered.
HALF_LIVES = 10


class Persons:
    """The parts of all, in the ledger's database and its steps."""

    def __init__(self, database: sqlite3.Connection, most: float, half_life_seconds: float) -> None:
        self._database = database
        self._most = most
        self._half_life = half_life_seconds
        for statement in TABLES:
            database.execute(statement)

    def admit(self, user_id: int, session_id: str | None, moment: float, new: int, gone: int) -> int:
        """How many of ``new`` shown items of a feed of ``moment`` (seconds since 1970) count, the first of them.

        ``gone``: of the same feed, those that do not any more.
        """
        if (not user_id and not session_id) or (not new and not gone):
            return new
        key = (user_id, "" if user_id else session_id)
        run = self._database.execute
        known = run("SELECT weight, moment FROM persons WHERE (user, session) = (?, ?)", key).fetchone()
        weight, at = known or (0.0, moment)
        later = max(moment, at)
        each = self._aged(moment, later)
        weight = max(0.0, weight * self._aged(at, later) - gone * each)
        admitted = new if weight + new * each <= self._most else max(0, int((self._most - weight) / each))
        run(
            "INSERT OR REPLACE INTO persons (user, session, weight, moment) VALUES (?, ?, ?, ?)",
            (*key, weight + admitted * each, later),
        )
        return admitted

    def reward(self, user_id: int, session_id: str | None, moment: float, more: float) -> None:
        """What items of a feed of ``moment`` that count have brought, less what those did that do not any more."""
        if not more or (not user_id and not session_id):
            return
        run, key = self._database.execute, (user_id, "" if user_id else session_id)
        known = run("SELECT reward, moment FROM person_rewards WHERE (user, session) = (?, ?)", key).fetchone()
        reward, at = known or (0.0, moment)
        later = max(moment, at)
        reward = reward * self._aged(at, later) + more * self._aged(moment, later)
        run("INSERT OR REPLACE INTO person_rewards VALUES (?, ?, ?, ?)", (*key, reward, later))

    def part(self, user_id: int, session_id: str | None) -> tuple[float, float]:
        """How many shown items of a person count, and what they have brought, both as of the last of them."""
        found = self._database.execute(
            "SELECT weight, persons.moment, reward, person_rewards.moment FROM persons "
            "LEFT JOIN person_rewards USING (user, session) WHERE (user, session) = (?, ?)",
            (user_id, "" if user_id else session_id),
        ).fetchone()
        if found is None:
            return 0.0, 0.0
        weight, moment, reward, at = found
        return weight, 0.0 if reward is None else reward * self._aged(at, moment)

    def _aged(self, moment: float, later: float) -> float:
        """What something of ``moment`` counts at a later one."""
        return float(2.0 ** ((moment - later) / self._half_life))

    def drop_old(self, now: float) -> None:
        for table in ("persons", "person_rewards"):
            self._database.execute(f"DELETE FROM {table} WHERE moment < ?", (now - HALF_LIVES * self._half_life,))

    def forget(self, user_id: int) -> None:
        for table in ("persons", "person_rewards"):
            self._database.execute(f"DELETE FROM {table} WHERE user = ?", (user_id,))
