"""A process that steps back behind those that answer requests."""

import os
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
# One write in a tenth of a second, of all of the machine's, is taken from who is not root.
TRIES, PAUSE_SECONDS = 30, 0.11


def step_back(niceness: int) -> None:
    """Take ``niceness`` (1 to 19) for this process, against all others of the machine.

    Where the kernel shares processor time by sessions (``sched_autogroup_enabled``, as Debian has it, outside of groups
    of systemd's or a container's), what a process says of itself counts only within its session, and a leased process
    leads one of its own: there the session steps back (sched(7), "The autogroup feature"). A session that others are in
    too is left as it is.
    """
    os.nice(niceness)
    if os.getsid(0) == os.getpid():
        _step_back_as_session(niceness)


def _step_back_as_session(niceness: int) -> None:
    for _ in range(TRIES):
        try:
            AUTOGROUP.write_text(str(niceness))
        except BlockingIOError:  # others of the service step back now, too
            time.sleep(PAUSE_SECONDS)
        except OSError:  # a kernel without the feature, or /proc may only be read
            return
        else:
            return
