"""The second reader: a program that counts what is in the log, and keeps its mark with its counts, in one transaction.

python -m tests.faults.counter EVENTS_FOLDER DATABASE
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from recommendation_service.log.lags import LogLags
from recommendation_service.log.marks import Mark
from recommendation_service.log.reader import Batch, LogReader
from recommendation_service.log.records import FeedbackRecord

NAME = "count"
MODULE = "tests.faults.counter"
LOOK_SECONDS = 0.1
TABLES = (
    "CREATE TABLE IF NOT EXISTS counted (segment TEXT, place INTEGER, is_feed INTEGER, name TEXT)",
    "CREATE TABLE IF NOT EXISTS told (what TEXT)",
    "CREATE TABLE IF NOT EXISTS marks (mark BLOB)",
)


@dataclass
class Counted:
    """What the program found in the log."""

    places: Counter[str] = field(default_factory=Counter)  # of records, "segment:position": times that each was given
    events: Counter[str] = field(default_factory=Counter)  # event_id: records in the log
    feeds: Counter[str] = field(default_factory=Counter)  # request_id: the same
    told: list[str] = field(default_factory=list)  # that it missed something, or was given it again


class SecondReader:
    """The program, which is started and killed. ``folder``: of its own, on a disk that nobody fills."""

    def __init__(self, folder: Path, events_dir: Path) -> None:
        self._events_dir = events_dir
        self._counts, self._log = folder / "counted.sqlite", folder / "counter.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", MODULE, str(self._events_dir), str(self._counts)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_at_the_end(self) -> bool:
        """Whether it has counted all that is in the log."""
        return {lag.reader: lag.bytes for lag in LogLags(self._events_dir).read()}.get(NAME) == 0

    def counted(self) -> Counted:
        return read_counted(self._counts)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def main() -> None:
    folder, database = Path(sys.argv[1]), sqlite3.connect(sys.argv[2], isolation_level=None)
    for table in TABLES:
        database.execute(table)
    while True:
        try:
            with LogReader(folder, NAME, _mark(database)) as reader:
                while True:
                    batch = reader.read()
                    if batch.mark != reader.settled:
                        _count(database, batch)
                        with contextlib.suppress(OSError):  # a full disk: the mark is in the database
                            reader.settle(batch.mark)
                    if not batch.has_more:
                        time.sleep(LOOK_SECONDS)
        except OSError:  # a full disk, before it is registered
            time.sleep(LOOK_SECONDS)


def _mark(database: sqlite3.Connection) -> Mark | None:
    row = database.execute("SELECT mark FROM marks").fetchone()
    return Mark.decoded(row[0]) if row else None


def _count(database: sqlite3.Connection, batch: Batch) -> None:
    rows = []
    for stretch in batch.stretches:
        for record, begin in zip(stretch.records, stretch.begins, strict=True):
            if isinstance(record, FeedbackRecord):
                rows.append((stretch.segment, begin, False, record.event_id))
            else:
                rows.append((stretch.segment, begin, True, record.request_id.hex()))
    told = [f"missed {batch.missed}"] if batch.missed else []
    told += [f"given again: {segment}" for segment in batch.restarted]
    told += [f"no record: {reason}" for stretch in batch.stretches for _, reason in stretch.undecodable]
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO counted VALUES (?, ?, ?, ?)", rows)
    database.executemany("INSERT INTO told VALUES (?)", [(what,) for what in told])
    database.execute("DELETE FROM marks")
    database.execute("INSERT INTO marks VALUES (?)", (batch.mark.encoded(),))
    database.execute("COMMIT")


def read_counted(path: Path) -> Counted:
    counted = Counted()
    with contextlib.closing(sqlite3.connect(path)) as database:
        for segment, place, is_feed, name in database.execute("SELECT * FROM counted"):
            counted.places[f"{segment}:{place}"] += 1
            (counted.feeds if is_feed else counted.events)[name] += 1
        counted.told = [what for (what,) in database.execute("SELECT what FROM told")]
    return counted


if __name__ == "__main__":
    main()
