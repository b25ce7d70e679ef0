"""What is dear to read, kept in each worker (L1) and in Redis (L2), and read once however many ask for it.

The levels hold bytes, so that what they take is known exactly. An empty entry says that there is nothing to read, so
that asking for what does not exist is as cheap. Everything may be lost at any moment, and is then read again.
"""

import asyncio
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from recommendation_service.core.cache_metrics import CacheMetrics, TurnCounts
from recommendation_service.core.lru import LruBytes
from recommendation_service.core.redis import Allowance, Call, RedisGuard, RedisUnavailable, WrongType

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Workers differ from L2, and so from each other, for no longer than this.
L1_SECONDS = 60.0
NEGATIVE_SECONDS = 60
# Others leave a read that somebody is at to them for so long; who died at it is forgotten then.
LEASE_MILLISECONDS = 2000
POLL_SECONDS = 0.002
# What was read before an entry was invalidated is not written after it: for so long nothing is written at all, ...
TOMBSTONE_SECONDS = 10
# ... and what took longer to read is not written.
LONGEST_READ_SECONDS = TOMBSTONE_SECONDS - 1.0
EPOCH_SECONDS = 10.0
MOST_READS = 256
PAUSE_SECONDS = 1.0

_EPOCH = re.compile(rb"[0-9a-f]{1,16}")  # of a key's name
VALUE, NEGATIVE, TOMBSTONE = b"v", b"n", b"t"

# Who reads. KEYS: the lease. ARGV: a token, milliseconds. What would last longer is nobody's lease.
LEASE = """
if redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then return 1 end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 2
"""
# Written where nobody else wrote meanwhile, and the lease given back. KEYS: entry, lease. ARGV: frame, seconds,
# the lease's token, 1 to replace what is there.
FILL = """
if redis.pcall('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
if ARGV[1] == '' then return 0 end
if ARGV[4] == '1' then return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2], 'NX')
"""


class Cache(Generic[T]):
    """Values by number, through L1 and L2 from ``load``. One worker's, on one event loop.

    ``namespace`` has the version of the encoding, so that another version's entries are not even seen. ``load`` gives
    None for what does not exist, and raises where it cannot tell. It is asked by the number, or by what
    ``get`` was told that the number stands for. ``decode`` gives None for bytes that are no value.
    Without ``guard`` there is no L2.
    """

    def __init__(
        self,
        namespace: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T | None],
        load: Callable[[int | str], Awaitable[T | None]],
        *,
        guard: RedisGuard | None,
        metrics: CacheMetrics,
        limit_bytes: int,
        ttl_seconds: int,
        wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._encode = encode
        self._decode = decode
        self._load = load
        self._guard = guard
        self._metrics = metrics
        self._ttl_seconds = ttl_seconds
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._l1 = LruBytes(limit_bytes)
        self._l1_hits = metrics.cache_lookups.labels("l1", "hit")
        self._l1_negatives = metrics.cache_lookups.labels("l1", "negative")
        self._l1_misses = metrics.cache_lookups.labels("l1", "miss")
        self._reads_of = {outcome: metrics.cache_reads.labels(outcome) for outcome in ("found", "unknown")}
        self._counts = TurnCounts(metrics.cache_read_seconds)
        self._flights: dict[int, asyncio.Future[T | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._epoch = "0"
        self._epoch_known_until = float("-inf")
        self._reads = 0  # under way
        self._paused_until = float("-inf")
        metrics.cache_sizes.read = lambda: (self._l1.bytes, len(self._l1))

    def cached(self, key: int) -> tuple[bool, T | None]:
        """(True, value or None) where L1 has it, (False, None) where it does not. Takes microseconds."""
        payload = self._l1.get(key, self._clock())
        if payload is None:
            return False, None
        if not payload:
            self._l1_negatives.inc()
            return True, None
        self._l1_hits.inc()
        return True, self._decode(payload)

    async def get(self, key: int, stands_for: str = "") -> T | None:
        """The value; None where there is none, and where it takes longer than ``wait_seconds`` to tell.

        What is late goes on by itself and is there for the next who asks. Never raises.
        """
        known, value = self.cached(key)
        if known:
            return value
        self._counts.add(self._l1_misses)
        flight = self._flights.get(key)
        if flight is not None:
            self._metrics.cache_collapsed.labels("worker").inc()
        elif self._guard is not None:
            flight = self._flights[key] = self._run(self._read(key, stands_for or key))
            flight.add_done_callback(lambda done: self._landed(key, done))
        else:
            flight = self._read_source(key, stands_for or key)
            if flight is None:
                return None
        await self._wait(flight)
        if not flight.done():
            self._metrics.cache_late.inc()
            return None
        return None if flight.cancelled() or flight.exception() else flight.result()

    async def peek(self, key: int) -> T | None:
        """What L1 or L2 has of the value, and nothing is read for it; None: neither has, or L2 does not answer."""
        payload = self._l1.get(key, self._clock())
        if payload is not None:
            return self._decode(payload) if payload else None
        if self._guard is None:
            return None
        try:
            return (await self._look_up(key, Allowance(self._guard)))[1]
        except RedisUnavailable:
            return None

    async def invalidate(self, key: int, timeout_seconds: float = 1.0) -> bool:
        """Forget the value, and what is being read of it; other workers within L1_SECONDS.

        False: Redis, which has it for up to its time to live, did not take the order; try again.
        """
        self._l1.remove(key)
        self._flights.pop(key, None)
        if self._guard is None:
            return True
        try:
            await self._read_epoch(self._guard.call)
            frame, name = _frame(TOMBSTONE), self._name(key)
            await self._guard.call(
                "cache_forget", lambda redis: redis.set(name, frame, ex=TOMBSTONE_SECONDS), timeout_seconds
            )
        except RedisUnavailable:
            return False
        return True

    async def invalidate_all(self, timeout_seconds: float = 1.0) -> bool:
        """No key of before is looked at any more, by other workers within L1_SECONDS. False: as above.

        The epoch outlives every entry of an earlier one.
        """
        epoch = secrets.token_hex(8)
        if self._guard is not None:
            name, seconds = self._epoch_name(), 2 * self._ttl_seconds
            try:
                await self._guard.call(
                    "cache_forget", lambda redis: redis.set(name, epoch, ex=seconds), timeout_seconds
                )
            except RedisUnavailable:
                self._begin_epoch(self._epoch)
                return False
        self._begin_epoch(epoch)
        return True

    async def close(self) -> None:
        """Cancel what is being read and written."""
        under_way = {*self._tasks, *self._flights.values()}
        for work in under_way:
            work.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _read(self, key: int, asked: int | str) -> T | None:
        """L2, else the source, unless somebody else is at it."""
        token, replaces = "", False
        if self._guard is not None:
            allowance = Allowance(self._guard)
            try:
                outcome, value = await self._look_up(key, allowance)
                self._metrics.cache_lookups.labels("l2", outcome).inc()
                if outcome in {"hit", "negative"}:
                    return value
                replaces = outcome == "damaged"
                if replaces:
                    self._guard.count_damaged("user")
                if not self._may_read():
                    return None
                token = secrets.token_hex(8)
                name = self._lease_name(key)
                leased = await allowance.call(
                    "cache_lease", lambda redis: redis.eval(LEASE, 1, name, token, LEASE_MILLISECONDS)
                )
                if leased == 2:
                    self._guard.count_damaged("lease")
                if not leased:
                    return await self._await_other(key, allowance)
            except RedisUnavailable:
                if not token:
                    self._metrics.cache_lookups.labels("l2", "down").inc()
        reading = self._read_source(key, asked, token, replaces)
        if reading is None:
            return None
        try:
            return await reading
        except Exception:  # noqa: BLE001 - counted and logged where it ended; the feed goes on without its user
            return None

    async def _look_up(self, key: int, allowance: Allowance) -> tuple[str, T | None]:
        """(hit, negative, miss or damaged; value) of L2, noted in L1. Raises RedisUnavailable."""
        await self._read_epoch(allowance.call)
        name = self._name(key)
        try:
            frame = await allowance.call("cache_get", lambda redis: redis.get(name))
        except WrongType:
            return "damaged", None
        if frame is None:
            return "miss", None
        kind, payload = _open(frame)
        if kind == TOMBSTONE:
            return "miss", None
        if kind == NEGATIVE:
            if self._is_current(key):
                self._note(key, b"", NEGATIVE_SECONDS)
            return "negative", None
        value = self._decode(payload) if kind == VALUE else None
        if value is None:
            return "damaged", None
        if self._is_current(key):
            self._note(key, payload, L1_SECONDS)
        return "hit", value

    async def _await_other(self, key: int, allowance: Allowance) -> T | None:
        """What another worker or machine is reading. Raises RedisUnavailable."""
        until = time.monotonic() + self._wait_seconds
        while time.monotonic() < until:
            await asyncio.sleep(POLL_SECONDS)
            outcome, value = await self._look_up(key, allowance)
            if outcome in {"hit", "negative"}:
                self._metrics.cache_collapsed.labels("fleet").inc()
                return value
        return None

    def _read_source(
        self, key: int, asked: int | str, token: str = "", replaces: bool = False
    ) -> asyncio.Future[T | None] | None:
        """What is being read now, and kept when it is there; None where nothing may be read. Without L2 that is all of
        the flight: it needs no task."""
        if not self._may_read():
            return None
        self._reads += 1
        reading = asyncio.ensure_future(self._load(asked))
        flight: asyncio.Future[T | None] | None = reading
        if self._guard is None:
            self._flights[key] = reading
        else:
            flight = asyncio.current_task()
        ended = partial(self._read_ended, key, flight, self._epoch, time.perf_counter(), token, replaces)
        reading.add_done_callback(ended)
        return reading

    def _read_ended(
        self,
        key: int,
        flight: asyncio.Future[T | None] | None,
        epoch: str,
        started: float,
        token: str,
        replaces: bool,
        reading: asyncio.Future[T | None],
    ) -> None:
        self._reads -= 1
        is_current = self._flights.get(key) is flight
        if is_current and flight is reading:
            del self._flights[key]
        if reading.cancelled():
            return
        error = reading.exception()
        if error is not None:
            self._metrics.cache_reads.labels("failed").inc()
            self._paused_until = self._clock() + PAUSE_SECONDS
            log.warning("cache_read_failed", namespace=self._namespace, reason=str(error))
            self._fill(key, b"", 0, token, replaces)
            return
        value = reading.result()
        seconds = time.perf_counter() - started
        self._counts.add(self._reads_of["unknown" if value is None else "found"], seconds)
        payload = b"" if value is None else self._encode(value)
        is_valid = epoch == self._epoch and is_current
        if is_valid:
            self._note(key, payload, NEGATIVE_SECONDS if value is None else L1_SECONDS)
        if not is_valid or seconds > LONGEST_READ_SECONDS:
            self._fill(key, b"", 0, token, replaces)
        elif value is None:
            self._fill(key, _frame(NEGATIVE), NEGATIVE_SECONDS, token, replaces)
        else:
            self._fill(key, _frame(VALUE, payload), self._ttl_seconds, token, replaces)

    def _may_read(self) -> bool:
        """Not where it failed just now, and not where too many wait for it: a source that hangs would have all."""
        if self._clock() < self._paused_until:
            self._metrics.cache_reads.labels("skipped").inc()
            return False
        if self._reads >= MOST_READS:
            self._metrics.cache_reads.labels("busy").inc()
            return False
        return True

    async def _wait(self, flight: asyncio.Future[T | None]) -> None:
        """Until it has ended, or for as long as a feed waits; as asyncio.wait does, which is for several."""
        if flight.done():
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end(_: object = None) -> None:
            if not ended.done():
                ended.set_result(None)

        limit = loop.call_later(self._wait_seconds, end)
        flight.add_done_callback(end)
        try:
            await ended
        finally:
            limit.cancel()
            flight.remove_done_callback(end)

    def _fill(self, key: int, frame: bytes, seconds: int, token: str, replaces: bool) -> None:
        """Write to L2, which nobody waits for; without a frame only the lease is given back."""
        if self._guard is None or not (frame or token):
            return
        guard, name, lease = self._guard, self._name(key), self._lease_name(key)

        async def fill() -> None:
            try:
                await guard.call(
                    "cache_set",
                    lambda redis: redis.eval(FILL, 2, name, lease, frame, seconds, token, int(replaces)),
                )
            except RedisUnavailable:
                return  # counted; the next who misses it reads it again

        self._run(fill())

    def _note(self, key: int, payload: bytes, seconds: float) -> None:
        """Into L1."""
        evicted = self._l1.put(key, payload, self._clock() + seconds)
        if evicted:
            self._metrics.cache_evictions.inc(evicted)

    def _is_current(self, key: int) -> bool:
        """Whether the task that asks is the flight still: nothing was invalidated since."""
        return self._flights.get(key) is asyncio.current_task()

    async def _read_epoch(self, call: Call) -> None:
        """What `invalidate_all` of any worker wrote last. Raises RedisUnavailable."""
        if self._clock() < self._epoch_known_until:
            return
        try:
            raw = await call("cache_epoch", lambda redis: redis.get(self._epoch_name()))
        except WrongType:
            raw = b"?"
        if raw and not _EPOCH.fullmatch(raw):
            # What it was is not known, and so not either whether entries of another one are of before.
            if self._guard is not None:
                self._guard.count_damaged("epoch")
            raw = new = f"{time.time_ns():x}".encode()
            await call("cache_epoch", lambda redis: redis.set(self._epoch_name(), new, ex=2 * self._ttl_seconds))
        epoch = raw.decode("ascii") if raw else "0"
        self._epoch_known_until = self._clock() + EPOCH_SECONDS
        if epoch != self._epoch:
            self._epoch = epoch
            self._l1.clear()

    def _begin_epoch(self, epoch: str) -> None:
        self._epoch = epoch
        self._epoch_known_until = self._clock() + EPOCH_SECONDS
        self._l1.clear()
        self._flights.clear()

    def _name(self, key: int) -> str:
        return self._key(f"{self._namespace}:{self._epoch}:{{{key}}}")  # the braces: in a cluster beside its lease

    def _key(self, name: str) -> str:
        return self._guard.key(name) if self._guard is not None else name

    def _epoch_name(self) -> str:
        return self._key(f"{self._namespace}:epoch")

    def _lease_name(self, key: int) -> str:
        return f"{self._name(key)}:lease"

    def _landed(self, key: int, flight: asyncio.Task[T | None]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled() and (error := flight.exception()):
            log.error("cache_failed", namespace=self._namespace, exc_info=error)

    def _run(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _frame(kind: bytes, payload: bytes = b"") -> bytes:
    body = kind + payload
    return zlib.crc32(body).to_bytes(4, "little") + body


def _open(frame: bytes) -> tuple[bytes, bytes]:
    """(kind, payload); no kind where the bytes are damaged or not ours."""
    body = frame[4:]
    if zlib.crc32(body).to_bytes(4, "little") != frame[:4]:
        return b"", b""
    return body[:1], body[1:]
