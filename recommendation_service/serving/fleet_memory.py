"""What users have seen, for a fleet of machines: the same entries and answers in Redis.

The machine's own memory (user_memory.py) stays the ground: with Redis gone it is as good for the machine as before, and
what Redis has lost it has again as soon as its users come back. Redis adds what other machines showed, and decides
between two machines that serve one user at once.
"""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, cast

from recommendation_service.core.redis import (
    LUA_GET,
    Allowance,
    RedisGuard,
    RedisUnavailable,
    WrongType,
    discard,
    run_script,
)
from recommendation_service.memory.answers import ANSWER_SECONDS, StoredAnswer
from recommendation_service.memory.entries import are_entries, has_hidden

# A user's key goes when the user was away for so long. What is hidden is known still where the user was served before.
HIDDEN_SECONDS = 400 * 86_400

# KEYS: the user's entries, the answer. ARGV: SHA-1 of the entries to replace, the new ones, their seconds, the answer,
# its seconds. Gives the answer that was kept before, or "1" where the entries were replaced, else "0".
REPLACE = (
    LUA_GET
    + """
if ARGV[4] ~= '' then
  local answer = get(KEYS[2])
  if answer then return answer end
end
local current = get(KEYS[1]) or ''
if redis.sha1hex(current) ~= ARGV[1] then return '0' end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5]) end
return '1'
"""
)

# KEYS: the entries of users. ARGV, of each: SHA-1 of the entries to replace, the new ones, their seconds. Gives of each
# 1 where the entries were replaced, 2 where something of another type was, else those that are there.
EXCHANGE = (
    LUA_GET
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local current, damaged = get(key)
  if not damaged and redis.sha1hex(current or '') ~= ARGV[3 * i - 2] then
    answers[i] = current or ''
  else
    redis.call('SET', key, ARGV[3 * i - 1], 'EX', ARGV[3 * i])
    answers[i] = damaged and 2 or 1
  end
end
return answers
"""
)


class FleetMemory:
    """One worker's. Nothing is raised: where Redis does not answer in time, it is done without (None)."""

    def __init__(self, redis: RedisGuard, longest_seconds: int) -> None:
        self._redis = redis
        self._longest = longest_seconds  # after which every entry but a hidden one has expired
        self._replace = cast(Any, redis.client).register_script(REPLACE)
        self._exchange = cast(Any, redis.client).register_script(EXCHANGE)

    def allowance(self) -> Allowance:
        """What Redis may cost one request, over all that is asked of it."""
        return Allowance(self._redis)

    async def read(self, key: bytes, allowance: Allowance) -> bytes | None:
        """The user's entries."""
        name = self._name(key)
        stored: bytes | None
        try:
            try:
                stored = await allowance.call("seen_read", lambda client: client.get(name))
            except WrongType:
                stored = await self._discard("seen", name, None, allowance)
            if stored and not are_entries(stored):
                stored = await self._discard("seen", name, stored, allowance)
        except RedisUnavailable:
            return None
        return stored or b""

    async def replace(
        self,
        key: bytes,
        old: bytes,
        new: bytes,
        answer: tuple[bytes, StoredAnswer] | None,
        allowance: Allowance,
    ) -> StoredAnswer | bool | None:
        """As UserMemory.replace; nothing new and no entries: only the answer is kept."""
        answer_name, kept = (answer[0], _framed(answer[1])) if answer else (b"", b"")
        keys = [self._name(key), self._answer_name(key, answer_name)]
        arguments = [_sha(old), b"" if new == old else new, self._seconds(new), kept, ANSWER_SECONDS]
        try:
            result = await allowance.call(
                "seen_replace", lambda client: self._replace(keys=keys, args=arguments, client=client)
            )
            if answer is None or result in {b"0", b"1"}:
                return bool(result == b"1")
            if (kept_before := _unframed(result)) is None:
                await self._discard("answer", keys[1], result, allowance)
        except RedisUnavailable:
            return None
        return kept_before or False

    async def exchange_all(
        self, wanted: Sequence[tuple[bytes, bytes, bytes]], allowance: Allowance
    ) -> list[bytes | None]:
        """Of (key, old, new), some dozens at most, put ``new`` in the place of ``old``; of each ``new``, or the
        entries that are there instead, and nothing was written."""
        asked = [(self._name(key), [_sha(old), new, self._seconds(new)]) for key, old, new in wanted]
        try:
            results = await allowance.call("seen_exchange", lambda client: run_script(client, self._exchange, asked))
        except RedisUnavailable:
            return [None] * len(asked)
        return [
            new if result == 1 else await self._exchanged(key, new, result, allowance)
            for (key, _, new), result in zip(wanted, results, strict=True)
        ]

    async def _exchanged(self, key: bytes, new: bytes, result: Any, allowance: Allowance) -> bytes | None:
        if result == 2:
            self._redis.count_damaged("seen")
        if result in {1, 2}:
            return new
        if result and not are_entries(result):
            try:
                return await self._discard("seen", self._name(key), result, allowance)
            except RedisUnavailable:
                return None
        return cast(bytes | None, result)

    async def _discard(self, kind: str, name: str, found: bytes | None, allowance: Allowance) -> bytes:
        """Nothing: what was under the key is gone. Raises RedisUnavailable."""
        await discard(allowance.call, kind, name, found, self._redis)
        return b""

    def _name(self, key: bytes) -> str:
        """In braces what decides on the place in a cluster: entries and answers of a user lie together."""
        return self._redis.key(f"seen:{{{key.hex()}}}")

    def _answer_name(self, key: bytes, answer_name: bytes) -> str:
        return self._redis.key(f"answer:{{{key.hex()}}}:{answer_name.hex()}")

    def _seconds(self, entries: bytes) -> int:
        """For which they are kept."""
        return HIDDEN_SECONDS if has_hidden(entries) else self._longest

    async def answer(self, key: bytes, answer_name: bytes, allowance: Allowance) -> StoredAnswer | None:
        """What any machine answered under this Idempotency-Key in the last minute."""
        name = self._answer_name(key, answer_name)
        stored: bytes | None
        try:
            try:
                stored = await allowance.call("answer_read", lambda client: client.get(name))
            except WrongType:
                stored = await self._discard("answer", name, None, allowance)
            answer = _unframed(stored) if stored else None
            if stored and answer is None:
                await self._discard("answer", name, stored, allowance)
        except RedisUnavailable:
            return None
        return answer

    async def forget(self, key: bytes) -> bool | None:
        """Remove a user's entries; whether there were any."""
        try:
            return bool(await self._redis.call("seen_forget", lambda client: client.delete(self._name(key)), 1.0))
        except RedisUnavailable:
            return None


def _sha(entries: bytes) -> str:
    return hashlib.sha1(entries, usedforsecurity=False).hexdigest()


def _framed(answer: StoredAnswer) -> bytes:
    """With a checksum: the client gets these bytes."""
    content = answer.request + answer.body
    return zlib.crc32(content).to_bytes(4, "little") + content


def _unframed(stored: bytes) -> StoredAnswer | None:
    """None: it is no answer."""
    if len(stored) <= 20 or zlib.crc32(stored[4:]).to_bytes(4, "little") != stored[:4]:
        return None
    return StoredAnswer(stored[4:20], stored[20:])
