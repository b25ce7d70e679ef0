"""What the service's own processes use of the machine, read from /proc. Linux only, as Gunicorn's part is."""

import os
import re
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
ESTABLISHED, LISTENING = b"01", b"0A"  # include/net/tcp_states.h
KEPT = ("refresher", "flusher")  # processes that a worker keeps alive, by the last part of their modules' names
UNIX_CONNECTED = {b"02", b"03"}  # SS_CONNECTING, which waits to be accepted, and SS_CONNECTED

# Of a table that may have ten thousand closed connections, the rows that matter: local address, state, inode.
_TCP_ROW = re.compile(rb": (\S+) \S+ (01|0A) (?:\S+ +){5}(\d+)")
_UNIX_ROW = re.compile(rb"^\S+ \S+ \S+ (\S+) \S+ (\S+) +(\d+) (\S+)", re.M)  # flags, state, inode, path


class ServiceProcess(NamedTuple):
    pid: int
    role: str  # master, worker, one of KEPT, or other


def service_processes(master: int | None) -> list[ServiceProcess]:
    """The processes of a service under Gunicorn's ``master``; None: of the one process that asks, and its children.

    Another master that replaces this one (USR2) is its child, and no worker: left out, it tells of itself.
    """
    started: dict[int, list[int]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (fields := _stat(int(name))):
            started.setdefault(int(fields[1]), []).append(int(name))
    root = master or os.getpid()
    found = [ServiceProcess(root, "master" if master else "worker")]
    workers = [] if master else [root]
    for pid in started.get(root, []) if master else []:
        if not _replaces(pid, root):
            workers.append(pid)
            found.append(ServiceProcess(pid, "worker"))
    found += [ServiceProcess(pid, role_of(pid)) for worker in workers for pid in started.get(worker, [])]
    return found


def children(pid: int) -> list[int]:
    """The processes that its main thread started; none where the kernel does not tell. A read of some bytes."""
    try:
        return [int(child) for child in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def role_of(pid: int) -> str:
    """Of a process that a worker started: one of KEPT, by its command line, or other."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return "other"
    modules = [word.rpartition(".")[2] for word in words if word.startswith("recommendation_service.")]
    return next((module for module in modules if module in KEPT), "other")


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process and of all its threads, without its children; None: it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else None


def memory_bytes(pid: int) -> int:
    """The process's proportional share (PSS): a page that N processes map counts as an N-th in each.

    Resident sizes would count the catalog and the preloaded code once a worker, some times what the machine
    has to have. Where the kernel does not tell it, the resident size; 0 where the process is gone.
    """
    folder = _PROC / str(pid)
    try:
        for line in (folder / "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int((folder / "statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


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
        for address, state, inode in _TCP_ROW.findall(_table(table))
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


class Listeners:
    """The addresses that this process listens on, and the connections to them.

    Counted in the kernel's tables: workers share the listening sockets, so whichever worker answers counts the
    connections of all, those that wait to be accepted too, and those of a dead worker are gone with it.
    """

    def __init__(self) -> None:
        self._tcp: set[tuple[str, bytes]] = set()  # table, local address
        self._unix: set[bytes] = set()

    def connections(self) -> int:
        tcp = {name: _TCP_ROW.findall(_table(name)) for name in ("tcp", "tcp6")}
        unix = _UNIX_ROW.findall(_table("unix"))
        if not self._tcp and not self._unix:
            self._find(tcp, unix)  # once: it looks at every open file
        count = 0
        for table, listening in self._tcp:
            host, port = listening.split(b":")
            anywhere = not host.strip(b"0")
            # An IPv6 socket for all addresses takes IPv4's too, and shows them in its own table.
            for address, state, _ in tcp[table]:
                if state == ESTABLISHED and (address.endswith(b":" + port) if anywhere else address == listening):
                    count += 1
        return count + sum(state in UNIX_CONNECTED and path in self._unix for _, state, _, path in unix)

    def _find(self, tcp: dict[str, list[tuple[bytes, ...]]], unix: list[tuple[bytes, ...]]) -> None:
        inodes = set()
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1].encode())
        for name, rows in tcp.items():
            self._tcp |= {(name, address) for address, state, inode in rows if state == LISTENING and inode in inodes}
        # Bit 16 of the flags: it accepts connections (__SO_ACCEPTCON).
        self._unix = {path for flags, _, inode, path in unix if int(flags, 16) & 0x10000 and inode in inodes}


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name, which may hold anything; None: the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:  # or another user's, where /proc is mounted with hidepid
        return None


def _replaces(pid: int, master: int) -> bool:
    """Whether the process is the master that Gunicorn's ``master`` started in its place."""
    try:
        return f"GUNICORN_PID={master}".encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


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


def _table(name: str) -> bytes:
    """A table of /proc/net; empty where the kernel has no such sockets."""
    try:
        return (_PROC / "self" / "net" / name).read_bytes()
    except OSError:
        return b""
