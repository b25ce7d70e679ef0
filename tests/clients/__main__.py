"""`make test-clients`: a table of client, way and case, and exit status 1 where one got what it should not."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from recommendation_service.core.config import Settings
from tests.clients.cases import CASES, write_plan
from tests.clients.scene import Way, ways
from tests.conftest import SETTING_PREFIXES

PROGRAMS = Path(__file__).with_name("programs")
TIMEOUT_SECONDS = 300
NOT_OFFERED = "-"
# Between Java 17's HTTP/2 and nginx 1.22, before the service is asked: it raises IOException for RST_STREAM after a
# question whether to send, and for GOAWAY where nginx has refused a body that is too large. An answer is right as well.
NOT_OURS = {("Java HttpClient", "nginx, TLS", "expect"), ("Java HttpClient", "nginx, TLS", "too large")}


class Client(NamedTuple):
    version: list[str]  # prints it in its first line
    command: Callable[[Way, Path], list[str]]
    certificate_variable: str | None = None  # where it is told what to trust by the environment


class Result(NamedTuple):
    client: str
    way: str
    case: str
    status: str
    problem: str  # empty: as it should be


def _with_certificate(*program: str) -> Callable[[Way, Path], list[str]]:
    return lambda way, plan: [*program, way.url, str(plan), *([str(way.certificate)] if way.certificate else [])]


def clients(go_program: Path) -> dict[str, Client]:
    java, php = str(PROGRAMS / "Client.java"), str(PROGRAMS / "client.php")
    return {
        "curl --http2": Client(["curl", "--version"], _with_certificate("bash", str(PROGRAMS / "client_curl.sh"))),
        "Java HttpClient": Client(["java", "--version"], _with_certificate("java", java)),
        "Python requests": Client(
            [sys.executable, "-c", "import requests; print('requests', requests.__version__)"],
            _with_certificate(sys.executable, str(PROGRAMS / "client_requests.py")),
        ),
        "Node fetch": Client(
            ["node", "--version"],
            lambda way, plan: ["node", str(PROGRAMS / "client.mjs"), way.url, str(plan)],
            "NODE_EXTRA_CA_CERTS",
        ),
        "PHP curl": Client(["php", "--version"], _with_certificate("php", php, "curl")),
        "PHP streams": Client(["php", "--version"], _with_certificate("php", php, "streams")),
        "Go net/http": Client(
            ["go", "version"], lambda way, plan: [str(go_program), way.url, str(plan)], "SSL_CERT_FILE"
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")
    parser.add_argument("--client", help="those whose name holds this")
    parser.add_argument("--way", help="those whose name holds this")
    arguments = parser.parse_args()
    # The settings of the person or machine that runs it are none of the service's.
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().startswith(SETTING_PREFIXES):
            del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="recs-clients-"))
    console = Console(stderr=True, highlight=False)
    try:
        results, versions = _run(folder, (arguments.client or "").lower(), (arguments.way or "").lower(), console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        found = {"versions": versions, "results": [result._asdict() for result in results]}
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        _show(results, versions, Console(highlight=False, width=150))
    return 1 if any(result.problem for result in results) or not results else 0


def _run(folder: Path, wanted: str, wanted_way: str, console: Console) -> tuple[list[Result], dict[str, str]]:
    go_program = folder / "client-go"
    chosen = {name: client for name, client in clients(go_program).items() if wanted in name.lower()}
    if any(client.version[0] == "go" for client in chosen.values()):
        console.print("compiling Go's client")
        environment = {**os.environ, "GOCACHE": str(folder / "go-cache"), "GO111MODULE": "off"}
        subprocess.run(["go", "build", "-o", str(go_program), str(PROGRAMS / "client.go")], env=environment, check=True)
    versions = {name: _first_line(client.version) for name, client in chosen.items()}
    results: list[Result] = []
    with ways(folder) as all_ways:
        for number, (name, client) in enumerate(chosen.items()):
            for other, (way_name, way) in enumerate(all_ways.items()):
                if wanted_way not in way_name.lower():
                    continue
                console.print(f"{name}, {way_name}")
                # Users that nobody knows, each for one case, since a user may not ask twice at once.
                plan = write_plan(folder / "plans" / f"{number}-{other}", 900_000_000 + 1000 * number + 100 * other)
                results += _results(name, way_name, client, way, plan)
    return results, versions


def _results(name: str, way_name: str, client: Client, way: Way, plan: Path) -> list[Result]:
    environment = dict(os.environ)
    if client.certificate_variable and way.certificate:
        environment[client.certificate_variable] = str(way.certificate)
    done = subprocess.run(
        client.command(way, plan), env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    lines = (line.split("\t") for line in done.stdout.splitlines())
    answers = {line[0]: line[1:] for line in lines if len(line) == 4}
    results = []
    for case in CASES:
        status, *contents = answers.get(case.name, ["none", "", ""])
        body, first = (base64.b64decode(content) for content in contents)
        if status == NOT_OFFERED:
            problem = ""
        elif status == "none":
            problem = f"nothing was printed: {done.stderr[-500:]}"
        elif status == "error" and (name, way_name, case.name) in NOT_OURS:
            status, problem = "not ours", ""
        elif status == "error":
            problem = body.decode(errors="replace")
        else:
            try:
                problem = case.problem(int(status), json.loads(body), json.loads(first or b"{}"))
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{status} {body[:200]!r}: {error!r}"
        results.append(Result(name, way_name, case.name, status, problem))
    return results


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]


def _show(results: list[Result], versions: dict[str, str], console: Console) -> None:
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("client", "way", *(case.name for case in CASES)):
        table.add_column(heading, overflow="fold")
    for name, way in dict.fromkeys((result.client, result.way) for result in results):
        row = [result for result in results if (result.client, result.way) == (name, way)]
        table.add_row(name, way, *(f"{result.status} WRONG" if result.problem else result.status for result in row))
    console.print(table)
    for name, version in versions.items():
        console.print(f"{name}: {version}")
    for result in results:
        if result.problem:
            console.print(f"WRONG {result.client}, {result.way}, {result.case}: {result.problem}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
