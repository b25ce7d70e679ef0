"""How far the operator's tables were read: in the ledger's file, so that it changes in one step with what follows.

Rows have ids in the order in which they were inserted, and are seen in the order in which they were committed: of two
that are inserted at once the later may be seen first. So a mark, up to which rows are not read again, stays some time
behind what the table had; rows beyond it that were taken up are noted one by one.
"""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from recommendation_service.sources.rows import OperatorRow

# What the source of a happening begins with that a row told; then comes the table.
BY_ROW = "table:"

_OF_ROWS = f"source >= '{BY_ROW}' AND source < '{BY_ROW[:-1]};'"  # the character after ':'

# Between the insert of a row and its commit, at most; besides, a replica may be behind.
TRANSACTION_MS = 60_000
# Looks that are no further apart say when a row came, where it does not say so itself.
CLOSE_MS = 60_000
# Rows that may yet become events, of all tables. The oldest give way.
MOST_WATCHED = 10_000

_TABLES = (
    "CREATE TABLE IF NOT EXISTS row_marks (source TEXT PRIMARY KEY, mark INTEGER NOT NULL, seen TEXT NOT NULL) "
    "WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS rows_noted (source TEXT NOT NULL, id INTEGER NOT NULL, who TEXT NOT NULL, "
    "PRIMARY KEY (source, id, who)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS rows_watched (source TEXT NOT NULL, id INTEGER NOT NULL, until INTEGER NOT NULL, "
    "looked INTEGER NOT NULL, PRIMARY KEY (source, id)) WITHOUT ROWID",
    # What rows told is little beside feedback, of which each event asks for it.
    f"CREATE INDEX IF NOT EXISTS happenings_of_rows ON happenings (item, event) WHERE {_OF_ROWS}",
)


# As a release before noted rows, for which an id was enough.
_OLDER = "rows_taken"


class Seen(NamedTuple):
    """A look at a table: when, and the last id that it had."""

    moment_ms: int
    last_id: int


class RowMark(NamedTuple):
    """Up to ``after`` rows are not read again; ``seen``: the looks that are not settled yet, and the last that is."""

    after: int
    seen: tuple[Seen, ...] = ()

    def looked(self, look: Seen, read_to: int, settled_ms: int) -> "RowMark":
        """After a look in which rows up to an id were read; what another look saw ``settled_ms`` before is all there. A
        table that has less than it had was emptied or restored."""
        looks = tuple(one for one in self.seen if one.moment_ms <= look.moment_ms and one.last_id <= look.last_id)
        settled = [one for one in looks if look.moment_ms - one.moment_ms >= settled_ms]
        after = max(self.after, min(settled[-1].last_id, read_to)) if settled else self.after
        return RowMark(min(after, look.last_id), (*settled[-1:], *looks[len(settled) :], look))

    def first_seen_ms(self, row_id: int, look: Seen) -> int | None:
        """When a row was there that was not at the look before, which was not long before; None: that is not known."""
        before = None
        for one in (*self.seen, look):
            if one.last_id >= row_id:
                known = before is not None and one.moment_ms - before.moment_ms <= CLOSE_MS
                return one.moment_ms if known else None
            before = one
        return None


class ToldByRow(NamedTuple):
    request: bytes  # of the feed
    item: int  # key
    event: str
    reward: float
    happened_ms: int


class ToldByRows(NamedTuple):
    """What rows told of the feeds that a ledger still knows."""

    told: list[ToldByRow]
    since_ms: int | None  # of the oldest of these feeds; None: it knows none


def told_by_rows(ledger: Path) -> ToldByRows | None:
    """``ledger``: its file, which is not changed. None: there is none that can be read."""
    told = f"SELECT request, item, event, reward, happened FROM happenings WHERE source LIKE '{BY_ROW}%' AND shows = 0"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(ledger))}?mode=ro", uri=True)) as database:
            rows = [ToldByRow(*row) for row in database.execute(told)]
            [[since]] = database.execute("SELECT min(happened) FROM feeds")
    except sqlite3.Error:
        return None
    return ToldByRows(rows, since)


class RowNotes:
    """All of it within a step of the ledger, but for what is only read. ``database``: the ledger's, with its tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        for statement in _TABLES:
            database.execute(statement)
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_OLDER,)).fetchone() is not None:
            database.execute(f"INSERT OR IGNORE INTO rows_noted SELECT source, id, '' FROM {_OLDER}")
            database.execute(f"DROP TABLE {_OLDER}")

    def mark(self, table: str) -> RowMark | None:
        """None: the table was never looked at."""
        row = self._database.execute("SELECT mark, seen FROM row_marks WHERE source = ?", (table,)).fetchone()
        return None if row is None else RowMark(row[0], tuple(Seen(*one) for one in json.loads(row[1])))

    def keep(self, table: str, mark: RowMark) -> None:
        run = self._database.execute
        run("INSERT OR REPLACE INTO row_marks VALUES (?, ?, ?)", (table, mark.after, json.dumps(mark.seen)))
        run("DELETE FROM rows_noted WHERE source = ? AND id <= ?", (table, mark.after))

    def take(self, table: str, row: OperatorRow) -> bool:
        """Note that a row was taken up; whether it was not before."""
        insert = (
            "INSERT OR IGNORE INTO rows_noted SELECT :table, :id, :who WHERE NOT EXISTS "
            "(SELECT 1 FROM rows_noted WHERE source = :table AND id = :id AND who = '')"  # of a release before
        )
        values = {"table": table, "id": row.id, "who": row.who}
        return self._database.execute(insert, values).rowcount > 0

    def watch(self, table: str, row_id: int, until_ms: int, now_ms: int) -> None:
        """Have a row looked at again, until so late: what it says may be another thing by then."""
        self._database.execute(
            "INSERT OR REPLACE INTO rows_watched VALUES (?, ?, ?, ?)", (table, row_id, until_ms, now_ms)
        )

    def unwatch(self, table: str, row_id: int) -> None:
        self._database.execute("DELETE FROM rows_watched WHERE source = ? AND id = ?", (table, row_id))

    def watched(self, table: str, most: int) -> list[int]:
        """Rows of a table that were not looked at for the longest."""
        rows = self._database.execute(
            "SELECT id FROM rows_watched WHERE source = ? ORDER BY looked, id LIMIT ?", (table, most)
        )
        return [number for (number,) in rows]

    def drop_watched(self, now_ms: int) -> None:
        """What cannot count any more."""
        run = self._database.execute
        run("DELETE FROM rows_watched WHERE until < ?", (now_ms,))
        [[count]] = run("SELECT count(*) FROM rows_watched")
        if count > MOST_WATCHED:
            oldest = "SELECT source, id FROM rows_watched ORDER BY until LIMIT ?"
            run(f"DELETE FROM rows_watched WHERE (source, id) IN ({oldest})", (count - MOST_WATCHED,))

    def feeds_told_of(self, user_id: int, item: int, event: str) -> list[bytes]:
        """Feeds of a user in which rows tell this of the item."""
        rows = self._database.execute(
            "SELECT request FROM happenings INDEXED BY happenings_of_rows CROSS JOIN feeds USING (request) "
            f"WHERE item = ? AND event = ? AND {_OF_ROWS} AND user = ?",
            (item, event, user_id),
        )
        return [request for (request,) in rows]

    def is_told_by_feedback(
        self, request: bytes, user_id: int, item: int, event: str, *, happened_ms: int, hours_ms: int
    ) -> bool:
        """Whether feedback tells of another feed of the user, within the hours, what a row tells of this one."""
        found = self._database.execute(
            "SELECT 1 FROM feeds f JOIN happenings h ON h.request = f.request AND h.item = ? AND h.event = ? "
            f"WHERE f.user = ? AND f.request != ? AND h.source NOT LIKE '{BY_ROW}%' "
            "AND abs(h.happened - ?) <= ? AND h.happened - f.happened <= ? LIMIT 1",
            (item, event, user_id, request, happened_ms, hours_ms, hours_ms),
        )
        return found.fetchone() is not None
