"""The stage: a MariaDB with the demo, a Redis without persistence, the service under Gunicorn, and a disk that can be
filled."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import redis
import sqlalchemy

from recommendation_service.demo import load_invented
from recommendation_service.flush.dead_letters import DeadLetters
from recommendation_service.flush.flusher_status import FlusherStatus, read_status
from recommendation_service.log.lags import LogLags
from recommendation_service.log.retention import DAMAGED_FOLDER
from recommendation_service.log.segments import SUFFIX
from tests.end_to_end.service import PATIENCE_SECONDS, REFRESHER, Service, command_of, recs
from tests.faults.counter import SecondReader
from tests.faults.ledger import Found, Span, found_in
from tests.servers import LOOPBACK, PrivateMariaDB, PrivateRedis, free_port, wait_until

DATABASE = "interacpedia"
USER = "service"
FLUSHER = "recommendation_service.flush.process"
# One that is asked for nothing but ids.
STATEMENT_SECONDS = 60


class Scene:
    """Everything runs inside the block; ``workers``: of the service; ``scale``: of the demo.

    ``starting``: when the service was down, or came up; ``disk_full``: when its disk was.
    """

    def __init__(self, folder: Path, *, workers: int, scale: float, disk_megabytes: int) -> None:
        self.folder = folder
        self.workers = workers
        self.mariadb = PrivateMariaDB(folder / "mariadb")
        self.redis = PrivateRedis(folder / "redis")
        self.port = free_port()
        self.starting: list[Span] = []
        self.disk_full: list[Span] = []
        self.has_own_disk = False
        self._scale = scale
        self._disk_megabytes = disk_megabytes
        self._password = secrets.token_hex(12)
        self._service: Service | None = None
        self.second_reader = SecondReader(folder, self.events_dir)
        self._since: float | None = time.monotonic()  # when it went down, or began to come up

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    @property
    def data_dir(self) -> Path:
        return self.folder / "service" / "data"

    @property
    def events_dir(self) -> Path:
        return self.data_dir / "events"

    @property
    def settings(self) -> dict[str, str]:
        return {
            "MYSQL_HOST": LOOPBACK,
            "MYSQL_PORT": str(self.mariadb.port),
            "MYSQL_DB": DATABASE,
            "MYSQL_USER": USER,
            "MYSQL_PASSWORD": self._password,
            # Below the time for which a server hangs here, so that answers are lost, a COMMIT's among them.
            "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
            "MYSQL_READ_TIMEOUT_SECONDS": "3",
            "REDIS_HOST": LOOPBACK,
            "REDIS_PORT": str(self.redis.port),
            "REDIS_PASSWORD": self.redis.password,
            "FLUSH_INTERVAL_SECONDS": "2",
            "CATALOG_REFRESH_SECONDS": "5",
            # Room for more than waits here at any time: a 503 to feedback has to be a full disk's.
            "EVENT_LOG_MEGABYTES": str(self._disk_megabytes * 2 // 3),
            # A worker that stood still is behind, and would refuse feeds for that: here a 503 must be a fault's.
            "SHED_LOAD_AFTER_SECONDS": "60",
            "GUNICORN_BIND": f"{LOOPBACK}:{self.port}",
            "GUNICORN_WORKERS": str(self.workers),
            "GUNICORN_GRACEFUL_TIMEOUT": "10",
        }

    # Beginning and end.

    def __enter__(self) -> Self:
        try:
            self.data_dir.mkdir(parents=True)
            self._mount()
            self.mariadb.start()
            self.redis.start()
            self._fill_database()
            self.start_service()
            self.second_reader.start()
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._service is not None:
            for pid in self._service.pids:
                _send(pid, signal.SIGCONT)
            self._service.__exit__()
        self.second_reader.kill()
        self.redis.stop()
        self.mariadb.kill()  # nobody comes back to its data
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", str(self.data_dir)], check=False, capture_output=True)

    def _mount(self) -> None:
        """A disk of the service's own. Where that is not allowed, none is filled."""
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._disk_megabytes}m", "tmpfs", str(self.data_dir)]
        with contextlib.suppress(OSError):
            self.has_own_disk = subprocess.run(mount, check=False, capture_output=True).returncode == 0

    def _fill_database(self) -> None:
        self.mariadb.execute(f"CREATE DATABASE {DATABASE}")
        engine = sqlalchemy.create_engine(self.mariadb.url(DATABASE))
        try:
            load_invented(engine, scale=self._scale)
        finally:
            engine.dispose()
        account = f"'{USER}'@'{LOOPBACK}'"
        # The rights that docs/events.md asks for, and no more: an administrator makes the tables.
        administrator = {"MYSQL_USER": self.mariadb.user, "MYSQL_PASSWORD": self.mariadb.password}
        made = recs("migrate", folder=self.folder / "service", settings={**self.settings, **administrator})
        assert made.returncode == 0, made.stdout + made.stderr
        self.mariadb.execute(
            f"CREATE USER {account} IDENTIFIED BY '{self._password}'",
            f"GRANT SELECT ON {DATABASE}.* TO {account}",
            f"GRANT INSERT ON {DATABASE}.activity_log TO {account}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {DATABASE}.recs_events TO {account}",
            f"GRANT SELECT, INSERT ON {DATABASE}.recs_schema TO {account}",
        )

    # The service.

    def start_service(self) -> None:
        """Returns at once; ``wait_until_ready`` notes when it is up."""
        if self._service is not None:
            self._service.client.close()
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.server:app"]
        self._service = Service(self.folder / "service", command, self.settings, self.port)

    def kill_service(self) -> None:
        """All of its processes, as a power cut would for them."""
        self._since = time.monotonic()
        self.service.process.kill()  # first, since it would start workers anew
        while pids := self.service.pids:
            for pid in pids:
                _send(pid, signal.SIGKILL)
        self.service.process.wait()

    def wait_until_ready(self) -> None:
        self.service.wait_until_ready()
        if self._since is not None:
            self.starting.append((self._since, time.monotonic()))
            self._since = None

    def wait_until_whole(self) -> None:
        """Until every process of the service is there, and feeds are answered."""
        self.wait_until_ready()
        self.service.wait_until(lambda: len(self.service.workers) == self.workers)
        self.service.wait_until(lambda: bool(self.flushers) and bool(self.refreshers))

    @property
    def flushers(self) -> set[int]:
        return self._running(FLUSHER)

    @property
    def refreshers(self) -> set[int]:
        return self._running(REFRESHER)

    def _running(self, module: str) -> set[int]:
        return {pid for pid in self.service.pids if module in command_of(pid)}

    def status(self) -> FlusherStatus | None:
        """What the flusher last said."""
        return read_status(self.events_dir)

    def flush(self) -> None:
        """Until all that is in the log is in the database. Fails with what the flusher says where it cannot be done."""

        def flushed() -> bool:
            done = recs("events", "flush", folder=self.folder / "service", settings=self.settings)
            status = self.status()
            return done.returncode == 0 and status is not None and status.waiting_records == 0

        if not wait_until(flushed, PATIENCE_SECONDS):
            raise AssertionError(f"not flushed; the flusher says {self.status()}:\n{self.service.log[-8000:]}")

    # The second reader of the log.

    def wait_until_counted(self) -> None:
        """Until the second reader has all that is in the log, and so no segment is left that no worker writes to."""

        def is_at_the_end() -> bool:
            return self.second_reader.is_at_the_end() and self._dead_segments() == 0

        if not wait_until(is_at_the_end, PATIENCE_SECONDS):
            raise AssertionError(f"not counted: {LogLags(self.events_dir).read()}\n{self.second_reader.log}")

    def _dead_segments(self) -> int:
        return sum(not _is_locked(path) for path in self.events_dir.glob(f"*{SUFFIX}"))

    # The disk.

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        filler, begin = self.data_dir / "filler", time.monotonic()
        try:
            for size in (1 << 20, 1 << 12):
                with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
            yield
        finally:
            filler.unlink()
            self.disk_full.append((begin, time.monotonic()))

    def keep_disk(self) -> None:
        """A copy of what is on it, to look at; the disk itself goes with the scene."""
        shutil.copytree(self.data_dir, self.folder / "disk", dirs_exist_ok=True)

    # What there is in the end.

    def found(self) -> Found:
        address = self.mariadb.url(DATABASE)
        engine = sqlalchemy.create_engine(address, connect_args={"read_timeout": STATEMENT_SECONDS})
        try:
            found = found_in(engine)
        finally:
            engine.dispose()
        found.dead_letters = len(DeadLetters(self.events_dir).all())
        found.counted = self.second_reader.counted()
        found.dead_segments = self._dead_segments()
        found.damaged_segments = sum(1 for _ in (self.events_dir / DAMAGED_FOLDER).glob("*"))
        with contextlib.closing(
            redis.Redis(host=LOOPBACK, port=self.redis.port, password=self.redis.password)
        ) as client:
            found.eternal_keys = [key.decode() for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
        return found

    def logged_errors(self) -> Counter[str]:
        """What the service logged as an error, by the event's name."""
        counted: Counter[str] = Counter()
        for line in self.service.log.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("level") in {"error", "critical"}:
                    counted[str(entry.get("event"))] += 1
        return counted


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_locked(path: Path) -> bool:
    """Whether a process writes to the segment."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    return True  # gone meanwhile
