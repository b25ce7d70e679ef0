"""A feed's record, from the working memory that the feed was made in."""

import os

from recommendation_service.events.records import encode_feed
from recommendation_service.feed.pipeline import FeedPipeline, FeedRequest
from recommendation_service.ranking.policy import ENDPOINTS


def feed_record(pipeline: FeedPipeline, request: FeedRequest, session_id: str | None, happened_ms: int) -> bytes:
    """Of the pipeline's last feed, which was for ``request``: a FeedRecord, encoded."""
    return encode_feed(
        os.urandom(16),
        bytes.fromhex(request.request_id),
        request.user_id,
        session_id,
        ENDPOINTS.index(request.endpoint),
        happened_ms,
        pipeline.catalog.version,
        pipeline.policy.version,
        pipeline.seed,
        *pipeline.slot_columns(),
    )
