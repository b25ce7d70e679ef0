"""A worker's look at whose DATA_DIR is: it serves nothing from, and writes nothing into, another database's folder."""

import asyncio

import structlog
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_unpooled_engine
from recommendation_service.core.place import WrongPlace, check, make_identity, space_of
from recommendation_service.core.redis import RedisGuard
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

LOOK_SECONDS = 15.0
# A start waits so long for the database; one that hangs cannot disprove that the folder is its own.
FIRST_LOOK_SECONDS = 1.0


class PlaceWatch:
    """``guard``: its keys are of the space that the database has, which may be told later than the service starts."""

    def __init__(self, settings: Settings, serving: Serving, guard: RedisGuard | None) -> None:
        self._settings = settings
        self._serving = serving
        self._guard = guard

    async def first_look(self) -> None:
        """Before anything is served. Goes on by itself where it takes longer."""
        look = asyncio.create_task(asyncio.to_thread(self.look))
        await asyncio.wait({look}, timeout=FIRST_LOOK_SECONDS)

    async def watch(self) -> None:
        """Until cancelled: a server may be replaced under its name, and a folder adopted, while the service runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                log.exception("whose the folder is could not be looked at")

    def look(self) -> None:
        """Blocks for as long as connecting and asking may take."""
        try:
            owner = check(self._settings)
            if self._guard is not None:  # what is known so far
                self._guard.space = space_of(self._settings, owner)
            engine = self._engine()
            try:
                if self._settings.record_events:
                    make_identity(engine)
                owner = check(self._settings, engine)
            finally:
                engine.dispose()
        except WrongPlace as error:
            if self._serving.wrong_place is None:
                log.error("nothing is served from another database's folder", reason=str(error))
            self._serving.wrong_place = str(error)
            return
        if self._serving.wrong_place is not None:
            log.warning("the folder is this database's now", database=str(owner))
        self._serving.wrong_place = None
        if self._guard is not None:
            self._guard.space = space_of(self._settings, owner)

    def _engine(self) -> Engine:
        url = self._settings.source_url
        if url.get_backend_name() == "sqlite":
            return make_writing_engine(self._settings)
        return make_unpooled_engine(self._settings, url)
