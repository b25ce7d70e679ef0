"""The service as it is here beside the service of another commit: the same feeds, in turn, on one machine.

Machines differ and drift, so a rate alone says little: what counts is the ratio of two runs that follow each other.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL

from benchmarks.server import (
    FEED_PATH,
    OWN_APPLICATION,
    ROOT,
    Load,
    Service,
    drive,
    feed_script,
    running_service,
    users_with_history,
    write_script,
)

# With all that a feed leaves; what is recorded stays in the log, as flushing would fall into the other's run.
EVERYTHING = {
    "GUNICORN_WORKERS": "2",
    "CATALOG_REFRESH_SECONDS": "3600",
    "EVENT_FLUSHER": "false",
    "EVENT_LOG_MEGABYTES": "8192",
}
FIRST_PAGES = 12  # of 24 items, for each user; then both begin anew
LATE_PAGE = 61
LATE_USERS = 800  # few, so that each comes so far; as many that none has seen all within the second that is measured
Figures = dict[str, float]
Start = Callable[[Path], AbstractContextManager[Service]]  # a service, in a folder of its own
Told = Callable[[str, float], None]  # what is being done, and the share of all that is done


@dataclass
class Run:
    """One run of wrk against one of the two."""

    load: Load
    user_us: float  # of all workers' processor time, a request
    system_us: float


@dataclass
class Row:
    what: str
    there: float  # median; 0 where there is nothing beside
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


def make_demo(folder: Path) -> Path:
    """The demo's tables in SQLite."""
    database = folder / "demo.sqlite"
    demo = [sys.executable, "-m", "recommendation_service", "demo", "load", f"sqlite:///{database}"]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    return database


def measure_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Medians over ``rounds`` pairs of runs, which begin with either in turn, with recording and memory, 2 workers and
    32 connections, users on their first pages."""
    told(f"setting up {commit}", 0.0)
    database = make_demo(folder)
    with checkout(commit, folder / "there") as there:
        starts = [partial(own_service, database, tree=tree) for tree in (there, ROOT)]
        return measure_pairs(starts, folder, rounds, seconds, told)


def measure_late_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """The same of users who were shown sixty pages: most of what there is. Each pair begins anew."""
    told(f"setting up {commit}", 0.0)
    database = make_demo(folder)
    pairs: list[tuple[Run, Run]] = []
    with checkout(commit, folder / "there") as there:
        for round_ in range(rounds):
            with ExitStack() as stack:
                folders = [folder / f"{name}-{round_}" for name in ("there", "here")]
                trees = (there, ROOT)
                services = [
                    stack.enter_context(own_service(database, own, tree=tree))
                    for own, tree in zip(folders, trees, strict=True)
                ]
                users = users_with_history(folders[1])[:LATE_USERS]
                script = feed_script(folder, users)
                for service in services:
                    told("until page 61", round_ / rounds)
                    _drive_to_page(service, folder, users)
                order = (0, 1) if round_ % 2 == 0 else (1, 0)
                runs = {side: _run(services[side], script, seconds) for side in order}
                pairs.append((runs[0], runs[1]))
    return _rows(pairs)


def _drive_to_page(service: Service, folder: Path, users: Sequence[int]) -> None:
    """Until each has seen the pages before LATE_PAGE: a script begins with the first user, so in whole rounds."""
    left = len(users) * (LATE_PAGE - 1)
    while left > 0:
        load = drive(service, FEED_PATH, feed_script(folder, users, left), 1)
        left -= load.requests
        users = [*users[load.requests % len(users) :], *users[: load.requests % len(users)]]


def measure_pairs(starts: Sequence[Start], folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Of two services, there and here, each begun anew as often as its users have seen their first pages."""
    pairs: list[tuple[Run, Run]] = []
    while len(pairs) < rounds:
        with ExitStack() as stack:
            folders = [folder / f"{name}-{len(pairs)}" for name in ("there", "here")]
            services = [stack.enter_context(start(own)) for start, own in zip(starts, folders, strict=True)]
            _add_pairs(pairs, services, folders[1], rounds, seconds, told)
    return _rows(pairs)


@contextmanager
def own_service(
    database: Path, folder: Path, *, tree: Path = ROOT, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """With a catalog, and the memory of nobody. ``folder``: is made, where it is not there yet, and removed."""
    folder.mkdir(exist_ok=True)
    own = shutil.copy(database, folder / "demo.sqlite")
    url = URL.create("sqlite", database=str(own))
    wanted = {**EVERYTHING, **(settings or {})}
    with running_service(url, folder, 2, settings=wanted, tree=tree, application=OWN_APPLICATION) as service:
        yield service
    shutil.rmtree(folder)


def _add_pairs(
    pairs: list[tuple[Run, Run]], services: list[Service], data_dir: Path, rounds: int, seconds: int, told: Told
) -> None:
    """As many as are missing, and as users have first pages for."""
    script = write_script(data_dir, data_dir)
    users = len(users_with_history(data_dir))
    for service in services:
        drive(service, FEED_PATH, script, 1)
    feeds = 0.0
    while len(pairs) < rounds and (feeds == 0 or feeds / users < FIRST_PAGES):
        told("feeds, in turn", len(pairs) / rounds)
        there, here = services
        if len(pairs) % 2:
            second, first = _run(here, script, seconds), _run(there, script, seconds)
        else:
            first, second = _run(there, script, seconds), _run(here, script, seconds)
        pairs.append((first, second))
        feeds += max(first.load.requests_per_second, second.load.requests_per_second) * seconds


def _run(service: Service, script: Path, seconds: int) -> Run:
    user, system = processor_seconds(service)
    load = drive(service, FEED_PATH, script, seconds)
    user_then, system_then = processor_seconds(service)
    requests = max(1.0, load.requests_per_second * seconds)
    return Run(load, (user_then - user) / requests * 1e6, (system_then - system) / requests * 1e6)


def processor_seconds(service: Service) -> tuple[float, float]:
    """Of all workers: in the program, and in the system for it."""
    ticks = [0, 0]
    for pid in service.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks[0] += int(fields[11])
        ticks[1] += int(fields[12])
    hertz = os.sysconf("SC_CLK_TCK")
    return ticks[0] / hertz, ticks[1] / hertz


def _rows(pairs: list[tuple[Run, Run]]) -> list[Row]:
    errors = [float(sum(pair[side].load.errors for pair in pairs)) for side in (0, 1)]
    rows = rows_of_pairs("", [(_figures(there), _figures(here)) for there, here in pairs])
    return [*rows, Row("errors", errors[0], errors[1], 1.0, (1.0, 1.0))]


def _figures(run: Run) -> Figures:
    return {
        "feeds a second": run.load.requests_per_second,
        "P99, ms": run.load.p99_ms,
        "workers' processor time a feed, µs": run.user_us + run.system_us,
        "of it in the system (TCP, files), µs": run.system_us,
        "wrk's share of the cores": run.load.generator_share,
    }


def rows_of_pairs(what: str, pairs: list[tuple[Figures, Figures]]) -> list[Row]:
    """A row a figure, with medians and the ratios' quartiles."""
    rows = []
    for figure in pairs[0][0]:
        there, here = ([pair[side][figure] for pair in pairs] for side in (0, 1))
        ratios = [b / a for a, b in zip(there, here, strict=True) if a]
        if not ratios:
            ratios = [0.0]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        median = statistics.median
        rows.append(Row(what + figure, median(there), median(here), median(ratios), (quartiles[0], quartiles[2])))
    return rows


def print_beside(rows: list[Row], commit: str | None, title: str) -> None:
    """``commit``: None where nothing stands beside."""
    compared = ("ratio", "quartiles") if commit else ()
    table = Table("", *([commit] if commit else []), "here", *compared, title=title)
    for row in rows:
        digits = 0 if row.here >= 100 else 2
        cells = [f"{row.here:,.{digits}f}"]
        if commit:
            is_compared = row.what != "errors" and row.ratio > 0
            ratio = f"{row.ratio:.2f}" if is_compared else ""
            quartiles = f"{row.quartiles[0]:.2f} to {row.quartiles[1]:.2f}" if is_compared else ""
            cells = [f"{row.there:,.{digits}f}", *cells, ratio, quartiles]
        table.add_row(row.what, *cells)
    Console().print(table)
