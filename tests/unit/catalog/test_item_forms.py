"""Items are served in the form of today, whoever built the catalog."""

import json
import mmap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.model.item_keys import LARGEST_ITEM
from tests.support.old_catalogs import published_with_text_ids
from tests.unit.sources.operator_database import OperatorDatabase

ZONES = {"UTC": False, "Z": True}
NAME = 'Ana "created_at":"2020-01-01T00:00:00Z" 🎬'


@pytest.fixture
def database(sqlite_url: URL, tmp_path: Path) -> OperatorDatabase:
    database = OperatorDatabase(sqlite_url, tmp_path)
    creator = database.add("users", name=NAME)
    for number in (7, LARGEST_ITEM):
        database.add("resumes", id=number, user_id=creator, description="ñandú Z")
    database.add(
        "challenges",
        id=7,
        user_id=creator,
        created_at="2026-11-21 09:00:00",
        updated_at=None,
        status_at="2026-11-22 10:00:00",
    )
    return database


def items_of(catalog: Catalog) -> list[dict[str, Any]]:
    return [json.loads(catalog.item_json(number)) for number in range(len(catalog.arrays.item_id))]


def assert_is_in_todays_form(catalog: Catalog, zone: str) -> None:
    items = items_of(catalog)
    assert [(item["type"], item["id"]) for item in items] == [
        ("resume", 7), ("resume", LARGEST_ITEM), ("challenge", 7),
    ]  # fmt: skip
    challenge = items[-1]
    mark = "Z" if zone == "Z" else ""
    assert challenge["created_at"] == f"2026-11-21T09:00:00{mark}"
    assert challenge["status_at"] == f"2026-11-22T10:00:00{mark}"
    assert challenge["updated_at"] == ""
    assert all(item["user_name"] == NAME for item in items)
    assert all(item["description"] == "ñandú Z" for item in items[:2])
    assert catalog.item_bytes.readonly
    assert not catalog.item_offsets.flags.writeable


@pytest.mark.parametrize("zone", ZONES, ids=["served without zone", "served with zone"])
def test_what_was_built_under_another_setting_is_served_under_this_one(
    database: OperatorDatabase, tmp_path: Path, zone: str
) -> None:
    store = CatalogStore(tmp_path / "catalogs", 3, zone)

    version = store.publish(database.build(item_times_with_zone=not ZONES[zone]).built)

    assert_is_in_todays_form(store.open(version), zone)


@pytest.mark.parametrize("zone", ZONES, ids=["served without zone", "served with zone"])
def test_what_the_release_before_built_is_served_as_today(
    database: OperatorDatabase, tmp_path: Path, zone: str
) -> None:
    """Its items have ids in quotes and times in Z, and its manifest says nothing of them."""
    store = CatalogStore(tmp_path / "catalogs", 3, zone)

    version = published_with_text_ids(store, database.build(item_times_with_zone=True).built)

    assert store.verify(version) == []
    assert_is_in_todays_form(store.open(version), zone)


@pytest.mark.parametrize("zone", ["America/Bogota", "-05:00"])
def test_times_are_of_another_zone_where_the_setting_was_another(
    database: OperatorDatabase, tmp_path: Path, zone: str
) -> None:
    """The tables' own clock says nine; so it does in items without a zone, and fourteen in Z."""
    plain, zoned = (
        database.build(mysql_time_zone=zone, item_times_with_zone=with_zone).built for with_zone in (False, True)
    )
    for built in (plain, zoned):
        for serving, expected in ((zone, "2026-11-21T09:00:00"), ("Z", "2026-11-21T14:00:00Z")):
            store = CatalogStore(tmp_path / "catalogs", 3, serving)
            assert items_of(store.open(store.publish(built)))[-1]["created_at"] == expected


@pytest.mark.parametrize("written", ["UTC", "America/Bogota"])
def test_without_a_zone_a_time_is_what_the_tables_say(database: OperatorDatabase, tmp_path: Path, written: str) -> None:
    store = CatalogStore(tmp_path / "catalogs", 3, "-05:00")
    version = store.publish(database.build(mysql_time_zone=written).built)
    assert items_of(store.open(version))[-1]["created_at"] == "2026-11-21T09:00:00"


@pytest.mark.parametrize("zone", ZONES, ids=["without zone", "with zone"])
def test_a_version_of_todays_form_stays_a_map_of_its_files(
    database: OperatorDatabase, tmp_path: Path, zone: str
) -> None:
    store = CatalogStore(tmp_path / "catalogs", 3, zone)

    catalog = store.open(store.publish(database.build(item_times_with_zone=ZONES[zone]).built))

    assert isinstance(catalog.item_bytes.obj, mmap.mmap)
    assert_is_in_todays_form(catalog, zone)
