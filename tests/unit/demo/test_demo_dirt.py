"""Each kind of dirt is there, exactly as often as `Dirt` says."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from recommendation_service.demo.dirt import SPOILED_LISTS, ZERO_DATE, Dirt

Query = Callable[..., list[Any]]

DIRT = Dirt()
JSON_COLUMNS = {
    "profiles": (
        "skills",
        "languages",
        "tools",
        "knowledge",
        "hobbies",
        "type_talentees",
        "opencall_objective",
    ),
    "resumes": ("skills", "knowledges", "tools", "languages", "role_objectives"),
    "challenges": ("interest_areas", "type_objectives"),
}
NOW = "2026-11-24 12:00:00"


def kind_of(value: str | None) -> str | None:
    """How a list is spoiled, judged by what it is and not by how the demo writes it."""
    if value is None:
        return "null"
    if not value.strip():
        return "empty"
    try:
        decoded = json.loads(value)
    except ValueError:
        return "invalid_json"
    if not isinstance(decoded, list):
        return "string"
    return None if all(isinstance(word, str) for word in decoded) else "mixed_list"


def test_json_columns_are_spoiled_in_every_way(demo: Query) -> None:
    for table, columns in JSON_COLUMNS.items():
        wanted = {key: n for key, n in DIRT.of_table(table).items() if key[1] in SPOILED_LISTS}
        wanted = {key: n for key, n in wanted.items() if key[0] in columns}
        found: Counter[tuple[str, str]] = Counter()
        for column in columns:
            kinds = [kind_of(row[0]) for row in demo(f"SELECT {column} FROM {table}")]
            found.update((column, kind) for kind in kinds if kind is not None)
        assert dict(found) == wanted, table


def test_every_way_of_spoiling_a_list_is_used() -> None:
    for table in ("profiles", "resumes"):
        kinds = {kind for _, kind in DIRT.of_table(table)}
        assert kinds >= {"invalid_json", "string", "mixed_list", "null", "empty"}


def test_names_are_spoiled_and_belong_to_creators_of_eligible_videos(demo: Query) -> None:
    rows = demo("SELECT id, name FROM users")
    names = [row.name for row in rows]

    assert sum(name is None for name in names) == DIRT.users_name_null
    assert sum(name == "" for name in names) == DIRT.users_name_empty
    present = [name for name in names if name]
    assert sum("🎬" in name for name in present) == DIRT.users_name_emoji
    assert sum('"' in name and "'" in name for name in present) == DIRT.users_name_quotes
    assert sum("</script>" in name for name in present) == DIRT.users_name_script

    creators = {row.user_id for row in demo("SELECT user_id FROM resumes WHERE status = 'send'")}
    spoiled = {row.id for row in rows if not row.name or "🎬" in row.name or "</script>" in row.name}
    assert spoiled <= creators


def test_descriptions_are_missing(demo: Query) -> None:
    assert count(demo, "resumes", "description IS NULL") == DIRT.resumes_description_null
    assert count(demo, "resumes", "description = ''") == DIRT.resumes_description_empty
    assert count(demo, "challenges", "description IS NULL") == DIRT.challenges_description_null


def test_dates_are_zero_or_in_the_future(demo: Query) -> None:
    for table, column in (
        ("users", "created_at"),
        ("users", "updated_at"),
        ("resumes", "created_at"),
        ("challenges", "created_at"),
        ("challenges", "status_at"),
        ("team_feedbacks", "created_at"),
        ("matches", "created_at"),
        ("likes", "created_at"),
        ("activity_log", "created_at"),
        ("user_connections", "created_at"),
    ):
        amounts = DIRT.of_table(table)
        zero = count(demo, table, f"{column} = '{ZERO_DATE}'")
        assert zero == amounts.get((column, "zero_date"), 0), (table, column)
        if column == "created_at":
            future = count(demo, table, f"{column} > '{NOW}'")
            assert future == amounts.get((column, "future"), 0), (table, column)


def test_ratings_leave_their_scale(demo: Query) -> None:
    ranking = "type = 'ranking_resume' AND"

    assert count(demo, "team_feedbacks", f"{ranking} value > 5") == DIRT.team_feedbacks_value_above_five
    assert count(demo, "team_feedbacks", f"{ranking} value = 0") == DIRT.team_feedbacks_value_zero
    assert count(demo, "team_feedbacks", f"{ranking} value < 0") == DIRT.team_feedbacks_value_negative


def test_rows_point_at_nothing(demo: Query) -> None:
    no_resume = "NOT IN (SELECT id FROM resumes)"
    no_user = "NOT IN (SELECT id FROM users)"
    assert count(demo, "team_feedbacks", f"model_id {no_resume}") == DIRT.team_feedbacks_model_id_orphaned
    assert count(demo, "team_feedbacks", f"user_id {no_user}") == DIRT.team_feedbacks_user_id_orphaned
    assert count(demo, "team_feedbacks", "user_id IS NULL") == DIRT.team_feedbacks_user_id_null
    assert count(demo, "matches", f"model_id {no_resume}") == DIRT.matches_model_id_orphaned
    assert count(demo, "likes", f"model_id {no_resume}") == DIRT.likes_model_id_orphaned
    assert count(demo, "likes", "user_id IS NULL") == DIRT.likes_user_id_null
    assert count(demo, "views", f"model_id {no_resume}") == DIRT.views_model_id_orphaned
    exhibited = count(demo, "resumes_exhibited", f"resume_id {no_resume}")
    assert exhibited == DIRT.resumes_exhibited_resume_id_orphaned
    viewed = "description LIKE '#video #view%' AND subject_type LIKE '%Resume' AND"
    unseen = count(demo, "activity_log", f"{viewed} subject_id {no_resume}")
    assert unseen == DIRT.activity_log_subject_id_orphaned
    assert count(demo, "activity_log", f"{viewed} subject_id IS NULL") == DIRT.activity_log_subject_id_null
    assert count(demo, "activity_log", "causer_id IS NULL") == DIRT.activity_log_causer_id_null
    assert count(demo, "user_connections", f"to_id {no_user}") == DIRT.user_connections_to_id_orphaned
    assert count(demo, "profiles", f"user_id {no_user}") == DIRT.profiles_user_id_orphaned
    assert count(demo, "challenges", f"user_id {no_user}") == DIRT.challenges_user_id_orphaned


def count(demo: Query, table: str, condition: str) -> int:
    amount: int = demo(f"SELECT COUNT(*) FROM {table} WHERE {condition}")[0][0]
    return amount
