"""Whose a DATA_DIR is, and who holds it: compared with real databases, and held against real process namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from recommendation_service.cli import app
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.holding import hold, holder_of
from recommendation_service.core.place import (
    FILE,
    Owner,
    WrongPlace,
    adopt,
    check,
    make_identity,
    owner_of,
    space_of,
)
from recommendation_service.core.redis import RedisGuard, make_client
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.stream import EventStream, FlusherStream
from recommendation_service.telemetry.metrics import Metrics
from tests.servers import PrivateMariaDB, PrivateRedis, wait_until
from tests.support.events import feedback, write_segment
from tests.support.redis_workers import redis_settings

ROOT = Path(__file__).parents[2]


def settings_of(data: Path, database: URL | Path, **more: Any) -> Settings:
    if isinstance(database, Path):
        database.parent.mkdir(parents=True, exist_ok=True)
        database.touch()
    address = f"sqlite:///{database}" if isinstance(database, Path) else database.render_as_string(hide_password=False)
    return Settings(database_url=SecretStr(address), data_dir=data, **more)


def checked(settings: Settings, *, makes: bool = True) -> Owner:
    """As a worker looks."""
    engine = make_writing_engine(settings)
    try:
        check(settings)
        if makes:
            make_identity(engine)
        return check(settings, engine)
    finally:
        engine.dispose()


# The database.


def test_a_database_is_the_same_by_address_name_and_socket_and_after_its_tables_were_made(
    tmp_path: Path, mariadb: PrivateMariaDB, mariadb_url: URL
) -> None:
    data = tmp_path / "data"
    settings = settings_of(data, mariadb_url)
    first = checked(settings, makes=False)
    assert (first.database, first.identity) == (mariadb_url.database, None)
    engine = make_writing_engine(settings)
    migrate(engine)
    engine.dispose()
    owner = checked(settings)
    assert owner.identity is not None
    assert owner.spaces == (first.database,), "what was put into Redis before is looked after"
    for other in (mariadb_url.set(host="localhost"), mariadb_url.set(host="127.0.0.2")):
        assert checked(settings_of(data, other)) == owner
    assert owner_of(data) == owner


def test_another_name_is_refused_without_a_connection_and_a_database_that_is_away_is_not(
    tmp_path: Path, mariadb_url: URL
) -> None:
    data = tmp_path / "data"
    owner = checked(settings_of(data, mariadb_url))
    assert checked(settings_of(data, mariadb_url.set(port=1))) == owner
    for away in (mariadb_url.set(database="other"), mariadb_url.set(database="other", port=1)):
        with pytest.raises(WrongPlace, match=f"belongs to the database {mariadb_url.database}.* name other"):
            check(settings_of(data, away))
    assert owner_of(data) == owner


def test_a_restored_copy_is_the_same_database_and_another_of_the_same_name_is_not(tmp_path: Path) -> None:
    data, one, restored, other = tmp_path / "data", *(tmp_path / name / "shop.sqlite" for name in ("1", "2", "3"))
    owner = checked(settings_of(data, one))
    restored.parent.mkdir()
    shutil.copy(one, restored)  # without a log beside it: the connection was closed
    assert checked(settings_of(data, restored)) == owner
    with pytest.raises(WrongPlace, match="recs data adopt"):
        checked(settings_of(data, other))

    # To adopt is to say so, and to know where events may be left.
    settings = settings_of(data, other)
    engine = make_engine(settings)
    adopted = adopt(settings, engine)
    engine.dispose()
    assert adopted.identity not in (None, owner.identity)
    assert adopted.spaces == (space_of(settings, owner),)
    assert checked(settings) == adopted
    with pytest.raises(WrongPlace):
        checked(settings_of(data, one))


def test_a_user_who_may_only_read_is_served_by_the_name(
    tmp_path: Path, mariadb: PrivateMariaDB, mariadb_url: URL
) -> None:
    data = tmp_path / "data"
    reader = f"reader_{mariadb_url.database}"[:30]
    mariadb.execute(
        f"CREATE USER {reader}@'%' IDENTIFIED BY 'a password'",
        f"GRANT SELECT ON {mariadb_url.database}.* TO {reader}@'%'",
    )
    try:
        read_only = settings_of(data, mariadb_url.set(username=reader, password="a password"))
        assert checked(read_only) == Owner(str(mariadb_url.database))
        owner = checked(settings_of(data, mariadb_url))
        assert checked(read_only) == owner
    finally:
        mariadb.execute(f"DROP USER {reader}@'%'")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"database": "x"}', b"[]", b'{"database": 1, "spaces": 3}'])
def test_a_damaged_file_refuses_and_names_the_way_out(tmp_path: Path, content: bytes) -> None:
    settings = settings_of(tmp_path / "data", tmp_path / "shop.sqlite")
    owner = checked(settings)
    (settings.data_dir / FILE).write_bytes(content)
    with pytest.raises(WrongPlace, match="recs data adopt"):
        check(settings)
    engine = make_engine(settings)
    assert adopt(settings, engine).identity == owner.identity
    engine.dispose()


def test_a_folder_of_an_earlier_release_is_taken_over_with_its_stream(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", tmp_path / "shop.sqlite")
    settings.events_dir.mkdir(parents=True)
    assert checked(settings).spaces[0] == ""
    assert checked(settings_of(tmp_path / "new", tmp_path / "shop.sqlite")).spaces == ()


def test_events_of_one_database_do_not_reach_another(tmp_path: Path) -> None:
    data = tmp_path / "data"
    one, same_name = (
        settings_of(data, tmp_path / "1" / "shop.sqlite"),
        settings_of(data, tmp_path / "2" / "shop.sqlite"),
    )
    other_name = settings_of(data, tmp_path / "other.sqlite")
    checked(one)
    for wrong in (same_name, other_name):
        write_segment(data / "events", [feedback()], name=f"{time.time_ns():020d}-1")
        engine = make_writing_engine(wrong)
        metadata.tables["activity_log"].create(engine)
        flusher = Flusher(wrong, engine)
        flusher.step()
        assert not flusher.flush_all()
        flusher.tell()
        flusher.close()
        assert "belongs to the database shop.sqlite" in (flusher.status.error or "")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM activity_log").scalar_one() == 0
        engine.dispose()
        environment = {"DATA_DIR": str(data), "DATABASE_URL": str(wrong.source_url), "COLUMNS": "200"}
        configured = structlog.get_config()
        done = CliRunner().invoke(app, ["events", "flush"], env=environment)
        assert "belongs to the database shop.sqlite" in str(done.exception)
        shown = CliRunner().invoke(app, ["events", "status"], env=environment)
        assert "belongs to the database shop.sqlite" in " ".join(shown.stdout.split())
        structlog.configure(**configured)  # whose output is the test's
    engine = make_writing_engine(one)
    metadata.tables["activity_log"].create(engine)
    flusher = Flusher(one, engine)
    assert flusher.flush_all(), flusher.status.error
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM recs_events").scalar_one() == 2
    engine.dispose()


# Commands.


def test_the_commands_show_adopt_and_empty_and_lose_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    one, other = settings_of(data, tmp_path / "1" / "shop.sqlite"), settings_of(data, tmp_path / "2" / "shop.sqlite")
    owner = checked(one)
    engine = make_writing_engine(other)
    make_identity(engine)
    engine.dispose()

    def recs(settings: Settings, *words: str) -> Any:
        environment = {"DATA_DIR": str(data), "DATABASE_URL": str(settings.source_url), "COLUMNS": "200"}
        return CliRunner().invoke(app, ["data", *words], env=environment)

    shown = recs(one, "show", "--json")
    assert shown.exit_code == 0
    found = json.loads(shown.stdout)
    assert found["belongs_to"] == {"database": "shop.sqlite", "identity": owner.identity}
    assert (found["problem"], found["held_by"], found["events_wait"]) == (None, None, False)
    shown = recs(other, "show")
    assert shown.exit_code == 1
    assert "belongs to the database shop.sqlite" in shown.stdout

    assert "--yes" in str(recs(other, "adopt").exception), "nobody is there to be asked"
    assert owner_of(data) == owner
    assert recs(other, "adopt", "--yes").exit_code == 0
    assert recs(other, "show").exit_code == 0

    (data / "catalogs").mkdir()
    (data / "blacklist.txt").write_text("")
    segment = write_segment(data / "events", [feedback()], name=f"{time.time_ns():020d}-1")
    assert "recs events flush" in str(recs(other, "empty", "--yes").exception)
    segment.unlink()
    DeadLetters(data / "events").add([dead_letter(b"payload", "reason")])
    assert "--replay" in str(recs(other, "empty", "--yes").exception)
    held = hold(data, 0)
    assert f"held by process {os.getpid()}" in str(recs(other, "empty", "--yes", "--force").exception)
    os.close(held)
    assert recs(other, "empty", "--yes", "--force").exit_code == 0
    assert sorted(path.name for path in data.iterdir()) == ["blacklist.txt", "holder.lock"]
    assert checked(one).identity == owner.identity


# Redis.


def test_two_databases_have_no_key_in_common_and_an_earlier_stream_is_looked_after(
    tmp_path: Path, redis: PrivateRedis
) -> None:
    owners = [
        Owner("shop", "a" * 32),
        Owner("shop", "b" * 32),
        Owner("other", "a" * 32),
        Owner("shop"),
        Owner("shöp x"),
    ]
    settings = redis_settings(redis)
    assert len({space_of(settings, owner) for owner in owners}) == len(owners)
    assert {space_of(redis_settings(redis, redis_space="ours"), owner) for owner in owners} == {"ours"}

    upgraded = settings_of(tmp_path / "upgraded", tmp_path / "1" / "shop.sqlite", **_redis(redis))
    upgraded.events_dir.mkdir(parents=True)
    fresh = settings_of(tmp_path / "fresh", tmp_path / "2" / "shop.sqlite", **_redis(redis))
    spaces = [space_of(each, checked(each)) for each in (upgraded, fresh)]

    async def put(space: str, payload: bytes) -> bytes | None:
        client = make_client(upgraded)
        assert client is not None
        guard = RedisGuard(client, Metrics(), 2.0)
        guard.space = space
        try:
            return await EventStream(guard).add([payload])
        finally:
            await guard.close()

    names = [asyncio.run(put(space, f"of {space}".encode())) for space in ("", *spaces)]
    streams = [FlusherStream(each, Metrics(), 0.0) for each in (upgraded, fresh)]
    try:
        found = [dict(stream.abandoned()) for stream in streams]
        assert found[0] == {names[1]: [f"of {spaces[0]}".encode()], names[0]: [b"of "]}
        assert found[1] == {names[2]: [f"of {spaces[1]}".encode()]}
        streams[0].remove(list(found[0]))
        assert redis.execute("XLEN", "recs:events") == ":0"
        assert redis.execute("XLEN", f"recs:{spaces[0]}:events") == ":0"
        assert redis.execute("XLEN", f"recs:{spaces[1]}:events") == ":1"
    finally:
        for stream in streams:
            if stream._redis is not None:
                stream._runner.run(stream._redis.close())
            stream._runner.close()


def _redis(redis: PrivateRedis) -> dict[str, Any]:
    return {
        "redis_host": "127.0.0.1",
        "redis_port": redis.port,
        "redis_password": SecretStr(redis.password),
        "redis_timeout_milliseconds": 1000,
    }


# The holder.

HOLD = """
import os, sys, time
from pathlib import Path
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.holding import hold
try:
    hold(Path(sys.argv[1]), float(sys.argv[2]))
except ConfigurationError as error:
    sys.exit(f"refused: {error}")
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""
ELSEWHERE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _may_unshare() -> bool:
    done = subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False)
    return done.returncode == 0


elsewhere = pytest.mark.skipif(not _may_unshare(), reason="this user may make no process namespace (unshare --pid)")


def start(folder: Path, wait_seconds: float, stay_seconds: float, *around: str) -> subprocess.Popen[str]:
    command = [*around, sys.executable, "-c", HOLD, str(folder), str(wait_seconds), str(stay_seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_of_one_namespace_share_a_folder_and_leave_nothing_held(tmp_path: Path) -> None:
    held = hold(tmp_path, 0)
    other = start(tmp_path, 0, 60)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        os.close(held)
        assert f"process {os.getpid()} of host" in holder_of(tmp_path), "the first who held it says so for all"
    finally:
        other.kill()
        other.communicate()
    assert holder_of(tmp_path) == ""


@elsewhere
def test_who_finds_a_holder_in_another_container_waits_and_then_refuses_and_names_it(tmp_path: Path) -> None:
    container = start(tmp_path, 0, 600, *ELSEWHERE)
    try:
        assert container.stdout is not None
        assert container.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError, match=r"is held by process \d+ of host .*pid:"):
            hold(tmp_path, 0)
        # The command that starts the service says it, and serves nothing.
        done = subprocess.run(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.server:app"],
            cwd=ROOT,
            env={**os.environ, "DATA_DIR": str(tmp_path), "DATA_DIR_WAIT_SECONDS": "0", "GUNICORN_BIND": "127.0.0.1:0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode != 0
        assert "is held by process" in done.stderr
        assert "Traceback" not in done.stderr
        # Looking is not refused.
        shown = CliRunner().invoke(app, ["data", "show", "--json"], env={"DATA_DIR": str(tmp_path)})
        assert "of host" in json.loads(shown.stdout)["held_by"]

        with start(tmp_path, 120, 0) as waiting:
            assert wait_until(lambda: _is_waiting(waiting), 60)
            container.kill()  # and with it all of its namespace
            output, errors = waiting.communicate(timeout=60)
            assert output.endswith("held\n"), errors
    finally:
        container.kill()
        container.communicate()


def _is_waiting(process: subprocess.Popen[str]) -> bool:
    """Whether it has opened the lock and does not have it."""
    assert process.poll() is None
    links = Path(f"/proc/{process.pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        return any("holder.lock" in os.readlink(link) for link in links.iterdir())
    return False
