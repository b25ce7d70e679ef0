"""Users outside the catalog, read on an event loop from a real MariaDB: the same as in a thread, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.database import make_engine
from recommendation_service.mappings.interacpedia.user_reader import (
    MOST_OF_A_KIND,
    MOST_OF_EACH,
    MOST_OF_ONE,
    UserReader,
)
from recommendation_service.sources.users import LONGEST_ON_LOOP_BYTES, User, UserFacts, Users, encode_facts
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import PrivateMariaDB
from tests.unit.sources.operator_database import NOW, OperatorDatabase, Recorder, ago

UNKNOWN = 1_000_000


@pytest.fixture
def database(module_mariadb_url: URL, tmp_path: Path) -> Iterator[OperatorDatabase]:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    yield database
    database.close()


class Reading:
    """A worker's users, what the driver was asked for, and in which threads facts were made."""

    def __init__(self, database: OperatorDatabase, **settings: Any) -> None:
        own = database.settings(**{"mysql_use_pooling": True, "user_read_timeout_milliseconds": 10_000} | settings)
        self.engine = make_engine(own, trusted_seconds=0.1, alone=True)
        self.recorder = Recorder(self.engine)
        self.reader = UserReader(self.engine.connect, own, NOW.timestamp)
        self.metrics = Metrics()
        self.users = Users(self.reader, own, self.metrics, None, connect=self.engine.connect)
        self.threads = set[str]()
        of_rows = self.reader._facts_of

        def facts_of(*arguments: Any) -> Any:
            self.threads.add(threading.current_thread().name)
            return of_rows(*arguments)

        self.reader._facts_of = facts_of  # type: ignore[method-assign, assignment]

    async def read(self, *users: User) -> list[UserFacts | None]:
        """In one reading."""
        return await asyncio.gather(*(self.users.facts(int(user)) for user in users))

    def refused(self) -> float:
        outcomes = ("failed", "skipped", "busy")
        values = (self.metrics.registry.get_sample_value("recs_cache_reads_total", {"outcome": o}) for o in outcomes)
        return sum(value or 0.0 for value in values)


@contextlib.asynccontextmanager
async def reading(database: OperatorDatabase, **settings: Any) -> AsyncIterator[Reading]:
    reading = Reading(database, **settings)
    try:
        yield reading
    finally:
        await reading.users.close()
        reading.engine.dispose()


def alone(engine: Engine, database: OperatorDatabase, user: int) -> bytes | None:
    facts = UserReader(engine.connect, database.settings(), NOW.timestamp).read(user)
    return None if facts is None else encode_facts(facts)


def test_they_are_as_each_is_that_a_thread_reads_alone(database: OperatorDatabase) -> None:
    draw = random.Random(11)
    users = [database.add("users") for _ in range(20)]
    gone = database.add("users", deleted_at=ago(days=1))
    for user in [*users[:-1], gone]:  # the last one has nothing
        for _ in range(draw.randrange(0, 6)):
            when = ago(days=draw.uniform(-1, 100))
            item = draw.randrange(1, 50)
            database.add("likes", user_id=user, model_id=item, created_at=when)
            database.add("matches", user_id=user, model_id=item, created_at=when)
            database.add("team_feedbacks", user_id=user, model_id=item, created_at=when)
            database.add("activity_log", causer_id=user, subject_id=item, created_at=when)
            database.add("user_connections", from_id=user, to_id=draw.choice(users), created_at=when)
        database.add("profiles", user_id=user, skills=f'["Diseño {user}", "100 %"]', languages=None, tools="[")

    async def scenario() -> None:
        async with reading(database) as ours:
            found = await ours.read(*users, gone, UNKNOWN)
            assert not ours.recorder.statements, "the driver is asked for nothing"
            assert ours.threads == {threading.main_thread().name}
            for user, facts in zip([*users, gone, UNKNOWN], found, strict=True):
                assert (None if facts is None else encode_facts(facts)) == alone(ours.engine, database, user)
            assert sum(facts is not None and len(facts.history) > 2 for facts in found) > 3
            assert found[-2:] == [None, None]

    asyncio.run(scenario())


def test_an_answer_that_is_long_is_gone_through_in_a_thread(database: OperatorDatabase) -> None:
    user = database.add("users")
    names = ", ".join(f'"{"canto" * 10} {number}"' for number in range(LONGEST_ON_LOOP_BYTES // 50))
    database.add("profiles", user_id=user, skills=f'["canto", {names}]')

    async def scenario() -> None:
        async with reading(database) as ours:
            (facts,) = await ours.read(user)
            assert facts is not None
            assert facts.attributes[0][0] == "canto"
            assert [name.partition("_")[0] for name in ours.threads] == ["user-reader"]
            assert not ours.recorder.statements

    asyncio.run(scenario())


def test_who_has_more_than_a_statement_gives_is_read_by_the_latest(database: OperatorDatabase) -> None:
    many, few = database.add("users"), database.add("users")
    with database.writer.begin() as connection:
        for part in range(2):
            values = ", ".join(
                f"({many}, {number + 1}, 'save', '{ago(minutes=number + 1)}')"
                for number in range(part * 1000, part * 1000 + (MOST_OF_ONE + 2 * MOST_OF_EACH) // 2)
            )
            connection.exec_driver_sql(f"INSERT INTO likes (user_id, model_id, type, created_at) VALUES {values}")
    database.add("likes", user_id=few, model_id=3, created_at=ago(days=80))

    async def scenario() -> None:
        async with reading(database) as ours:
            found = [facts for facts in await ours.read(many, few) if facts is not None]
            assert [len(facts.history) for facts in found] == [MOST_OF_A_KIND, 1]
            assert ours.refused() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("statement", ["KILL {}", "KILL QUERY {}"])
def test_a_connection_or_statement_that_is_killed_costs_nobody_the_facts(
    database: OperatorDatabase, mariadb: PrivateMariaDB, statement: str
) -> None:
    users = [database.add("users") for _ in range(3)]
    for user in users:
        database.add("profiles", user_id=user, skills=f'["canto {user}"]')

    async def scenario() -> None:
        async with reading(database) as ours:
            first = await ours.read(users[0])
            exchanges = ours.users._exchanges
            assert exchanges is not None
            (held,) = exchanges._resting
            with database.writer.begin() as lock:
                # What reads waits until it is killed, and what reads again until this ends.
                lock.exec_driver_sql("LOCK TABLES profiles WRITE, users WRITE")
                asked = asyncio.ensure_future(ours.read(users[1]))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(mariadb.execute, statement.format(held.driver.thread_id()))
                await asyncio.sleep(0.1)
                lock.exec_driver_sql("UNLOCK TABLES")
            found = [*first, *await asked, *await ours.read(users[2])]
            assert [facts and facts.attributes[0] for facts in found] == [(f"canto {user}",) for user in users]
            assert ours.refused() == 0

    asyncio.run(scenario())


def test_a_reading_that_hangs_is_given_up_and_none_is_begun_for_a_second(database: OperatorDatabase) -> None:
    user = database.add("users")

    async def scenario() -> None:
        async with reading(database, mysql_read_timeout_seconds=1, user_read_timeout_milliseconds=20) as ours:
            with database.writer.begin() as lock:
                lock.exec_driver_sql("LOCK TABLES users WRITE")
                assert await ours.read(user) == [None]
                while not ours.refused():
                    await asyncio.sleep(0.01)
                assert await ours.read(user) == [None]
                lock.exec_driver_sql("UNLOCK TABLES")
            assert ours.refused() == 2, "failed, and skipped"
            while await ours.read(user) == [None]:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_without_a_database_none_is_read_and_with_it_they_are_again(tmp_path: Path) -> None:
    with PrivateMariaDB(tmp_path / "mariadb") as server:
        server.execute("CREATE DATABASE own")
        database = OperatorDatabase(server.url("own"), tmp_path)
        user = database.add("users")
        database.close()

        async def scenario() -> None:
            async with reading(database) as ours:
                assert (await ours.read(user))[0] is not None
                server.kill()
                assert await ours.read(UNKNOWN) == [None]
                assert ours.refused() == 1
                server.start()
                while (await ours.read(user + 1), ours.users.cached(user + 1))[1] != (True, None):
                    await asyncio.sleep(0.05)

        asyncio.run(asyncio.wait_for(scenario(), 60))
