"""Tables whose times are of another zone, read and written as the application does: on SQLite and real servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from recommendation_service.core.local_time import local_text, zone_of
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.mappings.interacpedia.user_reader import UserReader
from tests.servers import PrivateMariaDB
from tests.support.events import feedback
from tests.unit.sources.operator_database import NOW, OperatorDatabase, ago, operator_database

ZONES = ["+02:00", "-05:00", "Europe/Madrid", "Asia/Kathmandu"]


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


@pytest.fixture(scope="module")
def eastern_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """A server that is two hours east, as are the sessions of whoever says nothing of time."""
    options = ["--default-time-zone=+02:00"]
    with PrivateMariaDB(tmp_path_factory.mktemp("eastern"), options=options) as server:
        yield server


def local(zone: str, **back: float) -> str:
    """A time before now, as the application's clock showed it."""
    return local_text(NOW - timedelta(**back), zone_of(zone))


@pytest.mark.parametrize("zone", ZONES)
def test_what_is_new_by_the_tables_own_clock_is_new_and_shown_as_it_is_stored(
    database: OperatorDatabase, zone: str
) -> None:
    times = {"created_at": local(zone, minutes=1), "updated_at": local(zone, minutes=1)}
    video = database.add("resumes", **times)
    challenge = database.add("challenges", **times, status_at=local(zone, minutes=2))

    view = database.build(mysql_time_zone=zone)

    created = view.arrays.created[[view.videos.index(video), view.arrays.worded + view.challenges.index(challenge)]]
    assert created.tolist() == [(NOW - timedelta(minutes=1)).timestamp()] * 2
    assert view.set_aside["resumes.created_at", "date in the future"] == 0
    shown = view.challenge(challenge)
    assert shown["created_at"] == local(zone, minutes=1).replace(" ", "T")
    assert shown["status_at"] == local(zone, minutes=2).replace(" ", "T")
    with_zone = database.build(mysql_time_zone=zone, item_times_with_zone=True).challenge(challenge)
    assert with_zone["created_at"] == (NOW - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("zone", ZONES)
def test_windows_end_by_the_tables_own_clock(database: OperatorDatabase, zone: str) -> None:
    edges = {"inside": timedelta(days=360, minutes=-1), "outside": timedelta(days=360, minutes=1)}
    rows = {
        name: database.add("resumes", created_at=local_text(NOW - before, zone_of(zone)))
        for name, before in edges.items()
    }

    view = database.build(mysql_time_zone=zone)

    assert rows["inside"] in view.videos
    assert rows["outside"] not in view.videos


@pytest.mark.parametrize("zone", ZONES)
def test_a_user_is_read_as_a_catalog_has_them(database: OperatorDatabase, zone: str) -> None:
    user = database.add("users", created_at=ago(days=1000))
    videos = [database.add("resumes") for _ in range(3)]
    for minutes, video in enumerate(videos):
        database.add("likes", user_id=user, model_id=video, created_at=local(zone, minutes=minutes))
    settings = database.settings(mysql_time_zone=zone)

    facts = UserReader(database.reader(settings).engine.connect, settings, NOW.timestamp).read(user)
    view = database.build(mysql_time_zone=zone)

    assert facts is not None
    assert [(int(key) >> 1, int(when)) for key, when in facts.history] == [
        (video, int(NOW.timestamp()) - 60 * minutes) for minutes, video in enumerate(videos)
    ]
    row = view.users.index(user)
    part = slice(*view.arrays.history_offsets[row : row + 2])
    assert view.arrays.history_when[part].tolist() == facts.history[:, 1].tolist()


@pytest.mark.parametrize("zone", ZONES)
def test_a_change_is_seen_when_it_is_made_by_the_tables_own_clock(database: OperatorDatabase, zone: str) -> None:
    video = database.add("resumes", updated_at=local(zone, days=1))
    source = database.source(mysql_time_zone=zone)
    before = source.fingerprint()
    assert source.fingerprint() == before

    now = datetime.now(UTC)
    database.change("resumes", video, updated_at=local_text(now - timedelta(minutes=5), zone_of(zone)))

    assert source.fingerprint() != before
    assert source.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("zone", ["UTC", *ZONES])
def test_what_is_appended_to_the_activity_log_bears_its_clock_and_recs_events_utc(
    database: OperatorDatabase, zone: str
) -> None:
    """Over a night on which clocks in Madrid are set, too."""
    engine = make_writing_engine(database.settings(mysql_time_zone=zone))
    with database.writer.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS recs_events"))
        connection.execute(text("DROP TABLE IF EXISTS recs_schema"))
    migrate(engine)
    moments = [datetime(2026, 3, 29, hour, 30, 0, 250_000, UTC) for hour in range(4)]
    moments += [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in range(4)]
    records = [
        feedback(event_id=f"e-{number}", happened_ms=int(moment.timestamp() * 1000))
        for number, moment in enumerate(moments)
    ]

    assert not EventWriter(engine, zone=zone_of(zone)).write(records).refused

    with engine.connect() as connection:
        statement = "SELECT CAST(created_at AS CHAR), CAST(updated_at AS CHAR) FROM activity_log ORDER BY id"
        found = [tuple(row) for row in connection.execute(text(statement))]
        ours = connection.execute(text("SELECT CAST(happened_at AS CHAR) FROM recs_events ORDER BY id")).scalars().all()
    engine.dispose()
    assert found == [(local_text(moment, zone_of(zone)),) * 2 for moment in moments]
    assert [str(row)[:19] for row in ours] == [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in moments]
    with database.writer.begin() as connection:
        connection.execute(text("DROP TABLE recs_events"))
        connection.execute(text("DROP TABLE recs_schema"))


@pytest.mark.parametrize(("column", "zone"), [("TIMESTAMP", "UTC"), ("TIMESTAMP", "+02:00"), ("DATETIME", "+02:00")])
def test_a_server_and_its_application_in_the_east_are_read_right(
    eastern_server: PrivateMariaDB, tmp_path: Path, column: str, zone: str
) -> None:
    """The application writes NOW() in the server's zone. Of columns without one only the setting tells."""
    eastern_server.execute("DROP DATABASE IF EXISTS east", "CREATE DATABASE east")
    database = OperatorDatabase(eastern_server.url("east"), tmp_path)
    video = database.add("resumes")
    database.execute(f"ALTER TABLE resumes MODIFY created_at {column} NULL")
    eastern_server.execute(f"UPDATE east.resumes SET created_at = NOW() WHERE id = {video}")
    before = datetime.now(UTC)

    view = database.build(now=before, mysql_time_zone=zone)

    created = float(view.arrays.created[view.videos.index(video)])
    assert created == pytest.approx(before.timestamp(), abs=60)
    database.close()
