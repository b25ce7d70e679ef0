"""Catalogs built here beside another commit, of the same tables in memory: in turn, in processor time, which a machine
that others use leaves nearly as it is."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.beside import Row, Told, checkout, rows_of_pairs
from benchmarks.server import ROOT

VIDEOS = (20_000, 200_000)
_PROGRAM = Path(__file__).with_name("build_once.py")


def measure_builds_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Raises CalledProcessError where there is no such commit."""
    del seconds  # as long as it takes
    told(f"setting up {commit}", 0.0)
    rows = []
    with checkout(commit, folder / "there") as there:
        for part, videos in enumerate(VIDEOS):
            with ExitStack() as stack:
                told(f"{videos:,} videos", part / len(VIDEOS))
                sides = [stack.enter_context(_builder(tree, videos, folder)) for tree in (there, ROOT)]
                pairs = []
                for number in range(rounds):
                    told(f"{videos:,} videos, in turn", (part + number / rounds) / len(VIDEOS))
                    order = (0, 1) if number % 2 else (1, 0)
                    took = {side: _build(sides[side]) for side in order}
                    pairs.append(({"ms": took[0] * 1000}, {"ms": took[1] * 1000}))
            rows += rows_of_pairs(f"building a catalog of {videos:,} videos, ", pairs)
    return rows


@contextmanager
def _builder(tree: Path, videos: int, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [tree / ".venv/bin/python", _PROGRAM, str(videos), folder],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _build(process: "subprocess.Popen[str]") -> float:
    """Seconds of processor time."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a builder without pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a builder ended with status {process.wait(30)}")
    return float(line)
