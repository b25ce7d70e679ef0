"""What the requests of one turn write together: once for all, and for each as if it had written alone."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import UnwrittenFeed
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.answers import StoredAnswer, answer_key
from recommendation_service.memory.changes import TRANSACTION_BYTES, Change, transactions
from recommendation_service.memory.user_memory import MemoryFailed, PagesHeld, UserMemory, opened
from recommendation_service.serving import group_commit
from recommendation_service.serving.group_commit import GroupCommit
from tests.support import events

LIMIT = 64 << 20
ENTRY = bytes(16)
ANSWER = StoredAnswer(b"q" * 16, b'{"statusCode":200}')


def user(number: int) -> bytes:
    return b"u" + number.to_bytes(8, "big")


def feed(number: int) -> UnwrittenFeed:
    return UnwrittenFeed(
        f"{number:032x}", number, None, 0, 1_795_000_000_000, "catalog", "policy", 7, events.feed(0).packed
    )


class Writer:
    """A group commit over a real memory and a real log."""

    def __init__(self, folder: Path, memory: UserMemory, log_bytes: int) -> None:
        self.folder = folder / "events"
        self.memory = memory
        self.unrecorded: list[tuple[str, int]] = []
        self.event_log = EventLog(self.folder, log_bytes, 1 << 20)
        self.group = GroupCommit(
            lambda: memory, self.event_log, lambda full, count: self.unrecorded.append((str(full), count))
        )

    async def served(self, number: int, count: int = 1) -> StoredAnswer | bool:
        """A feed for the user, who then has ``count`` more entries."""
        ours = self.group.read(user(number))
        return await self.group.write(Change(user(number), ours, ours + ENTRY * count), feed(number))

    @property
    def transactions(self) -> int:
        return int(self.memory._environment.info()["last_txnid"])

    def recorded(self) -> list[int]:
        """The users whose feeds the log has, in its order."""
        payloads = [payload for path in sorted(self.folder.glob(f"*{SUFFIX}")) for payload in scan(path).payloads]
        return [int.from_bytes(payload_request(payload), "big") for payload in payloads]


def payload_request(payload: bytes) -> bytes:
    """Of a record whose columns are nulls, which no reader takes."""
    request_id: bytes = msgspec.msgpack.decode(payload)[2]
    return request_id


@contextmanager
def writer(folder: Path, log_bytes: int = LIMIT) -> Iterator[Writer]:
    with opened(folder / "seen", LIMIT) as memory:
        yield Writer(folder, memory, log_bytes)


def run(folder: Path, test: Callable[[Writer], Awaitable[None]], log_bytes: int = LIMIT) -> None:
    async def closed() -> None:
        with writer(folder, log_bytes) as with_all:
            try:
                await test(with_all)
            finally:
                await with_all.event_log.close()

    asyncio.run(closed())


def test_all_of_a_turn_are_one_transaction_and_each_is_written_before_it_is_answered(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        before = writer.transactions

        async def request(number: int) -> None:
            assert await writer.served(number) is True
            assert writer.memory.read(user(number)) == ENTRY
            assert number in writer.recorded()

        await asyncio.gather(*(request(number) for number in range(1, 11)))
        assert writer.transactions == before + 1
        assert writer.recorded() == list(range(1, 11))
        await request(11)
        assert writer.transactions == before + 2

    run(tmp_path, test)


def test_requests_of_one_user_in_one_turn_build_on_each_other(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        assert await asyncio.gather(*(writer.served(1) for _ in range(50))) == [True] * 50
        assert writer.memory.read(user(1)) == ENTRY * 50

    run(tmp_path, test)


def test_where_somebody_else_was_first_nothing_is_written_and_nothing_recorded(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        requests = [asyncio.ensure_future(writer.served(number)) for number in (1, 1, 2)]
        await asyncio.sleep(0)  # all have read, and wait
        assert writer.memory.replace(user(1), b"", ENTRY * 5) is True
        assert await asyncio.gather(*requests) == [False, False, True]
        assert writer.memory.read(user(1)) == ENTRY * 5
        assert writer.recorded() == [2]
        assert await writer.served(1) is True
        assert writer.memory.read(user(1)) == ENTRY * 6

    run(tmp_path, test)


def test_the_second_of_a_turn_with_the_same_idempotency_key_gets_what_the_first_was_answered(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        name, group = answer_key("key"), writer.group
        second = StoredAnswer(ANSWER.request, b"another")
        outcomes = await asyncio.gather(
            group.write(Change(user(1), b"", ENTRY, (name, ANSWER)), feed(1)),
            group.write(Change(user(1), ENTRY, ENTRY * 2, (name, second)), feed(2)),
        )
        assert list(outcomes) == [True, ANSWER]
        assert writer.memory.read(user(1)) == ENTRY
        assert writer.recorded() == [1]

    run(tmp_path, test)


def test_what_finds_no_room_in_the_log_is_remembered_counted_and_answered(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        assert await asyncio.gather(*(writer.served(number) for number in range(1, 71))) == [True] * 70
        assert [count for _, count in writer.unrecorded] == [64, 6]
        assert "backlog" in writer.unrecorded[0][0]
        assert all(writer.memory.read(user(number)) == ENTRY for number in range(1, 71))

    run(tmp_path, test, log_bytes=1 << 20)


def test_a_memory_that_fails_is_told_to_those_who_change_it_and_their_feeds_are_not_recorded(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        writer.memory._room, writer.memory._room_until = 0, -1  # the limit is reached
        outcomes = await asyncio.gather(
            writer.served(1), writer.group.write(None, feed(2)), writer.served(3), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [MemoryFailed, bool, MemoryFailed]
        assert writer.recorded() == [2]

    run(tmp_path, test)


def test_whatever_goes_wrong_is_told_to_all_who_wait(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        def broken(full: LogFull, count: int) -> None:
            raise RuntimeError("broken")

        writer.group = GroupCommit(lambda: writer.memory, writer.event_log, broken)
        handled: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: handled.append(str(context["exception"]))
        )
        outcomes = await asyncio.gather(writer.served(1), writer.served(2), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["broken", "broken"]
        assert handled == ["broken"]

    run(tmp_path, test, log_bytes=1 << 20)


def test_a_request_that_is_cancelled_takes_no_other_with_it(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        requests = [asyncio.ensure_future(writer.served(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        requests[0].cancel()
        assert await requests[1] is True
        with pytest.raises(asyncio.CancelledError):
            await requests[0]

    run(tmp_path, test)


def test_no_reader_keeps_the_room_of_what_is_replaced(tmp_path: Path) -> None:
    """A worker may be stopped at any moment: what others write meanwhile must not grow the file to its limit."""

    async def test(writer: Writer) -> None:
        assert writer.group.read(user(1)) == b""  # and here this worker is stopped, while another serves
        used = 0
        for number in range(200):
            old = writer.memory.read(user(1))
            assert writer.memory.replace(user(1), old, old + ENTRY) is True
            used = used or writer.memory.used_bytes * (number == 20)
        assert writer.memory.used_bytes < 2 * used
        assert writer.group.read(user(1)) == ENTRY * 200

    run(tmp_path, test)


def fill_while_somebody_reads(writer: Writer) -> None:
    """Until the file has no page that nobody holds, though there is next to nothing in it."""
    for number in range(100_000):
        old = writer.memory.read(user(1))
        [outcome] = writer.memory.replace_all([Change(user(1), old, ENTRY * 24 + number.to_bytes(16, "big"))])
        if isinstance(outcome, PagesHeld):
            return
    raise AssertionError("the file never was full")


@pytest.mark.parametrize("goes_on", [True, False])
def test_pages_that_somebody_still_reads_are_waited_for_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """A process that is halted in the middle of a look holds all that was replaced since."""
    # One ends only when the reader goes on, and neither hangs on how busy the machine is.
    monkeypatch.setattr(group_commit, "HELD_SECONDS", 60.0 if goes_on else 0.5)
    monkeypatch.setattr(group_commit, "HELD_IN_VAIN_SECONDS", 600.0)

    async def test(memory: UserMemory) -> None:
        writer = Writer(tmp_path, memory, LIMIT)
        reader = memory._environment.begin()
        fill_while_somebody_reads(writer)
        started = time.monotonic()
        requests = [asyncio.ensure_future(writer.served(number)) for number in (2, 3)]
        await asyncio.sleep(0.1)
        assert not goes_on or not any(request.done() for request in requests)
        requests[1].cancel()
        if goes_on:
            reader.abort()
            assert await requests[0] is True
            assert writer.recorded() == [2]
            assert memory.read(user(3)) == b""
        else:
            with pytest.raises(PagesHeld, match="still read"):
                await requests[0]
            assert time.monotonic() - started >= 0.5
            monkeypatch.setattr(group_commit, "HELD_SECONDS", 600.0)
            with pytest.raises(PagesHeld):  # nobody waits for what others waited for in vain
                await asyncio.wait_for(writer.served(4), 60)
            reader.abort()
            assert await writer.served(5) is True
        await writer.event_log.close()

    with opened(tmp_path / "seen", 1 << 20) as memory:
        asyncio.run(test(memory))


def test_a_folder_that_cannot_be_looked_at_costs_the_records_and_no_request(tmp_path: Path) -> None:
    async def test(writer: Writer) -> None:
        writer.folder.mkdir()
        with no_more_files():
            outcomes = await asyncio.gather(writer.served(1), writer.served(2))
        assert outcomes == [True, True]
        assert [count for _, count in writer.unrecorded] == [2]
        assert "Too many open files" in writer.unrecorded[0][0]
        assert writer.memory.read(user(2)) == ENTRY

    run(tmp_path, test)


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_change_that_cannot_be_made_takes_no_other_with_it(tmp_path: Path) -> None:
    with opened(tmp_path, LIMIT) as memory:
        longer_than_any_key = bytes(1000)
        outcomes = memory.replace_all(
            [Change(user(1), b"", ENTRY), Change(longer_than_any_key, b"", ENTRY), Change(user(1), ENTRY, ENTRY * 2)]
        )
        assert [type(outcome) for outcome in outcomes] == [bool, MemoryFailed, bool]
        assert memory.read(user(1)) == ENTRY * 2


def nothing_is_lost(full: LogFull, count: int) -> None:
    pytest.fail(f"{count} records were lost: {full}")


def test_without_memory_and_log_there_is_nothing_to_read() -> None:
    group = GroupCommit(lambda: None, None, nothing_is_lost)
    assert group.read(user(1)) == b""


@given(st.lists(st.tuples(st.integers(0, 65_536), st.integers(0, 400_000)), max_size=60))
def test_the_transactions_of_a_turn_have_all_its_changes_in_their_order(sizes: list[tuple[int, int]]) -> None:
    changes = [change(place, size, body) for place, (size, body) in enumerate(sizes)]
    assert [each for part in transactions(changes) for each in part] == changes


def change(place: int, size: int, body: int) -> Change:
    answer = (answer_key(str(place)), StoredAnswer(ANSWER.request, bytes(body))) if body else None
    return Change(user(place), b"", bytes(size), answer)


@pytest.mark.parametrize(("size", "body"), [(16, 0), (1_900, 0), (23_040, 0), (65_536, 0), (384, 16_000), (0, 400_000)])
def test_a_transaction_adds_no_more_to_the_file_than_there_is_room_for(tmp_path: Path, size: int, body: int) -> None:
    with opened(tmp_path, LIMIT) as memory:
        for place in range(3_000):  # so that the ways to a user's entries have several pages
            assert memory.replace(user(place), b"", b"") is True
        memory.replace_all([change(place, 384, 0) for place in range(3_000)])
        first = next(iter(transactions([change(7 * place, size, body) for place in range(400)])))
        changes = [Change(each.key, memory.read(each.key), each.new, each.answer) for each in first]
        with memory._environment.begin():  # a reader, so that no room is used again
            memory.replace(user(5_000), b"", ENTRY)
            used = memory.used_bytes
            assert set(memory.replace_all(changes)) == {True}
            assert 0 < memory.used_bytes - used <= TRANSACTION_BYTES


@pytest.mark.parametrize(("pieces", "size"), [(0, 3_840), (0, 65_536), (1, 1_920), (30, 1_920)])
def test_nor_does_one_in_which_entries_settle(tmp_path: Path, pieces: int, size: int) -> None:
    """``size``: of what settles."""
    summary, new = bytes((size + pieces * 1_920) // 4 + 512), bytes(1_920)
    with opened(tmp_path, LIMIT) as memory, memory._environment.begin():  # a reader, so that no room is used again
        memory.replace_all([Change(user(place), b"", bytes(size)) for place in range(600)])

        def settling(new: bytes) -> list[Change]:
            keys = [user(7 * place) for place in range(60)]
            return [Change(key, memory.stored(key).value, new, summary=summary) for key in keys]

        for _ in range(pieces):
            assert set(memory.replace_all(settling(new))) == {True}
        first = next(iter(transactions(settling(bytes(384)))))
        assert len(first) > 1
        used = memory.used_bytes
        assert set(memory.replace_all(first)) == {True}
        assert 0 < memory.used_bytes - used <= TRANSACTION_BYTES
