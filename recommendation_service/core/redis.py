"""Redis, which may be absent, slow, full or dead at any moment: a request never waits long for it.

Everything that uses Redis goes through ``RedisGuard.call``. Rules for its users:

- Keys are made by ``RedisGuard.key``, which begins them with ``recs:`` and the space of the database (core/place.py).
  Every key has a time to live: nobody cleans up behind us.
- One operation touches one key, or keys with one hash tag, so that the same code runs on a Redis Cluster.
- What Redis has is a copy or a hint; the answer without it is a good one.
- What is under a key may be anybody's: bytes that are no value of the service's, and values of another type, count as
  absent and are replaced (``discard``, ``LUA_GET``).
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

import structlog
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from recommendation_service.core.config import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")
Client = Redis | RedisCluster
Call = Callable[[str, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]  # RedisGuard.call, or an Allowance's

# Of a connection, in the background. Far more than a request waits: a TLS handshake takes longer than that.
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 1.0
# Operations at a time, each on a connection of its own, of one worker.
MOST_OPERATIONS = 32
# After a failure nothing is tried for so long; doubled at each failure that follows.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
MOST_REASONS = 5  # that are logged of one outage
# Of the event loop, from an answer that lies in the socket to whoever waits for it: uvloop looks at timers before it
# looks at sockets, then the reader runs, then the operation.
TURNS = 4


class RedisMetrics(Protocol):
    """Where it is counted."""

    redis_operations: Counter  # operation, outcome
    redis_seconds: Histogram  # operation
    redis_damaged: Counter  # kind


class RedisUnavailable(Exception):
    """Redis did not do it: refused, failed, late, or not even tried. The message says which, and no secret."""


class WrongType(RedisUnavailable):
    """A key holds another kind of value than the service puts there."""


# Removes what is no value of the service's, unless it was replaced meanwhile. KEYS: the key. ARGV: SHA-1 of what was
# found; what has another type goes in any case.
DISCARD = """
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'table' or (found and redis.sha1hex(found) == ARGV[1]) then return redis.call('DEL', KEYS[1]) end
return 0
"""
# For the beginning of a script: a string, or false, also where something else is there, which then goes.
LUA_GET = """
local function get(key)
  local found = redis.pcall('GET', key)
  if type(found) ~= 'table' then return found end
  redis.call('DEL', key)
  return false, true
end
"""


class RedisGuard:
    """Runs operations within a time limit, and none at all for a pause after one that failed.

    An operation that is late is not cancelled, but ends by itself in the background: its connection stays in
    order, the connection that it was making is there for the next, and its late success ends the pause. One worker's,
    on one event loop.
    """

    def __init__(
        self,
        client: Client,
        metrics: RedisMetrics,
        timeout_seconds: float,
        address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.timeout_seconds = timeout_seconds
        self.space = ""  # of the keys; may become another, once the database has told its identity
        self._metrics = metrics
        self._address = address
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failures = 0  # since the last success
        self._paused_until = 0.0
        self._reasons: set[str] = set()  # logged since then
        self._denials: set[str] = set()  # logged, of this process
        self._is_probing = False  # after a pause one operation at a time, until one succeeds
        self._counters: dict[tuple[str, str], Any] = {}  # labels are slow to look up
        self._timers: dict[str, Any] = {}

    @property
    def is_paused(self) -> bool:
        """Whether an operation that is called now is not even tried."""
        return self._failures > 0 and (self._is_probing or self._clock() < self._paused_until)

    async def call(
        self, operation: str, command: Callable[[Any], Awaitable[T]], timeout_seconds: float | None = None
    ) -> T:
        """The result of ``command(client)``. ``operation`` is a label of the metrics: one of a few words.

        ``timeout_seconds``: what is left of the time that a request has for several operations; else
        REDIS_TIMEOUT_MILLISECONDS. Raises RedisUnavailable.
        """
        if self.is_paused:
            self._count(operation, "skipped")
            raise RedisUnavailable("it failed just now")
        if len(self._tasks) >= MOST_OPERATIONS:
            self._count(operation, "busy")
            raise RedisUnavailable(f"{MOST_OPERATIONS} operations are under way")
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        started = time.perf_counter()
        probes = self._is_probing = self._failures > 0
        task = asyncio.create_task(self._run(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({task}, timeout=limit)
            for _ in range(TURNS):  # what came while this loop was busy is not Redis's delay
                if task.done():
                    break
                await asyncio.sleep(0)
        finally:
            if probes:
                self._is_probing = False
        timer = self._timers.get(operation)
        if timer is None:
            timer = self._timers[operation] = self._metrics.redis_seconds.labels(operation)
        timer.observe(time.perf_counter() - started)
        if not task.done():
            self._count(operation, "late")
            self._pause(f"no answer within {limit * 1000:.3g} ms")
            raise RedisUnavailable(f"no answer within {limit * 1000:.3g} ms")
        if task.cancelled():
            raise RedisUnavailable("it was closed meanwhile")
        error, result = task.result()
        if error is not None:
            is_refusal = _is_refusal(error)
            self._count(operation, "refused" if is_refusal else "failed")
            unavailable = WrongType if is_refusal and "WRONGTYPE" in str(error) else RedisUnavailable
            raise unavailable(reason_of(error)) from error
        self._count(operation, "done")
        return cast(T, result)

    def key(self, name: str) -> str:
        """The key's whole name: other services, of other databases, may use the same Redis."""
        return key_in(self.space, name)

    def count_damaged(self, kind: str) -> None:
        """A value under a key of that kind is none of the service's; it counts as absent, and is replaced."""
        self._metrics.redis_damaged.labels(kind).inc()

    async def close(self) -> None:
        """Cancel what is under way, and close all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.aclose()
        pool = getattr(self.client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):
            await pool.sentinel_manager.aclose()

    async def _run(self, command: Callable[[Any], Awaitable[T]]) -> tuple[Exception | None, T | None]:
        """Never raises: nobody may be waiting any more."""
        try:
            result = await command(self.client)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            if _is_refusal(error):
                self._go_on()  # it is there, and answers
                self._note_denial(error)
            else:
                self._pause(reason_of(error))
                await self._drop_idle_connections()
            return error, None
        self._go_on()
        return None, result

    async def _drop_idle_connections(self) -> None:
        """They lead to the same dead server, and Sentinels are only asked for a new connection. A cluster's client
        does it by itself."""
        pool = getattr(self.client, "connection_pool", None)
        if pool is not None:
            with contextlib.suppress(RedisError, OSError):
                await pool.disconnect(inuse_connections=False)

    def _pause(self, reason: str) -> None:
        # Often the first is late, and why is only known when it fails.
        if reason not in self._reasons and len(self._reasons) < MOST_REASONS:
            self._reasons.add(reason)
            log.warning("redis_unavailable", address=self._address, reason=reason)
        now = self._clock()
        if self._failures and now < self._paused_until:
            return  # one of those that were under way when it failed
        self._paused_until = now + min(FIRST_PAUSE_SECONDS * 2.0**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 30)

    def _go_on(self) -> None:
        if self._failures:
            log.warning("redis_available_again", address=self._address)
        self._failures = 0
        self._paused_until = 0.0
        self._reasons.clear()

    def _note_denial(self, error: Exception) -> None:
        """What the user may not do it may not do the next time either: said once for each command."""
        if isinstance(error, NoPermissionError) and str(error) not in self._denials:
            self._denials.add(str(error))
            log.error("redis_denied", address=self._address, reason=reason_of(error))

    def _count(self, operation: str, outcome: str) -> None:
        counter = self._counters.get((operation, outcome))
        if counter is None:
            counter = self._counters[operation, outcome] = self._metrics.redis_operations.labels(operation, outcome)
        counter.inc()


class Allowance:
    """What Redis may still cost one request, over all its operations."""

    def __init__(self, guard: RedisGuard) -> None:
        self._guard = guard
        self._left = guard.timeout_seconds

    async def call(self, operation: str, command: Callable[[Any], Awaitable[T]]) -> T:
        """Raises RedisUnavailable, also where too little is left to tell slow from dead."""
        if self._left < self._guard.timeout_seconds / 5:
            raise RedisUnavailable("it had its time")
        started = time.perf_counter()
        try:
            return await self._guard.call(operation, command, self._left)
        finally:
            self._left -= time.perf_counter() - started


def key_in(space: str, name: str) -> str:
    return f"recs:{space}:{name}" if space else f"recs:{name}"


async def discard(call: Call, kind: str, name: str, found: bytes | None, guard: RedisGuard) -> None:
    """Remove a value that is none of the service's; ``found`` None: it has another type. Raises RedisUnavailable."""
    guard.count_damaged(kind)
    sha = hashlib.sha1(found or b"", usedforsecurity=False).hexdigest()
    await call("discard", lambda redis: redis.eval(DISCARD, 1, name, sha))


async def run_script(client: Any, script: Any, calls: list[tuple[str, list[Any]]]) -> list[Any]:
    """The results of a registered script, which gives one for each of its keys, for (key, its arguments): in one run,
    which costs the client a third of several; in a cluster, where each key has a place of its own, in a run each.

    Raises what the first that failed met: the others may have been done."""
    if not isinstance(client, RedisCluster):
        keys = [key for key, _ in calls]
        arguments = [argument for _, of_key in calls for argument in of_key]
        return cast(list[Any], await script(keys=keys, args=arguments, client=client))
    results = await _pipelined(client, script, calls)
    if any(isinstance(result, NoScriptError) for result in results):  # a server that was started since, or failed over
        await client.script_load(script.script)
        results = await _pipelined(client, script, calls)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for [result] in results]


async def _pipelined(client: Any, script: Any, calls: list[tuple[str, list[Any]]]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for key, arguments in calls:
        pipeline.execute_command("EVALSHA", script.sha, 1, key, *arguments)
    return cast(list[Any], await pipeline.execute(raise_on_error=False))


def open_redis(settings: Settings, metrics: RedisMetrics) -> RedisGuard | None:
    """The Redis of the settings; None where they name none. Nothing is connected before the first operation."""
    client = make_client(settings)
    if client is None:
        return None
    return RedisGuard(client, metrics, settings.redis_timeout_milliseconds / 1000, redis_address(settings))


def make_client(settings: Settings, answer_seconds: float = ANSWER_SECONDS) -> Client | None:
    """The one place where clients are made: a single server, the master that Sentinels name, or a cluster.

    Without retries, which would wait: whoever calls tries again, or does without. ``answer_seconds``: longer for a
    client whose commands block.
    """
    options: dict[str, Any] = {
        "username": settings.redis_username,
        "password": settings.redis_password.get_secret_value() or None,
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # the same answers from every server, without a HELLO
        "driver_info": None,
    }
    if settings.redis_scheme == "tls":
        options |= {"ssl": True}
        if settings.redis_ca_file:
            options |= {"ssl_ca_certs": str(settings.redis_ca_file)}
    if settings.redis_sentinels:
        sentinel_options = options | {
            "username": settings.redis_sentinel_username,
            "password": settings.redis_sentinel_password.get_secret_value() or None,
        }
        sentinels = Sentinel(  # type: ignore[no-untyped-call]
            [_host_and_port(sentinel) for sentinel in settings.redis_sentinels],
            sentinel_kwargs=sentinel_options,
            **options,
            db=settings.redis_db,
            max_connections=MOST_OPERATIONS,
        )
        return sentinels.master_for(settings.redis_sentinel_master)  # type: ignore[no-any-return]
    if not settings.redis_host:
        return None
    options |= {"host": settings.redis_host, "port": settings.redis_port, "max_connections": MOST_OPERATIONS}
    if settings.redis_cluster:
        return RedisCluster(**options)
    return Redis(**options, db=settings.redis_db)


def redis_address(settings: Settings) -> str:
    """Where Redis is, for people; without the password."""
    if settings.redis_sentinels:
        return f"{settings.redis_sentinel_master} of {', '.join(settings.redis_sentinels)}"
    return f"{settings.redis_host}:{settings.redis_port}/{settings.redis_db}"


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _is_refusal(error: Exception) -> bool:
    """The server answered, and will answer the next command: it is full, or the command is wrong. Not so a
    cluster without some of its slots, nor a server that is no master any more."""
    return isinstance(error, ResponseError) and not isinstance(error, (ClusterDownError, ReadOnlyError))


def reason_of(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, NoPermissionError):
        return f"{said}; docs/deployment.md has what the user of REDIS_USERNAME has to be allowed"
    if isinstance(error, (AuthenticationError, AuthenticationWrongNumberOfArgsError)):
        return f"{said}; see REDIS_USERNAME and REDIS_PASSWORD, or with Sentinels theirs"
    return said
