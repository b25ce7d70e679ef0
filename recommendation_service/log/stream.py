"""A second copy of acknowledged feedback, in a Redis stream, so that a machine may lose its disk.

The machine's own flusher brings its log into the database and then takes its entries off the stream. What stays on it
for longer than a flush can take belongs to a machine that died or lost its log: any flusher of the fleet claims it
(XAUTOCLAIM, which gives an entry to one at a time) and flushes it. An entry that is flushed twice counts once, by its
event_id. Redis may be lost at any moment: then the logs have everything.

What names an entry elsewhere is the space of its stream, ``|``, and its id: a machine's space may become another.
Without a space it is of a release whose stream was everybody's.

An entry's field ``r`` holds the records of calls that came together, in MessagePack: a list of their bytes.
"""

import asyncio
import contextlib
import os
import socket
import time
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from recommendation_service.core.config import Settings
from recommendation_service.core.place import WrongPlace, owner_of, space_of
from recommendation_service.core.redis import RedisGuard, RedisUnavailable, key_in, open_redis
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

STREAM = "events"
# user: milliseconds since 1970 up to which every machine is to forget, by Redis's clock
FORGOTTEN = "forgotten"
GROUP = "flushers"
# The stream itself goes when nobody has added to it for so long. Entries are trimmed beyond a bound, oldest first.
STREAM_SECONDS = 7 * 86400
MOST_ENTRIES = 200_000
BATCH = 500
MOST_TOGETHER = 1_000  # events of the calls that are added in one operation; a call may have as many
# Of the flusher, which no user waits for.
PATIENCE_SECONDS = 2.0
FORGOTTEN_SECONDS = 3.0

# What has another type goes: 1, else 0.
LUA_REQUIRE = """
local function require_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  if found == wanted or found == 'none' then return 0 end
  return redis.call('DEL', key)
end
"""
# Adds an entry and keeps alive in one step, so that the key always has a time to live. Gives whether something else was
# in the stream's place, and the entry's id.
ADD = (
    LUA_REQUIRE
    + """
local damaged = require_type(KEYS[1], 'stream')
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'r', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {damaged, id}
"""
)
# The same for who is to be forgotten: a machine that was away for longer has no events of before.
FORGET = (
    LUA_REQUIRE
    + """
local damaged = require_type(KEYS[1], 'hash')
local time = redis.call('TIME')
local moment = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', moment))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {damaged, moment}
"""
)
# Who is to be forgotten, since when, and Redis's clock to tell how long ago that is: machines' own may differ.
READ_FORGOTTEN = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


class EventStream:
    """One process's end of the stream."""

    def __init__(self, redis: RedisGuard) -> None:
        self._redis = redis
        client: Any = redis.client
        self._add = client.register_script(ADD)
        self._forget = client.register_script(FORGET)
        self._read_forgotten = client.register_script(READ_FORGOTTEN)

    async def add(self, payloads: list[bytes]) -> bytes | None:
        """Add records as one entry; its id, or None where Redis did not take it in time."""
        arguments = [MOST_ENTRIES, STREAM_SECONDS, msgspec.msgpack.encode(payloads)]
        space = self._redis.space
        keys = [key_in(space, STREAM)]
        try:
            damaged, entry = await self._redis.call(
                "stream_add", lambda client: self._add(keys=keys, args=arguments, client=client)
            )
        except RedisUnavailable:
            return None
        if damaged:
            self._redis.count_damaged("stream")
        return _qualified(space, entry)

    async def forget(self, user_id: int) -> int | None:
        """Tell all machines to forget what they have of a user up to now; that moment, in milliseconds since 1970 by
        Redis's clock. None: Redis did not take the order."""
        arguments = [user_id, STREAM_SECONDS]
        try:
            damaged, moment = await self._redis.call(
                "forget",
                lambda client: self._forget(keys=[self._redis.key(FORGOTTEN)], args=arguments, client=client),
                PATIENCE_SECONDS,
            )
        except RedisUnavailable:
            return None
        if damaged:
            self._redis.count_damaged("forgotten")
        return int(moment)

    async def forgotten(self) -> dict[int, tuple[int, int]]:
        """Who is to be forgotten: since when, and how many milliseconds ago. Raises RedisUnavailable."""
        name = self._redis.key(FORGOTTEN)
        time_of_day, found = await self._redis.call(
            "forgotten", lambda client: self._read_forgotten(keys=[name], client=client), PATIENCE_SECONDS
        )
        now = int(time_of_day[0]) * 1000 + int(time_of_day[1]) // 1000
        # What is no number is nobody's order, and must not keep the flusher from its work.
        orders = [(user, moment) for user, moment in zip(found[::2], found[1::2], strict=True)]
        return {
            int(user): (int(moment), max(0, now - int(moment)))
            for user, moment in orders
            if user.isdigit() and moment.isdigit()
        }

    async def remove(self, ids: list[bytes]) -> None:
        """Take entries off that are in the database. Raises RedisUnavailable: then they are flushed again, later."""
        by_space: dict[str, list[bytes]] = {}
        for qualified in ids:
            of, _, entry = qualified.rpartition(b"|")
            by_space.setdefault(of.decode("ascii", "replace"), []).append(entry)
        for space, entries in by_space.items():
            for start in range(0, len(entries), BATCH):
                some, stream = entries[start : start + BATCH], key_in(space, STREAM)

                async def remove(client: Any, some: list[bytes] = some, stream: str = stream) -> None:
                    with contextlib.suppress(ResponseError):  # no such group: nobody has read yet
                        await client.xack(stream, GROUP, *some)
                    await client.xdel(stream, *some)

                await self._redis.call("stream_remove", remove, PATIENCE_SECONDS)

    async def abandoned(
        self, consumer: str, idle_seconds: float, space: str | None = None
    ) -> list[tuple[bytes, list[bytes]]]:
        """Entries that have been on the stream for so long: (name, records). They are this consumer's from now on.

        ``space``: of the stream; None: the service's own. Raises RedisUnavailable.
        """
        space = self._redis.space if space is None else space
        stream = key_in(space, STREAM)

        async def claim(client: Any) -> list[tuple[bytes, list[bytes]]]:
            try:
                await client.xgroup_create(stream, GROUP, id="0", mkstream=False)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    return []  # there is no stream
            # Reading only notes when an entry was first seen; from then on it counts as idle.
            await client.xreadgroup(GROUP, consumer, {stream: ">"}, count=BATCH, noack=False)
            answer = await client.xautoclaim(stream, GROUP, consumer, int(idle_seconds * 1000), "0-0", count=BATCH)
            return [(_qualified(space, entry), _records(fields)) for entry, fields in answer[1] if fields]

        return await self._redis.call("stream_claim", claim, PATIENCE_SECONDS)


def _qualified(space: str, entry: bytes) -> bytes:
    return f"{space}|".encode() + entry if space else entry


def _records(fields: dict[bytes, bytes]) -> list[bytes]:
    """Of an entry. What is no entry of the service's is one record that cannot be read, and becomes a dead letter."""
    try:
        return msgspec.msgpack.decode(fields[b"r"], type=list[bytes])
    except (KeyError, msgspec.DecodeError):
        return [b"".join(fields.values())]


class FlusherStream:
    """The flusher's end, on a loop of its own: the flusher is a process without one. Raises nothing.

    ``rescue_after_seconds``: what a healthy machine's flush may take; an entry that is older is flushed here.
    """

    def __init__(self, settings: Settings, metrics: Metrics, rescue_after_seconds: float) -> None:
        self._runner = asyncio.Runner()
        self._settings, self._metrics = settings, metrics
        self._rescue_after = rescue_after_seconds
        self._consumer = f"{socket.gethostname()}-{os.getpid()}"
        self._next_look = 0.0
        self._next_forgotten = 0.0
        self._redis: RedisGuard | None = None
        self._stream: EventStream | None = None
        self._earlier_spaces: list[str] = []

    def remove(self, entries: list[bytes]) -> None:
        """These are in the database now."""
        with contextlib.suppress(RedisUnavailable):  # then they are rescued, and count once
            self._runner.run(self._opened().remove(entries))

    def abandoned(self) -> list[tuple[bytes, list[bytes]]]:
        """Entries that no machine has flushed in time, with their records; looked for now and then."""
        if time.monotonic() < self._next_look:
            return []
        try:
            found = self._runner.run(self._all_abandoned(self._opened()))
        except RedisUnavailable:
            found = []
        if found:
            log.warning("events of another machine, or of a lost log, are flushed here", entries=len(found))
        else:
            self._next_look = time.monotonic() + self._rescue_after / 4
        return found

    def forgotten(self) -> dict[int, tuple[int, int]]:
        """Users whom some machine was told to forget, when, and how long ago; asked for every few seconds."""
        if time.monotonic() < self._next_forgotten:
            return {}
        self._next_forgotten = time.monotonic() + FORGOTTEN_SECONDS
        try:
            return self._runner.run(self._opened().forgotten())
        except RedisUnavailable:
            return {}

    async def _all_abandoned(self, stream: EventStream) -> list[tuple[bytes, list[bytes]]]:
        """Of the service's own space, and of those that it had before."""
        found = []
        for space in (None, *self._earlier_spaces):
            found += await stream.abandoned(self._consumer, self._rescue_after, space)
        return found

    def _opened(self) -> EventStream:
        if self._redis is None:
            self._redis = open_redis(self._settings, self._metrics)
            if self._redis is None:
                raise RedisUnavailable("there is none")
            self._stream = EventStream(self._redis)
        try:
            owner = owner_of(self._settings.data_dir)
        except WrongPlace as error:
            raise RedisUnavailable(str(error)) from error
        self._redis.space = space_of(self._settings, owner)
        self._earlier_spaces = [space for space in (owner.spaces if owner else ()) if space != self._redis.space]
        assert self._stream is not None  # noqa: S101
        return self._stream


def rescue_after_seconds(settings: Settings) -> float:
    """Some flushes, and the time that one may take."""
    return 3.0 * settings.flush_interval_seconds + 5.0
