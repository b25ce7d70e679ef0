"""Tests in processes that fork: each runs once, a file in one process, and what goes wrong in one of them is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import os, pytest

@pytest.fixture(scope="session", autouse=True)
def to_the_end():
    yield
    with open("ended", "a") as ended:
        ended.write(f"{os.getpid()}\\n")
"""
FILE = """
import os, time
import pytest

@pytest.fixture(scope="module")
def pid():
    yield os.getpid()
    with open("modules", "a") as modules:
        modules.write(f"{__name__}\\n")

@pytest.mark.parametrize("number", range(4))
def test_runs(number, pid, tmp_path):
    assert pid == os.getpid()
    time.sleep(0.05)
    with open("done", "a") as done:
        done.write(f"{__name__} {number} {pid} {tmp_path}\\n")
"""


def run(folder: Path, files: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (folder / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    plugins = ["--disable-plugin-autoload", "-p", "no:cacheprovider", "-p", "tests.forks", "--forks", "2"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-W", "error", "--basetemp", str(folder / "tmp"), *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_each_test_runs_once_and_a_file_in_one_process_that_ends_what_it_began(tmp_path: Path) -> None:
    names = [f"test_{name}" for name in "abcd"]
    done = run(tmp_path, {f"{name}.py": FILE for name in names})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout
    lines = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted((name, number) for name, number, _, _ in lines) == [
        (name, str(at)) for name in names for at in range(4)
    ]
    assert len({(name, pid) for name, _, pid, _ in lines}) == 4
    assert len({pid for _, _, pid, _ in lines}) == 2
    assert len({folder for *_, folder in lines}) == 16
    assert sorted((tmp_path / "modules").read_text().split()) == names
    assert set((tmp_path / "ended").read_text().split()) == {pid for _, _, pid, _ in lines}


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("assert [1, 2] == [1, 3]", "At index 1 diff: 2 != 3"),
        ("print('what it wrote'); raise ValueError('wrong')", "what it wrote"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with -11"),
        ("import os; os._exit(0)", "ended with 0"),
        ("import warnings; warnings.warn('beware')", "UserWarning: beware"),
    ],
)
def test_what_goes_wrong_is_told_and_all_others_are_run(tmp_path: Path, test: str, said: str) -> None:
    wrong = f"def test_wrong():\n    {test}\n\ndef test_right():\n    pass\n"
    done = run(tmp_path, {"test_a.py": FILE, "test_wrong.py": wrong, "test_y.py": FILE, "test_z.py": FILE})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 failed, 13 passed" in done.stdout
    assert said in done.stdout
    assert re.search("^FAILED test_wrong.py::test_wrong", done.stdout, re.MULTILINE)


def test_what_is_left_behind_at_the_end_is_told(tmp_path: Path) -> None:
    left = "class Left:\n    def __del__(self): raise ValueError('left behind')\n"
    test = f"{left}kept = []\ndef test_leaves():\n    one = Left(); one.itself = one\n"
    done = run(tmp_path, {"test_leaves.py": test})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "ended with 1" in done.stdout
    assert "left behind" in done.stderr


def test_with_x_it_ends_at_the_first_failure(tmp_path: Path) -> None:
    slow = "import time\ndef test_slow():\n    time.sleep(200)\n"
    wrong = "def test_wrong():\n    raise ValueError\n"
    begin = time.monotonic()
    done = run(tmp_path, {"test_a.py": slow, "test_b.py": FILE, "test_c.py": wrong}, "-x")
    assert time.monotonic() - begin < 150
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 failed" in done.stdout


def test_what_cannot_be_collected_is_told_and_nothing_runs(tmp_path: Path) -> None:
    done = run(tmp_path, {"test_a.py": FILE, "test_b.py": "import what_is_not_there\n"})
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "what_is_not_there" in done.stdout
    assert not (tmp_path / "done").exists()
