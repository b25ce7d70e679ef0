"""Bodies of requests as bytes of JSON: of a bounded size, and out of the coding that they came in."""

import zlib
from collections.abc import Iterator, Sequence

from starlette.types import Receive

from recommendation_service.api.calls import Headers
from recommendation_service.core.errors import (
    BodyIncomplete,
    BodyTooLarge,
    NotDecodable,
    UnsupportedCoding,
    UnsupportedMediaType,
)

LARGEST_BODY_BYTES = 1 << 20  # as it arrives, and decoded

# By the names of RFC 9110 (8.4.1); what it says of x-gzip holds for clients of the last century.
_CODINGS = {b"gzip": b"gzip", b"x-gzip": b"gzip", b"deflate": b"deflate", b"identity": b""}
_MOST_CODINGS = 2  # of one body, one in the other
_MOST_MEMBERS = 1000  # of one gzip body: each costs microseconds, however little it holds
_PIECE_BYTES = 1 << 13  # what follows a member is copied, so little is fed at a time
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def check_head(headers: Headers) -> Sequence[bytes]:
    """The codings of the body, in the order in which they were applied. One look at the headers for all that they say
    of it; a body that says nothing is JSON as it is.

    Raises UnsupportedMediaType for something else than JSON, UnsupportedCoding, BodyTooLarge.
    """
    codings: Sequence[bytes] = ()
    for name, value in headers:
        if name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
                raise UnsupportedMediaType("Send Content-Type: application/json.")
        elif name == b"content-length":
            if value.isdigit() and int(value[:18]) > LARGEST_BODY_BYTES:
                raise _too_large()
        elif name == b"content-encoding":
            codings = [*codings, *_codings(value)]
    if len(codings) > _MOST_CODINGS:
        raise _unsupported(f"The body has {len(codings)} codings, one in the other")
    return codings


async def read_body(receive: Receive) -> bytes:
    """The whole body as it arrives, refused as soon as it is known to be too large. Raises BodyTooLarge."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _incomplete()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        body = await _whole(body, receive)
    if len(body) > LARGEST_BODY_BYTES:
        raise _too_large()
    return body


def decoded(body: bytes, codings: Sequence[bytes]) -> bytes:
    """The body out of its codings. Raises BodyTooLarge, or NotDecodable for what is not of its coding."""
    if codings:
        for coding in reversed(codings):
            body = _decoded(body, coding)
    return body[3:] if body.startswith(_BYTE_ORDER_MARK) else body  # some clients' libraries begin every text with one


async def _whole(beginning: bytes, receive: Receive) -> bytes:
    chunks, size, more = [beginning], len(beginning), True
    while more and size <= LARGEST_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _incomplete()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    return b"".join(chunks)


def _codings(header: bytes) -> list[bytes]:
    """Of a Content-Encoding header, in the order in which they were applied."""
    codings = []
    for name in header.split(b","):
        coding = _CODINGS.get(name.strip().lower(), None if name.strip() else b"")
        if coding is None:
            raise _unsupported(f"Content-Encoding {_shown(name)} is not read here")
        if coding:
            codings.append(coding)
    return codings


def _decoded(body: bytes, coding: bytes) -> bytes:
    """At most LARGEST_BODY_BYTES, and not a byte more is made before it is refused."""
    decoder, bits = _decoder(body, coding)
    parts: list[bytes] = []
    size, members = 0, 1
    try:
        for piece in _pieces(body):
            left = piece
            while left:
                if decoder.eof:  # another member, of those that make up one gzip file
                    members += 1
                    if coding != b"gzip" or members > _MOST_MEMBERS:
                        raise NotDecodable(f"The body goes on after the end of its {coding.decode()}.")
                    decoder = zlib.decompressobj(bits)
                parts.append(decoder.decompress(left, LARGEST_BODY_BYTES + 1 - size))
                size += len(parts[-1])
                if size > LARGEST_BODY_BYTES:
                    raise _too_large(", decoded too")
                left = decoder.unused_data
    except zlib.error as error:
        reason = str(error).rpartition(": ")[2]
        raise NotDecodable(f"The body is not {coding.decode()}, as its Content-Encoding says: {reason}.") from None
    if not decoder.eof:
        raise NotDecodable(f"The body ends before its {coding.decode()} does.")
    return b"".join(parts)


def _decoder(body: bytes, coding: bytes) -> "tuple[zlib._Decompress, int]":
    bits = _GZIP
    if coding == b"deflate":
        # Zlib's format by its definition, without zlib's head by the custom of some: RFC 9110, 8.4.1.2.
        has_head = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
        bits = _ZLIB if has_head else _RAW
    return zlib.decompressobj(bits), bits


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


def _incomplete() -> BodyIncomplete:
    return BodyIncomplete("The connection ended before the body did.")


def _too_large(when: str = "") -> BodyTooLarge:
    return BodyTooLarge(f"The body may have at most {LARGEST_BODY_BYTES} bytes{when}.")


def _unsupported(problem: str) -> UnsupportedCoding:
    return UnsupportedCoding(f"{problem}: send gzip, deflate, or the body as it is.")


def _shown(name: bytes) -> str:
    text = name.strip().decode("latin-1")
    return repr(text if len(text) <= 40 else f"{text[:37]}…")
