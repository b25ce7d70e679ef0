"""The lock that says that a leased process runs, or is about to: one file in the folder that it works on."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from recommendation_service.core.files import open_lock
from recommendation_service.processes.registry import LeasedProcess


class Lease:
    """The lock's open file. A process that inherits the descriptor holds the lock too, until both have closed it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def take(self) -> bool:
        """Whether it is this process's now, and until it is closed; False: another holds it. Never waits."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def open_lease(process: LeasedProcess, folder: Path) -> Iterator[Lease]:
    """Not taken yet; let go of at the end. Raises OSError where the folder cannot be used."""
    with open(open_lock(folder / process.lock_file), "rb") as file:
        yield Lease(file.fileno())


def is_taken(process: LeasedProcess, folder: Path) -> bool:
    """Whether somebody holds the lock, so that such a process runs or is about to. Makes nothing. Raises OSError."""
    try:
        with open(folder / process.lock_file, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
