"""What is like an item, what is popular, what came last, over HTTP: of a team's own tables with ids that are text."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.mappings.opening import open_source
from recommendation_service.model.text_ids import LONGEST_TEXT_ID
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.serving.lists import Asked, in_order, row_of, similar
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until
from tests.support.job_board import handle_of, is_open, make_job_board, skill_of, slug_of, town_of, years_of
from tests.support.old_catalogs import published_without_orders

ADS = 120
OPEN = {slug_of(place): place for place in range(ADS) if is_open(place)}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("board")
    address, mapping = make_job_board(folder, ads=ADS)
    return Settings(data_dir=folder / "data", database_url=address, mapping_file=mapping, catalog_refresher=False)


@pytest.fixture(scope="module")
def catalog(board: Settings) -> Catalog:
    return built_and_published(board)


@pytest.fixture(scope="module")
def client(board: Settings, catalog: Catalog) -> Iterator[httpx.Client]:
    options = {"database_url": board.database_url, "mapping_file": board.mapping_file, "event_flusher": False}
    with served(make_app(board.data_dir, **options, seen_megabytes=16)) as client:
        ready = wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        assert ready, client.get("/ready").text
        yield client


def listed(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/api{path}", params={name.replace("__", "."): value for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    assert [item["id"] for item in content["items"]] == content["ids"]
    return content


def problems(client: httpx.Client, path: str) -> dict[str, str]:
    answer = client.get(f"/api{path}")
    assert answer.status_code == 422, answer.text
    return {one["field"]: one["problem"] for one in answer.json()["error"]["details"]}


def posted(board: Settings) -> list[str]:
    """Open ads, the latest first."""
    assert board.database_url is not None
    with (
        closing(sqlite3.connect(board.database_url.get_secret_value().removeprefix("sqlite:///"))) as connection,
        connection,
    ):
        return [slug for (slug,) in connection.execute("SELECT slug FROM ads WHERE open = 1 ORDER BY posted DESC")]


def test_latest_is_in_the_order_of_time_page_by_page(client: httpx.Client, board: Settings) -> None:
    expected = posted(board)
    found, offset = [], 0
    while offset is not None:
        content = listed(client, "/latest", size=25, offset=offset)
        found += content["ids"]
        offset = content["next"]

    assert found == expected
    assert content["ids"] == expected[100:]


def test_popular_begins_with_what_most_applied_for(client: httpx.Client, catalog: Catalog) -> None:
    trending = dict(zip(catalog.orders.popular.tolist(), catalog.arrays.trending[catalog.orders.popular], strict=True))
    content = listed(client, "/popular", size=100)
    values = [trending[row_of(catalog, "job", one)] for one in content["ids"]]

    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)
    assert set(content["ids"]) <= OPEN.keys()


def test_lists_hold_what_passes_filters_alone(client: httpx.Client) -> None:
    for path in ("/popular", "/latest", f"/items/job/{slug_of(0)}/similar"):
        ids = listed(client, path, filters__town="cusco", filters__experience="2", size=50)["ids"]
        assert ids, path
        assert {town_of(OPEN[one]) for one in ids} == {"Cusco"}
        assert all((years_of(OPEN[one]) or 0) <= 2 for one in ids)


def test_a_persons_own_values_hold_where_the_query_says_none(client: httpx.Client) -> None:
    own = listed(client, "/popular", user=handle_of(1), size=100)["ids"]
    other = listed(client, "/popular", user=handle_of(1), filters__experience=4, size=100)["ids"]

    assert max(years_of(OPEN[one]) or 0 for one in own) == 2
    assert max(years_of(OPEN[one]) or 0 for one in other) == 4


def test_similar_is_what_people_take_together_and_what_shares_terms(client: httpx.Client, catalog: Catalog) -> None:
    arrays = catalog.arrays
    row = next(row for row, after in enumerate(np.diff(arrays.neighbour_offsets)) if 2 <= after <= 20)
    start, end = arrays.neighbour_offsets[row : row + 2]
    one = str(catalog.id_of(row))
    taken = {str(catalog.id_of(item)) for item in arrays.neighbour_items[start:end].tolist()}
    ids = listed(client, f"/items/job/{one}/similar", size=100)["ids"]
    alike = [other for other in OPEN if skill_of(OPEN[other]) == skill_of(OPEN[one]) and other != one]

    assert one not in ids
    assert len(set(ids)) == len(ids)
    assert set(ids) == taken | set(alike)
    # Each ad wants one skill, so that of ads that want the same those that people took together come first.
    places = [place for place, other in enumerate(ids) if other in taken and other in alike]
    assert places == list(range(len(places)))
    assert places
    assert listed(client, f"/items/job/{one}/similar", size=3, offset=2)["ids"] == ids[2:5]


def test_what_everybody_takes_is_not_like_everything(tmp_path: Path) -> None:
    address, mapping = make_job_board(tmp_path, ads=60)
    hit = next(place for place in range(60) if is_open(place))
    with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as connection, connection:
        applied = connection.execute(
            "SELECT DISTINCT candidate, max(sent) FROM applications GROUP BY candidate"
        ).fetchall()
        connection.executemany(
            "INSERT OR IGNORE INTO applications VALUES (?, ?, ?)", [(who, slug_of(hit), when) for who, when in applied]
        )
    catalog = built_and_published(Settings(data_dir=tmp_path / "data", database_url=address, mapping_file=mapping))
    arrays, everything = catalog.arrays, Asked((0, len(catalog.arrays.item_id)), None, 0, 60)
    row = row_of(catalog, "job", slug_of(hit))
    others = [place for place in range(60) if is_open(place) and skill_of(place) != skill_of(hit)]
    rows = [row_of(catalog, "job", slug_of(place)) for place in others]
    firsts = Counter(similar(catalog, other, everything)[0] for other in rows)
    taken_with = [row in arrays.neighbour_items[slice(*arrays.neighbour_offsets[other : other + 2])] for other in rows]

    assert int(np.argmax(arrays.trending)) == row
    assert np.mean(taken_with) > 0.5
    assert firsts[row] == 0


def test_without_interactions_similar_is_what_shares_the_rarest_terms(tmp_path: Path) -> None:
    address, mapping = make_job_board(tmp_path, ads=60)
    with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DELETE FROM applications")
        connection.execute("INSERT INTO applications VALUES (?, ?, ?)", (handle_of(0), slug_of(0), "2026-01-01"))
        for place in (3, 5, 7):
            connection.execute("INSERT INTO ad_skills VALUES (?, 'falconry')", (slug_of(place),))
        connection.executemany("INSERT INTO ad_skills VALUES (?, 'patience')", [(slug_of(ad),) for ad in range(60)])
    catalog = built_and_published(Settings(data_dir=tmp_path / "data", database_url=address, mapping_file=mapping))
    everything = Asked((0, len(catalog.arrays.item_id)), None, 0, 60)
    order = [str(catalog.id_of(row)) for row in similar(catalog, row_of(catalog, "job", slug_of(3)), everything)]

    assert not len(catalog.arrays.neighbour_items)
    assert set(order[:2]) == {slug_of(5), slug_of(7)}
    assert len(order) == 53  # of 54 that are open, as all share patience
    assert {skill_of(int(one.split("-")[1])) for one in order[2:8]} == {skill_of(3)}


def test_no_list_holds_what_is_withdrawn(client: httpx.Client) -> None:
    closed = slug_of(9)
    answer = client.get(f"/api/items/job/{closed}/similar")

    assert not is_open(9)
    assert answer.status_code == 404
    assert "may be shown" in answer.json()["error"]["message"]
    assert "/api/popular" in answer.json()["error"]["message"]
    everything = Counter(listed(client, "/latest", size=100)["ids"] + listed(client, "/latest", offset=100)["ids"])
    assert everything == Counter(OPEN.keys())


def test_whatever_is_wrong_with_a_query_is_told_at_once(client: httpx.Client) -> None:
    found = problems(client, "/items/film/1/similar?size=0&offset=x&filters.colour=red&filters.experience=few&sise=3")

    assert set(found) == {"type", "size", "offset", "filters.colour", "filters.experience", "sise"}
    assert found["type"] == 'there is no type "film"; the types are job'
    assert found["size"] == "must be from 1 to 100, but is 0"
    assert "filters.town, filters.experience" in found["sise"]
    assert problems(client, "/popular?size=2&size=3&user=") == {
        "size": "must be there once, but is there 2 times",
        "user": f"must be text of 1 to {LONGEST_TEXT_ID} characters, as ids of users are text",
    }


def test_a_feed_that_is_not_there_names_those_that_are(client: httpx.Client) -> None:
    answer = client.post("/api/feeds/hoem", json={})

    assert answer.status_code == 404
    assert answer.json()["error"]["details"] == [{"field": "name", "problem": 'is "hoem"; the feeds are home'}]


def test_the_document_has_the_lists_in_the_teams_words(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    names = {
        (one["in"], one["name"]) for one in document["paths"]["/api/items/{type}/{id}/similar"]["get"]["parameters"]
    }

    assert {("path", "type"), ("query", "filters.town"), ("query", "filters.experience"), ("query", "user")} <= names
    assert document["paths"]["/api/popular"]["get"]["parameters"][0]["schema"] == {"enum": ["job"]}
    assert document["components"]["schemas"]["ItemList"]["properties"]["items"]["items"] == {
        "anyOf": [{"$ref": "#/components/schemas/Item.job"}]
    }


def test_a_version_of_an_earlier_release_has_the_same_orders(board: Settings, catalog: Catalog, tmp_path: Path) -> None:
    """It has no files of them, so they are computed when it is opened."""
    engine = make_engine(board)
    try:
        built = build_catalog(open_source(board, engine), board, PolicyChoice(board).policy)
    finally:
        engine.dispose()
    store = CatalogStore(tmp_path / "catalogs", keep=1)
    older = store.open(published_without_orders(store, built))

    assert older.orders.latest.tolist() == catalog.orders.latest.tolist()
    assert older.arrays.trending[older.orders.popular].tolist() == sorted(older.arrays.trending.tolist(), reverse=True)


def test_a_rare_type_is_found_however_far_down_an_order_it_is() -> None:
    order = np.arange(100_000, dtype=np.int32)

    assert in_order(order, Asked((99_000, 99_010), None, 8, 5)) == list(range(99_000, 99_010))
    assert in_order(order, Asked((99_000, 99_010), None, 0, 5)) == list(range(99_000, 99_006))
