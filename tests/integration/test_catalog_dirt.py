"""The operator's dirty data: no value stops a build, and each that was set aside is counted by column."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sources.operator_database import ZERO_DATE, OperatorDatabase, View, ago, operator_database

LIST_COLUMNS = [
    ("profiles", "skills"),
    ("profiles", "languages"),
    ("profiles", "tools"),
    ("profiles", "knowledge"),
    ("resumes", "skills"),
    ("resumes", "knowledges"),
    ("resumes", "tools"),
    ("resumes", "languages"),
    ("resumes", "role_objectives"),
    ("challenges", "interest_areas"),
    ("challenges", "type_objectives"),
]
# What is stored, what can be made of it, and why how many values were set aside.
LISTS: dict[str, tuple[str, list[str], str, int]] = {
    "invalid JSON": ('["Canto", "Bai', [], "not JSON", 1),
    "no JSON at all": ("Canto, Baile", [], "not JSON", 1),
    "blank": ("   ", [], "not JSON", 1),
    "half a surrogate": ('["\\ud83d"]', [], "not JSON", 1),
    "nested too deeply": ("[" * 100_000, [], "not JSON", 1),
    "a string": ('"Canto"', [], "not a list", 1),
    "a number": ("7", [], "not a list", 1),
    "an object": ('{"a": "Canto"}', [], "not a list", 1),
    "an object with a numbered key and another": ('{"0": "Canto", "a": "Baile"}', [], "not a list", 1),
    "an object with numbered keys": ('{"0": "Canto", "10": null, "2": "Baile"}', ["Canto", "Baile"], "", 1),
    "JSON in JSON": (json.dumps('["Canto", "Baile"]'), ["Canto", "Baile"], "", 0),
    "JSON in JSON in JSON": (json.dumps(json.dumps('["Canto", "Baile"]')), ["Canto", "Baile"], "", 0),
    "an object with numbered keys, in JSON": (json.dumps('{"1": "Canto", "3": "Baile"}'), ["Canto", "Baile"], "", 0),
    "invalid JSON in JSON": (json.dumps('["Canto", "Bai'), [], "not JSON", 1),
    "a string in JSON in JSON": (json.dumps('"Canto"'), [], "not a list", 1),
    "nulls and numbers": (
        '["Canto", null, 7, 1e3, true, ["x"], {"a": 1}, "Baile"]',
        ["Canto", "Baile"],
        "",
        6,
    ),
    "empty entries": ('["", "  ", " Canto "]', ["Canto"], "", 2),
    "only nulls": ("[null, null]", [], "", 2),
}
FUTURE = ago(days=-400)
HUGE = 2**63 + 5


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


def list_of(database: OperatorDatabase, view: View, table: str, column: str, row: int) -> list[str]:
    """What a build made of a list column of the row: tokens are compared without regard to case."""
    if table == "profiles":
        return view.profile(row)
    if column in {"role_objectives", "interest_areas", "type_objectives"}:
        item = view.video(row) if table == "resumes" else view.challenge(row)
        return list(item[column])
    return view.tokens(row)


@pytest.mark.parametrize(("table", "column"), LIST_COLUMNS)
def test_a_list_that_is_none_counts_as_absent_and_is_counted(
    database: OperatorDatabase, table: str, column: str
) -> None:
    rows: dict[str, int] = {}
    for kind, (stored, *_) in LISTS.items():
        if table == "profiles":
            rows[kind] = database.add("users", updated_at=ago(days=1))
            database.add("profiles", user_id=rows[kind], **{column: stored})
        else:
            rows[kind] = database.add(table, **{column: stored})

    view = database.build()

    lowered = table == "profiles" or column in {"skills", "knowledges", "tools", "languages"}
    absent = ["hire"] if column == "type_objectives" else []
    found = {kind: list_of(database, view, table, column, row) for kind, row in rows.items()}
    assert found == {
        kind: [entry.casefold() for entry in kept] if lowered else (kept or absent)
        for kind, (_, kept, _, _) in LISTS.items()
    }
    aside = {why: n for (name, why), n in view.set_aside.items() if name == f"{table}.{column}"}
    assert aside == {
        "not JSON": sum(why == "not JSON" for _, _, why, _ in LISTS.values()),
        "not a list": sum(why == "not a list" for _, _, why, _ in LISTS.values()),
        "entry not text": sum(n for _, _, why, n in LISTS.values() if not why),
    }


@pytest.mark.parametrize(("table", "column"), LIST_COLUMNS)
@pytest.mark.parametrize("stored", [None, "", "null", "[]"])
def test_an_absent_list_is_an_empty_one(
    database: OperatorDatabase, table: str, column: str, stored: str | None
) -> None:
    if table == "profiles":
        row = database.add("users", updated_at=ago(days=1))
        database.add("profiles", user_id=row, **{column: stored})
    else:
        row = database.add(table, **{column: stored})

    found = list_of(database, database.build(), table, column, row)

    assert found == (["hire"] if column == "type_objectives" else [])


TEXTS: dict[str, str | None] = {
    "null": None,
    "empty": "",
    "emoji": "Ana 🎬🇨🇴👩‍💻",
    "quotes": 'Ana "El Profe" O\'Higgins \\ `x`',
    "script": "</script><script>alert(1)</script><!--",
    "control characters": "a\x00b\x01\t\r\n\u2028\u2029",
    "combining": "Jose\u0301 n\u0303",
    "right to left": "شيرين\u202eabc",
    "long": "ñ" * 250,
}


@pytest.mark.parametrize("column", ["name", "description", "image", "video"])
def test_every_text_survives_into_the_json_of_a_video(database: OperatorDatabase, column: str) -> None:
    rows = {}
    for kind, value in TEXTS.items():
        if column == "name":
            rows[kind] = database.add("resumes", user_id=database.add("users", name=value))
        elif column != "video" or value:
            rows[kind] = database.add("resumes", **{column: value})

    view = database.build()

    for kind, row in rows.items():
        item, value = view.video(row), TEXTS[kind] or ""
        if column == "image" and not value:
            value = item["video"]
        assert item[column] == (value if column == "description" else value.strip()), kind


@pytest.mark.parametrize("column", ["name", "slug", "description", "image", "talent_type", "user_name"])
def test_every_text_survives_into_the_json_of_a_challenge(database: OperatorDatabase, column: str) -> None:
    texts = TEXTS if column != "talent_type" else {kind: (text or "")[:60] for kind, text in TEXTS.items()}
    rows = {}
    for kind, value in texts.items():
        if column == "user_name":
            rows[kind] = database.add("challenges", user_id=database.add("users", name=value))
        else:
            rows[kind] = database.add("challenges", **{column: value})

    view = database.build()

    for kind, row in rows.items():
        item, value = view.challenge(row), texts[kind] or ""
        absent = {"image": item["video_url"], "talent_type": "innovators", "slug": f"reto-{row}"}
        value = value or absent.get(column, "")
        assert item[column] == (value if column == "description" else value.strip()), kind


@pytest.mark.parametrize("column", ["city", "country"])
def test_every_text_may_be_a_city_or_a_country(database: OperatorDatabase, column: str) -> None:
    for value in TEXTS.values():
        database.add("resumes", user_id=database.add("users", **{"city": "", column: value}))

    assert len(database.build().videos) == len(TEXTS)


def test_item_json_is_utf8_and_holds_no_raw_control_character(database: OperatorDatabase) -> None:
    for value in TEXTS.values():
        database.add("resumes", description=value)

    for body in database.build().built.item_bodies:
        json.loads(body.decode("utf-8"))
        assert all(byte >= 0x20 for byte in body)


@pytest.mark.parametrize(
    ("table", "column", "counted_as"),
    [
        ("resumes", "created_at", "resumes.created_at"),
        ("challenges", "created_at", "challenges.created_at"),
        ("challenges", "updated_at", "challenges.updated_at"),
        ("challenges", "status_at", "challenges.status_at"),
        ("team_feedbacks", "created_at", "interactions_ratings.happened_at"),
        ("matches", "created_at", "interactions_matches.happened_at"),
        ("likes", "created_at", "interactions_saves.happened_at"),
        ("activity_log", "created_at", "interactions_views.happened_at"),
    ],
)
def test_a_time_in_the_future_counts_as_absent_and_is_counted(
    database: OperatorDatabase, table: str, column: str, counted_as: str
) -> None:
    add_with_time(database, table, column, FUTURE)

    view = database.build()

    assert view.set_aside[counted_as, "date in the future"] == 1


@pytest.mark.parametrize(
    ("table", "column", "counted_as"),
    [
        ("users", "created_at", "users.created_at"),
        ("users", "updated_at", "users.updated_at"),
        ("resumes", "created_at", "resumes.created_at"),
        ("challenges", "created_at", "challenges.created_at"),
        ("challenges", "updated_at", "challenges.updated_at"),
        ("challenges", "status_at", "challenges.status_at"),
        ("team_feedbacks", "created_at", "interactions_ratings.happened_at"),
        ("matches", "created_at", "interactions_matches.happened_at"),
        ("likes", "created_at", "interactions_saves.happened_at"),
        ("activity_log", "created_at", "interactions_views.happened_at"),
        ("user_connections", "created_at", "user_connections.created_at"),
    ],
)
def test_a_zero_date_counts_as_absent_and_is_counted(
    database: OperatorDatabase, table: str, column: str, counted_as: str
) -> None:
    add_with_time(database, table, column, ZERO_DATE)

    view = database.build()

    assert view.set_aside[counted_as, "zero date or no date"] == 1


def add_with_time(database: OperatorDatabase, table: str, column: str, time: str) -> None:
    """One row that would count, were it not for that time."""
    video = database.add("resumes")
    values: dict[str, Any] = {column: time}
    match table:
        case "team_feedbacks" | "matches" | "likes":
            values |= {"user_id": 70, "model_id": video}
        case "activity_log":
            values |= {"causer_id": 70, "subject_id": video}
        case "user_connections":
            values |= {"from_id": 70, "to_id": 71}
        case "users":
            values = {"created_at": ago(days=1), "updated_at": ago(days=1)} | values
    database.add(table, **values)


def test_zero_dates_in_every_time_column_stop_nothing(database: OperatorDatabase) -> None:
    times = ("created_at", "updated_at", "deleted_at")
    video = database.add("resumes", updated_at=ZERO_DATE, deleted_at=ZERO_DATE)
    challenge = database.add("challenges", updated_at=ZERO_DATE, deleted_at=ZERO_DATE, status_at=ZERO_DATE)
    database.add("users", **dict.fromkeys(times, ZERO_DATE))
    database.add("resumes", **dict.fromkeys(times, ZERO_DATE))
    database.add("challenges", **dict.fromkeys((*times, "status_at"), ZERO_DATE))
    for table in ("team_feedbacks", "matches", "likes", "views"):
        database.add(table, user_id=70, model_id=video, created_at=ZERO_DATE)
    database.add("resumes_exhibited", resume_id=video, created_at=ZERO_DATE)
    database.add("user_connections", from_id=1, to_id=2, created_at=ZERO_DATE)
    database.add("activity_log", causer_id=70, subject_id=video, created_at=ZERO_DATE, updated_at=ZERO_DATE)

    view = database.build()
    database.source().fingerprint()

    assert (view.videos, view.challenges) == ([video], [challenge])
    assert view.history(70) == []
    item = view.challenge(challenge)
    assert item["updated_at"] == ""
    assert "status_at" not in item


@pytest.mark.parametrize("table", ["resumes", "challenges"])
def test_an_item_without_its_creator_is_counted(database: OperatorDatabase, table: str) -> None:
    database.add(table, user_id=4_000_000)

    view = database.build()

    assert len(view.items) == 0
    assert sum(n for (column, _), n in view.set_aside.items() if column == f"{table}.user_id") == 1


def test_ratings_above_five_are_counted(database: OperatorDatabase) -> None:
    video = database.add("resumes")
    database.add("team_feedbacks", user_id=70, model_id=video, value=9)

    view = database.build()

    assert view.history(70) == [("resume", video, 5.0)]
    assert view.set_aside["interactions_ratings.weight", "above 5"] == 1


@pytest.mark.parametrize("stored", [None, ""])
def test_null_and_empty_text_is_counted_in_every_column(database: OperatorDatabase, stored: str | None) -> None:
    user = database.add("users", name=stored, updated_at=ago(days=1))
    texts = {"resumes": ["description"], "challenges": ["name", "description"], "profiles": []}
    for table, names in texts.items():
        lists = [column for owner, column in LIST_COLUMNS if owner == table]
        database.add(table, user_id=user, **dict.fromkeys([*names, *lists], stored))

    counted = {column for column, _ in database.build().set_aside}

    expected = {f"{table}.{column}" for table, column in LIST_COLUMNS}
    expected |= {f"{table}.{column}" for table, names in texts.items() for column in names}
    assert expected - counted == set()


@pytest.mark.parametrize(
    ("table", "item_column", "counted_as"),
    [
        ("team_feedbacks", "model_id", "interactions_ratings.item_id"),
        ("matches", "model_id", "interactions_matches.item_id"),
        ("likes", "model_id", "interactions_saves.item_id"),
        ("activity_log", "subject_id", "interactions_views.item_id"),
    ],
)
def test_an_orphaned_interaction_is_counted(
    database: OperatorDatabase, table: str, item_column: str, counted_as: str
) -> None:
    user = "causer_id" if table == "activity_log" else "user_id"
    database.add(table, **{user: 70, item_column: 4_000_000})

    view = database.build()

    assert view.users == []
    assert view.set_aside[counted_as, "item not in the catalog"] == 1


def test_identifiers_beyond_63_bits_are_set_aside(mariadb_url: Any, tmp_path: Path) -> None:
    database = OperatorDatabase(mariadb_url, tmp_path)  # SQLite has no such numbers
    video = database.add("resumes")
    for item in (video, HUGE, 2**64 - 1):
        for table in ("team_feedbacks", "matches", "likes", "views"):
            database.add(table, user_id=70, model_id=item)
        database.add("resumes_exhibited", resume_id=item)
        database.add("activity_log", causer_id=70, subject_id=item)
        database.add("user_connections", from_id=70, to_id=item)
        database.add("activity_log", causer_id=item, subject_id=video)
    creator = database.add("users")
    database.add("resumes", user_id=database.add("users", id=HUGE, updated_at=ago(days=1)))
    database.add("resumes", id=HUGE, user_id=creator)
    database.add("challenges", id=HUGE, user_id=creator)

    view = database.build()
    database.source().fingerprint()
    database.close()

    assert (view.videos, view.challenges) == ([video], [])
    assert view.users == sorted([70, video])
    assert view.history(70) == [("resume", video, 4.0)]
    assert view.feature(video, 9) > 0
    why = "not an identifier"
    for column in (
        *(f"interactions_{kind}.item_id" for kind in ("ratings", "matches", "saves", "views")),
        *(f"engagement_{kind}.video_id" for kind in ("ratings", "matches", "saves", "views", "exhibitions")),
        "interactions_views.user_id",
        "user_connections.to_id",
    ):
        assert view.set_aside[column, why] == 2, column
    for column in ("resumes.id", "resumes.user_id", "challenges.id", "users.id"):
        assert view.set_aside[column, why] == 1, column


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *LIST_COLUMNS,
        ("resumes", "description"),
        ("resumes", "video"),
        ("users", "name"),
        ("challenges", "name"),
    ],
)
def test_bytes_that_are_no_utf8_stop_nothing(sqlite_url: Any, tmp_path: Path, table: str, column: str) -> None:
    database = OperatorDatabase(sqlite_url, tmp_path)  # MariaDB refuses to store them
    owner = {"user_id": database.add("users", updated_at=ago(days=1))} if table == "profiles" else {}
    row = database.add(table, **owner)
    if table == "users":
        database.add("resumes", user_id=row)
    kept = database.add("resumes")
    stored = "'[\"' || CAST(x'C3' AS TEXT) || '\"]'"
    database.execute(f"UPDATE {table} SET {column} = {stored} WHERE id = {row}")

    view = database.build()

    assert kept in view.videos


@pytest.mark.parametrize("stored", ["12", "x'00FF'", "1.5", "''", "'now'", "'2026'", "'9999999999999'"])
def test_values_of_another_type_stop_nothing(sqlite_url: Any, tmp_path: Path, stored: str) -> None:
    """SQLite stores any value in any column."""
    database = OperatorDatabase(sqlite_url, tmp_path)
    kept = database.add("resumes")
    user = database.add("users", updated_at=ago(days=1))
    rows = {
        "users": database.add("users"),
        "profiles": database.add("profiles", user_id=user),
        "resumes": database.add("resumes"),
        "challenges": database.add("challenges"),
        "team_feedbacks": database.add("team_feedbacks", user_id=70, model_id=kept),
        "likes": database.add("likes", user_id=70, model_id=kept),
        "user_connections": database.add("user_connections", from_id=70, to_id=71),
    }
    columns = {
        "users": ["name", "city", "country", "created_at", "updated_at", "deleted_at"],
        "profiles": ["skills", "languages", "tools", "knowledge"],
        "resumes": ["video", "image", "description", "skills", "role_objectives", "created_at", "user_id"],
        "challenges": ["video", "name", "slug", "interest_areas", "created_at", "status_at"],
        "team_feedbacks": ["value", "created_at", "user_id", "model_id"],
        "likes": ["created_at", "model_id"],
        "user_connections": ["from_id", "to_id", "created_at"],
    }
    for table, names in columns.items():
        for name in names:
            database.execute(f"UPDATE {table} SET {name} = {stored} WHERE id = {rows[table]}")
            assert kept in database.build().videos, f"{table}.{name}"
