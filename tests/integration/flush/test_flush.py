"""Events from the log into real databases: what becomes of them, what is refused, and when."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.person import forgotten_in_log
from recommendation_service.flush.rows import Event, event_id_of
from recommendation_service.log.marks import FLUSH
from recommendation_service.log.reader import LogReader
from recommendation_service.log.records import encode
from recommendation_service.log.segments import SUFFIX, SegmentFull, SegmentWriter
from recommendation_service.processes.registry import FLUSHER
from tests.end_to_end.service import Service, command_of, load_demo, recs
from tests.servers import PrivateMariaDB, wait_until
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment
from tests.support.flushed import (
    DATABASE,
    PATIENCE_SECONDS,
    assert_each_is_there_once,
    counted,
    prepared,
    rows,
    settings_for,
)

ODD = "«o'Higgins» \"\\ 🌱\n\x00%s :x"


# What an event becomes.


def test_feedback_is_appended_to_the_activity_log_as_the_contract_says(settings: Settings, engine: Engine) -> None:
    whole = feedback(
        event_id="e-1", event="rating", user_id=4711, request_id="ab12", session_id="tab-1", position=3, value=4.5,
        watch_seconds=12.25, slot_kind=2, flags=4, received_ms=HAPPENED_MS + 38_757,
    )  # fmt: skip
    challenge = feedback(event_id="e-2", event="view", item_type=1, user_id=0)
    creator = feedback(event_id="e-3", event="hide", item_type=2, item_id=9)
    assert EventWriter(engine).write([whole, challenge, creator]).inserted == {"rating": 1, "view": 1, "hide": 1}
    found = rows(engine, "SELECT * FROM activity_log ORDER BY id")
    assert [row["subject_type"] for row in found] == [
        r"App\Interacpedia\Resumes\Resume",
        r"App\Interacpedia\Challenges\Challenge",
        r"App\User",
    ]
    assert [row["causer_id"] for row in found] == [4711, None, 7]
    assert [row["description"] for row in found] == ["#video #view #AU", *["#video #view #UNKNOWN"] * 2]
    (times,) = rows(engine, "SELECT happened_at, received_at FROM recs_events WHERE event_id = 'e-1'")
    assert [str(moment)[:23] for moment in times.values()] == ["2026-09-21 14:13:20.250", "2026-09-21 14:13:59.007"]
    row = found[0]
    assert (row["log_name"], row["subject_id"], row["causer_type"]) == ("app", 42, r"App\User")
    assert row["url"] == "/api/search/feed/video/42"
    assert str(row["created_at"]) == str(row["updated_at"]) == "2026-09-21 14:13:20"
    assert row["properties"] == (
        '{"event":"rating","event_id":"e-1","user_id":4711,"item_type":"resume","item_id":42,"request_id":"ab12",'
        '"session_id":"tab-1","slot_kind":"AU","position":3,"value":4.5,"watch_seconds":12.25,"flags":4,'
        '"happened_at":"2026-09-21T14:13:20.250Z"}'
    )
    assert json.loads(found[1]["properties"]) == {
        "event": "view", "event_id": "e-2", "user_id": 0, "item_type": "challenge", "item_id": 42,
        "happened_at": "2026-09-21T14:13:20.250Z",
    }  # fmt: skip


def test_a_feed_is_appended_to_the_activity_log_as_the_contract_says(settings: Settings, engine: Engine) -> None:
    shown = feed(3)
    assert EventWriter(engine).write([shown]).inserted == {"feed": 1}
    (row,) = rows(engine, "SELECT * FROM activity_log")
    assert (row["description"], row["url"]) == ("#feed #request #total", "/api/search/total")
    assert (row["subject_id"], row["subject_type"], row["causer_id"]) == (None, None, 7)
    assert row["properties"].startswith(f'{{"event":"feed","event_id":"{shown.event_id.hex()}",')
    assert json.loads(row["properties"]) == {
        "event": "feed",
        "event_id": shown.event_id.hex(),
        "user_id": 7,
        "request_id": shown.request_id.hex(),
        "session_id": "tab-1",
        "endpoint": "total",
        "catalog": shown.catalog_version,
        "policy": "starting-1",
        "happened_at": "2026-09-21T14:13:20.250Z",
        "items": [
            {"id": 100, "type": "resume", "slot": "AU"},
            {"id": 101, "type": "resume", "slot": "AU"},
            {"id": 102, "type": "challenge", "slot": "FW"},
        ],
    }


def test_text_of_clients_arrives_as_it_was(settings: Settings, engine: Engine) -> None:
    record = feedback(event_id=f"id {ODD}", session_id=ODD, request_id=ODD)
    assert not EventWriter(engine).write([record]).refused
    (row,) = rows(engine, "SELECT * FROM recs_events")
    assert (row["event_id"], row["session_id"], row["request_id"]) == (f"id {ODD}", ODD, ODD)
    (row,) = rows(engine, "SELECT properties FROM activity_log")
    content = json.loads(row["properties"])
    assert (content["event_id"], content["session_id"], content["request_id"]) == (f"id {ODD}", ODD, ODD)


def test_texts_that_want_no_escaping_are_written_as_others_are(settings: Settings, engine: Engine) -> None:
    """A batch that has no other text is put in words of SQL that escape nothing."""
    plain = "".join(chr(code) for code in range(32, 127) if chr(code) not in "'\"\\")

    def record(event_id: str) -> Event:
        return feedback(event_id=event_id, session_id=plain, request_id=f"{plain}?", value=0.5, received_ms=HAPPENED_MS)

    writer = EventWriter(engine)
    writer.write([record(f"{plain}1"), feedback(event_id="none", user_id=8)])
    writer.write([record(f"{plain}2"), feedback(event_id=ODD, user_id=8)])
    for table, own in (("recs_events", ("id", "flush_id")), ("activity_log", ("id",))):
        found = rows(engine, f"SELECT * FROM {table}")
        first, second = (
            {name: str(value).replace(f"{plain}{number}", "") for name, value in row.items() if name not in own}
            for number, row in enumerate((row for row in found if row.get("user_id", row.get("causer_id")) == 7), 1)
        )
        assert first == second
    assert counted(engine)[1] == Counter([f"{plain}1", f"{plain}2", "none", ODD])


def test_the_same_event_twice_counts_once(settings: Settings, engine: Engine) -> None:
    records: list[Event] = [feedback(event_id=f"e-{i}") for i in range(2_500)]
    outcome = EventWriter(engine).write([*records, *records[:10]])
    assert (outcome.inserted.total(), outcome.duplicates) == (2_500, 10)
    outcome = EventWriter(engine).write([*records[:1_000], feedback(event_id="another")])
    assert (outcome.inserted, outcome.duplicates) == ({"impression": 1}, 1_000)
    assert_each_is_there_once(engine, [*records, feedback(event_id="another")])


def test_ids_that_differ_by_case_or_accent_only_are_different_events(settings: Settings, engine: Engine) -> None:
    records: list[Event] = [feedback(event_id=name) for name in ("a", "A", "á", "ａ")]
    EventWriter(engine).write(records)
    assert_each_is_there_once(engine, records)


def test_an_id_counts_within_its_user(settings: Settings, engine: Engine) -> None:
    first, second = (feedback(event_id="tap-1", user_id=user) for user in (1, 2))
    write_segment(settings.events_dir, [first, second, feedback(event_id="tap-1", user_id=2, item_id=43)])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert (flusher.status.flushed, flusher.status.duplicates) == ({"impression": 2}, 1)
    assert EventWriter(engine).write([second, feedback(event_id="tap-1", user_id=3)]).duplicates == 1
    found = rows(engine, "SELECT user_id, item_id FROM recs_events WHERE event_id = 'tap-1' ORDER BY user_id")
    assert [(row["user_id"], row["item_id"]) for row in found] == [(1, 42), (2, 42), (3, 42)]
    assert [row["causer_id"] for row in rows(engine, "SELECT causer_id FROM activity_log ORDER BY causer_id")] == [
        1, 2, 3,
    ]  # fmt: skip


# Rows that are refused for ever.


def test_a_row_that_the_database_refuses_becomes_a_dead_letter_and_the_others_are_written(
    settings: Settings, engine: Engine
) -> None:
    good: list[Event] = [feedback() for _ in range(300)]
    bad = feedback(session_id="x" * 200) if engine.dialect.name == "mysql" else feedback(user_id=2**64 - 1)
    write_segment(settings.events_dir, [*good[:100], bad, b"no record", *good[100:]])
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    assert_each_is_there_once(engine, good)
    letters = DeadLetters(settings.events_dir).all()
    assert {letter.event_id for letter in letters} == {bad.event_id, None}
    assert (flusher.status.dead_letters, flusher.status.flushed) == (2, {"impression": 300})
    assert not list(settings.events_dir.glob(f"*{SUFFIX}")), "the segment is done with"


def test_dead_letters_are_listed_and_go_through_when_the_reason_is_gone(
    mariadb_settings: Settings, mariadb_engine: Engine, server: PrivateMariaDB, tmp_path: Path
) -> None:
    record = feedback(session_id="x" * 200)
    write_segment(mariadb_settings.events_dir, [record])
    assert Flusher(mariadb_settings, mariadb_engine).flush_all()
    assert mariadb_settings.database_url is not None
    environment = {"DATABASE_URL": mariadb_settings.database_url.get_secret_value()}
    (letter,) = json.loads(recs("events", "dead", "--json", folder=tmp_path, settings=environment).stdout)
    assert (letter["event_id"], letter["event"]) == (record.event_id, "impression")
    assert "session_id" in letter["reason"]
    again = recs("events", "dead", "--replay", folder=tmp_path, settings=environment)
    assert (again.returncode, again.stdout.count("1 stay dead")) == (1, 1), again.stderr
    server.execute(f"ALTER TABLE {DATABASE}.recs_events MODIFY session_id VARCHAR(300)")
    again = recs("events", "dead", "--replay", "--json", folder=tmp_path, settings=environment)
    assert json.loads(again.stdout) == {"replayed": 1, "already_there": 0, "dead": 0}
    assert_each_is_there_once(mariadb_engine, [record])
    assert DeadLetters(mariadb_settings.events_dir).all() == []


# The process.


def test_beside_another_that_reads_as_flush_nothing_is_flushed_and_it_is_named(tmp_path: Path) -> None:
    """A program of the operator's under that name, say: flushers wait for each other."""
    (tmp_path / "interacpedia.sqlite").touch()
    settings = settings_for(URL.create("sqlite", database=str(tmp_path / "interacpedia.sqlite")), tmp_path)
    write_segment(settings.events_dir, [feedback()])
    assert settings.database_url is not None
    environment = {"DATABASE_URL": settings.database_url.get_secret_value()}
    said = f"is taken by process {os.getpid()}"

    def is_said() -> bool:
        status = read_status(settings.events_dir)
        return status is not None and said in str(status.taken) and said in str(status.error)

    def is_flushed() -> bool:
        status = read_status(settings.events_dir)
        return status is not None and status.flushed == {"impression": 1} and status.taken is None

    with prepared(settings) as engine, LogReader(settings.events_dir, FLUSH) as other:
        done = recs("events", "flush", folder=tmp_path, settings=environment)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (1, True, False)
        with running_flusher(settings, tmp_path, FLUSH_INTERVAL_SECONDS="1") as process:
            assert wait_until(is_said, PATIENCE_SECONDS)
            assert process.poll() is None, "it would be started again, each second"
            assert rows(engine, "SELECT id FROM recs_events") == []
            other.close()
            assert wait_until(is_flushed, PATIENCE_SECONDS)


@contextmanager
def running_flusher(settings: Settings, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """As a worker starts it. Killed with -9 at the end, unless it has ended."""
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        **more,
    }
    with (
        (folder / "flusher.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", FLUSHER.module], env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_a_flusher_killed_again_and_again_writes_each_event_once(
    mariadb_settings: Settings, mariadb_engine: Engine, tmp_path: Path
) -> None:
    folder = mariadb_settings.events_dir
    folder.mkdir(parents=True)
    records: list[Event] = []
    stop = threading.Event()

    def write() -> None:
        """As a worker does, in small segments: as fast as batches of 20 every 10 ms are."""
        number = 0
        writer = SegmentWriter(folder / f"{number:020d}-1{SUFFIX}", 1 << 16)
        while not stop.wait(0.01):
            for record in [feedback(user_id=len(records) % 50) for _ in range(19)] + [feed()]:
                try:
                    writer.append(encode(record))
                except SegmentFull:
                    writer.close()
                    number += 1
                    writer = SegmentWriter(folder / f"{number:020d}-1{SUFFIX}", 1 << 16)
                    writer.append(encode(record))
                records.append(record)
        writer.close()

    # Else what fills the memory of users reads the log too, and keeps segments if it is stopped before its end.
    alone = {"SEEN_STATE": "false"}

    def flushed() -> int:
        return int(rows(mariadb_engine, "SELECT COUNT(*) AS n FROM recs_events")[0]["n"])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            before = flushed()
            with running_flusher(mariadb_settings, tmp_path, FLUSH_THRESHOLD_ACTIVITIES="1", **alone):
                assert wait_until(lambda before=before: flushed() > before, PATIENCE_SECONDS)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    (folder / "flusher.json").unlink(missing_ok=True)
    with running_flusher(mariadb_settings, tmp_path, **alone) as process:
        assert wait_until((folder / "flusher.json").exists, PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, "what waits is flushed at the end"
    assert_each_is_there_once(mariadb_engine, records)
    assert not list(folder.glob(f"*{SUFFIX}*"))


def test_a_flush_that_is_asked_for_is_waited_for(
    mariadb_settings: Settings, mariadb_engine: Engine, tmp_path: Path
) -> None:
    records: list[Event] = [feedback()]
    write_segment(mariadb_settings.events_dir, records)
    assert mariadb_settings.database_url is not None
    environment = {"DATABASE_URL": mariadb_settings.database_url.get_secret_value()}
    with open(mariadb_settings.events_dir / FLUSHER.lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the worker holds it that keeps the flusher
        with running_flusher(mariadb_settings, tmp_path):
            done = recs("events", "flush", "--json", folder=tmp_path, settings=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flushed"] == {"impression": 1}
    assert_each_is_there_once(mariadb_engine, records)
    # Where none runs, the command does it.
    records.append(feedback())
    write_segment(mariadb_settings.events_dir, records[1:])
    done = recs("events", "flush", folder=tmp_path, settings=environment)
    assert done.returncode == 0, done.stderr
    assert_each_is_there_once(mariadb_engine, records)


# Time, and forgetting.


def test_rows_that_are_too_old_are_deleted_and_the_operators_are_not(settings: Settings, engine: Engine) -> None:
    day_ms = 86_400_000
    records: list[Event] = [feedback(event_id="old", happened_ms=HAPPENED_MS - 401 * day_ms), feedback(event_id="new")]
    records[1] = feedback(event_id="new", happened_ms=HAPPENED_MS)
    now = HAPPENED_MS + day_ms
    write_segment(settings.events_dir, records)
    flusher = Flusher(settings, engine, now_ms=lambda: now)
    assert flusher.flush_all()
    flusher.step()
    assert counted(engine) == (Counter(["new"]), Counter(["old", "new"]))


def test_a_forgotten_user_is_gone_from_the_database_the_log_and_the_dead_letters(
    settings: Settings, engine: Engine
) -> None:
    mine: list[Event] = [feedback(user_id=1), feed(user_id=1)]
    others: list[Event] = [feedback(user_id=2), feedback(user_id=2)]
    folder = settings.events_dir
    write_segment(folder, [mine[0], others[0], feedback(user_id=1, item_type=999)])  # the last one cannot be a row
    flusher = Flusher(settings, engine)
    assert flusher.flush_all()
    write_segment(folder, [mine[1], others[1]])
    assert forget_user(engine, folder, 1) == {"events": 1, "dead_letters": 1, "damaged_segments": 0}
    assert forgotten_in_log(folder, 1) == 1
    assert flusher.flush_all()
    assert forgotten_in_log(folder, 1) == 0
    assert counted(engine)[0] == Counter(map(event_id_of, others))
    assert flusher.status.forgotten == 1
    later = feedback(user_id=1, happened_ms=HAPPENED_MS + 10 * 365 * 86_400_000)
    write_segment(folder, [later])
    assert flusher.flush_all()
    assert counted(engine)[0] == Counter(map(event_id_of, [*others, later])), "who comes back is remembered again"


# The service.


def test_a_service_flushes_what_its_feeds_showed_and_replaces_a_flusher_that_was_killed(tmp_path: Path) -> None:
    database = load_demo(tmp_path)

    def flushers() -> set[int]:
        return {pid for pid in service.pids if FLUSHER.module in command_of(pid)}

    with Service.uvicorn(tmp_path, {}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(flushers()) == 1)
        (killed,) = flushers()
        os.kill(killed, signal.SIGKILL)
        service.wait_until(lambda: len(flushers() - {killed}) == 1)
        request_id = service.feed()["request_id"]
        done = recs("events", "flush", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        service.wait_until(lambda: service.metric("recs_events_flushed_total", event="feed") == 1)
        assert service.metric("recs_events_log_bytes") > 0
        assert service.metric("recs_flush_failures") == 0
        assert service.stop() in {0, -signal.SIGTERM}
        assert flushers() == set()
    engine = sqlalchemy.create_engine(f"sqlite:///{database}", poolclass=sqlalchemy.NullPool)
    found = rows(engine, 'SELECT properties FROM activity_log WHERE properties LIKE \'{"event":"feed"%\'')
    assert [json.loads(row["properties"])["request_id"] for row in found] == [request_id]
