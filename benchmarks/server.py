"""The service under Gunicorn, driven by wrk: throughput, tail, memory and start."""

import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from sqlalchemy.engine import URL

from recommendation_service.catalog.store import CatalogStore
from tests.servers import find_program, free_port

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 32
SLACK_SECONDS = 60  # so much longer than it was to take, and a run has failed
OWN_APPLICATION = "api.server:app"
FEED_PATH = "/api/search/total"
# The feeds alone: feedback.py measures what recording and memory add.
OFF = {"RECORD_EVENTS": "false", "SEEN_STATE": "false", "EVENT_FLUSHER": "false"}
FIXED_PATH = "/bench/fixed"
DECLARED_PATH = "/bench/declared"


@dataclass
class Load:
    """One run of wrk."""

    requests: int
    requests_per_second: float
    p99_ms: float
    errors: int
    body_bytes: float
    generator_share: float  # of both cores' time


@dataclass
class Service:
    """A running Gunicorn of ours."""

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def add_worker(self) -> float:
        """Seconds from asking Gunicorn for one more worker until that one serves."""
        before = self.log().count("Application startup complete")
        started = time.perf_counter()
        self.process.send_signal(signal.SIGTTIN)
        while self.log().count("Application startup complete") == before:
            if time.perf_counter() - started > 30:
                raise RuntimeError("a further worker did not start")
            time.sleep(0.005)
        return time.perf_counter() - started

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    log_file: Path = Path()


@contextmanager
def running_service(
    database: URL,
    folder: Path,
    workers: int,
    fixed_body_bytes: int = 16384,
    settings: Mapping[str, str] | None = None,
    core: int | None = None,
    tree: Path | None = None,
    application: str = "benchmarks.fixed_app:app",
) -> Iterator[Service]:
    """Started as an operator starts it, on a free port; stopped afterwards. ``core``: on that one alone. ``tree``: of
    that checkout, and what is served is its own ``application``."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database.render_as_string(hide_password=False),
        "DATA_DIR": str(folder),
        "GUNICORN_WORKERS": str(workers),
        "GUNICORN_BIND": f"127.0.0.1:{port}",
        "FIXED_BODY_BYTES": str(fixed_body_bytes),
        **(settings or {}),
    }
    program = [sys.executable if tree in (None, ROOT) else str(tree / ".venv/bin/python")]
    log_file = folder / f"gunicorn-{port}.log"
    started = time.perf_counter()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*only_on(core), *program, "-m", "gunicorn", "-c", "gunicorn.conf.py", application],
            cwd=tree or ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(process, port, log_file)
        service = Service(process, port, time.perf_counter() - started)
        service.log_file = log_file
        yield service
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended:\n{log_file.read_text()[-2000:]}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"the service was not ready within 300 s:\n{log_file.read_text()[-2000:]}")


def only_on(core: int | None) -> list[str]:
    """Before a command: it runs on that core alone."""
    return [find_program("taskset", "util-linux"), "-c", str(core)] if core is not None else []


def users_with_history(data_dir: Path) -> list[int]:
    """Of the catalog that a service with this folder uses."""
    store = CatalogStore(data_dir / "catalogs", 3)
    arrays = store.open(str(store.current()), verify=False).arrays
    users: list[int] = arrays.user_id[arrays.history_offsets[1:] > arrays.history_offsets[:-1]].tolist()
    return users


def write_script(folder: Path, data_dir: Path) -> Path:
    """A wrk script that asks for another user's feed each time, of those with a history."""
    return feed_script(folder, users_with_history(data_dir))


def feed_script(folder: Path, users: Sequence[int], most: int | None = None) -> Path:
    """The same of these users. ``most``: after so many answers no more is asked for."""
    script = folder / ("feed.lua" if most is None else f"feed-{most}.lua")
    stop = f"local left = {most}\nresponse = function() left = left - 1; if left == 0 then wrk.thread:stop() end end\n"
    script.write_text(
        ("" if most is None else stop) + f"local users = {{{','.join(map(str, users))}}}\n"
        "local at = 0\n"
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        "request = function()\n"
        "  at = at % #users + 1\n"
        "  return wrk.format(nil, nil, nil, '{\"SELF_ID\": ' .. users[at] .. ', \"N_VIDEOS\": 24}')\n"
        "end\n"
        "done = function(summary, latency, requests)\n"
        "  local e = summary.errors\n"
        "  io.write(string.format('RESULT %d %d %d %d %d\\n', summary.requests, summary.duration, summary.bytes,\n"
        "    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))\n"
        "end\n"
    )
    return script


def drive(
    service: Service,
    path: str,
    script: Path,
    seconds: int,
    core: int | None = None,
    connections: int = CONNECTIONS,
) -> Load:
    """One run of wrk, from one thread."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed: `make bench` installs it")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(
        [*only_on(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, f"{service.address}{path}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + SLACK_SECONDS,
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if match is None:
        raise RuntimeError(f"wrk said:\n{output}")
    requests, microseconds, size, p99, errors = map(int, match.groups())
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(
        requests,
        requests / microseconds * 1e6,
        p99 / 1000,
        errors,
        size / max(1, requests),
        used / (seconds * (os.cpu_count() or 1)),
    )


@dataclass
class ServerFigures:
    """Medians over rounds that alternate the routes, so that a drift of the machine hits all alike."""

    feed: float
    fixed: float
    declared: float
    share: float
    share_of_declared: float
    p99_ms: float
    errors: int
    body_bytes: float
    generator_share: float
    start_seconds: float
    worker_seconds: float
    pss_mb: float
    further_pss_mb: float


def measure_server(database: URL, folder: Path, rounds: int, seconds: int) -> ServerFigures:
    """Throughput of the feeds alone with two workers; then what a further worker takes to start, and in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(
        database, folder, 2, settings=OFF
    ):  # publishes a catalog, and compiles what is not yet compiled
        pass
    script = write_script(folder, folder)
    body_bytes = _body_bytes(database, folder, script)
    with running_service(database, folder, 2, int(body_bytes), OFF) as service:
        for path in (FEED_PATH, FIXED_PATH, DECLARED_PATH):
            drive(service, path, script, 2)
        feeds, fixed, declared = [], [], []
        for _ in range(rounds):
            feeds.append(drive(service, FEED_PATH, script, seconds))
            fixed.append(drive(service, FIXED_PATH, script, seconds))
            declared.append(drive(service, DECLARED_PATH, script, seconds))
        two = [_pss_mb(pid) for pid in service.workers()]
        worker_seconds = [service.add_worker() for _ in range(3)]
        drive(service, FEED_PATH, script, 3)
        five = [_pss_mb(pid) for pid in service.workers()]
        master_pss = _pss_mb(service.process.pid)
        ready = service.ready_seconds
    pairs = list(zip(feeds, fixed, declared, strict=True))
    median = statistics.median
    return ServerFigures(
        feed=median(load.requests_per_second for load in feeds),
        fixed=median(load.requests_per_second for load in fixed),
        declared=median(load.requests_per_second for load in declared),
        share=median(a.requests_per_second / b.requests_per_second for a, b, _ in pairs),
        share_of_declared=median(a.requests_per_second / c.requests_per_second for a, _, c in pairs),
        p99_ms=median(load.p99_ms for load in feeds),
        errors=sum(load.errors for load in feeds),
        body_bytes=body_bytes,
        generator_share=median(load.generator_share for load in feeds),
        start_seconds=ready,
        worker_seconds=median(worker_seconds),
        pss_mb=master_pss + sum(five),
        further_pss_mb=(sum(five) - sum(two)) / max(1, len(five) - len(two)),
    )


def _body_bytes(database: URL, folder: Path, script: Path) -> float:
    """Bytes of a feed's answer with its headers, so that the fixed body can be as large."""
    with running_service(database, folder, 2, settings=OFF) as service:
        return drive(service, FEED_PATH, script, 2).body_bytes - 220


def _pss_mb(pid: int) -> float:
    """Proportional set size: a page shared by n processes counts 1/n in each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss in smaps_rollup of {pid}")
