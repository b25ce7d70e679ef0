"""The HTTP contract, rule by rule, at the real application over a real socket with a real catalog."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from fastapi import FastAPI

from recommendation_service import __version__
from recommendation_service.api import middleware
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import damaged_copy, load_demo, sum_of_samples
from tests.servers import wait_until

IDS_FIELDS = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}
SIZES = ("N_VIDEOS", "MAX_SIZE", "size")
EXCLUDED = ("EXCLUDED_IDS", "excluded_ids", "LAST_IDS", "videos_excluidos")
TOKEN = "an-administrators-token"
MEDIA = "https://media.example"
MEBIBYTE = 1 << 20

RESUME_FIELDS = {
    "type", "id", "name", "slug", "description", "video", "image", "user_id", "user_name", "user_slug", "avatar",
    "main_objective", "type_audience", "type_audiences", "interest_areas", "role_objectives", "connected",
}  # fmt: skip
CHALLENGE_FIELDS = {
    "type", "id", "name", "slug", "description", "video_url", "image", "user_id", "user_name", "user_slug",
    "user_avatar", "talent_type", "interest_areas", "type_objectives", "top", "created_at", "updated_at",
}  # fmt: skip
RULES = {"skill_novelty", "creator_window", "slot_kind", "seen"}

MakeClient = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the demo database and a catalog of it."""
    folder = tmp_path_factory.mktemp("http-contract")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data", media_base_url=MEDIA))
    return folder / "data"


@pytest.fixture(scope="module")
def catalog(data_dir: Path) -> Catalog:
    store = CatalogStore(data_dir / "catalogs", keep=1)
    version = store.current()
    assert version is not None
    return store.open(version)


@pytest.fixture(scope="module")
def make_client(data_dir: Path) -> Iterator[MakeClient]:
    """Starts the application with these settings, once for each, and gives a client of it."""
    clients: dict[str, httpx.Client] = {}
    with logs_left_alone(), ExitStack() as stack:

        def make(**settings: Any) -> httpx.Client:
            key = repr(sorted(settings.items()))
            if key not in clients:
                clients[key] = stack.enter_context(served(make_app(data_dir, **settings)))
            return clients[key]

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> httpx.Client:
    return make_client()


@pytest.fixture
def user(catalog: Catalog) -> int:
    """Somebody with a history."""
    histories = np.diff(catalog.arrays.history_offsets)
    return int(catalog.arrays.user_id[int(np.argmax(histories))])


@pytest.fixture
def video_ids(catalog: Catalog) -> set[str]:
    return {str(number) for number in catalog.arrays.item_id[: catalog.arrays.videos]}


@pytest.fixture
def challenge_ids(catalog: Catalog) -> set[str]:
    return {str(number) for number in catalog.arrays.item_id[catalog.arrays.videos :]}


def ask(client: httpx.Client, endpoint: str = "total", **fields: Any) -> dict[str, Any]:
    """The body of a feed that must be answered."""
    answer = client.post(f"/api/search/{endpoint}", json=fields)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert set(content) == {"statusCode", "body"}
    assert content["statusCode"] == 200
    body: dict[str, Any] = content["body"]
    return body


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which must have the contract's form and say nothing of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert set(content) == {"statusCode", "error"}
    assert content["statusCode"] == status
    error: dict[str, Any] = content["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    assert all(set(detail) == {"field", "problem"} for detail in error["details"])
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return error


# What a feed is.


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_a_feed_has_its_ids_its_items_its_request_and_its_relaxed_rules(client: httpx.Client, endpoint: str) -> None:
    body = ask(client, endpoint, N_VIDEOS=6)
    assert set(body) == {IDS_FIELDS[endpoint], "items", "request_id", "relaxed"}
    assert body[IDS_FIELDS[endpoint]] == [item["id"] for item in body["items"]]
    assert len(body["items"]) == 6
    assert all(isinstance(number, str) for number in body[IDS_FIELDS[endpoint]])
    assert set(body["relaxed"]) <= RULES
    assert re.fullmatch(r"[0-9a-f]{32}", body["request_id"])


def test_total_mixes_discover_has_resumes_and_flow_has_challenges(client: httpx.Client) -> None:
    assert {item["type"] for item in ask(client, "total")["items"]} == {"resume", "challenge"}
    assert {item["type"] for item in ask(client, "discover")["items"]} == {"resume"}
    assert {item["type"] for item in ask(client, "flow", N_VIDEOS=5)["items"]} == {"challenge"}


def test_a_resume_item_has_every_field(client: httpx.Client) -> None:
    items = ask(client, "discover", N_VIDEOS=100)["items"]
    assert len(items) > 24
    for item in items:
        assert set(item) == RESUME_FIELDS
        assert item["type"] == "resume"
        assert item["slug"].endswith(item["id"])
        assert item["slug"] == (f"{item['user_slug']}-{item['id']}" if item["user_slug"] else item["id"])
        assert item["video"]
        assert item["image"]
        assert type(item["user_id"]) is int
        assert item["user_name"] == item["name"]
        assert item["avatar"] == f"{MEDIA}/users/{item['user_id']}/avatar-100.png"
        assert item["main_objective"] == "be_discovered"
        assert item["type_audience"] == "innovators"
        assert item["type_audiences"] == ["innovators"]
        assert item["interest_areas"] == []
        assert item["connected"] == ""
        assert isinstance(item["role_objectives"], list)
        texts = ("id", "name", "slug", "description", "video", "image", "user_name", "user_slug", "avatar")
        assert all(isinstance(item[field], str) for field in texts)
    assert any(item["image"] == item["video"] for item in items), "the demo has videos without an image"
    assert any(item["image"] != item["video"] for item in items)


def test_a_challenge_item_has_every_field(client: httpx.Client) -> None:
    items = ask(client, "flow", N_VIDEOS=100)["items"]
    assert len(items) >= 10
    for item in items:
        assert set(item) - {"status_at"} == CHALLENGE_FIELDS
        assert item["type"] == "challenge"
        assert item["top"] is True
        assert item["video_url"]
        assert type(item["user_id"]) is int
        assert item["user_avatar"] == f"{MEDIA}/users/{item['user_id']}/avatar-100.png"
        assert item["talent_type"]
        assert isinstance(item["interest_areas"], list)
        assert item["type_objectives"]
        texts = ("id", "name", "slug", "description", "video_url", "image", "user_name", "user_slug", "talent_type")
        assert all(isinstance(item[field], str) for field in texts)
        for field in ("created_at", "updated_at", "status_at"):
            if item.get(field):
                assert datetime.fromisoformat(item[field]).tzinfo is not None
    assert any("status_at" in item for item in items)


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
@pytest.mark.parametrize("size", [1, 2, 7, 13])
@pytest.mark.parametrize("field", SIZES)
def test_a_feed_has_exactly_as_many_items_as_asked_for(
    client: httpx.Client, endpoint: str, size: int, field: str
) -> None:
    assert len(ask(client, endpoint, **{field: size})["items"]) == size


def test_a_feed_has_24_items_by_default(client: httpx.Client) -> None:
    assert len(ask(client)["items"]) == 24


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_a_feed_that_asks_for_more_than_there_is_has_all_there_is_and_nothing_twice(
    client: httpx.Client, endpoint: str, video_ids: set[str], challenge_ids: set[str]
) -> None:
    items = ask(client, endpoint, N_VIDEOS=100)["items"]
    keys = [(item["type"], item["id"]) for item in items]
    assert len(set(keys)) == len(keys)
    there = {("resume", number) for number in video_ids} if endpoint != "flow" else set()
    there |= {("challenge", number) for number in challenge_ids} if endpoint != "discover" else set()
    assert set(keys) == there


@pytest.mark.parametrize("field", EXCLUDED)
@pytest.mark.parametrize("as_given", [list, ",".join, lambda ids: [int(number) for number in ids]])
def test_what_is_excluded_never_comes_back(
    client: httpx.Client, video_ids: set[str], field: str, as_given: Callable[[list[str]], object]
) -> None:
    left_out = sorted(video_ids)[::2]
    ids = ask(client, "discover", N_VIDEOS=100, **{field: as_given(left_out)})["resume_ids"]
    assert set(ids) == video_ids - set(left_out)


def test_an_excluded_number_excludes_both_the_resume_and_the_challenge_that_bear_it(
    client: httpx.Client, video_ids: set[str], challenge_ids: set[str]
) -> None:
    shared = sorted(video_ids & challenge_ids)[0]
    before = ask(client, N_VIDEOS=100)["items"]
    assert {item["type"] for item in before if item["id"] == shared} == {"resume", "challenge"}
    assert shared not in ask(client, N_VIDEOS=100, EXCLUDED_IDS=[shared])["mix_ids"]


def test_a_feed_without_anything_left_is_empty_and_no_error(
    client: httpx.Client, video_ids: set[str], challenge_ids: set[str]
) -> None:
    for endpoint, field in IDS_FIELDS.items():
        body = ask(client, endpoint, EXCLUDED_IDS=sorted(video_ids | challenge_ids))
        assert body["items"] == []
        assert body[field] == []


@pytest.mark.parametrize("field", ["SELF_ID", "user_id"])
def test_a_user_with_a_history_gets_a_personal_feed(client: httpx.Client, user: int, field: str) -> None:
    for value in (user, str(user)):
        items = ask(client, explain=True, **{field: value})["items"]
        assert any(item["why"]["features"]["skill_similarity"] not in (0.3, 0.5) for item in items)


@pytest.mark.parametrize("who", [{}, {"SELF_ID": 0}, {"SELF_ID": "0"}, {"SELF_ID": None}], ids=str)
def test_an_anonymous_user_gets_a_feed_that_is_not_personal(client: httpx.Client, who: dict[str, Any]) -> None:
    items = ask(client, explain=True, **who)["items"]
    assert len(items) == 24
    for item in items:
        features = item["why"]["features"]
        assert (features["attribute_match"], features["same_city"], features["creator_in_network"]) == (0, 0, 0)


@pytest.mark.parametrize("stranger", [10**12, 2**63 - 1, str(2**63 - 1)])
def test_any_other_user_gets_a_feed_too(client: httpx.Client, stranger: object) -> None:
    for endpoint in IDS_FIELDS:
        assert len(ask(client, endpoint, SELF_ID=stranger, N_VIDEOS=6)["items"]) == 6


def test_explain_adds_why_and_only_then(client: httpx.Client, user: int) -> None:
    for fields in ({}, {"explain": False}, {"explain": None}):
        assert not any("why" in item for item in ask(client, SELF_ID=user, **fields)["items"])
    for position, item in enumerate(ask(client, SELF_ID=user, explain=True)["items"]):
        why = item["why"]
        assert why["position"] == position
        assert why["slot"] in {"VMP", "AU", "NU", "FW"}
        assert why["pool"] in {"VMP", "AU", "NU", "FW", "exploration", "seen"}
        assert 0 < why["propensity"] <= 1
        assert why["score"] == pytest.approx(why["expected"] + why["bonus"], rel=1e-5)
        assert len(why["features"]) == 18
        assert why["terms"]
        assert set(why["relaxed"]) <= RULES


def test_live_clients_other_spellings_work_together(client: httpx.Client, user: int, video_ids: set[str]) -> None:
    left_out = sorted(video_ids)[:20]
    body = ask(client, user_id=str(user), MAX_SIZE=12, videos_excluidos=",".join(left_out), session_id="a3f1", other=1)
    assert len(body["items"]) == 12
    assert not any(item["type"] == "resume" and item["id"] in left_out for item in body["items"])


def test_the_answer_is_private_to_its_user_and_names_its_request(client: httpx.Client) -> None:
    first, second = (client.post("/api/search/total", json={"SELF_ID": 5}) for _ in range(2))
    for answer in (first, second):
        assert answer.headers["content-type"] == "application/json"
        assert set(re.split(r",\s*", answer.headers["cache-control"])) == {"private", "no-store"}
        assert answer.headers["x-request-id"] == answer.json()["body"]["request_id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_text_of_any_script_arrives_as_it_is_stored(client: httpx.Client, catalog: Catalog) -> None:
    stored = {}
    for place in range(len(catalog.arrays.item_id)):
        item = json.loads(catalog.item_json(place))
        stored[item["type"], item["id"]] = item
    items = ask(client, N_VIDEOS=100)["items"]
    assert all(item == stored[item["type"], item["id"]] for item in items)
    names = "".join(item["user_name"] for item in items)
    assert any(ord(letter) > 0xFFFF for letter in names), "the demo has emoji in names"


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
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
        assert "origin" in answer.headers["vary"].lower()
        asked = preflight(shared, origin)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        allowed = asked.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in ("authorization", "content-type", "x-api-key", "idempotency-key"))
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


# Settings that move things.


@pytest.mark.parametrize("prefix", ["", "/v2", "/a/b"])
def test_the_endpoints_are_under_the_prefix_that_is_set(make_client: MakeClient, prefix: str) -> None:
    moved = make_client(api_path=prefix, admin_token=TOKEN)
    for endpoint in IDS_FIELDS:
        assert moved.post(f"{prefix}/search/{endpoint}", json={}).status_code == 200
        error_of(moved.post(f"/api/search/{endpoint}", json={}), 404, "not_found")
    error_of(moved.post(f"{prefix}/search/reload"), 401, "unauthorized")
    assert moved.get("/health").status_code == 200
    paths = moved.get("/openapi.json").json()["paths"]
    assert {path for path in paths if "/search/" in path} == {
        f"{prefix}/search/{name}" for name in (*IDS_FIELDS, "reload")
    }
    text = moved.get("/metrics").text
    assert all(sum_of_samples(text, "recs_requests_total", endpoint=endpoint, status="200") for endpoint in IDS_FIELDS)


# Operations.


def test_root_says_name_status_and_version(client: httpx.Client) -> None:
    assert client.get("/").json() == {"name": "recommendation-service", "status": "ready", "version": __version__}
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json() == {"name": "recommendation-service", "status": "alive", "version": __version__}


def test_ready_says_which_catalog_is_served(client: httpx.Client, catalog: Catalog) -> None:
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["catalog"] == catalog.version
    assert ready.json()["counts"]["videos"] == catalog.arrays.videos


@pytest.mark.usefixtures("make_client")
def test_without_a_catalog_the_service_is_alive_but_not_ready_until_one_appears(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "interacpedia.sqlite").symlink_to(data_dir / "interacpedia.sqlite")
    with served(make_app(tmp_path)) as client:
        assert client.get("/").json()["status"] == "not ready"
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), *(client.post(f"/api/search/{name}", json={}) for name in IDS_FIELDS)):
            error = error_of(answer, 503, "not_ready")
            assert "catalog" in error["message"]
            assert int(answer.headers["retry-after"]) >= 1
        text = client.get("/metrics").text
        assert sum_of_samples(text, "recs_ready") == 0
        assert sum_of_samples(text, "recs_requests_total", endpoint="total", status="503") == 1
        # A wrong request is told so all the same.
        error_of(client.post("/api/search/total", json={"N_VIDEOS": 0}), 422, "invalid_request")

        version = publish_catalog(Settings(data_dir=tmp_path))
        # At once: another worker may have said so, and this one has not looked since.
        assert client.get("/ready").json().get("catalog") == version
        assert client.get("/").json()["status"] == "ready"
        assert len(ask(client)["items"]) == 24


def test_a_damaged_first_catalog_is_the_reason_why_nothing_is_ready(
    data_dir: Path, tmp_path: Path, client: Any
) -> None:
    (tmp_path / "interacpedia.sqlite").symlink_to(data_dir / "interacpedia.sqlite")
    version = publish_catalog(Settings(data_dir=tmp_path))
    column = tmp_path / "catalogs" / version / "features.npy"
    content = bytearray(column.read_bytes())
    content[-1] ^= 1
    column.write_bytes(content)
    with served(make_app(tmp_path)) as broken:
        error = error_of(broken.get("/ready"), 503, "not_ready")
        assert "damaged" in error["message"]
        assert "features" in error["message"]
        assert sum_of_samples(broken.get("/metrics").text, "recs_catalog_refused_total") == 1
        publish_catalog(Settings(data_dir=tmp_path))
        assert wait_until(lambda: broken.get("/ready").status_code == 200, 60)


@pytest.mark.usefixtures("make_client")
def test_a_damaged_new_version_is_refused_once_and_the_old_one_serves_on(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "interacpedia.sqlite").symlink_to(data_dir / "interacpedia.sqlite")
    version = publish_catalog(Settings(data_dir=tmp_path))
    with served(make_app(tmp_path)) as serving:
        store = CatalogStore(tmp_path / "catalogs", keep=3)
        store.point_at(damaged_copy(store, version))

        def refusals() -> float:
            return sum_of_samples(serving.get("/metrics").text, "recs_catalog_refused_total")

        assert wait_until(lambda: refusals() == 1, 60)
        # For as long as it is looked at several times.
        assert not wait_until(lambda: refusals() > 1 or len(ask(serving)["items"]) != 24, 1.0)
        assert serving.get("/ready").json()["catalog"] == version
        newer = publish_catalog(Settings(data_dir=tmp_path))
        assert wait_until(lambda: serving.get("/ready").json()["catalog"] == newer, 60)


def test_metrics_count_requests_by_endpoint_and_status(make_client: MakeClient) -> None:
    watched = make_client(feed_seed=1)  # one of its own, so that nobody else is counted
    before = watched.get("/metrics").text

    def counted(endpoint: str, status: int) -> float:
        return sum_of_samples(
            watched.get("/metrics").text, "recs_requests_total", endpoint=endpoint, status=str(status)
        ) - sum_of_samples(before, "recs_requests_total", endpoint=endpoint, status=str(status))

    for _ in range(3):
        ask(watched, "total")
    ask(watched, "discover")
    ask(watched, "flow")
    watched.post("/api/search/total", json={"N_VIDEOS": 0})
    watched.post("/api/search/total", content=b"{")
    watched.post("/api/search/total", content=b"{}", headers={"content-type": "text/plain"})
    watched.get("/api/search/total")
    watched.post("/api/search/reload")
    watched.get("/nope")
    assert counted("total", 200) == 3
    assert counted("discover", 200) == 1
    assert counted("flow", 200) == 1
    assert [counted("total", status) for status in (422, 400, 415, 405)] == [1, 1, 1, 1]
    assert counted("reload", 403) == 1
    assert counted("other", 404) == 1
    text = watched.get("/metrics").text
    assert sum_of_samples(text, "recs_request_seconds_count", endpoint="total") == sum_of_samples(
        text, "recs_requests_total", endpoint="total"
    )


def test_metrics_tell_of_the_catalog(client: httpx.Client, catalog: Catalog) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    assert sum_of_samples(text, "recs_ready") == 1
    assert sum_of_samples(text, "recs_catalog_info", policy="starting-1") == 1
    assert sum_of_samples(text, "recs_catalog_rows", what="videos") == catalog.arrays.videos
    assert sum_of_samples(text, "recs_catalog_built_timestamp_seconds") == pytest.approx(catalog.built_at)
    assert sum_of_samples(text, "recs_catalog_set_aside") > 0, "the demo is dirty"
    assert "recs_catalog_set_aside{" in text
    assert sum_of_samples(text, "recs_catalog_build_failures") == 0
    assert sum_of_samples(text, "recs_catalog_build_seconds") > 0


def test_metrics_tell_the_time_of_each_stage(make_client: MakeClient) -> None:
    watched = make_client(feed_seed=1)
    for _ in range(130):
        ask(watched, "total", SELF_ID=5)
    text = watched.get("/metrics").text
    for stage in ("user", "candidates", "features", "scores", "slate"):
        assert sum_of_samples(text, "recs_feed_stage_seconds_count", stage=stage) >= 1


def test_no_label_of_a_metric_bears_an_id(client: httpx.Client) -> None:
    marks = [f"/nope/{981723}", f"/api/search/{981723}"]
    for path in marks:
        client.get(path)
        client.post(path, json={"SELF_ID": 981723})
    request_id = ask(client, SELF_ID=981723, session_id="session-981723")["request_id"]
    ask(client, SELF_ID=981723, EXCLUDED_IDS=[981723])
    text = client.get("/metrics", headers={"X-Request-ID": "981723"}).text
    assert "981723" not in text
    assert request_id not in text
    endpoints = set(re.findall(r'recs_requests_total\{endpoint="([^"]*)"', text))
    assert endpoints <= {"total", "discover", "flow", "reload", "other"}


# Documentation.


# The library that ships the page reads its files by a function that Python 3.11 wants replaced.
@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
def test_the_documentation_page_and_its_assets_come_from_the_service(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    own = str(client.base_url).rstrip("/")
    for address in re.findall(r"""(?:https?:)?//[^\s"'<>]+""", page.text):
        assert address.startswith(own), f"the page names another host: {address}"
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) >= 2
    for asset in [*assets, *re.findall(r"url:\s*'([^']+)'", page.text)]:
        assert client.get(asset).status_code == 200


def test_the_documentation_page_works_behind_a_proxy_that_ends_tls(client: httpx.Client) -> None:
    """The browser is on https://…; addresses of our own idea of host and scheme would be blocked there, and
    a Host header that somebody else chose would name their script."""
    page = client.get("/docs", headers={"Host": "somebody.example"})
    assert page.status_code == 200
    assert "somebody.example" not in page.text
    assert "http://" not in page.text


@pytest.mark.usefixtures("make_client")
def test_the_document_has_every_route_of_the_application(data_dir: Path) -> None:
    app = make_app(data_dir)
    paths = app.openapi()["paths"]
    for path, method in routes_of(app):
        if path.startswith(("/docs", "/swagger/", "/openapi.json")):
            continue
        assert method.lower() in paths.get(path, {}), f"{method} {path} is not documented"


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    return {
        (path, method)
        for route in app.routes
        if (path := getattr(route, "path", None))
        for method in (getattr(route, "methods", None) or ())
        if method not in {"HEAD", "OPTIONS"}
    }


def test_the_document_says_every_field_of_a_feed_request_with_rule_and_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for endpoint in IDS_FIELDS:
        operation = document["paths"][f"/api/search/{endpoint}"]["post"]
        schema = resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
        properties = schema["properties"]
        assert set(properties) == {"SELF_ID", "user_id", *SIZES, *EXCLUDED, "session_id", "explain"}
        assert "required" not in schema
        for name, field in properties.items():
            assert len(field["description"]) > 20, name
            assert field["examples"], name
        for name in ("SELF_ID", "user_id"):
            assert properties[name]["default"] == 0
            assert {kind["type"] for kind in properties[name]["anyOf"]} == {"integer", "string", "null"}
            assert min(kind.get("minimum", 0) for kind in properties[name]["anyOf"]) == 0
        for name in SIZES:
            number = next(kind for kind in properties[name]["anyOf"] if kind["type"] == "integer")
            assert (number["minimum"], number["maximum"], properties[name]["default"]) == (1, 100, 24)
        for name in EXCLUDED:
            array = next(kind for kind in properties[name]["anyOf"] if kind["type"] == "array")
            assert array["maxItems"] == 10_000
            assert properties[name]["default"] == []
        text = next(kind for kind in properties["session_id"]["anyOf"] if kind["type"] == "string")
        assert text["maxLength"] == 128
        assert properties["explain"]["default"] is False
        for example in schema["examples"]:
            assert client.post(f"/api/search/{endpoint}", json=example).status_code == 200


def test_the_document_says_every_field_of_an_answer(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert RESUME_FIELDS | {"why"} == set(schemas["ResumeItem"]["properties"])
    assert CHALLENGE_FIELDS | {"why", "status_at"} == set(schemas["ChallengeItem"]["properties"])
    for endpoint, ids_field in IDS_FIELDS.items():
        operation = document["paths"][f"/api/search/{endpoint}"]["post"]
        answer = resolved(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert set(answer["properties"]["body"]["properties"]) == {ids_field, "items", "request_id", "relaxed"}
        assert {"400", "413", "415", "422", "503"} <= set(operation["responses"])
        for status, described in operation["responses"].items():
            if status != "200":
                error = resolved(document, described["content"]["application/json"]["schema"])
                assert set(error["properties"]) == {"statusCode", "error"}


def test_the_document_says_every_answer_of_reload(client: httpx.Client) -> None:
    responses = client.get("/openapi.json").json()["paths"]["/api/search/reload"]["post"]["responses"]
    assert {"200", "202", "401", "403", "503"} <= set(responses)
    assert responses["200"]["content"]["application/json"]["schema"], "says nothing of its body"


def test_the_document_asks_for_a_key_where_one_is_needed(client: httpx.Client, make_client: MakeClient) -> None:
    guarded = make_client(api_keys=("first-key", "second-key"), admin_token=TOKEN)
    for endpoint in IDS_FIELDS:
        path = f"/api/search/{endpoint}"
        assert "security" not in client.get("/openapi.json").json()["paths"][path]["post"]
        operation = guarded.get("/openapi.json").json()["paths"][path]["post"]
        assert operation["security"]
        assert {"401", "403"} <= set(operation["responses"])


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema["$ref"].removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


# What fails on our side.


class Logged:
    """What the middleware logs, in a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = structlog.testing.LogCapture()
        monkeypatch.setattr(middleware, "log", structlog.wrap_logger(None, processors=[self._capture]))

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


# What is static.


def test_what_the_page_loads_may_be_kept_for_ever_and_the_page_is_asked_for_each_time(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["cache-control"] == "no-cache"
    names = set(re.findall(r"docs-assets/[\w.-]+", page.text))
    assert len(names) == 4
    for name in names:
        asset = client.get(f"/{name}")
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.search(r"-[0-9a-f]{16}\.\w+$", name), "its name holds the hash of its content"
        assert hashlib.sha256(asset.content).hexdigest()[:16] in name
        again = client.get(f"/{name}", headers={"If-None-Match": asset.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    other = re.sub(r"[0-9a-f]{16}", "0" * 16, sorted(names)[0])
    assert client.get(f"/{other}").status_code == 404
