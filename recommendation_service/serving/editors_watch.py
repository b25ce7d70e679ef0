"""A worker's look at what editors ruled, and a machine's look at what the fleet has of it.

Every worker looks at the file, five times a second. Of a machine's workers one looks at Redis, and brings what is there
into the file, from which all take it up.
"""

import asyncio

import structlog

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.config import Settings
from recommendation_service.editors.fleet import FleetRulings
from recommendation_service.editors.rulings import FOR_GOOD, Rulings
from recommendation_service.editors.store import RulingsStore, Stamp
from recommendation_service.serving.fleet_watch import FleetWatch
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.2
FLEET_SECONDS = 0.4


class EditorsWatch:
    """One worker's. ``state`` and ``problem`` are as of its latest look."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._serving = serving
        self._store = RulingsStore(settings.editors_dir)
        self._stamp: Stamp | None = None
        self._next_end = float("inf")  # when one of those that hold ends
        self._looking = asyncio.Lock()  # or a look that began before a change would end after the one that saw it
        self.state = Rulings()
        self.problem: str | None = None  # why what holds is not what the file says

    def first_look(self) -> None:
        """Before anything is served."""
        self._stamp = self._store.stamp()
        self._take_up(*self._store.read())

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("what editors ruled could not be looked at")

    async def look(self) -> None:
        async with self._looking:
            stamp = self._store.stamp()
            if stamp != self._stamp:
                found = await asyncio.to_thread(self._store.read)
                self._stamp = stamp
                self._take_up(*found)
            elif self._serving.clock.now() >= self._next_end:
                self._take_up(self.state, self.problem)
            else:
                self._serving.rule(self._serving.rulings)

    def _take_up(self, state: Rulings, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.error("what editors ruled cannot be read", reason=problem)
        if state.number != self.state.number:
            log.info("what editors ruled is taken up", number=state.number, rulings=len(state.held))
        self.state, self.problem = state, problem
        held = state.in_force(self._serving.clock.now())
        self._next_end = min((one.until for one in held if one.until != FOR_GOOD), default=float("inf"))
        self._serving.rule(held)


def watch_fleet_editors(settings: Settings, serving: Serving, redis: BlockingRedis) -> FleetWatch:
    store = RulingsStore(settings.editors_dir, FleetRulings(redis))
    return FleetWatch(serving, redis, store.folder, store.follow, "what the fleet's editors rule", FLEET_SECONDS)
