"""A feed as a user would get it, under any policy, of which nothing stays: not recorded, remembered or counted."""

from recommendation_service.core.config import Settings
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.memory.user_memory import lifetimes_of
from recommendation_service.policies.policy import Policy
from recommendation_service.policies.store import PolicyStore
from recommendation_service.sources.users import UserFacts


class Preview:
    """Of one generation, beside whatever serves: it has a working memory of its own, so any thread may make one."""

    def __init__(self, generation: Generation, settings: Settings) -> None:
        self._pipeline = FeedPipeline(
            generation,
            settings.feed_seed,
            lifetimes=lifetimes_of(settings),
            needs_list=settings.not_personal_table is not None,
        )

    def knows(self, user_id: int) -> bool:
        """Whether the user is in the catalog."""
        return self._pipeline.user_row(user_id) >= 0

    def is_listed(self, user_id: int) -> bool:
        """Whether the user's feeds are not personal, whatever a request says."""
        return self._pipeline.is_listed(user_id)

    def feed(self, request: FeedRequest, seen: bytes = b"", facts: UserFacts | None = None) -> bytes:
        """The body of the answer. ``seen``: what is remembered of the user; ``facts``: of one who is not in the
        catalog."""
        return self.render(self.slate(request, seen, facts))

    def slate(self, request: FeedRequest, seen: bytes = b"", facts: UserFacts | None = None) -> Slate:
        """The same as a slate with its decision, whose views hold until the next."""
        if self.is_listed(request.user_id):
            request = request.but(personal=False)
        if facts is not None:
            request = request.but(outsider=self._pipeline.outsider(*facts))
        return self._pipeline.rank(request, seen, lambda *_: True)

    def render(self, slate: Slate) -> bytes:
        return self._pipeline.render(slate)


def policy_version(settings: Settings, version: str) -> Policy:
    """A version that `recs policy` keeps. Raises PolicyError."""
    return PolicyStore(settings.policy_dir, settings.policy_keep).open(version)
