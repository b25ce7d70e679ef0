"""What a feed's record says."""

import structlog

from recommendation_service.core.logging import Seldom
from recommendation_service.feed.pipeline import Slate
from recommendation_service.log.event_log import LogFull
from recommendation_service.log.records import UnwrittenFeed
from recommendation_service.model.kinds import feed_code
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)


def record_of(slate: Slate, arm: str = "") -> UnwrittenFeed:
    """``arm``: of an experiment, by which the feed was made."""
    request = slate.request
    return UnwrittenFeed(
        request.request_id,
        request.user_id,
        request.session_id,
        feed_code(request.endpoint),
        request.happened_ms,
        slate.catalog_version,
        slate.policy_version,
        slate.seed,
        slate.packed,
        slate.shadows,
        request.personal,
        arm,
        request.user_text,
    )


class Unrecorded:
    """Counts the feeds whose records found no room in the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seldom = Seldom(log)

    def __call__(self, full: LogFull, count: int) -> None:
        self._metrics.feeds_unrecorded.inc(count)
        self._seldom.error("feeds are not recorded", full)
