"""Uvicorn's HTTP protocol behind a door: it reads no more than it can use, and ignores offers of other protocols.

The application hands its Door in by its lifespan's state, so that every way to start it has one. Uvicorn's own protocol

- gives the application an empty body where a client offers HTTP/2 (`Upgrade: h2c`: curl --http2, Java's HttpClient);
- has no limit to a head's bytes, nor to how long head, body and the reading of an answer may take;
- reads on while requests wait for their turn on one connection, and keeps all of them.
"""

import asyncio
import os
import select
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from recommendation_service.api.calls import Headers
from recommendation_service.api.errors import error_body
from recommendation_service.api.hot import DirectCalls
from recommendation_service.core.errors import ServiceError
from recommendation_service.server.direct import (
    DirectCycle,
    Head,
    KnownHeads,
    QuietTimer,
    ReplyHeads,
    Stepped,
    client_address,
)
from recommendation_service.server.door import Door, Reason, Stage
from recommendation_service.server.refusals import (
    BadRequest,
    HeadersTooLarge,
    RequestTimeout,
    TooManyConnections,
    TunnelRefused,
    UriTooLong,
    VersionNotSupported,
)

if TYPE_CHECKING:
    from uvicorn.server import ServerState

STATE_KEY = "door"
DIRECT_KEY = "direct"
HEADS_KEY = "heads"
# What is handed to the parser at once: the parser cannot be stopped within, and 200 requests fit into it.
SLICE_BYTES = 4096
# A head of fewer bytes than MAX_HEADER_BYTES may hold thousands of headers, each of which takes 30 times its bytes.
MOST_HEADERS = 1000
HTTP2_PREFACE = b"PRI * HTTP/2.0"
RETRY_SECONDS = 5
REPLY_HEADS = ReplyHeads()


def has_arrivals(descriptor: int) -> bool:
    """Whether a socket holds bytes, or a listening one connections, that nobody has taken yet."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class _Flow(FlowControl):
    """Reads on only when nothing that was read waits for its turn."""

    def __init__(self, protocol: "DoorProtocol") -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self.read_paused and not self._protocol.pipeline:
            self.read_paused = False
            self._protocol.loop.call_soon(self._protocol.read_on)


class _LateClose:
    """The transport of an answer that ends its connection and may come before all of its request's body has.

    Closing on what the client still sends resets the connection, and takes the answer with it.
    """

    def __init__(self, protocol: "DoorProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def close(self) -> None:
        if self._cycle.more_body:
            self._protocol.close_after_body()
        else:
            self._protocol.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)


class DoorProtocol(HttpToolsProtocol):
    """A connection, as the door sees it."""

    # Uvicorn's own 28 attributes leave room for two: with more than 30, CPython finds each of them more slowly.
    __slots__ = ("_direct", "_farewell", "_head_bytes", "_heads", "_held", "_is_ending", "_quiet", "_write", "door")

    def __init__(
        self,
        config: Config,
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # An application that hands in none has no limits.
        self.door: Door = app_state.setdefault(STATE_KEY, Door())
        # Below a root path, and where concurrency is bounded, Uvicorn's own way knows what to do.
        is_plain = not config.root_path and config.limit_concurrency is None
        self._direct: DirectCalls | None = app_state.get(DIRECT_KEY) if is_plain else None
        # What the parser need not read again; None where each head has to be looked at.
        self._heads: KnownHeads | None = app_state.setdefault(HEADS_KEY, KnownHeads()) if self._direct else None
        self._head_bytes = 0  # of a head that is not yet whole
        self._held = b""  # read, and not yet parsed
        self._is_ending = False
        self._farewell = Stage.ENDING
        self._quiet = QuietTimer(self.loop, self.timeout_keep_alive_handler)

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._write = getattr(transport, "write_whole", transport.writelines)
        self.flow = _Flow(self)
        if self.door.admit(self, self.client[0] if self.client else None, self._trusted()) is None:
            return
        if self.door.may_linger():
            message = "Too many connections are open; see Retry-After."
            self._refuse(TooManyConnections(message, retry_after_seconds=RETRY_SECONDS))
        else:
            self._is_ending = True
            transport.abort()

    def _trusted(self) -> Any:
        """Uvicorn's layer that reads X-Forwarded-For, unless it was switched off, knows FORWARDED_ALLOW_IPS."""
        return getattr(self.config.loaded_app, "trusted_hosts", ())

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self)
        self._held = b""
        self._miss_body()
        self._quiet.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return  # read, so that closing does not reset the connection before the refusal has arrived
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if len(data) > SLICE_BYTES or self._held:
            self._held += data
            self.read_on()
            return
        heads = self._heads
        before: RequestResponseCycle | None = self.cycle
        # Whether the parser has nothing of a request that is not whole, and all that were are answered.
        is_between = self._head_bytes == 0 and (before is None or (before.response_complete and not before.more_body))
        if is_between and heads is not None and (known := heads.find(data)) is not None:
            self._answer_known(*known)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._read_past_offer(data, pause.args[0])
        except httptools.HttpParserError:
            self._refuse_nonsense(data)
        else:
            cycle = self.cycle
            if cycle is None or cycle.scope is not self.scope:
                self._head_grows(len(data))
            else:
                self._head_bytes = 0
                read: object = cycle
                if is_between and isinstance(read, DirectCycle) and not read.more_body:
                    self._note_head(data, read.body)
                # Answered directly, a request has its whole body.
                if cycle.more_body and not cycle.keep_alive and isinstance(cycle, RequestResponseCycle):
                    cycle.transport = _LateClose(self, cycle)  # type: ignore[assignment]
                if self.expect_100_continue:
                    self._ask_newer_clients_only()

    def _answer_known(self, head: Head, body: bytes) -> None:
        """Past the parser, which is between two requests and stays there."""
        scope = object()  # by which the door tells it from the request before
        cycle = DirectCycle(scope, body, more_body=False)
        self.scope, self.cycle, self.expect_100_continue = scope, cycle, False  # type: ignore[assignment]
        Stepped(self._answer_directly(cycle, head.target, head.headers, head.codings), self.tasks, self.loop)

    def _note_head(self, data: bytes, body: bytes) -> None:
        if self._heads is not None and self._direct is not None:
            codings = self._direct.codings_of(self.headers)
            if codings is not None:
                self._heads.note(data, self.url, self.headers, codings, body)

    def read_on(self) -> None:
        """Parse what was read already, as far as it can be used, then read more."""
        held, self._held = self._held, b""
        place = 0
        while place < len(held) and not self._must_wait():
            self.data_received(held[place : place + SLICE_BYTES])
            place += SLICE_BYTES
        if self._is_ending or self.parser is None or self.transport.is_closing():
            return
        self._held = held[place:]
        if not self.flow.read_paused and not self.transport.is_reading():
            self.transport.resume_reading()

    def _must_wait(self) -> bool:
        return self.flow.read_paused or self._is_ending or self.parser is None or self.transport.is_closing()

    # From the parser.

    def on_headers_complete(self) -> None:
        direct = self._direct
        if direct is not None and direct.takes(self.url, self.headers) and self._is_alone():
            self.cycle = DirectCycle(self.scope)  # type: ignore[assignment]
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle: object = self.cycle
        if isinstance(cycle, DirectCycle):
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        cycle: object = self.cycle
        if not isinstance(cycle, DirectCycle):
            super().on_message_complete()
        elif cycle.more_body:
            cycle.more_body = False
            Stepped(self._answer_directly(cycle, self.url, self.headers, None), self.tasks, self.loop)

    def _miss_body(self) -> None:
        """The rest of a body does not come any more."""
        cycle: object = self.cycle
        if self._direct is not None and isinstance(cycle, DirectCycle) and cycle.more_body and not cycle.disconnected:
            cycle.disconnected = True
            self._direct.miss(self.url)

    def _is_alone(self) -> bool:
        """Whether a request is a plain POST that no other of the connection is before."""
        parser, cycle = self.parser, self.cycle
        return (
            (cycle is None or cycle.response_complete)
            and not self.expect_100_continue
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    async def _answer_directly(
        self, cycle: DirectCycle, target: bytes, headers: Headers, codings: Sequence[bytes] | None
    ) -> None:
        """``codings``: of the body, where the head was looked at before."""
        assert self._direct is not None  # noqa: S101
        request_id, reply = await self._direct.answer(target, headers, cycle.body, self._address, codings)
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected or self.transport.is_closing():
            return
        shared = REPLY_HEADS.lines(reply.status, reply.headers, self.server_state.default_headers)
        last = b"" if cycle.keep_alive else b"connection: close\r\n"
        own = (shared, last, len(reply.body), request_id.encode())
        cycle.response_started = cycle.response_complete = True
        self._write((b"%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n" % own, reply.body))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As Uvicorn's own does, but for the timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._unset_keepalive_if_required()
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Be closed once no request has come for long."""
        self._quiet.set(self.timeout_keep_alive)
        self.timeout_keep_alive_task = self._quiet  # type: ignore[assignment]

    def _address(self, headers: Headers) -> str:
        return client_address(self.client, headers, self._trusted())

    def _should_upgrade(self) -> bool:
        """Uvicorn's parser callbacks then leave such a request alone; see _read_past_offer."""
        return True

    def _ask_newer_clients_only(self) -> None:
        """A client of HTTP/1.0 does not know `100 Continue`, whatever it expects (RFC 9110, 10.1.1)."""
        if self.scope["http_version"] == "1.0":
            self.cycle.waiting_for_100_continue = False

    def _read_past_offer(self, data: bytes, place: int) -> None:
        """Read a request as if it had offered nothing (RFC 9110, 7.8): the parser has stopped after its head."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.door.note(Reason.NOT_HTTP)
            self._refuse(TunnelRefused("This is no proxy."))
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as Uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
        self._head_bytes = 0
        self._ask_newer_clients_only()
        if place < len(data):
            self.data_received(data[place:])

    # To the door.

    def stage(self) -> tuple[Stage, object]:
        cycle: RequestResponseCycle | None = self.cycle
        scope: object = self.scope
        is_answered = cycle is None or cycle.response_complete or cycle.disconnected
        if self.transport.get_write_buffer_size():
            return Stage.UNREAD, cycle
        if self._is_ending and is_answered:
            return self._farewell, self
        if scope is None:
            return Stage.SILENT, None
        if cycle is None or cycle.scope is not scope:
            return (Stage.HEAD if is_answered else Stage.ANSWER), scope
        if is_answered:
            return (Stage.REST if self.timeout_keep_alive_task is None else Stage.IDLE), scope
        # What the service does not read, the client need not have sent.
        return (Stage.BODY if cycle.more_body and not self.flow.read_paused else Stage.ANSWER), scope

    def has_unread(self) -> bool:
        return has_arrivals(self.transport.get_extra_info("socket").fileno())

    def turn_out(self, stage: Stage) -> None:
        if stage in (Stage.HEAD, Stage.BODY):
            what = "head" if stage is Stage.HEAD else "body"
            self._refuse(RequestTimeout(f"The request's {what} has not come in time."))
        elif stage in (Stage.SILENT, Stage.IDLE):
            self.transport.close()
        else:
            self.transport.abort()

    def close_after_body(self) -> None:
        """Say that nothing more comes, and read and forget what does, for as long as a body may take."""
        self._is_ending = True
        self._farewell = Stage.REST
        self._send_end()

    def _send_end(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # Refusals.

    def _head_grows(self, size: int) -> None:
        self._head_bytes += size
        most = self.door.bounds.head_bytes
        headers = self.headers or ()
        if self._head_bytes <= most and len(headers) <= MOST_HEADERS:
            return
        self.door.note(Reason.HEAD_LARGE)
        if headers:
            limits = f"{most} bytes and {MOST_HEADERS} headers"
            self._refuse(HeadersTooLarge(f"The request's head may have at most {limits}."))
        else:
            self._refuse(UriTooLong(f"The address with its query may have at most {most} bytes."))

    def _refuse_nonsense(self, data: bytes) -> None:
        self.door.note(Reason.NOT_HTTP)
        if data.startswith(HTTP2_PREFACE):
            self._refuse(VersionNotSupported("This is HTTP/1.1: offer HTTP/2 to the proxy in front."))
        else:
            self._refuse(BadRequest("This is no valid HTTP/1.1 request."))

    def _refuse(self, error: ServiceError) -> None:
        """Answer in the application's place, and close the connection when its client has read that."""
        self._is_ending = True
        self._held = b""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.scope is not self.scope or not cycle.more_body:
                cycle.keep_alive = False  # the answer to the request before is under way, and ends the connection
                return
            # It waits for the rest of its body: for the application, its client has gone.
            self._miss_body()
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        body = error_body(error)
        lines = [
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"x-request-id: " + os.urandom(16).hex().encode(),
            b"connection: close",
        ]
        lines += [b"%s: %s" % header for header in self.server_state.default_headers]
        if error.retry_after_seconds is not None:
            lines.append(b"retry-after: %d" % error.retry_after_seconds)
        self.transport.write(STATUS_LINE[error.status] + b"\r\n".join([*lines, b"", body]))
        self._send_end()


def serve_behind_door() -> None:
    """Give the Uvicorn that is importing the application this protocol, unless it was told which one to take.

    `uvicorn api.server:app` has chosen its protocol before it imports the application, and offers it no say. Its
    configuration is on the stack then, and asked for the protocol's class at each connection.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        config = frame.f_locals.get("self")
        if isinstance(config, Config) and config.http in ("auto", "httptools"):
            config.http = config.http_protocol_class = DoorProtocol
        frame = frame.f_back
