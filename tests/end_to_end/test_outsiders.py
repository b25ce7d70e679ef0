"""Feeds of users outside the catalog while Redis fails, through the running service: all are answered, in time."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.service import Service, load_demo
from tests.servers import LOOPBACK, PrivateRedis

REQUESTS = 60
OUTSIDER = 3_000_000  # nobody of the demo, and so a read of the database each
# Redis's 5 ms and the 20 ms that a feed waits for its user's read, and what a busy machine adds to a median.
LIMIT_SECONDS = 0.025
SLACK_SECONDS = 0.2


@pytest.fixture(scope="module")
def service(module_redis: PrivateRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service-with-redis")
    load_demo(folder)
    settings = {"REDIS_HOST": LOOPBACK, "REDIS_PORT": str(module_redis.port), "REDIS_PASSWORD": module_redis.password}
    with Service.uvicorn(folder, settings) as service:
        service.wait_until_ready()
        yield service
    shutil.rmtree(folder)


def ask(service: Service, first: int) -> float:
    """Ask for feeds of users whom nobody has read; the median's seconds."""
    taken = []
    for user in range(first, first + REQUESTS):
        started = time.perf_counter()
        assert len(service.feed("total", SELF_ID=user, N_VIDEOS=12)["items"]) == 12
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def operations(service: Service, outcome: str) -> float:
    return service.metric("recs_redis_operations_total", outcome=outcome)


def stop(server: PrivateRedis) -> None:
    server.kill()


def hang(server: PrivateRedis) -> None:
    server.pause()


def test_an_outsider_is_read_once(service: Service) -> None:
    def reads() -> float:
        return service.metric("recs_cache_reads_total")

    before = reads()
    service.feed("total", SELF_ID=OUTSIDER - 1)
    service.wait_until(lambda: reads() == before + 1)
    for _ in range(5):
        service.feed("total", SELF_ID=OUTSIDER - 1)
    assert reads() == before + 1
    assert service.metric("recs_cache_lookups_total", level="l1", outcome="negative") >= 5
    assert service.metric("recs_cache_entries") >= 1


@pytest.mark.parametrize(("fault", "tells", "first"), [(stop, "failed", 1000), (hang, "late", 2000)])
def test_feeds_go_on_without_redis_and_use_it_again(
    service: Service, module_redis: PrivateRedis, fault: Callable[[PrivateRedis], None], tells: str, first: int
) -> None:
    ask(service, OUTSIDER + first)
    told = operations(service, tells) + operations(service, "late")
    fault(module_redis)
    try:
        median = ask(service, OUTSIDER + first + 100)
        told_after = operations(service, tells) + operations(service, "late")
    finally:
        module_redis.resume()
        module_redis.start()

    assert median < LIMIT_SECONDS + SLACK_SECONDS
    assert told_after > told
    done = service.metric("recs_redis_operations_total", operation="cache_set", outcome="done")
    numbers = iter(range(OUTSIDER + first + 200, OUTSIDER + first + 100_000))

    def is_used_again() -> bool:
        service.feed("total", SELF_ID=next(numbers))
        return service.metric("recs_redis_operations_total", operation="cache_set", outcome="done") > done

    service.wait_until(is_used_again)
    assert module_redis.password not in service.log


def test_no_key_of_the_service_is_for_ever(service: Service, module_redis: PrivateRedis) -> None:
    ask(service, OUTSIDER + 5000)
    service.wait_until(lambda: int(module_redis.execute("DBSIZE")[1:]) > 0)

    # Sent whole, and answered with the number of keys without a time to live.
    script = """
    local wrong = 0
    for _, key in ipairs(redis.call('KEYS', '*')) do
      if redis.call('TTL', key) < 0 or string.sub(key, 1, 5) ~= 'recs:' then wrong = wrong + 1 end
    end
    return wrong
    """
    assert module_redis.execute("EVAL", script, "0") == ":0"
