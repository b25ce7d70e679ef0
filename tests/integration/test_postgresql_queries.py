"""What PostgreSQL makes of a mapping's queries that others do not, and of tables that change while they are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL

from recommendation_service.core.clock import Clock
from recommendation_service.core.clock_watch import ClockWatch
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.core.place import WrongPlace, check, identity_of, make_identity
from recommendation_service.doctor.mapped import plans_of
from recommendation_service.evaluation.recorded import Window, read_recorded
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.learning.format import load_learning
from recommendation_service.log.records import now_ms
from recommendation_service.ranking.seen import Lifetimes
from recommendation_service.serving.past import PastReader
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import TablesError
from recommendation_service.sources.mapping.source import MappedSource
from recommendation_service.sources.reader import one_moment
from tests.postgresql import PrivatePostgreSQL
from tests.support.events import HAPPENED_MS, feed, feedback

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TABLES = (
    'CREATE TABLE people (id bigint PRIMARY KEY, came timestamptz, "homeTown" text)',
    "CREATE TABLE songs (id bigint PRIMARY KEY, title text, out_at timestamp, is_live boolean)",
    "CREATE TABLE plays (person bigint, song bigint, at timestamptz)",
    "INSERT INTO people VALUES (1, '2026-11-01 05:00-05', 'Lima'), (2, '2026-11-02', NULL)",
    "INSERT INTO songs VALUES (10, 'A', '2026-11-20', true), (11, 'B', '2026-11-21', true)",
    "INSERT INTO plays VALUES (1, 10, '2026-11-23 10:00+02'), (2, 11, '2026-11-23 11:00')",
)
MAPPING = """
[users]
query = "SELECT id, came FROM people"
time = "came"
[items.song]
query = "SELECT id, title, out_at FROM songs WHERE is_live"
time = "out_at"
fields = ["title"]
[events.play]
query = "SELECT person, song, at FROM plays"
user = "person"
item = "song"
time = "at"
"""


@pytest.fixture
def settings(postgresql: PrivatePostgreSQL, postgresql_url: URL, tmp_path: Path) -> Settings:
    postgresql.execute(*TABLES, database=str(postgresql_url.database))
    shown = postgresql_url.render_as_string(hide_password=False)
    return load_settings(database_url=shown, data_dir=tmp_path / "data", mysql_connect_timeout_seconds=2)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    yield engine
    engine.dispose()


def source(settings: Settings, engine: Engine, folder: Path, *changes: tuple[str, str]) -> MappedSource:
    written = MAPPING
    for one, other in changes:
        assert one in written
        written = written.replace(one, other)
    (folder / "mapping.toml").write_text(written)
    return MappedSource(load_mapping(folder / "mapping.toml"), engine, settings)


def problems(settings: Settings, engine: Engine, folder: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(TablesError) as raised:
        source(settings, engine, folder, *changes).tables(NOW)
    return "\n".join(map(str, raised.value.found))


# Parameters.


@pytest.mark.parametrize(
    "condition",
    [
        "at <= :now",
        "at <= CAST(:now AS timestamptz)",
        "at <= (:now)::timestamptz",
        "at <= :now ::timestamptz",
        "at::date <= CAST(:now AS date)",
        "at >= CAST(:now AS timestamptz) - make_interval(days => 3)",
        "to_char(at, 'HH24:MI') <> '99:59' AND (ARRAY[1,2,3])[1:2] = ARRAY[1,2]",
    ],
)
def test_a_parameter_takes_the_type_of_what_it_meets_or_of_its_cast(
    settings: Settings, engine: Engine, tmp_path: Path, condition: str
) -> None:
    with_condition = ("FROM plays", f"FROM plays WHERE {condition}")
    assert len(source(settings, engine, tmp_path, with_condition).tables(NOW).events["play"].users) == 2


def test_a_cast_that_hides_a_parameter_is_refused_with_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(MAPPING.replace("FROM plays", "FROM plays WHERE at <= :now::timestamptz"))
    with pytest.raises(
        ConfigurationError, match=r":now:: is not taken for a parameter; write CAST\(:now AS timestamptz\)"
    ):
        load_mapping(tmp_path / "mapping.toml")


def test_a_parameter_of_no_type_is_named_with_what_to_write(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    told = problems(settings, engine, tmp_path, ("FROM plays", "FROM plays WHERE :now IS NOT NULL"))
    assert "line 10 [events.play]: nothing says of what type :now is; write CAST(:now AS timestamptz)" in told


def test_a_condition_of_another_type_is_told_as_the_server_says_it(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    told = problems(settings, engine, tmp_path, ("WHERE is_live", "WHERE is_live = 1"))
    assert "[items.song]: the database refused the query: operator does not exist: boolean = integer" in told


@pytest.mark.parametrize("alias", ["joinedAt", '\\"joinedAt\\"'])
def test_names_are_found_in_whatever_letters_they_come_back(
    settings: Settings, engine: Engine, tmp_path: Path, alias: str
) -> None:
    """Without quotes in small ones."""
    changes = ("SELECT id, came FROM", f"SELECT id, came AS {alias} FROM"), ('time = "came"', 'time = "joinedAt"')
    read = source(settings, engine, tmp_path, *changes)
    assert read.tables(NOW).users.times[0] == datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()
    assert read.fingerprint(NOW) == read.fingerprint(NOW)
    with engine.connect() as connection:
        plans = plans_of(read.mapping, "users", connection, NOW, UTC)
        assert (plans.findings, [step.key for step in plans.of_a_user or ()]) == ([], ["people_pkey"])


# Tables that change.


def test_a_change_of_any_value_is_seen_and_no_change_is_none(
    settings: Settings, engine: Engine, postgresql: PrivatePostgreSQL, tmp_path: Path
) -> None:
    read, name = source(settings, engine, tmp_path), str(engine.url.database)
    before = read.fingerprint(NOW)
    assert read.fingerprint(NOW) == before
    for change in ("UPDATE songs SET title = 'C' WHERE id = 11", "DELETE FROM people WHERE id = 2"):
        postgresql.execute(change, database=name)
        after = read.fingerprint(NOW)
        assert after != before
        before = after


def test_a_table_that_is_filled_anew_while_it_is_read_is_not_taken_for_empty(
    settings: Settings, engine: Engine, postgresql: PrivatePostgreSQL, tmp_path: Path
) -> None:
    """As by a nightly load: TRUNCATE, INSERT, COMMIT. Its view of that table is empty, without an error."""
    read, name = source(settings, engine, tmp_path), str(engine.url.database)
    with engine.connect() as connection:
        loading = connection.execution_options(isolation_level="READ COMMITTED")
        loading.execute(text("SELECT 1"))
        loading.exec_driver_sql("CREATE TEMP TABLE kept AS TABLE plays")
        loading.exec_driver_sql("TRUNCATE plays")
        loading.exec_driver_sql("INSERT INTO plays TABLE kept")
        failures: list[SourceError] = []

        def build() -> None:
            try:
                read.tables(NOW)
            except SourceError as error:
                failures.append(error)

        building = threading.Thread(target=build)
        building.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while building.is_alive() and postgresql.rows(waiting, name) == [(0,)]:
            time.sleep(0.01)
        loading.commit()
        building.join()
    (failure,) = failures
    assert str(failure) == "events.play: its table was emptied and filled anew while it was read."
    assert len(read.tables(NOW).events["play"].users) == 2
    postgresql.execute("TRUNCATE plays", database=name)
    assert len(read.tables(NOW).events["play"].users) == 0, "what is empty is empty"


def test_a_transaction_that_the_server_ends_in_its_idleness_is_an_error_and_the_next_succeeds(
    settings: Settings, engine: Engine, postgresql: PrivatePostgreSQL, tmp_path: Path
) -> None:
    """25P03, which is no OperationalError."""
    name = str(engine.url.database)
    postgresql.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = 50")
    read = source(settings, engine, tmp_path)

    def idle() -> None:
        with one_moment(engine, engine.connect) as connection:
            connection.execute(text("SELECT 1"))
            time.sleep(0.5)
            connection.execute(text("SELECT 1"))

    with pytest.raises(SourceError, match=r"25P03|closed the connection"):
        idle()
    postgresql.execute(f"ALTER DATABASE {name} RESET idle_in_transaction_session_timeout")
    engine.dispose()
    assert len(read.tables(NOW).items["song"]) == 2


# Whose the folder is, and the time.


def test_a_folder_of_one_database_is_not_used_with_another_of_its_name(settings: Settings, engine: Engine) -> None:
    check(settings, engine)
    assert identity_of(engine) == (True, None)
    make_identity(engine)
    known, identity = identity_of(engine)
    assert (known, identity is not None) == (True, True)
    assert check(settings, engine).identity == identity
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE recs_schema")
    make_identity(engine)
    with pytest.raises(WrongPlace, match="recs data adopt"):
        check(settings, engine)


def test_who_comes_back_is_known_from_the_services_own_table(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    reader = PastReader(engine.connect, Lifetimes(), tmp_path)
    assert (len(reader.read(7)), reader.knows_nothing_before(0)) == (0, True), "there is no table yet"
    writing = make_writing_engine(settings)
    migrate(writing)
    just_now = now_ms() - 60_000
    done = [feedback(event="hide", happened_ms=just_now), feed(happened_ms=just_now), feed(user_id=8)]
    assert EventWriter(writing).write(done).inserted.total() == 3
    writing.dispose()
    assert len(reader.read(7)) == 4, "what was hidden, and three that were shown"
    assert len(reader.read(9)) == 0
    assert not reader.knows_nothing_before(now_ms() // 1000 + 1)


def test_an_evaluation_reads_what_was_recorded(settings: Settings) -> None:
    writing = make_writing_engine(settings)
    migrate(writing)
    EventWriter(writing).write([feed(happened_ms=HAPPENED_MS), feedback(event="view", happened_ms=HAPPENED_MS)])
    window = Window(HAPPENED_MS - 1, HAPPENED_MS + 1)
    recorded = read_recorded(writing, window, load_learning(None), None, lambda _what, _share: None)
    assert (len(recorded.requests), recorded.unread) == (1, 0)
    writing.dispose()


def test_the_servers_clock_is_beside_this_machines(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    clock = Clock(tmp_path, 60)
    ClockWatch(clock, engine, 60).look()
    assert clock.agreed is not None
    assert clock.agreed.problem is None
    assert clock.agreed.database_ahead is not None
    assert abs(clock.agreed.database_ahead) < 5
