"""Feedback of feeds that another machine of the fleet made: handed over to it, since it alone has their features.

A balancer sends a feed and the feedback to it wherever it likes. What belongs to no feed of this machine's log goes on
a stream in Redis; each machine reads that from a place of its own, which changes in one step with what follows from it,
and takes what is of its feeds. An event that is handed over twice counts once, as each event of an item of a feed does.
So all is handed over once more where Redis has lost what it had, which a random text beside the stream tells.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from redis.exceptions import ResponseError

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.redis import LUA_GET

log = structlog.get_logger(__name__)

_TABLES = (
    # sent: 1 it was, 0 never, -1 not since Redis lost it.
    "CREATE TABLE IF NOT EXISTS handed_over (id INTEGER PRIMARY KEY, request BLOB, user INTEGER NOT NULL, "
    "session TEXT, item INTEGER NOT NULL, event TEXT NOT NULL, reward REAL NOT NULL, shows INTEGER NOT NULL, "
    "happened INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS handed_over_waiting ON handed_over (id) WHERE sent < 1",
    "CREATE INDEX IF NOT EXISTS handed_over_received ON handed_over (received)",
)
COLUMNS = "request, user, session, item, event, reward, shows, happened, received"
STREAM = "{fleet}:feedback"
TOGETHER = 500  # events of an entry
ENTRIES = 10  # at a time, of those that are sent and of those that are read
MOST_ENTRIES = 2_000  # a machine that is away for longer than these take has lost the oldest
EPOCH = "{fleet}:feedback-epoch"
KEPT_SECONDS = 400 * 86_400
_PLACE = "abroad"

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


# ARGV: a random text, its seconds.
FIND_EPOCH = (
    LUA_GET
    + """
local epoch = get(KEYS[1]) or ARGV[1]
redis.call('SET', KEYS[1], epoch, 'EX', ARGV[2])
return epoch
"""
)


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


class Place(NamedTuple):
    """Up to which the stream was read, and which one: Redis may have lost it, and have another."""

    entry: str = "0-0"
    epoch: str = ""


class Received(NamedTuple):
    events: list[HandedOver]
    place: Place


class Abroad:
    """What waits to be handed over, and how far the stream was read: in the ledger's database and steps."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute
        for statement in _TABLES:
            self._run(statement)

    def add(self, event: HandedOver) -> None:
        self._run(f"INSERT INTO handed_over ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", event)

    def take_back(self) -> list[HandedOver]:
        """Those whose feed is here after all, each given once: its segment was read later."""
        here = "sent = 0 AND request IN (SELECT request FROM feeds)"
        found = self._run(f"SELECT {COLUMNS} FROM handed_over WHERE {here}").fetchall()
        self._run(f"DELETE FROM handed_over WHERE {here}")
        return [_event(row) for row in found]

    def waiting(self) -> dict[int, HandedOver]:
        """Some of them, the oldest first."""
        most = ENTRIES * TOGETHER
        rows = self._run(f"SELECT id, {COLUMNS} FROM handed_over WHERE sent < 1 ORDER BY id LIMIT ?", (most,))
        return {number: _event(row) for number, *row in rows}

    def handed(self, numbers: Iterable[int]) -> int:
        """These were sent; how many for the first time."""
        first = 0
        for number in numbers:
            first += self._run("SELECT 1 FROM handed_over WHERE id = ? AND sent = 0", (number,)).fetchone() is not None
            self._run("UPDATE handed_over SET sent = 1 WHERE id = ?", (number,))
        return first

    def drop_before(self, received_ms: int) -> int:
        """What can count nowhere any more; how many were never sent."""
        never = self._run("DELETE FROM handed_over WHERE sent = 0 AND received < ?", (received_ms,)).rowcount
        self._run("DELETE FROM handed_over WHERE received < ?", (received_ms,))
        return never

    def forget(self, user_id: int) -> None:
        self._run("DELETE FROM handed_over WHERE user = ?", (user_id,))

    @property
    def place(self) -> Place:
        row = self._run("SELECT value FROM known WHERE name = ?", (_PLACE,)).fetchone()
        return Place() if row is None else Place(*json.loads(row[0]))

    def keep_place(self, place: Place) -> None:
        """Where it is in another stream, what was sent is sent again."""
        if place.epoch != self.place.epoch:
            self._run("UPDATE handed_over SET sent = -1 WHERE sent = 1")
        self._run("INSERT OR REPLACE INTO known VALUES (?, ?)", (_PLACE, json.dumps(place).encode()))


def send(redis: BlockingRedis, machine: str, events: list[HandedOver], kept_ms: int) -> None:
    """Raises RedisUnavailable: then some may have been sent."""
    for start in range(0, len(events), TOGETHER):
        content = msgspec.msgpack.encode([list(event) for event in events[start : start + TOGETHER]])
        redis.script(ADD, [STREAM], MOST_ENTRIES, kept_ms, machine, content)


def receive(redis: BlockingRedis, machine: str, place: Place) -> Received:
    """What other machines handed over since. Raises RedisUnavailable."""
    name, entry = redis.key(STREAM), place.entry
    epoch = redis.script(FIND_EPOCH, [EPOCH], secrets.token_hex(8), KEPT_SECONDS).decode("ascii", "replace")

    async def read(client: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        try:
            found: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(
                name, min=f"({place.entry}", count=ENTRIES
            )
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return []
        return found

    events: list[HandedOver] = []
    for found, fields in redis.call(read):
        entry = found.decode("ascii")
        if fields.get(b"m") != machine.encode():
            events += _decoded(fields.get(b"e", b""))
    return Received(events, Place(entry, epoch))


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
