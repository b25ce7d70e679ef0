"""Calls of /feedback that come together are taken together, and each as if it had come alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import FeedbackRecord, decode
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.entries import as_entries, has_hidden, user_key
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, opened
from recommendation_service.model.item_keys import item_key
from recommendation_service.ranking.seen import HIDDEN, Lifetimes, pack_detail
from recommendation_service.serving.deeds import Deeds
from recommendation_service.serving.feedback import Accepted, Feedback, HideForgotten
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.serving.past import Past
from recommendation_service.serving.seen_store import MachineStore
from recommendation_service.telemetry.metrics import Metrics
from tests.support.events import feedback

NOW_MS = 1_795_000_000_000


class PastOf:
    """What the database knows: it tells when it is let."""

    def __init__(self, users: Sequence[int]) -> None:
        self.keys = {user_key(user, 0) for user in users}
        self.may_tell = asyncio.Event()
        self.asked: list[bytes] = []

    def may_know(self, key: bytes) -> bool:
        return key in self.keys

    async def recall(self, key: bytes) -> bool:
        self.asked.append(key)
        await self.may_tell.wait()
        return True


class Worker:
    """Feedback with a real memory and a real log."""

    def __init__(self, folder: Path, memory: UserMemory, past: PastOf) -> None:
        self.folder, self.memory, self.past = folder / "events", memory, past
        self.metrics = Metrics()
        self.event_log = EventLog(self.folder, 64 << 20, 1 << 20)
        group = GroupCommit(lambda: memory, self.event_log, lambda *_: None)
        store = MachineStore(group, cast(Past, past), self.metrics)
        serving = SimpleNamespace(lifetimes=Lifetimes(), catalog=None, check_place=lambda: None)
        self.feedback = Feedback(cast(Serving, serving), store, self.event_log, None, self.metrics)

    async def accept(self, *records: FeedbackRecord) -> Accepted:
        return await self.feedback.accept(list(records), NOW_MS)

    def items(self, user: int) -> list[int]:
        return [int(key) >> 1 for key in as_entries(self.memory.read(user_key(user, 0) or b""))[:, 0]]

    def recorded(self) -> list[FeedbackRecord]:
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        records = [decode(payload) for path in paths for payload in scan(path).payloads]
        return [record for record in records if isinstance(record, FeedbackRecord)]

    @property
    def transactions(self) -> int:
        return int(self.memory._environment.info()["last_txnid"])


def run(folder: Path, scenario: Callable[[Worker], Awaitable[None]], known_before: Sequence[int] = ()) -> None:
    async def run_it() -> None:
        with opened(folder / "seen", 64 << 20) as memory:
            worker = Worker(folder, memory, PastOf(known_before))
            try:
                await scenario(worker)
            finally:
                await worker.event_log.close()

    asyncio.run(run_it())


def test_calls_of_one_turn_are_one_transaction_and_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(worker: Worker) -> None:
        writes: list[int] = []
        append_all = worker.event_log.append_all
        monkeypatch.setattr(
            worker.event_log, "append_all", lambda payloads: (writes.append(len(payloads)), append_all(payloads))
        )
        before = worker.transactions
        accepted = await asyncio.gather(
            *(worker.accept(*(feedback(user_id=user, item_id=n) for n in range(1, 4))) for user in range(1, 9))
        )
        assert [one.accepted for one in accepted] == [3] * 8
        assert worker.transactions == before + 1
        assert writes == [24]
        assert [worker.items(user) for user in range(1, 9)] == [[1, 2, 3]] * 8

    run(tmp_path, scenario)


def test_calls_that_come_while_others_are_taken_are_the_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        may_be_durable, writes = asyncio.Event(), list[int]()
        append_all, durable = worker.event_log.append_all, worker.event_log.durable

        async def slow() -> None:
            await may_be_durable.wait()
            await durable()

        monkeypatch.setattr(
            worker.event_log, "append_all", lambda payloads: (writes.append(len(payloads)), append_all(payloads))
        )
        monkeypatch.setattr(worker.event_log, "durable", slow)
        first = asyncio.create_task(worker.accept(feedback(user_id=1)))
        while not writes:
            await asyncio.sleep(0)
        others = []
        for user in (2, 3, 4):
            others.append(asyncio.create_task(worker.accept(feedback(user_id=user))))
            await asyncio.sleep(0)
        assert writes == [1]
        others[1].cancel()
        may_be_durable.set()
        assert (await first).accepted == 1
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert [outcomes[0], outcomes[2]] == [Accepted(1, [])] * 2
        assert isinstance(outcomes[1], asyncio.CancelledError)
        assert writes == [1, 3]
        assert [record.user_id for record in worker.recorded()] == [1, 2, 3, 4]

    run(tmp_path, scenario)


def test_what_does_not_fit_into_a_turn_is_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(worker: Worker) -> None:
        writes: list[int] = []
        append_all = worker.event_log.append_all
        monkeypatch.setattr(
            worker.event_log, "append_all", lambda payloads: (writes.append(len(payloads)), append_all(payloads))
        )
        calls = [[feedback(event_id=f"{call}-{n}") for n in range(size)] for call, size in enumerate((600, 400, 1))]
        accepted = await asyncio.gather(*(worker.accept(*call) for call in calls))
        assert [one.accepted for one in accepted] == [600, 400, 1]
        assert writes == [1000, 1]

    run(tmp_path, scenario)


def test_two_calls_of_one_user_are_as_if_one_had_come_after_the_other(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await asyncio.gather(
            worker.accept(feedback(item_id=1), feedback(item_id=2), feedback(user_id=8, item_id=5)),
            worker.accept(feedback(event="hide", item_id=1), feedback(item_id=3)),
        )
        assert worker.items(7) == [2, 1, 3]
        assert worker.items(8) == [5]
        assert has_hidden(worker.memory.read(user_key(7, 0) or b""))
        assert not has_hidden(worker.memory.read(user_key(8, 0) or b""))

    run(tmp_path, scenario)


def test_who_waits_for_the_database_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        waits = asyncio.create_task(worker.accept(feedback(user_id=1, item_id=1), feedback(user_id=2, item_id=2)))
        goes = asyncio.create_task(worker.accept(feedback(user_id=3, item_id=3)))
        assert (await goes).accepted == 1
        assert not waits.done()
        assert worker.past.asked == [user_key(1, 0), user_key(2, 0)]
        assert worker.items(1) == []

        worker.past.may_tell.set()
        assert (await waits).accepted == 2
        assert [worker.items(user) for user in (1, 2, 3)] == [[1], [2], [3]]
        assert len(worker.past.asked) == 2  # once, though nothing came of it

    run(tmp_path, scenario, known_before=[1])


def test_what_one_hid_and_the_memory_could_not_keep_is_refused_and_the_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        key, replace = user_key(1, 0), UserMemory._replace

        def fails_for_one(memory: UserMemory, transaction: Any, change: Any) -> Any:
            return MemoryFailed("no room") if change.key == key else replace(memory, transaction, change)

        monkeypatch.setattr(UserMemory, "_replace", fails_for_one)
        outcomes = await asyncio.gather(
            worker.accept(
                feedback(user_id=1, event="hide", event_id="hidden"), feedback(user_id=2, event_id="with it")
            ),
            worker.accept(feedback(user_id=1, event_id="viewed"), feedback(user_id=2, event_id="fine")),
            worker.accept(feedback(user_id=3, event_id="other")),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], HideForgotten)
        assert outcomes[1] == Accepted(2, [{"event_id": "viewed", "flags": ("not_remembered",)}])
        assert outcomes[2] == Accepted(1, [])
        assert [record.event_id for record in worker.recorded()] == ["viewed", "fine", "other"]

    run(tmp_path, scenario)


def test_where_the_log_does_not_take_all_in_one_piece_it_takes_who_fits(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        def call(user: int, events: int) -> Awaitable[Accepted]:
            return worker.accept(
                *(feedback(user_id=user, event_id=f"{n}", request_id="x" * 3000) for n in range(events))
            )

        outcomes = await asyncio.gather(call(1, 200), call(2, 400), call(3, 200), return_exceptions=True)
        assert [outcomes[0], outcomes[2]] == [Accepted(200, [])] * 2
        assert isinstance(outcomes[1], LogFull)
        assert [record.user_id for record in worker.recorded()] == [1] * 200 + [3] * 200

    run(tmp_path, scenario)


def test_a_request_that_is_cancelled_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        tasks = [asyncio.create_task(worker.accept(feedback(user_id=user))) for user in (1, 2, 3)]
        await asyncio.sleep(0)  # all have joined
        tasks[1].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcomes[0], outcomes[2]] == [Accepted(1, [])] * 2
        assert isinstance(outcomes[1], asyncio.CancelledError)

    run(tmp_path, scenario)


@pytest.mark.parametrize("begun", [False, True], ids=["before-it-began", "while-it-is-synced"])
def test_a_turn_that_is_cancelled_holds_up_nobody_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    async def scenario(worker: Worker) -> None:
        appended, append_all = asyncio.Event(), worker.event_log.append_all
        monkeypatch.setattr(worker.event_log, "append_all", lambda payloads: (append_all(payloads), appended.set()))
        first = asyncio.create_task(worker.accept(feedback(user_id=1)))
        await (appended.wait() if begun else asyncio.sleep(0))
        [turn] = worker.feedback._tasks
        behind = [asyncio.create_task(worker.accept(feedback(user_id=user))) for user in ((2, 3) if begun else ())]
        await asyncio.sleep(0)
        turn.cancel()
        assert [type(one) for one in await asyncio.gather(first, return_exceptions=True)] == [asyncio.CancelledError]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*behind) == [Accepted(1, [])] * len(behind)
            assert (await worker.accept(feedback(user_id=4))).accepted == 1
        assert [record.user_id for record in worker.recorded()] == ([1, 2, 3, 4] if begun else [4])

    run(tmp_path, scenario)


def test_where_a_loop_closes_while_turns_wait_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would tell of tasks that are pending as they are destroyed."""
    told: list[dict[str, Any]] = []
    begun = []

    async def waiting() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        memory = closing.enter_context(opened(tmp_path / "seen", 64 << 20))
        worker = Worker(tmp_path, memory, PastOf([]))
        never, append_all = asyncio.Event(), worker.event_log.append_all
        monkeypatch.setattr(worker.event_log, "append_all", lambda payloads: (append_all(payloads), begun.append(1)))
        monkeypatch.setattr(worker.event_log, "durable", never.wait)
        calls = []
        for user in (1, 2, 3):
            calls.append(asyncio.create_task(worker.accept(feedback(user_id=user))))
            while not begun:
                await asyncio.sleep(0)

    with contextlib.ExitStack() as closing:
        asyncio.run(waiting())
        gc.collect()
    assert begun == [1]
    assert told == []


def test_what_fails_in_a_way_that_nobody_thought_of_is_told_to_all_and_the_next_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(worker.event_log, "append_all", lambda _: 1 / 0)
            outcomes = await asyncio.gather(
                *(worker.accept(feedback(user_id=user)) for user in (1, 2)), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2
        assert (await worker.accept(feedback())).accepted == 1

    run(tmp_path, scenario)


Told = tuple[int, str, int, str | None]
TOLD = st.tuples(
    st.integers(0, 3), st.sampled_from(["view", "hide", "impression"]), st.integers(1, 6), st.sampled_from([None, "a"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TOLD, min_size=1, max_size=12))
def test_many_events_leave_of_each_user_what_one_after_the_other_would(told: list[Told]) -> None:
    records = [feedback(user_id=u, event=e, item_id=i, session_id=s) for u, e, i, s in told]
    together = Deeds(records, Lifetimes(), NOW_MS // 1000)
    for key, places in together.users.items():
        one_by_one = b""
        for place in places:
            one = Deeds([records[place]], Lifetimes(), NOW_MS // 1000)
            one_by_one = one.after(key)(one_by_one)
        assert together.after(key)(b"") == one_by_one
    anonymous = {place for place, (user, _, _, session) in enumerate(told) if not user and not session}
    assert anonymous == set(range(len(told))) - {p for places in together.users.values() for p in places}


def test_the_kinds_of_slots_are_those_that_the_items_were_served_in() -> None:
    served = [(item_key(0, item), pack_detail(NOW_MS // 1000, 0, kind, 1)) for item, kind in ((1, 3), (2, 4))]
    before = b"".join(part.to_bytes(8, "little", signed=True) for entry in served for part in entry)
    of_others = [feedback(user_id=8, item_id=2), feedback(item_id=2), feedback(item_id=9), feedback(item_id=1)]
    deeds = Deeds(of_others, Lifetimes(), NOW_MS // 1000)
    deeds.after(user_key(7, 0) or b"")(before)
    deeds.after(user_key(8, 0) or b"")(b"")
    assert deeds.kinds.tolist() == [0, 4, 0, 3]


def test_hidden_is_what_an_entry_says() -> None:
    def entry(state: int, kind: int) -> bytes:
        detail = pack_detail(NOW_MS // 1000, 4, kind, state)
        return HIDDEN.to_bytes(8, "little") + detail.to_bytes(8, "little")

    assert not has_hidden(b"")
    assert not has_hidden(entry(1, HIDDEN) + entry(3, 0))
    assert has_hidden(entry(1, 2) + entry(HIDDEN, 5))
