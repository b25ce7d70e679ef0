"""Gunicorn's worker: Uvicorn's, with stops that fail no request, and answers that leave in one piece."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from recommendation_service.server.stopping import StoppableProtocol, StoppableServer, hear_stop_signals

MASTER_CHECK_SECONDS = 1.0
# Gunicorn's master kills what is left after the graceful timeout. A worker cuts its last requests so long before, and
# then ends in order, the refresher and the flusher with it, which is given 5 s to flush.
CLOSING_SECONDS = 6
CROWD_SECONDS = 1.0
YIELD_SECONDS = 1e-6  # in which others get the core; the kernel makes it some 50 µs


class JoinedWrites:
    """A transport that sends an answer's headers together with its body.

    Uvicorn writes them one after the other, and uvloop sends each write at once: two packets, and a
    client that wakes for the first one only to wait for the second. Joined, an answer takes one system
    call, and a busy machine serves a fifth more.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes = b""
        self.is_closing = transport.is_closing  # which each answer asks for: not by way of __getattr__

    def write(self, data: bytes) -> None:
        """Hold what comes first; send it with what comes next, or else when the loop comes round."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def write_whole(self, parts: Iterable[bytes]) -> None:
        """Send an answer that is whole."""
        if self._held:
            self._flush()
        self._transport.writelines(parts)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Crowd:
    """Whether a worker has more connections than it had lately: then others come in a crowd, to stay.

    All workers accept from one socket, and the one that is awake would take the whole crowd before another one has a
    core: with 32 connections at once every fourth load had all of them on one of two workers. So one that takes a
    connection of a crowd lets the others come first (libuv's UV_TCP_SINGLE_ACCEPT did). A connection for each request
    makes no crowd: their number does not grow.
    """

    def __init__(self) -> None:
        self._most = 0
        self._until = 0.0

    def grows(self, connections: int, now: float) -> bool:
        """Whether there are more than at any time in the last second or so; ``now``: any clock's seconds."""
        if now >= self._until:
            self._most, self._until = connections - 1, now + CROWD_SECONDS
        grows = connections > self._most
        self._most = max(self._most, connections)
        return grows


class Protocol(StoppableProtocol):
    """HTTP over such a transport."""

    crowd = Crowd()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        if self.crowd.grows(len(self.connections), time.monotonic()):
            time.sleep(YIELD_SECONDS)


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - CLOSING_SECONDS)

    def init_signals(self) -> None:
        super().init_signals()
        hear_stop_signals()

    async def _serve(self) -> None:
        """Uvicorn's worker's own, with a server that knows how to stop."""
        self.config.app = self.wsgi
        server = StoppableServer(self.config)
        # Gunicorn's quick stop. Left to Gunicorn's own handler, nobody would hear of it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, setattr, server, "should_exit", True)
        task = asyncio.create_task(self._stop_without_master())
        try:
            await server.serve(sockets=self.sockets)
        finally:
            task.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _stop_without_master(self) -> None:
        """A master that was killed can no longer stop its workers."""
        while os.getppid() == self.ppid:
            await asyncio.sleep(MASTER_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
