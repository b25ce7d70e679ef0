"""Redis for processes and commands, which wait for it: no request does, so there is neither guard nor pause."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from redis.exceptions import RedisClusterException, RedisError

from recommendation_service.core.config import Settings
from recommendation_service.core.place import WrongPlace, owner_of, space_of
from recommendation_service.core.redis import Client, RedisUnavailable, key_in, make_client, reason_of, redis_address

T = TypeVar("T")

# Of one operation, connecting included.
PATIENCE_SECONDS = 3.0


class BlockingRedis:
    """One thread's, on an event loop of its own. Nothing is connected before the first operation."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._runner = asyncio.Runner()
        self.address = redis_address(settings)

    def key(self, name: str) -> str:
        """The key's whole name, of the space that the database has by now. Raises RedisUnavailable."""
        try:
            return key_in(space_of(self._settings, owner_of(self._settings.data_dir)), name)
        except WrongPlace as error:
            raise RedisUnavailable(str(error)) from error

    def call(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """The result of ``command(client)``. Raises RedisUnavailable, with the reason."""

        async def patiently() -> T:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await command(self._client)

        try:
            return self._runner.run(patiently())
        except TimeoutError as error:
            self._drop_connections()
            raise RedisUnavailable(f"no answer within {PATIENCE_SECONDS:g} s") from error
        except (RedisError, RedisClusterException, OSError) as error:
            self._drop_connections()
            raise RedisUnavailable(reason_of(error)) from error

    def _drop_connections(self) -> None:
        """They may lead to a server that is gone; nothing is tried again, as it may have been done."""
        with contextlib.suppress(RedisError, RedisClusterException, OSError):
            self._runner.run(self._client.aclose())

    def script(self, text: str, keys: list[str], *arguments: bytes | str | int) -> Any:
        """The result of a script of names without their space, which have one hash tag. Raises RedisUnavailable."""
        named = [self.key(name) for name in keys]
        return self.call(lambda client: client.eval(text, len(named), *named, *arguments))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_blocking_redis(settings: Settings) -> BlockingRedis | None:
    """None where the settings name no Redis."""
    client = make_client(settings)
    return None if client is None else BlockingRedis(settings, client)
