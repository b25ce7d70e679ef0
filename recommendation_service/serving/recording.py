"""What a feed's record says."""

from recommendation_service.feed.pipeline import Slate
from recommendation_service.log.records import UnwrittenFeed, encoded_parts
from recommendation_service.model.kinds import ENDPOINTS


class FeedRecorder:
    """One worker's."""

    def __init__(self) -> None:
        # By the number of slots: the columns of a slate, and the parts of their encoding, of which they are some.
        self._parts: dict[int, tuple[tuple[memoryview, ...], list[bytes | memoryview]]] = {}

    def record(self, slate: Slate) -> UnwrittenFeed:
        """To be called before the pipeline's next feed."""
        request, slots = slate.request, len(slate.numbers)
        columns, parts = self._parts.get(slots, ((), []))
        if columns is not slate.columns:  # another pipeline's
            parts = encoded_parts(slate.columns)
            self._parts[slots] = slate.columns, parts
        return UnwrittenFeed(
            request.request_id,
            request.user_id,
            request.session_id,
            ENDPOINTS.index(request.endpoint),
            request.happened_ms,
            slate.catalog_version,
            slate.policy_version,
            slate.seed,
            b"".join(parts),
        )
