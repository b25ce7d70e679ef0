"""What a feed's record says."""

from recommendation_service.feed.pipeline import Slate
from recommendation_service.log.records import UnwrittenFeed
from recommendation_service.model.kinds import ENDPOINTS


def record_of(slate: Slate) -> UnwrittenFeed:
    request = slate.request
    return UnwrittenFeed(
        request.request_id,
        request.user_id,
        request.session_id,
        ENDPOINTS.index(request.endpoint),
        request.happened_ms,
        slate.catalog_version,
        slate.policy_version,
        slate.seed,
        slate.packed,
    )
