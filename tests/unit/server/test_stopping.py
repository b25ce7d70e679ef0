"""How a server ends: who is told, who is refused, and what is read before a connection is closed."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs
from uvicorn.config import Config

from recommendation_service.server.stopping import (
    StoppableProtocol,
    StoppableServer,
    has_arrivals,
    refuse_new_connections,
)

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def listening() -> socket.socket:
    listener = socket.create_server((LOOPBACK, 0))
    listener.settimeout(PATIENCE_SECONDS)
    return listener


def filters_are_refused() -> bool:
    """As some kernels do to ordinary users, and sandboxes to all."""
    with listening() as listener, capture_logs() as logs:
        refuse_new_connections([listener])
        return any("refuses a filter" in line["event"] for line in logs)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is done elsewhere")
def test_who_is_connected_is_accepted_and_who_comes_later_finds_nobody_once_the_socket_is_closed() -> None:
    if filters_are_refused():
        pytest.skip("this kernel refuses filters on sockets")
    with listening() as listener, socket.socket() as late:
        address = listener.getsockname()
        with socket.create_connection(address, PATIENCE_SECONDS) as early:
            refuse_new_connections([listener])
            late.setblocking(False)
            assert late.connect_ex(address) == errno.EINPROGRESS
            # An attempt on the loopback is decided within the call that makes it: this one is not.
            poll = select.poll()
            poll.register(late, select.POLLOUT)
            assert poll.poll(0) == []
            accepted, _ = listener.accept()
            with closing(accepted):
                early.sendall(b"request")
                assert accepted.recv(7) == b"request"
                accepted.sendall(b"answer")
                assert early.recv(6) == b"answer"
            assert not has_arrivals(listener.fileno())
        listener.close()
        # The kernel tries again by itself, and is told now.
        assert poll.poll(PATIENCE_SECONDS * 1000)
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is done elsewhere")
def test_a_system_that_refuses_is_said() -> None:
    listener = listening()
    listener.close()  # as of any system that refuses, there is an OSError
    with capture_logs() as logs:
        refuse_new_connections([listener])
    assert [(line["log_level"], "refuses a filter" in line["event"]) for line in logs] == [("warning", True)]
    assert "Bad file descriptor" in logs[0]["reason"]


def test_sockets_that_are_no_tcp_are_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        refuse_new_connections([one])
        assert not has_arrivals(one.fileno())
        other.sendall(b"x")
        assert has_arrivals(one.fileno())


async def application(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[StoppableServer, tuple[str, int], asyncio.Task[None]]]:
    with listening() as listener:
        config = Config(application, http=StoppableProtocol, lifespan="off", log_config=None)  # type: ignore[arg-type]
        server = StoppableServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield server, listener.getsockname(), task
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, PATIENCE_SECONDS)


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The head of one, in small letters."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"ok"
    return head.lower()


async def end(reader: asyncio.StreamReader) -> bytes:
    """What comes before the server closes the connection."""
    return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)


def test_what_has_arrived_is_answered_before_an_idle_connection_is_closed() -> None:
    async def run() -> None:
        async with serving() as (server, address, _), connected(address) as (reader, writer):
            writer.write(REQUEST)
            await answer(reader)
            [connection] = server.server_state.connections
            assert isinstance(connection, StoppableProtocol)
            # Sent, and not read, since this function has not given the loop back.
            writer.write(REQUEST)
            connection.timeout_keep_alive_handler()
            await answer(reader)
            connection.timeout_keep_alive_handler()
            assert await end(reader) == b""

    asyncio.run(run())


def test_a_server_that_stops_answers_and_says_so_and_closes_the_quiet() -> None:
    async def run() -> None:
        async with (
            serving() as (server, address, task),
            connected(address) as (busy_reader, busy),
            connected(address) as (idle_reader, idle),
        ):
            for reader, writer in ((busy_reader, busy), (idle_reader, idle)):
                writer.write(REQUEST)
                assert b"connection: close" not in await answer(reader)
            server.should_exit = True
            while not server.server_state.is_stopping:
                await asyncio.sleep(0)
            async with connected(address) as (late_reader, late):
                for reader, writer in ((busy_reader, busy), (late_reader, late)):
                    writer.write(REQUEST)
                    assert b"connection: close" in await answer(reader)
                    assert await end(reader) == b""
            assert not task.done()
            assert await end(idle_reader) == b""
            await asyncio.wait_for(task, PATIENCE_SECONDS)

    asyncio.run(run())
