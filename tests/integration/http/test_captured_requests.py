"""Requests as clients of today put them on the wire: heads were recorded from the programs of tests/clients.

curl 7.88.1, Java 17.0.15, requests 2.34.2, Node 20.20.2, PHP 8.2.36, Go 1.19.8; host and length are the test's own.
What differs: offers of HTTP/2, the case and order of names, `100-Continue`, chunks where the length is not known, 1.0.
"""

import httpx
import pytest

from tests.integration.http.test_wire import FIELDS, connected, feed_of

CURL = "POST {path} HTTP/1.1|Host: {host}|User-Agent: curl/7.88.1|Accept: */*|"
CURL_OFFER = "Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA|"
JAVA = "POST {path} HTTP/1.1|Connection: Upgrade, HTTP2-Settings|"
JAVA_OFFER = "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA|"
JAVA_END = "Upgrade: h2c|User-Agent: Java-http-client/17.0.15|Content-Type: application/json"
REQUESTS = (
    "POST {path} HTTP/1.1|Host: {host}|User-Agent: python-requests/2.34.2|Accept-Encoding: gzip, deflate|Accept: */*|"
    "Connection: keep-alive|Content-Type: application/json|"
)
NODE = (
    "POST {path} HTTP/1.1|host: {host}|connection: keep-alive|Content-Type: application/json|accept: */*|"
    "accept-language: *|sec-fetch-mode: cors|user-agent: node|accept-encoding: gzip, deflate|"
)
PHP_CURL = "POST {path} HTTP/1.1|Host: {host}|Accept: */*|Content-Type: application/json|"
GO = "POST {path} HTTP/1.1|Host: {host}|User-Agent: Go-http-client/1.1|"

RECORDED = {
    "curl --http2": CURL + CURL_OFFER + "Content-Type: application/json|Content-Length: {length}",
    "curl --http2, of unknown length": CURL + "Transfer-Encoding: chunked|" + CURL_OFFER
    + "Content-Type: application/json|Expect: 100-continue",
    "Java": JAVA + "Content-Length: {length}|Host: {host}|" + JAVA_OFFER + JAVA_END,
    "Java, of unknown length": JAVA + "Host: {host}|" + JAVA_OFFER + "Transfer-encoding: chunked|" + JAVA_END,
    "Java, asking first": JAVA + "Content-Length: {length}|Expect: 100-Continue|Host: {host}|" + JAVA_OFFER + JAVA_END,
    "requests": REQUESTS + "Content-Length: {length}",
    "requests, of unknown length": REQUESTS + "Transfer-Encoding: chunked",
    "Node": NODE + "content-length: {length}",
    "Node, of unknown length": NODE + "transfer-encoding: chunked",
    "PHP curl": PHP_CURL + "Content-Length: {length}",
    "PHP curl, of unknown length": PHP_CURL + "Transfer-Encoding: chunked|Expect: 100-continue",
    "PHP streams": "POST {path} HTTP/1.0|Host: {host}|Connection: close|Content-Length: {length}|"
    "Content-Type: application/json",
    "PHP streams, HTTP/1.1": "POST {path} HTTP/1.1|Host: {host}|Connection: close|Content-Length: {length}|"
    "Content-Type: application/json",
    "Go": GO + "Content-Length: {length}|Content-Type: application/json|Accept-Encoding: gzip",
    "Go, of unknown length": GO + "Transfer-Encoding: chunked|Content-Type: application/json|Accept-Encoding: gzip",
    "Go, asking first": GO + "Content-Length: {length}|Content-Type: application/json|Expect: 100-continue|"
    "Accept-Encoding: gzip",
}  # fmt: skip


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED.keys())
def test_a_recorded_request_gets_its_feed(client: httpx.Client, recorded: str) -> None:
    host = client.base_url.netloc.decode()
    head = recorded.format(path="/api/search/total", host=host, length=len(FIELDS)).replace("|", "\r\n").encode()
    pieces = [FIELDS[start : start + 6] for start in range(0, len(FIELDS), 6)]
    is_chunked = b"chunked" in head
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" if is_chunked else FIELDS
    closes = b"Connection: close" in head
    with connected(client) as connection:
        for _ in range(1 if closes else 2):  # what is kept alive is used again
            connection.send(head + b"\r\n\r\n")
            if b"Expect" in head:
                assert connection.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.send(body)
            feed_of(connection.answer())
        if closes:
            assert connection.read(1) == b""
