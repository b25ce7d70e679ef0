"""What people in the arms of experiments were shown, and what it brought: in the ledger's file, and in its steps.

A row is a person in an arm: what is compared are people, each with all feeds, and beside them what they did before. Who
is anonymous and has no session is another person with each request; of those so many stand in one row.

What is counted is exact: each feed once, as it is read, and each reward as the sums have it before any is left out.
"""

import sqlite3
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.experiments.ratio import p_value
from recommendation_service.learning.persons import Persons
from recommendation_service.policies.experiment import Experiment

# Rows of an experiment whose people are requests.
_ROWS_OF_REQUESTS = 4096
# Of the experiments that were counted last, whose people are kept; of others only the totals are.
MOST_KEPT = 5

_TABLES = (
    # of whom: a user's number, a session's name with an s, a number of requests with an r
    "CREATE TABLE IF NOT EXISTS arm_people (person TEXT NOT NULL, arm TEXT NOT NULL, people INTEGER NOT NULL, "
    "feeds INTEGER NOT NULL, reward REAL NOT NULL, earlier_slots REAL NOT NULL, earlier_reward REAL NOT NULL, "
    "PRIMARY KEY (person, arm)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS arm_totals (arm TEXT PRIMARY KEY, people INTEGER NOT NULL, feeds INTEGER NOT NULL, "
    "reward REAL NOT NULL, latest INTEGER NOT NULL) WITHOUT ROWID",
)


class ArmTotals(NamedTuple):
    people: int
    feeds: int
    reward: float
    latest_ms: int  # the last feed


class Rows(NamedTuple):
    """Of an arm's people."""

    feeds: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    earlier_slots: npt.NDArray[np.float64]
    earlier_rewards: npt.NDArray[np.float64]


class Arms:
    """All of it within a step of the ledger, but for what is only read. ``database``: the ledger's."""

    def __init__(self, database: sqlite3.Connection, persons: Persons) -> None:
        self._database = database
        self._persons = persons
        for statement in _TABLES:
            database.execute(statement)

    def show(self, arm: str, user_id: int, session_id: str | None, request: bytes, happened_ms: int) -> None:
        """A feed that an arm made, which was not counted yet."""
        run, person = self._database.execute, _row_of(user_id, session_id, request)
        is_request = not user_id and not session_id
        more = f"feeds = feeds + 1, people = people + {int(is_request)}"
        changed = run(f"UPDATE arm_people SET {more} WHERE (person, arm) = (?, ?)", (person, arm)).rowcount
        if not changed:
            run(
                "INSERT INTO arm_people VALUES (?, ?, 1, 1, 0, ?, ?)",
                (person, arm, *self._persons.part(user_id, session_id)),
            )
        run(
            "INSERT INTO arm_totals VALUES (?, ?, 1, 0, ?) ON CONFLICT DO UPDATE "
            "SET people = people + excluded.people, feeds = feeds + 1, latest = max(latest, excluded.latest)",
            (arm, int(is_request or not changed), happened_ms),
        )

    def reward(self, arm: str, user_id: int, session_id: str | None, request: bytes, more: float) -> None:
        """What such a feed has brought beyond what was counted of it."""
        person = _row_of(user_id, session_id, request)
        self._database.execute(
            "UPDATE arm_people SET reward = reward + ? WHERE (person, arm) = (?, ?)", (more, person, arm)
        )
        self._database.execute("UPDATE arm_totals SET reward = reward + ? WHERE arm = ?", (more, arm))

    def forget(self, user_id: int) -> None:
        """Totals stay, as sums do."""
        self._database.execute("DELETE FROM arm_people WHERE person = ?", (person_of(user_id, None),))

    def drop_old(self) -> None:
        """People of experiments that others followed."""
        latest: dict[str, int] = {}
        for arm, moment in self._database.execute("SELECT arm, latest FROM arm_totals"):
            name = arm.partition(":")[0]
            latest[name] = max(moment, latest.get(name, 0))
        for name in sorted(latest, key=latest.__getitem__)[:-MOST_KEPT]:
            self._database.execute("DELETE FROM arm_people WHERE arm >= ? AND arm < ?", (f"{name}:", f"{name};"))

    def totals(self) -> dict[str, ArmTotals]:
        return totals_in(self._database)


def in_short(experiment: Experiment, totals: dict[str, ArmTotals]) -> dict[str, Any]:
    """For the learner's status."""
    none = ArmTotals(0, 0, 0.0, 0)
    found = [totals.get(label, none) for label in experiment.labels]
    named = zip(experiment.arms, found, strict=True)
    return {
        "name": experiment.name,
        "arms": {arm.name: {"people": of.people, "feeds": of.feeds, "reward": of.reward} for arm, of in named},
        "ratio_p_value": p_value([of.people for of in found], experiment.shares),
    }


def totals_in(database: sqlite3.Connection) -> dict[str, ArmTotals]:
    """By EXPERIMENT:ARM."""
    rows = database.execute("SELECT arm, people, feeds, reward, latest FROM arm_totals")
    return {row[0]: ArmTotals(*row[1:]) for row in rows}


def rows_in(database: sqlite3.Connection, arm: str) -> Rows:
    found = database.execute(
        "SELECT feeds, reward, earlier_slots, earlier_reward FROM arm_people WHERE arm = ?", (arm,)
    ).fetchall()
    return Rows(*np.array(found, np.float64).reshape(-1, 4).T)


def person_of(user_id: int, session_id: str | None) -> str | None:
    """As rows have a user, or an anonymous person's session; None: nobody."""
    return str(user_id) if user_id else f"s{session_id}" if session_id else None


def _row_of(user_id: int, session_id: str | None, request: bytes) -> str:
    return person_of(user_id, session_id) or f"r{int.from_bytes(request[:8], 'big') % _ROWS_OF_REQUESTS}"
