"""What the operator's tables say of one user, for those who are not in the catalog."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import TextClause
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.cache import Cache
from recommendation_service.core.config import Settings
from recommendation_service.core.database import words_of
from recommendation_service.core.errors import SourceError
from recommendation_service.core.mysql_exchange import Answer, Exchanges, Lost
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
# An answer that is longer is gone through in a thread, and holds up no feed meanwhile.
LONGEST_ON_LOOP_BYTES = 1 << 16
# Of a connection to the database, while there are readings.
HELD_SECONDS = 0.1

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


Facts = Mapping[User, UserFacts | None]


class Question(NamedTuple):
    """One statement that says all of some users."""

    statement: TextClause
    parameters: dict[str, Any]
    facts: Callable[[Sequence[Any]], Facts | None]  # of its rows; None: there are more than it gives


class ReadsUsers(Protocol):
    """Who reads users from an operator's tables."""

    version: str  # of what else the facts are made by: those of another one are of no use

    def question(self, users: Sequence[User]) -> Question | None:
        """None: these tables take several statements."""

    def read(self, user: User) -> UserFacts | None:
        """None where there is no such user. Blocks: not on an event loop. Raises SourceError."""

    def read_all(self, users: Sequence[User]) -> Facts:
        """The same of several different ones, each as if alone."""


class Users:
    """Users outside the catalog, through L1, L2 and the operator's tables: what a feed asks. One worker's.

    ``cached`` first, which waits for nothing; ``facts`` where it has nothing. ``connect``: to where one statement says
    all of a user, by connections of which each statement is a transaction of its own.
    """

    def __init__(
        self,
        reader: ReadsUsers,
        settings: Settings,
        metrics: Metrics,
        guard: RedisGuard | None,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[], Connection] | None = None,
    ) -> None:
        wait_seconds = settings.user_read_timeout_milliseconds / 1000
        self._reader = reader
        self._threads = ThreadPoolExecutor(READING_THREADS, "user-reader")
        self._exchanges: Exchanges | None = None
        if connect is not None:
            limit = settings.mysql_read_timeout_seconds
            self._exchanges = Exchanges(connect, self._threads, held_seconds=HELD_SECONDS, timeout_seconds=limit)
        self._reads: Together[User, UserFacts | None] = Together(
            self._read, readings=READING_THREADS, most=MOST_TOGETHER, patience_seconds=wait_seconds / 2
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
        if self._exchanges is not None:
            self._exchanges.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, users: Sequence[User]) -> Facts:
        """Raises SourceError. What an event loop cannot have, a thread reads; it tells what is wrong, too."""
        loop = asyncio.get_running_loop()
        question = self._reader.question(users) if self._exchanges is not None else None
        if self._exchanges is not None and question is not None:
            try:
                answer = await self._exchanges.ask(question.statement, question.parameters)
            except Lost:
                return await loop.run_in_executor(self._threads, self._reader.read_all, users)
            except (SQLAlchemyError, TimeoutError) as error:
                raise SourceError(
                    f"user: {words_of(error) if isinstance(error, SQLAlchemyError) else error}"
                ) from error
            if len(answer) <= LONGEST_ON_LOOP_BYTES:
                facts = _facts(question, answer)
            else:
                facts = await loop.run_in_executor(self._threads, _facts, question, answer)
            if facts is not None:
                return facts
        return await loop.run_in_executor(self._threads, self._reader.read_all, users)


def _facts(question: Question, answer: Answer) -> Facts | None:
    return question.facts(answer.rows())
