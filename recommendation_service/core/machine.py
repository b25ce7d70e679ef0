"""What this machine has for the service: processors that it may use, and who listens on a port. Linux only."""

import os
import re
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
ESTABLISHED, LISTENING = b"01", b"0A"  # include/net/tcp_states.h
# Of a table that may have ten thousand closed connections, the rows that matter: local address, state, inode.
TCP_ROW = re.compile(rb": (\S+) \S+ (01|0A) (?:\S+ +){5}(\d+)")


def cpu_cores(root: Path = Path("/")) -> float:
    """Cores that this process may use: its affinity, and its control group's quota where that is less.

    ``root``: where /proc and /sys are, for tests.
    """
    cores = float(len(os.sched_getaffinity(0)))
    for quota, period in _quotas(root):
        cores = min(cores, quota / period)
    return cores


def default_workers() -> int:
    """Of Gunicorn, where GUNICORN_WORKERS is unset: two a core that may be used, whatever the machine has."""
    return max(1, int(cpu_cores() * 2))


class Holder(NamedTuple):
    pid: int
    name: str


def listener_of(port: int) -> Holder | None:
    """Who listens on a TCP port of this machine, where /proc shows that to this user; without arguments, which may hold
    a secret."""
    inodes = {
        inode
        for table in ("tcp", "tcp6")
        for address, state, inode in TCP_ROW.findall(network_table(table))
        if state == LISTENING and int(address.rpartition(b":")[2], 16) == port
    }
    sockets = {f"socket:[{inode.decode()}]" for inode in inodes}
    for process in sorted(int(name) for name in os.listdir(_PROC) if name.isdigit()):
        folder = _PROC / str(process)
        try:
            if any(os.readlink(descriptor) in sockets for descriptor in (folder / "fd").iterdir()):
                return Holder(process, _program(folder))
        except OSError:  # gone, or another user's
            continue
    return None


def _program(folder: Path) -> str:
    """A process's name; of Python's, the script or module that it runs."""
    name = (folder / "comm").read_text().strip()
    if not name.startswith("python"):
        return name
    words = [word for word in (folder / "cmdline").read_text("utf-8", "replace").split("\0")[1:] if word != "-m"]
    return os.path.basename(words[0]) if words and not words[0].startswith("-") else name


def _quotas(root: Path) -> list[tuple[int, int]]:
    """(microseconds, of how many) of this process's control group and those around it, of either version.

    A container may see its group's path on the host and have the group itself as its root: what is not there is passed.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = ["0::/"]
    found = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts, read = [root / "sys/fs/cgroup"], _quota_of_version_2
        elif "cpu" in controllers.split(","):
            mounts, read = [root / "sys/fs/cgroup" / name for name in {"cpu", controllers}], _quota_of_version_1
        else:
            continue
        for mount in mounts:
            group = mount / path.strip("/")
            for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]:
                try:
                    found.append(read(folder))
                except (OSError, ValueError):  # not there, or no limit
                    continue
    return [(quota, period) for quota, period in found if quota > 0 and period > 0]


def _quota_of_version_2(group: Path) -> tuple[int, int]:
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota), int(period)  # "max": no limit


def _quota_of_version_1(group: Path) -> tuple[int, int]:
    return int((group / "cpu.cfs_quota_us").read_text()), int((group / "cpu.cfs_period_us").read_text())  # -1: none


def network_table(name: str) -> bytes:
    """A table of /proc/net; empty where the kernel has no such sockets."""
    try:
        return (_PROC / "self" / "net" / name).read_bytes()
    except OSError:
        return b""
