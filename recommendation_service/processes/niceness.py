"""A process that steps back behind those that answer requests."""

import contextlib
import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def step_back(niceness: int) -> None:
    """Take ``niceness`` (1 to 19) for this process, against all others of the machine.

    Where the kernel shares processor time by sessions (``sched_autogroup_enabled``, as Debian has it, outside of groups
    of systemd's or a container's), what a process says of itself counts only within its session, and a leased process
    leads one of its own: there the session steps back (sched(7), "The autogroup feature"). A session that others are in
    too is left as it is.
    """
    os.nice(niceness)
    if os.getsid(0) == os.getpid():
        # Absent without the feature; refused where /proc may only be read, or when written ten times a second.
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(niceness))
