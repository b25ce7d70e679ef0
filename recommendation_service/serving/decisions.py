"""Which of a worker's feeds are recorded as decisions, and their recording once they are shown."""

import time
from collections.abc import Callable

import structlog

from recommendation_service.feed.pipeline import Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.log.decisions import MOST_BYTES, DecisionRecord, DecisionWriter
from recommendation_service.model.kinds import feed_code
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# A worker records a decision for an explanation so often at most: what clients ask for must not fill the disk.
EXPLAINED_EVERY_SECONDS = 1.0

_SEEDS = 1 << 63  # how many there are


def is_drawn(seed: int, share: float) -> bool:
    """Whether chance chooses the feed of that seed.

    A seed is a hash with FEED_SEED and a number that the service draws, so it is evenly distributed and no client
    chooses it. The feed's own draws, SplitMix64's, are independent of it: that gives unrelated numbers even to seeds
    that are next to each other.
    """
    return seed < share * _SEEDS


class Decisions:
    """One worker's."""

    def __init__(
        self, writer: DecisionWriter, share: float, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = writer
        self._share = share
        self._metrics = metrics
        self._clock = clock
        self._next_explained = 0.0
        self._warned = 0.0

    def wants(self, request: FeedRequest, seed: int) -> bool:
        """None of a feed that is not personal: nothing is learned from it, or estimated."""
        if not request.personal:
            return False
        if is_drawn(seed, self._share):
            return True
        if not request.explain or self._clock() < self._next_explained:
            return False
        self._next_explained = self._clock() + EXPLAINED_EVERY_SECONDS
        return True

    def record_of(self, slate: Slate) -> DecisionRecord | None:
        if not slate.decision:
            return None
        if len(slate.decision) > MOST_BYTES:
            self._metrics.decisions_unrecorded.labels("size").inc()
            return None
        request = slate.request
        return DecisionRecord(
            bytes.fromhex(request.request_id),
            request.user_id,
            feed_code(request.endpoint),
            request.happened_ms,
            request.size,
            slate.catalog_version,
            slate.policy_version,
            slate.seed,
            is_drawn(slate.seed, self._share),
            self._share,
            slate.decision,
            slate.withheld if len(slate.decision) + len(slate.withheld) <= MOST_BYTES else b"",
        )

    def keep(self, record: DecisionRecord) -> None:
        """Of a feed that is about to be shown. A disk that takes it not is counted, and the feed goes on."""
        try:
            self._writer.append(record)
        except OSError as error:
            self._metrics.decisions_unrecorded.labels("disk").inc()
            if self._clock() > self._warned:
                self._warned = self._clock() + 10.0
                log.error("decisions are not recorded", reason=str(error))
        else:
            self._metrics.decisions.labels("drawn" if record.drawn else "explain").inc()
