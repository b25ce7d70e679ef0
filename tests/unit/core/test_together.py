"""Reads that share a round trip: who comes while others are read is read with the next."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from recommendation_service.core.together import Together


class Source:
    """Reads that the test lets go on."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.failure: Exception | None = None

    def read(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.reads.append(list(keys))
        assert self.may_go_on.wait(60)
        if self.failure is not None:
            raise self.failure
        return {key: f"value {key}" for key in keys}

    async def begun(self, count: int) -> None:
        while len(self.reads) < count:
            await asyncio.sleep(0.001)


def with_source(
    test: Callable[[Source, Together[int, str]], Awaitable[None]], threads: int = 1, patience: float = 0.001
) -> None:
    async def run() -> None:
        source = Source()
        with ThreadPoolExecutor(threads) as pool:
            loop = asyncio.get_running_loop()
            together: Together[int, str] = Together(
                lambda keys: loop.run_in_executor(pool, source.read, keys),
                readings=threads,
                most=3,
                patience_seconds=patience,
            )
            try:
                await test(source, together)
            finally:
                source.may_go_on.set()
                together.close()

    asyncio.run(run())


def test_who_asks_in_one_turn_is_read_at_once_and_who_comes_meanwhile_with_the_next() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = [together.get(key) for key in (1, 2, 1)]
        await source.begun(1)
        later = [together.get(key) for key in (3, 4, 5, 6)]
        await asyncio.sleep(0)
        source.may_go_on.set()
        assert await asyncio.gather(*first, *later) == [f"value {key}" for key in (1, 2, 1, 3, 4, 5, 6)]
        assert source.reads == [[1, 2], [4, 5, 6], [3]], "the latest first, three at most"

    with_source(test)


def test_a_reading_that_hangs_leaves_the_other_thread_to_others() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = together.get(1)
        await source.begun(1)
        second = together.get(2)
        await source.begun(2)
        third = together.get(3)
        await asyncio.sleep(0.01)
        assert source.reads == [[1], [2]]
        source.may_go_on.set()
        assert await asyncio.gather(first, second, third) == ["value 1", "value 2", "value 3"]

    with_source(test, threads=2)


def test_while_one_reading_is_under_way_another_begins_only_when_it_is_full() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = together.get(1)
        await source.begun(1)
        few = [together.get(key) for key in (2, 3)]
        await asyncio.sleep(0.01)
        assert source.reads == [[1]]
        last = together.get(4)
        await source.begun(2)
        assert source.reads == [[1], [2, 3, 4]]
        source.may_go_on.set()
        assert await asyncio.gather(first, *few, last) == [f"value {key}" for key in (1, 2, 3, 4)]

    with_source(test, threads=2, patience=3600)


def test_who_comes_meanwhile_is_read_as_soon_as_the_reading_ends() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = together.get(1)
        await source.begun(1)
        second = together.get(2)
        await asyncio.sleep(0.01)
        source.may_go_on.set()
        assert await asyncio.gather(first, second) == ["value 1", "value 2"]
        assert source.reads == [[1], [2]]
        assert await together.get(3) == "value 3"

    with_source(test, threads=2, patience=3600)


def test_who_asks_when_the_others_were_told_is_read_with_those_who_waited() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = together.get(1)
        await source.begun(1)
        waits = together.get(2)
        source.may_go_on.set()
        await first
        assert await asyncio.gather(waits, together.get(3)) == ["value 2", "value 3"]
        assert source.reads == [[1], [2, 3]]

    with_source(test, threads=2, patience=3600)


def test_a_failure_is_told_to_all_who_asked_and_the_next_are_read() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        source.failure = RuntimeError("away")
        source.may_go_on.set()
        asked = [together.get(key) for key in (1, 2)]
        for one in asked:
            with pytest.raises(RuntimeError, match="away"):
                await one
        source.failure = None
        assert await together.get(1) == "value 1"

    with_source(test)


def test_who_gives_up_takes_nothing_from_the_others() -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        gone, stays = (together.get(1) for _ in range(2))
        await source.begun(1)
        gone.cancel()
        source.may_go_on.set()
        assert await stays == "value 1"

    with_source(test)


def test_what_waits_when_it_is_closed_is_cancelled_and_nothing_is_read_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def test(source: Source, together: Together[int, str]) -> None:
        first = together.get(1)
        await source.begun(1)
        second = together.get(2)
        await asyncio.sleep(0)
        together.close()
        with pytest.raises(asyncio.CancelledError):
            await second
        source.may_go_on.set()
        assert await first == "value 1"
        await asyncio.sleep(0.3)
        assert source.reads == [[1]]
        raised = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert not raised, "asyncio logs what a callback raises"

    with_source(test, threads=2, patience=0.2)
