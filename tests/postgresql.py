"""A private PostgreSQL server, and a PgBouncer before it, for tests that need real ones; beside tests/servers.py.

    with PrivatePostgreSQL(folder) as server:
        engine = sqlalchemy.create_engine(server.url("shop"))

Both refuse to run as root. Where the tests do, they run as nobody, each in a folder of its own that nobody may enter.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from sqlalchemy.engine import URL

from tests.servers import (
    LOOPBACK,
    STATEMENT_TIMEOUT_SECONDS,
    PrivateServer,
    ServerNotInstalledError,
    find_program,
    wait_until,
)

STOP_SECONDS = 30.0


def _program(name: str) -> str:
    """Debian keeps several releases side by side, and none of their servers on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise ServerNotInstalledError(
            f"{name} is not installed: `make test` installs it, "
            "and so does `sudo apt-get install --no-install-recommends postgresql`."
        )
    return program


class PrivatePostgreSQL(PrivateServer):
    """Reached over TCP on the loopback address only, by a user who may do all. Nothing is synced to the disk."""

    name = "postgres"
    user = "recs"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # at SIGTERM it waits for its clients to go

    def __init__(self, folder: Path, *, options: Sequence[str] = (), tls: tuple[Path, Path] | None = None) -> None:
        """``options``: of the server's command line. ``tls``: its certificate and key."""
        super().__init__(folder)
        self._own = _folder_for_nobody(folder)
        self._data = self._own / "data"
        self._options = options
        self._tls = tls

    def url(self, database: str = "postgres") -> URL:
        return URL.create(
            "postgresql", username=self.user, password=self.password, host=LOOPBACK, port=self.port, database=database
        )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each committed by itself."""
        with self._connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with self._connect(database) as connection:
            return connection.execute(query.encode()).fetchall()

    def answers(self, timeout_seconds: float = 2.0) -> bool:
        try:
            self._connect("postgres", timeout_seconds).close()
        except psycopg.OperationalError:
            return False
        return True

    def prepare(self) -> None:
        if self._data.exists():
            return
        for source, copy in zip(self._tls or (), self._tls_files, strict=False):
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o600)
            _give_to_nobody(copy)
        password = self._own / "password"
        password.write_text(self.password)
        _give_to_nobody(self._own, password)
        subprocess.run(
            [
                *_as_nobody(),
                *(_program("initdb"), f"--pgdata={self._data}", f"--username={self.user}", f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
            ],
            check=True,
            cwd=self._own,
            stdout=subprocess.DEVNULL,
        )
        password.unlink()

    def command(self) -> list[str]:
        return [
            *_as_nobody(),
            *(_program("postgres"), "-D", str(self._data), "-h", LOOPBACK, "-p", str(self.port), "-F"),
            *("-c", "unix_socket_directories=", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB"),
            *(option for name, value in self._tls_settings().items() for option in ("-c", f"{name}={value}")),
            *self._options,
        ]

    @property
    def _tls_files(self) -> tuple[Path, Path]:
        return self._own / "server.pem", self._own / "server.key"

    def _tls_settings(self) -> dict[str, object]:
        if self._tls is None:
            return {}
        certificate, key = self._tls_files
        return {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key}

    def pause(self) -> None:
        """All of it: a connection's process is the server's child, and would go on."""
        super().pause()
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._is_paused:
            for pid in self._children():
                os.kill(pid, signal.SIGCONT)
        super().resume()

    def kill(self) -> None:
        """With its children, which would hold the port and its memory until they notice."""
        children = self._children() if self.is_running else []
        super().kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), STOP_SECONDS)

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def remove(self) -> None:
        """What it keeps, once it has stopped."""
        self.stop()
        shutil.rmtree(self._own, ignore_errors=True)

    def _connect(
        self, database: str, timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS
    ) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=max(2, int(timeout_seconds)),
        )


class PrivateStandby(PrivatePostgreSQL):
    """Follows a server, and may be read only, until it is promoted."""

    def __init__(self, folder: Path, primary: PrivatePostgreSQL) -> None:
        super().__init__(folder)
        self.password = primary.password
        self._primary = primary

    def prepare(self) -> None:
        if self._data.exists():
            return
        _give_to_nobody(self._own)
        address = f"host={LOOPBACK} port={self._primary.port} user={self.user}"
        subprocess.run(
            [
                *_as_nobody(),
                *(_program("pg_basebackup"), f"--pgdata={self._data}", f"--dbname={address}", "--write-recovery-conf"),
                *("--checkpoint=fast", "--no-sync", "--wal-method=stream"),
            ],
            check=True,
            cwd=self._own,
            env={**os.environ, "PGPASSWORD": self.password},
            stdout=subprocess.DEVNULL,
        )

    def promote(self) -> None:
        """It takes writes from now on."""
        self.execute("SELECT pg_promote(true, 60)")


class PrivatePgBouncer(PrivateServer):
    """A pooler in transaction mode before a PostgreSQL server, with one connection to each of its databases: clients
    take it in turn, and find what others left in it."""

    name = "pgbouncer"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, folder: Path, server: PrivatePostgreSQL) -> None:
        super().__init__(folder)
        self._server = server
        self._own = _folder_for_nobody(folder)

    def url(self, database: str) -> URL:
        return self._server.url(database).set(port=self.port)

    def answers(self, timeout_seconds: float = 2.0) -> bool:
        try:
            psycopg.connect(self._address(), connect_timeout=max(2, int(timeout_seconds))).close()
        except psycopg.OperationalError:
            return False
        return True

    def prepare(self) -> None:
        users = self._own / "users.txt"
        users.write_text(f'"{self._server.user}" "{self._server.password}"\n')
        _give_to_nobody(self._own, users)

    def command(self) -> list[str]:
        file = self._own / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={LOOPBACK} port={self._server.port}\n"
            f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {self._own / 'users.txt'}\n"
            "pool_mode = transaction\ndefault_pool_size = 1\n"
        )
        _give_to_nobody(file)
        return [*_as_nobody(), find_program("pgbouncer", "pgbouncer"), str(file)]

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._own, ignore_errors=True)

    def _address(self) -> str:
        return self.url("postgres").render_as_string(hide_password=False)


def _folder_for_nobody(folder: Path) -> Path:
    """Where root runs the tests, one that nobody can enter: pytest's are root's alone."""
    return folder.resolve() if os.getuid() else Path(tempfile.mkdtemp(prefix="recs-postgresql-"))


def _give_to_nobody(*paths: Path) -> None:
    if not os.getuid():
        nobody = pwd.getpwnam("nobody")
        for path in paths:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _as_nobody() -> list[str]:
    """With the tests it goes as well: a signal that was asked for before another user was taken is forgotten."""
    if os.getuid():
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig", "KILL"]
