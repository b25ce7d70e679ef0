"""What users have seen, for a fleet of machines: the same entries and answers in Redis.

The machine's own memory (user_memory.py) stays the ground: with Redis gone it is as good for the machine as before, and
what Redis has lost it has again as soon as its users come back. Redis adds what other machines showed, and decides
between two machines that serve one user at once.
"""

import hashlib
from typing import Any, cast

import numpy as np

from recommendation_service.catalog.layout import Int64
from recommendation_service.core.redis import Allowance, Grouped, RedisGuard, RedisUnavailable, run_script
from recommendation_service.events.answers import ANSWER_SECONDS, StoredAnswer
from recommendation_service.events.group_commit import GroupCommit
from recommendation_service.events.records import UnwrittenFeed
from recommendation_service.events.user_memory import Change, Entries, MemoryFailed, UserMemory, as_entries
from recommendation_service.ranking.seen import HIDDEN, merge_entries

# A user's key goes when the user was away for so long. What is hidden is known still where the user was served before.
HIDDEN_SECONDS = 400 * 86_400
AGREEMENTS = 8  # tries to add to what others add to at the same time

# KEYS: the user's entries, the answer. ARGV: SHA-1 of the entries to replace, the new ones, their seconds, the answer,
# its seconds. Gives the answer that was kept before, or "1" where the entries were replaced, else "0".
REPLACE = """
if ARGV[4] ~= '' then
  local answer = redis.call('GET', KEYS[2])
  if answer then return answer end
end
local current = redis.call('GET', KEYS[1]) or ''
if redis.sha1hex(current) ~= ARGV[1] then return '0' end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5]) end
return '1'
"""

# KEYS: the user's entries. ARGV: SHA-1 of the entries to replace, the new ones, their seconds. Gives 1 where the
# entries were replaced, else those that are there.
EXCHANGE = """
local current = redis.call('GET', KEYS[1]) or ''
if redis.sha1hex(current) ~= ARGV[1] then return current end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
MOST_TOGETHER = 32  # users whose entries are exchanged in one operation


class FleetMemory:
    """One worker's. Nothing is raised: where Redis does not answer in time, it is done without (None)."""

    def __init__(self, redis: RedisGuard, longest_seconds: int) -> None:
        self._redis = redis
        self._longest = longest_seconds  # after which every entry but a hidden one has expired
        self._replace = cast(Any, redis.client).register_script(REPLACE)
        self._exchange = cast(Any, redis.client).register_script(EXCHANGE)
        self._exchanges = Grouped(redis, "seen_exchange", self._exchange_all, MOST_TOGETHER)

    def allowance(self) -> Allowance:
        """What Redis may cost one request, over all that is asked of it."""
        return Allowance(self._redis)

    async def read(self, key: bytes, allowance: Allowance) -> bytes | None:
        """The user's entries."""
        try:
            stored = await allowance.call("seen_read", lambda client: client.get(_name(key)))
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
        answer_name, kept = (answer[0], answer[1].request + answer[1].body) if answer else (b"", b"")
        keys = [_name(key), f"recs:answer:{{{key.hex()}}}:{answer_name.hex()}"]
        arguments = [_sha(old), b"" if new == old else new, self._seconds(new), kept, ANSWER_SECONDS]
        try:
            result = await allowance.call(
                "seen_replace", lambda client: self._replace(keys=keys, args=arguments, client=client)
            )
        except RedisUnavailable:
            return None
        if len(result) > 1:
            return StoredAnswer(bytes(result[:16]), bytes(result[16:]))
        return bytes(result) == b"1"

    async def exchange(self, key: bytes, old: bytes, new: bytes, allowance: Allowance) -> bytes | None:
        """Put ``new`` in the place of ``old``: ``new``, or the entries that are there instead, and nothing was written.

        A request's first operation: it goes with those of other requests.
        """
        asked = _name(key), [_sha(old), new, self._seconds(new)]
        result = await allowance.call_grouped(self._exchanges, asked)
        return new if result == 1 else result

    async def exchange_again(self, key: bytes, old: bytes, new: bytes, allowance: Allowance) -> bytes | None:
        """The same for one that has not all of its time any more."""
        asked = _name(key), [_sha(old), new, self._seconds(new)]
        try:
            [result] = await allowance.call("seen_exchange", lambda client: self._exchange_all(client, [asked]))
        except RedisUnavailable:
            return None
        return new if result == 1 else result

    async def _exchange_all(self, client: Any, asked: list[tuple[str, list[Any]]]) -> list[Any]:
        return await run_script(client, self._exchange, asked)

    def _seconds(self, entries: bytes) -> int:
        """For which they are kept."""
        hides = (as_entries(entries)[:, 1] & 15 == HIDDEN).any()
        return HIDDEN_SECONDS if hides else self._longest

    async def answer(self, key: bytes, answer_name: bytes, allowance: Allowance) -> StoredAnswer | None:
        """What any machine answered under this Idempotency-Key in the last minute."""
        name = f"recs:answer:{{{key.hex()}}}:{answer_name.hex()}"
        try:
            stored = await allowance.call("answer_read", lambda client: client.get(name))
        except RedisUnavailable:
            return None
        return StoredAnswer(stored[:16], stored[16:]) if stored else None

    async def forget(self, key: bytes) -> bool | None:
        """Remove a user's entries; whether there were any."""
        try:
            return bool(await self._redis.call("seen_forget", lambda client: client.delete(_name(key)), 1.0))
        except RedisUnavailable:
            return None


def _sha(entries: bytes) -> str:
    return hashlib.sha1(entries, usedforsecurity=False).hexdigest()


def _name(key: bytes) -> str:
    """In braces what decides on the place in a cluster: entries and answers of a user lie together."""
    return f"recs:seen:{{{key.hex()}}}"


def merged(ours: bytes, theirs: bytes | None) -> bytes:
    """A user's entries of this machine and of the fleet, as one."""
    if not theirs or theirs == ours:
        return ours
    return merge_entries(as_entries(ours), as_entries(theirs)).tobytes()


async def replace_everywhere(
    memory: UserMemory,
    group: GroupCommit,
    fleet: FleetMemory,
    key: bytes,
    ours: bytes,
    theirs: bytes,
    new: bytes,
    shown: Int64,
    answer: tuple[bytes, StoredAnswer] | None,
    allowance: Allowance,
    feed: UnwrittenFeed | None,
) -> StoredAnswer | bool:
    """Put ``new`` in the place of what was read, ``theirs`` from the fleet and ``ours`` here.

    ``shown``: keys of what ``new`` has because it is about to be shown. False where somebody else has shown the user
    one of these meanwhile; the other answer where one was given. Then what was put is taken back, and ``feed`` is not
    recorded. Raises MemoryFailed, and then neither.

    This machine first: it sees all that its own workers show, also what Redis was too late for, and it has the last
    word on answers. The fleet may have been told something else meanwhile, by this machine's own workers for one:
    only where that has an item of ``shown`` was this one shown in vain.
    """
    failed: MemoryFailed | None = None
    try:
        if await group.write(Change(key, ours, new), None) is False:
            return False
    except MemoryFailed as error:
        failed = error  # the fleet remembers all the same
    agreed = await _agree(fleet, key, theirs, new, shown, answer, allowance)
    kept = agreed
    if answer is not None and agreed is not False and failed is None:
        kept = memory.keep_answer(answer[0], agreed if isinstance(agreed, StoredAnswer) else answer[1]) or agreed
    if kept is not True and failed is None:
        memory.take_back(key, _fresh(new, shown, ours, theirs))  # nobody was shown it
    if failed is not None and kept is True:
        raise failed
    if kept is True and feed is not None:
        await group.write(None, feed)
    return kept


def _fresh(new: bytes, shown: Int64, ours: bytes, theirs: bytes) -> Entries:
    """The entries of what is about to be shown and was not remembered before."""
    entries = as_entries(new)
    before = np.concatenate([as_entries(ours)[:, 0], as_entries(theirs)[:, 0]])
    return entries[np.isin(entries[:, 0], shown) & ~np.isin(entries[:, 0], before)]


async def _agree(
    fleet: FleetMemory,
    key: bytes,
    theirs: bytes,
    new: bytes,
    shown: Int64,
    answer: tuple[bytes, StoredAnswer] | None,
    allowance: Allowance,
) -> StoredAnswer | bool:
    """Whether the fleet may be shown it. So it may where Redis does not answer any more."""
    told = new
    for _ in range(AGREEMENTS):
        agreed = await fleet.replace(key, theirs, told, answer, allowance)
        if agreed is None or agreed is True or isinstance(agreed, StoredAnswer):
            return True if agreed is None else agreed
        now = await fleet.read(key, allowance)
        if now is None:
            return True
        if np.isin(shown, as_entries(now)[:, 0]).any():
            return False
        theirs, told = now, merge_entries(as_entries(new), as_entries(now)).tobytes()
    return False
