"""test_load_performance.py as a command, and servers that answer it as a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.end_to_end.service import PATIENCE_SECONDS, REPOSITORY
from tests.servers import LOOPBACK
from tests.support.listening import stop_listening

COMMAND = [sys.executable, str(REPOSITORY / "test_load_performance.py")]
FEED = b'{"statusCode":200,"body":{"mix_ids":["1"],"items":[{}],"request_id":"","relaxed":[]}}'


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def measure(*arguments: str) -> dict[str, Any]:
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


Handler = Callable[["FakeServer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeServer:
    """Answers as its handler does, in a thread of its own."""

    port: int = 0
    requests: int = 0
    heads: list[str] = field(default_factory=list)
    listener: asyncio.Server | None = None
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def read(self, reader: asyncio.StreamReader) -> None:
        """One request, whole."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        await reader.readexactly(int(length[1]))
        self.requests += 1
        self.heads.append(head)


@contextmanager
def serving(handler: Handler) -> Iterator[FakeServer]:
    server, is_up = FakeServer(), threading.Event()
    writers: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            await handler(server, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    async def main() -> None:
        server.loop, server.stop = asyncio.get_running_loop(), asyncio.Event()
        server.listener = await asyncio.start_server(handle, LOOPBACK, 0, backlog=1024)
        server.port = server.listener.sockets[0].getsockname()[1]
        is_up.set()
        await server.stop.wait()
        await stop_listening(server.listener)
        # A connection's task may not have started yet, and whoever cancelled it before would leave its socket open.
        # So each one starts, and ends because its socket does.
        is_quiet = False
        while not is_quiet:
            is_quiet = len(asyncio.all_tasks()) == 1
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert is_up.wait(PATIENCE_SECONDS)
        yield server
    finally:
        assert server.loop is not None
        assert server.stop is not None
        server.loop.call_soon_threadsafe(server.stop.set)
        thread.join()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def always(answer: bytes, after_seconds: float = 0.0) -> Handler:
    async def handler(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.read(reader)
            await asyncio.sleep(after_seconds)
            writer.write(answer)
            await writer.drain()

    return handler
