"""Whether Redis is there, and lets the service's user do what the service does."""

import asyncio
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from recommendation_service.core.config import Settings
from recommendation_service.core.redis import make_client, redis_address
from recommendation_service.doctor.findings import Finding, error, ok, warning

ANSWER_SECONDS = 5.0
# A key that nobody has: whatever is done to it changes nothing.
KEY = "recs:doctor"
# Each command that the service uses, in a form that changes nothing, also where it may not be refused.
PROBES: tuple[tuple[Any, ...], ...] = (
    ("GET", KEY),
    ("GETRANGE", KEY, 0, 0),
    ("SET", KEY, "", "XX"),
    ("DEL", KEY),
    ("EXPIRE", KEY, 1),
    ("PTTL", KEY),
    ("TYPE", KEY),
    ("HGETALL", KEY),
    ("XADD", KEY, "NOMKSTREAM", "*", "r", ""),
    ("XRANGE", KEY, "-", "+"),
    ("XTRIM", KEY, "MINID", 0),
    ("XACK", KEY, "flushers", "1-1"),
    ("XDEL", KEY, "1-1"),
    ("XGROUP", "CREATE", KEY, "flushers", "0"),
    ("XREADGROUP", "GROUP", "flushers", "doctor", "COUNT", 1, "STREAMS", KEY, ">"),
    ("XAUTOCLAIM", KEY, "flushers", "doctor", 1, "0-0"),
    ("TIME",),
    ("SCRIPT", "LOAD", "return 1"),
    ("EVAL", "return 1", 1, KEY),
    ("EVALSHA", "0" * 40, 1, KEY),
)


def check_redis(settings: Settings) -> list[Finding]:
    """Nothing where the settings name no Redis."""
    if not settings.has_redis:
        return []
    name, where = "Redis", redis_address(settings)
    user = settings.redis_username or "the default user"
    try:
        denied = asyncio.run(_denied(settings))
    except (AuthenticationError, AuthenticationWrongNumberOfArgsError) as failure:
        return [
            error(
                name,
                f"Redis at {where} does not let {user} in: {failure}. The service goes on without it.",
                "Check REDIS_USERNAME and REDIS_PASSWORD, and with Sentinels REDIS_SENTINEL_USERNAME and "
                "REDIS_SENTINEL_PASSWORD.",
            )
        ]
    except (RedisError, RedisClusterException, OSError, TimeoutError) as failure:
        said = f"{type(failure).__name__}: {failure}".removesuffix(": ")
        return [
            error(
                name,
                f"No connection to Redis at {where} ({said}). The service goes on without it.",
                "Check the REDIS_* settings: `recs config` shows them.",
            )
        ]
    if denied:
        return [
            warning(
                name,
                f"Redis at {where} denies {user}: {', '.join(denied)}. What needs those is done as without Redis.",
                "docs/deployment.md has the line of the access control list.",
            )
        ]
    return [ok(name, f"Redis at {where} lets {user} do all that the service does.")]


async def _denied(settings: Settings) -> list[str]:
    """The commands that the user may not use on the service's keys."""
    client: Any = make_client(settings, ANSWER_SECONDS)
    denied = []
    try:
        for probe in PROBES:
            try:
                await client.execute_command(*probe)
            except NoPermissionError:
                denied.append(" ".join(probe[:2]) if probe[0] in {"SCRIPT", "XGROUP"} else str(probe[0]))
            except AuthenticationWrongNumberOfArgsError:
                raise
            except ResponseError:
                continue  # it may, and there is nothing to do it to
    finally:
        await client.aclose()
    return denied
