"""Kernels are compiled once for a machine: no later start may compile anything, which takes seconds and memory."""

from __future__ import annotations

import subprocess
import sys

from recommendation_service.feed.compilation import compile_kernels, kernels_are_compiled

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
