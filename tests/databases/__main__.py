"""Runs the tests of sources, flush, memory and doctor on each server, set up in each way, and prints a table.

    python -m tests.databases                          all that can be had
    python -m tests.databases --server 11.8 --setup json -- -k flush

A MySQL of your own: --mysqld PATH, or TEST_MYSQLD in the environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.databases.plugin import MYSQLD, OPTIONS, PROPERTIES
from tests.databases.systems import MARIADB_OF_DEBIAN_13, MYSQL_OF_DEBIAN_SID, SystemMissing, programs_of
from tests.servers import find_program
from tests.support.certificates import make_certificate

ROOT = Path(__file__).resolve().parents[2]
FILES = ("test_sources.py", "test_user_reader.py", "flush", "test_past.py", "test_doctor.py")


@dataclass(frozen=True)
class Server:
    name: str
    program: str
    path: Path | None = None  # to stand first in PATH
    is_mysql: bool = False

    def version(self) -> str:
        said = subprocess.run([self.program, "--no-defaults", "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"Ver (\S+)", said.stdout)
        return found[1] if found else said.stdout.strip()


@dataclass(frozen=True)
class SetUp:
    """``options``: of the server. Each of the four things that differ is there both ways."""

    name: str
    options: tuple[str, ...]
    properties: str = "text"
    tls: bool = False


SET_UPS = (
    SetUp("text, TLS off", ()),
    SetUp("JSON, ANSI_QUOTES, TLS on", ("--sql-mode=ANSI_QUOTES",), "json", tls=True),
    SetUp(
        "text, NO_BACKSLASH_ESCAPES, 1 MB packets, TLS on",
        ("--sql-mode=NO_BACKSLASH_ESCAPES", "--max-allowed-packet=1M"),
        tls=True,
    ),
)


@dataclass
class Row:
    server: str
    version: str
    set_up: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    said: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.counts.get("failed")) or not self.counts.get("passed")


def servers(mysqld: str | None) -> Iterator[Server | tuple[str, str]]:
    """Each server, or its name and why it cannot be had."""
    yield Server("MariaDB of this machine", find_program("mariadbd", "mariadb-server-core"))
    try:
        path = programs_of(MARIADB_OF_DEBIAN_13)
        yield Server("MariaDB of Debian 13", str(path / "mariadbd"), path)
    except SystemMissing as missing:
        yield "MariaDB of Debian 13", str(missing)
    try:
        program = mysqld or str(programs_of(MYSQL_OF_DEBIAN_SID) / "mysqld")
        yield Server("MySQL", program, is_mysql=True)
    except SystemMissing as missing:
        yield "MySQL", f"{missing}; name one by TEST_MYSQLD"


def run(server: Server, set_up: SetUp, folder: Path, arguments: list[str]) -> Row:
    options = list(set_up.options)
    if not server.is_mysql:  # a MySQL makes certificates itself, and asks for TLS where it is to take a password
        if set_up.tls:
            certificate, key = make_certificate(folder)
            options += [f"--ssl-cert={certificate}", f"--ssl-key={key}"]
        else:
            options.append("--skip-ssl")
    environment = os.environ | {
        OPTIONS: " ".join(options),
        PROPERTIES: set_up.properties,
        MYSQLD: server.program if server.is_mysql else "",
        "PATH": os.pathsep.join([*([str(server.path)] if server.path else []), os.environ["PATH"]]),
    }
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "--tb=short",
        "-p",
        "tests.databases.plugin",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--basetemp={folder / 'tests'}", f"--junitxml={report}"]
    command += [*(str(ROOT / "tests" / "integration" / name) for name in FILES), *arguments]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    row = Row(server.name, server.version(), set_up.name, time.monotonic() - started)
    if report.exists():
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314 - our own
        total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
        failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        row.counts = {"passed": total - skipped - failed, "failed": failed, "skipped": skipped}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.databases", description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="", help="only servers whose name or version has this")
    parser.add_argument("--setup", default="", help="only set-ups whose name has this")
    parser.add_argument("--mysqld", default=os.environ.get(MYSQLD), help="the program of a MySQL")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    chosen = parser.parse_args()
    rows = []
    for server in servers(chosen.mysqld):
        if isinstance(server, tuple):
            rows.append(Row(server[0], "-", "-", said=server[1]))
            continue
        if chosen.server.lower() not in f"{server.name} {server.version()}".lower():
            continue
        for set_up in SET_UPS:
            if chosen.setup.lower() not in set_up.name.lower():
                continue
            print(f"\n{server.name} {server.version()}: {set_up.name}", flush=True)
            folder = Path(tempfile.mkdtemp(prefix="databases-"))
            try:
                rows.append(run(server, set_up, folder, chosen.pytest))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{'server':<24} {'version':<24} {'set up':<50} {'passed':>6} {'failed':>6} {'skipped':>7} {'s':>5}")
    for row in rows:
        counts = " ".join(
            f"{row.counts.get(name, 0):>{n}}" for name, n in (("passed", 6), ("failed", 6), ("skipped", 7))
        )
        rest = row.said or f"{counts} {row.seconds:>5.0f}"
        print(f"{row.server:<24} {row.version:<24} {row.set_up:<50} {rest}")
    return 1 if any(row.failed and not row.said for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
