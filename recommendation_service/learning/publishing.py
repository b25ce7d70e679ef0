"""What was learned becomes a policy version: kept, and as a shadow at most loaded. What serves one is a person, or the
gate (trials.py)."""

from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError, SourceError
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.ledger import Ledger
from recommendation_service.learning.posterior import Model, believed_matrices, posterior
from recommendation_service.learning.steps import BETTER_BY, Offered, Step, expected_gain, next_step
from recommendation_service.learning.sums import BESIDE, Floats
from recommendation_service.learning.trials import Trials
from recommendation_service.learning.variety import recorded_feeds, shares, slots_by_kind, temperatures
from recommendation_service.policies.choice import begun_with
from recommendation_service.policies.differences import in_words, moves
from recommendation_service.policies.fleet import FleetPolicies
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Learned, Policy, parse_policy
from recommendation_service.policies.store import BY_LEARNER, MOST_SHADOWS, POLICY, PolicyStore

log = structlog.get_logger(__name__)

TOLD_MOVES = 4
# Two policies of which nearly every feed could be either's are one: there is nothing to weigh.
SAME = 0.99


class OtherFeatures(SourceError):
    """A learner has to begin with those of the policy that is served by now."""


class Published(NamedTuple):
    version: str
    words: str


class Publisher:
    """Versions have the policy file that is served at that moment, and what was learned about its prior."""

    def __init__(
        self, settings: Settings, file: LearningFile, ledger: Ledger, fleet: FleetPolicies | None = None
    ) -> None:
        """``fleet``: of which this machine's learner is one; None: there is none."""
        self._settings = settings
        self._file = file
        self._live_share = settings.learn_live_share if settings.learn_promotion == "gated" else 0.0
        self._store = PolicyStore(settings.policy_dir, settings.policy_keep, fleet)
        self._fleet = fleet
        self.trials = None if settings.learn_promotion == "off" else Trials(settings, ledger, self._store)

    def hold(self, fence: str | None) -> None:
        """``fence``: of the lease to publish for the fleet."""
        if self._fleet is not None:
            self._fleet.fence = fence or ""

    def publish(
        self, sums: Floats, slots: int, before: str | None, now: float, machines: int = 1, fence: str = ""
    ) -> Published:
        """``sums``: as they are now, of so many slots and machines; ``before``: what was published last, with which it
        is compared; ``fence``: of the lease to publish for the fleet.

        Raises OtherFeatures, PolicyError (Fenced: another machine publishes by now), ConfigurationError.
        """
        self.hold(fence)
        deed = Deed(datetime.fromtimestamp(now, UTC), BY_LEARNER, "")
        if self.trials is not None and self._store.current() is None:
            # What is weighed needs a version that serves, and what is promoted one to go back to.
            self._store.publish(self._served(), None, deed._replace(why="what was served before"))
        content = self._served()
        prior = Policy(parse_policy(content, "policy file"))
        if sums.shape[:2] != (len(prior.file.kind_names), len(prior.feature_names) + BESIDE):
            raise OtherFeatures("The policy that is served has other features or kinds than what was learned is of.")
        feeds = self._recorded_feeds(prior)
        learned, step = self._as_varied(prior, sums, feeds), ""
        serves = self._opened(self._store.current()) or prior
        candidate = self._candidate(self.trials, serves, learned, feeds) if self.trials is not None else None
        if candidate is not None:
            learned = candidate.learned
            step = "" if candidate.share == 1.0 else f", {candidate.share:.0%} of the way from {serves.version}"
        after = Policy(prior.file, *learned)
        words = in_words(moves(self._opened(before) or prior, after), TOLD_MOVES)
        of = f" of {machines} machines" if machines > 1 else ""
        why = f"learned from {slots:,} shown items{of}{step}: {words}"
        version = self._store.publish(content, learned, deed._replace(why=why), aside=True)
        if self.trials is not None:
            if candidate is not None:
                self.trials.try_out(version, now)
        elif self._settings.learner == "shadow":
            self._show_beside(version, deed._replace(why=why))
        return Published(version, words)

    def _candidate(
        self, trials: Trials, serves: Policy, learned: Learned, feeds: list[list[tuple[int, Floats]]]
    ) -> Step | None:
        """What is to be tried from now on, if anything. One that is being tried gives way to what is learned
        meanwhile, where more is expected of that; what was gathered of it counts on."""
        points, offered = self._file.points_of(serves.file.kind_names), Offered(feeds)
        step = next_step(serves, learned, offered, self._settings.learn_step_support, points, self._live_share)
        tried = trials.candidate()
        if tried is None:
            return step if step.support < SAME or not feeds else None
        older = self._opened(tried) if feeds else None
        if older is None:
            return None
        before = expected_gain(serves, older, offered, learned.theta, points)
        return step if step.gain > BETTER_BY * max(before, 0.0) else None

    def _recorded_feeds(self, prior: Policy) -> list[list[tuple[int, Floats]]]:
        try:
            return recorded_feeds(self._settings.decisions_dir, len(prior.feature_names))
        except OSError as error:
            log.warning("decisions cannot be read", reason=str(error))
            return []

    def _as_varied(self, prior: Policy, sums: Floats, feeds: list[list[tuple[int, Floats]]]) -> Learned:
        """Where there are no decisions, temperatures are those of the file."""
        model = model_of(prior, self._file)
        learned, slots = posterior(sums, model), slots_by_kind(feeds, len(prior.file.kind_names))
        evenness = shares(slots, believed_matrices(sums, model), model.precision, self._file.variety)
        return learned._replace(temperature=temperatures(prior, Policy(prior.file, *learned), slots, evenness))

    def _served(self) -> bytes:
        """The policy file that feeds are ranked by. Raises PolicyError, ConfigurationError."""
        version = None if self._settings.policy_file is not None else self._store.current()
        if version is None:
            return begun_with(self._settings)
        self._store.open(version)
        return (self._store.folder / version / POLICY).read_bytes()

    def _opened(self, version: str | None) -> Policy | None:
        try:
            return self._store.open(version) if version is not None else None
        except PolicyError:
            return None

    def _show_beside(self, version: str, deed: Deed) -> None:
        """In the place of the learner's own that was a shadow; people's stay."""
        people = [name for name in self._store.shadows() if not self._store.is_learners(name)]
        if len(people) < MOST_SHADOWS:
            self._store.shadow([*people, version], deed)


def model_of(prior: Policy, file: LearningFile) -> Model:
    return Model(
        prior.arrays.theta.copy(),
        prior.file.prior.precision,
        file.precision_factor,
        file.points_of(prior.file.kind_names),
        file.noise,
    )
