"""What clients may put on the wire, byte by byte. What known clients were seen to send is in test_captured_requests.py.

`make test-clients` runs the clients themselves (tests/clients).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx
import pytest

from tests.end_to_end.service import PATIENCE_SECONDS, sum_of_samples
from tests.servers import wait_until

FEED = b"/api/search/total"
FIELDS = b'{"N_VIDEOS": 3}'
OFFERS = {
    "curl --http2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "Java's HttpClient": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
    b"Upgrade: h2c\r\n",
    "a browser's WebSocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "an unknown protocol": b"Connection: upgrade\r\nUpgrade: IRC/6.9, RTA/x11\r\n",
    "two lines": b"Connection: keep-alive\r\nconnection: upgrade\r\nupgrade: TLS/1.0\r\nupgrade: h2c\r\n",
}


@contextmanager
def connected(client: httpx.Client) -> Iterator[Wire]:
    with (
        socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection,
        # As long as it is open, so is the connection.
        connection.makefile("rb") as answers,
    ):
        yield Wire(connection, answers)


class Wire:
    """A client's side of a connection."""

    def __init__(self, connection: socket.socket, answers: IO[bytes]) -> None:
        self.socket = connection
        self._file = answers

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def read(self, size: int) -> bytes:
        """Fewer only where the connection ends."""
        return self._file.read(size)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next one: status, headers in small letters, body."""
        status = int(self._file.readline().split()[1])
        lines = [line.decode() for line in iter(self._file.readline, b"\r\n")]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return status, headers, self.read(int(headers["content-length"]))


def feed_of(answer: tuple[int, dict[str, str], bytes], items: int = 3) -> None:
    status, _, body = answer
    assert status == 200, body
    assert len(json.loads(body)["body"]["items"]) == items


def request(headers: bytes = b"", body: bytes = FIELDS, path: bytes = FEED, version: bytes = b"1.1") -> bytes:
    head = b"POST %s HTTP/%s\r\nHost: x\r\nContent-Type: application/json\r\n" % (path, version)
    return head + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(headers: bytes = b"", *chunks: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" % FEED
    return head + headers + b"\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in chunks) + b"0\r\n\r\n"


# Offers of another protocol are ignored (RFC 9110, 7.8).


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS.keys())
def test_an_offer_to_change_the_protocol_costs_no_body(client: httpx.Client, offer: bytes) -> None:
    with connected(client) as connection:
        for _ in range(2):  # and the connection stays
            connection.send(request(offer))
            feed_of(connection.answer())
            connection.send(chunked(offer, FIELDS[:5], FIELDS[5:]))
            feed_of(connection.answer())
        connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n")
        assert connection.answer()[0] == 200


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_request_with_an_offer_may_come_in_any_number_of_packets(client: httpx.Client, size: int) -> None:
    whole = request(OFFERS["curl --http2"])
    with connected(client) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(whole), size):
            connection.send(whole[start : start + size])
        feed_of(connection.answer())


def test_requests_behind_one_with_an_offer_are_answered_in_their_order(client: httpx.Client) -> None:
    offer = OFFERS["curl --http2"]
    with connected(client) as connection:
        connection.send(
            request(offer) + b"GET /health HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n"
            + request(offer, b'{"N_VIDEOS": 2}') + chunked(offer, FIELDS)
        )  # fmt: skip
        feed_of(connection.answer())
        assert json.loads(connection.answer()[2])["status"] == "alive"
        feed_of(connection.answer(), 2)
        feed_of(connection.answer())


def test_a_large_body_behind_an_offer_is_whole(client: httpx.Client) -> None:
    body = b'{"N_VIDEOS": 3, "other": "' + b"x" * 900_000 + b'"}'
    with connected(client) as connection:
        connection.send(request(OFFERS["Java's HttpClient"], body))
        feed_of(connection.answer())


def test_a_tunnel_is_refused(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.send(b"CONNECT internal:80 HTTP/1.1\r\nHost: internal:80\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        refused(connection, 501, "not_implemented")


def test_http2_without_an_offer_is_told_what_this_is(client: httpx.Client) -> None:
    """curl --http2-prior-knowledge."""
    with connected(client) as connection:
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64")
        refused(connection, 505, "http_version_not_supported")


def refused(connection: Wire, status: int, code: str) -> None:
    """In the contract's form, and then the connection ends."""
    given, headers, body = connection.answer()
    assert (given, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert headers["date"]
    assert connection.read(1) == b""


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELO x\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
def test_what_is_not_http_is_refused_in_the_contracts_form(client: httpx.Client, sent: bytes) -> None:
    with connected(client) as connection:
        connection.send(sent)
        refused(connection, 400, "bad_request")


def test_nonsense_behind_a_request_does_not_cost_its_answer(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.send(request() + b"nonsense\r\n\r\n")
        feed_of(connection.answer())
        assert connection.read(1) == b""


# Older clients, and those that ask before they send.


def test_a_client_of_http_1_0_gets_its_answer_and_the_end(client: httpx.Client) -> None:
    """PHP's streams: HTTP/1.0 unless told otherwise, with Connection: close."""
    with connected(client) as connection:
        connection.send(request(b"Connection: close\r\n", version=b"1.0"))
        feed_of(connection.answer())
        assert connection.read(1) == b""


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(client: httpx.Client) -> None:
    """PHP's curl and the command line's, with a body of more than a mebibyte; .NET always."""
    with connected(client) as connection:
        whole = request(b"Expect: 100-continue\r\n")
        connection.send(whole[: -len(FIELDS)])
        assert connection.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(FIELDS)
        feed_of(connection.answer())


def test_an_offer_beside_the_question_changes_nothing(client: httpx.Client) -> None:
    with connected(client) as connection:
        whole = request(b"Expect: 100-continue\r\n" + OFFERS["curl --http2"])
        connection.send(whole[: -len(FIELDS)])
        assert connection.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(FIELDS)
        feed_of(connection.answer())


def test_a_client_of_http_1_0_is_not_told_to_go_on(client: httpx.Client) -> None:
    """It would take that for the answer (RFC 9110, 10.1.1)."""
    with connected(client) as connection:
        connection.send(request(b"Expect: 100-continue\r\n", version=b"1.0"))
        feed_of(connection.answer())


# What a client sends ahead.


def test_hundreds_of_requests_sent_at_once_are_answered_in_their_order(client: httpx.Client) -> None:
    with connected(client) as connection:
        sizes = [1 + number % 3 for number in range(300)]
        whole = b"".join(request(body=b'{"N_VIDEOS": %d}' % size) for size in sizes)
        connection.send(whole)
        for size in sizes:
            feed_of(connection.answer(), size)


def test_a_client_that_leaves_within_its_body_has_asked_for_nothing(client: httpx.Client) -> None:
    """What came may be JSON already, and all the same not what it was about to say."""

    def left() -> float:
        return sum_of_samples(client.get("/metrics").text, "recs_errors_total", code="body_incomplete")

    before = left()
    for sent in (
        chunked(b"", FIELDS)[: -len(b"0\r\n\r\n")],
        request(body=FIELDS + b" ")[:-1],
        request()[: -len(FIELDS)],
    ):
        with connected(client) as connection:
            connection.send(sent)
    assert wait_until(lambda: left() == before + 3, PATIENCE_SECONDS)
