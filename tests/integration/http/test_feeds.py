"""What a feed is, rule by rule."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from recommendation_service.catalog.store import Catalog
from tests.support.http_contract import (
    EXCLUDED,
    IDS_FIELDS,
    MEDIA,
    RULES,
    SIZES,
    MakeClient,
    ask,
    assert_types,
)

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
@pytest.mark.parametrize("fields", [{}, {"explain": True, "session_id": "a"}, {"EXCLUDED_IDS": [1]}], ids=str)
def test_every_field_of_an_answer_has_the_type_that_todays_clients_read(
    client: httpx.Client, user: int, endpoint: str, fields: dict[str, Any]
) -> None:
    for who in (0, user):
        answer = client.post(f"/api/search/{endpoint}", json={"SELF_ID": who, "N_VIDEOS": 100, **fields})
        content = answer.json()
        body = content["body"]
        assert {name: type(value) for name, value in content.items()} == {"statusCode": int, "body": dict}
        assert {name: type(value) for name, value in body.items()} == {
            IDS_FIELDS[endpoint]: list, "items": list, "request_id": str, "relaxed": list,
        }  # fmt: skip
        assert content["statusCode"] == 200
        assert all(type(entry) is str for name in (IDS_FIELDS[endpoint], "relaxed") for entry in body[name])
        assert body["items"]
        for item in body["items"]:
            assert_types(item)
        assert "null" not in re.sub(r'"(\\.|[^"\\])*"', "", answer.text), "text is never null, and the rest neither"


def test_a_setting_adds_the_zone_to_times(make_client: MakeClient) -> None:
    """Whatever the setting was when the catalog was built."""
    plain, zoned = (
        {item["id"]: item for item in ask(client, "flow", N_VIDEOS=100)["items"]}
        for client in (make_client(), make_client(item_times_with_zone=True))
    )
    assert set(plain) == set(zoned)
    for number, item in plain.items():
        for field in ("created_at", "updated_at", "status_at"):
            if item.get(field):
                assert zoned[number][field] == f"{item[field]}Z"
            else:
                assert zoned[number].get(field) == item.get(field)


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_each_endpoint_has_its_order_of_spellings(
    make_client: MakeClient, endpoint: str, challenge_ids: set[str], video_ids: set[str]
) -> None:
    """The user that counts is told by the limit of users."""
    limited = make_client(rate_limit_per_user=0.002)
    first, second = ("user_id", "SELF_ID") if endpoint == "flow" else ("SELF_ID", "user_id")
    number = 1000 * (1 + list(IDS_FIELDS).index(endpoint))
    for fields, status in [
        ({first: number, second: number + 1}, 200),
        ({first: number, second: number + 2}, 429),
        ({first: number + 3, second: number}, 200),
    ]:
        assert limited.post(f"/api/search/{endpoint}", json=fields).status_code == status
    sizes = {"MAX_SIZE": 5, "size": 6}
    assert len(ask(make_client(), endpoint, **sizes)["items"]) == (6 if endpoint == "flow" else 5)
    one, other = sorted(challenge_ids if endpoint == "flow" else video_ids)[:2]
    shown = ask(make_client(), endpoint, N_VIDEOS=100, LAST_IDS=[one], videos_excluidos=[other])[IDS_FIELDS[endpoint]]
    assert {one, other} - set(shown) == ({other} if endpoint == "flow" else {one})


@pytest.mark.parametrize("endpoint", IDS_FIELDS)
def test_a_feed_has_its_ids_its_items_its_request_and_its_relaxed_rules(client: httpx.Client, endpoint: str) -> None:
    body = ask(client, endpoint, N_VIDEOS=6)
    assert set(body) == {IDS_FIELDS[endpoint], "items", "request_id", "relaxed"}
    assert body[IDS_FIELDS[endpoint]] == [str(item["id"]) for item in body["items"]]
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
        assert_types(item)
        assert item["type"] == "resume"
        assert item["slug"] == (f"{item['user_slug']}-{item['id']}" if item["user_slug"] else str(item["id"]))
        assert item["video"]
        assert item["image"]
        assert item["user_name"] == item["name"]
        assert item["avatar"] == f"{MEDIA}/users/{item['user_id']}/avatar-100.png"
        assert item["main_objective"] == "be_discovered"
        assert item["type_audience"] == "innovators"
        assert item["type_audiences"] == ["innovators"]
        assert item["interest_areas"] == []
        assert item["connected"] == ""
    assert any(item["image"] == item["video"] for item in items), "the demo has videos without an image"
    assert any(item["image"] != item["video"] for item in items)


def test_a_challenge_item_has_every_field(client: httpx.Client) -> None:
    items = ask(client, "flow", N_VIDEOS=100)["items"]
    assert len(items) >= 10
    for item in items:
        assert_types(item)
        assert item["type"] == "challenge"
        assert item["top"] is True
        assert item["video_url"]
        assert item["user_avatar"] == f"{MEDIA}/users/{item['user_id']}/avatar-100.png"
        assert item["talent_type"]
        assert item["type_objectives"]
        for field in ("created_at", "updated_at", "status_at"):
            if item.get(field):
                assert re.fullmatch(TIME, item[field])
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
    keys = [(item["type"], str(item["id"])) for item in items]
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
    assert {item["type"] for item in before if str(item["id"]) == shared} == {"resume", "challenge"}
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
        assert len(why["features"]) == 20
        assert why["terms"]
        assert set(why["relaxed"]) <= RULES


def test_live_clients_other_spellings_work_together(client: httpx.Client, user: int, video_ids: set[str]) -> None:
    left_out = sorted(video_ids)[:20]
    body = ask(client, user_id=str(user), MAX_SIZE=12, videos_excluidos=",".join(left_out), session_id="a3f1", other=1)
    assert len(body["items"]) == 12
    assert not any(item["type"] == "resume" and str(item["id"]) in left_out for item in body["items"])


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
