"""Linear algebra has one thread a process, however many cores the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNTED = """
import os
import numpy as np
np.ones((600, 600)) @ np.ones((600, 600))
print(len(os.listdir("/proc/self/task")))
"""


def threads(program: str, **variables: str) -> int:
    """Of a process of its own, which does not know how this one was set."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | variables, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
def test_a_process_of_the_package_has_one_thread_for_algebra_unless_more_are_asked_for() -> None:
    if threads(COUNTED) == 1:
        pytest.skip("NumPy starts one thread here anyway")
    assert threads(f"import recommendation_service\n{COUNTED}") == 1
    assert threads(f"import recommendation_service\n{COUNTED}", OPENBLAS_NUM_THREADS="2") == 2
