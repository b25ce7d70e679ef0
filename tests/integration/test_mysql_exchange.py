"""Statements whose answers an event loop takes, over real connections: as the driver gives them, and what faults do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from recommendation_service.core import mysql_exchange
from recommendation_service.core.config import load_settings
from recommendation_service.core.database import PoolShare, make_engine
from recommendation_service.core.mysql_connections import tls_context
from recommendation_service.core.mysql_exchange import Exchanges, Lost
from tests.servers import LOOPBACK, PrivateMariaDB, wait_until
from tests.support.certificates import make_certificate

PATIENCE_SECONDS = 60.0
OWN = text("SELECT CONNECTION_ID()")
NUMBERED = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most)
SELECT i, REPEAT('ñ', :length), IF(i %% 2, NULL, -i) FROM n""".replace("%%", "%")


def engine_of(url: URL, connections: int = 2) -> Engine:
    settings = load_settings(database_url=url.render_as_string(hide_password=False), mysql_connect_timeout_seconds=5)
    return make_engine(settings, PoolShare("test", connections), trusted_seconds=0.1, alone=True)


@pytest.fixture
def engine(mariadb_url: URL) -> Iterator[Engine]:
    engine = engine_of(mariadb_url)
    yield engine
    engine.dispose()


@contextlib.asynccontextmanager
async def exchanges_of(engine: Engine, held: float = 3600, limit: float = 60) -> AsyncIterator[Exchanges]:
    with ThreadPoolExecutor(2) as threads:
        exchanges = Exchanges(engine.connect, threads, held_seconds=held, timeout_seconds=limit)
        try:
            yield exchanges
        finally:
            exchanges.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


def in_use(engine: Engine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


@pytest.mark.parametrize("piece_bytes", [1, 7, mysql_exchange.PIECE_BYTES])
def test_an_answer_is_the_drivers_however_it_comes(
    engine: Engine, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_exchange, "PIECE_BYTES", piece_bytes)
    statement = text(
        "SELECT 1, -7, 18446744073709551615, 1.50, 2.5e0, NULL, '', :quoted, _binary x'00ff', "
        "CAST('2026-11-30' AS DATE), CAST('2026-11-30 10:00:01' AS DATETIME), JSON_ARRAY('ñ'), "
        "'100 %' LIKE '%:%' UNION ALL "
        "SELECT 2, 0, 0, 0, 0, 'null', REPEAT('x', 250), REPEAT('x', 251), NULL, NULL, NULL, REPEAT('ñ', 40000), 0"
    )
    parameters = {"quoted": 'it\'s \\ "ñ" % %s'}

    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            answer = await exchanges.ask(statement, parameters)
            with engine.connect() as connection:
                assert answer.rows() == [list(row) for row in connection.execute(statement, parameters)]

    run(scenario)


def test_many_rows_and_none(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            many = await exchanges.ask(text(NUMBERED), {"most": 900, "length": 300})
            assert many.rows() == [[i, "ñ" * 300, None if i % 2 else -i] for i in range(1, 901)]
            none = await exchanges.ask(text(NUMBERED + " WHERE i < 0"), {"most": 2, "length": 1})
            assert none.rows() == []

    run(scenario)


def test_a_packet_that_comes_in_several_is_left_to_the_driver(engine: Engine) -> None:
    """As its content is 16 MB: slow."""

    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            with pytest.raises(Lost, match="not read here"):
                await exchanges.ask(text("SELECT REPEAT('x', 16777215)"), {})
            assert (await exchanges.ask(text("SELECT 1"), {})).rows() == [[1]]

    run(scenario)


def test_statements_that_follow_each_other_share_a_connection_which_others_get_soon(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine, held=0.3) as exchanges:
            first = (await exchanges.ask(OWN, {})).rows()
            assert (await exchanges.ask(OWN, {})).rows() == first
            assert in_use(engine) == 1
            while in_use(engine):
                await asyncio.sleep(0.01)
            with engine.connect() as connection:  # the driver waits on it as before
                assert connection.execute(text("SELECT CONNECTION_ID(), SLEEP(.2)")).all() == [(*first[0], 0)]
            assert (await exchanges.ask(OWN, {})).rows() == first

    run(scenario)


def test_a_connection_whose_time_is_over_while_it_is_asked_is_given_back_after_the_answer(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine, held=0.05) as exchanges:
            assert (await exchanges.ask(text("SELECT SLEEP(.3)"), {})).rows() == [[0]]
            while in_use(engine):
                await asyncio.sleep(0.01)

    run(scenario)


def test_the_only_connection_of_a_pool_is_given_back_at_once(mariadb_url: URL) -> None:
    engine = engine_of(mariadb_url, connections=1)

    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            first = (await exchanges.ask(OWN, {})).rows()
            assert in_use(engine) == 0
            one, two = await asyncio.gather(exchanges.ask(OWN, {}), exchanges.ask(OWN, {}))
            assert one.rows() == two.rows() == first

    run(scenario)
    engine.dispose()


def test_two_that_ask_at_once_have_a_connection_each(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            asked = text("SELECT CONNECTION_ID(), SLEEP(.2)")
            both = [asyncio.ensure_future(exchanges.ask(asked, {})) for _ in range(2)]
            while in_use(engine) < 2:
                await asyncio.sleep(0.01)
            one, two = await asyncio.gather(*both)
            assert one.rows() != two.rows()
            assert in_use(engine) == 1, "one is left to others"

    run(scenario)


def test_each_statement_sees_what_was_written_before_it(
    engine: Engine, mariadb: PrivateMariaDB, mariadb_url: URL
) -> None:
    name = f"{mariadb_url.database}.written"
    mariadb.execute(f"CREATE TABLE {name} (i INT)")
    count = text(f"SELECT COUNT(*) FROM {name}")

    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            for number in range(3):
                assert (await exchanges.ask(count, {})).rows() == [[number]]
                mariadb.execute(f"INSERT INTO {name} VALUES (1)")

    run(scenario)


@pytest.mark.parametrize("asking", [False, True])
def test_a_connection_that_is_killed_is_lost_and_the_next_statement_has_another(
    engine: Engine, mariadb: PrivateMariaDB, asking: bool
) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            ((first,),) = (await exchanges.ask(OWN, {})).rows()
            if asking:
                asked = asyncio.ensure_future(exchanges.ask(text("SELECT SLEEP(60)"), {}))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(mariadb.execute, f"KILL {first}")
            else:
                await asyncio.to_thread(mariadb.execute, f"KILL {first}")
                await asyncio.sleep(0.1)
                asked = asyncio.ensure_future(exchanges.ask(OWN, {}))
            with pytest.raises(Lost):
                await asyncio.wait_for(asked, PATIENCE_SECONDS)
            assert in_use(engine) == 0
            ((second,),) = (await exchanges.ask(OWN, {})).rows()
            assert second != first

    run(scenario)


def test_what_a_server_refuses_is_said_and_leaves_nothing_behind(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            for wrong, words in (
                ("SELECT nothing", "nothing"),
                ("SELECT 1 FROM (SELECT 1 UNION SELECT 2) AS t WHERE 1 = (SELECT 1 UNION SELECT 2)", "more than 1 row"),
                ("DO 1", "not read|"),
            ):
                with pytest.raises(Lost, match=words):
                    await exchanges.ask(text(wrong), {})
            assert (await exchanges.ask(text("SELECT 1"), {})).rows() == [[1]]

    run(scenario)


def test_a_server_that_says_nothing_is_given_up(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine, limit=0.2) as exchanges:
            started = time.monotonic()
            with pytest.raises(TimeoutError, match=r"no answer in 0\.2 s"):
                await exchanges.ask(text("SELECT SLEEP(60)"), {})
            assert time.monotonic() - started < PATIENCE_SECONDS / 2
            assert in_use(engine) == 0
            assert (await exchanges.ask(text("SELECT 1"), {})).rows() == [[1]]

    run(scenario)


def test_without_a_server_the_pools_error_is_told(tmp_path: Path) -> None:
    with PrivateMariaDB(tmp_path / "mariadb") as server:
        engine = engine_of(server.url())
        server.stop()

        async def scenario() -> None:
            async with exchanges_of(engine) as exchanges:
                with pytest.raises(SQLAlchemyError, match="connect"):
                    await exchanges.ask(OWN, {})

        run(scenario)
        engine.dispose()


def test_who_waits_when_it_is_closed_is_cancelled_at_once(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            await exchanges.ask(OWN, {})
            asked = asyncio.ensure_future(exchanges.ask(text("SELECT SLEEP(60)"), {}))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            exchanges.close()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert time.monotonic() - started < PATIENCE_SECONDS / 2
            assert in_use(engine) == 0

    run(scenario)


def test_a_statement_that_a_socket_does_not_take_at_once_is_sent_whole(engine: Engine) -> None:
    async def scenario() -> None:
        async with exchanges_of(engine) as exchanges:
            long = "ñ" * 7_000_000
            answer = await exchanges.ask(text("SELECT CHAR_LENGTH(:long)"), {"long": long})
            assert answer.rows() == [[len(long)]]

    run(scenario)


def test_over_tls(tmp_path: Path) -> None:
    tls_context.cache_clear()
    certificate, key = make_certificate(tmp_path / "certificate", f"IP:{LOOPBACK}")
    options = [f"--ssl-cert={certificate}", f"--ssl-key={key}"]
    with PrivateMariaDB(tmp_path / "mariadb", options=options) as server:
        engine = engine_of(server.url())
        with engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            assert isinstance(driver._sock, ssl.SSLSocket)

        async def scenario() -> None:
            async with exchanges_of(engine) as exchanges:
                many = await exchanges.ask(text(NUMBERED), {"most": 900, "length": 300})
                assert many.rows() == [[i, "ñ" * 300, None if i % 2 else -i] for i in range(1, 901)]
                long = "ñ" * 7_000_000
                answer = await exchanges.ask(text("SELECT CHAR_LENGTH(:long)"), {"long": long})
                assert answer.rows() == [[len(long)]]
                server.kill()
                with pytest.raises(Lost):
                    await exchanges.ask(OWN, {})
                assert wait_until(lambda: in_use(engine) == 0, PATIENCE_SECONDS)

        run(scenario)
        engine.dispose()
