"""What the lines of the Dockerfile compile. Kernels are compiled anew here, which takes most of a minute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.dockerfile import BUILD, FINAL, PYTHON, ROOT, commands, environment, is_ignored, tracked_files

COMPILE_TIMEOUT_SECONDS = 300


def machine_code(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.nb?"))}


def test_kernels_that_an_image_was_built_with_are_not_compiled_again(tmp_path: Path) -> None:
    """The build's lines are run on what .dockerignore lets through. Then what the image starts with is run on a copy of
    the kernels, as the init container of deploy/kubernetes makes it, with a later time on every source, as layers of
    an image may have it."""
    app, folder, copy = tmp_path / "app", tmp_path / "kernels", tmp_path / "copy"
    for path in tracked_files():
        if not is_ignored(path):
            (app / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, app / path)
    [compile_sources, compile_kernels] = [
        command for command in commands(BUILD) if command[0] == PYTHON and "pip" not in command
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))}

    def run(command: list[str], variables: dict[str, str], cache: Path) -> None:
        known = {**clean, **variables, "PYTHONPATH": str(app), "NUMBA_CACHE_DIR": str(cache), "HOME": "/nonexistent"}
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=app,
            env=known,
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    run(compile_sources, environment(BUILD), folder)
    assert list(app.rglob("assets.cpython-*.pyc"))
    run(compile_kernels, environment(BUILD), folder)
    built = machine_code(folder)
    assert len(built) >= 10
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    for path in app.rglob("*.py"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    run(compile_kernels, environment(FINAL), copy)
    assert machine_code(copy) == built
    run(
        [PYTHON, "-c", "from recommendation_service.feed.compilation import kernels_are_compiled as k; assert k()"],
        environment(FINAL),
        copy,
    )
    # An index names the processor and the features that its machine code is for: none that a machine might lack.
    indices = [content for name, content in built.items() if name.endswith(".nbi")]
    assert all(b"generic" in content for content in indices)
    assert not any(b"+sse" in content or b"+avx" in content for content in indices)
