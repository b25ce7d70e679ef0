"""Events into PostgreSQL: what becomes of them, each once, through a pooler and while the server is killed, read-only,
failed over and short of privileges."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.flush.arrays import insert_arrays
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.export import Selection, event_of_record, read_events
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.lookup import find_feed
from recommendation_service.flush.migrations import MIGRATIONS, migrate, pending_migrations
from recommendation_service.flush.person import Page, Person, events_of
from recommendation_service.flush.rows import FEEDBACK_COLUMNS, Event, event_id_of, feedback_row
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.segments import SUFFIX
from tests.integration.flush.test_flush import running_flusher
from tests.postgresql import PrivatePgBouncer, PrivatePostgreSQL, PrivateStandby
from tests.servers import wait_until
from tests.support.database_proxies import LossyProxy
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment
from tests.support.flushed import DATABASE, PATIENCE_SECONDS, rows, settings_for

ODD = "«o'Higgins» \"\\ 🌱\n%s :x {a,b}"
# Holds each transaction that inserted at its COMMIT, until who has the lock lets it go.
HOLD_AT_COMMIT = (
    "CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON recs_events DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION wait_for_lock()",
)
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePostgreSQL]:
    """Not the server of the whole run: it is killed here."""
    running = PrivatePostgreSQL(tmp_path_factory.mktemp("flush-postgresql"))
    try:
        running.start()
        yield running
    finally:
        running.remove()


@pytest.fixture
def settings(own: PrivatePostgreSQL, tmp_path: Path) -> Iterator[Settings]:
    own.start()
    own.execute(f"CREATE DATABASE {DATABASE}")
    yield settings_for(own.url(DATABASE), tmp_path)
    own.start()
    own.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_writing_engine(settings)
    migrate(made)
    yield made
    made.dispose()


def events_in(engine: Engine) -> Counter[str]:
    return Counter(row["event_id"] for row in rows(engine, "SELECT event_id FROM recs_events"))


def assert_each_is_there_once(engine: Engine, records: list[Event]) -> None:
    assert events_in(engine) == Counter(map(event_id_of, records))


# What an event becomes.


def test_events_come_back_as_they_were(settings: Settings, engine: Engine) -> None:
    whole = feedback(
        event_id="e-1", event="rating", user_id=2**63 - 1, request_id="ab12", session_id=ODD, position=3, value=4.5,
        watch_seconds=12.25, slot_kind=2, flags=4, received_ms=HAPPENED_MS + 38_757,
    )  # fmt: skip
    nobody = feedback(event_id=ODD, event="view", user_id=0, happened_ms=HAPPENED_MS - 250)
    shown = feed(3)
    outcome = EventWriter(engine).write([whole, nobody, shown])
    assert (outcome.inserted, outcome.refused, outcome.problem) == ({"rating": 1, "view": 1, "feed": 1}, [], "")
    found = {event["event_id"]: event for event in read_events(engine, Selection(None, None, None, None))}
    assert found == {event_id_of(record): event_of_record(record) for record in (whole, nobody, shown)}
    looked_up = find_feed(engine, settings.events_dir, shown.request_id.hex())
    assert looked_up is not None
    assert event_of_record(looked_up) == event_of_record(shown)
    page, following = events_of(engine, Person(0, None), Page(1), Dictionary())
    assert (page, following) == ([], None)
    page, following = events_of(engine, Person(7), Page(1), Dictionary())
    assert ([event["event_id"] for event in page], following) == ([shown.event_id.hex()], None)


def test_a_statement_has_more_values_than_the_server_takes_parameters(engine: Engine) -> None:
    """Of 65,536 and more a statement is refused, and without a code that says so."""
    events = [feedback(event_id=f"e-{i}") for i in range(65_535 // len(FEEDBACK_COLUMNS) + 1)]
    new = [feedback_row(event, 0) for event in events]
    with engine.begin() as connection:
        names = ", ".join(FEEDBACK_COLUMNS)
        marks = ", ".join(f"({', '.join(['%s'] * len(FEEDBACK_COLUMNS))})" for _ in new)
        values = tuple(value for row in new for value in row)
        with pytest.raises(OperationalError, match="65535"), connection.begin_nested():
            connection.exec_driver_sql(f"INSERT INTO recs_events ({names}) VALUES {marks}", values)
        assert len(insert_arrays(connection, FEEDBACK_COLUMNS, new)) == len(new)
    assert_each_is_there_once(engine, list(events))


def test_an_event_counts_once_within_its_user_and_by_its_very_letters(engine: Engine) -> None:
    records: list[Event] = [feedback(event_id=f"e-{i}") for i in range(2_500)]
    outcome = EventWriter(engine).write([*records, *records[:10]])
    assert (outcome.inserted.total(), outcome.duplicates) == (2_500, 10)
    others: list[Event] = [feedback(event_id="e-1", user_id=8), *(feedback(event_id=name) for name in ("E-1", "é-1"))]
    outcome = EventWriter(engine).write([*records[:1_000], *others])
    assert (outcome.inserted, outcome.duplicates) == ({"impression": 3}, 1_000)
    assert_each_is_there_once(engine, [*records, *others])


def test_what_no_column_holds_becomes_a_dead_letter_without_its_data(settings: Settings, engine: Engine) -> None:
    """A NUL is refused by the driver, and a number by the server; neither is cut to what fits."""
    good: list[Event] = [feedback() for _ in range(50)]
    bad = [
        feedback(session_id="x" * 200),
        feedback(user_id=2**63),
        feedback(session_id="a\x00secret"),
        feedback(session_id="\ud800secret"),
    ]
    outcome = EventWriter(engine).write([*good[:20], *bad[:3], *good[20:]])
    assert_each_is_there_once(engine, good)
    assert sorted(record.event_id for record, _ in outcome.refused) == sorted(record.event_id for record in bad[:3])
    assert "secret" not in str([reason for _, reason in outcome.refused])
    (refused,) = EventWriter(engine).write([bad[3]]).refused
    assert "secret" not in refused[1]
    write_segment(settings.events_dir, [bad[0]])
    assert Flusher(settings, engine).flush_all()
    (letter,) = DeadLetters(settings.events_dir).all()
    assert (letter.event_id, "(22001)" in letter.reason) == (bad[0].event_id, True)


# Tables.


def test_tables_are_made_once_by_who_comes_first(settings: Settings, own: PrivatePostgreSQL) -> None:
    first, second = make_writing_engine(settings), make_writing_engine(settings)
    with ThreadPoolExecutor(2) as pool:
        done = [each.result() for each in [pool.submit(migrate, engine) for engine in (first, second)]]
    assert sorted(map(len, done)) == [0, len(MIGRATIONS)]
    assert pending_migrations(first) == ()
    [(versions, identity)] = own.rows(
        "SELECT array_agg(version ORDER BY version), min(what) FILTER (WHERE version = 0) FROM recs_schema", DATABASE
    )
    assert (versions, identity[:9]) == ([0, 1, 2, 3], "identity ")
    first.dispose()
    second.dispose()


def test_a_missing_privilege_is_named_and_events_wait_until_it_is_given(
    settings: Settings, own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    own.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
    try:
        restricted = settings_for(own.url(DATABASE).set(username="app", password="app"), tmp_path)
        write_segment(restricted.events_dir, [feedback(event_id="e-1")])
        app = make_writing_engine(restricted)
        flusher = Flusher(restricted, app)
        assert not flusher.flush_all()
        assert "`recs migrate` makes the tables." in str(flusher.status.error)
        assert "permission denied for schema public (42501)" in str(flusher.status.error)
        own.execute("GRANT CREATE ON SCHEMA public TO app", database=DATABASE)
        assert flusher.flush_all()
        assert events_in(app) == Counter(["e-1"])
        own.execute("REVOKE INSERT ON recs_events FROM app", database=DATABASE)
        write_segment(restricted.events_dir, [feedback(event_id="e-2")])
        assert not flusher.flush_all()
        assert "lacks a privilege (permission denied for table recs_events (42501))" in str(flusher.status.error)
        own.execute("GRANT INSERT ON recs_events TO app", database=DATABASE)
        assert flusher.flush_all()
        assert events_in(app) == Counter(["e-1", "e-2"])
        app.dispose()
    finally:
        own.execute("DROP OWNED BY app", database=DATABASE)
        own.execute("DROP ROLE app")


# Time, and forgetting.


def test_rows_go_with_their_age_and_with_their_user(settings: Settings, engine: Engine) -> None:
    day_ms = 86_400_000
    old = feedback(event_id="old", happened_ms=HAPPENED_MS - 401 * day_ms, user_id=2)
    mine: list[Event] = [feedback(user_id=1), feed(user_id=1)]
    others: list[Event] = [feedback(user_id=2), feed(user_id=2)]
    write_segment(settings.events_dir, [old, *mine, *others])
    flusher = Flusher(settings, engine, now_ms=lambda: HAPPENED_MS + day_ms)
    assert flusher.flush_all()
    flusher.step()
    assert_each_is_there_once(engine, [*mine, *others])
    assert forget_user(engine, settings.events_dir, 1)["events"] == 2
    assert_each_is_there_once(engine, others)


# Faults.


def test_a_flusher_killed_between_insert_and_mark_writes_each_event_once(
    settings: Settings, engine: Engine, own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    """It is stopped at its COMMIT, which then succeeds: the rows are there, and the log does not know."""
    records: list[Event] = [feedback(user_id=number % 50) for number in range(500)]
    write_segment(settings.events_dir, records)
    own.execute(*HOLD_AT_COMMIT, database=DATABASE)
    alone = {"SEEN_STATE": "false"}  # else what fills the memory of users reads the log, too
    with engine.connect() as other:
        other.exec_driver_sql("SELECT pg_advisory_lock(7)")
        with running_flusher(settings, tmp_path, FLUSH_THRESHOLD_ACTIVITIES="1", **alone) as process:
            assert wait_until(lambda: bool(own.rows(WAITING)), PATIENCE_SECONDS)
            process.kill()
        other.invalidate()  # and the lock goes
    assert wait_until(lambda: events_in(engine).total() == 500, PATIENCE_SECONDS)
    (settings.events_dir / "flusher.json").unlink(missing_ok=True)
    with running_flusher(settings, tmp_path, **alone) as process:
        assert wait_until((settings.events_dir / "flusher.json").exists, PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, "what waits is flushed at the end"
    assert not list(settings.events_dir.glob(f"*{SUFFIX}*"))
    assert_each_is_there_once(engine, records)


@pytest.mark.parametrize("fault", ["connection", "server"])
def test_what_is_killed_between_insert_and_commit_is_written_once(
    settings: Settings, engine: Engine, own: PrivatePostgreSQL, fault: str
) -> None:
    records: list[Event] = [feedback() for _ in range(50)]
    write_segment(settings.events_dir, records)
    own.execute(*HOLD_AT_COMMIT, database=DATABASE)
    flusher = Flusher(settings, engine)
    with engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.exec_driver_sql("SELECT pg_advisory_lock(7)")
        flushing = pool.submit(flusher.flush_all)
        assert wait_until(lambda: bool(own.rows(WAITING)), PATIENCE_SECONDS)
        if fault == "server":
            own.kill()
        else:
            ((pid,),) = own.rows(WAITING)
            own.execute(f"SELECT pg_terminate_backend({pid})")
            assert wait_until(lambda: own.rows(WAITING) not in ([], [(pid,)]), PATIENCE_SECONDS)  # it tries again
        other.invalidate()  # and the lock goes
        succeeded = flushing.result(PATIENCE_SECONDS)
    assert succeeded == (fault == "connection")
    own.start()
    assert fault == "connection" or rows(engine, "SELECT * FROM recs_events") == []
    assert flusher.flush_all()
    assert flusher.status.error is None
    assert_each_is_there_once(engine, records)


def test_a_commit_whose_answer_is_lost_is_not_done_twice(
    settings: Settings, engine: Engine, own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    proxy = LossyProxy(own.port)
    # The proxy has to read along.
    url = own.url(DATABASE).set(port=proxy.port).update_query_dict({"sslmode": "disable"})
    through = make_writing_engine(settings_for(url, tmp_path))
    records: list[Event] = [feedback() for _ in range(50)]
    writer = EventWriter(through)
    writer.write(records[:1])
    proxy.cut_next_commit = True
    outcome = writer.write(records)
    assert (proxy.cuts, outcome.left, outcome.retries) == (1, [], 1)
    assert_each_is_there_once(engine, records)
    through.dispose()
    proxy.close()


def test_flushers_at_once_write_each_event_once(engine: Engine) -> None:
    records: list[Event] = [feedback(user_id=number % 7) for number in range(3_000)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(EventWriter(engine).write, [records, records[::-1]]))
    assert sum(outcome.inserted.total() for outcome in outcomes) == 3_000
    assert [outcome.left for outcome in outcomes] == [[], []]
    assert_each_is_there_once(engine, records)


def test_events_are_written_through_a_pooler(
    settings: Settings, engine: Engine, own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    pooler = PrivatePgBouncer(tmp_path / "pgbouncer", own)
    try:
        pooler.start()
        through = make_writing_engine(settings_for(pooler.url(DATABASE), tmp_path))
        records: list[Event] = [feedback(user_id=number % 7) for number in range(3_000)]
        outcome = EventWriter(through).write([*records, feed(), feed()])
        assert (outcome.inserted, outcome.problem) == ({"impression": 3_000, "feed": 2}, "")
        assert EventWriter(through).write(records).duplicates == 3_000
        assert migrate(through) == ()
        through.dispose()
    finally:
        pooler.remove()


def test_a_standby_takes_no_events_until_it_is_promoted_and_then_each_once(
    settings: Settings, engine: Engine, own: PrivatePostgreSQL, tmp_path: Path
) -> None:
    """A failover: the address names both servers, and whoever takes writes is used."""
    standby = PrivateStandby(tmp_path / "standby", own)
    try:
        standby.start()
        before: list[Event] = [feedback() for _ in range(20)]
        hosts = [f"127.0.0.1:{port}" for port in (own.port, standby.port)]
        writable = {"host": hosts, "target_session_attrs": "read-write"}
        both = URL.create("postgresql", own.user, own.password, database=DATABASE, query=writable)
        settings = settings_for(both, tmp_path)
        through = make_writing_engine(settings)
        flusher = Flusher(settings, through)
        write_segment(settings.events_dir, before)
        assert flusher.flush_all()
        alone = make_writing_engine(settings_for(standby.url(DATABASE), tmp_path))
        wait_until(lambda: events_in(alone).total() == 20, PATIENCE_SECONDS)
        outcome = EventWriter(alone).write([feedback()])
        assert "cannot be written to" in outcome.problem
        assert "(25006)" in outcome.problem
        own.kill()
        after: list[Event] = [feedback() for _ in range(20)]
        write_segment(settings.events_dir, after)
        assert not flusher.flush_all()
        standby.promote()
        assert flusher.flush_all(), flusher.status.error
        assert_each_is_there_once(alone, [*before, *after])
        assert EventWriter(alone).write(before).duplicates == 20
        through.dispose()
        alone.dispose()
    finally:
        standby.remove()


def test_a_server_that_is_away_is_not_taken_for_one_without_tables(tmp_path: Path) -> None:
    settings = settings_for(URL.create("postgresql", "recs", "hush-hush", "127.0.0.1", 1, "shop"), tmp_path)
    with pytest.raises(SourceError) as raised:
        pending_migrations(make_writing_engine(settings))
    assert "refused" in str(raised.value)
    assert "hush-hush" not in str(raised.value)
