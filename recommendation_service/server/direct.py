"""What the protocol keeps of a request that it answers itself (docs/decisions/0039), and how it is run."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from recommendation_service.api.calls import Headers


def client_address(client: tuple[str, int] | None, headers: Headers, trusted: Any) -> str:
    """Of a request's client, as Uvicorn's layer puts it into a scope. ``trusted``: that layer's proxies."""
    if client is None:
        return "unknown"
    if client[0] in trusted:
        forwarded = b", ".join([value for name, value in headers if name == b"x-forwarded-for"])
        if forwarded:
            host: str = trusted.get_trusted_client_address(forwarded.decode("latin1"))[0]
            return host or client[0]
    return client[0]


class _Unheard:
    """An event for which nobody waits."""

    def set(self) -> None:
        pass


class Head(msgspec.Struct, frozen=True):
    target: bytes
    headers: Headers
    codings: Sequence[bytes]  # of the body
    body_bytes: int


class KnownHeads:
    """Heads of calls that were read lately, one worker's: a client that stays sends the same bytes each time, and what
    they say was read from them before. Those of clients that send something new with each call, as an id for tracing,
    are not met again, and make room.
    """

    END = b"\r\n\r\n"
    MOST = 256
    MOST_BYTES = 1024  # of a head

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}  # by their bytes, without the end

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head of the one request that ``data`` is, and its body; None: it is another one, or more, or less."""
        lines, end, body = data.partition(self.END)
        head = self._heads.get(lines)
        return (head, body) if head is not None and end and len(body) == head.body_bytes else None

    def note(self, data: bytes, target: bytes, headers: Headers, codings: Sequence[bytes], body: bytes) -> None:
        """``data``: what the parser was given, of which it read one call with this body."""
        lines, _, rest = data.partition(self.END)
        if len(lines) <= self.MOST_BYTES and rest == body:
            if len(self._heads) == self.MOST:
                self._heads.clear()
            self._heads[lines] = Head(target, headers, codings, len(body))


class QuietTimer:
    """Calls once a connection has been quiet for so long.

    To set a timer of the event loop and to take it back takes half a microsecond, of each request. Here one is left in
    the loop when it is cancelled, and looks, when it is due, since when it would have to wait."""

    __slots__ = ("_due", "_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._due: float | None = None  # of the loop's time
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Always as many, or more."""
        self._due = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def cancel(self) -> None:
        self._due = None

    def end(self) -> None:
        """Leave nothing in the loop."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._due = None
            self._expired()


class Stepped:
    """A coroutine that goes at once as far as it comes, and on when what it waits for is there.

    A task does the same, a turn of the event loop later, and is entered in lists of all tasks: a twentieth of a feed.
    What is awaited must not ask which task it is in, as asyncio.timeout does; a task of its own may.
    """

    __slots__ = ("_coroutine", "_loop", "_under_way", "_waits_for")

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], under_way: set[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        """``under_way``: holds it until it has ended, as it holds tasks."""
        self._coroutine = coroutine
        self._under_way = under_way
        self._loop = loop
        self._waits_for: asyncio.Future[Any] | None = None
        under_way.add(self)
        self._step()

    def cancel(self, msg: str | None = None) -> bool:
        """As a task is: False where it has ended."""
        return self._waits_for is not None and self._waits_for.cancel(msg)

    def _step(self, _ready: "asyncio.Future[Any] | None" = None) -> None:
        self._waits_for = None
        try:
            waits_for = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._under_way.discard(self)
        except Exception as error:  # noqa: BLE001 - nobody awaits it: the loop tells of it, as of a task's
            self._under_way.discard(self)
            self._loop.call_exception_handler({"message": "a request failed", "exception": error})
        else:
            if waits_for is None:  # asyncio.sleep(0)
                self._loop.call_soon(self._step)
            else:
                waits_for._asyncio_future_blocking = False
                self._waits_for = waits_for
                waits_for.add_done_callback(self._step)


class DirectCycle(msgspec.Struct, eq=False):
    """A request that is answered without ASGI: as much of Uvicorn's RequestResponseCycle as a connection asks for."""

    scope: object
    body: bytes = b""
    more_body: bool = True
    keep_alive: bool = True
    disconnected: bool = False
    response_started: bool = False
    response_complete: bool = False

    message_event: ClassVar[_Unheard] = _Unheard()


class ReplyHeads:
    """Status lines and headers of replies, joined once a second: the date is one of them."""

    def __init__(self) -> None:
        self._always: Headers = ()
        self._joined: dict[tuple[int, Headers], bytes] = {}

    def lines(self, status: int, headers: Headers, always: Headers) -> bytes:
        """``always``: the server's, another object whenever one of them changes."""
        if always is not self._always:
            self._always, self._joined = always, {}
        key = (status, headers)
        joined = self._joined.get(key)
        if joined is None:
            lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % header for header in (*always, *headers))]
            joined = self._joined[key] = b"".join(lines)
        return joined
