"""A feed's record, from the working memory that the feed was made in."""

import os

import numpy as np

from recommendation_service.events.records import FeedRecord
from recommendation_service.feed.pipeline import FeedPipeline, FeedRequest
from recommendation_service.ranking.policy import ENDPOINTS
from recommendation_service.ranking.working_memory import SLOTS


def feed_record(pipeline: FeedPipeline, request: FeedRequest, session_id: str | None, happened_ms: int) -> FeedRecord:
    """Of the pipeline's last feed, which was for ``request``."""
    memory = pipeline.memory
    slots = int(memory.counts[SLOTS])
    return FeedRecord(
        os.urandom(16),
        bytes.fromhex(request.request_id),
        request.user_id,
        session_id,
        ENDPOINTS.index(request.endpoint),
        happened_ms,
        pipeline.catalog.version,
        pipeline.policy.version,
        pipeline.seed,
        memory.slot_key[:slots].tobytes(),
        memory.slot_kind[:slots].astype(np.uint8).tobytes(),
        memory.slot_pool[:slots].astype(np.uint8).tobytes(),
        memory.slot_relaxed[:slots].astype(np.uint8).tobytes(),
        memory.slot_propensity[:slots].tobytes(),
        memory.slot_X[:slots].astype(np.float32).tobytes(),
    )
