"""The learner: from the log and the operator's tables to policy versions. One for each DATA_DIR (registry.py).

Each step reads some of the log, and keeps what follows from it together with how far it was read (ledger.py). Now and
then it begins with a look at the tables (operator_rows.py).
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from recommendation_service.core.blocking_redis import open_blocking_redis
from recommendation_service.core.config import Settings
from recommendation_service.core.database import PoolShare
from recommendation_service.core.errors import ConfigurationError, PolicyError, SourceError
from recommendation_service.core.place import problem_of
from recommendation_service.learning.abroad import Received
from recommendation_service.learning.arms import in_short
from recommendation_service.learning.fleet import CutOff, LearningFleet, NotThisMachine
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.intake import Intake
from recommendation_service.learning.ledger import Ledger
from recommendation_service.learning.operator_rows import Look, OperatorRows
from recommendation_service.learning.publishing import Publisher
from recommendation_service.learning.row_notes import TRANSACTION_MS
from recommendation_service.learning.status import LearnerStatus, Totals, read_status
from recommendation_service.learning.sums import Sums
from recommendation_service.log.marks import LEARN
from recommendation_service.log.reader import LogReader
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.fleet import Fenced, FleetPolicies
from recommendation_service.policies.store import PolicyStore
from recommendation_service.processes.registry import LEARNER
from recommendation_service.processes.requests import asked

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
REQUEST_POLL_SECONDS = 0.2
# After a step the learner does nothing for so many times as long as the processor took for it: requests come first. Not
# as long as it took by the clock: beside others that is many times as much, and it would fall behind for ever.
REST = 3.0
# A machine that does not publish looks so often whether it is to.
FLEET_LOOK_SECONDS = 10.0
# While it cannot work, it says why, and tries again after so long.
RETRY_SECONDS = 15.0


def _empty_sums(settings: Settings, file: LearningFile) -> Sums:
    """Of the features of the policy that is served as the learner starts; with others it ends, and is started anew."""
    served = PolicyChoice(settings).take_up().policy.file
    return Sums(served.kind_names, served.feature_names, file.half_life_seconds)


class Learner:
    """``now``: seconds since 1970. Raises SourceError (LedgerRefused, ReaderTaken), OSError; then nothing is held."""

    def __init__(
        self,
        settings: Settings,
        file: LearningFile,
        now: Callable[[], float] = time.time,
        share: PoolShare | None = None,
    ) -> None:
        """``share``: of the connections to the database; None for a command."""
        self._settings = settings
        self._now = now
        self.ledger = Ledger(settings.learning_dir, _empty_sums(settings, file), now(), file.person_slots)
        try:
            self._reader = LogReader(settings.events_dir, LEARN, since=self.ledger.mark)
        except BaseException:
            self.ledger.close()
            raise
        self._operator = OperatorRows(settings, tuple(file.rows), share)
        self._looks: list[Look] = []  # at the operator's tables, which wait until the log is read to its end
        redis = open_blocking_redis(settings)
        self.fleet = None if redis is None else LearningFleet(redis, self.ledger, settings.learning_dir)
        self._intake = Intake(
            self.ledger,
            self.totals,
            file,
            self._now_ms,
            has_fleet=self.fleet is not None,
            weighs=settings.learn_promotion != "off",
        )
        self._longest_ms = file.longest_ms
        self._received: Received | None = None  # of other machines, which waits as the looks do
        self._policies = PolicyStore(settings.policy_dir, settings.policy_keep)
        self._publisher = Publisher(settings, file, self.ledger, None if redis is None else FleetPolicies(redis))
        self._problem: str | None = None  # why nothing is published
        self._unshared: str | None = None  # why what is learned is not, as it was logged last
        self._looked_at = -FLEET_LOOK_SECONDS
        self.status = read_status(settings.learning_dir) or LearnerStatus()
        self.status.totals, self.status.error = self.totals, None

    @property
    def totals(self) -> Totals:
        return self.ledger.totals

    def step(self) -> bool:
        """Read some, keep what follows; whether there is more to do at once. Raises SourceError, OSError."""
        if (wrong := problem_of(self._settings)) is not None:
            raise SourceError(wrong)
        self._looks = self._looks or self._operator.look(self.ledger.rows, self._now_ms())
        if self.fleet is not None and self._received is None:
            self._received = self.fleet.received()
        batch = self._reader.read()
        if batch.missed is not None:
            log.error("records of the log were deleted before they were learned from", records=batch.missed.records)
            self.totals.leave("missed", batch.missed.records)
        with self.ledger.step():
            self.ledger.forget({user: deletion.moment for user, deletion in self._reader.forgotten.items()})
            self._intake.take(batch)
            more = batch.has_more
            if not more:
                self._intake.match()
                self._match_rows()
                if self._received is not None:
                    self._intake.take_handed_over(self._received)
                more = self._intake.settle()
                self._intake.drop_old(self._settings.learn_pending_feeds)
            self.ledger.keep(batch.mark)
        self._reader.settle(batch.mark)
        if not batch.has_more:
            self._received = None
            if self.fleet is not None:
                self.fleet.hand_over(self._longest_ms)
        return more

    def _match_rows(self) -> None:
        settled_ms = TRANSACTION_MS + 1000 * self._settings.mysql_max_replica_lag_seconds
        for look in self._looks:
            self._intake.match_rows(look, settled_ms)
        self._looks = []

    def publish(self, *, asked: bool = False) -> bool:
        """Publish what was learned since the last version; whether anything was.

        In a fleet, of all machines, where this one is to; ``asked``: it is from now on. Raises PolicyError (CutOff,
        NotThisMachine), ConfigurationError, OSError.
        """
        now, totals, sums, machines, fence = self._now(), self.totals, self.ledger.sums, 1, ""
        slots = totals.all_slots
        if self.fleet is not None:
            self.fleet.share(now, at_once=True, take_lease=asked)
            sums, slots, machines = self.fleet.merge(now)
            self._follow_published(self.fleet.published)
            if self.fleet.fence is None:
                return False
            fence = self.fleet.fence
        if slots == totals.version_slots:
            return False
        try:
            published = self._publisher.publish(sums.at(now), slots, totals.version, now, machines, fence)
        except Fenced as error:
            log.info("another machine publishes", reason=str(error))
            return False
        totals.version, totals.version_ms, totals.version_slots = published.version, self._now_ms(), slots
        with self.ledger.step():
            self.ledger.keep(self.ledger.mark)
        if self.fleet is not None:
            self.fleet.note_published(published.version, slots, now)
        log.info("a policy version was learned", version=published.version, moved=published.words)
        return True

    def _follow_published(self, published: dict[str, Any]) -> None:
        """What another machine published counts as this one's: for when the next is due, and what it is beside."""
        totals = self.totals
        version, moment_ms, slots = (published.get(name) for name in ("version", "ms", "slots"))
        if not (isinstance(moment_ms, int) and isinstance(slots, int) and isinstance(version, str)):
            return
        if totals.version_ms is None or totals.version_ms < moment_ms:
            totals.version, totals.version_slots = version, slots
            totals.version_ms = min(moment_ms, self._now_ms())  # by the other machine's clock

    def learn_all(self) -> None:
        """All that the log has, and a version of it. Raises as ``step`` and ``publish`` do."""
        while self.step():
            pass
        self.publish(asked=True)
        self.look()

    def run(self, stop: threading.Event) -> None:
        """Until asked to stop. Raises SourceError, OSError where it cannot go on."""
        while not stop.is_set():
            began = time.thread_time()
            token = self._requested()
            more = self.step()
            refused = None
            if not more and (token is not None or self._is_due()):
                refused = self._publish(asked=token is not None)
                self.status.learn_token = token or self.status.learn_token
            elif self.fleet is not None:
                self._share(self.fleet)
            if not more:
                self.look()
            self.tell(refused)
            self._wait(stop, REST * (time.thread_time() - began) + (0.0 if more else LOOK_SECONDS))

    def _publish(self, *, asked: bool) -> str | None:
        """Why nothing could be, for who asked."""
        self._looked_at = time.monotonic()
        try:
            self.publish(asked=asked)
            self._problem = None
        except (CutOff, NotThisMachine) as error:  # the fleet's own problem tells it for as long as it is so
            self._problem = None
            return str(error) if asked else None
        except (PolicyError, ConfigurationError) as error:
            if str(error) != self._problem:
                log.error("what was learned is not published", reason=str(error))
            self._problem = str(error)
        return None

    def look(self) -> None:
        """Weigh the versions that stand in the shadow, and serve one that is found to be better; in a fleet, on the
        machine that publishes. Raises OSError."""
        trials = self._publisher.trials
        if trials is None or (self.fleet is not None and self.fleet.fence is None):
            return
        try:
            self._publisher.hold(self.fleet.fence if self.fleet is not None else None)
            for did, count in trials.look(self._now()).items():
                self.status.gate[did] = self.status.gate.get(did, 0) + count
        except PolicyError as error:
            self._problem = str(error)
        self.status.trial = trials.problem or trials.status()

    def _share(self, fleet: LearningFleet) -> None:
        try:
            fleet.share(self._now())
        except (CutOff, NotThisMachine) as error:
            if str(error) != self._unshared:
                log.warning("what is learned is not shared", reason=str(error))
            self._unshared = str(error)

    def _is_due(self) -> bool:
        since = self.totals.version_ms
        if self.fleet is not None and time.monotonic() - self._looked_at < FLEET_LOOK_SECONDS:
            return False  # another machine publishes, or none can
        return since is None or not 0 <= self._now_ms() - since < 1000 * self._settings.learn_publish_seconds

    def _requested(self) -> str | None:
        token = asked(LEARNER, self._settings.learning_dir)
        return token if token > (self.status.learn_token or "") else None

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Returns early where somebody waits, or the end is."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._requested() is None:
            if stop.wait(min(left, REQUEST_POLL_SECONDS)):
                return

    def tell(self, refused: str | None = None) -> None:
        """Write the status. ``refused``: why what was just asked for was not done."""
        self.status.pending_feeds = self.ledger.pending_feeds()
        self.status.unread = self._operator.problems
        self.status.error = refused or self._problem or (self.fleet.problem if self.fleet is not None else None)
        experiment = self._policies.experiment()
        totals = self.ledger.arms.totals() if experiment is not None else {}
        self.status.experiment = in_short(experiment, totals) if experiment is not None else None
        self.status.fleet = self.fleet.status() if self.fleet is not None else None
        self.status.write(self._settings.learning_dir, self._now_ms())

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def close(self) -> None:
        if self.fleet is not None:
            self.fleet.close()
        self._reader.close()
        self._operator.close()
        self.ledger.close()
