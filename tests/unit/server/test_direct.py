"""Calls that the protocol answers itself: in their order, whole or not at all, and counted as all others are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import Server

from recommendation_service.api.access import Access
from recommendation_service.api.accounts import Accounts
from recommendation_service.api.calls import Call, Reply
from recommendation_service.api.hot import Admission, DirectCalls
from recommendation_service.api.limits import RateLimiter
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import InvalidRequest
from recommendation_service.server.direct import DirectCycle, QuietTimer, ReplyHeads, Stepped, client_address
from recommendation_service.server.door import Stage
from recommendation_service.server.protocol import DIRECT_KEY, DoorProtocol
from recommendation_service.server.stopping import StoppableProtocol, StoppableServer
from recommendation_service.serving.worker import Worker
from recommendation_service.telemetry.metrics import Metrics
from tests.unit.server.test_protocol import GET, Scene, answer, rest, serving, until

PATH = "/api/search/total"


class Echo:
    """Replies with the body once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.calls: list[Call] = []

    async def answer(self, call: Call) -> Reply:
        self.calls.append(call)
        await self.may_answer.wait()
        if call.body == b"refuse":
            raise InvalidRequest("No.", [])
        if call.body == b"fail":
            raise ZeroDivisionError("secret-of-the-inside")
        return Reply(200, call.body)


class Direct(Scene):
    echo: Echo
    metrics: Metrics

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def direct(*, cors: bool = False, can_stop: bool = False, **bounds: int) -> AsyncIterator[Direct]:
    kinds = (StoppableProtocol, StoppableServer) if can_stop else (DoorProtocol, Server)
    async with serving(*kinds, **bounds) as scene:
        scene.__class__ = Direct
        found = cast(Direct, scene)
        found.echo, found.metrics = Echo(), Metrics()
        accounts = Accounts(found.metrics, {PATH: "total"}, access_log=False)
        admission = Admission(Access(Settings()), RateLimiter(0))
        calls = DirectCalls({PATH: found.echo}, admission, accounts, cast(Worker, None), cors=cors)
        found.server.lifespan.state[DIRECT_KEY] = calls
        try:
            yield found
        finally:
            found.echo.may_answer.set()


def post(body: bytes, headers: bytes = b"", path: str = PATH) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path.encode(), headers, len(body), body)


async def body_of(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    [length] = [line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
    return await reader.readexactly(int(length.split()[1]))


@pytest.mark.parametrize("cut", [1, 10, 70, 90])
def test_a_call_is_answered_without_the_application_wherever_it_is_cut(cut: int) -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, protocol):
            for number in range(3):
                sent = post(b"0123456789 %d" % number)
                writer.write(sent[:cut])
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(sent[cut:])
                assert await body_of(reader) == b"0123456789 %d" % number
            assert isinstance(protocol.cycle, DirectCycle)
            assert not scene.application.received
            assert scene.count("recs_requests_total", endpoint="total", status="200") == 3

    asyncio.run(run())


def test_what_is_sent_ahead_is_answered_in_its_order_whoever_answers_it() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, _):
            scene.echo.may_answer.clear()
            writer.write(post(b"one") + GET + post(b"two") + post(b"three") + GET)
            await until(lambda: scene.echo.calls)
            scene.echo.may_answer.set()
            assert await body_of(reader) == b"one"
            for _ in range(4):  # behind others, a call is the application's
                await answer(reader)
            writer.write(post(b"four"))
            assert await body_of(reader) == b"four"

    asyncio.run(run())


@pytest.mark.parametrize(
    "other",
    [
        GET.replace(b"GET / ", b"GET %b " % PATH.encode()),
        post(b"{}", path="/"),
        post(b"{}", path=f"{PATH}?x=1"),
        post(b"{}", b"Connection: close\r\n"),
        post(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"x" * 10_000),
        post(b"{}", b"Origin: https://elsewhere.test\r\n"),
        b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % PATH.encode(),
    ],
    ids=["get", "other", "query", "close", "http1.0", "large", "origin", "chunked"],
)
def test_what_is_no_plain_call_is_the_applications(other: bytes) -> None:
    async def run() -> None:
        async with direct(cors=True) as scene, scene.connected() as (reader, writer, _):
            writer.write(other)
            await answer(reader)
            assert not scene.echo.calls

    asyncio.run(run())


def test_what_is_refused_and_what_fails_is_said_and_counted() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, _):
            writer.write(post(b"refuse"))
            assert b'"invalid_request"' in await body_of(reader)
            writer.write(post(b"fail"))
            failed = await body_of(reader)
            assert b'"internal_error"' in failed
            assert b"secret" not in failed
            writer.write(post(b"{}", b"Content-Type: text/plain\r\n"))
            assert b'"unsupported_media_type"' in await body_of(reader)
            for code in ("invalid_request", "internal_error", "unsupported_media_type"):
                assert scene.count("recs_errors_total", endpoint="total", code=code) == 1

    asyncio.run(run())


def test_a_body_that_is_late_is_408_and_one_whose_client_leaves_is_counted() -> None:
    async def run() -> None:
        async with direct(body_seconds=5) as scene:
            async with scene.connected() as (reader, writer, protocol):
                writer.write(post(b"0123456789")[:-3])
                await until(lambda: protocol.stage()[0] is Stage.BODY)
                scene.pass_seconds(7)
                assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")
            await until(lambda: not scene.server.server_state.connections)
            async with scene.connected() as (_, writer, protocol):
                writer.write(post(b"0123456789")[:-3])
                await until(lambda: protocol.stage()[0] is Stage.BODY)
            await until(lambda: scene.count("recs_errors_total", endpoint="total", code="body_incomplete") == 2)
            assert not scene.echo.calls

    asyncio.run(run())


def test_a_body_that_is_on_its_way_when_the_worker_stops_is_waited_for_and_answered() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, protocol):
            sent = post(b"0123456789")

            async def send(part: bytes, then: bytes) -> None:
                writer.write(part)
                await until(lambda: isinstance(protocol.cycle, DirectCycle) and protocol.cycle.body == then)

            await send(sent[:-5], b"01234")
            protocol.shutdown()
            await send(sent[-5:-2], b"01234567")
            writer.write(sent[-2:])
            assert await body_of(reader) == b"0123456789"
            assert await rest(reader) == b""

    asyncio.run(run())


def test_a_client_that_leaves_before_its_answer_disturbs_nobody() -> None:
    async def run() -> None:
        async with direct() as scene:
            scene.echo.may_answer.clear()
            async with scene.connected() as (_, writer, protocol):
                writer.write(post(b"one"))
                await until(lambda: scene.echo.calls)
                assert protocol.stage()[0] is Stage.ANSWER
            await until(lambda: not scene.server.server_state.connections)
            scene.echo.may_answer.set()
            async with scene.connected() as (reader, writer, _):
                writer.write(post(b"two"))
                assert await body_of(reader) == b"two"

    asyncio.run(run())


def test_a_head_that_was_read_before_is_not_read_again_and_another_one_is() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, protocol):
            given: list[bytes] = []
            parser: Any = protocol.parser

            class Counting:
                def feed_data(self, data: bytes) -> None:
                    given.append(data)
                    parser.feed_data(data)

                def __getattr__(self, name: str) -> Any:
                    return getattr(parser, name)

            protocol.parser = Counting()  # type: ignore[assignment]
            known, other = post(b"first", b"X-Key: a\r\n"), post(b"other", b"X-Key: b\r\n")
            for sent in (known, known.replace(b"first", b"again"), other, known, other):
                writer.write(sent)
                assert await body_of(reader) == sent[-5:]
            assert given == [known, other]
            assert [dict(call.headers)[b"x-key"] for call in scene.echo.calls] == [b"a", b"a", b"b", b"a", b"b"]
            stages = set()
            scene.echo.may_answer.clear()
            for number in range(3):  # the door is not to take requests with one head for one that takes long
                writer.write(known)
                await until(lambda number=number: len(scene.echo.calls) == 6 + number)  # type: ignore[misc]
                stages.add(protocol.stage())
                scene.echo.may_answer.set()
                assert await body_of(reader) == b"first"
                scene.echo.may_answer.clear()
            assert len(stages) == 3
            assert {stage for stage, _ in stages} == {Stage.ANSWER}

    asyncio.run(run())


@pytest.mark.parametrize("cut", [3, 40, 65])
def test_after_a_part_of_a_request_the_parser_reads_on(cut: int) -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, _):
            known = post(b"12345")
            for sent in (known, known):
                writer.write(sent)
                assert await body_of(reader) == b"12345"
            for number in range(3):
                writer.write(known[:cut])
                await asyncio.sleep(0.02)
                writer.write(known[cut:-1] + b"%d" % number)
                assert await body_of(reader) == b"1234%d" % number
                writer.write(known)
                assert await body_of(reader) == b"12345"

    asyncio.run(run())


def test_a_stop_is_told_also_to_who_sends_a_head_that_is_known() -> None:
    async def run() -> None:
        async with direct(can_stop=True) as scene, scene.connected() as (reader, writer, protocol):
            for _ in range(2):
                writer.write(post(b"12345"))
                assert await body_of(reader) == b"12345"
            scene.server.server_state.is_stopping = True  # type: ignore[attr-defined]
            protocol.shutdown()
            writer.write(post(b"12345"))
            last = await rest(reader)
            assert b"connection: close" in last
            assert last.endswith(b"12345")

    asyncio.run(run())


def test_what_is_under_way_is_waited_for_at_a_stop_and_cancelled_when_that_takes_too_long() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (_, writer, _):
            scene.echo.may_answer.clear()
            writer.write(post(b"one"))
            await until(lambda: scene.echo.calls)
            under_way = scene.server.server_state.tasks
            assert len(under_way) == 1
            for each in list(under_way):
                assert each.cancel(msg="the stop takes too long")
            await until(lambda: not under_way)

    asyncio.run(run())


def test_a_coroutine_is_stepped_at_once_and_through_all_that_it_waits_for() -> None:
    async def run() -> None:
        loop, under_way, told = asyncio.get_running_loop(), set[Any](), list[Any]()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        steps: list[str] = []
        ready: asyncio.Future[str] = loop.create_future()

        async def goes() -> None:
            steps.append("begun")
            steps.append(await ready)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            async with asyncio.Lock():
                steps.append(await asyncio.create_task(asyncio.sleep(0.001, "of a task")))
            raise ZeroDivisionError

        stepped = Stepped(goes(), under_way, loop)
        assert steps == ["begun"]
        assert under_way == {stepped}
        ready.set_result("ready")
        await until(lambda: not under_way)
        assert steps == ["begun", "ready", "of a task"]
        assert [type(error) for error in told] == [ZeroDivisionError]
        assert not stepped.cancel()

    asyncio.run(run())


class Times:
    """A loop's time and timers, by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), cast(Any, self))
        self.timers.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def get_debug(self) -> bool:
        return False

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        for handle in [handle for handle in self.timers if handle.when() <= self.now]:
            self.timers.remove(handle)
            handle._run()


def test_quiet_is_counted_from_where_it_began_last_and_takes_one_timer_however_often_it_begins() -> None:
    times, expired = Times(), list[float]()
    timer = QuietTimer(cast(Any, times), lambda: expired.append(times.now))
    for _ in range(70):
        timer.set(5)
        times.pass_seconds(0.1)
        timer.cancel()
        times.pass_seconds(0.02)
        assert len(times.timers) <= 1
    times.pass_seconds(20)
    assert not expired
    assert not times.timers  # a connection that is at work for long leaves none
    timer.set(5)
    times.pass_seconds(4)
    timer.cancel()
    timer.set(5)  # at 4 s
    times.pass_seconds(4.9)
    assert not expired
    times.pass_seconds(0.2)
    assert expired == [times.now]
    timer.set(5)
    timer.end()
    assert not times.timers
    times.pass_seconds(9)
    assert len(expired) == 1


def test_a_connection_that_is_quiet_for_as_long_as_it_may_be_is_closed() -> None:
    async def run() -> None:
        async with direct() as scene, scene.connected() as (reader, writer, protocol):
            protocol.timeout_keep_alive = 0.05  # type: ignore[assignment]
            writer.write(post(b"12345"))
            assert await body_of(reader) == b"12345"
            assert await rest(reader) == b""
            await until(lambda: not scene.server.server_state.connections)

    asyncio.run(run())


def test_what_all_replies_say_is_taken_up_when_it_changes() -> None:
    heads, headers = ReplyHeads(), ((b"content-type", b"application/json"),)
    first, second = [(b"date", b"Mon"), (b"a", b"b")], [(b"date", b"Tue")]
    for _ in range(2):
        assert heads.lines(200, headers, first) == (
            b"HTTP/1.1 200 OK\r\ndate: Mon\r\na: b\r\ncontent-type: application/json\r\n"
        )
    assert heads.lines(503, (), first) == b"HTTP/1.1 503 Service Unavailable\r\ndate: Mon\r\na: b\r\n"
    assert heads.lines(200, headers, second) == b"HTTP/1.1 200 OK\r\ndate: Tue\r\ncontent-type: application/json\r\n"


def test_a_clients_address_is_the_one_that_a_trusted_proxy_names() -> None:
    config = Config(lambda: None, proxy_headers=True, forwarded_allow_ips="10.0.0.1", log_config=None)  # type: ignore[arg-type]
    config.load()
    layer: Any = config.loaded_app
    assert isinstance(layer, ProxyHeadersMiddleware)
    headers = [(b"x-forwarded-for", b"192.0.2.7, 10.0.0.1")]
    trusted = layer.trusted_hosts
    assert client_address(("10.0.0.1", 1), headers, trusted) == "192.0.2.7"
    assert client_address(("10.0.0.2", 1), headers, trusted) == "10.0.0.2"
    assert client_address(("10.0.0.1", 1), [], trusted) == "10.0.0.1"
    assert client_address(None, headers, trusted) == "unknown"
