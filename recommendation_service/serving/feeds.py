"""A feed for a person, from the fields of the request to the bytes of the answer, on this page:

1. **Facts of the user.** The catalog has them; of a user who is not in it, what the operator's tables say, in time.
2. **What was seen**, here and on other machines: it stays away.
3. **Rank**, on one generation: a slate. While an experiment runs, by the person's arm; else a share of feeds by what
   the gate weighs. A feed that is not personal is of neither, as nothing is counted of it.
4. **Bytes**, of the answer and of the record, taken from the slate before another request is ranked.
5. **Commit.** What is about to be shown is remembered and recorded, together with the other feeds of this turn of the
   event loop. Where somebody else has served the user meanwhile, nothing was, and it begins again at 2. Of some feeds
   all that they could have held is recorded, too.

Before all of it, a request with an Idempotency-Key that was answered gets that answer, unless an editor took an item
down since: then it is made anew.
"""

from collections.abc import Callable

from recommendation_service.core.errors import NotReady
from recommendation_service.feed.pipeline import FeedPipeline, Slate, Wants
from recommendation_service.feed.request import FeedFields, FeedRequest
from recommendation_service.memory.answers import Asked, under
from recommendation_service.memory.user_entries import Stored
from recommendation_service.policies.experiment import LIVE
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.decisions import Decisions
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.recording import record_of
from recommendation_service.serving.seen_store import Answer, MadeFeed, SeenStore
from recommendation_service.sources.users import Users
from recommendation_service.telemetry.metrics import CountedByTurn, Metrics


def asked_feed(
    pipeline: FeedPipeline, feed: str, fields: FeedFields, request_id: str, now: float
) -> tuple[FeedPipeline, str, FeedRequest]:
    """What makes it, the arm that that is (of the experiment that runs, or LIVE; empty: what serves), and the request.

    Raises NotReady."""
    if feed not in pipeline.policy.file.feeds:
        raise NotReady(f"The policy that is served, {pipeline.policy.version}, has no feed {feed}.")
    session = session_number(fields.session_id)
    request = FeedRequest(
        feed,
        fields.user_id,
        fields.size,
        request_id,
        fields.excluded,
        fields.explain,
        now=int(now),
        session=session,
        session_id=fields.session_id,
        happened_ms=int(now * 1000),
        personal=fields.personal and not pipeline.is_listed(fields.user_id),
        language=fields.language,
        filters=fields.filters,
        by_name=fields.by_name,
        user_text=fields.user_text,
    )
    if pipeline.arms is not None and request.personal:
        return *pipeline.arms.of(fields.user_id, session, request_id), request
    if pipeline.live is not None and request.personal and (other := pipeline.live.of(request_id)) is not None:
        return other, LIVE, request
    return pipeline, "", request


async def with_facts(request: FeedRequest, pipeline: FeedPipeline, users: Users) -> FeedRequest:
    """With what the operator's tables say of a user who is not in the catalog, where that is known in time."""
    user_id = request.user_id
    asked_for = request.personal or pipeline.asks_of_users
    if not asked_for or not user_id or pipeline.user_row(user_id) >= 0:
        return request
    known, facts = users.cached(user_id)
    if not known:
        facts = await users.facts(user_id, request.user_text)
    return request if facts is None else request.but(outsider=pipeline.outsider(*facts))


def ranked(pipeline: FeedPipeline, request: FeedRequest, seen: Stored, wants: Wants | None) -> Slate | None:
    """On what is remembered of the user: by the summary of what has settled, where there is one. None: that does not
    suffice."""
    if seen.summary:
        return pipeline.rank_since(request, seen.recent, seen.summary, wants)
    return pipeline.rank(request, seen.value, wants)


class Feeds:
    """One worker's."""

    def __init__(
        self,
        serving: Serving,
        users: Users,
        store: SeenStore,
        metrics: Metrics,
        now: Callable[[], float],
        decisions: Decisions | None,
    ) -> None:
        """``decisions``: None where feeds are not recorded."""
        self._serving = serving
        self._users = users
        self._store = store
        self._decisions = decisions
        self._metrics = metrics
        self._relaxed = CountedByTurn(metrics.relaxed)
        self._now = now

    async def feed(self, endpoint: str, fields: FeedFields, request_id: str, asked: Asked | None = None) -> Answer:
        """Raises NotReady, Overloaded; OtherRequest for an Idempotency-Key that was used otherwise."""
        decisions = self._decisions
        wants = decisions.wants if decisions is not None else None
        pipeline, arm, request = asked_feed(
            await self._serving.ready_pipeline(), endpoint, fields, request_id, self._now()
        )
        if asked is not None and pipeline.editorial is not None:
            asked = under(asked, pipeline.editorial.takedowns)
        visit = self._store.visit(fields.user_id, request.session, asked)
        if asked is not None and (answer := await visit.answer()) is not None:
            self._metrics.feeds_repeated.inc()
            return answer
        if pipeline.user_row(request.user_id) < 0:  # asked here as well: of nearly all nothing is to be waited for
            request = await with_facts(request, pipeline, self._users)
        while True:
            slate = ranked(pipeline, request, await visit.read(), wants)
            if slate is None:
                slate = pipeline.rank(request, await visit.read_whole(), wants)
            decision = decisions.record_of(slate) if decisions is not None else None
            answer = await visit.commit(self._made(pipeline, slate, arm))
            if answer is not None:
                break
            self._metrics.feeds_ranked_again.inc()
        if answer.repeated:
            self._metrics.feeds_repeated.inc()
            return answer
        if slate.relaxed:
            self._count_relaxed(slate)
        if slate.pinned:
            self._metrics.pinned_slots.inc(slate.pinned)
        if decisions is not None and decision is not None:
            decisions.keep(decision)
        return answer

    def _made(self, pipeline: FeedPipeline, slate: Slate, arm: str) -> MadeFeed:
        """All that a feed leaves. ``arm``: of the experiment that runs, or LIVE; empty: what serves made it."""
        record = record_of(slate, arm) if self._decisions is not None else None
        return MadeFeed(pipeline.render(slate), slate.keys.tobytes(), slate.remembered, record, slate.summary)

    def _count_relaxed(self, slate: Slate) -> None:
        for rule in slate.relaxed:
            self._relaxed.add(rule)
