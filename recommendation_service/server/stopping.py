"""Ends a server without cutting a request that a client has sent, as far as HTTP lets a server do so.

Uvicorn closes every connection without a request at once, and on a busy one the next request is on its way by then,
or already there and unread. Here a server that stops goes on for a while: each answer says `Connection: close`, so
that its client asks elsewhere, and only a connection that stays quiet is closed without having been told. What remains
is a request that leaves its client in the very moment in which a quiet connection's end is on its way to it:
no server can tell that one, and clients ask again for it (RFC 9112, 9.3.1).
"""

import asyncio
import ctypes
import signal
import socket
import struct
import sys
from collections.abc import Iterable

import structlog
from uvicorn.config import Config
from uvicorn.server import Server, ServerState

from recommendation_service.server.protocol import DoorProtocol, has_arrivals

log = structlog.get_logger(__name__)

# So long a connection has to be quiet before it is closed untold.
QUIET_SECONDS = 2.0
# So long connections are still accepted: those whose handshake was under way, over any distance on earth.
ACCEPT_SECONDS = 0.5
POLL_SECONDS = 0.01

_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_SO_ATTACH_FILTER = 26  # linux/include/uapi/asm-generic/socket.h
# Classic BPF (code, jump if true, jump if false, operand) over a TCP header: drop what opens a connection, which is a
# segment with SYN and without ACK (flags are byte 13), and take the rest whole.
_NO_NEW_CONNECTIONS = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0x40000))


def refuse_new_connections(listeners: Iterable[socket.socket]) -> None:
    """Let the kernel drop attempts to connect, as if nobody were there, before the last process closes the sockets.

    The kernel resets what waits to be accepted when a listening socket is closed, and its client may have sent a
    request by then. A dropped attempt is made again by the client's kernel a second later, when the socket is
    gone, or the next service's. Nothing is done where the system cannot do it: not Linux, or no TCP; and where it
    refuses to, the log says so.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_NEW_CONNECTIONS)
    buffer = ctypes.create_string_buffer(program, len(program))
    option = struct.pack("HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(buffer))
    for listener in listeners:
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            try:
                listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
            except OSError as error:
                log.warning(
                    "who connects while the last process ends is reset: the system refuses a filter on its socket",
                    reason=str(error),
                )


def hold_stop_signals() -> None:
    """Keep what asks this thread to stop until ``hear_stop_signals``; a process forked meanwhile keeps it as well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


def hear_stop_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


class StoppableState(ServerState):
    """What connections share with their server."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopping = False


class StoppableProtocol(DoorProtocol):
    """A connection that knows that its server is about to end."""

    server_state: StoppableState

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server_state.is_stopping:
            self._heads = None
            self.timeout_keep_alive = QUIET_SECONDS  # type: ignore[assignment]
            self._await_next()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.server_state.is_stopping and self.cycle is not None:
            self.cycle.keep_alive = False  # its answer says `Connection: close`

    def shutdown(self) -> None:
        """Called by the server when it begins to stop, and once more when it stops listening."""
        if self.timeout_keep_alive == QUIET_SECONDS:
            return
        self._heads = None  # from now on each answer says `Connection: close`
        self._quiet.end()  # its timer waits for longer
        self.timeout_keep_alive = QUIET_SECONDS  # type: ignore[assignment]
        if self.cycle is None or self.cycle.response_complete:
            self._await_next()
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False  # an answer whose head has left cannot say so

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has been read for long. What arrived while the loop was busy is read first, and answered."""
        if not self.transport.is_closing() and self.has_unread():
            self._quiet.set(POLL_SECONDS)
        else:
            super().timeout_keep_alive_handler()


class StoppableServer(Server):
    """Uvicorn's server, which tells its connections before it ends."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.server_state: StoppableState = StoppableState()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.is_stopping = True
        for connection in list(self.server_state.connections):
            connection.shutdown()
        # Whoever else listens takes connections as well; whoever is the last leaves none that waits.
        loop = asyncio.get_running_loop()
        until = loop.time() + ACCEPT_SECONDS
        await asyncio.sleep(ACCEPT_SECONDS)
        while any(has_arrivals(listener.fileno()) for listener in sockets or ()) and loop.time() < until + 1:
            await asyncio.sleep(POLL_SECONDS)
        await super().shutdown(sockets)
