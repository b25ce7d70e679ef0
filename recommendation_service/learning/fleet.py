"""A fleet that learns: each machine's sums in Redis, and which machine merges them and publishes.

Each machine has one value, which it replaces and never adds to: whatever is written how often, nothing counts twice.
Whoever has the lease merges and publishes. With the lease comes a fence, a number that grows: what is published bears
it, and is refused once another machine has been given a higher one.

Redis may lose all of it. Each machine writes its own again, and puts there what it last saw of the others, also of
those that are gone. What a machine does not recognize under its own name it does not replace: as where its folder was
copied, or an older copy of its file put back.
"""

import contextlib
import hashlib
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import structlog

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.errors import PolicyError
from recommendation_service.core.redis import LUA_GET, RedisUnavailable
from recommendation_service.learning.abroad import Received, receive, send
from recommendation_service.learning.ledger import Ledger
from recommendation_service.learning.parts import (
    Part,
    PartRefused,
    as_copy,
    decode_part,
    described,
    is_struck,
    merged,
    struck,
)
from recommendation_service.learning.sums import Sums
from recommendation_service.policies.fleet import FENCE

log = structlog.get_logger(__name__)

PARTS = "{fleet}:sums"
LEASE = "{fleet}:lease"
PUBLISHED = "{fleet}:published"
TO_STRIKE = "to-strike"  # a file: machines whose part this one takes the place of
KEPT_SECONDS = 400 * 86_400
LEASE_MILLISECONDS = 60_000
# Between writes; what has not changed is written once a minute, in case Redis has lost it.
WRITE_SECONDS = 10.0
RENEW_SECONDS = 60.0
# A connection that broke is no reason to alarm anybody.
PATIENCE_SECONDS = 10.0

_HASH = """
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local found = redis.call('HGET', KEYS[1], ARGV[1])
local function put(value)
  redis.call('HSET', KEYS[1], ARGV[1], value)
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
"""
# KEYS: the parts. ARGV: the machine, its part, seconds, the sequence, who it has written as, whether in any case.
WRITE = (
    _HASH
    + """
if found and ARGV[6] ~= '1' then
  if string.sub(found, 1, 12) == 'recs-struck ' then return 'struck' end
  local writer, sequence, whose = string.match(found, '^recs%-sums %d+ (%x+) (%d+) (%a+) ')
  if writer then
    if tonumber(sequence) > tonumber(ARGV[4]) then return 'other' end
    if whose == 'own' and not string.find(ARGV[5], writer, 1, true) then return 'other' end
  end
end
put(ARGV[2])
return 'done'
"""
)
# ARGV: the machine, what is known of it, seconds, SHA-1 of a damaged part to replace or nothing. Puts it there where
# nothing is, and where it says that the machine was struck off also in the place of a copy.
PUT_BACK = (
    _HASH
    + """
local is_copy = found and string.match(found, '^recs%-sums %d+ %x+ %d+ copy ')
if not found or redis.sha1hex(found) == ARGV[4] or (is_copy and string.sub(ARGV[2], 1, 11) == 'recs-struck') then
  put(ARGV[2])
end
"""
)
STRIKE = _HASH + "if found or ARGV[4] == '1' then put(ARGV[2]) end return found"
READ = """
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then return {} end
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: lease, fence, what was published. ARGV: the machine, milliseconds, whether to take it from another, seconds.
# Gives the holder, its fence, and what was published.
TAKE = (
    LUA_GET
    + """
local holder, fence = get(KEYS[1]), get(KEYS[2])
if holder ~= ARGV[1] and (not holder or ARGV[3] == '1') or not fence then
  local time = redis.call('TIME')
  fence = string.format('%.0f', math.max((tonumber(fence) or 0) + 1, time[1] * 1000000 + time[2]))
  redis.call('SET', KEYS[2], fence, 'EX', ARGV[4])
  holder = ARGV[1]
end
if holder == ARGV[1] then redis.call('SET', KEYS[1], holder, 'PX', ARGV[2]) end
return {holder, fence, get(KEYS[3]) or ''}
"""
)
# KEYS: lease. ARGV: the machine.
LET_GO = LUA_GET + "if get(KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
# KEYS: what was published, the fence. ARGV: the new, seconds, its fence.
PUBLISH = LUA_GET + "if get(KEYS[2]) == ARGV[3] then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end"


class CutOff(PolicyError):
    """Redis does not answer: nothing is published for the fleet."""


class NotThisMachine(PolicyError):
    """Redis has sums under this machine's name that it did not write."""


class LearningFleet:
    """A learner's end. ``now``: seconds since 1970."""

    def __init__(self, redis: BlockingRedis, ledger: Ledger, folder: Path) -> None:
        self._redis = redis
        self._ledger = ledger
        self._to_strike = folder / TO_STRIKE
        self._host = socket.gethostname()
        self._writer = secrets.token_hex(8)
        self._written_slots: int | None = None
        self._write_at = 0.0  # by the monotonic clock, as the two that follow
        self._renewed_at = -RENEW_SECONDS
        self._cut_off_at: float | None = None
        self._problem: str | None = None
        self.fence: str | None = None  # while this machine has the lease
        self.publisher: str | None = None
        self.published: dict[str, Any] = {}
        self.machines: list[dict[str, Any]] = []  # beside this one, as they were last read

    @property
    def problem(self) -> str | None:
        """Why this machine does not learn with the fleet; None: it does, or did seconds ago."""
        if self._cut_off_at is not None and time.monotonic() - self._cut_off_at < PATIENCE_SECONDS:
            return None
        return self._problem

    def share(self, now: float, *, at_once: bool = False, take_lease: bool = False) -> None:
        """Write this machine's part, where that is due, and find out who merges.

        ``take_lease``: from whoever has it. Raises CutOff, NotThisMachine, OSError.
        """
        if not at_once and time.monotonic() < self._write_at:
            return
        slots = self._ledger.totals.all_slots
        changed = slots != self._written_slots
        self._write_at = time.monotonic() + WRITE_SECONDS
        try:
            if at_once or changed or time.monotonic() >= self._renewed_at + RENEW_SECONDS:
                self._write(slots, now)
            self._take(take_lease=take_lease)
        except RedisUnavailable as error:
            raise self._cut_off(error) from error
        self._cut_off_at = self._problem = None

    def _write(self, slots: int, now: float) -> None:
        """Raises RedisUnavailable, NotThisMachine, OSError."""
        self._strike_replaced(now)
        identity = self._ledger.fleet.identity
        if self._writer not in identity.writers:
            identity.writers.append(self._writer)
        identity.sequence += 1
        with self._ledger.step():  # before Redis has it: what is found there is known to be this machine's
            self._ledger.fleet.keep_identity()
        part = Part(identity.machine, self._host, identity.sequence, int(now * 1000), slots, self._ledger.sums)
        arguments: list[Any] = [KEPT_SECONDS, identity.sequence, " ".join(identity.writers), int(identity.takes_over)]
        value = part.encoded(self._writer)
        outcome = self._redis.script(WRITE, [PARTS], identity.machine, value, *arguments)
        if outcome != b"done":
            self._refuse(outcome)
        self._written_slots, self._renewed_at = slots, time.monotonic()
        if identity.writers != [self._writer] or identity.takes_over:
            identity.writers, identity.takes_over = [self._writer], False
            with self._ledger.step():
                self._ledger.fleet.keep_identity()

    def _refuse(self, outcome: bytes) -> None:
        self.fence = None
        machine = self._ledger.fleet.identity.machine
        if outcome == b"struck":
            self._problem = (
                f"This machine ({machine}) was struck off the fleet: what it learned does not count. `recs learn "
                "take-over` has it count again; `recs learn --anew` begins anew."
            )
        else:
            self._problem = (
                f"Redis has sums of this machine ({machine}) that it does not know of: its folder was copied, and the "
                "copy learns; or an older learned.sqlite was put back. They are not replaced. On a copy, run `recs "
                "learn --anew`; else `recs learn take-over` puts this machine's sums in their place."
            )
        self._cut_off_at = None
        raise NotThisMachine(self._problem)

    def _take(self, *, take_lease: bool) -> None:
        machine = self._ledger.fleet.identity.machine
        arguments: list[Any] = [machine, LEASE_MILLISECONDS, int(take_lease), KEPT_SECONDS]
        holder, fence, published = self._redis.script(TAKE, [LEASE, FENCE, PUBLISHED], *arguments)
        self.publisher = holder.decode("ascii", "replace")
        self.fence = fence.decode("ascii", "replace") if self.publisher == machine else None
        try:
            found = json.loads(published or b"{}")
            self.published = found if isinstance(found, dict) else {}
        except ValueError:
            self.published = {}

    def merge(self, now: float) -> tuple[Sums, int, int]:
        """The sums of all machines, of how many shown items they are, and of how many machines.

        Raises CutOff, OSError.
        """
        try:
            found = self._read()
        except RedisUnavailable as error:
            raise self._cut_off(error) from error
        parts, refused = [], {}
        for machine, value in found.items():
            if not is_struck(value):
                try:
                    parts.append(decode_part(machine, value))
                except PartRefused as error:
                    refused[machine] = str(error)
        total, taken, gone = merged(self._ledger.sums, parts, now)
        refused |= gone
        by_machine = {part.machine: part for part in parts}
        self.machines = [
            described(by_machine[machine]) if machine in by_machine else {"machine": machine} for machine in found
        ]
        for each in self.machines:
            each["refused"] = refused.get(each["machine"])
            each["struck"] = is_struck(found[each["machine"]])
        for machine, reason in refused.items():
            log.error("a machine's sums are not merged", machine=machine, reason=reason)
        return total, self._ledger.totals.all_slots + sum(part.slots for part in taken), 1 + len(taken)

    def _read(self) -> dict[str, bytes]:
        """What there is of the other machines: what Redis has, and of what it lacks or has damaged what it had.

        Raises RedisUnavailable, OSError.
        """
        answer = self._redis.script(READ, [PARTS])
        there = {name.decode("ascii", "replace"): value for name, value in zip(answer[::2], answer[1::2], strict=True)}
        there.pop(self._ledger.fleet.identity.machine, None)
        known = self._ledger.fleet.others()
        found = {}
        for machine in {*there, *known}:
            value, before = there.get(machine), known.get(machine)
            if before is not None and (value is None or _is_older(machine, value, before)):
                sha = hashlib.sha1(value or b"", usedforsecurity=False).hexdigest()
                again = before if is_struck(before) else as_copy(before)
                self._redis.script(PUT_BACK, [PARTS], machine, again, KEPT_SECONDS, sha)
                found[machine] = before
            elif value is not None:
                found[machine] = value
        with self._ledger.step():
            self._ledger.fleet.keep_others(
                {machine: value for machine, value in found.items() if value != known.get(machine)}
            )
        return found

    def received(self) -> Received | None:
        """What other machines were told of feeds that may be this one's; None: nothing, or Redis does not answer."""
        if self._cut_off_at is not None:
            return None  # until `share` has found it again
        place = self._ledger.abroad.place
        try:
            received = receive(self._redis, self._ledger.fleet.identity.machine, place)
        except RedisUnavailable as error:
            self._cut_off(error)
            return None
        return received if received.place != place else None

    def hand_over(self, kept_ms: int) -> None:
        """What this machine was told of feeds that are none of its own; what Redis does not take waits.

        Raises OSError.
        """
        waiting = self._ledger.abroad.waiting()
        if self._cut_off_at is not None or not waiting:
            return
        try:
            send(self._redis, self._ledger.fleet.identity.machine, list(waiting.values()), kept_ms)
        except RedisUnavailable as error:
            self._cut_off(error)
            return
        with self._ledger.step():
            self._ledger.totals.leave("elsewhere", self._ledger.abroad.handed(waiting))
            self._ledger.keep(self._ledger.mark)

    def note_published(self, version: str, slots: int, now: float) -> None:
        """Nothing is lost where it cannot be: another machine may publish the same once more."""
        self.published = {"version": version, "slots": slots, "ms": int(now * 1000), "host": self._host}
        try:
            content = json.dumps(self.published)
            self._redis.script(PUBLISH, [PUBLISHED, FENCE], content, KEPT_SECONDS, self.fence or "")
        except RedisUnavailable as error:
            log.warning("what was published is not noted for the fleet", reason=str(error))

    def _strike_replaced(self, now: float) -> None:
        try:
            machines = self._to_strike.read_text("ascii").split()
        except (FileNotFoundError, UnicodeDecodeError):
            return
        for machine in machines:
            strike(self._redis, machine, now, in_any_case=True)
        self._to_strike.unlink()

    def _cut_off(self, error: RedisUnavailable) -> CutOff:
        self.fence = self.publisher = None
        if self._cut_off_at is None:
            self._cut_off_at = time.monotonic()
        self._problem = (
            f"This machine is cut off from the fleet, learns on by itself and publishes nothing: Redis at "
            f"{self._redis.address} does not answer ({error})."
        )
        return CutOff(self._problem)

    def status(self) -> dict[str, Any]:
        return {
            "machine": self._ledger.fleet.identity.machine,
            "host": self._host,
            "publisher": self.publisher,
            "cut_off": self._cut_off_at is not None,
            "machines": self.machines,
        }

    def close(self) -> None:
        """Let others publish at once."""
        if self.fence is not None:
            with contextlib.suppress(RedisUnavailable):  # then it ends by itself
                self._redis.script(LET_GO, [LEASE], self._ledger.fleet.identity.machine)
        self._redis.close()


def strike(
    redis: BlockingRedis, machine: str, now: float, *, in_any_case: bool = False, until_written: bool = False
) -> bool:
    """Have a machine's sums count no more; False: there is no such machine. ``until_written``: but what it writes next
    does, whatever it was that was there. Raises RedisUnavailable."""
    value = struck(socket.gethostname(), int(now * 1000), until_written=until_written)
    return bool(redis.script(STRIKE, [PARTS], machine, value, KEPT_SECONDS, int(in_any_case))) or in_any_case


def _is_older(machine: str, value: bytes, known: bytes) -> bool:
    """Whether what Redis has of a machine is damaged, or a copy of less than is known; or it was struck off."""
    if is_struck(value):
        return False
    if is_struck(known):
        return b" copy " in value[:120]
    try:
        there = decode_part(machine, value)
    except PartRefused as error:
        return "damaged" in str(error)
    try:
        return b" copy " in value[:120] and there.sequence < decode_part(machine, known).sequence
    except PartRefused:
        return False
