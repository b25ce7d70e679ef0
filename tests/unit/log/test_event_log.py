"""A worker's end of the durable log: what is acknowledged when, and what a failing or full disk does to it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.log import event_log as event_log_module
from recommendation_service.log.event_log import EventLog, LogFull, folder_bytes
from recommendation_service.log.segments import SUFFIX, SegmentWriter, scan
from tests.servers import wait_until

LIMIT = 64 << 20
SEGMENT = 4096
PATIENCE_SECONDS = 10.0

# A segment is closed while its sync runs, or written to after a sync that failed: the log is to be mended.


class WatchedLog(EventLog):
    """Counts the syncs, and holds each until a test lets it go on."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT, segment_bytes: int = SEGMENT) -> None:
        super().__init__(folder, limit_bytes, segment_bytes)
        self.syncs = 0
        self.failures = 0  # of the next syncs
        self.holds = False
        self._loop = asyncio.get_running_loop()
        self._held = asyncio.Semaphore(0)
        self._released = threading.Semaphore(0)

    def _sync(self, segments: list[SegmentWriter], folder: bool) -> None:
        self.syncs += 1
        if self.holds:
            self._loop.call_soon_threadsafe(self._held.release)
            assert self._released.acquire(timeout=PATIENCE_SECONDS)
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super()._sync(segments, folder)

    async def held(self) -> None:
        """Returns once a sync is under way, and held."""
        await asyncio.wait_for(self._held.acquire(), PATIENCE_SECONDS)

    def release(self, *, for_good: bool = True) -> None:
        """Let the sync that is held go on; ``for_good``: and those that follow."""
        self.holds = not for_good
        self._released.release()

    async def sync_under_way(self, payload: bytes = b"first") -> asyncio.Task[None]:
        """Append, and wait until a sync of that is held."""
        self.holds = True
        self.append(payload)
        waiter = asyncio.create_task(self.durable())
        await self.held()
        return waiter


def run(folder: Path, test: Callable[[WatchedLog], Awaitable[None]], **options: Any) -> None:
    """A test on a log of its own; fails where a task of the log ends with an error that nobody sees."""
    unseen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unseen.append(str(context)))
        log = WatchedLog(folder / "events", **options)
        try:
            await asyncio.wait_for(test(log), PATIENCE_SECONDS)
        finally:
            log.release()
            await log.close()

    asyncio.run(main())
    assert unseen == []


def segments(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((folder / "events").glob(f"*{SUFFIX}"))


def payloads(folder: Path) -> list[bytes]:
    return [payload for segment in segments(folder) for payload in scan(segment).payloads]


def numbered(number: int, size: int = 600) -> bytes:
    return b"%06d" % number + b"." * size


def test_what_is_appended_can_be_read_at_once_and_the_segment_is_nobody_elses_before_the_end(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.append(b"one")
        log.append(b"two")
        assert payloads(tmp_path) == [b"one", b"two"]
        assert log.syncs == 0
        assert not scan(segments(tmp_path)[0]).finished

    run(tmp_path, test)
    assert [scan(segment).finished for segment in segments(tmp_path)] == [True]


def test_many_who_wait_share_few_syncs(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        first = await log.sync_under_way()
        waiters = []
        for number in range(500):
            log.append(numbered(number, 10))
            waiters.append(asyncio.create_task(log.durable()))
        log.release()
        await asyncio.gather(first, *waiters)
        assert log.syncs == 2

    run(tmp_path, test, segment_bytes=1 << 20)


def test_a_sync_that_began_earlier_acknowledges_nothing_that_was_appended_since(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        first = await log.sync_under_way()
        log.append(b"second")
        second = asyncio.create_task(log.durable())
        log.release(for_good=False)
        await first
        await log.held()
        assert not second.done()
        log.release()
        await second
        assert log.syncs == 2

    run(tmp_path, test)


def test_a_waiter_that_gives_up_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        first = await log.sync_under_way()
        log.append(b"second")
        impatient, patient = (asyncio.create_task(log.durable()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        log.release()
        await asyncio.gather(first, patient)

    run(tmp_path, test)


def test_full_segments_are_followed_by_others_and_left_to_the_flusher(tmp_path: Path) -> None:
    records = [numbered(number) for number in range(40)]

    async def test(log: WatchedLog) -> None:
        for record in records:
            log.append(record)
        await log.durable()
        assert payloads(tmp_path) == records
        states = [scan(segment).finished for segment in segments(tmp_path)]
        assert len(states) > 5
        assert states == [True] * (len(states) - 1) + [False]
        assert all(segment.stat().st_size == SEGMENT for segment in segments(tmp_path))

    run(tmp_path, test)
    assert payloads(tmp_path) == records


def test_a_full_segment_is_left_to_the_flusher_only_once_it_is_synced(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.holds = True
        for number in range(8):
            log.append(numbered(number))
        first, second = segments(tmp_path)
        await log.held()
        assert not scan(first).finished
        log.release()
        await log.durable()
        assert scan(first).finished
        assert not scan(second).finished

    run(tmp_path, test)


@pytest.mark.parametrize("meanwhile", [0, 1], ids=["at-once", "after-another-record"])
def test_a_segment_that_fills_up_while_it_is_being_synced_is_synced_before_it_is_given_up(
    tmp_path: Path, meanwhile: int
) -> None:
    async def test(log: WatchedLog) -> None:
        first = await log.sync_under_way(b"." * (SEGMENT // 2))
        for _ in range(meanwhile):
            log.append(b"fits")
        log.append(b"," * (SEGMENT // 2))  # does not fit any more
        old, new = segments(tmp_path)
        assert not scan(old).finished
        second = asyncio.create_task(log.durable())
        log.release()
        await asyncio.gather(first, second)
        assert scan(old).finished
        assert not scan(new).finished
        log.append(b"later")
        await log.durable()

    run(tmp_path, test)
    assert [payload[:5] for payload in payloads(tmp_path)] == [b".....", *[b"fits"] * meanwhile, b",,,,,", b"later"]


def test_past_the_bound_nothing_is_accepted_until_segments_are_gone(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        accepted = 0
        while appended(log, numbered(accepted)):
            accepted += 1
        with pytest.raises(LogFull, match=r"reached its limit of .* MiB, most of it for the reader 'flush', which"):
            log.append(b"small")
        await log.durable()
        assert folder_bytes(tmp_path / "events") <= 5 * SEGMENT
        assert payloads(tmp_path) == [numbered(number) for number in range(accepted)], "all that was accepted"
        segments(tmp_path)[0].unlink()
        assert wait_until(lambda: appended(log, b"again"), PATIENCE_SECONDS)

    run(tmp_path, test, limit_bytes=5 * SEGMENT)


@pytest.mark.parametrize("name", ["append_all", "append_if_roomy"])
def test_a_full_segment_is_given_up_though_no_other_can_be_made_so_that_it_can_make_room(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it kept until there is another, it would wait for the room that it takes itself."""
    limit = {"append_all": SEGMENT, "append_if_roomy": 2 * SEGMENT}[name]
    monkeypatch.setattr(event_log_module, "RETRY_SECONDS", 0.0)

    async def test(log: WatchedLog) -> None:
        def is_taken(payload: bytes) -> bool:
            try:
                getattr(log, name)([payload])
            except LogFull:
                return False
            return True

        accepted = 0
        while is_taken(numbered(accepted)):
            accepted += 1
        await log.durable()
        [only] = segments(tmp_path)
        found = scan(only)
        assert len(found.payloads) == accepted > 1
        assert scan(only, found.position).finished
        only.unlink()  # as the flusher does
        assert is_taken(b"again")

    run(tmp_path, test, limit_bytes=limit)


def appended(log: EventLog, payload: bytes) -> bool:
    try:
        log.append(payload)
    except LogFull:
        return False
    return True


def test_while_it_is_full_the_folder_is_not_listed_for_every_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = 0

    def counted(folder: Path) -> int:
        nonlocal listings
        listings += 1
        return folder_bytes(folder)

    monkeypatch.setattr(event_log_module, "folder_bytes", counted)
    monkeypatch.setattr(event_log_module, "RETRY_SECONDS", 3600.0)

    async def test(log: WatchedLog) -> None:
        for _ in range(100):
            assert not appended(log, b"record")
        assert listings == 1

    run(tmp_path, test, limit_bytes=SEGMENT - 1)


def test_a_folder_that_cannot_be_used_is_named_and_used_as_soon_as_it_can(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("no folder")

    async def test(log: WatchedLog) -> None:
        with pytest.raises(LogFull, match=r"the events folder .* takes no more"):
            log.append(b"record")
        (tmp_path / "events").unlink()
        assert wait_until(lambda: appended(log, b"record"), PATIENCE_SECONDS)

    run(tmp_path, test)
    assert payloads(tmp_path) == [b"record"]


def test_a_record_larger_than_a_segment_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.append(b"before")
        with pytest.raises(LogFull, match="larger than a segment"):
            log.append(bytes(SEGMENT))
        log.append(b"after")
        await log.durable()

    run(tmp_path, test)
    assert payloads(tmp_path) == [b"before", b"after"]


def test_a_record_that_the_disk_does_not_take_is_refused_and_the_next_goes_to_another_segment(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.append(b"first")
        await log.durable()
        assert log._segment is not None
        with open("/dev/full", "r+b", buffering=0) as full:
            os.dup2(full.fileno(), log._segment.descriptor)
        for append in (log.append_all, log.append_if_roomy):
            with pytest.raises(LogFull, match="No space left"):
                append([b"lost"])
        await asyncio.sleep(event_log_module.RETRY_SECONDS)
        log.append_all([b"second", b"third"])
        await log.durable()

    run(tmp_path, test)
    assert payloads(tmp_path) == [b"first", b"second", b"third"]
    assert len(segments(tmp_path)) == 2


def test_a_disk_that_fails_is_told_to_all_who_wait_and_its_segment_is_not_written_to_again(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.failures = 1
        log.append(b"first")
        outcomes = await asyncio.gather(*(log.durable() for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OSError] * 3
        assert log.syncs == 1
        log.append(b"second")
        await log.durable()
        old, new = segments(tmp_path)
        assert scan(old).finished
        assert scan(new).payloads == [b"second"]

    run(tmp_path, test)


def test_what_was_appended_to_a_segment_while_its_sync_failed_is_not_acknowledged_either(tmp_path: Path) -> None:
    """Linux tells of a failure once: a second sync of that file says that all is well, whatever is on the disk."""

    async def test(log: WatchedLog) -> None:
        first = await log.sync_under_way()
        log.append(b"second")
        second = asyncio.create_task(log.durable())
        await asyncio.sleep(0)
        log.failures = 1
        log.release()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OSError] * 2
        log.append(b"third")
        await log.durable()
        old, new = segments(tmp_path)
        assert scan(old).finished
        assert scan(new).payloads == [b"third"]

    run(tmp_path, test)


def test_a_failure_that_nobody_waits_for_is_no_error_of_the_loop(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        waiter = await log.sync_under_way()
        waiter.cancel()
        log.failures = 1
        log.release()
        await asyncio.gather(waiter, log.durable(), return_exceptions=True)
        log.append(b"second")
        await log.durable()

    run(tmp_path, test)


def test_what_nobody_waits_for_is_synced_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_module, "SYNC_SECONDS", 0.01)

    async def test(log: WatchedLog) -> None:
        often = asyncio.create_task(log.sync_often())
        for failures in (0, 1, 0):  # a failure is logged, and ends nothing
            log.failures = failures
            log.holds = True
            log.append(b"a feed")
            await log.held()
            log.release()
            await asyncio.gather(log.durable(), return_exceptions=True)
        often.cancel()
        await asyncio.gather(often, return_exceptions=True)

    run(tmp_path, test)


def test_closing_syncs_what_was_not_and_gives_up_the_segment(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        log.append(b"last")
        await log.close()
        assert log.syncs == 1
        assert scan(segments(tmp_path)[0]).finished

    run(tmp_path, test)


def test_closing_waits_for_the_sync_that_is_under_way(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        waiter = await log.sync_under_way()
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0)
        assert not scan(segments(tmp_path)[0]).finished
        log.release()
        await asyncio.gather(waiter, closing)
        assert scan(segments(tmp_path)[0]).finished

    run(tmp_path, test)


def test_closing_a_log_that_was_never_used_leaves_nothing(tmp_path: Path) -> None:
    async def test(log: WatchedLog) -> None:
        assert not log.syncs

    run(tmp_path, test)
    assert not (tmp_path / "events").exists()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """A leaked one would also keep a segment from the flusher."""

    async def test(log: WatchedLog) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(60):
            log.append(numbered(number))
            if number % 3 == 0:
                await log.durable()
        await log.close()
        assert len(os.listdir("/proc/self/fd")) <= before

    run(tmp_path, test)
