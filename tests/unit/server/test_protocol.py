"""What a connection reads, keeps and closes, over real sockets and with an application that answers when it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import Server

from recommendation_service.server.door import Bounds, Door, Stage
from recommendation_service.server.protocol import MOST_HEADERS, SLICE_BYTES, STATE_KEY, DoorProtocol

PATIENCE_SECONDS = 20
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


class Application:
    """Reads the body, unless told not to, and answers once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.reads = True
        self.answer = b"ok"
        self.received: list[dict[str, Any]] = []

    async def __call__(self, _scope: dict[str, Any], receive: Any, send: Any) -> None:
        while self.reads:
            self.received.append(await receive())
            if not self.received[-1].get("more_body"):
                break
        await self.may_answer.wait()
        length = str(len(self.answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.answer})


class Scene:
    """A server with a door whose time a test makes pass."""

    def __init__(self, bounds: Bounds, address: tuple[str, int], server: Server, application: Application) -> None:
        self.door = Door(bounds)
        self.address = address
        self.server = server
        self.application = application
        self._now = 0.0
        self.door.sweep(self._now)

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self._now += 1
            self.door.sweep(self._now)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, DoorProtocol]]:
        before = set(self.server.server_state.connections)
        reader, writer = await asyncio.open_connection(*self.address)
        await until(lambda: len(self.server.server_state.connections) > len(before))
        [protocol] = set(self.server.server_state.connections) - before
        assert isinstance(protocol, DoorProtocol)
        try:
            yield reader, writer, protocol
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(
    http: type[DoorProtocol] = DoorProtocol, server_class: type[Server] = Server, **bounds: int
) -> AsyncIterator[Scene]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = Application()
        config = Config(application, http=http, lifespan="off", log_config=None)  # type: ignore[arg-type]
        config.load()
        server = server_class(config)
        server.lifespan = config.lifespan_class(config)
        scene = Scene(Bounds(**bounds), listener.getsockname(), server, application)
        server.lifespan.state[STATE_KEY] = scene.door
        config.lifespan_class = lambda _: server.lifespan  # type: ignore[assignment,misc]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started)
            yield scene
        finally:
            application.may_answer.set()
            server.should_exit = True
            await asyncio.wait_for(task, PATIENCE_SECONDS)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"ok"
    return head


def test_of_a_flood_of_requests_only_one_slice_is_taken_up_at_a_time() -> None:
    """Each takes kilobytes: what is not yet its turn stays with its client, and all are answered in the end."""

    async def run() -> None:
        async with serving() as scene, scene.connected() as (reader, writer, protocol):
            scene.application.may_answer.clear()
            number = 5_000  # forty slices
            writer.write(GET * number)
            await until(lambda: protocol.pipeline)
            for _ in range(20):
                await asyncio.sleep(0)
                assert len(protocol.pipeline) <= SLICE_BYTES // len(GET) + 1
            scene.application.may_answer.set()
            for _ in range(number):
                await answer(reader)
                assert len(protocol.pipeline) <= SLICE_BYTES // len(GET) + 1

    asyncio.run(run())


def test_a_body_that_its_reader_is_slow_with_is_not_read_ahead_and_not_blamed_on_the_client() -> None:
    async def run() -> None:
        async with serving(body_seconds=5) as scene, scene.connected() as (reader, writer, protocol):
            scene.application.reads = False
            scene.application.may_answer.clear()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000)
            await until(lambda: protocol.flow.read_paused)
            assert len(protocol.cycle.body) < 65536 + 2 * SLICE_BYTES
            scene.pass_seconds(20)
            scene.application.may_answer.set()
            await answer(reader)

    asyncio.run(run())


def test_a_body_that_is_late_is_gone_for_the_application_and_408_for_its_client() -> None:
    async def run() -> None:
        async with serving(body_seconds=5) as scene, scene.connected() as (reader, writer, protocol):
            writer.write(POST + b"12345")
            await until(lambda: scene.application.received)
            scene.pass_seconds(6)
            assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")
            await until(lambda: len(scene.application.received) == 2)
            assert scene.application.received[-1]["type"] == "http.disconnect"
            # What still comes of it is read, and nothing is made of it.
            writer.write(b"67890" + GET)
            await until(lambda: protocol.stage()[0] is Stage.ENDING)
            scene.pass_seconds(4)
            await until(lambda: not scene.server.server_state.connections)
            assert len(scene.application.received) == 2

    asyncio.run(run())


def test_a_head_that_is_late_behind_a_request_under_way_costs_nothing_until_that_is_answered() -> None:
    async def run() -> None:
        async with serving(head_seconds=5) as scene, scene.connected() as (reader, writer, _):
            scene.application.may_answer.clear()
            writer.write(GET + b"GET / HT")
            await until(lambda: scene.application.received)
            scene.pass_seconds(60)
            scene.application.may_answer.set()
            assert b"200" in await answer(reader)
            scene.pass_seconds(6)
            assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")

    asyncio.run(run())


def test_nonsense_behind_a_request_under_way_ends_the_connection_after_its_answer() -> None:
    async def run() -> None:
        async with serving() as scene, scene.connected() as (reader, writer, _):
            scene.application.may_answer.clear()
            writer.write(GET + b"nonsense\r\n\r\n")
            await until(lambda: scene.application.received)
            scene.application.may_answer.set()
            assert b"connection: close" in await answer(reader)
            assert await rest(reader) == b""

    asyncio.run(run())


def test_who_was_answered_before_its_body_came_may_send_it_and_ask_again_but_not_stay_for_ever() -> None:
    """The timer of idle connections has ended by then: the rest of the body was taken for a next request."""

    async def run() -> None:
        async with serving(body_seconds=5, idle_seconds=5) as scene:
            scene.application.reads = False
            async with scene.connected() as (reader, writer, _):
                for _ in range(2):
                    writer.write(POST)
                    await answer(reader)
                    writer.write(b"1234567890")
                writer.write(POST)
                await answer(reader)
                writer.write(b"1")
                scene.pass_seconds(1)
                await asyncio.sleep(0.05)
                scene.pass_seconds(11)
                assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""

    asyncio.run(run())


def test_a_head_of_very_many_small_headers_is_refused() -> None:
    async def run() -> None:
        async with serving(head_bytes=1 << 20) as scene, scene.connected() as (reader, writer, _):
            writer.write(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * (MOST_HEADERS + SLICE_BYTES))
            assert (await rest(reader)).startswith(b"HTTP/1.1 431 ")

    asyncio.run(run())


@pytest.mark.parametrize("size", [10, 1000, SLICE_BYTES + 1, 65536])
def test_large_bodies_may_follow_one_another_within_the_limit_of_heads(size: int) -> None:
    async def run() -> None:
        async with serving(head_bytes=8192) as scene, scene.connected() as (reader, writer, _):
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            writer.write((head + b"x" * size) * 20)
            for _ in range(20):
                await answer(reader)
            whole = b"".join(message["body"] for message in scene.application.received)
            assert whole == b"x" * (20 * size)

    asyncio.run(run())


def test_a_refused_connection_is_told_and_those_that_are_there_go_on() -> None:
    async def run() -> None:
        async with serving(connections=1) as scene:
            scene.application.may_answer.clear()
            async with scene.connected() as (reader, writer, _):
                writer.write(GET)
                await until(lambda: scene.application.received)
                other, their_writer = await asyncio.open_connection(*scene.address)
                their_writer.write(GET)
                refusal = await rest(other)
                assert refusal.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: " in refusal
                their_writer.close()
                scene.application.may_answer.set()
                await answer(reader)

    asyncio.run(run())


def test_a_connection_whose_body_has_come_is_closed_at_once() -> None:
    async def run() -> None:
        async with serving() as scene, scene.connected() as (reader, writer, _):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
            await until(lambda: scene.server.server_state.tasks)
            writer.write(b"{}")
            assert (await rest(reader)).endswith(b"\r\n\r\nok")
            await until(lambda: not scene.server.server_state.connections)

    asyncio.run(run())


def test_an_answer_that_ends_the_connection_arrives_though_the_body_is_still_on_its_way() -> None:
    """PHP's streams, which say Connection: close, lost a 413 while they sent: a close on unread bytes is a reset."""

    async def run() -> None:
        async with serving(body_seconds=5, idle_seconds=5) as scene, scene.connected() as (reader, writer, _):
            scene.application.reads = False
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n")
            await until(lambda: scene.server.server_state.total_requests == 1)
            writer.write(b"x" * 1_000_000 + GET)
            await asyncio.wait_for(writer.drain(), PATIENCE_SECONDS)
            assert (await rest(reader)).endswith(b"\r\n\r\nok")
            assert scene.server.server_state.total_requests == 1
            scene.pass_seconds(12)
            await until(lambda: not scene.server.server_state.connections)

    asyncio.run(run())
