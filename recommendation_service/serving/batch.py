"""Feeds of many users, one after the other, beside what a worker answers meanwhile: for e-mails and other mailings."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from recommendation_service.core.errors import NotReady, Overloaded, ServiceError
from recommendation_service.feed.request import FeedFields
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.serving.feeds import asked_feed, with_facts
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.worker import Worker

AT_ONCE = 8  # feeds between two rests
LONGEST_REST_SECONDS = 0.25
# A worker that is behind is waited for, so many times for so long, before a user is told of as not served.
OVERLOADED_WAITS, OVERLOADED_SECONDS = 20, 0.5


class Wanted(NamedTuple):
    """One user's feed."""

    fields: FeedFields
    request_id: str


class Batch:
    """One call's, on a worker's event loop."""

    def __init__(self, serving: Serving, worker: Worker, feed: str, *, record: bool) -> None:
        """``record``: each feed is shown: recorded, remembered and counted as any; else nothing of it stays."""
        self._serving = serving
        self._worker = worker
        self._feed = feed
        self._record = record

    async def made(self, wanted: Iterable[Wanted | ServiceError]) -> AsyncIterator[bytes | ServiceError]:
        """The body of each feed, or why there is none. It rests as long as it works, so that whoever else asks this
        worker waits for at most some feeds."""
        started = time.perf_counter()
        for place, one in enumerate(wanted, 1):
            yield one if isinstance(one, ServiceError) else await self._one(one)
            if place % AT_ONCE == 0:
                await asyncio.sleep(min(time.perf_counter() - started, LONGEST_REST_SECONDS))
                started = time.perf_counter()

    async def _one(self, wanted: Wanted) -> bytes | ServiceError:
        make = self._recorded if self._record else self._previewed
        for _ in range(OVERLOADED_WAITS):
            try:
                return await make(wanted)
            except Overloaded:
                await asyncio.sleep(OVERLOADED_SECONDS)
            except ServiceError as error:
                return error
        return Overloaded("The service is at its limit.")

    async def _recorded(self, wanted: Wanted) -> bytes:
        return (await self._worker.feeds.feed(self._feed, wanted.fields, wanted.request_id)).body

    async def _previewed(self, wanted: Wanted) -> bytes:
        fields, worker = wanted.fields, self._worker
        served, now = await self._serving.ready_pipeline(), self._serving.clock.now()
        pipeline, _, request = asked_feed(served, self._feed, fields, wanted.request_id, now)
        try:
            seen = worker.store.peek(fields.user_id, request.session)
        except MemoryFailed as error:
            raise NotReady(f"What the user has seen cannot be read: {error}.") from error
        request = await with_facts(request, pipeline, worker.users)
        return pipeline.render(pipeline.rank(request, seen))
