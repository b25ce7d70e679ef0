"""What storms found, each made by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from recommendation_service.core.config import load_settings
from recommendation_service.core.redis import open_redis
from recommendation_service.flush import flusher
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.event_log import EventLog, LogFull
from recommendation_service.log.records import (
    FeedbackRecord,
    FeedRecord,
    StreamedRecord,
    UnwrittenFeed,
    decode,
    encode,
)
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.answers import Asked
from recommendation_service.memory.entries import as_entries, user_key
from recommendation_service.memory.user_memory import opened
from recommendation_service.ranking.seen import Lifetimes
from recommendation_service.serving.fleet_memory import FleetMemory
from recommendation_service.serving.fleet_store import FleetStore, merged
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.serving.past import Past, PastReader
from recommendation_service.serving.seen_store import MachineStore, MadeFeed, Visit
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import PrivateRedis
from tests.support import events
from tests.support.disks import fill_disk, small_disk
from tests.support.redis_workers import redis_settings

LIMIT_BYTES = 64 << 20
DISK_MEGABYTES = 32
USERS = 2_000
NO_SLOTS = events.feed(0).packed


def entries_of(*items: int) -> bytes:
    return np.array([(item, 1 << 32 | 1) for item in items], np.int64).tobytes()


def shown(stored: bytes) -> set[int]:
    return set(as_entries(stored)[:, 0].tolist())


def test_what_users_have_seen_is_remembered_while_the_disk_is_full(tmp_path: Path) -> None:
    """LMDB takes room when it commits: feeds then forgot what they had shown, and repeated it."""
    disk = tmp_path / "disk"
    with small_disk(disk, DISK_MEGABYTES), opened(disk / "seen", LIMIT_BYTES) as memory:
        fill_disk(disk / "filler")
        for user in range(1, USERS):
            key = user_key(user, 0)
            assert key is not None
            assert memory.replace(key, b"", entries_of(*range(24))) is True
            assert shown(memory.read(key)) == set(range(24))


def nothing_is_lost(full: LogFull, count: int) -> None:
    pytest.fail(f"{count} records were lost: {full}")


def no_database() -> AbstractContextManager[Connection]:
    pytest.fail("the database was asked")


def test_a_feed_that_redis_agrees_to_is_made_again_where_this_machine_showed_the_user_something_else(
    tmp_path: Path,
) -> None:
    """Redis was late for the other feed, and so knew nothing of it: both showed the same items."""

    async def scenario(server: PrivateRedis) -> None:
        settings = redis_settings(server)
        guard = open_redis(settings, Metrics())
        assert guard is not None
        fleet, key, name = FleetMemory(guard, 1000), user_key(7, 0), b"a key"
        assert key is not None
        with opened(tmp_path / "seen", LIMIT_BYTES) as memory:
            event_log = EventLog(tmp_path / "events", LIMIT_BYTES, 1 << 20)
            group = GroupCommit(lambda: memory, event_log, nothing_is_lost)
            reader = PastReader(no_database, Lifetimes(), tmp_path)
            machine = MachineStore(group, Past(reader, group, settings, Metrics()), Metrics())
            store = FleetStore(machine, fleet)
            memory.mark_complete()  # there is nothing older that a database could have

            async def visit() -> tuple[Visit, set[int]]:
                """Where a request stands that has read, and what it read."""
                begun = store.visit(7, 0, Asked(name, bytes(16)))
                return begun, shown(await begun.read_whole())

            async def serve(begun: Visit, before: list[int], now: list[int]) -> bytes:
                new = entries_of(*before, *now)
                record = UnwrittenFeed(bytes(now).ljust(16).hex(), 7, None, 0, 0, "", "", 0, NO_SLOTS)
                answer = await begun.commit(MadeFeed(new, np.array(now, np.int64).tobytes(), new, record))
                return answer.body if answer is not None else b""

            begun, seen = await visit()
            assert seen == set()
            assert memory.replace(key, b"", entries_of(1, 2)) is True  # another worker's, without Redis
            assert await serve(begun, [], [2, 3]) == b""

            begun, seen = await visit()
            assert {1, 2} <= seen
            theirs = await fleet.read(key, fleet.allowance())
            assert theirs is not None
            elsewhere = merged(theirs, entries_of(6))
            assert await fleet.replace(key, theirs, elsewhere, None, fleet.allowance()) is True  # another machine's
            assert await serve(begun, [1, 2], [6, 7]) == b""
            assert not {6, 7} & shown(memory.read(key))  # nobody was shown it

            begun, seen = await visit()
            assert {1, 2, 6} <= seen
            new = await serve(begun, [1, 2], [4, 5])
            assert new
            kept = memory.answer(name)
            assert kept is not None
            assert kept.body == new
            assert await fleet.answer(key, name, fleet.allowance()) == kept
            await event_log.close()
            [segment] = (tmp_path / "events").glob(f"*{SUFFIX}")
            [record] = map(decode, scan(segment).payloads)
            assert isinstance(record, FeedRecord)
            assert record.request_id == bytes([4, 5]).ljust(16)  # of what was shown, and of nothing else
        await guard.close()

    with PrivateRedis(tmp_path / "redis") as server:
        asyncio.run(scenario(server))


def test_a_flush_brings_in_all_that_was_in_the_log_however_many_records_are_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes that events are on Redis's stream count among the records that are read in a step, and not among those
    that wait: `recs events flush` took the first step for the last."""
    monkeypatch.setattr(flusher, "MOST_RECORDS", 100)
    database = tmp_path / "events.sqlite"
    sqlite3.connect(database).close()
    settings = load_settings(database_url=f"sqlite:///{database}", data_dir=tmp_path / "data")

    async def accept() -> None:
        log = EventLog(settings.events_dir, 64 << 20, 1 << 20)
        for number in range(350):
            log.append(encode(FeedbackRecord(f"event-{number}", "view", 7, 0, 1, 0, 0)))
            log.append(encode(StreamedRecord(b"1-1")))
        await log.close()

    asyncio.run(accept())
    engine = make_writing_engine(settings)
    assert Flusher(settings, engine).flush_all() is True
    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM recs_events")).scalar_one() == 350
    engine.dispose()
    assert list(settings.events_dir.glob(f"*{SUFFIX}")) == []
