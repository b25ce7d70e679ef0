"""DATA_DIR is held by the processes of one machine or container at a time.

Its files are shared by process numbers, a table of readers in shared memory and locks of one kernel. Two containers
have numbers of their own, and two machines no memory in common: each would take the other's processes for dead.
Several masters in one space of process numbers may share it (USR2 starts the new one beside the old).

All of them hold a shared lock on one file, which other containers and (where the file system passes locks on) other
machines see; the file says in which space its holders are. The kernel lets go of it however they end.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import structlog

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.files import open_lock

log = structlog.get_logger(__name__)

FILE = "holder.lock"
POLL_SECONDS = 0.1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")


def hold(folder: Path, wait_seconds: float) -> int:
    """Hold the folder; the descriptor, which is to stay open. Waits for a holder elsewhere, as at a rolling update.

    Raises ConfigurationError, which names the holder, where that one is still there, and OSError.
    """
    descriptor = open_lock(folder / FILE)
    # One that is just starting holds it alone for a moment, to say who it is.
    until, told = time.monotonic() + max(wait_seconds, 1.0), False
    while True:
        try:
            if _try(descriptor):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        holder = holder_of(folder)
        if time.monotonic() >= until:
            os.close(descriptor)
            raise ConfigurationError([f"DATA_DIR {folder} is held by {holder}: {_REMEDY}"])
        if not told and wait_seconds:
            log.warning("waiting for DATA_DIR", folder=str(folder), holder=holder, most_seconds=wait_seconds)
            told = True
        time.sleep(POLL_SECONDS)


_REMEDY = (
    "give each container or machine a folder of its own (several share by Redis), or stop that one. "
    "DATA_DIR_WAIT_SECONDS says how long a start waits for it."
)


def hold_alone(folder: Path) -> int | None:
    """Hold it against everybody, who may only look; None where a service holds it. Raises OSError."""
    descriptor = open_lock(folder / FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def holder_of(folder: Path) -> str:
    """Who holds the folder, for people; empty where nobody does. Makes nothing."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
    except OSError:
        return ""
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "a process that is just starting, or empties it"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return str(_read(descriptor).get("name", "processes that did not say who they are"))
        return ""
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    """Whether this process holds it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # somebody is writing who it is
        if _read(descriptor).get("space") == _space():
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    _write(descriptor)
    # Between the two somebody else may have had it: then that one says so.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if _read(descriptor).get("space") == _space():
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _space() -> str:
    """In which process numbers mean the same: this boot of a kernel, and a namespace of it."""
    try:
        return f"{BOOT_ID.read_text().strip()} {os.readlink(NAMESPACE)}"
    except OSError:
        return socket.gethostname()


def _write(descriptor: int) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    name = f"process {os.getpid()} of host {socket.gethostname()} ({os.readlink(NAMESPACE)}), since {moment}"
    content = json.dumps({"space": _space(), "name": name}).encode()
    os.pwrite(descriptor, content.ljust(512), 0)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(descriptor, 512, 0))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
