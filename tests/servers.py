"""Private MariaDB and Redis servers, for tests and benchmarks that need a real one.

Why not a server that is already on the machine: a test must neither see nor change what is in it, must be
able to stop, freeze and kill it, and must run beside another run of the same tests. So each server here has
its own folder, port, socket and password, and goes when the process that started it goes.

    with PrivateMariaDB(folder) as server:
        engine = sqlalchemy.create_engine(server.url("interacpedia"))
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Self

import pymysql
from sqlalchemy.engine import URL

from tests.support.made_once import copy_of_made_once

LOOPBACK = "127.0.0.1"
# For clients of plain HTTP (`verify=`), each of which would load the certificates of all authorities: more than 10 ms
# of processor time.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Below the range (from 32768) that Linux hands to outgoing connections: while a server is down between `kill`
# and `start`, no client's connection can take its port.
PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 5
# A cold disk with another test run beside it; a healthy start takes well below a second.
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
STATEMENT_TIMEOUT_SECONDS = 30.0
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.01, 0.1


class ServerNotInstalledError(RuntimeError):
    """The server's program is not on this machine."""


class ServerStartError(RuntimeError):
    """The server did not come up; the message ends with its log."""


def find_program(name: str, debian_package: str) -> str:
    """Path of a program; also looks where Debian keeps servers, which is not on an ordinary user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise ServerNotInstalledError(
            f"{name} is not installed: `make test` installs it, "
            f"and so does `sudo apt-get install --no-install-recommends {debian_package}`."
        )
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at this moment; somebody may take it before it is used."""
    # Not `random`'s shared generator: tests that seed it would make two runs choose the same ports.
    for port in random.SystemRandom().sample(PORTS, k=100):
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as candidate:
            # As the servers do: connections of an earlier server that linger in TIME_WAIT do not count.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among 100 tried between {PORTS.start} and {PORTS.stop}")


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether `condition` came true in time.

    Asked often at first, and then so that nobody waits a twentieth longer than needed: many conditions are requests,
    and a hundred of them a second would take the processors from what is waited for.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > timeout_seconds:
            return False
        time.sleep(min(max(SHORTEST_POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS))
    return True


ALREADY_INSTALLED = 1968
# Options of a MariaDB server that others replicate from, and of those others (each with another server-id).
PRIMARY = ("--log-bin=binlog", "--binlog-format=ROW", "--server-id=1")
REPLICA = ("--read-only=ON", "--slave-net-timeout=4")


class PrivateServer(ABC):
    """A server process of our own: what MariaDB and Redis have in common.

    `folder` receives data, configuration and log. It is created where needed, and left to its owner to
    remove: a later server of the same folder finds the data.
    """

    name: str
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log_path = self.folder / f"{self.name}.log"
        self.password = secrets.token_hex(12)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments that run the server in the foreground on `self.port`."""

    @abstractmethod
    def prepare(self) -> None:
        """Lay out what the server needs in its folder; called before the first start."""

    @abstractmethod
    def answers(self, timeout_seconds: float = 1.0) -> bool:
        """Whether the server answers over TCP, with our password, within the time given."""

    @property
    def pid(self) -> int:
        """The process id of the running server. Raises RuntimeError where there is none."""
        if self._process is None or not self.is_running:
            raise RuntimeError(f"{self.name} in {self.folder} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when the server answers. Data and, after the first time, port stay the same.

        Raises ServerNotInstalledError, and ServerStartError with the log when it does not come up.
        """
        if self.is_running:
            return
        is_first = self.port == 0
        if is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.prepare()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if is_first:
                self.port = free_port()
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            process = self._process = self._spawn()
            try:
                wait_until(self._has_ended_or_answers, START_TIMEOUT_SECONDS)
                if process.poll() is None and self.answers():
                    return
            except BaseException:  # Ctrl-C while waiting: nothing may stay behind
                self.kill()
                raise
            status = process.returncode
            self.kill()
            log = self.log_path.read_bytes()[log_start:].decode(errors="replace")
            # "in use": another process took the port between our look and the server's bind.
            if not (is_first and attempt < PORT_ATTEMPTS and "in use" in log):
                if is_first:
                    self.port = 0  # the next start is a first one again
                what = "does not answer" if status is None else f"ended with status {status}"
                raise ServerStartError(f"{self.name} in {self.folder} {what}; {self.log_path} says:\n{log}")

    def stop(self) -> None:
        """End the server in an orderly way; kill it when it does not go. Stopping twice is fine."""
        if self._process is None:
            return
        if self.is_running:
            self.resume()  # a stopped process does not see SIGTERM
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a power cut would for its process. Killing twice is fine."""
        if self._process is not None:
            self._process.kill()  # does nothing where it has ended; works on a paused one
            self._process.wait()
            self._process = None
        self._is_paused = False

    def restart(self) -> None:
        """Stop if running, and start with the same data on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections open, and nothing answers. Returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # without WEXITED: the exit status stays for Popen
        self._is_paused = True

    def resume(self) -> None:
        """Let a paused server go on."""
        if self._is_paused:
            os.kill(self.pid, signal.SIGCONT)
            self._is_paused = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _has_ended_or_answers(self) -> bool:
        return not self.is_running or self.answers()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A test run that is killed, and so never gets to `stop`, takes the server with it. setpriv replaces
        # itself with the server, so the process id is the server's.
        setpriv = shutil.which("setpriv")
        bound_to_us = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self._is_paused = False
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*bound_to_us, *self.command()],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; the server goes after their clean-up
            )


class PrivateMariaDB(PrivateServer):
    """A MariaDB server of our own, reached over TCP on the loopback address only.

    `performance_schema` costs memory and time, so only a test of index usage turns it on.
    `options` are further arguments of mariadbd (`"--max-connections=20"`), and win over those given here.
    """

    name = "mariadbd"
    user = "recs"
    # What `make test-databases` sets for a whole run: a MySQL's program instead, and options that win over those here.
    mysqld: ClassVar[str | None] = None
    more_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, *, performance_schema: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.performance_schema = performance_schema
        self.options = tuple(options)

    def url(self, database: str | None = None) -> URL:
        """SQLAlchemy's address of a database, as the application user; without a name, of the server."""
        return URL.create(
            "mysql+pymysql",
            username=self.user,
            password=self.password,
            host=LOOPBACK,
            port=self.port,
            database=database,
            query={"charset": "utf8mb4"},
        )

    def execute(self, *statements: str) -> None:
        """Run statements as the application user, each committed by itself."""
        with closing(self._connect(STATEMENT_TIMEOUT_SECONDS)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def has_plugin(self, name: str) -> bool:
        """Whether an authentication can be had, installed here if need be."""
        try:
            self.execute(f"INSTALL SONAME 'auth_{name}'")
        except pymysql.err.MySQLError as error:
            return error.args[0] == ALREADY_INSTALLED
        return True

    def follow(self, primary: PrivateMariaDB, *, delay_seconds: int = 0) -> None:
        """Replicate from a server with PRIMARY's options, by GTID and from the beginning; this one has REPLICA's."""
        account = f"'replicator'@'{LOOPBACK}'"
        primary.execute(
            f"CREATE OR REPLACE USER {account} IDENTIFIED BY '{primary.password}'",
            f"GRANT REPLICATION SLAVE ON *.* TO {account}",
        )
        self.execute(
            f"CHANGE MASTER TO MASTER_HOST='{LOOPBACK}', MASTER_PORT={primary.port}, MASTER_USER='replicator', "
            f"MASTER_PASSWORD='{primary.password}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, "
            f"MASTER_DELAY={delay_seconds}",
            "START SLAVE",
        )

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        """Whether a query is answered; our password also tells that it is not someone else's server."""
        try:
            with closing(self._connect(timeout_seconds)) as connection:
                connection.ping(reconnect=False)
        except (pymysql.err.Error, OSError):
            return False
        return True

    def prepare(self) -> None:
        """Create the system tables, and the statements that create the application user at each start."""
        if not self._init_file.exists():  # written last, so it says that the tables are complete
            self._install_tables()
        # Read by the server itself, so that no client has to enter as root. All rights, and the right to
        # grant them: tests create databases, and users with fewer rights. Each object has a new password.
        account = f"'{self.user}'@'{LOOPBACK}'"
        with open(self._init_file, "w", opener=_only_for_us, encoding="utf-8") as init:
            init.write("SET SESSION sql_log_bin = 0;\n")  # a replica has its own user, with its own password
            init.write(f"CREATE USER IF NOT EXISTS {account};\n")
            init.write(f"ALTER USER {account} IDENTIFIED BY '{self.password}';\n")
            init.write(f"GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION;\n")

    def command(self) -> list[str]:
        """The server's command line."""
        return [
            self.mysqld or find_program("mariadbd", "mariadb-server-core"),
            *self._common_options(self._data_dir),
            f"--init-file={self._init_file}",
            f"--port={self.port}",
            f"--bind-address={LOOPBACK}",
            "--skip-name-resolve",  # no DNS between a test and its database; accounts are matched by address
            # Relative to the data folder, where mariadbd works: a socket's path may have 107 characters only,
            # which a temporary folder's can exceed.
            "--socket=mariadbd.sock",
            f"--pid-file={self.folder / 'mariadbd.pid'}",
            "--skip-log-bin",  # no replica reads it
            # A commit reaches the system, not the disk, which is faster: it outlives a killed server, which
            # tests do, though not a power cut, which they don't.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=256M",  # the demo fits in it, and several servers in a small machine
            "--innodb-buffer-pool-dump-at-shutdown=OFF",  # nobody comes back to a warm cache
            # As the operator's database, and with emoji: without a configuration the default is latin1.
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_unicode_ci",
            "--default-time-zone=+00:00",  # the same dates wherever the tests run
            f"--performance-schema={'ON' if self.performance_schema else 'OFF'}",
            # A second port, the same for all; and a folder that only an installation has.
            *(["--mysqlx=OFF", "--secure-file-priv="] if self.mysqld else []),
            *self.options,
            *self.more_options,
        ]

    def _install_tables(self) -> None:
        program = self.mysqld or find_program("mariadb-install-db", "mariadb-server-core")
        copy_of_made_once(f"tables-of{program.replace('/', '-')}", self._make_tables, self._data_dir)

    def _make_tables(self, data_dir: Path) -> None:
        options = self._common_options(data_dir)
        if self.mysqld:
            install = [self.mysqld, *options, "--initialize-insecure"]
        else:
            install = [find_program("mariadb-install-db", "mariadb-server-core"), *options]
            # No test database and no anonymous user: the application's is the only one who can enter over TCP.
            # Forced, since without it a machine that cannot look up its own name is refused.
            install += ["--skip-test-db", "--force"]
        done = subprocess.run(install, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise ServerStartError(f"{install[0]} in {self.folder} ended with status {done.returncode}:\n{said}")

    @property
    def _init_file(self) -> Path:
        return self.folder / "init.sql"

    @property
    def _data_dir(self) -> Path:
        return self.folder / "data"

    def _common_options(self, data_dir: Path) -> list[str]:
        return [
            "--no-defaults",  # has to come first: the machine's configuration must not reach a test
            f"--datadir={data_dir}",
            # Not the system's: each server that starts removes every temporary table it finds there, also
            # those of a server that runs.
            f"--tmpdir={self.folder}",
            # 96M by default, written whole at the first start; MySQL has another option, and grows.
            *([] if self.mysqld else ["--innodb-log-file-size=32M"]),
            *(["--user=root"] if os.geteuid() == 0 else []),  # mariadbd refuses root unless it is asked for
        ]

    def _connect(self, timeout_seconds: float) -> pymysql.connections.Connection[Any]:
        return pymysql.connect(
            host=LOOPBACK,
            port=self.port,
            user=self.user,
            password=self.password,
            autocommit=True,
            connect_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            write_timeout=timeout_seconds,
            # Whatever a test has set up; and each connection would load certificates. MySQL wants it for a password.
            ssl_disabled=self.mysqld is None,
        )


class PrivateRedis(PrivateServer):
    """A Redis server of our own, reached over TCP on the loopback address only.

    `is_persistent` writes each change to an append-only file, so that a restart finds it; a cache needs none.
    `options` are further lines of its configuration (`"maxmemory 10mb"`), and win over those given here.
    Beside the default user, who may do all, there is `user`, who may do what the deployment guide says.
    """

    name = "redis-server"
    user = "recs"

    def __init__(self, folder: Path, *, is_persistent: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.is_persistent = is_persistent
        self.options = tuple(options)

    def url(self, database: int = 0) -> str:
        """The address of one of its numbered databases, in the form that Redis clients take."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def execute(self, *words: str, timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS) -> str:
        """Run one command and return its answer as Redis sends it, without the last line end.

        Errors are answers that begin with `-`. Spoken over a plain socket, since no client library is needed.
        """
        address = (LOOPBACK, self.port)
        with (
            socket.create_connection(address, timeout_seconds) as connection,
            connection.makefile("rwb") as stream,
        ):
            for command in (("AUTH", self.password), words):
                stream.write(b"*%d\r\n" % len(command))
                for word in command:
                    stream.write(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()))
                stream.flush()
                answer = stream.readline()
                if answer.startswith(b"$") and not answer.startswith(b"$-"):
                    answer = stream.read(int(answer[1:]) + 2)
        return answer.decode().removesuffix("\r\n")

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        """Whether it says PONG; our password also tells that it is not someone else's server."""
        try:
            return self.execute("PING", timeout_seconds=timeout_seconds) == "+PONG"
        except OSError:
            return False

    def prepare(self) -> None:
        """Nothing: Redis makes its files itself."""

    def command(self) -> list[str]:
        """The server's command line. Settings are in a file, since arguments show a password to everyone."""
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"requirepass {self.password}",
            access(self.user, self.password),
            "dir ./",  # the folder it is started in; an absolute path would have to be quoted
            "daemonize no",
            'logfile ""',  # to standard output, and so to our log
            'save ""',  # no snapshots
            f"appendonly {'yes' if self.is_persistent else 'no'}",
            "appendfsync no",  # a write reaches the system, and so outlives a killed server
            *self.options,
        ]
        return [find_program("redis-server", "redis-server"), str(self._write(lines))]

    def _write(self, lines: Sequence[str]) -> Path:
        configuration = self.folder / "redis.conf"
        with open(configuration, "w", opener=_only_for_us, encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return configuration


class PrivateSentinel(PrivateRedis):
    """A Sentinel of our own that watches one master and, alone, may fail over to a replica of it.

    `monitored` must run; its replicas have its password (`replica_of`).
    """

    name = "redis-sentinel"
    user = "recs-sentinel"
    master_name = "recs-master"

    def __init__(self, folder: Path, monitored: PrivateRedis, *, down_after_milliseconds: int = 300) -> None:
        super().__init__(folder)
        self.monitored = monitored
        self.down_after_milliseconds = down_after_milliseconds

    def command(self) -> list[str]:
        """The server's command line; Sentinel writes into its file what it finds out."""
        master, name = self.monitored, self.master_name
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"requirepass {self.password}",
            access(self.user, self.password),
            "dir ./",
            "daemonize no",
            'logfile ""',
            f"sentinel monitor {name} {LOOPBACK} {master.port} 1",
            f"sentinel auth-pass {name} {master.password}",
            f"sentinel down-after-milliseconds {name} {self.down_after_milliseconds}",
            f"sentinel failover-timeout {name} 3000",
        ]
        configuration = self._write(lines)
        return [find_program("redis-server", "redis-server"), str(configuration), "--sentinel"]


def replica_of(master: PrivateRedis, folder: Path) -> PrivateRedis:
    """A replica that may become the master: both have one password. Not started."""
    replica = PrivateRedis(
        folder,
        options=[
            f"replicaof {LOOPBACK} {master.port}",
            f"masterauth {master.password}",
            "repl-diskless-sync-delay 0",
        ],
    )
    replica.password = master.password
    return replica


class PrivateRedisCluster:
    """Three masters of our own that share the slots of a Redis Cluster; `nodes` can be stopped and paused."""

    SLOTS = 16_384

    def __init__(self, folder: Path) -> None:
        password = secrets.token_hex(12)
        self.nodes = []
        for number in range(3):
            node = PrivateRedis(
                folder / f"node-{number}",
                options=[
                    "cluster-enabled yes",
                    "cluster-config-file nodes.conf",
                    "cluster-node-timeout 2000",
                    f"cluster-port {free_port()}",  # else the port and 10,000, which may be an outgoing connection's
                    f"masterauth {password}",
                ],
            )
            node.password = password
            self.nodes.append(node)

    def start(self) -> None:
        """Start the nodes, join them, and return when each says that all slots are served."""
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        bus = [option.split()[1] for node in self.nodes for option in node.options if "cluster-port" in option]
        for node, port in zip(others, bus[1:], strict=True):
            _expect_ok(first.execute("CLUSTER", "MEET", LOOPBACK, str(node.port), port))
        bounds = [round(self.SLOTS * part / 3) for part in range(4)]
        for node, begin, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            _expect_ok(node.execute("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end - 1)))
        if not wait_until(self.is_whole, START_TIMEOUT_SECONDS):
            raise ServerStartError(f"the cluster is not whole: {first.execute('CLUSTER', 'INFO')}")

    def is_whole(self) -> bool:
        """Whether every node sees every slot served."""
        told = [node.execute("CLUSTER", "INFO") for node in self.nodes]
        return all("cluster_state:ok" in info and f"cluster_slots_ok:{self.SLOTS}" in info for info in told)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def access(user: str, password: str) -> str:
    """The line of the deployment guide that makes a user of Redis or Sentinel, with another password."""
    guide = (Path(__file__).resolve().parent.parent / "docs" / "deployment.md").read_text("utf-8")
    [line] = re.findall(rf"^user {user} on >\S+ (.+)$", guide, re.M)
    return f"user {user} on >{password} {line}"


def _expect_ok(answer: str) -> None:
    if answer != "+OK":
        raise ServerStartError(answer)


def _only_for_us(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
