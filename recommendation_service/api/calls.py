"""A call of one of the endpoints of which there are thousands a second, feeds and feedback: the request whole, and what
is replied. How it came and how it leaves, `hot.py` knows."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from starlette.types import Send

from recommendation_service.serving.worker import Worker

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case

JSON = ((b"content-type", b"application/json"),)


Address = Callable[[Headers], str]  # of the client whose request has these, behind proxies that are trusted


class Call(msgspec.Struct, frozen=True, gc=False):
    headers: Headers
    body: bytes  # out of its codings
    key: str  # the API key, or nothing where none is needed
    request_id: str
    worker: Worker
    address_by: Address

    def address(self) -> str:
        """The client's; looked for only where it is asked for."""
        return self.address_by(self.headers)


class Reply(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON  # beside the body's length and the request's id
    error_code: str = ""


class Endpoint(Protocol):
    def answer(self, call: Call) -> Awaitable[Reply]:
        """Raises ServiceError, at once or awaited."""


async def send_reply(send: Send, reply: Reply) -> None:
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
