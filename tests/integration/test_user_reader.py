"""One user read from the operator's tables: the same that the catalog has of its users, on SQLite and MariaDB."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from recommendation_service.core.errors import SourceError
from recommendation_service.demo import schema
from recommendation_service.demo.schema import CHALLENGE_MODEL, RESUME_MODEL
from recommendation_service.doctor.queries import EXPLAIN
from recommendation_service.mappings.interacpedia.user_reader import (
    MOST_CONNECTIONS,
    MOST_OF_A_KIND,
    MOST_OF_EACH,
    MOST_OF_ONE,
    MOST_OF_PART,
    UserReader,
    _latest_part,
    _statement,
)
from recommendation_service.sources.users import UserFacts, encode_facts
from tests.unit.sources.operator_database import (
    NOW,
    ZERO_DATE,
    OperatorDatabase,
    Recorder,
    ago,
    operator_database,
)

SECOND = 1_000_000  # well above the ids of users that a test adds
NOT_IN_CATALOG = ago(days=1000)


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


def reader(database: OperatorDatabase, **settings: Any) -> UserReader:
    return UserReader(database.source().engine.connect, database.settings(**settings), NOW.timestamp)


def read(database: OperatorDatabase, user: int, **settings: Any) -> UserFacts:
    facts = reader(database, **settings).read(user)
    assert facts is not None
    return facts


def numbers(facts: UserFacts) -> list[tuple[int, int]]:
    """(item's number, 1 for a challenge), latest first."""
    return [(int(key) >> 1, int(key) & 1) for key in facts.history[:, 0]]


def test_a_user_without_anything_has_empty_facts(database: OperatorDatabase) -> None:
    facts = read(database, database.add("users"))

    assert facts.history.shape == (0, 2)
    assert (list(facts.network), facts.connections, facts.attributes) == ([], 0, ((), (), (), ()))


@pytest.mark.parametrize("deleted_at", [ago(days=1), ago(days=-1)])
def test_an_unknown_or_deleted_user_is_none(database: OperatorDatabase, deleted_at: str) -> None:
    deleted = database.add("users", deleted_at=deleted_at)
    database.add("likes", user_id=deleted, model_id=1)
    kept = database.add("users", deleted_at=ZERO_DATE)

    assert reader(database).read(deleted) is None
    assert reader(database).read(SECOND) is None
    assert reader(database).read(kept) is not None


def test_history_is_what_the_catalog_has_of_the_user(database: OperatorDatabase) -> None:
    user, other = database.add("users"), database.add("users")
    videos = [database.add("resumes", id=100 + number) for number in range(16)]
    challenge = database.add("challenges", id=videos[0])
    inside, outside = ago(days=90, minutes=-5), ago(days=90, minutes=5)
    for who in (user, other):
        database.add("team_feedbacks", user_id=who, model_id=videos[0], created_at=ago(days=3))
        database.add("matches", user_id=who, model_id=videos[2], created_at=ago(days=5))
        database.add("likes", user_id=who, model_id=videos[1], created_at=ago(days=4))
    database.add("team_feedbacks", user_id=user, model_id=videos[1], value=2, created_at=ago(days=50))
    database.add("activity_log", causer_id=user, subject_id=videos[3], created_at=ago(days=2))
    database.add(
        "activity_log", causer_id=user, subject_id=challenge, subject_type=CHALLENGE_MODEL, created_at=ago(days=1)
    )
    database.add("likes", user_id=user, model_id=videos[4], created_at=inside)
    rejected: list[tuple[str, dict[str, Any]]] = [
        ("team_feedbacks", {"value": 0}),
        ("team_feedbacks", {"type": "ranking_challenge"}),
        ("matches", {"status": "pending"}),
        ("likes", {"type": "like"}),
        ("likes", {"created_at": outside}),
        ("likes", {"created_at": ZERO_DATE}),
        ("likes", {"created_at": None}),
        ("likes", {"created_at": ago(days=-1)}),
    ]
    for video, (table, values) in zip(videos[5:], rejected, strict=False):
        database.add(table, **({"user_id": user, "model_id": video} | values))
    for values in (
        {"description": "#video #request"},
        {"created_at": ago(days=30, minutes=5)},
        {"properties": '{"event":"impression","position":1}'},
    ):
        database.add("activity_log", **({"causer_id": user, "subject_id": videos[14]} | values))
    own_view = {"properties": '{"event":"view","position":1}', "created_at": ago(days=1.5)}
    database.add("activity_log", causer_id=user, subject_id=videos[15], **own_view)

    facts = read(database, user)
    view = database.build()

    types = ("resume", "challenge")
    assert [(types[is_challenge], number) for number, is_challenge in numbers(facts)] == [
        (kind, number) for kind, number, _ in view.history(user)
    ]
    assert numbers(facts) == [
        (challenge, 1),
        (videos[15], 0),
        (videos[3], 0),
        (videos[0], 0),
        (videos[1], 0),
        (videos[2], 0),
        (videos[4], 0),
    ]
    row = view.users.index(user)
    times = view.arrays.history_when[slice(*view.arrays.history_offsets[row : row + 2])]
    assert list(facts.history[:, 1]) == list(times)


def test_history_has_what_no_catalog_has_too(database: OperatorDatabase) -> None:
    user = database.add("users")
    database.add("likes", user_id=user, model_id=SECOND)
    database.add("activity_log", causer_id=user, subject_id=SECOND, subject_type=RESUME_MODEL, created_at=ago(days=2))

    assert numbers(read(database, user)) == [(SECOND, 0)]


def test_of_much_the_latest_of_each_kind_is_read(database: OperatorDatabase) -> None:
    user = database.add("users")
    for number in range(MOST_OF_A_KIND + 5):
        database.add("likes", user_id=user, model_id=1 + number, created_at=ago(minutes=number + 1))
    database.add("matches", user_id=user, model_id=SECOND, created_at=ago(days=80))

    found = numbers(read(database, user))

    assert found == [(1 + number, 0) for number in range(MOST_OF_A_KIND)] + [(SECOND, 0)]


def test_windows_are_those_of_the_settings(database: OperatorDatabase) -> None:
    user = database.add("users")
    database.add("likes", user_id=user, model_id=1, created_at=ago(days=6))
    database.add("activity_log", causer_id=user, subject_id=2, created_at=ago(days=6))
    database.add("user_connections", from_id=user, to_id=3, created_at=ago(days=6))
    week, day = {"interactions_window_days": 7}, {"interactions_window_days": 1}

    assert numbers(read(database, user, **week, views_window_days=1)) == [(1, 0)]
    assert numbers(read(database, user, **day, views_window_days=7)) == [(2, 0)]
    assert read(database, user, connections_window_days=5).connections == 0
    assert read(database, user, connections_window_days=7).connections == 1


def test_connections_hold_in_both_directions_and_count_once(database: OperatorDatabase) -> None:
    user = database.add("users")
    for one, two in ((user, 900), (901, user), (user, 902), (902, user), (user, user), (900, 901)):
        database.add("user_connections", from_id=one, to_id=two)
    database.add("user_connections", from_id=user, to_id=903, status="pending")
    database.add("user_connections", from_id=user, to_id=904, created_at=ago(days=91))
    database.add("user_connections", from_id=user, to_id=905, created_at=ZERO_DATE)

    facts = read(database, user)

    assert list(facts.network) == [900, 901, 902]
    assert facts.connections == 3
    assert database.build().connections(user) == facts.connections


def test_of_many_connections_the_latest_are_kept_and_all_read_are_counted(database: OperatorDatabase) -> None:
    user = database.add("users")
    with database.writer.begin() as connection:
        for number in range(MOST_CONNECTIONS + 100):
            connection.execute(
                text(
                    "INSERT INTO user_connections (from_id, to_id, status, created_at) "
                    f"VALUES ({user}, {10_000 + number}, 'accepted', '{ago(minutes=number + 1)}')"
                )
            )
    database.add("user_connections", from_id=5, to_id=user, created_at=ago(days=80))

    facts = read(database, user)

    assert list(facts.network) == [10_000 + number for number in range(MOST_CONNECTIONS)]
    assert facts.connections == MOST_CONNECTIONS + 1


def test_attributes_are_those_that_the_catalog_would_have(database: OperatorDatabase) -> None:
    values = {
        "skills": '["Canto", " canto ", "Dirección  Coral"]',
        "knowledge": '["Teoría"]',
        "tools": "not JSON",
        "languages": '["Español", null, 3]',
    }
    outside, inside = database.add("users"), database.add("users", updated_at=ago(days=1))
    for user in (outside, inside):
        database.add("profiles", user_id=user, **values)

    facts = read(database, outside)

    assert facts.attributes == (("canto", "dirección coral"), ("teoría",), (), ("español",))
    assert [name for names in facts.attributes for name in names] == database.build().profile(inside)


def test_of_several_profiles_the_last_that_says_something_holds(database: OperatorDatabase) -> None:
    user = database.add("users")
    for skills in ('["Older"]', '["Newer"]', "[]", None):
        database.add("profiles", user_id=user, skills=skills)

    assert read(database, user).attributes[0] == ("newer",)


def test_a_user_is_one_statement(database: OperatorDatabase) -> None:
    engine = database.source().engine
    recorder = Recorder(engine)
    ours = UserReader(engine.connect, database.settings(), NOW.timestamp)

    ours.read(database.add("users"))
    assert len([statement for statement in recorder.statements if "SELECT" in statement]) == 1
    recorder.statements.clear()
    ours.read(SECOND)
    assert len([statement for statement in recorder.statements if "SELECT" in statement]) == 1


def test_a_failure_names_what_failed_and_no_secret(database: OperatorDatabase) -> None:
    database.execute("DROP TABLE likes")
    user = database.add("users")
    try:
        with pytest.raises(SourceError, match="likes") as raised:
            reader(database).read(user)
    finally:
        schema.metadata.create_all(database.writer)
    assert "SELECT" not in str(raised.value)


INDICES = (
    ("team_feedbacks", "user_id"),
    ("matches", "user_id"),
    ("likes", "user_id"),
    ("user_connections", "from_id"),
    ("user_connections", "to_id"),
    ("activity_log", "causer_id"),
    ("profiles", "user_id"),
)


def test_with_indices_on_the_users_number_no_table_is_read_whole(tmp_path: Path, module_mariadb_url: Any) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    try:
        with database.writer.begin() as connection:
            for table, column in INDICES:
                connection.execute(text(f"CREATE INDEX test_{table}_{column} ON {table} ({column})"))
            for statement in MANY_ROWS:
                connection.execute(text(statement))
            for table in {table for table, _ in INDICES}:
                connection.execute(text(f"ANALYZE TABLE {table}"))
            ours = reader(database)
            users = {f"user_id_{place}": 1007 + place for place in range(8)}
            statements = [_statement(1), _statement(8), *(_latest_part(place) for place in range(len(MOST_OF_PART)))]
            for asked in statements:
                parameters = ours._parameters(NOW.timestamp()) | users | {"most": MOST_OF_ONE}
                statement = text(EXPLAIN + asked.text)
                wanted = {name: parameters[name] for name in statement._bindparams}
                plan = connection.execute(statement, wanted).mappings().all()
                read_whole = [
                    step for step in plan if step["type"] in {"ALL", "index"} and not step["table"].startswith("<")
                ]
                assert read_whole == [], asked.text
    finally:
        with database.writer.begin() as connection:
            for table, column in INDICES:
                connection.execute(text(f"DROP INDEX IF EXISTS test_{table}_{column} ON {table}"))
        database.close()


# 20,000 rows in each table, of 1,000 users.
_TIME = f"TIMESTAMP('{ago(days=0)}') - INTERVAL (seq % 80) DAY"
MANY_ROWS = (
    "INSERT INTO users (id, name, created_at) SELECT 1000 + seq, 'Ana', '2020-01-01' FROM seq_1_to_1000",
    "INSERT INTO profiles (user_id, skills) SELECT 1000 + seq, '[]' FROM seq_1_to_1000",
    "INSERT INTO team_feedbacks (user_id, model_id, type, value, created_at) "
    f"SELECT 1000 + seq % 1000, seq, 'ranking_resume', 4, {_TIME} FROM seq_1_to_20000",
    "INSERT INTO matches (user_id, model_id, status, created_at) "
    f"SELECT 1000 + seq % 1000, seq, 'accepted', {_TIME} FROM seq_1_to_20000",
    "INSERT INTO likes (user_id, model_id, type, created_at) "
    f"SELECT 1000 + seq % 1000, seq, 'save', {_TIME} FROM seq_1_to_20000",
    "INSERT INTO user_connections (from_id, to_id, status, created_at) "
    f"SELECT 1000 + seq % 1000, 1000 + (seq * 7) % 1000, 'accepted', {_TIME} FROM seq_1_to_20000",
    "INSERT INTO activity_log (causer_id, subject_id, description, created_at) "
    f"SELECT 1000 + seq % 1000, seq, '#video #view #AU', {_TIME} FROM seq_1_to_20000",
)


def test_several_users_are_read_as_each_alone_is_in_one_statement(database: OperatorDatabase) -> None:
    draw = random.Random(7)
    users = [database.add("users") for _ in range(7)]
    gone = database.add("users", deleted_at=ago(days=1))
    for user in [*users[:-1], gone]:  # the last one has nothing
        for _ in range(draw.randrange(1, 6)):
            when = ago(days=draw.uniform(0, 100))
            video = draw.randrange(1, 50)
            database.add("likes", user_id=user, model_id=video, created_at=when)
            database.add("matches", user_id=user, model_id=video, created_at=when)
            database.add("team_feedbacks", user_id=user, model_id=video, created_at=when)
            database.add("activity_log", causer_id=user, subject_id=video, created_at=when)
            database.add("user_connections", from_id=user, to_id=draw.choice(users), created_at=when)
        database.add("profiles", user_id=user, skills=f'["Canto {user}"]')
    source = database.source()
    together = UserReader(source.engine.connect, database.settings(), NOW.timestamp)
    recorder = Recorder(source.engine)

    found = together.read_all([*users, gone, SECOND])

    assert len(recorder.statements) == 1
    assert list(found) == [*users, gone, SECOND]
    for user, facts in found.items():
        alone = together.read(user)
        assert (facts is None) == (alone is None) == (user in (gone, SECOND))
        if facts is not None and alone is not None:
            assert encode_facts(facts) == encode_facts(alone)
    assert any(len(facts.history) and len(facts.network) for facts in found.values() if facts is not None)


def test_what_a_server_is_asked_for_needs_no_temporary_table(module_mariadb_url: Any, tmp_path: Path) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    try:
        users = [database.add("users") for _ in range(8)]
        for user in users:
            database.add("profiles", user_id=user, skills='["Canto"]')
            database.add("likes", user_id=user, model_id=1)
        with database.source().engine.connect() as connection:
            ours = UserReader(lambda: nullcontext(connection), database.settings(), NOW.timestamp)

            def made() -> int:
                said = connection.execute(text("SHOW SESSION STATUS LIKE 'Created_tmp_tables'")).one()
                return int(said[1])

            one = -made() + made()  # what asking makes
            before = made()
            ours.read_all(users)
            assert made() - before == one
    finally:
        database.close()


def test_a_statement_has_each_part_and_an_order_for_its_latest() -> None:
    parts = _statement(1).text.split("UNION ALL")
    assert [part.split("'")[1] for part in parts] == list(MOST_OF_PART)
    assert all(f"SELECT '{name}'" in _latest_part(place).text for place, name in enumerate(MOST_OF_PART))


def test_who_has_more_than_a_statement_gives_is_read_alone_and_takes_nothing_from_the_others(
    database: OperatorDatabase,
) -> None:
    many, few = database.add("users"), database.add("users")
    likes = schema.metadata.tables["likes"]
    with database.writer.begin() as connection:
        connection.execute(
            likes.insert(),
            [
                {"user_id": many, "model_id": 1 + number, "type": "save", "created_at": ago(minutes=number + 1)}
                for number in range(MOST_OF_ONE + 2 * MOST_OF_EACH)
            ],
        )
    database.add("likes", user_id=few, model_id=3, created_at=ago(days=80))  # later than all of the other's
    database.add("matches", user_id=many, model_id=SECOND, created_at=ago(days=80))
    database.add("profiles", user_id=many, skills='["Canto"]')
    source = database.source()
    recorder = Recorder(source.engine)

    found = UserReader(source.engine.connect, database.settings(), NOW.timestamp).read_all([many, few])

    assert {user: numbers(facts) for user, facts in found.items() if facts is not None} == {
        many: [(1 + number, 0) for number in range(MOST_OF_A_KIND)] + [(SECOND, 0)],
        few: [(3, 0)],
    }
    assert found[many] is not None
    assert found[many].attributes[0] == ("canto",)
    together, alone, parts = 1, 2, len(MOST_OF_PART)
    assert len(recorder.statements) == together + alone + parts


def test_what_one_statement_still_gives_is_cut_to_the_latest_of_each_kind(database: OperatorDatabase) -> None:
    many, few = database.add("users"), database.add("users")
    for number in range(2 * MOST_OF_A_KIND + 5):
        database.add("likes", user_id=many, model_id=1 + number, created_at=ago(minutes=number + 1))
    database.add("likes", user_id=few, model_id=3, created_at=ago(days=80))
    source = database.source()
    recorder = Recorder(source.engine)

    found = UserReader(source.engine.connect, database.settings(), NOW.timestamp).read_all([many, few])

    assert {user: numbers(facts) for user, facts in found.items() if facts is not None} == {
        many: [(1 + number, 0) for number in range(MOST_OF_A_KIND)],
        few: [(3, 0)],
    }
    assert len(recorder.statements) == 1
