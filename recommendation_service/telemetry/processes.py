"""What the service's own processes use of the machine, read from /proc. Linux only, as Gunicorn's part is."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from recommendation_service.core.machine import ESTABLISHED, LISTENING, TCP_ROW, network_table
from recommendation_service.processes import registry

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
UNIX_CONNECTED = {b"02", b"03"}  # SS_CONNECTING, which waits to be accepted, and SS_CONNECTED

_UNIX_ROW = re.compile(rb"^\S+ \S+ \S+ (\S+) \S+ (\S+) +(\d+) (\S+)", re.M)  # flags, state, inode, path


class ServiceProcess(NamedTuple):
    pid: int
    role: str  # master, worker, one of the leased processes' names, or other


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
    """Of a process that a worker started: a leased one's name, by its command line, or other."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return "other"
    return next((process.name for process in registry.LEASED if process.module in words), "other")


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


class Listeners:
    """The addresses that this process listens on, and the connections to them.

    Counted in the kernel's tables: workers share the listening sockets, so whichever worker answers counts the
    connections of all, those that wait to be accepted too, and those of a dead worker are gone with it.
    """

    def __init__(self) -> None:
        self._tcp: set[tuple[str, bytes]] = set()  # table, local address
        self._unix: set[bytes] = set()

    def connections(self) -> int:
        tcp = {name: TCP_ROW.findall(network_table(name)) for name in ("tcp", "tcp6")}
        unix = _UNIX_ROW.findall(network_table("unix"))
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
