"""Lists of the first operator's catalog: what is like an item, what is popular, what came last."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.catalog.store import Catalog
from recommendation_service.model.features import FEATURE_NAMES
from tests.support.http_contract import MakeClient


def listed(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/api{path}", params=query)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    assert [item["id"] for item in content["items"]] == content["ids"]
    return content


@pytest.mark.parametrize("path", ["/popular", "/latest"])
def test_a_list_is_of_all_types_or_of_one(client: httpx.Client, catalog: Catalog, path: str) -> None:
    most = len(catalog.arrays.item_id)
    both = listed(client, path, size=100)
    shown = [(item["type"], item["id"]) for item in both["items"]]

    assert len(shown) == len(set(shown)) == most
    assert both["next"] is None
    assert listed(client, path, size=most - 1)["next"] == most - 1
    for name in catalog.rows_of_type:
        own = listed(client, path, type=name, size=30)["ids"]
        assert own == [number for one, number in shown if one == name][:30]


def test_popular_videos_are_the_most_watched_where_too_little_is_taken_together(
    client: httpx.Client, catalog: Catalog
) -> None:
    start, end = catalog.rows_of_type["resume"]
    popularity = catalog.arrays.features[start:end, FEATURE_NAMES.index("popularity")]

    assert not catalog.arrays.trending.any()
    assert listed(client, "/popular", type="resume", size=1)["ids"] == [
        int(catalog.arrays.item_id[start:end][int(np.argmax(popularity))])
    ]


def test_similar_videos_share_skills(client: httpx.Client, catalog: Catalog) -> None:
    arrays, absent = catalog.arrays, len(catalog.arrays.token_offsets) - 1
    number = int(arrays.item_id[0])
    ids = listed(client, f"/items/resume/{number}/similar", size=20)["ids"]

    def terms_of(row: int) -> set[int]:
        return set(arrays.tokens[row].tolist()) - {absent}

    shared = [
        len(terms_of(0) & terms_of(int(np.searchsorted(arrays.item_id[: arrays.worded], other)))) for other in ids
    ]
    assert number not in ids
    assert min(shared) >= 1
    assert np.mean(shared[:5]) > np.mean(shared[5:])
    assert listed(client, f"/items/resume/{number}/similar", type="challenge")["ids"] == []  # which have no terms


@pytest.mark.parametrize("number", ["999999999", "0", "-1", "x", "9" * 19, "9" * 400, "1.0", "٣", "a/b", "007"])
def test_an_item_that_is_not_there_is_404_with_what_to_do(client: httpx.Client, number: str) -> None:
    answer = client.get(f"/api/items/resume/{number}/similar")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "ask for /api/popular meanwhile" in answer.json()["error"]["message"]


def test_a_type_that_is_not_there_names_those_that_are(client: httpx.Client) -> None:
    answer = client.get("/api/popular", params={"type": "video", "filters.city": "Lima"})

    assert answer.status_code == 422
    assert answer.json()["error"]["details"] == [
        {"field": "type", "problem": 'there is no type "video"; the types are resume, challenge'},
        {"field": "filters.city", "problem": "there is no such filter; there are none"},
    ]


def test_lists_want_a_key_and_count_for_its_limit_as_feeds_do(make_client: MakeClient) -> None:
    client = make_client(api_keys=("a-key",), rate_limit_per_key=0.01)
    key = {"X-API-Key": "a-key"}

    assert client.get("/api/popular").status_code == 401
    assert client.get("/api/popular", headers={"X-API-Key": "wrong"}).status_code == 403
    assert client.post("/api/feeds/hoem").status_code == 401
    answers = [client.get("/api/latest", headers=key), client.get("/api/items/resume/1/similar", headers=key)]
    assert [answer.status_code for answer in answers] == [200, 429]


def test_a_feed_that_is_not_there_names_those_that_are(client: httpx.Client) -> None:
    for name in ("totl", "", "total/2"):
        answer = client.post(f"/api/feeds/{name}", json={})
        assert answer.status_code == 404
        problem = answer.json()["error"]["details"][0]["problem"]
        assert problem == f'is "{name}"; the feeds are total, discover, flow'
    assert client.get("/api/feeds/total").status_code == 405
