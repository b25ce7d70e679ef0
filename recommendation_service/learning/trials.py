"""Trials: versions that stand in the shadow of the one that serves, until the gate finds them better, or not.

What serves is weighed against its shadows on its own feeds. Of these shadows

- the candidate is the learner's own: one at a time. What is learned meanwhile takes its place, and what was gathered
  counts on, as of one policy that learns while it is weighed. Where that is found to be better, the newest is promoted.
  Where it is found to be worse, or nothing can be told after all feeds of a trial, it gives way, and what was learned
  since begins anew;
- the way back is what was served before. Where it is found to be better than what took its place, it is served again;
- those that people have named are weighed, and what becomes of them is for people to say.

What is tried follows from the store alone, and how far it was looked at from the evidence, so that a trial goes on
where it was, whoever died meanwhile, and one whose version somebody served, removed or replaced is over.
"""

from datetime import UTC, datetime

import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.estimates.logged import UnusableLog
from recommendation_service.learning.gate import Rules, due, judge
from recommendation_service.learning.ledger import Ledger
from recommendation_service.learning.weighed import WeighedFeeds
from recommendation_service.policies.evidence import BETTER, WORSE, EvidenceFiles, Look
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.store import BY_LEARNER, MOST_SHADOWS, PolicyStore

log = structlog.get_logger(__name__)

BY_GATE = "the gate"
PROMOTED, RETURNED = "promoted", "returned"


class Trials:
    """One learner's, of its own machine's feeds."""

    def __init__(self, settings: Settings, ledger: Ledger, store: PolicyStore) -> None:
        self._acts = settings.learn_promotion == "gated"
        self._rules = Rules(settings.learn_trial_feeds, settings.learn_confidence, settings.learn_tolerated_loss)
        self._ledger = ledger
        self._store = store
        self._files = EvidenceFiles(store.folder)
        self._told: str | None = None
        self._kept: tuple[str, tuple[str, ...]] | None = None  # what the weighed feeds were last cut down to
        self._are_alike: dict[tuple[str, str], bool] = {}  # whether two versions draw from the same pools
        self.problem: str | None = None  # why what was found is not done

    def look(self, now: float) -> dict[str, int]:
        """Weigh what is due, and do what follows; how often each verdict and deed came. Raises PolicyError, OSError."""
        did: dict[str, int] = {}
        self.problem = None
        serves = self._store.current()
        if serves is None:
            return did
        for version in self._store.shadows():
            looked = self._last_look(version, serves)
            feeds = self._ledger.weighed.count(serves, version)
            at = due(feeds, looked.feeds if looked else 0, self._rules.most_feeds)
            if at is not None:
                looked = self._judge(version, serves, at, now)
                did[looked.verdict] = did.get(looked.verdict, 0) + 1
            if looked is not None and looked.verdict == BETTER and self._acts:
                deed = self._serve(version, serves, looked, now)
                if deed is not None:
                    did[deed] = 1
                    break
        self._tidy(now)
        return did

    def try_out(self, version: str, now: float) -> None:
        """Have a version weighed, as the learner's candidate, in the place of the one that was. Raises PolicyError."""
        before = self.candidate()
        self._show(version, now, "it is weighed beside what is served")
        if before is not None:
            with self._ledger.step():
                self._ledger.weighed.take_place(version, before)

    def status(self) -> str | None:
        """What is being weighed, in words."""
        serves, version = self._store.current(), self.candidate()
        if serves is None or version is None:
            return None
        looked = self._last_look(version, serves)
        feeds = self._ledger.weighed.count(serves, version)
        said = f"; at {looked.feeds:,}: {looked.words}" if looked else ""
        return f"{version}{self._with_those_before(version)} is weighed on {feeds:,} feeds of {serves}{said}"

    def _with_those_before(self, version: str) -> str:
        before = len(self._ledger.weighed.series(version)) - 1
        return f" with {before} before it" if before else ""

    def _judge(self, version: str, serves: str, at: int, now: float) -> Look:
        feeds: WeighedFeeds | UnusableLog
        try:
            feeds = self._ledger.weighed.feeds(serves, version, at)
        except UnusableLog as error:
            feeds = error
        found = judge(feeds, at, self._rules, serves, datetime.fromtimestamp(now, UTC), BY_GATE)
        self._files.add(version, found)
        log.info("a policy version was weighed", version=version, verdict=found.verdict, words=found.words)
        return found

    def _serve(self, version: str, serves: str, look: Look, now: float) -> str | None:
        """What was done, if anything: somebody may have served another one meanwhile, or pinned one."""
        is_back = version == self._way_back()
        if not is_back and version != self.candidate():
            return None
        why = f"{look.words} Of {look.feeds:,} feeds of {serves}{self._with_those_before(version)}."
        deed = Deed(datetime.fromtimestamp(now, UTC), BY_GATE, why)
        try:
            if is_back:
                self._store.rollback(deed, serves)
            else:
                self._store.promote(version, deed, serves)
        except PolicyError as error:
            self.problem = f"{version} is better than {serves}, and is not served: {error}"
            if self.problem != self._told:
                log.warning("a version that is better is not served", version=version, reason=str(error))
            self._told = self.problem
            return None
        log.warning("a policy version was served by the gate", version=version, instead=serves, words=look.words)
        return RETURNED if is_back else PROMOTED

    def _tidy(self, now: float) -> None:
        """Have what is decided leave the shadow, and what takes the place of the way back come into it."""
        candidate, serves = self.candidate(), self._store.current()
        if candidate is not None and serves is not None and self._is_over(candidate, serves):
            candidate = None
        self._show(candidate, now, "of what is served now" if candidate is None else "the way back is another one")
        if serves is None:
            return
        shadows, weighed, most = self._store.shadows(), self._ledger.weighed, self._rules.most_feeds
        if self._kept != (serves, shadows) or max(weighed.counts(serves).values(), default=0) > 1.1 * most:
            with self._ledger.step():
                weighed.keep(serves, shadows, most)
            self._kept = serves, shadows

    def _is_over(self, version: str, serves: str) -> bool:
        look = self._last_look(version, serves)
        return look is not None and (look.verdict == WORSE or look.feeds >= self._rules.most_feeds)

    def _show(self, candidate: str | None, now: float, why: str) -> None:
        """The shadows: people's, the way back while it is weighed, and the candidate."""
        serves, back = self._store.current(), self._way_back()
        if back is not None and serves is not None and self._is_over(back, serves):
            back = None
        served_before = set(self._store.served_before())
        here, before = set(self._store.versions()), self._store.shadows()
        people = [
            name
            for name in before
            if name in here and name not in served_before and name != serves and not self._store.is_learners(name)
        ]
        own = [name for name in (back, candidate) if name is not None]
        wanted = [*people[: MOST_SHADOWS - len(own)], *own]
        if set(wanted) != set(before):
            self._store.shadow(wanted, Deed(datetime.fromtimestamp(now, UTC), BY_LEARNER, why))

    def candidate(self) -> str | None:
        """The learner's own that is being weighed."""
        return self._store.candidate()

    def _way_back(self) -> str | None:
        """What was served before, where it can be weighed; only where one would go back by oneself."""
        serves = self._store.current()
        back = next(self._store.served_before(), None) if self._acts and serves is not None else None
        if back is None or serves is None:
            return None
        if (back, serves) not in self._are_alike:
            try:
                digests = {self._store.open(version).pools_digest for version in (back, serves)}
            except PolicyError:
                return None  # it is gone, or damaged: nothing can be told of it
            self._are_alike[back, serves] = len(digests) == 1
        return back if self._are_alike[back, serves] and back in self._store.versions() else None

    def _last_look(self, version: str, serves: str) -> Look | None:
        """Of the gate's own: how far it looked, and with what confidence, is no matter of others' looks."""
        for one in reversed(self._ledger.weighed.series(version)):
            for look in reversed(self._files.of(one)):
                if look.against == serves and look.who == BY_GATE:
                    return look
        return None
