"""A private PostgreSQL server, for tests that need a real one; beside tests/servers.py.

    with PrivatePostgreSQL(folder) as server:
        engine = sqlalchemy.create_engine(server.url("shop"))

It refuses to run as root. Where the tests do, it runs as nobody, in a folder of its own that nobody may enter.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

import psycopg
from sqlalchemy.engine import URL

from tests.servers import LOOPBACK, STATEMENT_TIMEOUT_SECONDS, PrivateServer, ServerNotInstalledError


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

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._own = folder.resolve() if os.getuid() else Path(tempfile.mkdtemp(prefix="recs-postgresql-"))
        self._data = self._own / "data"

    def url(self, database: str = "postgres") -> URL:
        return URL.create(
            "postgresql", username=self.user, password=self.password, host=LOOPBACK, port=self.port, database=database
        )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each committed by itself."""
        with self._connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def answers(self, timeout_seconds: float = 2.0) -> bool:
        try:
            self._connect("postgres", timeout_seconds).close()
        except psycopg.OperationalError:
            return False
        return True

    def prepare(self) -> None:
        if self._data.exists():
            return
        password = self._own / "password"
        password.write_text(self.password)
        if not os.getuid():
            nobody = pwd.getpwnam("nobody")
            for path in (self._own, password):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        subprocess.run(
            [
                *self._as_nobody(),
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
            *self._as_nobody(),
            *(_program("postgres"), "-D", str(self._data), "-h", LOOPBACK, "-p", str(self.port), "-F"),
            *("-c", "unix_socket_directories=", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB"),
        ]

    def remove(self) -> None:
        """What it keeps, once it has stopped."""
        self.stop()
        shutil.rmtree(self._own, ignore_errors=True)

    @staticmethod
    def _as_nobody() -> list[str]:
        """With the tests it goes as well: a signal that was asked for before another user was taken is forgotten."""
        if os.getuid():
            return []
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig", "KILL"]

    def _connect(
        self, database: str, timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS
    ) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=max(2, int(timeout_seconds)),
        )
