"""Writing: nothing that is there is lost unless it is asked for, and then only what the demo made."""

import pytest
from sqlalchemy import Engine, insert, inspect, text

from recommendation_service.demo import DemoError, load_invented
from recommendation_service.demo.loading import TableRows, load_tables
from recommendation_service.demo.schema import activity_log, likes, metadata


def rows(n: int) -> list[TableRows]:
    made = [(number, 1, 1, "save", "2026-01-01 00:00:00") for number in range(1, n + 1)]
    return [TableRows(likes, n, [made[: n // 2], [], made[n // 2 :]])]


def test_every_table_is_created_even_without_rows(empty_engine: Engine) -> None:
    report = load_tables(empty_engine, rows(5), source="some", replace=False)

    assert set(inspect(empty_engine).get_table_names()) >= set(metadata.tables)
    assert report.counts["likes"] == 5
    assert report.counts["users"] == 0


def test_there_is_no_index_beyond_primary_keys(empty_engine: Engine) -> None:
    load_tables(empty_engine, [], source="some", replace=False)

    assert not any(inspect(empty_engine).get_indexes(table) for table in metadata.tables)


def test_progress_is_told_by_table(empty_engine: Engine) -> None:
    told: list[tuple[str, int, int]] = []

    load_tables(empty_engine, rows(4), source="some", replace=False, progress=lambda *step: told.append(step))

    assert told == [("likes", 2, 4), ("likes", 4, 4)]


def test_progress_ends_at_the_end_whatever_was_expected(empty_engine: Engine) -> None:
    told: list[tuple[str, int, int]] = []
    [few] = rows(4)

    load_tables(
        empty_engine,
        [TableRows(few.table, 9, few.batches)],
        source="some",
        replace=False,
        progress=lambda *step: told.append(step),
    )

    assert told[-1] == ("likes", 4, 4)


def test_tables_that_hold_rows_are_refused_by_name(empty_engine: Engine) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)

    with pytest.raises(DemoError, match=r"holds rows in likes\..*--replace"):
        load_invented(empty_engine, scale=0.01)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 2
        assert connection.execute(text("SELECT COUNT(*) FROM users")).scalar() == 0


def test_empty_tables_of_an_interrupted_load_are_filled_without_being_asked_twice(empty_engine: Engine) -> None:
    with pytest.raises(DemoError):
        load_tables(empty_engine, [TableRows(likes, 1, [[(1, 2)]])], source="some", replace=False)

    assert load_tables(empty_engine, rows(2), source="some", replace=False).counts["likes"] == 2


def test_replacing_drops_the_demos_tables_only(empty_engine: Engine) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)
    with empty_engine.begin() as connection:
        connection.execute(text("CREATE TABLE recs_events (id INTEGER)"))
        connection.execute(text("INSERT INTO recs_events VALUES (1)"))
        # What the service itself adds, of feeds that the demo showed.
        connection.execute(insert(activity_log).values(id=7, url="/api/search/total"))

    load_tables(empty_engine, rows(3), source="some", replace=True)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 3
        assert connection.execute(text("SELECT COUNT(*) FROM activity_log")).scalar() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM recs_events")).scalar() == 1


def dump(engine: Engine) -> list[str]:
    raw = engine.raw_connection()
    try:
        return list(raw.driver_connection.iterdump())  # type: ignore[union-attr]
    finally:
        raw.close()


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)"], "leaves users"),
        (["CREATE TABLE Likes (id INTEGER PRIMARY KEY)"], "leaves likes"),
        (["CREATE TABLE people (id INTEGER)", "CREATE VIEW users AS SELECT * FROM people"], r"users \(a view\)"),
        (["CREATE TABLE views (id INTEGER PRIMARY KEY, note TEXT DEFAULT 'made by recs demo load')"], "leaves views"),
        (
            [
                "CREATE TABLE recs_demo (table_name TEXT PRIMARY KEY, mark TEXT, last_id BIGINT)",
                "INSERT INTO recs_demo VALUES ('users', 'made by recs demo load 0', 5)",
                "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)",
            ],
            "leaves users",
        ),
    ],
    ids=["table", "other-case", "view", "words-of-the-mark", "record-without-its-table"],
)
def test_what_the_demo_did_not_make_is_left_alone_empty_or_not(
    empty_engine: Engine, statements: list[str], said: str, replace: bool
) -> None:
    with empty_engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    before = dump(empty_engine)

    with pytest.raises(DemoError, match=said):
        load_tables(empty_engine, rows(2), source="some", replace=replace)

    assert dump(empty_engine) == before


def test_tables_of_a_version_that_left_no_mark_are_left_alone(empty_engine: Engine) -> None:
    metadata.create_all(empty_engine)

    with pytest.raises(DemoError, match=r"whatever the options.*remove the file"):
        load_tables(empty_engine, rows(2), source="some", replace=True)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO users (id, name) VALUES (1, 'Real Person')", "users holds 1 row that the demo did not write"),
        ("INSERT INTO activity_log (id, url) VALUES (1, '/orders/5'), (2, NULL)", "activity_log holds 2 rows"),
        ("CREATE TRIGGER told AFTER INSERT ON likes BEGIN SELECT 1; END", "likes has the trigger told"),
        ("CREATE TABLE orders (id INTEGER, buyer INTEGER REFERENCES users (id))", "orders has a foreign key to users"),
    ],
)
def test_what_others_added_to_the_demos_tables_is_not_dropped(empty_engine: Engine, statement: str, said: str) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)
    with empty_engine.begin() as connection:
        connection.execute(text(statement))
    before = dump(empty_engine)

    with pytest.raises(DemoError, match=said):
        load_tables(empty_engine, rows(2), source="some", replace=True)

    assert dump(empty_engine) == before


def test_a_table_that_an_application_made_in_the_place_of_the_demos_is_left_alone(empty_engine: Engine) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)
    with empty_engine.begin() as connection:
        definition = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'users'")).scalar_one()
        connection.execute(text("DROP TABLE users"))
        connection.execute(text(definition.replace("made by recs demo load", "")))

    with pytest.raises(DemoError, match="leaves users"):
        load_tables(empty_engine, rows(2), source="some", replace=True)


def test_a_table_is_written_whole_or_not_at_all(empty_engine: Engine) -> None:
    twice = [(1, 1, 1, "save", None)]

    with pytest.raises(DemoError, match="UNIQUE"):
        load_tables(empty_engine, [TableRows(likes, 2, [twice, twice])], source="some", replace=False)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 0
