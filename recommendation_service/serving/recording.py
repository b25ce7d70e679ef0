"""What a feed's record says, from the working memory that the feed was made in."""

from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.log.records import UnwrittenFeed, encoded_parts
from recommendation_service.model.kinds import ENDPOINTS


class FeedRecorder:
    """Of one pipeline's feeds."""

    def __init__(self, pipeline: FeedPipeline) -> None:
        self.pipeline = pipeline
        self._versions = pipeline.catalog.version, pipeline.policy.version
        self._parts: dict[int, list[bytes | memoryview]] = {}  # by the number of slots; the views stay valid

    def record(self, request: FeedRequest, session_id: str | None, happened_ms: int) -> UnwrittenFeed:
        """Of the pipeline's last feed, which was for ``request``."""
        pipeline = self.pipeline
        slots = pipeline.slots
        parts = self._parts.get(slots)
        if parts is None:
            parts = self._parts[slots] = encoded_parts(pipeline.slot_columns())
        return UnwrittenFeed(
            request.request_id,
            request.user_id,
            session_id,
            ENDPOINTS.index(request.endpoint),
            happened_ms,
            *self._versions,
            pipeline.seed,
            b"".join(parts),
        )
