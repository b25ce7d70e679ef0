"""A feed asked for again with the same Idempotency-Key gets the same bytes, and counts once.

tests/end_to_end/test_no_repeats.py asks several workers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service.core.config import Settings
from recommendation_service.log.records import FeedRecord, decode
from recommendation_service.log.segments import SUFFIX, scan
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, sum_of_samples

KEYS = ("one-key", "another-key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idempotency")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with logs_left_alone():
        app = make_app(folder / "data", event_flusher=False, api_keys=KEYS)
        with served(app) as client:
            yield client


_USERS = iter(range(5_000_000, 6_000_000))


@pytest.fixture
def user() -> int:
    """Somebody whom no other test knows."""
    return next(_USERS)


def ask(
    client: httpx.Client, key: str | bytes | None, endpoint: str = "total", caller: str = KEYS[0], **fields: Any
) -> httpx.Response:
    headers: list[tuple[str, str | bytes]] = [("X-API-Key", caller)]
    if key is not None:
        headers.append(("Idempotency-Key", key))
    return client.post(f"/api/search/{endpoint}", json=fields, headers=headers)  # type: ignore[arg-type]


def same(client: httpx.Client, key: str | bytes, fields: dict[str, Any], again: dict[str, Any] | None = None) -> bool:
    """Whether a request and its repetition are answered by the same bytes; both must be 200."""
    first, second = ask(client, key, **fields), ask(client, key, **(fields if again is None else again))
    assert first.status_code == second.status_code == 200, second.text
    assert second.headers["content-type"] == "application/json"
    assert second.headers["cache-control"] == "private, no-store"
    return first.content == second.content


def test_a_repeated_request_gets_the_same_bytes_and_another_one_does_not(client: httpx.Client, user: int) -> None:
    assert same(client, f"k {user}", {"SELF_ID": user})
    assert not same(client, "", {"SELF_ID": user}), "an empty key is none"
    first, second, third = (ask(client, key, SELF_ID=user).content for key in (None, f"l {user}", None))
    assert len({first, second, third}) == 3


def test_what_is_explained_is_repeated_as_it_was_explained(client: httpx.Client, user: int) -> None:
    assert same(client, f"k {user}", {"SELF_ID": user, "explain": True})


@pytest.mark.parametrize("fields", [{}, {"SELF_ID": 0, "session_id": "a tab"}], ids=["without-session", "with-session"])
def test_an_anonymous_request_is_repeated_too(client: httpx.Client, user: int, fields: dict[str, Any]) -> None:
    assert same(client, f"k {user}", fields)


def test_a_repetition_counts_once_and_takes_nothing_from_the_next_page(
    client: httpx.Client, folder: Path, user: int
) -> None:
    before = sum_of_samples(client.get("/metrics").text, "recs_feeds_repeated_total")
    for _ in range(4):
        page = ask(client, f"k {user}", "discover", SELF_ID=user, N_VIDEOS=20).json()["body"]
    assert sum_of_samples(client.get("/metrics").text, "recs_feeds_repeated_total") == before + 3
    following = ask(client, None, "discover", SELF_ID=user, N_VIDEOS=20).json()["body"]
    assert not set(page["resume_ids"]) & set(following["resume_ids"])
    assert "seen" not in following["relaxed"]
    recorded = [record.request_id.hex() for record in feeds_in(folder) if record.user_id == user]
    assert recorded == [page["request_id"], following["request_id"]]


def feeds_in(folder: Path) -> list[FeedRecord]:
    paths = sorted((folder / "data" / "events").glob(f"*{SUFFIX}"))
    records = [decode(payload) for path in paths for payload in scan(path).payloads]
    return [record for record in records if isinstance(record, FeedRecord)]


def test_the_same_request_in_other_words_is_the_same(client: httpx.Client, user: int) -> None:
    fields = {"SELF_ID": user, "N_VIDEOS": 7, "EXCLUDED_IDS": [3, 4]}
    assert same(client, f"k {user}", fields, {"size": 7, "user_id": str(user), "LAST_IDS": "3,4", "something": 1})


@pytest.mark.parametrize(
    "other", [{"N_VIDEOS": 8}, {"EXCLUDED_IDS": [1]}, {"session_id": "s"}, {"explain": True}], ids=str
)
def test_a_key_that_stood_for_other_fields_is_refused(client: httpx.Client, user: int, other: dict[str, Any]) -> None:
    first = ask(client, f"k {user}", SELF_ID=user)
    refused = ask(client, f"k {user}", SELF_ID=user, **other)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "idempotency_conflict"
    assert [detail["field"] for detail in refused.json()["error"]["details"]] == ["Idempotency-Key"]
    assert ask(client, f"k {user}", SELF_ID=user).content == first.content


def test_callers_endpoints_and_users_have_keys_of_their_own(client: httpx.Client, user: int) -> None:
    other = next(_USERS)
    answers = [
        ask(client, f"k {user}", SELF_ID=user),
        ask(client, f"k {user}", SELF_ID=other),
        ask(client, f"k {user}", "discover", SELF_ID=user),
        ask(client, f"k {user}", caller=KEYS[1], SELF_ID=user),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.content for answer in answers}) == 4


@pytest.mark.parametrize(
    "key", ["k" * 255, 'with spaces, commas; and "quotes"', "ñandú".encode(), b"\xff\xfe"], ids=repr
)
def test_any_key_of_up_to_255_characters_will_do(client: httpx.Client, user: int, key: str | bytes) -> None:
    assert same(client, key, {"SELF_ID": user})


def test_a_longer_key_is_refused(client: httpx.Client, user: int) -> None:
    refused = ask(client, "k" * 256, SELF_ID=user)
    assert refused.status_code == 422
    [detail] = refused.json()["error"]["details"]
    assert detail == {"field": "Idempotency-Key", "problem": "must have at most 255 characters, but has 256"}


def test_a_wrong_request_takes_no_key(client: httpx.Client, user: int) -> None:
    assert ask(client, f"k {user}", SELF_ID=user, N_VIDEOS=0).status_code == 422
    assert same(client, f"k {user}", {"SELF_ID": user})


def test_an_answer_outlives_its_catalog(client: httpx.Client, folder: Path, user: int) -> None:
    first = ask(client, f"k {user}", SELF_ID=user)
    before = client.get("/ready").json()["catalog"]
    assert publish_catalog(Settings(data_dir=folder / "data")) != before
    while client.get("/ready").json()["catalog"] == before:
        assert ask(client, f"k {user}", SELF_ID=user).content == first.content
    assert ask(client, f"k {user}", SELF_ID=user).content == first.content


def test_where_the_memory_is_off_a_key_changes_nothing_else(folder: Path, tmp_path: Path, user: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalogs").symlink_to(folder / "data" / "catalogs")
    with logs_left_alone(), served(make_app(tmp_path / "data", event_flusher=False, seen_state=False)) as client:
        answers = [ask(client, f"k {user}", SELF_ID=user) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
