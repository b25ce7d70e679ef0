"""Who may call, from where, and how often."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.in_process import make_app, served
from tests.support.http_contract import IDS_FIELDS, TOKEN, MakeClient, error_of

# Who may call.


def test_with_api_keys_every_call_for_feeds_and_with_feedback_must_bear_one(make_client: MakeClient) -> None:
    guarded = make_client(api_keys=("first-key", "second-key"), admin_token=TOKEN)
    event = {"event": "view", "user_id": 1, "item_type": "resume", "item_id": 1}
    for path, fields, accepted in [
        *((f"/api/search/{endpoint}", {}, 200) for endpoint in IDS_FIELDS),
        ("/api/feedback", event, 202),
    ]:
        missing = guarded.post(path, json=fields)
        error_of(missing, 401, "unauthorized")
        assert missing.headers["www-authenticate"] == "Bearer"
        for headers in ({"Authorization": "Bearer no-key"}, {"X-API-Key": "no-key"}, {"X-API-Key": TOKEN}):
            error_of(guarded.post(path, json=fields, headers=headers), 403, "forbidden")
        for headers in ({"Authorization": "Bearer first-key"}, {"X-API-Key": "second-key"}):
            assert guarded.post(path, json=fields, headers=headers).status_code == accepted
    for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert guarded.get(path).status_code == 200, "what operators watch needs no key"


def test_the_key_is_asked_for_before_the_body_is_looked_at(make_client: MakeClient) -> None:
    guarded = make_client(api_keys=("first-key", "second-key"), admin_token=TOKEN)
    answer = guarded.post("/api/search/total", content=b"{", headers={"content-type": "text/plain"})
    error_of(answer, 401, "unauthorized")


def test_reload_is_closed_where_no_token_is_set(client: httpx.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer anything"}, {"Authorization": "Bearer"}):
        error_of(client.post("/api/search/reload", headers=headers), 403, "forbidden")


def test_reload_is_for_administrators(make_client: MakeClient) -> None:
    guarded = make_client(api_keys=("first-key", "second-key"), admin_token=TOKEN)
    missing = guarded.post("/api/search/reload")
    error_of(missing, 401, "unauthorized")
    assert missing.headers["www-authenticate"] == "Bearer"
    for token in ("wrong", "first-key", f"{TOKEN}x", TOKEN[:-1]):
        answer = guarded.post("/api/search/reload", headers={"Authorization": f"Bearer {token}"})
        error_of(answer, 403, "forbidden")


# Other origins.


ORIGIN = "https://app.example"
# What every script may read (Fetch, 2.2.2), and what is of no use to any.
SAFELISTED = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}
OF_THE_CONNECTION = {"date", "connection", "vary", "server"}


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return client.options(
        "/api/search/total",
        headers={**headers, "Access-Control-Request-Headers": "authorization,content-type,x-api-key"},
    )


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_other_origins_are_refused_by_default(client: httpx.Client) -> None:
    assert cors_headers(client.post("/api/search/total", json={}, headers={"Origin": ORIGIN})) == {}
    answer = preflight(client, ORIGIN)
    assert answer.status_code >= 400
    assert cors_headers(answer) == {}


def test_named_origins_may_call_with_credentials_and_no_others(make_client: MakeClient) -> None:
    shared = make_client(cors_allow_origins=(ORIGIN, "http://localhost:3000"))
    for origin in (ORIGIN, "http://localhost:3000"):
        answer = shared.post("/api/search/total", json={}, headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-credentials"] == "true"
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert {"x-request-id", "retry-after"} <= set(re.split(r",\s*", exposed))
        assert "origin" in answer.headers["vary"].lower()
        asked = preflight(shared, origin)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        allowed = asked.headers["access-control-allow-headers"].lower()
        assert all(
            name in allowed
            for name in ("authorization", "content-type", "content-encoding", "x-api-key", "idempotency-key")
        )
    for origin in ("https://evil.example", "https://app.example.evil.example", "http://app.example", "null"):
        assert (
            "access-control-allow-origin"
            not in shared.post("/api/search/total", json={}, headers={"Origin": origin}).headers
        )
        refused = preflight(shared, origin)
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


def test_an_error_can_be_read_by_a_named_origin_too(make_client: MakeClient) -> None:
    shared = make_client(cors_allow_origins=(ORIGIN, "http://localhost:3000"))
    answer = shared.post("/api/search/total", json={"N_VIDEOS": 0}, headers={"Origin": ORIGIN})
    error_of(answer, 422, "invalid_request")
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_a_script_of_another_origin_may_read_when_to_come_back(make_client: MakeClient, tmp_path: Path) -> None:
    """Of every answer that says so, and whatever else answers bear beyond what browsers show to every script."""
    shared = make_client(
        cors_allow_origins=(ORIGIN,), rate_limit_per_user=0.01, api_keys=("first-key",), record_events=False
    )
    headers = {"Origin": ORIGIN, "X-API-Key": "first-key"}
    event = {"event": "view", "user_id": 1, "item_type": "resume", "item_id": 1}
    for _ in range(2):
        too_many = shared.post("/api/search/total", json={"SELF_ID": 7}, headers=headers)
    answers = {
        429: too_many,
        503: shared.post("/api/feedback", json=event, headers=headers),
        401: shared.post("/api/search/total", json={}, headers={"Origin": ORIGIN}),
        405: shared.get("/api/search/total", headers=headers),
        415: shared.post("/api/search/total", content=b"x", headers={**headers, "Content-Encoding": "br"}),
    }
    with served(make_app(tmp_path, cors_allow_origins=(ORIGIN,))) as client:  # without a catalog
        for answer in (client.post("/api/search/total", json={}, headers={"Origin": ORIGIN}), *answers.values()):
            exposed = answer.headers["access-control-expose-headers"].lower()
            own = set(answer.headers) - SAFELISTED - OF_THE_CONNECTION - set(cors_headers(answer))
            assert own <= set(re.split(r",\s*", exposed)), answer.status_code
    for status, answer in answers.items():
        assert answer.status_code == status
        assert ("retry-after" in answer.headers) == (status in {429, 503})


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_a_script_of_a_named_origin_may_use_every_method_there_is(make_client: MakeClient, method: str) -> None:
    shared = make_client(cors_allow_origins=(ORIGIN, "http://localhost:3000"))
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
    assert shared.options("/ready", headers=headers).status_code == 200


@pytest.mark.parametrize("origins", [("*",), ("*", ORIGIN)], ids=["any", "any-and-named"])
def test_any_origin_is_never_allowed_with_credentials(make_client: MakeClient, origins: tuple[str, ...]) -> None:
    opened = make_client(cors_allow_origins=origins)
    for headers in ({"Origin": ORIGIN}, {"Origin": "https://evil.example", "Cookie": "session=1"}):
        for answer in (
            opened.post("/api/search/total", json={}, headers=headers),
            opened.options("/api/search/total", headers={**headers, "Access-Control-Request-Method": "POST"}),
        ):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers


# How much may be asked for.


def test_over_the_limit_of_a_user_the_answer_is_429_and_says_when_to_come_back(make_client: MakeClient) -> None:
    limited = make_client(rate_limit_per_user=0.01)
    assert limited.post("/api/search/total", json={"SELF_ID": 7}).status_code == 200
    for spelling in ({"SELF_ID": 7}, {"user_id": "7"}):
        refused = limited.post("/api/search/discover", json=spelling)
        error_of(refused, 429, "too_many_requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 100
    assert limited.post("/api/search/total", json={"SELF_ID": 8}).status_code == 200
    assert limited.post("/api/search/total", json={}).status_code == 200, "an anonymous one counts by address"
    assert limited.post("/api/search/total", json={}).status_code == 429


def test_over_the_limit_of_a_key_the_answer_is_429(make_client: MakeClient) -> None:
    limited = make_client(api_keys=("first-key", "second-key"), rate_limit_per_key=0.01)
    for key, expected in (("first-key", 200), ("first-key", 429), ("second-key", 200)):
        answer = limited.post("/api/search/total", json={}, headers={"X-API-Key": key})
        assert answer.status_code == expected, key
