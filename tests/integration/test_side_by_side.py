"""How workers share a run: a file is one worker's, and what has to run alone has nothing beside it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from tests.side_by_side import ALONE, ONE_WORKERS_FOLDERS

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
from tests import side_by_side
from tests.side_by_side import pytest_xdist_make_scheduler

side_by_side.ALONE = {"test_alone.py": "", "test_mixed.py::test_alone": ""}
"""
TEST = """
import os, time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_{name}(number):
    begin = time.monotonic()
    time.sleep(0.1)
    with open("done", "a") as done:
        done.write(f"{name} {{os.getpid()}} {{begin}} {{time.monotonic()}}\\n")
"""


def run(folder: Path, files: dict[str, tuple[str, ...]]) -> list[tuple[str, str, float, float]]:
    """Name, worker, begin and end of each test of files that hold tests of these names."""
    (folder / "conftest.py").write_text(CONFTEST)
    for file, names in files.items():
        (folder / file).write_text("".join(TEST.format(name=name) for name in names))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "--disable-plugin-autoload", "-p", "xdist", "-p"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "no:cacheprovider", *files],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (folder / "done").read_text().splitlines()]
    return [(name, worker, float(begin), float(end)) for name, worker, begin, end in lines]


def test_what_has_to_run_alone_runs_when_all_others_are_done(tmp_path: Path) -> None:
    files = {"test_alone.py": ("first",), "test_mixed.py": ("alone", "mixed"), "test_a.py": ("a",), "test_b.py": ("b",)}
    done = run(tmp_path, files)
    assert len(done) == 4 * 5
    others = [entry for entry in done if entry[0] in {"mixed", "a", "b"}]
    alone = sorted((entry for entry in done if entry not in others), key=lambda entry: entry[2])
    assert len({worker for _, worker, _, _ in others}) > 1
    assert max(end for *_, end in others) <= min(begin for _, _, begin, _ in alone)
    assert all(end <= begin for (*_, end), (_, _, begin, _) in itertools.pairwise(alone))
    for name in ("mixed", "a", "b"):
        assert len({worker for known, worker, *_ in others if known == name}) == 1


def test_where_nothing_else_is_asked_for_one_worker_runs_it(tmp_path: Path) -> None:
    done = run(tmp_path, {"test_alone.py": ("first",), "test_mixed.py": ("alone",)})
    assert len(done) == 4 * 2
    assert len({worker for _, worker, _, _ in done}) == 1


def test_what_is_named_is_there() -> None:
    for name in ALONE:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / file).read_text("utf-8")
    for folder in ONE_WORKERS_FOLDERS:
        assert (ROOT / folder / "conftest.py").exists()
