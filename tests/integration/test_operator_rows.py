"""The operator's own rows are learned from, beside feedback: on SQLite and a real MariaDB."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from recommendation_service.core.database import make_engine
from recommendation_service.demo.schema import CHALLENGE_MODEL, RESUME_MODEL
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.learning import operator_rows
from recommendation_service.learning.format import SHIPPED, load_learning
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.ledger import FILE
from recommendation_service.learning.row_notes import TRANSACTION_MS, told_by_rows
from recommendation_service.log.records import FeedRecord, Record
from recommendation_service.mappings.interacpedia.rows import read_rows, tables_with_rows
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.mappings.interacpedia.statements import sql
from tests.servers import free_port
from tests.support.events import HAPPENED_MS, feed
from tests.unit.learning.test_learner import AU, World, count, reward, shown, sums_of
from tests.unit.sources.operator_database import ZERO_DATE, OperatorDatabase, operator_database

MINUTE_MS = 60_000
TABLES = sorted(load_learning().rows)


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


@pytest.fixture
def world(database: OperatorDatabase, tmp_path: Path) -> World:
    return world_of(database.url, tmp_path / "data")


def world_of(url: URL, folder: Path, **options: Any) -> World:
    address = SecretStr(url.render_as_string(hide_password=False))
    world = World(folder, database_url=address, mysql_use_pooling=False, **options)
    world.now_ms += MINUTE_MS
    return world


def at(moment_ms: int = HAPPENED_MS + 5_000) -> str:
    """As the tables have it."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def did(database: OperatorDatabase, table: str, served: FeedRecord, place: int, **values: Any) -> int:
    """A row that tells of an item of a feed."""
    item = int(served.slots().items[place])
    if table == "activity_log":
        who = {"causer_id": 7, "subject_id": item >> 1, "subject_type": CHALLENGE_MODEL if item & 1 else RESUME_MODEL}
    else:
        who = {"user_id": 7, "model_id": item >> 1}
    return database.add(table, **{**who, "created_at": at(), **values})


@pytest.mark.parametrize(
    ("table", "values", "event", "worth"),
    [
        ("likes", {"type": "save"}, "save", 0.6),
        ("likes", {"type": "like"}, "like", 0.5),
        ("matches", {}, "match", 1.0),
        ("team_feedbacks", {"value": 5}, "rating", 0.6),
        ("team_feedbacks", {"value": 1}, "rating", -0.6),
        ("views", {}, "view", 0.15),
        ("activity_log", {}, "view", 0.15),
    ],
)
def test_a_row_after_a_feed_teaches_as_the_event_that_it_is(
    database: OperatorDatabase, world: World, table: str, values: dict[str, Any], event: str, worth: float
) -> None:
    """And what stands before it in the feed was seen, as nobody says what was."""
    served = feed(6)
    world.write([served])
    did(database, table, served, 1, **values)

    learner = world.learn()

    assert learner.totals.events == {event: {f"table:{table}": 1}}
    known = told_by_rows(world.settings.learning_dir / FILE)
    assert known is not None
    assert [(one.request, one.item, one.event, one.reward) for one in known.told] == [
        (served.request_id, int(served.slots().items[1]), event, pytest.approx(worth))
    ]
    assert known.since_ms == served.happened_ms
    assert (count(learner, AU), reward(learner, AU)) == (pytest.approx(2), pytest.approx(worth))
    assert learner.totals.left == {}


def test_a_challenge_and_a_video_of_one_number_are_two_items(database: OperatorDatabase, world: World) -> None:
    served = feed(6)  # 102 is a challenge in it
    world.write([served])
    database.add("activity_log", causer_id=7, subject_id=102, subject_type=RESUME_MODEL, created_at=at())
    did(database, "activity_log", served, 2)
    learner = world.learn()
    assert learner.totals.events == {"view": {"table:activity_log": 1}}
    assert learner.totals.left == {"row_no_feed": 1}


def test_where_impressions_say_what_was_seen_a_row_shows_no_more_than_its_item(
    database: OperatorDatabase, world: World
) -> None:
    served = feed(9)
    world.write([served, shown(served, 0)])
    did(database, "matches", served, 4)
    assert world.learn().totals.slots == {"AU": 2}


def test_it_is_the_latest_feed_of_that_user_with_the_item_within_the_hours(
    database: OperatorDatabase, world: World
) -> None:
    early = feed(3, happened_ms=HAPPENED_MS - 25 * 3_600_000)
    earlier, latest = (feed(3, happened_ms=HAPPENED_MS + moment) for moment in (0, 2_000))
    others = [feed(3, user_id=8, happened_ms=HAPPENED_MS + 3_000), feed(3, happened_ms=HAPPENED_MS + 7_000)]
    world.write([early, earlier, latest, *others])
    did(database, "likes", latest, 1)
    did(database, "likes", early, 0, created_at=at(HAPPENED_MS - 2_000), type="like")  # a day and an hour after
    learner = world.learn()
    rows = learner_rows(world)
    assert [(request, source) for request, source in rows if source == "table:likes"] == [
        (latest.request_id, "table:likes")
    ]
    assert learner.totals.left["row_no_feed"] == 1


def learner_rows(world: World) -> list[tuple[bytes, str]]:
    """(feed, source) of what is known to have happened."""
    learner = world.learner()
    found = learner.ledger._database.execute("SELECT request, source FROM happenings").fetchall()
    learner.close()
    return [(request, source) for request, source in found]


# Once across both.


@pytest.mark.parametrize("first", ["row", "feedback", "both"])
@pytest.mark.parametrize("named", ["the same", "another", "none"])
def test_what_feedback_and_a_row_tell_counts_once_whichever_comes_first(
    database: OperatorDatabase, world: World, first: str, named: str
) -> None:
    """The row is the latest feed's; feedback may name another feed with the item, and that is believed."""
    earlier, latest = feed(3), feed(3, happened_ms=HAPPENED_MS + 1_000)
    told = earlier if named == "another" else latest
    said = shown(told, 1, "save", **({"request_id": None} if named == "none" else {}))
    world.write([earlier, latest])
    if first != "row":
        world.write([said])
    if first != "feedback":
        did(database, "likes", latest, 1)
    world.learn()
    if first == "row":
        world.write([said])
    if first == "feedback":
        did(database, "likes", latest, 1)

    learner = world.learn()

    assert (count(learner, AU), reward(learner, AU)) == (pytest.approx(2), pytest.approx(0.6))
    told_first = {"table:likes": 1} if first == "row" else {}  # a counter does not fall
    assert learner.totals.events["save"] == {"user" if named == "none" else "request": 1} | told_first
    assert learner.totals.left == {"again": 1}


def test_feedback_says_more_of_a_view_than_a_row_does(database: OperatorDatabase, world: World) -> None:
    served = feed(3)
    world.write([served, shown(served, 0, "view", watch_seconds=30.0)])
    did(database, "views", served, 0, created_at=at(HAPPENED_MS + 4_000))
    did(database, "activity_log", served, 0)
    learner = world.learn()
    assert reward(learner, AU) == pytest.approx(0.3)
    assert learner.totals.left == {"again": 2}


@pytest.mark.parametrize("column_type", ["LONGTEXT", "JSON"])
def test_what_the_service_wrote_into_the_log_of_the_operator_is_no_row_of_the_operators(
    module_mariadb_url: URL, tmp_path: Path, column_type: str
) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    world = world_of(module_mariadb_url, tmp_path / "data")
    database.execute(f"ALTER TABLE activity_log MODIFY properties {column_type}")
    served = feed(6)
    events = [shown(served, place, event) for place, event in enumerate(["view", "impression", "like", "hide"])]
    engine = make_writing_engine(world.settings)
    migrate(engine)
    EventWriter(engine).write([served, *events])  # all of which is a view by its description
    engine.dispose()
    # The service has served the feed, and the feedback is another machine's: only its rows could tell of it.
    world.write([served])
    assert world.learn().totals.events == {}

    for place, properties in enumerate([None, '{"event":"opened"}', '{"event_id":4}', '["view"]', "no JSON"]):
        if properties != "no JSON" or column_type != "JSON":
            did(database, "activity_log", served, place, properties=properties)
    learner = world.learn()
    database.execute("ALTER TABLE activity_log MODIFY properties LONGTEXT")
    database.close()
    assert learner.totals.events == {"view": {"table:activity_log": 5 if column_type == "LONGTEXT" else 4}}


ACTS = ("like", "save", "match", "view")
ROW_OF = {"like": ("likes", {"type": "like"}), "save": ("likes", {}), "match": ("matches", {}), "view": ("views", {})}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_in_whatever_order_rows_and_feedback_come_the_sums_are_the_same(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = random.Random(seed)
    feeds = [feed(6, happened_ms=HAPPENED_MS + 10 * MINUTE_MS * number) for number in range(4)]
    steps: list[Callable[[World, OperatorDatabase], Any]] = []

    def say(record: Record) -> None:
        steps.append(lambda world, _: world.write([record]))

    def row(table: str, served: FeedRecord, place: int, values: dict[str, Any]) -> None:
        steps.append(lambda _, database: did(database, table, served, place, **values))

    for _ in range(12):
        served, place, event = draw.choice(feeds), draw.randrange(6), draw.choice(ACTS)
        moment = served.happened_ms + draw.randint(1, 30) * MINUTE_MS
        told = {"happened_ms": moment, "received_ms": moment + 1, "request_id": served.request_id.hex()}
        table, values = ROW_OF[event]
        if place % 3 == 2:  # the tables but for the log have videos alone
            continue
        if draw.random() < 0.7:
            say(shown(served, place, event, **told))
        if draw.random() < 0.7:
            row(table, served, place, {**values, "created_at": at(moment)})

    def learned(is_shuffled: bool) -> Learner:
        folder = tmp_path_factory.mktemp("learned")
        url = URL.create("sqlite", database=str(folder / "operator.sqlite"))
        database, world = OperatorDatabase(url, folder), world_of(url, folder / "data")
        world.now_ms += 3_600_000
        world.write(feeds)
        order = draw.sample(steps, len(steps)) if is_shuffled else steps
        for step in order:
            step(world, database)
            if is_shuffled and draw.random() < 0.5:
                world.learn()
        return world.learn()

    expected, found = learned(False), learned(True)
    assert sums_of(found) == pytest.approx(sums_of(expected), rel=1e-12, abs=1e-9)
    assert found.totals.slots == expected.totals.slots


# What a database is like.


def test_a_row_that_is_committed_late_is_not_passed_over(module_mariadb_url: URL, tmp_path: Path) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    world = world_of(module_mariadb_url, tmp_path / "data")
    served = feed(6)
    world.write([served])
    slow = create_engine(module_mariadb_url)
    with slow.connect() as connection:
        connection.execute(
            text("INSERT INTO likes (user_id, model_id, type, created_at) VALUES (7, 100, 'save', :at)"), {"at": at()}
        )
        did(database, "likes", served, 1)
        for _ in range(4):  # the later one is seen again and again, meanwhile
            world.now_ms += 15_000
            assert world.learn().totals.events == {"save": {"table:likes": 1}}
        connection.commit()
    slow.dispose()
    assert world.learn().totals.events == {"save": {"table:likes": 2}}
    for _ in range(3):  # and once all of it is settled, none is read again
        world.now_ms += TRANSACTION_MS + 31_000
        learner = world.learn()
    database.close()
    assert learner.totals.events == {"save": {"table:likes": 2}}
    assert learner.totals.left == {}


def test_a_match_that_is_accepted_later_counts_from_then_on(database: OperatorDatabase, world: World) -> None:
    served = feed(6)
    world.write([served])
    matched = did(database, "matches", served, 1, status="pending")
    refused = did(database, "matches", served, 3, status="pending")
    did(database, "matches", feed(6, user_id=9), 0, status="pending", user_id=9)  # of whom no feed is known
    for _ in range(3):
        world.now_ms += TRANSACTION_MS + 31_000
        assert world.learn().totals.events == {}
    database.change("matches", matched, status="accepted")
    database.remove("matches", refused)

    learner = world.learn()

    assert learner.totals.events == {"match": {"table:matches": 1}}
    assert reward(learner, AU) == pytest.approx(1)
    learner = world.learner()
    assert learner.ledger.rows.watched("matches", 10) == []
    learner.close()


def test_rows_that_lack_something_or_have_a_time_that_cannot_be_teach_nothing_and_stop_nothing(
    database: OperatorDatabase, world: World
) -> None:
    served = feed(9)
    world.write([served, shown(served, 0, "match")])
    for values in ({"user_id": None}, {"user_id": 0}, {"model_id": 2**62}, {"created_at": None}):
        did(database, "likes", served, 1, **values)
    did(database, "likes", served, 1, created_at=ZERO_DATE if not database.is_sqlite else "0000-00-00 00:00:00")
    for value in (0, -1, None):
        did(database, "team_feedbacks", served, 1, value=value)
    did(database, "team_feedbacks", served, 1, type="of another sort", value=5)
    did(database, "likes", served, 1, type=None)
    database.add("views", user_id=7, model_id=100, model_type="App\\Post", created_at=at())
    did(database, "matches", served, 3, created_at=at(world.now_ms + 86_400_000))  # by a clock that is ahead

    learner = world.learn()

    assert learner.totals.events == {"match": {"request": 1, "table:matches": 1}}
    assert learner.totals.left == {"row_incomplete": 8, "row_clock": 1}


def test_a_row_without_a_time_counts_as_of_when_it_came(
    database: OperatorDatabase, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_rows, "ROWS_SECONDS", 0.0)
    served = feed(6, happened_ms=HAPPENED_MS)
    world.write([served])
    learner = world.learner()
    learner.step()
    did(database, "likes", served, 1, created_at=None)
    world.now_ms += 10_000
    while learner.step():
        pass
    learner.close()
    assert learner.totals.events == {"save": {"table:likes": 1}}


def test_a_table_that_is_not_there_is_told_of_and_the_others_are_read(database: OperatorDatabase, world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0)])
    did(database, "likes", served, 1)
    database.execute("ALTER TABLE views RENAME TO views_of_old")
    try:
        learner = world.learner()
        learner.learn_all()
        learner.tell()
        learner.close()
    finally:
        database.execute("ALTER TABLE views_of_old RENAME TO views")
    assert learner.totals.slots == {"AU": 2}
    assert list(learner.status.unread) == ["views"]
    assert "views" in learner.status.unread["views"]
    assert "password" not in learner.status.unread["views"]


def test_with_the_database_away_the_log_is_learned_from(
    module_mariadb_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    away = world_of(module_mariadb_url.set(host="127.0.0.1", port=free_port(), query={}), tmp_path / "data")
    served = feed(6)
    away.write([served, shown(served, 0)])
    did(database, "likes", served, 1)
    learner = away.learner()
    learner.learn_all()
    assert learner.totals.slots == {"AU": 1}
    learner.tell()
    assert sorted(learner.status.unread) == TABLES
    learner.close()

    learner = world_of(module_mariadb_url, tmp_path / "data").learn()
    database.close()
    assert learner.totals.events == {"impression": {"request": 1}, "save": {"table:likes": 1}}


def test_a_table_that_was_emptied_or_restored_is_read_on(database: OperatorDatabase, world: World) -> None:
    served = feed(6)
    world.write([served])
    rows = [did(database, "likes", served, 0, user_id=70) for _ in range(20)]
    for _ in range(3):
        world.now_ms += TRANSACTION_MS + 31_000
        world.learn()
    for number in rows:
        database.remove("likes", number)
    world.learn()
    did(database, "likes", served, 1, id=1)
    assert world.learn().totals.events == {"save": {"table:likes": 1}}


def test_killed_while_it_takes_rows_up_it_takes_them_up_once(module_mariadb_url: URL, tmp_path: Path) -> None:
    database = OperatorDatabase(module_mariadb_url, tmp_path)
    world = world_of(module_mariadb_url, tmp_path / "data")
    served = feed(6)
    world.write([served, shown(served, 0)])
    did(database, "likes", served, 1)
    script = """
        import os, signal, sys
        from pathlib import Path
        from recommendation_service.learning import learner
        from tests.integration.test_operator_rows import world_of
        from sqlalchemy.engine import make_url

        kept = learner.Ledger.keep

        def killed(self, mark):
            kept(self, mark)
            if self.totals.events:
                os.kill(os.getpid(), signal.SIGKILL)  # all was written, and nothing is committed

        learner.Ledger.keep = killed
        world_of(make_url(os.environ["OPERATOR"]), Path(sys.argv[1])).learn()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(world.settings.data_dir)],
        env={**os.environ, "OPERATOR": database.url.render_as_string(hide_password=False)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    for _ in range(2):
        learner = world.learn()
        assert learner.totals.events == {"impression": {"request": 1}, "save": {"table:likes": 1}}
        assert reward(learner, AU) == pytest.approx(0.6)
    database.close()


def test_an_item_that_was_forgotten_with_its_user_is_not_found_by_a_row(
    database: OperatorDatabase, world: World
) -> None:
    served = feed(6)
    world.write([served])
    world.learn()
    learner = world.learner()
    with learner.ledger.step():
        learner.ledger.forget({7: HAPPENED_MS})
        learner.ledger.keep(learner.ledger.mark)
    learner.close()
    did(database, "likes", served, 1)
    assert world.learn().totals.events == {}


def test_a_row_of_a_feed_that_was_not_personal_teaches_nothing(database: OperatorDatabase, world: World) -> None:
    served = feed(6, personal=False)
    world.write([served])
    did(database, "likes", served, 1)
    learner = world.learn()
    assert learner.totals.slots == {}
    assert learner.totals.left == {"not_personal": 2}


# What it costs the operator's server.


@pytest.mark.parametrize("table", tables_with_rows())
def test_a_look_reads_a_range_of_the_primary_key_and_no_more_rows_than_it_gives(
    table: str, full_tables: OperatorDatabase
) -> None:
    settings = full_tables.settings()
    with Source(make_engine(settings), settings).snapshot(datetime.now(UTC)) as snapshot:
        snapshot.parameters |= {"after": 2_000, "most": 50}
        statement = text("EXPLAIN FORMAT=TRADITIONAL " + sql(f"rows_{table}"))
        given = {name: snapshot.parameters[name] for name in statement._bindparams}
        plan = snapshot.connection.execute(statement, given).mappings().all()
        run = snapshot.connection.exec_driver_sql
        before = dict(run("SHOW SESSION STATUS LIKE 'Handler_read%%'").fetchall())
        page = read_rows(snapshot, table, 2_000, 50)
        after = dict(run("SHOW SESSION STATUS LIKE 'Handler_read%%'").fetchall())
    [step] = [row for row in plan if row["table"] == table]
    assert (step["type"], step["key"]) == ("range", "PRIMARY")
    assert not any("filesort" in str(row["Extra"]) for row in plan)
    assert [row.id for row in page.rows] == list(range(2_001, 2_051))
    assert page.last_id == 4_000
    # Those of the table, and as many of what was made of them.
    assert sum(int(after[name]) - int(before[name]) for name in before) <= 2 * 50 + 10


@pytest.fixture(scope="module")
def full_tables(module_mariadb_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorDatabase]:
    database = OperatorDatabase(module_mariadb_url, tmp_path_factory.mktemp("full"))
    for table in tables_with_rows():
        database.execute(f"TRUNCATE {table}")
        database.execute(f"INSERT INTO {table} (created_at) SELECT NULL FROM seq_1_to_4000")
        database.execute(f"ANALYZE TABLE {table}")
    yield database
    for table in tables_with_rows():
        database.execute(f"TRUNCATE {table}")
    database.close()


# The table of names.


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[rows.likes]", "[rows.hearts]", "rows.hearts: there is no such table; the tables are activity_log, likes"),
        ('accepted = "match"', 'accepted = "wedding"', "rows.matches.accepted"),
        ("[events.save]", "[events.skip_]", "events.skip_"),
    ],
)
def test_what_is_wrong_in_it_is_said(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = tmp_path / "learning.toml"
    path.write_text(SHIPPED.read_text().replace(before, after, 1))
    with pytest.raises(Exception, match=said.replace(".", r"\.")):
        load_learning(path)


def test_an_event_that_a_row_is_has_to_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "learning.toml"
    content = SHIPPED.read_text()
    start, end = content.index("[events.save]"), content.index("[events.match]")
    path.write_text(content[:start] + content[end:])
    with pytest.raises(Exception, match=r"rows\.likes\.save: the event save is not listed under events"):
        load_learning(path)


def test_a_table_that_is_not_listed_is_not_read(database: OperatorDatabase, world: World, tmp_path: Path) -> None:
    path = tmp_path / "learning.toml"
    content = SHIPPED.read_text()
    path.write_text(content[: content.index("[rows.likes]")])
    world.file = load_learning(path)
    served = feed(6)
    world.write([served])
    did(database, "likes", served, 1)
    learner = world.learn()
    assert learner.totals.events == {}
