"""The invented operator: its sizes, its sorts of rows, and that a seed fixes all of it."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, select

from recommendation_service.demo import DemoError, LoadReport, load_invented
from recommendation_service.demo.challenges import SHARED_ADDRESSES
from recommendation_service.demo.dirt import Dirt
from recommendation_service.demo.interacpedia import interacpedia_tables
from recommendation_service.demo.schema import RESUME_MODEL, metadata
from recommendation_service.demo.sizes import sizes_at
from recommendation_service.demo.videos import NEAR_TESTS

Query = Callable[..., list[Any]]

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SIZES = sizes_at(0.02)
TEST_WORD = re.compile(r"\b(prueba|test)\b", re.IGNORECASE)


def ago(days: float) -> str:
    return (NOW - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")


def is_test(*texts: str | None) -> bool:
    return any(TEST_WORD.search(text or "") for text in texts)


def digest(engine: Engine) -> str:
    hashed = hashlib.sha256()
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table).order_by(table.c.id)):
                hashed.update(repr(tuple(row)).encode())
    return hashed.hexdigest()


@contextmanager
def database(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    yield engine
    engine.dispose()


def test_the_same_seed_gives_the_same_rows(tmp_path: Path, demo_engine: Engine, demo_report: LoadReport) -> None:
    with database(tmp_path / "again.sqlite") as again, database(tmp_path / "other.sqlite") as other:
        load_invented(again, scale=0.02, now=NOW)
        load_invented(other, scale=0.02, now=NOW, seed=8)

        assert digest(again) == digest(demo_engine)
        assert digest(other) != digest(demo_engine)


def test_the_report_counts_what_was_written(demo: Query, demo_report: LoadReport) -> None:
    for table, rows in demo_report.counts.items():
        assert demo(f"SELECT COUNT(*) FROM {table}")[0][0] == rows
    assert demo_report.dirt == Dirt().as_dict()
    assert demo_report.source == "interacpedia"


def test_todays_sizes_are_the_operators() -> None:
    today = sizes_at(1.0)

    assert (today.users, today.recent_users) == (198_000, 8_600)
    assert (today.resumes, today.creators) == (2_200, 1_200)
    assert today.interactions == 30_000
    assert (today.connections, today.challenges, today.activity_rows) == (900, 130, 400_000)


def test_expected_rows_are_known_before_they_are_made() -> None:
    tables = interacpedia_tables(scale=0.02, seed=7, now=NOW, dirt=Dirt())

    for rows in tables:
        made = sum(len(batch) for batch in rows.batches)
        # Who of the old users has a profile is a matter of chance.
        slack = 100 if rows.table.name == "profiles" else 0
        assert abs(made - rows.expected) <= slack, rows.table.name


@pytest.mark.parametrize("scale", [0, -1, 1000.1, float("nan")])
def test_a_scale_out_of_range_is_refused(empty_engine: Engine, scale: float) -> None:
    with pytest.raises(DemoError, match="scale"):
        load_invented(empty_engine, scale=scale)


def test_the_smallest_scale_still_holds_all_the_dirt(empty_engine: Engine) -> None:
    report = load_invented(empty_engine, scale=0.0001, now=NOW)

    assert report.counts["users"] == 2_000
    assert report.dirt == Dirt().as_dict()


def test_recent_users_have_profiles(demo: Query) -> None:
    recent = demo(
        "SELECT u.id, p.id FROM users u LEFT JOIN profiles p ON p.user_id = u.id "
        "WHERE u.deleted_at IS NULL AND (u.created_at >= :since OR u.updated_at >= :since)",
        since=ago(90),
    )

    assert len(recent) == SIZES.recent_users
    assert all(profile is not None for _, profile in recent)


def test_deleted_and_old_users_are_there_as_well(demo: Query) -> None:
    (deleted_recent,) = demo(
        "SELECT COUNT(*) FROM users WHERE deleted_at IS NOT NULL AND created_at >= :since", since=ago(90)
    )[0]
    (deleted,) = demo("SELECT COUNT(*) FROM users WHERE deleted_at IS NOT NULL")[0]

    assert deleted_recent == SIZES.deleted_recent_users
    assert 0.01 < deleted / SIZES.users < 0.06


def test_eligible_videos_and_their_creators(demo: Query) -> None:
    videos = demo(
        "SELECT r.id, r.user_id, r.video, r.description FROM resumes r JOIN users u ON u.id = r.user_id "
        "WHERE r.deleted_at IS NULL AND u.deleted_at IS NULL AND r.status = 'send' AND r.video IS NOT NULL "
        "AND r.created_at >= :since AND r.created_at <= :now",
        since=ago(360),
        now=ago(0),
    )
    eligible = [row for row in videos if not is_test(row.video, row.description)]

    assert len(eligible) == SIZES.resumes
    assert len({row.user_id for row in eligible}) == SIZES.creators
    assert len({row.video for row in eligible}) == SIZES.resumes
    assert len(videos) - len(eligible) == SIZES.resumes_test_video + SIZES.resumes_test_description
    assert {row.description for row in eligible} >= set(NEAR_TESTS)


def test_every_sort_of_ineligible_video_is_there(demo: Query) -> None:
    rows = demo(
        "SELECT r.*, u.id AS creator, u.deleted_at AS creator_deleted FROM resumes r "
        "LEFT JOIN users u ON u.id = r.user_id"
    )

    assert sum(row.deleted_at is not None for row in rows) == SIZES.resumes_deleted
    assert sum(row.status != "send" for row in rows) == SIZES.resumes_other_status
    assert sum(row.video is None for row in rows) == SIZES.resumes_without_video
    assert sum(row.created_at[:4] > "0000" and row.created_at < ago(360) for row in rows) == SIZES.resumes_old
    assert sum(is_test(row.video) for row in rows) == SIZES.resumes_test_video
    assert sum(is_test(row.description) for row in rows) == SIZES.resumes_test_description
    assert sum(row.creator_deleted is not None for row in rows) == SIZES.resumes_deleted_creator
    assert sum(row.creator is None for row in rows) == Dirt().resumes_user_id_orphaned


def test_eligible_challenges_and_shared_addresses(demo: Query) -> None:
    rows = demo(
        "SELECT c.* FROM challenges c JOIN users u ON u.id = c.user_id WHERE c.deleted_at IS NULL "
        "AND u.deleted_at IS NULL AND c.status = 'published' AND c.video IS NOT NULL "
        "AND (c.created_at >= :since OR c.updated_at >= :since) AND c.created_at <= :now",
        since=ago(90),
        now=ago(0),
    )
    eligible = [row for row in rows if not is_test(row.video, row.description, row.name)]
    addresses = Counter(row.video for row in eligible)

    assert len(addresses) == SIZES.challenges
    assert sum(amount > 1 for amount in addresses.values()) == SHARED_ADDRESSES
    for address, amount in addresses.items():
        twins = sorted((row for row in eligible if row.video == address), key=lambda row: row.id)
        # Newest by id, by creation and by update: nobody has to guess which is meant.
        assert [row.created_at for row in twins] == sorted({row.created_at for row in twins})
        assert [row.updated_at for row in twins] == sorted({row.updated_at for row in twins})
        assert len(twins) == amount


def test_interactions_inside_the_windows(demo: Query) -> None:
    dirt, since = Dirt(), ago(90)
    counted = {
        "ratings": demo(
            "SELECT COUNT(*) FROM team_feedbacks WHERE type = 'ranking_resume' AND value > 0 "
            "AND created_at >= :since AND created_at <= :now",
            since=since,
            now=ago(0),
        ),
        "matches": demo("SELECT COUNT(*) FROM matches WHERE status = 'accepted' AND created_at >= :since", since=since),
        "saves": demo("SELECT COUNT(*) FROM likes WHERE type = 'save' AND created_at >= :since", since=since),
        "views": demo(
            "SELECT COUNT(*) FROM activity_log WHERE description LIKE '#video #view%' "
            "AND subject_type = :model AND subject_id IS NOT NULL AND causer_id IS NOT NULL "
            "AND created_at >= :since AND created_at <= :now",
            model=RESUME_MODEL,
            since=ago(30),
            now=ago(0),
        ),
    }

    assert {kind: rows[0][0] for kind, rows in counted.items()} == {
        "ratings": SIZES.ratings
        + dirt.team_feedbacks_value_above_five
        + dirt.team_feedbacks_model_id_orphaned
        + dirt.team_feedbacks_user_id_null
        + dirt.team_feedbacks_user_id_orphaned,
        "matches": SIZES.accepted_matches + dirt.matches_model_id_orphaned,
        "saves": SIZES.saves + dirt.likes_model_id_orphaned + dirt.likes_user_id_null,
        "views": SIZES.logged_views + dirt.activity_log_subject_id_orphaned,
    }


def test_connections_inside_the_window(demo: Query) -> None:
    statuses = dict(
        tuple(row)
        for row in demo(
            "SELECT status, COUNT(*) FROM user_connections WHERE created_at >= :since GROUP BY status",
            since=ago(90),
        )
    )

    assert statuses == {
        "accepted": SIZES.connections + Dirt().user_connections_to_id_orphaned,
        "pending": SIZES.pending_connections,
    }
    assert demo("SELECT COUNT(*) FROM user_connections WHERE from_id = to_id")[0][0] == 0


def test_the_activity_log_is_mostly_old_or_of_other_kinds(demo: Query) -> None:
    (total,) = demo("SELECT COUNT(*) FROM activity_log")[0]
    (views,) = demo(
        "SELECT COUNT(*) FROM activity_log WHERE description LIKE '#video #view%' AND created_at >= :since",
        since=ago(30),
    )[0]

    assert total == SIZES.activity_rows
    assert views < total / 10


def test_nobody_acts_on_a_video_that_was_not_there_yet(demo: Query) -> None:
    for table in ("team_feedbacks", "matches", "likes"):
        early = demo(
            f"SELECT COUNT(*) FROM {table} t JOIN resumes r ON r.id = t.model_id "
            "WHERE t.created_at < r.created_at AND t.created_at > '0001' "
        )
        assert early[0][0] == 0, table


def test_all_spellings_of_the_cities_occur(demo: Query) -> None:
    cities = {row.city for row in demo("SELECT DISTINCT city FROM users")}

    assert cities >= {"Bogota", "bogota", "Bogotá D.C.", "Bogotá", " Bogotá ", "Medellin", "Medellín"}
    assert cities >= {"Distrito Federal", "Ciudad de México", "CDMX", "Nuevo Leon", "Nuevo León", "Monterrey"}
    assert cities >= {None, ""}
    nowhere = demo("SELECT DISTINCT country FROM users WHERE TRIM(COALESCE(city, '')) = ''")
    assert {row.country for row in nowhere} >= {None, "", "Colombia", "México"}
