"""A process that steps back does so against all of the machine, whatever the kernel shares its time by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recommendation_service.processes.niceness import AUTOGROUP

NICENESS = 7
STEPS_BACK = f"""
import os
from recommendation_service.processes.niceness import AUTOGROUP, step_back
step_back({NICENESS})
print(os.nice(0), AUTOGROUP.read_text() if AUTOGROUP.exists() else "")
"""

sessions_count = pytest.mark.skipif(
    not AUTOGROUP.exists() or not os.access(AUTOGROUP, os.W_OK),
    reason="this kernel does not share processor time by sessions, or /proc may only be read",
)


def what_it_says(leads: bool) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", STEPS_BACK], capture_output=True, check=True, text=True, start_new_session=leads
    ).stdout.split()


def test_the_process_has_the_niceness() -> None:
    assert int(what_it_says(leads=True)[0]) == min(19, os.nice(0) + NICENESS)


@sessions_count
def test_where_sessions_share_the_processor_its_session_steps_back_and_no_other() -> None:
    assert what_it_says(leads=True)[2:] == ["nice", str(NICENESS)]

    own = Path("/proc/self/autogroup").read_text("ascii").split()
    assert what_it_says(leads=False)[1:] == own


@sessions_count
def test_several_that_begin_at_once_all_step_back() -> None:
    """The kernel takes one in a tenth of a second, unless root asks."""
    command = [sys.executable, "-c", STEPS_BACK]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in range(3)]
    assert [process.communicate()[0].split()[2:] for process in processes] == [["nice", str(NICENESS)]] * 3
