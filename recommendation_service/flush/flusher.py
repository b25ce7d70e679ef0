"""Brings events from the log into the database: when, how far, and what became of it. One a machine (process.py).

It reads all segments as they grow, keeps what is not in the database in memory up to a bound (pending.py), and
flushes when somebody would otherwise wait too long. It is no loss when it is killed: the log has everything until the
database has it, and to flush an event twice is to flush it once.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.engine import Engine

from recommendation_service.core.clock_watch import ClockWatch
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.place import problem_of
from recommendation_service.flush.batches import Left
from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
from recommendation_service.flush.destination import Destination
from recommendation_service.flush.event_writer import Outcome
from recommendation_service.flush.flusher_status import FlusherStatus, read_status
from recommendation_service.flush.forgetting import delete_records
from recommendation_service.flush.housekeeping import Housekeeping
from recommendation_service.flush.pace import Promise, rest_seconds, share_of_work
from recommendation_service.flush.pending import Fleet, Pending
from recommendation_service.flush.rows import Event
from recommendation_service.log.event_log import folder_bytes
from recommendation_service.log.records import encode, now_ms
from recommendation_service.log.retention import remove_passed
from recommendation_service.processes.registry import FLUSHER
from recommendation_service.processes.requests import asked

log = structlog.get_logger(__name__)

# Of what waits in memory; while that is written, as much again is read.
MOST_RECORDS = 50_000
MOST_BYTES = 64 << 20
LOOK_SECONDS = 1.0
REQUEST_POLL_SECONDS = 0.1
# After a failed flush the next try comes after so long, doubled up to the longest.
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 15.0
# The supervisor waits 5 s for the process to end.
LAST_FLUSH_SECONDS = 3.5
# While a flush rests, it says so often how far it is.
TELL_SECONDS = 1.0


class Flusher:
    """Decides when to flush, flushes, and says how it went.

    ``clock``: seconds that only go on; ``now_ms``: milliseconds since 1970; ``watch``: says whether these
    are certain, None: the caller does. Raises ReaderTaken: there is one at a time,
    and ConfigurationError for a mapping that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        fleet: Fleet | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = now_ms,
        watch: ClockWatch | None = None,
    ) -> None:
        self._settings = settings
        self._folder = settings.events_dir
        self._engine = engine
        self._stop = stop or threading.Event()
        self._clock = clock
        self._now_ms = now_ms
        self._watch = watch
        self._pending = Pending(self._folder, fleet, MOST_RECORDS, MOST_BYTES)
        self._dead = DeadLetters(self._folder)
        self._hurry = threading.Event()  # what is under way may end, nothing else is begun
        self._destination = Destination(settings, engine)
        self._writer = self._destination.writer(self._hurry)
        self._promise = Promise(
            settings.flush_interval_seconds, settings.flush_threshold_activities, clock, self._now_ms
        )
        self._left: Left | None = None  # of what is being flushed
        self._told = -math.inf
        self._next_try = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._housekeeping = Housekeeping(settings, engine, fleet, clock=clock, now_ms=now_ms, watch=watch)
        self.status = read_status(self._folder) or FlusherStatus()
        self.status.error = self.status.taken = None

    def close(self) -> None:
        """Another may flush."""
        self._pending.close()

    def run(self) -> None:
        """Until asked to stop; then what can be flushed within seconds is."""
        while not self._stop.is_set():
            try:
                self.step()
            except OSError as error:  # the folder's: a disk that fails, or files of another user
                self._say(f"{error.filename or self._folder} cannot be used: {error.strerror}")
            except Exception as error:
                # Whatever is wrong, events wait in the log, and the next look comes.
                log.exception("the flusher failed")
                self.status.error = f"{type(error).__name__}: {error}"
                self.tell()
            self._wait(LOOK_SECONDS)
        timer = threading.Timer(LAST_FLUSH_SECONDS, self._hurry.set)
        timer.daemon = True
        timer.start()
        self._next_try = 0.0
        try:
            self.flush_all()
        except Exception:
            log.exception("the last flush failed")
        timer.cancel()
        self.tell()

    def _say(self, problem: str) -> None:
        if problem != self.status.error:
            log.error("events wait in the log", reason=problem)
        self.status.error = problem
        self.tell()

    def step(self) -> None:
        """One look: read what is new, flush where that is due, keep house now and then."""
        if (wrong := problem_of(self._settings)) is not None:
            self._say(wrong)
            return
        self._housekeeping.forget_with_the_fleet()
        self.read()
        self._remove_passed()
        self.tell()  # what waits is known before anything asks a database that may hang
        if self._watch is not None:
            self._watch.look()  # before anything is written: the newest row tells when the fleet was last seen
        token = self._requested()
        if token is not None or self._is_due():
            whole = self.flush_all(gently=token is None)
            if token is not None and whole:
                self.status.flush_token = token
        self._housekeeping.step()
        self.tell()

    def flush_all(self, *, gently: bool = False) -> bool:
        """All that the log had at the call, in steps where it is more than the bound. Whether nothing of it is left.

        ``gently``: with rests, see pace.py.
        """
        while True:
            self.read()
            self.tell()
            has_more = self._pending.has_more
            if not self.flush(gently=gently):
                return False
            if not has_more:
                return True

    def read(self) -> int:
        """Take up what the log has beyond what is pending; how many records."""
        count = self._pending.read()
        if self._pending:
            self._promise.note(self._pending.oldest_ms, self._pending.most_of_a_user)
        return count

    def _is_due(self) -> bool:
        due = self._due_seconds()
        return due is not None and due <= 0

    def _due_seconds(self) -> float | None:
        """Until what waits is flushed at the latest; None: nothing waits."""
        promised = self._promise.seconds()
        if promised is None:
            return None
        waits = 0.0 if self._pending.is_full or self._filled() >= 1 else promised
        return max(0.0, waits, self._next_try - self._clock())

    def _filled(self) -> float:
        """What waits, of half of the log's limit: from there on nothing may wait any longer."""
        waiting = folder_bytes(self._folder) - self._pending.finished_bytes
        return waiting / (self._settings.event_log_megabytes << 19)

    def _remove_passed(self) -> None:
        """What all readers of the log have passed, and what others may not keep any longer."""
        most_bytes = int(self._settings.reader_log_share * (self._settings.event_log_megabytes << 20))
        try:
            remove_passed(self._folder, self._pending.settled, most_bytes)
        except OSError as error:  # a full disk or another user's files: the flush is not to wait for a reader
            log.error("segments of the log cannot be removed", reason=str(error))

    def _rest(self, seconds: float, left: Left) -> None:
        """After a batch that took so long, while nobody waits for the flush: leave the machine to requests."""
        self._left = left
        self._promise.partly_kept(left.oldest_ms)
        if self._clock() >= self._told + TELL_SECONDS:
            self.tell()
        until = time.monotonic() + rest_seconds(seconds, share_of_work(self._promise.overdue_seconds(), self._filled()))
        while (remaining := until - time.monotonic()) > 0 and self._requested() is None:
            if self._stop.wait(min(remaining, REQUEST_POLL_SECONDS)):
                return

    def flush(self, *, gently: bool = False) -> bool:
        """Bring all that is pending into the database. Whether all of it is there, or among the dead letters."""
        started = self._clock()
        # With nothing to write no table is needed, and none is made.
        has_rows = self._pending.records or self._pending.undecodable
        problem = (self._destination.prepare_tables() if has_rows else None) or self._destination.wrong_place()
        if problem is None:
            try:
                problem = self._flush(gently=gently)
            finally:
                self._left = None
        self.status.flushes += 1
        self.status.flush_seconds += self._clock() - started
        if problem is None:
            if self.status.error is not None:
                log.info("events are flushed again", after_failures=self.status.failures)
            self.status.failures, self.status.error = 0, None
            self._retry_seconds, self._next_try = FIRST_RETRY_SECONDS, 0.0
            return True
        if problem != self.status.error:
            log.error("events wait in the log", reason=problem, records=len(self._pending.records))
        self.status.failures, self.status.error = self.status.failures + 1, problem
        self._next_try = self._clock() + self._retry_seconds * random.uniform(0.5, 1.0)  # noqa: S311
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_SECONDS)
        return False

    def _flush(self, *, gently: bool) -> str | None:
        """None, or why something is left."""
        pending = self._pending
        pending.forget()
        wanted = pending.records
        outcome = self._write(wanted, gently=gently)
        late = set(map(id, pending.forget(wanted)))
        self.status.forgotten += pending.forgotten_records
        pending.forgotten_records = 0
        outcome.left = [record for record in outcome.left if id(record) not in late]
        outcome.refused = [refused for refused in outcome.refused if id(refused[0]) not in late]
        letters = [dead_letter(encode(record), reason, record) for record, reason in outcome.refused]
        letters += pending.undecodable
        try:
            self._dead.add(letters)
        except OSError as error:
            # The refused ones stay pending: they have no other place.
            outcome.left += [record for record, _ in outcome.refused]
            outcome.problem = f"dead letters cannot be written to {self._folder}: {error.strerror}"
        else:
            pending.undecodable = []
            self.status.dead_letters += len(letters)
            if letters:
                log.error("records were refused for ever", records=len(letters), reason=letters[0].reason)
        for event, count in outcome.inserted.items():
            self.status.flushed[event] = self.status.flushed.get(event, 0) + count
        self.status.duplicates += outcome.duplicates
        self.status.retries += outcome.retries
        self.status.escaped += outcome.escaped
        pending.keep(outcome.left)
        if outcome.left or outcome.problem:
            return outcome.problem
        try:  # before it is settled: a flusher that ends here begins again with them
            delete_records(self._engine, pending.dropped)
        except SourceError as error:
            return str(error)
        pending.dropped = []
        damage = pending.settle()
        self.status.damaged_segments += damage.segments
        self.status.torn_records += damage.torn
        self._remove_passed()
        self._promise.kept()
        return None

    def _write(self, records: list[Event], *, gently: bool) -> Outcome:
        """Where there is more in the log and no rest, that is read meanwhile: the database is to wait for nothing.

        Raises whatever else befell the reading: then nothing was taken, and what was written is written again.
        """
        if gently:
            return self._writer.write_gently(records, self._rest)
        if not self._pending.may_read_ahead:
            return self._writer.write(records)
        with ThreadPoolExecutor(1, "read") as pool:
            reading = pool.submit(self._pending.read_ahead)
            outcome = self._writer.write(records)
        try:
            reading.result()
        except OSError as error:  # then nothing was taken, and the next look says it, or succeeds
            log.warning("reading ahead failed", reason=str(error))
        return outcome

    def _requested(self) -> str | None:
        """The flush that somebody waits for."""
        if self._clock() < self._next_try:
            return None
        token = asked(FLUSHER, self._folder)
        return token if token > (self.status.flush_token or "") else None

    def _wait(self, seconds: float) -> None:
        """Returns early where a flush is asked for, or the end is."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._requested() is None:
            if self._stop.wait(REQUEST_POLL_SECONDS):
                return

    def tell(self) -> None:
        """Write the status."""
        status = self.status
        status.unreadable_segments = self._pending.unreadable
        status.waiting_records = self._left.records if self._left else len(self._pending.records)
        status.waiting_bytes = self._pending.waiting_bytes
        status.oldest_ms = self._left.oldest_ms if self._left else self._pending.oldest_ms
        status.most_of_a_user = self._pending.most_of_a_user
        due = self._due_seconds()
        status.due_ms = None if due is None else self._now_ms() + int(due * 1000)
        promised = self._promise.seconds()
        status.promised_ms = None if promised is None else self._now_ms() + int(promised * 1000)
        status.write(self._folder, self._now_ms())
        self._told = self._clock()
