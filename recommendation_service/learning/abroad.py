"""Feedback of feeds that another machine of the fleet made: handed over to it, since it alone has their features.

A balancer sends a feed and the feedback to it wherever it likes. What belongs to no feed of this machine's log goes on
a stream in Redis; each machine reads that from a place of its own, which changes in one step with what follows from it,
and takes what is of its feeds. An event that is handed over twice counts once, as each event of an item of a feed does.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from redis.exceptions import ResponseError

from recommendation_service.core.blocking_redis import BlockingRedis

log = structlog.get_logger(__name__)

TABLE = """
CREATE TABLE IF NOT EXISTS abroad (
  id INTEGER PRIMARY KEY, request BLOB, user INTEGER NOT NULL, session TEXT, item INTEGER NOT NULL, event TEXT NOT NULL,
  reward REAL NOT NULL, shows INTEGER NOT NULL, happened INTEGER NOT NULL, received INTEGER NOT NULL
)
"""
COLUMNS = "request, user, session, item, event, reward, shows, happened, received"
STREAM = "{fleet}:feedback"
TOGETHER = 500  # events of an entry
ENTRIES = 10  # at a time, of those that are sent and of those that are read
MOST_ENTRIES = 2_000  # a machine that is away for longer than these take has lost the oldest
_PLACE = "abroad"
_BEGINNING = "0-0"

# What has another type goes; what is too old to count goes, by Redis's clock. ARGV: most entries, milliseconds that one
# is kept, who hands over, the events.
ADD = """
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'stream' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[3], 'e', ARGV[4])
local time = redis.call('TIME')
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', time[1] * 1000 - ARGV[2]))
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
"""


class HandedOver(NamedTuple):
    """An event, with what it is worth where it was accepted. ``request``: the feed that it names; None: none."""

    request: bytes | None
    user_id: int
    session_id: str | None
    item: int
    name: str
    reward: float
    shows: bool
    happened_ms: int
    received_ms: int


class Received(NamedTuple):
    events: list[HandedOver]
    place: str  # up to which the stream was read


class Abroad:
    """What waits to be handed over, and how far the stream was read: in the ledger's database and steps."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute
        self._run(TABLE)

    def add(self, event: HandedOver) -> None:
        self._run(f"INSERT INTO abroad ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", event)

    def take_back(self) -> list[HandedOver]:
        """Those whose feed is here after all, each given once: its segment was read later."""
        here = "request IN (SELECT request FROM feeds)"
        found = self._run(f"SELECT {COLUMNS} FROM abroad WHERE {here}").fetchall()
        self._run(f"DELETE FROM abroad WHERE {here}")
        return [_event(row) for row in found]

    def waiting(self) -> dict[int, HandedOver]:
        """Some of them, the oldest first."""
        rows = self._run(f"SELECT id, {COLUMNS} FROM abroad ORDER BY id LIMIT ?", (ENTRIES * TOGETHER,))
        return {number: _event(row) for number, *row in rows}

    def handed(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._run("DELETE FROM abroad WHERE id = ?", (number,))

    def drop_before(self, received_ms: int) -> int:
        """What can count nowhere any more; how many."""
        return self._run("DELETE FROM abroad WHERE received < ?", (received_ms,)).rowcount

    def forget(self, user_id: int) -> None:
        self._run("DELETE FROM abroad WHERE user = ?", (user_id,))

    @property
    def place(self) -> str:
        row = self._run("SELECT value FROM known WHERE name = ?", (_PLACE,)).fetchone()
        return _BEGINNING if row is None else str(json.loads(row[0]))

    def keep_place(self, place: str) -> None:
        self._run("INSERT OR REPLACE INTO known VALUES (?, ?)", (_PLACE, json.dumps(place).encode()))


def send(redis: BlockingRedis, machine: str, events: list[HandedOver], kept_ms: int) -> None:
    """Raises RedisUnavailable: then some may have been sent."""
    for start in range(0, len(events), TOGETHER):
        content = msgspec.msgpack.encode([list(event) for event in events[start : start + TOGETHER]])
        redis.script(ADD, [STREAM], MOST_ENTRIES, kept_ms, machine, content)


def receive(redis: BlockingRedis, machine: str, place: str) -> Received:
    """What other machines handed over since. Raises RedisUnavailable."""
    name = redis.key(STREAM)

    async def read(client: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        try:
            found: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(name, min=f"({place}", count=ENTRIES)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return []
        return found

    events: list[HandedOver] = []
    for entry, fields in redis.call(read):
        place = entry.decode("ascii")
        if fields.get(b"m") != machine.encode():
            events += _decoded(fields.get(b"e", b""))
    return Received(events, place)


def _decoded(content: bytes) -> list[HandedOver]:
    """Nothing of what is no entry of the service's."""
    form = list[tuple[bytes | None, int, str | None, int, str, float, bool, int, int]]
    try:
        return [HandedOver(*event) for event in msgspec.msgpack.decode(content, type=form)]
    except msgspec.DecodeError as error:
        log.warning("what another machine handed over cannot be read", reason=str(error))
        return []


def _event(row: Sequence[Any]) -> HandedOver:
    return HandedOver(*row)._replace(shows=bool(row[6]))
