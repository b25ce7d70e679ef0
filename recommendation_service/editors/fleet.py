"""What editors ruled, in Redis: a ruling that is made on one machine holds on all.

One value, changed by a compare-and-swap, so that of two changes at once one is made after the other. Redis may lose it,
or have an old one again: each machine has the number of the state that it followed, and whoever has the highest puts it
there again.
"""

import hashlib

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.errors import ServiceError
from recommendation_service.core.redis import LUA_GET, RedisUnavailable
from recommendation_service.editors.rulings import Rulings, decoded

STATE = "{fleet}:rulings"
# Longer than anything is ruled without a change; then a machine puts it there again.
KEPT_SECONDS = 400 * 86_400
_HEAD = 64  # characters of its checksum, by which a state is known

# KEYS: the state. ARGV: the head of the one that is known. Nothing where it still is that one.
HEAD = """
local head = redis.pcall('GETRANGE', KEYS[1], 0, 63)
return type(head) == 'table' and '' or head
"""
READ = LUA_GET + "return get(KEYS[1])"
# ARGV: SHA-1 of the state to replace, the new one, its seconds.
SWAP = (
    LUA_GET
    + """
if redis.sha1hex(get(KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
)


class FleetUnreachable(ServiceError):
    """Redis does not answer: this machine is cut off, and nothing was changed, as far as it knows."""

    status = 503
    code = "fleet_unreachable"


class Elsewhere(Exception):
    """Another machine changed the state just now."""


class FleetRulings:
    """A machine's end; but for ``is_changed`` used under the lock of the store's changes."""

    def __init__(self, redis: BlockingRedis) -> None:
        self._redis = redis
        self._found = b""  # in Redis, when it was read
        self._followed = b"-"  # the head of what is followed

    def is_changed(self) -> bool:
        """Whether Redis has another state than the one that was followed. Raises FleetUnreachable."""
        return self._asked(HEAD) != self._followed

    def read(self) -> Rulings | None:
        """None: there is none, or it is damaged, and whoever has it whole puts it there again.

        Raises FleetUnreachable."""
        self._found = self._asked(READ)
        try:
            return decoded(self._found)
        except ValueError:
            return None

    def swap(self, state: Rulings) -> None:
        """For the one that was read. Raises Elsewhere, FleetUnreachable."""
        content = state.encoded()
        known = hashlib.sha1(self._found, usedforsecurity=False).hexdigest()
        if not self._asked(SWAP, known, content, KEPT_SECONDS):
            raise Elsewhere
        self._found = content

    def note(self) -> None:
        """What was read or put there is followed now."""
        self._followed = self._found[:_HEAD]

    def _asked(self, script: str, *arguments: bytes | str | int) -> bytes:
        try:
            return self._redis.script(script, [STATE], *arguments) or b""
        except RedisUnavailable as error:
            raise FleetUnreachable(
                f"Redis at {self._redis.address} does not answer: {error}.", retry_after_seconds=5
            ) from error
