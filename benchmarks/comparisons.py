"""What can be measured alone, or beside another commit: with a bar, and within some ten minutes each."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.beside import Row, Told, measure_beside, measure_late_beside, print_beside
from benchmarks.beside_database import (
    measure_flush_beside,
    measure_outsiders_beside,
    measure_overdue,
    measure_served_beside,
)
from benchmarks.builds import measure_builds_beside
from benchmarks.experiment import WITHOUT, measure_experiment, measure_shadow
from benchmarks.feedback import measure_feedback_beside
from benchmarks.parts import measure_parts_beside, measure_parts_here


@dataclass
class Comparison:
    title: str
    rounds: int  # where nobody says how many
    seconds: int  # of a run, likewise
    beside: Callable[[str, Path, int, int, Told], list[Row]] | None = None
    alone: Callable[[Path, int, int, Told], list[Row]] | None = None
    stands_beside: str | None = None  # what does, where it is measured alone


COMPARISONS = {
    "feeds": Comparison("Everything on", 9, 3, measure_beside),
    "late": Comparison("Everything on, users on page 61", 5, 1, measure_late_beside),
    "feedback": Comparison("Calls of /feedback", 9, 3, measure_feedback_beside),
    "flush": Comparison("Flushes", 5, 1, measure_flush_beside),
    "served": Comparison("Flushes while feeds are served", 3, 40, measure_served_beside),
    "builds": Comparison("Catalog builds", 5, 1, measure_builds_beside),
    "outsiders": Comparison("Users outside the catalog", 7, 3, measure_outsiders_beside),
    "parts": Comparison(
        "Where a feed's processor time goes, everything on", 3, 10, measure_parts_beside, measure_parts_here
    ),
    "experiment": Comparison(
        "With learning, a shadow and an experiment", 9, 3, alone=measure_experiment, stands_beside=WITHOUT
    ),
    "shadow": Comparison("With one dense shadow", 9, 3, alone=measure_shadow, stands_beside=WITHOUT),
    "overdue": Comparison("Flushes that keep up", 1, 180, alone=measure_overdue),
}


def refusal(options: argparse.Namespace) -> str | None:
    """What is wrong with the command's options; None where nothing is."""
    for name in ("rounds", "seconds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            return f"--{name} must be at least 1"
    if options.of is not None:
        comparison = COMPARISONS[options.of]
        if options.beside and comparison.beside is None:
            return f"--of {options.of} is measured alone: leave out --beside"
        if not options.beside and comparison.alone is None:
            return f"--of {options.of} needs --beside COMMIT"
    return None


def compare(options: argparse.Namespace, folder: Path, console: Console) -> int:
    """Measure and print what ``refusal`` has nothing against; the exit status."""
    comparison = COMPARISONS[options.of or "feeds"]
    rounds, seconds = options.rounds or comparison.rounds, options.seconds or comparison.seconds
    rows: list[Row] = []
    try:
        with _bar(console) as told:
            if options.beside and comparison.beside is not None:
                rows = comparison.beside(options.beside, folder, rounds, seconds, told)
            elif comparison.alone is not None:
                rows = comparison.alone(folder, rounds, seconds, told)
    except subprocess.CalledProcessError as error:
        reason = "--beside takes a commit of this repository" if error.cmd[0] == "git" else error.stderr or ""
        console.print(f"error: {shlex.join(map(str, error.cmd))} failed: {reason}", markup=False)
        return 1
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1) + "\n")
    else:
        other = options.beside or comparison.stands_beside
        runs = "alternating pairs of runs" if other else "runs"
        print_beside(rows, other, f"{comparison.title}, {rounds} {runs}")
    return 0


@contextmanager
def _bar(console: Console) -> Iterator[Told]:
    """What is being done, how much is done, and how long the rest takes."""
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description:>44}"), *columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda what, done: bars.update(task, description=what, completed=done)
