"""Kernels are compiled once for a machine: no later start may compile anything, which takes seconds and memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recommendation_service.feed.compilation import NAMES, compile_kernels, kernels_are_compiled, progress
from recommendation_service.ranking.compiled import kernel_folder
from tests.end_to_end.service import REPOSITORY

COMPILED_AGAIN = """
from numba.core import event
from recommendation_service.feed.compilation import compile_kernels

with event.install_recorder("numba:compile") as recorder:
    compile_kernels()
print({str(happened.data["dispatcher"]) for _, happened in recorder.buffer})
"""


def test_a_machine_that_has_all_kernels_compiles_none() -> None:
    compile_kernels()
    assert kernels_are_compiled()
    done = subprocess.run([sys.executable, "-c", COMPILED_AGAIN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_another_checkout_of_the_same_version_has_them_too(tmp_path: Path) -> None:
    compile_kernels()
    shutil.copytree(
        REPOSITORY / "recommendation_service",
        tmp_path / "recommendation_service",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    command = [sys.executable, "-c", COMPILED_AGAIN + "print(compile_kernels.__code__.co_filename)"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    said, source = done.stdout.splitlines()
    assert source.startswith(str(tmp_path))
    assert said == "set()"


def test_they_count_as_compiled_only_where_each_is_there(tmp_path: Path) -> None:
    compile_kernels()
    assert progress() == (len(NAMES), len(NAMES))
    folder = tmp_path / kernel_folder().name
    shutil.copytree(kernel_folder(), folder)
    said = "from recommendation_service.feed.compilation import kernels_are_compiled as k; print(k())"
    for expected in ("True", "False"):
        done = subprocess.run(
            [sys.executable, "-c", said],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
        for code in folder.rglob("slate.describe-*.nbc"):
            code.unlink()


WHERE = "from recommendation_service.ranking.compiled import kernel_folder; print(kernel_folder())"
# As somebody who may not write what is another's, also where the tests run as root.
STRANGER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner") if os.geteuid() == 0 else ()


def folder_found(temporary: Path, umask: int = -1, **variables: str) -> Path:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME"}
    }
    environment |= {"TMPDIR": str(temporary), **variables}
    done = subprocess.run(
        [*STRANGER, sys.executable, "-c", WHERE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        umask=umask,
    )
    return Path(done.stdout.strip())


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
@pytest.mark.parametrize("home", ["read-only", "none"])
def test_without_a_home_to_write_to_all_processes_of_a_user_find_one_folder(
    tmp_path: Path, home: str, umask: int
) -> None:
    temporary, of_nobody = tmp_path / "temporary", tmp_path / "home"
    temporary.mkdir()
    of_nobody.mkdir(mode=0o555)
    variables = {"HOME": str(of_nobody if home == "read-only" else tmp_path / "temporary" / "x" / "y")}
    if home == "none":
        (temporary / "x").touch()
    first = folder_found(temporary, umask, **variables)
    assert first.parent.name == f"recommendation-service-kernels-{os.geteuid()}"
    assert first == folder_found(temporary, umask, **variables)


def test_a_folder_that_others_may_write_is_not_trusted_with_machine_code(tmp_path: Path) -> None:
    (tmp_path / f"recommendation-service-kernels-{os.geteuid()}").mkdir()
    (tmp_path / f"recommendation-service-kernels-{os.geteuid()}").chmod(0o777)
    home = tmp_path / "home"
    home.touch()
    found = folder_found(tmp_path, HOME=str(home))
    assert found.parent == tmp_path
    assert found.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_written_is_read_where_it_has_been_filled(tmp_path: Path) -> None:
    folder = tmp_path / kernel_folder().name
    folder.mkdir()
    (folder / "compiled-0").touch()
    folder.chmod(0o555)
    assert folder_found(tmp_path, NUMBA_CACHE_DIR=str(tmp_path)) == folder
