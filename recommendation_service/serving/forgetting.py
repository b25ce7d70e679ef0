"""Forgetting a user, but for what is in the log and the database (flush/forgetting.py): memories and caches."""

from collections.abc import Callable

import msgspec

from recommendation_service.log.stream import EventStream
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_memory import MemoryFailed
from recommendation_service.serving.seen_store import SeenStore
from recommendation_service.sources.users import Users


class Removed(msgspec.Struct, frozen=True):
    """What there was of a user."""

    found: dict[str, object]  # as the administrator is told
    moment: int | None  # that the fleet agrees on, in milliseconds since 1970; None without one
    failed: MemoryFailed | None  # why what the user has seen is still there; all else is not


class Forgetting:
    """One worker's. ``stream``: None without Redis. ``drop_pools``: of a user. ``learned_slots``: the most shown items
    of one person that what was learned on a machine is of, which no sum can unlearn; None: nothing was learned here."""

    def __init__(
        self,
        store: SeenStore,
        users: Users,
        stream: EventStream | None,
        drop_pools: Callable[[int], None],
        learned_slots: Callable[[], float | None],
    ) -> None:
        self._store = store
        self._users = users
        self._stream = stream
        self._drop_pools = drop_pools
        self._learned_slots = learned_slots

    async def forget(self, user_id: int) -> Removed:
        """Never raises."""
        key, moment = user_key(user_id, 0), None
        assert key is not None, "nobody is not remembered"  # noqa: S101
        forgotten = await self._store.forget(key)
        self._drop_pools(user_id)
        found = {"user_id": user_id, **forgotten.removed}
        if self._stream is not None:
            moment = await self._stream.forget(user_id)
            found["fleet_told"] = moment is not None
        found["learned_stays"] = self._learned_slots()
        found["cached_facts"] = await self._users.forget(user_id)
        return Removed(found, moment, forgotten.failed)
