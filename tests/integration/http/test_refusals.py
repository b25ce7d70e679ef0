"""What is refused, what fails on our side, and what no well-behaved client sends."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from recommendation_service.api import accounts
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import sum_of_samples
from tests.support.http_contract import IDS_FIELDS, MEBIBYTE, ask, error_of

# What is refused: bodies.


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
@pytest.mark.parametrize("content", [b"", b"{", b"SELF_ID=5", b"\xff", b"[" * 100_000, b'{"SELF_ID":' * 50_000])
def test_400_for_a_body_that_is_not_json(client: httpx.Client, endpoint: str, content: bytes) -> None:
    answer = client.post(f"/api/search/{endpoint}", content=content, headers={"content-type": "application/json"})
    error_of(answer, 400, "not_json")


def test_deep_nesting_in_an_unknown_field_is_no_failure_of_the_service(client: httpx.Client) -> None:
    answer = client.post("/api/search/total", content=b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    assert answer.status_code in {200, 400}, answer.text


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_422_names_every_wrong_field_at_once(client: httpx.Client, endpoint: str) -> None:
    wrong = {"SELF_ID": "abc", "N_VIDEOS": 101, "LAST_IDS": [1, "x"], "session_id": "x" * 129, "explain": "yes"}
    error = error_of(client.post(f"/api/search/{endpoint}", json={**wrong, "other": {}}), 422, "invalid_request")
    assert {detail["field"] for detail in error["details"]} == set(wrong)


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"7", b"null", b'[{"SELF_ID": 1}]'])
def test_422_for_json_that_is_no_object(client: httpx.Client, content: bytes) -> None:
    error_of(client.post("/api/search/total", content=content), 422, "invalid_request")


def test_422_for_more_than_10000_excluded(client: httpx.Client) -> None:
    ids = list(range(1_000_000, 1_010_000))
    assert len(ask(client, EXCLUDED_IDS=ids)["items"]) == 24
    answer = client.post("/api/search/total", json={"EXCLUDED_IDS": [*ids, 1]})
    assert error_of(answer, 422, "invalid_request")["details"][0]["field"] == "EXCLUDED_IDS"


def body_of(size: int) -> bytes:
    """JSON of exactly so many bytes."""
    return b'{"other":"' + b"x" * (size - 12) + b'"}'


def test_a_body_of_one_mebibyte_is_read(client: httpx.Client) -> None:
    assert client.post("/api/search/total", content=body_of(MEBIBYTE)).status_code == 200
    assert client.post("/api/search/total", content=iter([body_of(MEBIBYTE)])).status_code == 200


def test_413_for_a_body_that_says_it_is_larger(client: httpx.Client) -> None:
    error_of(client.post("/api/search/total", content=body_of(MEBIBYTE + 1)), 413, "body_too_large")


def test_413_for_a_body_that_turns_out_to_be_larger(client: httpx.Client) -> None:
    whole = body_of(MEBIBYTE + 1)
    parts = [whole[start : start + 65536] for start in range(0, len(whole), 65536)]
    error_of(client.post("/api/search/total", content=iter(parts)), 413, "body_too_large")


def test_413_comes_before_the_rest_of_a_large_body_is_sent(client: httpx.Client) -> None:
    """A client that announces a gigabyte, and waits with it, is answered at once."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
        connection.sendall(
            b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1073741824\r\n\r\n{"
        )
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            assert answer.status == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
def test_415_for_a_body_that_says_it_is_not_json(client: httpx.Client, kind: str) -> None:
    answer = client.post("/api/search/total", content=b"{}", headers={"content-type": kind})
    error_of(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", None],
)
def test_json_under_any_of_its_names_is_read(client: httpx.Client, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert client.post("/api/search/total", content=b"{}", headers=headers).status_code == 200


# What is refused: addresses and methods.


@pytest.mark.parametrize(
    "path", ["/nope", "/api", "/api/search", "/api/search/nope", "/search/total", "/api/search/x/y"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_404_where_there_is_nothing(client: httpx.Client, method: str, path: str) -> None:
    error_of(client.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(f"/api/search/{endpoint}", "POST") for endpoint in (*IDS_FIELDS, "reload")]
    + [("/api/feedback", "POST")]
    + [(path, "GET") for path in ("/", "/health", "/ready", "/metrics")],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_405_names_the_method_that_is_allowed(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    if method == allowed:
        return
    answer = client.request(method, path)
    error_of(answer, 405, "method_not_allowed")
    assert allowed in re.split(r",\s*", answer.headers["allow"])


def test_every_answer_bears_the_id_of_its_request(client: httpx.Client) -> None:
    answers = [
        client.get("/health"),
        client.get("/nope"),
        client.get("/api/search/total"),
        client.post("/api/search/total", content=b"{"),
        client.post("/api/search/total", json={"N_VIDEOS": 0}),
        client.post("/api/search/reload"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)


# What fails on our side.


class Logged:
    """What is logged of requests, in a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = structlog.testing.LogCapture()
        monkeypatch.setattr(accounts, "log", structlog.wrap_logger(None, processors=[self._capture]))

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self._capture.entries]


def failing_app(data_dir: Path) -> FastAPI:
    """With routes that fail on purpose, in ways a route of ours could."""
    app = make_app(data_dir)

    async def fail() -> None:
        raise RuntimeError("secret-of-the-inside")

    app.add_api_route("/fail", fail)
    return app


@pytest.mark.usefixtures("make_client")  # it leaves the logs as they were
def test_a_failure_of_the_service_is_a_500_in_the_contracts_form_and_is_logged(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = Logged(monkeypatch)
    with served(failing_app(data_dir)) as client:
        answer = client.get("/fail")
        error = error_of(answer, 500, "internal_error")
        assert "secret-of-the-inside" not in answer.text
        assert answer.headers["x-request-id"] in error["message"]
        failures = [entry for entry in logged.entries if entry["log_level"] == "error"]
        assert [entry["request_id"] for entry in failures] == [answer.headers["x-request-id"]]
        assert failures[0]["exc_info"]
        assert sum_of_samples(client.get("/metrics").text, "recs_requests_total", status="500") == 1
        assert len(ask(client)["items"]) == 24, "the next request is served"


@pytest.mark.usefixtures("make_client")
def test_a_feed_that_fails_is_a_500_in_the_contracts_form(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = Logged(monkeypatch)
    app = make_app(data_dir)
    with served(app) as client:
        pipeline = asyncio.run(app.state.serving.ready_pipeline())

        def fail(_request: object) -> bytes:
            raise ZeroDivisionError("secret-of-the-inside")

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "render", fail)
            answer = client.post("/api/search/total", json={})
        error_of(answer, 500, "internal_error")
        assert "secret-of-the-inside" not in answer.text
        assert any(entry.get("request_id") == answer.headers["x-request-id"] for entry in logged.entries)
        assert len(ask(client)["items"]) == 24


@pytest.mark.usefixtures("make_client")
def test_feeds_and_feedback_do_not_pass_the_router(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which finds them as well, only later: without the short cut everything else would pass."""
    app = make_app(data_dir)

    async def fail(*_: object) -> None:
        raise RuntimeError("the router")

    with served(app) as client, monkeypatch.context() as patch:
        patch.setattr(app.router, "middleware_stack", fail)
        for endpoint in ("total", "discover", "flow"):
            ask(client, endpoint)
        assert client.post("/api/feedback", json=[]).status_code == 422
        error_of(client.get("/health"), 500, "internal_error")


# Bytes that no well-behaved client sends.


@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=["length-of-letters", "negative-length", "two-lengths", "bad-chunk", "nonsense", "version"],
)
def test_a_malformed_request_is_never_a_failure_of_the_service(client: httpx.Client, head: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert not answer.startswith(b"HTTP/1.1 5"), answer
    assert b"Traceback" not in answer
    assert client.get("/health").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody(client: httpx.Client) -> None:
    failed = sum_of_samples(client.get("/metrics").text, "recs_requests_total", status="500")
    for _ in range(5):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
            connection.sendall(b"POST /api/search/total HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert len(ask(client)["items"]) == 24
    assert sum_of_samples(client.get("/metrics").text, "recs_requests_total", status="500") == failed
