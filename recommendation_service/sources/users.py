"""What the operator's tables say of one user, for those who are not in the catalog."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.core.cache import Cache
from recommendation_service.core.config import Settings
from recommendation_service.core.redis import RedisGuard
from recommendation_service.core.together import Together
from recommendation_service.telemetry.metrics import Metrics

Int64 = npt.NDArray[np.int64]
Names = tuple[str, ...]
User = int | str  # an id as the operator's tables have it
# By a filter's name what the user's own row asks for: texts, or of at_most a number.
OwnFilters = tuple[tuple[str, float | Names], ...]

# What a user may take in the cache, whatever the tables hold.
LARGEST_ENTRY_BYTES = 16 * 1024
# Of a worker: as many connections to the database as it uses at once.
READING_THREADS = 2
MOST_TOGETHER = 32

ENCODING_VERSION = 2


class UserFacts(NamedTuple):
    """A user as the tables have them: what is not in a catalog is in here, too."""

    history: Int64  # (h, 2) the item's key, seconds since 1970; latest first, each item once
    network: Int64  # (n,) ids of connected users, ascending
    connections: int  # how many, where more than n too
    attributes: tuple[Names, Names, Names, Names]  # skills, knowledges, tools, languages, as they are compared
    filters: OwnFilters = ()


class _Encoded(msgspec.Struct, array_like=True, frozen=True):
    version: int
    history: bytes
    network: bytes
    connections: int
    attributes: tuple[Names, Names, Names, Names]
    filters: OwnFilters


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode_facts(facts: UserFacts, largest: int = LARGEST_ENTRY_BYTES) -> bytes:
    """At most ``largest`` bytes: of a user with more, the latest half of the history, of that again the half, and so
    on; then likewise of the network, then no attributes, and last no filters."""
    history, network, _, attributes, filters = facts
    while True:
        encoded = _encoder.encode(
            _Encoded(
                ENCODING_VERSION,
                history.astype("<i8").tobytes(),
                network.astype("<i8").tobytes(),
                facts.connections,
                attributes,
                filters,
            )
        )
        if len(encoded) <= largest:
            return encoded
        if len(history):
            history = history[: len(history) // 2]
        elif len(network):
            network = network[: len(network) // 2]
        else:
            attributes, filters = ((), (), (), ()), filters if any(attributes) else ()


def decode_facts(encoded: bytes) -> UserFacts | None:
    """None for bytes that are no facts, or of another version. The arrays are views of the bytes, and read-only."""
    try:
        content = _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if content.version != ENCODING_VERSION or len(content.history) % 16 or len(content.network) % 8:
        return None
    return UserFacts(
        np.frombuffer(content.history, "<i8").reshape(-1, 2),
        np.frombuffer(content.network, "<i8"),
        content.connections,
        content.attributes,
        content.filters,
    )


class ReadsUsers(Protocol):
    """Who reads users from an operator's tables."""

    version: str  # of what else the facts are made by: those of another one are of no use

    def read(self, user: User) -> UserFacts | None:
        """None where there is no such user. Blocks: not on an event loop. Raises SourceError."""

    def read_all(self, users: Sequence[User]) -> dict[User, UserFacts | None]:
        """The same of several different ones, each as if alone."""


class Users:
    """Users outside the catalog, through L1, L2 and the operator's tables: what a feed asks. One worker's.

    ``cached`` first, which waits for nothing; ``facts`` where it has nothing.
    """

    def __init__(
        self,
        reader: ReadsUsers,
        settings: Settings,
        metrics: Metrics,
        guard: RedisGuard | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        wait_seconds = settings.user_read_timeout_milliseconds / 1000
        self._reads = Together(
            reader.read_all,
            threads=READING_THREADS,
            most=MOST_TOGETHER,
            patience_seconds=wait_seconds / 2,
            name="user-reader",
        )
        self._cache = Cache(
            f"user:{ENCODING_VERSION}.{reader.version}",
            encode_facts,
            decode_facts,
            self._reads.get,
            guard=guard,
            metrics=metrics,
            limit_bytes=settings.cache_l1_megabytes << 20,
            ttl_seconds=settings.activity_ttl_seconds,
            wait_seconds=wait_seconds,
            clock=clock,
        )

    def cached(self, user_id: int) -> tuple[bool, UserFacts | None]:
        """(True, facts; None of an unknown user) where this worker has them, (False, None) where it has not."""
        return self._cache.cached(user_id)

    async def facts(self, user_id: int, user_text: str = "") -> UserFacts | None:
        """None of an unknown user, and where it takes longer than USER_READ_TIMEOUT_MILLISECONDS. Never raises.
        ``user_text``: the id, where that is text, of which the number is a hash."""
        return await self._cache.get(user_id, user_text)

    async def kept(self, user_id: int) -> UserFacts | None:
        """What the caches have of a user, and nothing is read for it."""
        return await self._cache.peek(user_id)

    async def forget(self, user_id: int) -> bool:
        """Read the user anew from now on; other workers within a minute. False: Redis did not take the order."""
        return await self._cache.invalidate(user_id)

    async def forget_all(self) -> bool:
        """The same of all users."""
        return await self._cache.invalidate_all()

    async def close(self) -> None:
        """Without waiting for the database; a thread that it holds up ends at its time limit."""
        await self._cache.close()
        self._reads.close()
