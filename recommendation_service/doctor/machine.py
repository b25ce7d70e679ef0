"""Checks of the machine that runs the service: what the deployment guide asks of it."""

import os
import shutil
import sys
from pathlib import Path

from recommendation_service.core.machine import cpu_cores
from recommendation_service.doctor.findings import Finding, error, ok, warning

LEAST_PYTHON = (3, 11)
CORES = 4
MEMORY_GB = 8
# A machine sold as 8 GB has less: firmware and kernel take their part.
_MEMORY_BYTES = MEMORY_GB * 1e9 * 0.93
# Some catalog versions of a few megabytes today, and room to grow a hundredfold.
FREE_BYTES = 1e9


def check_machine(data_dir: Path) -> list[Finding]:
    """All of them, as they are now."""
    root = Path("/")
    return [
        check_python(sys.version_info[:3]),
        check_cores(cpu_cores(root)),
        check_memory(usable_memory(root)),
        check_disk(data_dir),
    ]


def check_python(version: tuple[int, ...]) -> Finding:
    shown = ".".join(str(part) for part in version)
    least = ".".join(str(part) for part in LEAST_PYTHON)
    if version < LEAST_PYTHON:
        return error("Python", f"Python {shown}: {least} or newer is needed.", f"Install Python {least}.")
    return ok("Python", f"Python {shown}; {least} or newer is asked.")


def check_cores(cores: float) -> Finding:
    if cores < CORES:
        return warning(
            "cores",
            f"{cores:g} core{'' if cores == 1 else 's'} usable here; the guide's figures are for {CORES}.",
            "Expect a share of its throughput, or give the service more cores.",
        )
    return ok("cores", f"{cores:g} cores usable here; {CORES} are asked.")


def check_memory(total_bytes: float | None) -> Finding:
    if total_bytes is None:
        return warning("memory", "How much memory this machine has cannot be read.", f"{MEMORY_GB} GB are asked.")
    shown = f"{total_bytes / 1e9:.1f} GB"
    if total_bytes < _MEMORY_BYTES:
        return warning(
            "memory",
            f"{shown} of memory usable here; the guide asks for {MEMORY_GB} GB.",
            "Start fewer workers (GUNICORN_WORKERS), or give the service more memory.",
        )
    return ok("memory", f"{shown} of memory usable here; {MEMORY_GB} GB are asked.")


def check_disk(data_dir: Path) -> Finding:
    """Where DATA_DIR is, or will be."""
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return error(
            "disk",
            f"{folder} is no folder that this user may write in: no catalog can be kept in DATA_DIR ({data_dir}).",
            "Name another DATA_DIR, or make this one writable.",
        )
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        return warning(
            "disk",
            f"{free / 1e9:.1f} GB free in DATA_DIR ({data_dir}); {FREE_BYTES / 1e9:g} GB are asked.",
            "Make room, or keep fewer versions (CATALOG_KEEP).",
        )
    return ok("disk", f"{free / 1e9:,.1f} GB free in DATA_DIR ({data_dir}).")


def usable_memory(root: Path) -> float | None:
    """Bytes; the machine's, and no more than the control group allows."""
    total = None
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = float(line.split()[1]) * 1024
    limit = _read(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        total = min(total or float(limit), float(limit))
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
