"""The private servers that other tests stand on: what they promise, with the real programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import URL

from tests import servers
from tests.databases import __main__ as matrix
from tests.databases.plugin import NOT_AS_JSON, NOT_AS_JSON_OF_MYSQL, NOT_ON_MYSQL
from tests.servers import (
    PORTS,
    PrivateMariaDB,
    PrivateRedis,
    PrivateServer,
    ServerNotInstalledError,
    ServerStartError,
    find_program,
    wait_until,
)

REPOSITORY = Path(__file__).parents[2]
SOON_SECONDS = 0.3


@pytest.fixture(scope="module")
def own_mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """Not the server of the whole run: the tests here freeze and kill it."""
    folder = tmp_path_factory.mktemp("own-mariadb")
    with PrivateMariaDB(folder, performance_schema=True) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    folder = tmp_path_factory.mktemp("own-redis")
    with PrivateRedis(folder, is_persistent=True) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(params=["mariadb", "redis"])
def server(request: pytest.FixtureRequest) -> PrivateServer:
    found = request.getfixturevalue(f"own_{request.param}")
    assert isinstance(found, PrivateServer)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For servers of one test: removed at once, since pytest would keep their large files for three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def scalar(url: URL, statement: str) -> object:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(statement)).scalar_one()
    finally:
        engine.dispose()


def exists(pid: int) -> bool:
    """Whether the process is there and is not a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_server_answers_once_it_is_started(server: PrivateServer) -> None:
    assert server.is_running
    assert server.port in PORTS
    assert server.answers()


def test_a_paused_server_is_silent_and_answers_after_resume(server: PrivateServer) -> None:
    server.pause()
    try:
        assert server.is_running
        assert not server.answers(timeout_seconds=SOON_SECONDS)
    finally:
        server.resume()
    assert server.answers()


def test_starting_a_running_server_changes_nothing(server: PrivateServer) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_mariadb_keeps_its_data_and_port_over_a_kill(own_mariadb: PrivateMariaDB) -> None:
    own_mariadb.execute(
        "CREATE DATABASE kept", "CREATE TABLE kept.t (x INT PRIMARY KEY)", "INSERT INTO kept.t VALUES (7)"
    )
    port, pid = own_mariadb.port, own_mariadb.pid
    own_mariadb.kill()
    assert not own_mariadb.answers(timeout_seconds=SOON_SECONDS)
    own_mariadb.start()
    assert own_mariadb.port == port
    assert own_mariadb.pid != pid
    assert scalar(own_mariadb.url("kept"), "SELECT x FROM t") == 7


def test_redis_keeps_its_data_over_a_kill_where_asked(own_redis: PrivateRedis) -> None:
    assert own_redis.execute("SET", "greeting", "¡hola!") == "+OK"
    own_redis.kill()
    own_redis.start()
    assert own_redis.execute("GET", "greeting") == "¡hola!"


def test_redis_forgets_by_default(folder: Path) -> None:
    with PrivateRedis(folder / "redis") as redis:
        assert redis.execute("SET", "greeting", "hola") == "+OK"
        redis.restart()
        assert redis.execute("GET", "greeting") == "$-1"


def test_a_restart_works_on_a_paused_server(own_redis: PrivateRedis) -> None:
    pid = own_redis.pid
    own_redis.pause()
    own_redis.restart()
    assert own_redis.answers()
    assert own_redis.pid != pid


def test_mariadb_speaks_utf8_in_utc_and_ignores_the_configuration_of_the_machine(
    own_mariadb: PrivateMariaDB,
) -> None:
    assert scalar(own_mariadb.url(), "SELECT @@character_set_server") == "utf8mb4"
    assert scalar(own_mariadb.url(), "SELECT '🎬'") == "🎬"
    assert scalar(own_mariadb.url(), "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())") == 0
    assert scalar(own_mariadb.url(), "SELECT @@performance_schema") == 1


def test_a_new_server_takes_over_the_data_of_an_earlier_one(folder: Path) -> None:
    with PrivateMariaDB(folder / "mariadb") as server:
        server.execute("CREATE DATABASE kept")
    with PrivateMariaDB(folder / "mariadb") as server:
        assert scalar(server.url("kept"), "SELECT DATABASE()") == "kept"


def test_options_win_over_the_defaults(folder: Path) -> None:
    options = ["--max-connections=12", "--innodb-buffer-pool-size=32M"]
    with PrivateMariaDB(folder / "mariadb", options=options) as server:
        assert scalar(server.url(), "SELECT @@max_connections") == 12
        assert scalar(server.url(), "SELECT @@innodb_buffer_pool_size") == 32 * 1024 * 1024
        assert scalar(server.url(), "SELECT @@performance_schema") == 0


@pytest.mark.parametrize("password", ["", "wrong"])
def test_nobody_enters_without_the_password(own_mariadb: PrivateMariaDB, password: str) -> None:
    for user in (own_mariadb.user, "root", "anybody"):
        with pytest.raises(sqlalchemy.exc.OperationalError, match="Access denied"):
            scalar(own_mariadb.url().set(username=user, password=password), "SELECT 1")


def test_redis_refuses_a_client_without_the_password(own_redis: PrivateRedis) -> None:
    with socket.create_connection(("127.0.0.1", own_redis.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")


def test_a_closed_server_leaves_neither_process_nor_listener(folder: Path) -> None:
    for server in (PrivateMariaDB(folder / "mariadb"), PrivateRedis(folder / "redis")):
        with server:
            pid = server.pid
            assert exists(pid)
        assert not exists(pid)
        assert not server.is_running
        with closing(socket.socket()) as client:
            assert client.connect_ex(("127.0.0.1", server.port)) != 0
        server.stop()


def test_a_failing_test_leaves_no_process(folder: Path) -> None:
    pids: list[int] = []

    def fail_with_a_running_server() -> None:
        with PrivateRedis(folder / "redis") as server:
            pids.append(server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_running_server()
    assert not exists(pids[0])


def test_a_killed_test_run_takes_its_server_with_it(folder: Path) -> None:
    program = (
        "import pathlib, signal, sys; from tests.servers import PrivateRedis\n"
        "server = PrivateRedis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); signal.pause()"
    )
    arguments = [sys.executable, "-c", program, str(folder / "redis")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=REPOSITORY) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert exists(pid)
        run.kill()
    assert wait_until(lambda: not exists(pid), timeout_seconds=10)


def test_two_servers_run_side_by_side(own_redis: PrivateRedis, folder: Path) -> None:
    with PrivateRedis(folder / "redis") as other:
        assert other.port != own_redis.port
        assert other.execute("GET", "greeting") == "$-1"


def test_a_port_taken_in_the_last_moment_is_replaced(
    own_redis: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_free_port = servers.free_port
    for server in (PrivateMariaDB(folder / "mariadb"), PrivateRedis(folder / "redis")):
        ports = iter([own_redis.port, find_free_port()])
        monkeypatch.setattr(servers, "free_port", ports.__next__)
        with server:
            assert server.port != own_redis.port
            assert server.answers()


def test_a_server_that_does_not_start_shows_its_log(folder: Path) -> None:
    for server in (
        PrivateMariaDB(folder / "mariadb", options=["--no-such-option"]),
        PrivateRedis(folder / "redis", options=["no-such-option 1"]),
    ):
        with pytest.raises(ServerStartError, match="no-such-option"):
            server.start()
        assert not server.is_running


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerNotInstalledError, match=r"no-such-server is not installed.*apt-get install .*a-package"):
        find_program("no-such-server", "a-package")


def test_each_test_has_a_database_of_its_own(mariadb_url: URL, module_mariadb_url: URL, sqlite_url: URL) -> None:
    names = {scalar(url, "SELECT DATABASE()") for url in (mariadb_url, module_mariadb_url)}
    assert names == {mariadb_url.database, module_mariadb_url.database}
    assert len(names) == 2
    assert scalar(sqlite_url, "SELECT count(*) FROM sqlite_master") == 0


def test_no_setting_of_the_machine_reaches_a_test(folder: Path) -> None:
    probe = folder / "test_probe.py"
    probe.write_text(
        "from recommendation_service.core.config import Settings, load_settings\n"
        "def test_defaults():\n"
        "    assert load_settings() == Settings.model_construct()\n"
    )
    shutil.copy(REPOSITORY / "tests" / "conftest.py", folder)
    (folder / ".env").write_text("MYSQL_HOST=from-a-file\nFEED_SEED=9\n")
    environment = os.environ | {
        "MYSQL_USER": "developer",
        "mysql_port": "1",
        "API_KEYS": "k",
        "REDIS_HOST": "r",
    }
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "--rootdir",
        str(folder),
        str(probe),
    ]
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_what_make_test_databases_runs_is_there() -> None:
    """It runs outside CI, where a file that was renamed would go unnoticed."""
    folder = REPOSITORY / "tests" / "integration"
    lines = [line for path in folder.rglob("test_*.py") for line in path.read_text().splitlines()]
    names = {line.split("(")[0].removeprefix("def ") for line in lines}

    assert [name for name in matrix.FILES if not (folder / name).exists()] == []
    assert [
        name for name in (NOT_AS_JSON | NOT_ON_MYSQL | NOT_AS_JSON_OF_MYSQL) if name.split("[")[0] not in names
    ] == []
