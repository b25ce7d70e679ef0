"""Writing: nothing that is there is lost unless it is asked for, and then only the operator's tables."""

import pytest
from sqlalchemy import Engine, insert, inspect, text

from recommendation_service.demo import DemoError, load_interacpedia
from recommendation_service.demo.loading import TableRows, load_tables
from recommendation_service.demo.schema import likes, metadata, resumes_exhibited


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


def test_tables_that_hold_rows_are_refused_by_name(empty_engine: Engine) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)

    with pytest.raises(DemoError, match=r"holds rows in likes\..*--replace"):
        load_interacpedia(empty_engine, scale=0.01)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 2
        assert connection.execute(text("SELECT COUNT(*) FROM users")).scalar() == 0


def test_empty_tables_are_filled_without_being_asked_twice(empty_engine: Engine) -> None:
    metadata.create_all(empty_engine)

    assert load_tables(empty_engine, rows(2), source="some", replace=False).counts["likes"] == 2


def test_replacing_drops_the_operators_tables_only(empty_engine: Engine) -> None:
    load_tables(empty_engine, rows(2), source="some", replace=False)
    with empty_engine.begin() as connection:
        connection.execute(insert(resumes_exhibited).values(id=1, resume_id=1))
        connection.execute(text("CREATE TABLE recs_events (id INTEGER)"))
        connection.execute(text("INSERT INTO recs_events VALUES (1)"))

    load_tables(empty_engine, rows(3), source="some", replace=True)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 3
        assert connection.execute(text("SELECT COUNT(*) FROM resumes_exhibited")).scalar() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM recs_events")).scalar() == 1


def test_a_table_is_written_whole_or_not_at_all(empty_engine: Engine) -> None:
    twice = [(1, 1, 1, "save", None)]

    with pytest.raises(DemoError, match="UNIQUE"):
        load_tables(empty_engine, [TableRows(likes, 2, [twice, twice])], source="some", replace=False)

    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM likes")).scalar() == 0
