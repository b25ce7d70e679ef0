"""A catalog knows of each row that its build kept out which rule it broke, and says so to whoever misses the item."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from recommendation_service.catalog.inspection import describe_item
from recommendation_service.catalog.rejections import RULES, rejected
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.errors import CatalogError
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.item_keys import LARGEST_ITEM, NamedItem, item_key
from tests.support.old_catalogs import published_without_rejections
from tests.unit.sources.operator_database import OperatorDatabase, ago


@pytest.fixture
def database(sqlite_url: URL, tmp_path: Path) -> OperatorDatabase:
    return OperatorDatabase(sqlite_url, tmp_path)


def test_the_rule_that_each_row_broke_is_kept_and_said(database: OperatorDatabase, tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.write_text("bad.mp4\n")
    expected = {}
    for item_type, table in ((RESUME, "resumes"), (CHALLENGE, "challenges")):
        expected |= {
            item_key(item_type, database.add(table, **values)): rule
            for rule, values in {
                "unknown_creator": {"user_id": 999_999},
                "no_video": {"video": "  "},
                "blacklisted": {"video": "bad.mp4"},
                "test_row": {"description": "una prueba"},
            }.items()
        }
    future = ago(days=-30)
    expected[item_key(RESUME, database.add("resumes", created_at=future))] = "no_time"
    expected[item_key(CHALLENGE, database.add("challenges", created_at=future, updated_at=future))] = "no_time"
    older = database.add("challenges", video="same.mp4", created_at=ago(days=9))
    newer = database.add("challenges", video="same.mp4", created_at=ago(days=2))
    expected[item_key(CHALLENGE, older)] = "superseded"
    shown = database.add("resumes")

    built = database.build(blacklist_file=blacklist, test_row_words="prueba").built
    store = CatalogStore(tmp_path / "catalogs", keep=1)
    catalog = store.open(store.publish(built))

    assert catalog.rejected is not None
    assert {key: catalog.rejected.rule_of(key) for key in expected} == expected
    assert catalog.rejected.keys.tolist() == sorted(expected)
    for key in (item_key(RESUME, shown), item_key(CHALLENGE, newer), item_key(RESUME, LARGEST_ITEM)):
        assert catalog.rejected.rule_of(key) is None
    names = store.names(catalog.version)
    with pytest.raises(CatalogError, match="broke the rule superseded"):
        describe_item(catalog, names, NamedItem(CHALLENGE, older, older))
    for nobody in (LARGEST_ITEM, LARGEST_ITEM + 1, 0, -3):
        with pytest.raises(CatalogError, match="read no such row"):
            describe_item(catalog, names, NamedItem(RESUME, nobody, nobody))
    assert describe_item(catalog, names, NamedItem(RESUME, shown, shown))["item"]["id"] == shown


def test_rows_of_a_release_with_further_rules_have_their_names() -> None:
    ours = rejected({7: RULES[1], 3: RULES[0]})
    assert ours.keys.tolist() == [3, 7]
    theirs = ours._replace(names=["another", *RULES[1:]])
    assert (theirs.rule_of(3), theirs.rule_of(7), theirs.rule_of(5)) == ("another", RULES[1], None)
    assert ours._replace(names=[]).rule_of(3) is None


def test_a_catalog_of_an_earlier_release_is_read_and_knows_no_rule(database: OperatorDatabase, tmp_path: Path) -> None:
    database.add("resumes")
    store = CatalogStore(tmp_path / "catalogs", keep=1)
    catalog = store.open(published_without_rejections(store, database.build().built))
    assert catalog.rejected is None
    with pytest.raises(CatalogError, match="see the rules of eligibility"):
        describe_item(catalog, store.names(catalog.version), NamedItem(RESUME, 999_999, 999_999))
