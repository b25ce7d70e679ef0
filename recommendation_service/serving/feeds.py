"""A feed for a person: ranked without what the person has seen, remembered, and recorded."""

import hashlib
import time

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from recommendation_service.core.redis import Allowance
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import NO_IDS, FeedFields, FeedRequest, Outsider
from recommendation_service.log.event_log import LogFull
from recommendation_service.log.records import UnwrittenFeed
from recommendation_service.memory.answers import StoredAnswer, answer_key
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_memory import AnswerNotKept, Change, MemoryFailed, NoRoomForAnswer, UserMemory
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.fleet_memory import FleetMemory, merged, replace_everywhere
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.group_commit import ATTEMPTS, GroupCommit
from recommendation_service.serving.past import Past
from recommendation_service.serving.recording import record_of
from recommendation_service.sources.users import Users
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

NOBODY = b"nobody"  # the key under which nothing is remembered


class OtherRequest(Exception):
    """The Idempotency-Key stands for a request that asked something else."""


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """A feed that was made, and may yet be thrown away."""

    body: bytes
    relaxed: list[str]
    record: UnwrittenFeed | None  # where feeds are recorded
    entries: bytes  # what to remember of the user from now on; empty where nothing is remembered
    shown: npt.NDArray[np.int64]  # (n,) keys of the items, for the fleet


class Idempotency(msgspec.Struct):
    """What a request with an Idempotency-Key asks: the same bytes again. ``kept``: so they will be."""

    key: str
    name: bytes = b""  # under which the answer is kept
    request: bytes = b""  # what tells the request from another
    kept: bool = False


class PersonalFeeds:
    """One worker's. ``group`` (what feeds read and write) and ``fleet`` (None: there is none) come in its lifespan."""

    def __init__(self, serving: Serving, metrics: Metrics, *, remembers: bool) -> None:
        self._serving = serving
        self._now = serving.clock.now
        self._metrics = metrics
        self._remembers = remembers
        self.group = GroupCommit(None, None, self.unrecorded)
        self.fleet: FleetMemory | None = None
        self.users: Users | None = None
        self.past: Past | None = None
        self._warned = 0.0

    async def feed(
        self,
        endpoint: str,
        fields: FeedFields,
        request_id: str,
        caller: str = "",
        asked: Idempotency | None = None,
    ) -> bytes:
        """The body of the answer. Raises NotReady, Overloaded; OtherRequest for a key used otherwise."""
        pipeline = await self._serving.ready_pipeline()
        now = self._now()
        session = session_number(fields.session_id)
        request = FeedRequest(
            endpoint,
            fields.user_id,
            fields.size,
            request_id,
            fields.excluded,
            fields.explain,
            now=int(now),
            session=session,
            session_id=fields.session_id,
            happened_ms=int(now * 1000),
        )
        key = user_key(fields.user_id, session) if self._remembers else None
        allowance = self.fleet.allowance() if self.fleet is not None else None
        if asked is not None:
            asked.name = answer_key(caller, endpoint, str(fields.user_id), asked.key)
            asked.request = _digest(fields)
            if (stored := await self._answered(key or NOBODY, asked.name, allowance)) is not None:
                return self._same_request(stored, asked)
        if self.users is not None and fields.user_id and pipeline.user_row(fields.user_id) < 0:
            request = request._replace(outsider=await self._outsider(self.users, pipeline, fields.user_id))
        if key is not None or (asked is not None and self._remembers):
            try:
                if self.group.memory is None:
                    raise MemoryFailed("there is no memory of what users have seen")
                return await self._rank_and_remember(
                    self.group.memory,
                    pipeline,
                    request,
                    key or NOBODY,
                    asked,
                    allowance,
                )
            except MemoryFailed as error:
                self._memory_failed(error)
        return await self._recorded(self._rank(pipeline, request))

    async def _outsider(self, users: Users, pipeline: FeedPipeline, user_id: int) -> Outsider | None:
        """What the operator's tables say of a user who is not in the catalog, where that is known in time."""
        known, facts = users.cached(user_id)
        if not known:
            facts = await users.facts(user_id)
        if facts is None:
            return None
        return Outsider(facts.history, facts.network, facts.connections, pipeline.token_numbers(facts.attributes))

    def _rank(self, pipeline: FeedPipeline, request: FeedRequest, seen: bytes = b"") -> Ranked:
        """All that a feed leaves, taken from its slate before another request is ranked."""
        slate = pipeline.rank(request, seen)
        return Ranked(
            pipeline.render(slate),
            slate.relaxed,
            record_of(slate) if self.group.records else None,
            slate.remembered,
            slate.keys.copy() if self.fleet is not None else NO_IDS,
        )

    async def _rank_and_remember(
        self,
        memory: UserMemory,
        pipeline: FeedPipeline,
        request: FeedRequest,
        key: bytes,
        asked: Idempotency | None,
        allowance: Allowance | None,
    ) -> bytes:
        """Rank without what the user has seen, on any machine, until nobody else has served the user meanwhile."""
        group, fleet = self.group, self.fleet
        keeps = asked is not None
        for _ in range(ATTEMPTS):
            theirs: bytes | None = None
            if fleet is not None and allowance is not None:
                theirs = b"" if key is NOBODY else await fleet.read(key, allowance)
            ours = group.read(key)
            if not ours and not theirs and self.past is not None and await self.past.recall(key):
                ours = group.read(key)
            ranked = self._rank(pipeline, request, merged(ours, theirs))
            new = ours if key is NOBODY else ranked.entries
            answer = (asked.name, StoredAnswer(asked.request, ranked.body)) if asked is not None and keeps else None
            try:
                if fleet is None or allowance is None or theirs is None:
                    replaced = await group.write(Change(key, ours, new, answer), ranked.record)
                else:
                    replaced = await replace_everywhere(
                        memory, group, fleet, key, ours, theirs, new, ranked.shown, answer, allowance, ranked.record
                    )
            except AnswerNotKept as error:
                self._memory_failed(error)
                return self._served(ranked)
            except NoRoomForAnswer as error:
                self._memory_failed(error)
                keeps = False
                continue
            except MemoryFailed as error:  # what was read counts all the same
                self._memory_failed(error)
                break
            if isinstance(replaced, StoredAnswer) and asked is not None:
                return self._same_request(replaced, asked)
            if replaced:
                if asked is not None:
                    asked.kept = keeps
                return self._served(ranked)
            self._metrics.feeds_ranked_again.inc()
        else:
            self._memory_failed(MemoryFailed("others changed what the user has seen at each attempt"))
        return await self._recorded(ranked)

    async def _recorded(self, ranked: Ranked) -> bytes:
        if ranked.record is not None:
            await self.group.write(None, ranked.record)
        return self._served(ranked)

    def _served(self, ranked: Ranked) -> bytes:
        if ranked.relaxed:
            self._serving.count_relaxed(ranked.relaxed)
        return ranked.body

    def unrecorded(self, full: LogFull, count: int) -> None:
        """The log had no room for the records of so many feeds."""
        self._metrics.feeds_unrecorded.inc(count)
        self._warn("feeds are not recorded", full)

    async def _answered(self, key: bytes, name: bytes, allowance: Allowance | None) -> StoredAnswer | None:
        """What was answered under this Idempotency-Key, here or on another machine."""
        memory = self.group.memory
        if memory is None:
            return None
        try:
            stored = memory.answer(name)
        except MemoryFailed as error:
            self._memory_failed(error)
            return None
        if stored is None and self.fleet is not None and allowance is not None:
            stored = await self.fleet.answer(key, name, allowance)
            if stored is not None:
                try:
                    stored = memory.keep_answer(name, stored) or stored
                except MemoryFailed as error:  # the fleet has it
                    self._memory_failed(error)
        return stored

    def _memory_failed(self, error: MemoryFailed) -> None:
        self._metrics.memory_failures.inc()
        self._warn("what users have seen cannot be remembered", error)

    def _same_request(self, stored: StoredAnswer, asked: Idempotency) -> bytes:
        if stored.request != asked.request:
            raise OtherRequest
        asked.kept = True
        self._metrics.feeds_repeated.inc()
        return stored.body

    def _warn(self, event: str, error: Exception) -> None:
        """Once every ten seconds, however many feeds it befalls."""
        now = time.monotonic()
        if now > self._warned + 10:
            self._warned = now
            log.error(event, reason=str(error))


def _digest(fields: FeedFields) -> bytes:
    """What tells one request from another, in 16 bytes."""
    text = f"{fields.user_id}\0{fields.size}\0{fields.session_id}\0{fields.explain}\0".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text + fields.excluded.tobytes(), digest_size=16).digest()
