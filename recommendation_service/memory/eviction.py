"""What gives way where the memory of users is full: what was served longest ago, then what was impressed or acted on
longest ago, and what is hidden never."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.memory.entries import Entries, as_entries
from recommendation_service.memory.user_entries import UserEntries
from recommendation_service.ranking.seen import ENTRY_BYTES, EPOCH, HIDDEN, SERVED, Lifetimes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import lmdb

    Begin = Callable[[], AbstractContextManager[lmdb.Transaction[bytes]]]

COUNTED_TOGETHER = 250  # users that are read in one step
CHANGED_TOGETHER = 50
# What LMDB takes for a user beside the entries: key, header and place.
USER_BYTES = 24
_BUCKETS_PER_DOUBLING = 64  # of an age: one hundredth of it
_BUCKETS = 36 * _BUCKETS_PER_DOUBLING


class Cutoffs(NamedTuple):
    """Seconds since 1970: of these states, what is not younger goes."""

    served: float
    acted: float  # impressed as well


class AgeCensus:
    """How many entries there are of each age."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._served = np.zeros(_BUCKETS, np.int64)
        self._acted = np.zeros(_BUCKETS, np.int64)
        self.content_bytes = 0

    def add(self, entries: Entries, users: int) -> None:
        """Of so many users, one after the other."""
        state = entries[:, 1] & 15
        buckets = self._buckets(entries)
        self._served += np.bincount(buckets[state == SERVED], minlength=_BUCKETS)
        self._acted += np.bincount(buckets[(state != SERVED) & (state != HIDDEN)], minlength=_BUCKETS)
        self.content_bytes += len(entries) * ENTRY_BYTES + users * USER_BYTES

    def cutoffs(self, freed_bytes: int, lifetimes: Lifetimes) -> Cutoffs:
        """So that about so many bytes go; what has expired goes at any rate."""
        wanted = -(-freed_bytes // ENTRY_BYTES)
        served, wanted = self._cutoff(self._served, wanted, max(lifetimes.served, lifetimes.session))
        acted, _ = self._cutoff(self._acted, wanted, max(lifetimes.impressed, lifetimes.acted))
        return Cutoffs(served, acted)

    def _cutoff(self, counts: npt.NDArray[np.int64], wanted: int, lifetime: int) -> tuple[float, int]:
        """(seconds since 1970 of the youngest that goes, how many are wanted beyond these)."""
        if wanted <= 0:
            return self._now - lifetime, 0
        older = np.cumsum(counts[::-1])[::-1]  # of each bucket, those in it and in older ones
        enough = np.flatnonzero(older >= wanted)
        bucket = int(enough[-1]) if len(enough) else 0
        age = 2.0 ** (bucket / _BUCKETS_PER_DOUBLING) - 1.0
        return self._now - min(age, lifetime), wanted - int(older[bucket])

    def _buckets(self, entries: Entries) -> npt.NDArray[np.int64]:
        """By age; a time in the future is now."""
        ages = np.maximum(0.0, self._now - ((entries[:, 1] >> 32) + EPOCH))
        buckets: npt.NDArray[np.int64] = (np.log2(ages + 1.0) * _BUCKETS_PER_DOUBLING).astype(np.int64)
        return np.minimum(_BUCKETS - 1, buckets)


def stays(entries: Entries, cutoffs: Cutoffs, now: float) -> npt.NDArray[np.bool_]:
    """(n,) for each entry whether it is kept. A time in the future is now."""
    state, when = entries[:, 1] & 15, np.minimum((entries[:, 1] >> 32) + EPOCH, now)
    kept: npt.NDArray[np.bool_] = (state == HIDDEN) | (when > np.where(state == SERVED, cutoffs.served, cutoffs.acted))
    return kept


def count_ages(begin: "Begin", users: UserEntries, now: float, pause: Callable[[], None]) -> AgeCensus:
    """Of all users, in steps with a ``pause`` after each. Raises lmdb.Error."""
    census, after = AgeCensus(now), b""
    while True:
        with begin() as transaction:  # no longer than it takes: what is replaced meanwhile keeps its pages
            some = list(itertools.islice(users.users_from(transaction, after), COUNTED_TOGETHER))
        census.add(as_entries(b"".join(stored for _, stored in some)), len(some))
        if len(some) < COUNTED_TOGETHER:
            return census
        after = some[-1][0] + b"\0"
        pause()


def let_go(
    begin: "Begin", users: UserEntries, cutoffs: Cutoffs, now: float, pause: Callable[[], None]
) -> tuple[int, int]:
    """Remove what does not stay: how many served entries, and others. Raises lmdb.Error."""
    served, others, after = 0, 0, b""
    while True:
        with begin() as transaction:
            some = list(itertools.islice(users.users_from(transaction, after), CHANGED_TOGETHER))
            entries = as_entries(b"".join(stored for _, stored in some))
            kept = stays(entries, cutoffs, now)
            went = entries[~kept, 1] & 15
            start = 0
            for key, stored in some:
                end = start + len(stored) // ENTRY_BYTES
                keeps = kept[start:end]
                if not keeps.any():
                    users.delete(transaction, key)
                elif not keeps.all():
                    users.put(transaction, key, entries[start:end][keeps].tobytes())
                start = end
        served, others = served + int((went == SERVED).sum()), others + int((went != SERVED).sum())
        if len(some) < CHANGED_TOGETHER:
            return served, others
        after = some[-1][0] + b"\0"
        pause()
