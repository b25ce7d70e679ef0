"""The systemd unit and the database's settings, by the programs that read them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest

from tests.end_to_end.service import PATIENCE_SECONDS, REPOSITORY, Service, checkout, load_demo, run
from tests.servers import LOOPBACK, PrivateMariaDB, find_program, free_port

UNIT = REPOSITORY / "deploy" / "systemd" / "recommendation-service.service"
CONFIGURATION = REPOSITORY / "deploy" / "mysql" / "recommendation.cnf"
INSTALLED = "/opt/recommendation-service"


# The unit.


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A checkout as the unit starts it, at another place than it names."""
    root = checkout(tmp_path)
    (root / "scripts").mkdir()
    (root / "scripts" / "start_production.sh").symlink_to(REPOSITORY / "scripts" / "start_production.sh")
    (root / ".venv").symlink_to(sys.prefix)
    return root


def directives(section: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    (text,) = re.findall(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", UNIT.read_text(), re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_systemd_has_nothing_to_say_against_the_unit(installed: Path, tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert f"ExecStart={INSTALLED}/scripts/start_production.sh\n" in text
    copy.write_text(text.replace(INSTALLED, str(installed)).replace("/bin/kill", find_program("kill", "procps")))
    # Of this unit alone: those of other packages that it is ordered after are not ours.
    done = subprocess.run(
        [find_program("systemd-analyze", "systemd"), "verify", "--man=no", "--recursive-errors=no", str(copy)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == ""
    assert done.returncode == 0


def test_systemd_does_find_fault_with_a_unit_that_has_one(installed: Path, tmp_path: Path) -> None:
    """So that the silence above says something."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(installed)).replace("KillMode=mixed", "KillMode=mild"))
    done = subprocess.run(
        [find_program("systemd-analyze", "systemd"), "verify", "--man=no", "--recursive-errors=no", str(copy)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "kill mode" in done.stderr


def test_the_unit_is_hardened() -> None:
    done = subprocess.run(
        [find_program("systemd-analyze", "systemd"), "security", "--offline=yes", "--threshold=20", str(UNIT)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_the_unit_says_what_operations_ask_of_it() -> None:
    unit, service = directives("Unit"), directives("Service")
    assert {"network-online.target", "mysql.service", "mariadb.service"} <= set(unit["After"][0].split())
    assert unit["Wants"] == ["network-online.target"]
    assert "Requires" not in unit
    for name, value in {
        "Type": "notify",
        "KillMode": "mixed",
        "TimeoutStopSec": "30",
        "PrivateTmp": "yes",
        "Restart": "on-failure",
        "RestartSec": "5",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
    }.items():
        assert service[name] == [value]
    assert service["User"] != ["root"]


def test_what_the_unit_sets_are_settings_in_the_folders_that_it_may_write_to() -> None:
    service = directives("Service")
    environment = dict(entry.split("=", 1) for entry in service["Environment"])
    assert environment["DATA_DIR"] == f"/var/lib/{service['StateDirectory'][0]}"
    assert environment["NUMBA_CACHE_DIR"].startswith(f"/var/cache/{service['CacheDirectory'][0]}/")
    assert int(environment["GUNICORN_GRACEFUL_TIMEOUT"]) < int(service["TimeoutStopSec"][0])


def test_the_service_starts_with_what_the_unit_sets(installed: Path, tmp_path: Path) -> None:
    settings = dict(entry.split("=", 1) for entry in directives("Service")["Environment"]) | {
        "DATA_DIR": str(tmp_path / "data"),
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
    }
    done = run([str(installed / "scripts" / "start_production.sh"), "--check"], tmp_path, settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Ready to start.\n"


# What systemd hears. It takes a notification from the main process only (NotifyAccess=main).


@contextmanager
def notifications() -> Iterator[tuple[str, socket.socket]]:
    """A socket as systemd has one, and the name to give to a service."""
    name = f"recommendation-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listening.settimeout(PATIENCE_SECONDS)
        yield f"@{name}", listening


def hear(listening: socket.socket) -> tuple[list[str], int]:
    """The lines of the next notification, and the process that sent it."""
    credentials = struct.Struct("3i")
    data, (ancillary,), _, _ = listening.recvmsg(4096, socket.CMSG_SPACE(credentials.size))
    pid, _, _ = credentials.unpack(ancillary[2])
    return data.decode().splitlines(), pid


def test_systemd_hears_of_readiness_from_the_process_it_started_once_feeds_can_be_served(
    installed: Path, tmp_path: Path
) -> None:
    load_demo(tmp_path)
    with Service.gunicorn(tmp_path, 1, {}) as first:  # publishes a catalog
        first.wait_until_ready()
    with notifications() as (name, listening):
        started = (tmp_path / "service.log").stat().st_size
        port = free_port()
        settings = {
            "GUNICORN_BIND": f"{LOOPBACK}:{port}",
            "GUNICORN_WORKERS": "1",
            "CATALOG_REFRESHER": "false",
            "NOTIFY_SOCKET": name,
        }
        command = [str(installed / "scripts" / "start_production.sh")]
        with Service(tmp_path, command, settings, port) as service:
            lines, pid = hear(listening)
            said = service.log_path.read_bytes()[started:].decode()
            assert "READY=1" in lines
            assert pid == service.process.pid
            # Loaded by the master, which is about to start its worker.
            assert "RecommendationEngine inicializado" in said
            assert len(service.feed(N_VIDEOS=3)["items"]) == 3
            # A reload says nothing more that systemd would take for the end of a start.
            before = service.workers
            service.process.send_signal(signal.SIGHUP)
            service.wait_until(lambda: len(service.workers) == 1 and not before & service.workers)
            assert service.stop() == 0
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                hear(listening)


# The database's settings.


def test_mariadb_takes_the_settings_and_runs_with_them(tmp_path: Path) -> None:
    program = find_program("mariadbd", "mariadb-server-core")
    # What a server of this configuration file is started with; `--no-defaults` keeps the machine's own away.
    options = [f"--{name}={value}" for name, value in settings_of(CONFIGURATION)]
    defaults = subprocess.run(
        [program, f"--defaults-file={CONFIGURATION}", "--print-defaults"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert defaults.returncode == 0, defaults.stderr
    assert defaults.stdout.split("\n")[1].split() == options
    with PrivateMariaDB(tmp_path / "mariadb", options=options) as server:
        connection = pymysql.connect(
            host=LOOPBACK, port=server.port, user=server.user, password=server.password, autocommit=True
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN "
                "('max_connections', 'wait_timeout', 'interactive_timeout')"
            )
            variables = dict(cursor.fetchall())
    assert variables == {"max_connections": "200", "wait_timeout": "600", "interactive_timeout": "600"}
    log = server.log_path.read_text(errors="replace")
    assert "[ERROR]" not in log
    assert "unknown variable" not in log
    shutil.rmtree(tmp_path / "mariadb")


def settings_of(file: Path) -> list[tuple[str, str]]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "[mysqld]"
    return [(name.strip(), value.strip()) for name, _, value in (line.partition("=") for line in lines[1:])]


def test_each_database_setting_has_its_reason() -> None:
    text = CONFIGURATION.read_text()
    for name, _ in settings_of(CONFIGURATION):
        assert re.search(rf"^# .+\n{name} = ", text, re.MULTILINE)


def test_the_service_opens_connections_anew_before_the_database_closes_them() -> None:
    from recommendation_service.core import database

    assert int(dict(settings_of(CONFIGURATION))["wait_timeout"]) > database.POOL_RECYCLE_SECONDS


def test_the_start_script_may_be_run() -> None:
    assert os.access(REPOSITORY / "scripts" / "start_production.sh", os.X_OK)
