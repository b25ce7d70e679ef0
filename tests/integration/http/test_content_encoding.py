"""Bodies in a content coding: decoded within the limit of size, or refused by name; and other odd wrappings."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable

import httpx
import pytest

from tests.support.http_contract import IDS_FIELDS, MEBIBYTE, error_of

EVENT = {"event": "view", "user_id": 0, "item_type": "resume", "item_id": 1, "event_id": "coded"}
FEED = {"N_VIDEOS": 7}
CALLS = {"/api/search/total": (FEED, 200), "/api/search/flow": (FEED, 200), "/api/feedback": ([EVENT], 202)}


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def members(content: bytes) -> bytes:
    """One gzip file of a member for each byte, as programs make it that append."""
    return b"".join(gzip.compress(content[place : place + 1]) for place in range(len(content)))


CODED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "identity , gzip": gzip.compress,
    "gzip, identity": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "identity": bytes,
    "": bytes,
    "gzip,": members,
    "gzip, gzip": lambda content: gzip.compress(gzip.compress(content)),
    "deflate, gzip": lambda content: gzip.compress(zlib.compress(content)),
}


def send(client: httpx.Client, path: str, content: bytes, coding: str) -> httpx.Response:
    return client.post(path, content=content, headers={"Content-Encoding": coding, "Content-Type": "application/json"})


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("path", CALLS)
def test_a_coded_body_is_read(client: httpx.Client, path: str, coding: str) -> None:
    fields, status = CALLS[path]
    answer = send(client, path, CODED[coding](json.dumps(fields).encode()), coding)
    assert answer.status_code == status, answer.text
    body = answer.json()["body"]
    assert body["accepted"] == 1 if path.endswith("feedback") else len(body["items"]) == 7


def test_several_headers_are_one_list(client: httpx.Client) -> None:
    content = gzip.compress(zlib.compress(json.dumps(FEED).encode()))
    answer = client.post(
        "/api/search/total", content=content, headers=[("content-encoding", "deflate"), ("content-encoding", "gzip")]
    )
    assert answer.status_code == 200, answer.text


def test_a_coded_body_may_come_in_chunks(client: httpx.Client) -> None:
    content = gzip.compress(json.dumps(FEED).encode())
    answer = client.post(
        "/api/search/total",
        content=iter([content[place : place + 1] for place in range(len(content))]),
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "aes128gcm", "x" * 1000, "gzip;q=1", "\xe9"])
@pytest.mark.parametrize("path", CALLS)
def test_415_names_a_coding_that_is_not_known(client: httpx.Client, path: str, coding: str) -> None:
    answer = client.post(path, content=b"{}", headers=[(b"content-encoding", coding.encode("latin-1"))])
    error = error_of(answer, 415, "unsupported_media_type")
    assert coding.rpartition(", ")[2][:30] in error["message"]
    assert "gzip" in error["message"]
    assert len(error["message"]) < 200
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_415_for_codings_without_end(client: httpx.Client) -> None:
    content = b"{}"
    for _ in range(3):
        content = gzip.compress(content)
    error_of(send(client, "/api/search/total", content, "gzip, gzip, gzip"), 415, "unsupported_media_type")


WHOLE = gzip.compress(json.dumps([EVENT]).encode())
NO_CODE = {
    "nothing": (b"", "gzip"),
    "text": (json.dumps(FEED).encode(), "gzip"),
    "half": (WHOLE[: len(WHOLE) // 2], "gzip"),
    "without its end": (WHOLE[:-1], "gzip"),
    "head alone": (WHOLE[:10], "gzip"),
    "wrong checksum": (WHOLE[:-8] + b"\0\0\0\0" + WHOLE[-4:], "gzip"),
    "wrong length": (WHOLE[:-1] + b"\1", "gzip"),
    "changed": (WHOLE[:14] + b"\xff" + WHOLE[15:], "gzip"),
    "something after it": (WHOLE + b"more", "gzip"),
    "half a second one": (WHOLE + WHOLE[:12], "gzip"),
    "zlib": (zlib.compress(b"{}"), "gzip"),
    "gzip in deflate": (WHOLE, "deflate"),
    "something after deflate": (zlib.compress(b"{}") + b"more", "deflate"),
    "half in half": (gzip.compress(WHOLE[:-3]), "gzip, gzip"),
}


@pytest.mark.parametrize(("content", "coding"), NO_CODE.values(), ids=NO_CODE)
@pytest.mark.parametrize("path", ["/api/search/total", "/api/feedback"])
def test_400_for_what_is_not_of_its_coding(client: httpx.Client, path: str, content: bytes, coding: str) -> None:
    error = error_of(send(client, path, content, coding), 400, "not_decodable")
    assert coding.rpartition(" ")[2] in error["message"]


def test_400_not_json_for_what_is_decoded_and_no_json(client: httpx.Client) -> None:
    error_of(send(client, "/api/search/total", gzip.compress(b"SELF_ID=1"), "gzip"), 400, "not_json")
    error_of(send(client, "/api/search/total", gzip.compress(b""), "gzip"), 400, "not_json")


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_the_limit_of_size_is_that_of_the_decoded_body(client: httpx.Client, endpoint: str) -> None:
    path = f"/api/search/{endpoint}"
    fits = b'{"other":"' + b"x" * (MEBIBYTE - 12) + b'"}'
    assert len(fits) == MEBIBYTE
    assert send(client, path, gzip.compress(fits), "gzip").status_code == 200
    error_of(send(client, path, gzip.compress(fits + b" "), "gzip"), 413, "body_too_large")
    error_of(send(client, path, b"\0" * (MEBIBYTE + 1), "gzip"), 413, "body_too_large")
    error_of(send(client, path, b"".join(map(gzip.compress, (fits, b" "))), "gzip"), 413, "body_too_large")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, gzip"])
def test_a_bomb_goes_off_nowhere(client: httpx.Client, coding: str) -> None:
    """500 MB in half a megabyte, or in 2 kB: nothing of it is made beyond the limit."""
    packer = zlib.compressobj(9, wbits=15 if coding == "deflate" else 31)
    zeros = bytes(MEBIBYTE)
    bomb = b"".join(packer.compress(zeros) for _ in range(500)) + packer.flush()
    if coding == "gzip, gzip":
        bomb = gzip.compress(bomb, 9)
    assert len(bomb) < MEBIBYTE
    tracemalloc.start()
    try:
        error_of(send(client, "/api/feedback", bomb, coding), 413, "body_too_large")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * MEBIBYTE


def test_a_gzip_of_ten_thousands_of_empty_members_is_refused_before_it_costs_anything(client: httpx.Client) -> None:
    empty = gzip.compress(b"")
    started = time.process_time()
    error = error_of(send(client, "/api/feedback", empty * (MEBIBYTE // len(empty)), "gzip"), 400, "not_decodable")
    assert "goes on" in error["message"]
    assert time.process_time() - started < 1, "of processor time, which no other process adds to"


@pytest.mark.parametrize("path", CALLS)
def test_a_byte_order_mark_before_the_json_is_passed_over(client: httpx.Client, path: str) -> None:
    fields, status = CALLS[path]
    for content in (json.dumps(fields), json.dumps(fields, indent=2).replace("\n", "\r\n")):
        answer = client.post(path, content=b"\xef\xbb\xbf" + content.encode())
        assert answer.status_code == status, answer.text
    assert send(client, path, gzip.compress(b"\xef\xbb\xbf" + content.encode()), "gzip").status_code == status
    error_of(client.post(path, content=b"\xef\xbb\xbf\xef\xbb\xbf" + content.encode()), 400, "not_json")
