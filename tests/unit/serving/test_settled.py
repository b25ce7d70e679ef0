"""Feeds by a summary of what has settled are those of all the entries, whatever happened to the user in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from sqlalchemy.engine import Connection

from recommendation_service.catalog.filter_columns import FilterColumn, listed, ordered, value_number
from recommendation_service.core.config import Settings
from recommendation_service.editors.rulings import Ruling
from recommendation_service.feed import pipeline as pipelines
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.log.event_log import LogFull
from recommendation_service.log.records import FeedbackRecord
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.memory import user_entries
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.user_entries import has_mark
from recommendation_service.memory.user_memory import UserMemory, opened
from recommendation_service.model.item_keys import pack, unpack
from recommendation_service.model.words import EventName
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.kept_pools import make_slots
from recommendation_service.ranking.seen import ENTRY_BYTES, Lifetimes, session_number
from recommendation_service.ranking.settled import HEADS
from recommendation_service.serving.deeds import Deeds
from recommendation_service.serving.feeds import ranked
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.serving.past import Past, PastReader
from recommendation_service.serving.seen_store import MachineStore, MadeFeed, Note, Visit
from recommendation_service.telemetry.metrics import Metrics
from tests.support.catalogs import NOW, make_catalog
from tests.support.policies import policy_file
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(43, videos=900, challenges=60, users=40)
FEW = {"collaborative__least_interactions": 20, "collaborative__closed_form__regularization": 2.0}
POLICY = Policy(policy_file(**FEW, kinds__AU__pool=24))
CATALOG = make_catalog(WORLD, POLICY)
MOMENT = int(NOW.timestamp())
LIFETIMES = Lifetimes(served=1800, session=3600, impressed=4000, acted=8000)
USERS = range(FIRST_USER, FIRST_USER + 12, 3)
SESSIONS = (None, "a", "b")
EVENTS: tuple[EventName, ...] = ("impression", "impression", "impression", "like", "like", "hide")


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "SETTLES_FROM", 24 * ENTRY_BYTES)
    monkeypatch.setattr(pipelines, "SETTLES_MORE_FROM", 24 * ENTRY_BYTES)
    monkeypatch.setattr(user_entries, "MOST_SINCE", 40 * ENTRY_BYTES)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[UserMemory]:
    with opened(tmp_path / "seen", 64 << 20) as memory:
        memory.mark_complete()
        yield memory


def no_database() -> AbstractContextManager[Connection]:
    pytest.fail("the database was asked")


def unrecorded(full: LogFull, count: int) -> None:
    pytest.fail(f"{count}: {full}")


async def ranked_on(pipeline: FeedPipeline, request: FeedRequest, visit: Visit) -> Slate:
    slate = ranked(pipeline, request, await visit.read(), None)
    return slate if slate is not None else pipeline.rank(request, await visit.read_whole())


class Pair:
    """People who are served from a memory where entries settle; and the same from all that was seen."""

    def __init__(self, memory: UserMemory, folder: Path) -> None:
        generation = Generation(CATALOG, POLICY)
        self.pipeline = FeedPipeline(generation, lifetimes=LIFETIMES, kept_slots=make_slots(1))
        self.expected = FeedPipeline(generation, lifetimes=LIFETIMES, kept_slots=make_slots(1))
        self.memory = memory
        self.group = GroupCommit(lambda: memory, None, unrecorded)
        past = Past(PastReader(no_database, LIFETIMES, folder), self.group, Settings(), Metrics())
        self.store = MachineStore(self.group, past, Metrics())
        self.seen: dict[int, bytes] = {}
        self.feeds = self.by_summary = 0

    async def feed(self, request: FeedRequest) -> Slate:
        """The same both ways, and so is what is remembered."""
        user = request.user_id
        visit = self.store.visit(user, 0, None)
        before = self.memory.stored(_key(user))
        slate = await ranked_on(self.pipeline, request, visit)
        items, packed = slate.items.tolist(), slate.packed
        made = MadeFeed(b"", slate.keys.tobytes(), slate.remembered, None, slate.summary)
        assert await visit.commit(made) is not None
        expected = self.expected.rank(request, self.seen.get(user, b""))
        self.seen[user] = expected.remembered
        self.feeds += 1
        self.by_summary += bool(before.summary) and has_mark(getattr(visit, "ours", b""))
        assert items == expected.items.tolist()
        assert packed == expected.packed
        assert self.memory.read(_key(user)) == expected.remembered
        return slate

    async def act(self, user: int, event: EventName, item_key: int, now: int, session: str | None) -> None:
        item_type, number = unpack(item_key)
        record = FeedbackRecord("e", event, user, item_type, number, now * 1000, now * 1000, session_id=session)
        [known] = self.store.read_all([_key(user)])
        assert known == self.seen[user]
        assert await self.store.note_all([Note(_key(user), known, Deeds([record], LIFETIMES, now).after(_key(user)))])
        self.seen[user] = Deeds([record], LIFETIMES, now).after(_key(user))(self.seen[user])
        assert self.memory.read(_key(user)) == self.seen[user]

    async def scrolled(self, user: int, pages: int = 5) -> None:
        for page in range(pages):
            await self.feed(request_of(user, page))


def _key(user: int) -> bytes:
    return cast(bytes, user_key(user, 0))


def request_of(user: int, number: int, **changes: object) -> FeedRequest:
    return request_for(user, size=12, request_id=f"r{number}").but(now=MOMENT, **changes)


@pytest.mark.parametrize("seed", range(6))
def test_a_feed_by_a_summary_is_that_of_all_entries(memory: UserMemory, tmp_path: Path, seed: int) -> None:
    """People scroll, do things, pause until what they were shown counts no more, change sessions, exclude, explain,
    are forgotten, and see clocks go back."""
    pair = Pair(memory, tmp_path)

    async def scroll() -> None:
        draw, now = random.Random(seed), MOMENT
        for number in range(260):
            user = draw.choice(USERS)
            name = SESSIONS[user % 3] if draw.random() < 0.9 else draw.choice(SESSIONS)
            now += draw.choice((1, 2, 5, 5, 20)) if draw.random() < 0.985 else draw.choice((400, 2500, 5000, -300))
            request = request_for(
                user,
                draw.choice(("total", "total", "discover", "flow")),
                draw.choice((6, 12)),
                f"r{number}",
                draw.sample(range(1, 400), 3) if draw.random() < 0.1 else [],
                explain=draw.random() < 0.05,
            ).but(personal=draw.random() < 0.9)
            await pair.feed(request.but(now=now, session=session_number(name), session_id=name))
            shown = as_entries(pair.seen[user])[:, 0].tolist()
            chance = draw.random()
            if chance < 0.3:
                item = draw.choice(shown[-6:]) if chance < 0.28 else draw.choice(shown)
                await pair.act(user, draw.choice(EVENTS), item, now, name)
            elif chance < 0.31:
                await pair.store.forget(_key(user))
                pair.seen[user] = b""

    asyncio.run(scroll())
    assert pair.by_summary > 0


def test_who_scrolls_is_served_by_summaries_for_the_most_part(memory: UserMemory, tmp_path: Path) -> None:
    pair = Pair(memory, tmp_path)
    asyncio.run(pair.scrolled(USERS[1], pages=30))
    assert pair.by_summary == 30 - 3


def test_who_reports_what_was_looked_at_after_each_feed_is_served_by_summaries_too(
    memory: UserMemory, tmp_path: Path
) -> None:
    pair, user = Pair(memory, tmp_path), USERS[1]

    async def scroll() -> None:
        for page in range(30):
            slate = await pair.feed(request_of(user, page))
            for key in slate.keys.tolist():
                await pair.act(user, "impression", key, MOMENT, None)

    asyncio.run(scroll())
    assert pair.by_summary == 30 - 3


def test_until_the_catalog_is_the_one_of_the_summary_all_is_taken(memory: UserMemory, tmp_path: Path) -> None:
    pair, user = Pair(memory, tmp_path), USERS[1]
    asyncio.run(pair.scrolled(user))
    stored = memory.stored(_key(user))
    assert stored.summary
    request = request_of(user, 9)
    assert pair.pipeline.rank_since(request, stored.recent, stored.summary) is not None
    for lifetimes, version in ((Lifetimes(served=1801), CATALOG.version), (LIFETIMES, "another")):
        other = FeedPipeline(Generation(replace(CATALOG, version=version), POLICY), lifetimes=lifetimes)
        assert other.rank_since(request, stored.recent, stored.summary) is None


def test_a_summary_that_is_none_is_not_taken(memory: UserMemory, tmp_path: Path) -> None:
    pair, user = Pair(memory, tmp_path), USERS[1]
    asyncio.run(pair.scrolled(user))
    stored, request = memory.stored(_key(user)), request_of(user, 9)
    for word in range(1, 6):
        for value in (-1, 1 << 40):
            words = np.frombuffer(stored.summary, np.int64).copy()
            words[word] = value if word != 1 else 0
            if word == 2 and value < 0:
                continue  # the latest is of long ago: nothing follows from that
            assert pair.pipeline.rank_since(request, stored.recent, words.tobytes()) is None, (word, value)
    for summary in (stored.summary[:-8], stored.summary[:40], stored.summary + bytes(8), b"x"):
        assert pair.pipeline.rank_since(request, stored.recent, summary) is None
    assert pair.pipeline.rank_since(request, b"", stored.summary) is None
    rows = np.frombuffer(stored.summary, np.int32).copy()
    rows[2 * HEADS :] = 1 << 30  # of no catalog
    assert pair.pipeline.rank_since(request, stored.recent, rows.tobytes()) is not None


def test_what_is_recorded_as_a_decision_and_what_editors_rule_take_all(memory: UserMemory, tmp_path: Path) -> None:
    pair, user = Pair(memory, tmp_path), USERS[1]
    asyncio.run(pair.scrolled(user))
    stored, request = memory.stored(_key(user)), request_of(user, 9)
    assert pair.pipeline.rank_since(request, stored.recent, stored.summary, lambda *_: True) is None
    assert pair.pipeline.rank_since(request.but(explain=True), stored.recent, stored.summary) is None
    ruling = Ruling("takedown", "resume", 3, pack(RESUME, 3), "ana", "a reason", MOMENT, "", 0, MOMENT + 60)
    pair.pipeline.rule((ruling,))
    assert pair.pipeline.rank_since(request, stored.recent, stored.summary) is None
    pair.pipeline.rule(())
    assert pair.pipeline.rank_since(request, stored.recent, stored.summary) is not None


def test_what_a_filter_keeps_away_does_not_settle(memory: UserMemory, tmp_path: Path) -> None:
    colours = listed([("red" if number % 3 == 0 else "blue",) for number in range(len(WORLD.items))])
    column = FilterColumn("colour", "equal", False, [(0, len(WORLD.videos))], colours, None, ordered(colours))
    pair, user = Pair(memory, tmp_path), USERS[1]
    generation = Generation(replace(CATALOG, filters=(column,)), POLICY)
    pair.pipeline = FeedPipeline(generation, lifetimes=LIFETIMES)
    pair.expected = FeedPipeline(generation, lifetimes=LIFETIMES)
    red = (("colour", (value_number("red"),)),)

    async def scroll() -> None:
        for page in range(30):
            await pair.feed(request_of(user, page, filters=red if page % 4 < 2 else ()))

    asyncio.run(scroll())
    assert pair.by_summary > 20


def test_two_feeds_of_a_user_in_one_turn_show_nothing_twice(memory: UserMemory, tmp_path: Path) -> None:
    pair, user = Pair(memory, tmp_path), USERS[1]

    async def served(number: int) -> list[int]:
        visit = pair.store.visit(user, 0, None)
        while True:
            slate = await ranked_on(pair.pipeline, request_of(user, number), visit)
            keys = slate.keys.tolist()
            made = MadeFeed(b"", slate.keys.tobytes(), slate.remembered, None, slate.summary)
            if await visit.commit(made) is not None:
                return cast("list[int]", keys)

    async def scroll() -> list[int]:
        shown: list[int] = []
        for turn in range(10):
            for keys in await asyncio.gather(*(served(3 * turn + each) for each in range(3))):
                shown += keys
        return shown

    shown = asyncio.run(scroll())
    assert len(shown) == len(set(shown)) == 360
    assert as_entries(memory.read(_key(user)))[:, 0].tolist() == shown
