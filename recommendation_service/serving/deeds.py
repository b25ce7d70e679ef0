"""What people did in one turn of a worker's event loop, as arrays: event by event costs several times as much."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recommendation_service.log.records import STATE_OF, FeedbackRecord, Flag
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.model.columns import CatalogArrays, Int64, rows_of
from recommendation_service.model.item_keys import CREATOR, item_keys
from recommendation_service.ranking.seen import (
    Lifetimes,
    remember_events,
    session_number,
)
from recommendation_service.ranking.working_memory import LIVE_SESSIONS, SEEN_CAPACITY
from recommendation_service.serving.seen_store import After


class Deeds:
    """Of n events. A user's are together; the order of users and of each one's events is that of the records."""

    def __init__(self, records: Sequence[FeedbackRecord], lifetimes: Lifetimes, now: int) -> None:
        """``now``: seconds since 1970."""
        self.users: dict[bytes, list[int]] = {}  # places of the records of each who can be remembered
        for place, record in enumerate(records):
            if key := user_key(record.user_id, session_number(record.session_id)):
                self.users.setdefault(key, []).append(place)
        self._now = now
        self._lifetimes = np.array(lifetimes, np.int64)
        self._live = np.zeros(LIVE_SESSIONS, np.int64)
        self._user_ids = np.array([record.user_id for record in records], np.int64)
        self._types = [record.item_type for record in records]
        self._numbers = np.array([record.item_id for record in records], np.int64)
        self._states = np.array([STATE_OF[record.event] for record in records], np.uint8)
        self._sessions = np.array([session_number(record.session_id) for record in records], np.int32)
        self._keys = np.empty(len(records), np.int64)
        for item_type, places in self._by_type():
            self._keys[places] = item_keys(item_type, self._numbers[places])
        # 1 + the kind of the slot that each item was served in; 0 where that is not known.
        self.kinds = np.zeros(len(records), np.uint8)
        most = max(map(len, self.users.values()), default=0)
        self._out = np.empty((SEEN_CAPACITY + most, 2), np.int64)

    def flags(self, catalog: CatalogArrays) -> Int64:
        """(n,) of what is unknown here: it may have left the catalog, or not have come into it yet."""
        flags: Int64 = (_absent(catalog.user_id, self._user_ids) & (self._user_ids != 0)) * int(Flag.UNKNOWN_USER)
        for item_type, places in self._by_type():
            known = catalog.creator_id if item_type == CREATOR else catalog.item_id[slice(*rows_of(catalog, item_type))]
            flags[places] += _absent(known, self._numbers[places]) * int(Flag.UNKNOWN_ITEM)
        return flags

    def after(self, key: bytes) -> After:
        """Moves the entries of a user's items to their new states, and notes the kinds of the slots."""
        places = self.users[key]
        first, last = places[0], places[-1] + 1
        # Mostly they follow each other: views.
        of_user: slice | list[int] = slice(first, last) if last - first == len(places) else places
        keys, states, sessions = self._keys[of_user], self._states[of_user], self._sessions[of_user]
        told: tuple[bytes, bytes] | None = None  # mostly the fleet has what is here; kinds are those of the last call

        def after(known: bytes) -> bytes:
            nonlocal told
            if told is None or told[0] != known:
                entries = as_entries(known).copy()  # a copy: the kernel is compiled for what may be written
                kinds = np.zeros(len(places), np.uint8)
                size = remember_events(
                    entries,
                    len(entries),
                    keys,
                    states,
                    sessions,
                    kinds,
                    self._now,
                    self._lifetimes,
                    self._live,
                    self._out,
                )
                self.kinds[of_user] = kinds
                told = known, self._out[:size].tobytes()
            return told[1]

        return after

    def _by_type(self) -> list[tuple[int, slice | npt.NDArray[np.bool_]]]:
        """Of each type of item where its events are."""
        types = set(self._types)
        if len(types) == 1:
            return [(self._types[0], slice(None))]
        of_all = np.array(self._types)
        return [(item_type, of_all == item_type) for item_type in types]


def _absent(sorted_ids: Int64, numbers: Int64) -> npt.NDArray[np.bool_]:
    """(n,) whether each is not among the ids, which ascend."""
    if not len(sorted_ids):
        return np.ones(len(numbers), np.bool_)
    places = np.searchsorted(sorted_ids, numbers)
    absent: npt.NDArray[np.bool_] = sorted_ids.take(places, mode="clip") != numbers
    return absent
