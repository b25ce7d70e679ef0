"""The service as it is here beside the service of another commit: the same feeds, in turn, on one machine.

Machines differ and drift, so a rate alone says little: what counts is the ratio of two runs that follow each other.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL

from benchmarks.server import FEED_PATH, ROOT, Load, Service, drive, running_service, users_with_history, write_script

# With all that a feed leaves; what is recorded stays in the log, as flushing would fall into the other's run.
EVERYTHING = {
    "GUNICORN_WORKERS": "2",
    "CATALOG_REFRESH_SECONDS": "3600",
    "EVENT_FLUSHER": "false",
    "EVENT_LOG_MEGABYTES": "8192",
}
FIRST_PAGES = 12  # of 24 items, for each user; then both begin anew


@dataclass
class Run:
    """One run of wrk against one of the two."""

    load: Load
    user_us: float  # of all workers' processor time, a request
    system_us: float


@dataclass
class Row:
    what: str
    there: float  # median
    here: float
    ratio: float  # median of the pairs' ratios
    quartiles: tuple[float, float]


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A tree of that commit, with an environment of its own: its locks may be others. Raises CalledProcessError."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        subprocess.run(["bash", "scripts/setup.sh", "runtime"], cwd=folder, check=True, stdout=sys.stderr)
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], check=True)


def measure_beside(commit: str, folder: Path, rounds: int, seconds: int) -> list[Row]:
    """Medians over ``rounds`` pairs of runs, which begin with either in turn, with recording and memory, 2 workers and
    32 connections, users on their first pages."""
    database = folder / "demo.sqlite"
    demo = [sys.executable, "-m", "recommendation_service", "demo", "load", f"sqlite:///{database}"]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    pairs: list[tuple[Run, Run]] = []
    with checkout(commit, folder / "there") as there:
        while len(pairs) < rounds:
            with ExitStack() as stack:
                services = [
                    stack.enter_context(_service(tree, database, folder / f"{name}-{len(pairs)}"))
                    for name, tree in (("there", there), ("here", ROOT))
                ]
                pairs += _pairs(services, folder / f"here-{len(pairs)}", rounds - len(pairs), seconds)
    return _rows(pairs)


@contextmanager
def _service(tree: Path, database: Path, folder: Path) -> Iterator[Service]:
    """With a catalog, and the memory of nobody."""
    folder.mkdir()
    own = shutil.copy(database, folder / "demo.sqlite")
    url = URL.create("sqlite", database=str(own))
    with running_service(url, folder, 2, settings=EVERYTHING, tree=tree) as service:
        yield service
    shutil.rmtree(folder)


def _pairs(services: list[Service], data_dir: Path, most: int, seconds: int) -> list[tuple[Run, Run]]:
    """As many as users have first pages for."""
    script = write_script(data_dir, data_dir)
    users = len(users_with_history(data_dir))
    for service in services:
        drive(service, FEED_PATH, script, 1)
    pairs: list[tuple[Run, Run]] = []
    feeds = 0.0
    while len(pairs) < most and (not pairs or feeds / users < FIRST_PAGES):
        there, here = services
        if len(pairs) % 2:
            second, first = _run(here, script, seconds), _run(there, script, seconds)
        else:
            first, second = _run(there, script, seconds), _run(here, script, seconds)
        pairs.append((first, second))
        feeds += max(first.load.requests_per_second, second.load.requests_per_second) * seconds
    return pairs


def _run(service: Service, script: Path, seconds: int) -> Run:
    user, system = _processor_seconds(service)
    load = drive(service, FEED_PATH, script, seconds)
    user_then, system_then = _processor_seconds(service)
    requests = max(1.0, load.requests_per_second * seconds)
    return Run(load, (user_then - user) / requests * 1e6, (system_then - system) / requests * 1e6)


def _processor_seconds(service: Service) -> tuple[float, float]:
    """Of all workers: in the program, and in the system for it."""
    ticks = [0, 0]
    for pid in service.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks[0] += int(fields[11])
        ticks[1] += int(fields[12])
    hertz = os.sysconf("SC_CLK_TCK")
    return ticks[0] / hertz, ticks[1] / hertz


def _rows(pairs: list[tuple[Run, Run]]) -> list[Row]:
    figures = {
        "feeds a second": lambda run: run.load.requests_per_second,
        "P99, ms": lambda run: run.load.p99_ms,
        "workers' processor time a feed, µs": lambda run: run.user_us + run.system_us,
        "of it in the system (TCP, files), µs": lambda run: run.system_us,
        "wrk's share of the cores": lambda run: run.load.generator_share,
    }
    rows = []
    for what, figure in figures.items():
        there, here = ([figure(pair[side]) for pair in pairs] for side in (0, 1))
        ratios = [b / a for a, b in zip(there, here, strict=True) if a]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        median = statistics.median
        rows.append(Row(what, median(there), median(here), median(ratios), (quartiles[0], quartiles[2])))
    errors = [float(sum(pair[side].load.errors for pair in pairs)) for side in (0, 1)]
    rows.append(Row("errors", errors[0], errors[1], 1.0, (1.0, 1.0)))
    return rows


def print_beside(rows: list[Row], commit: str, what: str, pairs: int) -> None:
    table = Table("", commit, "here", "ratio", "quartiles", title=f"{what}, {pairs} alternating pairs of runs")
    for row in rows:
        digits = 0 if row.here >= 100 else 2
        is_compared = row.what != "errors" and row.ratio > 0
        ratio = f"{row.ratio:.2f}" if is_compared else ""
        quartiles = "" if not is_compared else f"{row.quartiles[0]:.2f} to {row.quartiles[1]:.2f}"
        table.add_row(row.what, f"{row.there:,.{digits}f}", f"{row.here:,.{digits}f}", ratio, quartiles)
    Console().print(table)
