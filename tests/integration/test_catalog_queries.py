"""How a build reads: a fixed number of bound statements, one moment of the tables, and nothing written."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.core.errors import SourceError
from recommendation_service.demo.schema import RESUME_MODEL, metadata
from recommendation_service.mappings.interacpedia.builder import read_source
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.mappings.interacpedia.statements import FOLDER, sql
from tests.servers import PrivateMariaDB
from tests.unit.sources.operator_database import (
    NOW,
    POLICY,
    ZERO_DATE,
    OperatorDatabase,
    Recorder,
    View,
    ago,
    operator_database,
)

STATEMENTS = 13
# Those of user_*.sql read one user, those of rows_*.sql are the learner's: they are not part of a build.
QUERIES = sorted(path.stem for path in FOLDER.glob("*.sql") if not path.stem.startswith(("user_", "rows_")))


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """A server with settings that a query could stumble over: Bogotá's time, the least isolation, and
    double quotes around names."""
    options = [
        "--default-time-zone=-05:00",
        "--transaction-isolation=READ-COMMITTED",
        "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE",
    ]
    with PrivateMariaDB(tmp_path_factory.mktemp("odd-mariadb"), options=options) as server:
        server.execute("CREATE DATABASE odd")
        yield server


def fill(database: OperatorDatabase) -> dict[str, int]:
    """A row in every table, by table."""
    rows = {"users": database.add("users", updated_at=ago(days=5))}
    rows["profiles"] = database.add("profiles", user_id=rows["users"], skills='["Canto"]')
    rows["resumes"] = database.add("resumes", user_id=rows["users"])
    rows["challenges"] = database.add("challenges", user_id=rows["users"])
    for table in ("team_feedbacks", "matches", "likes", "views"):
        rows[table] = database.add(table, user_id=70, model_id=rows["resumes"])
    rows["resumes_exhibited"] = database.add("resumes_exhibited", resume_id=rows["resumes"])
    rows["user_connections"] = database.add("user_connections", from_id=70, to_id=rows["users"])
    rows["activity_log"] = database.add("activity_log", causer_id=71, subject_id=rows["resumes"])
    return rows


# The statements.


@pytest.mark.parametrize("size", [0, 1, 30])
def test_a_build_sends_the_same_few_statements_whatever_the_size(database: OperatorDatabase, size: int) -> None:
    for _ in range(size):
        database.add("likes", user_id=70, model_id=database.add("resumes"))
    source = database.source()
    recorder = Recorder(source.engine)

    build_catalog(source, database.settings(), POLICY, NOW)

    assert len([s for s in recorder.statements if "SELECT" in s]) == STATEMENTS


def test_every_query_of_a_build_is_in_its_report_with_its_time(database: OperatorDatabase) -> None:
    milliseconds = database.build().built.report.query_milliseconds

    # Of a look, of somebody who asks about one item, and of a build that would lose most of its items.
    others = ["changes", "item", "presence"]
    assert sorted([*milliseconds, *others]) == QUERIES
    assert len(milliseconds) == STATEMENTS


def test_parameters_are_bound_and_never_part_of_a_statement(database: OperatorDatabase) -> None:
    source = database.source()
    recorder = Recorder(source.engine)

    build_catalog(source, database.settings(), POLICY, NOW)

    sent = "\n".join(recorder.statements)
    assert "2026" not in sent
    assert "Interacpedia" not in sent
    bound = {
        value
        for parameters in recorder.parameters
        for value in (parameters.values() if isinstance(parameters, dict) else parameters)
    }
    bound_days = {ago(days=days) for days in (30, 90, 180, 360)}
    assert bound == bound_days | {"1970-01-02 00:00:00", RESUME_MODEL}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_text_that_mysql_57_and_sqlite_take(query: str) -> None:
    lines = sql(query).upper().splitlines()
    statement = "\n".join(line for line in lines if not line.startswith("--"))

    for word in ("OVER (", "WITH ", "UNIX_TIMESTAMP", "STRFTIME", "NOW()", "INSERT", "UPDATE ", "DELETE "):
        assert word not in statement
    assert ";" not in statement


# One moment.


@pytest.mark.parametrize("moment", range(1, STATEMENTS))
def test_rows_that_come_in_the_middle_of_a_build_are_not_half_seen(
    module_mariadb_url: URL, tmp_path: Path, moment: int
) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    assert_not_half_seen(database, moment)
    database.close()


@pytest.mark.parametrize("moment", [1, 3, STATEMENTS - 1])
def test_nor_on_a_server_whose_transactions_see_what_others_commit(
    odd_server: PrivateMariaDB, tmp_path: Path, moment: int
) -> None:
    database = OperatorDatabase(odd_server.url("odd"), tmp_path)
    assert_not_half_seen(database, moment)
    database.close()


@pytest.mark.parametrize("moment", [1, 3, STATEMENTS - 1])
def test_nor_on_sqlite(sqlite_url: URL, tmp_path: Path, moment: int) -> None:
    database = OperatorDatabase(sqlite_url, tmp_path)
    with database.writer.connect() as connection:  # so that one can write while another reads
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    assert_not_half_seen(database, moment)


def assert_not_half_seen(database: OperatorDatabase, moment: int) -> None:
    """Write to every table after so many statements of a build: it sees all of it or nothing."""
    before = fill(database)
    source = database.source()
    statements = 0

    def write(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        statements += "SELECT" in statement
        if "SELECT" in statement and statements == moment:
            fill(database)
            database.change("resumes", before["resumes"], status="draft")

    event.listen(source.engine, "after_cursor_execute", write)
    view = View(build_catalog(source, database.settings(), POLICY, NOW))

    assert statements == STATEMENTS
    assert view.videos == [before["resumes"]]
    assert view.challenges == [before["challenges"]]
    assert view.history(70) == [("resume", before["resumes"], 4.0)]
    assert view.connections(70) == 1
    assert view.built.report.counts["users"] == 1
    assert view.built.report.counts["interactions"] == 4


def test_a_server_of_another_zone_and_mode_gives_the_same_catalog(
    odd_server: PrivateMariaDB, module_mariadb_url: URL, sqlite_url: URL, tmp_path: Path
) -> None:
    views = []
    for url in (odd_server.url("odd"), module_mariadb_url, sqlite_url):
        database = OperatorDatabase(url, tmp_path)
        creator = database.add("users", id=500, updated_at=ago(days=90, minutes=-5))
        database.add("users", id=501, updated_at=ago(days=90, minutes=5))
        for number, minutes in ((500, -5), (501, 5)):
            database.add("resumes", id=number, user_id=creator, created_at=ago(days=360, minutes=minutes), video="v")
        database.add("resumes", id=502, user_id=creator, created_at=ago(minutes=1), deleted_at=ZERO_DATE, video="v")
        database.add("challenges", id=500, user_id=creator, created_at=ago(days=1), status_at=ago(days=2), video="c")
        database.add("activity_log", causer_id=70, subject_id=500, created_at=ago(days=30, minutes=-5))
        database.add("activity_log", causer_id=71, subject_id=500, created_at=ago(days=30, minutes=5))
        for _ in range(3):
            database.add("views", model_id=500)
        database.change("users", creator, name="Ana")
        views.append(database.build())
        database.close()

    one, *others = views
    assert one.videos == [500, 502]
    assert one.challenge(500)["created_at"] == "2026-11-23T12:00:00"
    assert [one.history(user) for user in (70, 71)] == [[("resume", 500, 2.0)], []]
    assert one.feature(500, 9) > 0
    for other in others:
        assert other.built.item_bodies == one.built.item_bodies
        for name, column in one.arrays._asdict().items():
            assert (getattr(other.arrays, name) == column).all() if hasattr(column, "all") else True, name


# Nothing written.


def test_a_user_who_may_only_select_is_enough(mariadb: PrivateMariaDB, mariadb_url: URL, tmp_path: Path) -> None:
    database = OperatorDatabase(mariadb_url, tmp_path)
    rows = fill(database)
    name = mariadb_url.database
    account = "'only_select'@'127.0.0.1'"
    mariadb.execute(
        f"CREATE OR REPLACE USER {account} IDENTIFIED BY 'only-for-reading'",
        *(f"GRANT SELECT ON {name}.{table} TO {account}" for table in metadata.tables),
    )
    try:
        settings = database.settings(
            database_url=None,
            mysql_host="127.0.0.1",
            mysql_port=mariadb.port,
            mysql_user="only_select",
            mysql_password="only-for-reading",
            mysql_db=name,
        )
        reader = OperatorDatabase.reader(settings)

        view = View(build_catalog(reader, settings, POLICY, NOW))

        assert view.videos == [rows["resumes"]]
        assert reader.fingerprint() == database.source().fingerprint()
        with pytest.raises(DBAPIError, match="denied"), reader.engine.begin() as connection:
            connection.execute(text("DELETE FROM likes"))
        reader.engine.dispose()
    finally:
        mariadb.execute(f"DROP USER {account}")
        database.close()


def test_nothing_can_be_written_to_sqlite_through_the_source(sqlite_url: URL, tmp_path: Path) -> None:
    database = OperatorDatabase(sqlite_url, tmp_path)
    content = (tmp_path / "interacpedia.sqlite").read_bytes()

    for statement in ("DELETE FROM likes", "CREATE TABLE t (x)", "DROP TABLE likes"):
        with (
            pytest.raises(DBAPIError, match="readonly"),
            database.source().engine.begin() as connection,
        ):
            connection.execute(text(statement))
    database.build()
    database.source().fingerprint()

    assert (tmp_path / "interacpedia.sqlite").read_bytes() == content


def test_reading_an_sqlite_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "absent.sqlite"
    url = URL.create("sqlite", database=str(path))
    settings = OperatorDatabase.settings_of(url, tmp_path)

    with pytest.raises(SourceError):
        OperatorDatabase.reader(settings).fingerprint()

    assert not path.exists()


def test_no_lock_is_left_by_a_build(database: OperatorDatabase) -> None:
    source = database.source()
    build_catalog(source, database.settings(), POLICY, NOW)
    source.fingerprint()

    for table in reversed(metadata.sorted_tables):
        database.execute(f"DROP TABLE {table.name}")
    metadata.create_all(database.writer)


# What cannot be read.


def test_a_missing_table_is_named_without_the_statement(database: OperatorDatabase) -> None:
    database.execute("DROP TABLE challenges")

    with pytest.raises(SourceError, match=r"^query challenges: .*challenges") as raised:
        database.build()

    assert "SELECT" not in str(raised.value)


def test_a_server_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    url = URL.create("mysql+pymysql", "recs", "hunter2hunter2", "127.0.0.1", 1, "interacpedia")
    settings = OperatorDatabase.settings_of(url, tmp_path)

    with pytest.raises(SourceError, match=r"^127\.0\.0\.1:1/interacpedia: ") as raised:
        read_source(OperatorDatabase.reader(settings), settings, NOW)

    assert "hunter2" not in str(raised.value)


def test_a_wrong_password_is_said_without_either_password(mariadb_url: URL, tmp_path: Path) -> None:
    settings = OperatorDatabase.settings_of(mariadb_url.set(password="hunter2hunter2"), tmp_path)

    with pytest.raises(SourceError, match="Access denied") as raised:
        read_source(OperatorDatabase.reader(settings), settings, NOW)

    assert "hunter2" not in str(raised.value)


def test_a_source_works_again_after_an_error(database: OperatorDatabase) -> None:
    source = database.source()
    database.execute("DROP TABLE user_connections")
    with pytest.raises(SourceError):
        source.fingerprint()
    metadata.create_all(database.writer)

    source.fingerprint()
    read_source(source, database.settings(), NOW)


# The fingerprint.

Change = Callable[[OperatorDatabase, dict[str, int]], Any]


def changed(table: str, **values: Any) -> Change:
    return lambda database, rows: database.change(table, rows[table], **values)


def removed(table: str) -> Change:
    return lambda database, rows: database.remove(table, rows[table])


def added(table: str, **values: Any) -> Change:
    def add(database: OperatorDatabase, rows: dict[str, int]) -> None:
        references = {
            "profiles": {"user_id": rows["users"]},
            "resumes_exhibited": {"resume_id": rows["resumes"]},
            "user_connections": {"from_id": 70, "to_id": 72},
            "activity_log": {"causer_id": 70, "subject_id": rows["resumes"]},
            "users": {},
            "resumes": {"user_id": rows["users"]},
            "challenges": {"user_id": rows["users"]},
        }
        database.add(table, **references.get(table, {"user_id": 70, "model_id": rows["resumes"]}), **values)

    return add


def swapped(table: str, **values: Any) -> Change:
    """One row goes and another comes, between two looks."""

    def swap(database: OperatorDatabase, rows: dict[str, int]) -> None:
        added(table, **values)(database, rows)
        removed(table)(database, rows)

    return swap


TOUCH = {"updated_at": ago(days=1)}
CHANGES: dict[str, Change] = {
    **{f"a row more in {table}": added(table) for table in metadata.tables},
    **{f"a row less in {table}": removed(table) for table in metadata.tables},
    **{
        f"another row in {table}": swapped(table)
        for table in metadata.tables
        if table not in {"users", "resumes", "challenges"}
    },
    "a new video": added("resumes", created_at=ago(), updated_at=ago()),
    "a video that is sent": changed("resumes", status="draft"),
    "a video that is deleted": changed("resumes", deleted_at=ago(days=1)),
    "a video that is updated": changed("resumes", description="new", **TOUCH),
    "a challenge that is withdrawn": changed("challenges", status="draft"),
    "a challenge that is deleted": changed("challenges", deleted_at=ago(days=1)),
    "a challenge that is updated": changed("challenges", name="new", **TOUCH),
    "a user that is deleted": changed("users", deleted_at=ago(days=1)),
    "a user that is updated": changed("users", city="Cali", **TOUCH),
    "a profile that is updated": changed("profiles", skills='["Baile"]'),
    "a rating that is corrected": changed("team_feedbacks", value=1),
    "a rating of another type": changed("team_feedbacks", type="other"),
    "a match that is rejected": changed("matches", status="rejected"),
    "a save that is none": changed("likes", type="like"),
    "a connection that is ended": changed("user_connections", status="ended"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_differs_after(database: OperatorDatabase, change: str) -> None:
    rows = fill(database)
    source = database.source()
    before = source.fingerprint()

    CHANGES[change](database, rows)

    assert source.fingerprint() != before


TIMES = [
    (table, column)
    for table in ("users", "resumes", "challenges")
    for column in ("created_at", "updated_at", "deleted_at")
]


@pytest.mark.parametrize(("table", "column"), TIMES)
def test_a_time_in_the_future_hides_no_later_change_from_the_fingerprint(
    database: OperatorDatabase, table: str, column: str
) -> None:
    rows = fill(database)
    owner = {} if table == "users" else {"user_id": rows["users"]}
    now = datetime.now(UTC)
    database.add(table, **owner, **{column: ago(days=-365, now=now)})
    source = database.source()
    before = source.fingerprint()
    assert source.fingerprint() == before  # it is no reason for a build at every look either

    database.change(table, rows[table], updated_at=ago(minutes=1, now=now))
    updated = source.fingerprint()
    database.change(table, rows[table], deleted_at=ago(minutes=1, now=now))

    assert before != updated != source.fingerprint()


@pytest.mark.parametrize("table", ["users", "resumes", "challenges"])
@pytest.mark.parametrize("column", ["updated_at", "deleted_at"])
def test_a_change_by_a_clock_that_is_ahead_is_seen_when_it_is_made(
    database: OperatorDatabase, table: str, column: str
) -> None:
    rows = fill(database)
    owner = {} if table == "users" else {"user_id": rows["users"]}
    now = datetime.now(UTC)
    further = database.add(table, **owner, **{column: ago(days=-365, now=now)})
    source = database.source()
    before = source.fingerprint()

    database.change(table, rows[table], **{column: ago(minutes=-120, now=now)})
    once = source.fingerprint()
    database.change(table, rows[table], **{column: ago(minutes=-121, now=now)})
    twice = source.fingerprint()
    database.remove(table, further)

    assert before != once
    assert column == "deleted_at" or once != twice  # a deletion that moves is one deletion
    assert twice != source.fingerprint()


@pytest.mark.parametrize("table", ["resumes", "challenges"])
def test_what_had_a_zero_date_of_deletion_is_seen_to_be_deleted(database: OperatorDatabase, table: str) -> None:
    rows = fill(database)
    database.change(table, rows[table], deleted_at=ZERO_DATE)
    source = database.source()
    before = source.fingerprint()

    database.change(table, rows[table], deleted_at=ago(days=1))

    assert source.fingerprint() != before


def test_a_second_deletion_in_one_second_changes_the_fingerprint(database: OperatorDatabase) -> None:
    rows = fill(database)
    this_second = ago(now=datetime.now(UTC))
    database.add("users", deleted_at=this_second)
    source = database.source()
    before = source.fingerprint()

    database.change("users", rows["users"], deleted_at=this_second)

    assert source.fingerprint() != before


def test_a_second_update_in_one_second_changes_the_fingerprint(database: OperatorDatabase) -> None:
    """Times are whole seconds: what is updated after a look may bear the time of what was before it."""
    rows = fill(database)
    this_second = ago(now=datetime.now(UTC))
    other = database.add("resumes", user_id=rows["users"])
    database.change("resumes", rows["resumes"], updated_at=this_second)
    source = database.source()
    before = source.fingerprint()

    database.change("resumes", other, description="new", updated_at=this_second)

    assert source.fingerprint() != before


def test_the_fingerprint_is_the_same_while_nothing_changes(database: OperatorDatabase) -> None:
    rows = fill(database)
    source = database.source()
    first = source.fingerprint()

    database.build()
    database.change("users", rows["users"], email="new@example.com")
    database.execute("CREATE TABLE recs_events (id INTEGER PRIMARY KEY)")
    database.execute("INSERT INTO recs_events VALUES (1)")
    again = source.fingerprint()
    database.execute("DROP TABLE recs_events")

    assert again == first
    assert database.source().fingerprint() == first


def test_the_fingerprint_costs_one_statement(database: OperatorDatabase) -> None:
    source: Source = database.source()
    recorder = Recorder(source.engine)

    source.fingerprint()

    assert len([statement for statement in recorder.statements if "SELECT" in statement]) == 1
