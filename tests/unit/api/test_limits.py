"""How much one client may ask for."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.api.limits import RateLimiter
from recommendation_service.core.errors import TooManyRequests


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: RateLimiter, client: str, requests: int) -> int:
    """How many of so many requests at one moment get through."""
    count = 0
    for _ in range(requests):
        try:
            limiter.check(client)
        except TooManyRequests:
            continue
        count += 1
    return count


def test_without_a_limit_everything_gets_through() -> None:
    assert admitted(RateLimiter(0.0, Clock()), "7", 10_000) == 10_000


@pytest.mark.parametrize("rate", [1.0, 5.0, 250.0])
def test_a_burst_of_one_seconds_worth_gets_through_and_no_more(rate: float) -> None:
    assert admitted(RateLimiter(rate, Clock()), "7", int(rate) * 3) == int(rate)


def test_a_rate_below_one_a_second_admits_one_and_says_when_the_next() -> None:
    clock = Clock()
    limiter = RateLimiter(0.1, clock)
    limiter.check("7")
    with pytest.raises(TooManyRequests) as refused:
        limiter.check("7")
    assert refused.value.retry_after_seconds is not None

    clock.now += refused.value.retry_after_seconds
    limiter.check("7")


def test_clients_do_not_use_up_each_others_limit() -> None:
    limiter = RateLimiter(5.0, Clock())
    assert [admitted(limiter, client, 9) for client in ("7", "8", "address 127.0.0.1")] == [5, 5, 5]


def test_a_refused_request_does_not_count() -> None:
    clock = Clock()
    limiter = RateLimiter(5.0, clock)
    admitted(limiter, "7", 500)
    clock.now += 0.2
    assert admitted(limiter, "7", 500) == 1


@settings(deadline=None)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=80))
def test_whatever_the_arrivals_no_window_admits_more_than_its_share_and_a_burst(pauses: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(4.0, clock)
    times = []
    for pause in pauses:
        clock.now += pause
        if admitted(limiter, "7", 1):
            times.append(clock.now)
    for first, start in enumerate(times):
        for last, end in enumerate(times[first:], start=first):
            assert last - first + 1 <= 4.0 * (end - start) + 4 + 1e-6


def test_forked_workers_share_one_limit() -> None:
    limiter = RateLimiter(10.0, Clock())
    child = os.fork()
    if child == 0:
        os._exit(admitted(limiter, "7", 6))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 6
    assert admitted(limiter, "7", 100) == 4
