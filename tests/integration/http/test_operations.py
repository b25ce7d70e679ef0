"""What operators call and set."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service import __version__
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.policies.policy import load_policy
from tests.end_to_end.in_process import make_app, publish_catalog, served
from tests.end_to_end.service import damaged_copy, sum_of_samples
from tests.servers import wait_until
from tests.support.http_contract import IDS_FIELDS, TOKEN, MakeClient, ask, assert_types, error_of
from tests.support.old_catalogs import published_with_text_ids

ASSET = "whatever the page of the documentation loads"

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


@pytest.mark.usefixtures("make_client")
@pytest.mark.parametrize("zoned", [False, True], ids=["plain times", "times with zone"])
def test_a_catalog_of_the_release_before_serves_at_once_and_in_todays_form(
    data_dir: Path, tmp_path: Path, zoned: bool
) -> None:
    """Without its database, and with nobody who could build another."""
    settings = Settings(data_dir=data_dir, item_times_with_zone=True)
    engine = make_engine(settings)
    built = build_catalog(Source(engine, settings), settings, load_policy())
    engine.dispose()
    published_with_text_ids(CatalogStore(tmp_path / "catalogs", keep=3), built)
    with served(make_app(tmp_path, item_times_with_zone=zoned)) as client:
        items = ask(client, N_VIDEOS=100)["items"]
    for item in items:
        assert_types(item)
    times = [item["created_at"] for item in items if item.get("created_at")]
    assert times
    assert all(time.endswith("Z") == zoned for time in times)


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/nope", ASSET])
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    """Over a plain socket: an HTTP library would not show a body where there must be none."""
    if path is ASSET:
        path = "/" + re.findall(r"docs-assets/[\w.-]+", client.get("/docs").text)[0]
    get = client.get(path)
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, separator, body = answer.partition(b"\r\n\r\n")
    assert separator
    assert body == b""
    status, *lines = head.decode().split("\r\n")
    assert int(status.split()[1]) == get.status_code
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    changing = {"date", "x-request-id", "connection"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }
    if path != "/nope":
        assert "HEAD" in client.put(path).headers["allow"]


def test_head_says_that_the_service_is_not_ready_and_asks_for_the_token(
    make_client: MakeClient, tmp_path: Path
) -> None:
    with served(make_app(tmp_path)) as client:
        assert client.head("/ready").status_code == 503
        assert int(client.head("/ready").headers["retry-after"]) >= 1
    assert make_client(admin_token=TOKEN).head("/api/explain/x").status_code == 401


def test_head_of_what_takes_only_post_is_refused(client: httpx.Client) -> None:
    for path in ("/api/search/total", "/api/search/reload", "/api/feedback"):
        answer = client.head(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_ready_says_which_catalog_is_served(client: httpx.Client, catalog: Catalog) -> None:
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["catalog"] == catalog.version
    assert ready.json()["counts"]["videos"] == catalog.arrays.worded


def test_what_cannot_be_read_is_said_by_ready_and_counted_by_the_metrics(
    make_client: MakeClient, data_dir: Path
) -> None:
    serving = make_client()
    assert serving.get("/ready").json()["problems"] == []
    assert sum_of_samples(serving.get("/metrics").text, "recs_problems") == 0
    status = data_dir / "events" / "flusher.json"
    status.parent.mkdir(exist_ok=True)
    before = status.read_bytes() if status.exists() else None
    taken = "The reader 'flush' is taken by process 7"
    status.write_text(json.dumps({"unreadable_segments": 2, "taken": taken}))
    try:
        ready = serving.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["problems"] == [
            f"2 segments of {status.parent} cannot be read by the flusher's user: their events wait.",
            f"Events wait in the log: {taken}",
        ]
        assert sum_of_samples(serving.get("/metrics").text, "recs_problems") == 2
    finally:
        status.unlink()
        if before is not None:
            status.write_bytes(before)


def test_to_forget_where_the_folder_fails_is_503_and_not_500(make_client: MakeClient, data_dir: Path) -> None:
    serving = make_client(admin_token=TOKEN, seen_state=False)
    obstacle = data_dir / "events" / "forgotten.json"
    obstacle.mkdir(parents=True)
    try:
        answer = serving.delete("/api/users/7", headers={"Authorization": f"Bearer {TOKEN}"})
        assert str(obstacle) in error_of(answer, 503, "folder_failed")["message"]
        assert int(answer.headers["Retry-After"]) > 0
    finally:
        obstacle.rmdir()


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
    assert sum_of_samples(text, "recs_catalog_info", policy="starting-2") == 1
    assert sum_of_samples(text, "recs_catalog_rows", what="videos") == catalog.arrays.worded
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
