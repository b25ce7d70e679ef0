"""A feed as a user would get it, under any policy, of which nothing stays: not recorded, remembered or counted."""

from recommendation_service.core.config import Settings
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.memory.user_memory import lifetimes_of
from recommendation_service.policies.policy import Policy
from recommendation_service.policies.store import PolicyStore
from recommendation_service.ranking.kept_pools import make_slots
from recommendation_service.sources.users import UserFacts


class Preview:
    """Of one generation, beside whatever serves: it has a working memory of its own, so any thread may make one. Where
    the generation has an experiment, a person's feeds are made by the arm that the person is in."""

    def __init__(self, generation: Generation, settings: Settings) -> None:
        self._pipeline = FeedPipeline(
            generation,
            settings.feed_seed,
            lifetimes=lifetimes_of(settings),
            needs_list=settings.not_personal_table is not None,
            kept_slots=make_slots(min(1, settings.kept_pools_megabytes)),  # the same candidates in the same order
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
        made_by, _ = self._arm(request)
        if facts is not None:
            request = request.but(outsider=made_by.outsider(*facts))
        return made_by.rank(request, seen, lambda *_: True)

    def render(self, slate: Slate) -> bytes:
        return self._arm(slate.request)[0].render(slate)

    def made_of(self, slate: Slate) -> tuple[Generation, str]:
        """What a feed was made from, and as its record would have it EXPERIMENT:ARM; empty: what serves all."""
        made_by, label = self._arm(slate.request)
        return made_by.generation, label

    def _arm(self, request: FeedRequest) -> tuple[FeedPipeline, str]:
        """As serving/feeds.py chooses it."""
        arms = self._pipeline.arms
        if arms is None or not request.personal:
            return self._pipeline, ""
        return arms.of(request.user_id, request.session, request.request_id)


def policy_version(settings: Settings, version: str) -> Policy:
    """A version that `recs policy` keeps. Raises PolicyError."""
    return PolicyStore(settings.policy_dir, settings.policy_keep).open(version)
