"""The demo at a small scale becomes a catalog: as many of everything as were made, and its dirt counted."""

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.demo import load_invented
from recommendation_service.demo.dirt import Dirt
from recommendation_service.demo.sizes import sizes_at
from tests.unit.sources.operator_database import NOW, POLICY, OperatorDatabase, View

SCALE = 0.02
SIZES = sizes_at(SCALE)
DIRT = Dirt()


@pytest.fixture(scope="module")
def sqlite_demo(tmp_path_factory: pytest.TempPathFactory) -> URL:
    url = URL.create("sqlite", database=str(tmp_path_factory.mktemp("demo") / "demo.sqlite"))
    load_invented(create_engine(url, poolclass=NullPool), scale=SCALE, now=NOW)
    return url


@pytest.fixture(scope="module")
def mariadb_demo(module_mariadb_url: URL) -> URL:
    load_invented(create_engine(module_mariadb_url, poolclass=NullPool), scale=SCALE, now=NOW)
    return module_mariadb_url


def view_of(url: URL, folder: Path) -> View:
    settings = OperatorDatabase.settings_of(url, folder)
    return View(build_catalog(OperatorDatabase.reader(settings), settings, POLICY, NOW))


@pytest.fixture(scope="module")
def sqlite_view(sqlite_demo: URL, tmp_path_factory: pytest.TempPathFactory) -> View:
    return view_of(sqlite_demo, tmp_path_factory.mktemp("sqlite-view"))


@pytest.fixture(scope="module")
def mariadb_view(mariadb_demo: URL, tmp_path_factory: pytest.TempPathFactory) -> View:
    return view_of(mariadb_demo, tmp_path_factory.mktemp("mariadb-view"))


@pytest.fixture(params=["sqlite", "mariadb"])
def view(request: pytest.FixtureRequest) -> View:
    found = request.getfixturevalue(f"{request.param}_view")
    assert isinstance(found, View)
    return found


def test_as_much_is_eligible_as_was_made(view: View) -> None:
    counts = view.built.report.counts

    assert counts["users"] == SIZES.recent_users
    assert counts["videos"] == len(view.videos) == SIZES.resumes
    assert counts["video_creators"] == SIZES.creators
    assert counts["challenges"] == len(view.challenges) == SIZES.challenges
    assert counts["connections"] == SIZES.connections + DIRT.user_connections_to_id_orphaned
    assert counts["known_users"] == len(view.users)


def test_interactions_are_those_inside_the_windows(view: View) -> None:
    ratings = SIZES.ratings + DIRT.team_feedbacks_value_above_five
    ratings += DIRT.team_feedbacks_model_id_orphaned + DIRT.team_feedbacks_user_id_orphaned
    matches = SIZES.accepted_matches + DIRT.matches_model_id_orphaned
    saves = SIZES.saves + DIRT.likes_model_id_orphaned
    views = SIZES.logged_views + DIRT.activity_log_subject_id_orphaned

    read = view.built.report.counts["interactions"]

    # Of the other recent activity some are views, too.
    assert ratings + matches + saves + views <= read
    assert read <= ratings + matches + saves + views + SIZES.recent_other_activity


def test_spoiled_lists_are_counted_by_column_and_reason(view: View) -> None:
    aside = Counter(view.set_aside)
    mixed = 3  # entries of a mixed list that are not text

    assert {key: n for key, n in aside.items() if key[0].startswith("profiles.")} == {
        ("profiles.skills", "not JSON"): DIRT.profiles_skills_invalid_json,
        ("profiles.skills", "not a list"): DIRT.profiles_skills_string,
        ("profiles.skills", "entry not text"): DIRT.profiles_skills_mixed_list * mixed,
        ("profiles.languages", "not a list"): DIRT.profiles_languages_string,
        ("profiles.tools", "not JSON"): DIRT.profiles_tools_invalid_json,
        ("profiles.knowledge", "entry not text"): DIRT.profiles_knowledge_mixed_list * mixed,
        ("profiles.skills", "empty"): DIRT.profiles_skills_null,
        ("profiles.languages", "empty"): DIRT.profiles_languages_null,
        ("profiles.tools", "empty"): DIRT.profiles_tools_empty,
    }
    for column, reason, count in [
        ("resumes.skills", "not JSON", DIRT.resumes_skills_invalid_json),
        ("resumes.skills", "not a list", DIRT.resumes_skills_string),
        ("resumes.skills", "entry not text", DIRT.resumes_skills_mixed_list * mixed),
        ("resumes.knowledges", "not a list", DIRT.resumes_knowledges_string),
        ("resumes.knowledges", "entry not text", DIRT.resumes_knowledges_mixed_list * mixed),
        ("resumes.tools", "not JSON", DIRT.resumes_tools_invalid_json),
        ("resumes.role_objectives", "not JSON", DIRT.resumes_role_objectives_invalid_json),
        ("challenges.interest_areas", "not JSON", DIRT.challenges_interest_areas_invalid_json),
        ("challenges.interest_areas", "entry not text", DIRT.challenges_interest_areas_mixed_list * mixed),
        ("challenges.type_objectives", "not a list", DIRT.challenges_type_objectives_string),
    ]:
        assert aside[column, reason] == count, (column, reason)


def test_times_in_the_future_are_counted(view: View) -> None:
    for column, count in [
        ("resumes.created_at", DIRT.resumes_created_at_future),
        ("challenges.created_at", DIRT.challenges_created_at_future),
        ("interactions_ratings.happened_at", DIRT.team_feedbacks_created_at_future),
        ("interactions_views.happened_at", DIRT.activity_log_created_at_future),
    ]:
        assert view.set_aside[column, "date in the future"] == count, column


def test_zero_dates_are_counted(view: View) -> None:
    reason = "zero date or no date"
    found = {column: n for (column, why), n in view.set_aside.items() if why == reason}

    assert {column: n for column, n in found.items() if not column.startswith("users.")} == {
        "resumes.created_at": DIRT.resumes_created_at_zero_date,
        "challenges.created_at": DIRT.challenges_created_at_zero_date,
        "challenges.updated_at": DIRT.challenges_created_at_zero_date,  # such a row has no time at all
        "challenges.status_at": DIRT.challenges_status_at_zero_date,
        "interactions_matches.happened_at": DIRT.matches_created_at_zero_date,
        "interactions_saves.happened_at": DIRT.likes_created_at_zero_date,
        "interactions_views.happened_at": DIRT.activity_log_created_at_zero_date,
        "user_connections.created_at": DIRT.user_connections_created_at_zero_date,
    }


def test_creators_without_a_row_are_counted(view: View) -> None:
    found = Counter[str]()
    for (column, _), count in view.set_aside.items():
        found[column] += count

    assert found["resumes.user_id"] == DIRT.resumes_user_id_orphaned
    assert found["challenges.user_id"] == DIRT.challenges_user_id_orphaned


def test_orphaned_interactions_are_counted(view: View) -> None:
    for column, least in [
        ("interactions_ratings.item_id", DIRT.team_feedbacks_model_id_orphaned),
        ("interactions_matches.item_id", DIRT.matches_model_id_orphaned),
        ("interactions_saves.item_id", DIRT.likes_model_id_orphaned),
        ("interactions_views.item_id", DIRT.activity_log_subject_id_orphaned),
    ]:
        assert view.set_aside[column, "item not in the catalog"] >= least, column


def test_test_rows_are_counted(view: View) -> None:
    expected = SIZES.resumes_test_video + SIZES.resumes_test_description

    assert view.set_aside["resumes", "test row"] == expected


def test_names_as_people_really_type_them_are_in_the_items(view: View) -> None:
    names = " ".join({item["user_name"] for item in view.items})

    for part in ("🎬🇨🇴", '"El Profe"', "</script>"):
        assert part in names


def test_both_databases_give_the_same_catalog(sqlite_view: View, mariadb_view: View) -> None:
    assert sqlite_view.built.item_bodies == mariadb_view.built.item_bodies
    assert sqlite_view.set_aside == mariadb_view.set_aside
    assert sqlite_view.built.report.counts == mariadb_view.built.report.counts


def test_a_demo_catalog_can_be_published_and_opened(view: View, tmp_path: Path) -> None:
    store = CatalogStore(tmp_path / "catalogs", keep=1)

    catalog = store.open(store.publish(view.built))

    assert catalog.counts == view.built.report.counts
    assert catalog.manifest["report"]["warnings"] == []
