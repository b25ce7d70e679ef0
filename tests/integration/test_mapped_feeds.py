"""A team's own tables become feeds: from a mapping to the bytes of `POST /api/feeds/{name}`, with ids that are text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.job_board import (
    experience_of,
    handle_of,
    is_open,
    make_job_board,
    skill_of,
    slug_of,
    town_of,
    years_of,
)

ADS, CANDIDATES = 120, 60
OPEN = {slug_of(place): place for place in range(ADS) if is_open(place)}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("board")
    address, mapping = make_job_board(folder, ads=ADS, candidates=CANDIDATES)
    return Settings(data_dir=folder / "data", database_url=address, mapping_file=mapping, catalog_refresher=False)


def built_and_published(settings: Settings) -> Catalog:
    engine = make_engine(settings)
    try:
        built = build_catalog(open_source(settings, engine), settings, PolicyChoice(settings).policy)
    finally:
        engine.dispose()
    store = CatalogStore(settings.catalog_dir, keep=2)
    return store.open(store.publish(built))


@pytest.fixture(scope="module")
def catalog(board: Settings) -> Catalog:
    return built_and_published(board)


@pytest.fixture(scope="module")
def client(board: Settings, catalog: Catalog) -> Iterator[httpx.Client]:
    options = {"database_url": board.database_url, "mapping_file": board.mapping_file, "event_flusher": False}
    with served(make_app(board.data_dir, **options, seen_megabytes=16)) as client:
        ready = wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)  # kernels may be compiled
        assert ready, client.get("/ready").text
        yield client


def feed(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/feeds/home", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def problems(client: httpx.Client, body: Any) -> dict[str, str]:
    answer = client.post("/api/feeds/home", json=body)
    assert answer.status_code == 422, answer.text
    return {one["field"]: one["problem"] for one in answer.json()["error"]["details"]}


def test_a_catalog_has_the_items_under_their_own_ids(catalog: Catalog) -> None:
    assert catalog.item_types == {"job": 3}
    assert catalog.item_texts is not None
    assert catalog.user_texts is not None
    assert set(catalog.item_texts.of_rows(range(len(catalog.arrays.item_id)))) == OPEN.keys()
    users = set(catalog.user_texts.of_rows(range(len(catalog.arrays.user_id))))
    assert users == {handle_of(place) for place in range(CANDIDATES)}


def test_a_feed_has_the_items_with_their_fields_under_the_teams_names(client: httpx.Client) -> None:
    content = feed(client, user=handle_of(0), size=10)

    assert len(content["ids"]) == 10
    assert len(set(content["ids"])) == 10
    assert set(content["ids"]) <= OPEN.keys()
    assert [item["id"] for item in content["items"]] == content["ids"]
    assert content["items"][0] == {
        "type": "job",
        "id": content["ids"][0],
        "title": f"Ad {OPEN[content['ids'][0]]}",
        "town": town_of(OPEN[content["ids"][0]]),
        "years": years_of(OPEN[content["ids"][0]]),
    }


def test_a_candidate_gets_mostly_what_fits_the_skills_and_nothing_that_was_applied_for(client: httpx.Client) -> None:
    fits: Counter[bool] = Counter()
    for user in (0, 2, 3, 4):
        for one in feed(client, user=handle_of(user), size=8)["ids"]:
            fits[skill_of(OPEN[one]) == skill_of(user)] += 1

    assert fits[True] > fits[False]


def test_nobody_sees_an_item_twice_in_a_session_nor_what_is_excluded(client: httpx.Client) -> None:
    first = feed(client, user=handle_of(5), size=20, session="one")["ids"]
    excluded = next(one for one in OPEN if one not in first)
    second = feed(client, user=handle_of(5), size=20, session="one", exclude=[excluded])["ids"]

    assert not set(first) & set(second)
    assert excluded not in second


def test_anonymous_and_unknown_people_get_feeds(client: httpx.Client) -> None:
    assert len(feed(client)["ids"]) == 24
    assert len(feed(client, user="nobody-we-know")["ids"]) == 24


def test_a_filter_holds_for_every_item(client: httpx.Client) -> None:
    for town in ("Cusco", " cusco "):
        ids = feed(client, size=24, filters={"town": town})["ids"]
        assert {town_of(OPEN[one]) for one in ids} == {"Cusco"}
    assert {town_of(OPEN[one]) for one in feed(client, size=60)["ids"]} == {"Lima", "Cusco", "Puno"}
    assert feed(client, filters={"town": "Atlantis"})["ids"] == []


def test_a_users_own_value_holds_where_the_request_says_none(client: httpx.Client) -> None:
    assert experience_of(1) == 2
    own = [years_of(OPEN[one]) for one in feed(client, user=handle_of(1), size=20)["ids"]]
    asked = [years_of(OPEN[one]) for one in feed(client, user=handle_of(1), size=20, filters={"experience": 0})["ids"]]
    others = [years_of(OPEN[one]) for one in feed(client, user=handle_of(8), size=60)["ids"]]

    assert all(years is not None and years <= 2 for years in own)
    assert set(asked) == {0}
    assert None in others
    assert 4 in others


def test_an_explained_item_says_its_slot_by_the_mappings_name(client: httpx.Client) -> None:
    content = feed(client, user=handle_of(0), size=6, explain=True)

    assert {item["why"]["slot"] for item in content["items"]} <= {"for_you", "popular", "new"}


def test_an_explained_item_has_what_a_mapping_fills_by_the_mappings_words(client: httpx.Client) -> None:
    whys = [item["why"] for item in feed(client, user=handle_of(0), size=20, explain=True)["items"]]
    features = {"engagement", "newness", "popularity", "term_count", "similar_terms", "shared_terms", "friends"}
    features |= {"taken", "rarity", "quality_gate", "reach", "hand_set_score", "together", "trending"}

    assert all(set(why["features"]) == set(why["contributions"]) == features for why in whys)
    terms = {name for why in whys for name in why["terms"]}
    assert (
        {"popularity", "closeness", "together", "friends"}
        <= terms
        <= {"popularity", "closeness", "together", "friends", "newness"}
    )
    for why in whys:  # nothing that counts is left out
        assert sum(why["contributions"].values()) == pytest.approx(why["expected"], abs=1e-9)
        assert sum(why["terms"].values()) == pytest.approx(10 * why["features"]["hand_set_score"], rel=1e-4)


@pytest.mark.parametrize("more", [{}, {"colour": 1}, {"session": 5}])
def test_every_wrong_field_is_named_at_once(client: httpx.Client, more: dict[str, Any]) -> None:
    """Whether it is of another type, or not there, or of a value that cannot be."""
    found = problems(
        client, {"user": 7, "size": 101, "exclude": ["a", 3], "filters": {"colour": "red", "town": 1.5}} | more
    )

    assert set(found) == {"user", "size", "exclude.1", "filters.colour", *more}
    assert "town, experience" in found["filters.colour"]
    assert set(problems(client, {"usr": "x", "size": "many", "exclude": [None]})) == {"usr", "size", "exclude.0"}


def test_the_document_has_the_feeds_and_the_teams_fields(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    assert "/api/feeds/home" in document["paths"]
    assert "/api/search/total" not in document["paths"]
    assert set(document["components"]["schemas"]["Item.job"]["properties"]) == {
        *("type", "id", "title", "town", "years", "why")
    }


def test_a_build_of_nothing_is_an_error_with_the_reason(board: Settings, tmp_path: Path) -> None:
    empty = tmp_path / "mapping.toml"
    assert board.mapping_file is not None
    empty.write_text(board.mapping_file.read_text().replace("WHERE open = 1", "WHERE open = 2"))
    settings = board.model_copy(update={"mapping_file": empty})

    with pytest.raises(SourceError, match=r"there is nothing to show: items\.job gave no rows$"):
        built_and_published(settings)
