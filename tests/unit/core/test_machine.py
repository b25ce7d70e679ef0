"""How many cores may be used, and so how many workers there are, whatever the machine has."""

import os
from pathlib import Path

import pytest

from recommendation_service.core.machine import cpu_cores, default_workers

ALL = float(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, ALL),
        ("0::/system.slice/recs.service", {"system.slice/cpu.max": "25000 100000"}, 0.25),
        ("0::/a/b", {"a/cpu.max": "75000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        # A container that sees its group's path on the host, and has the group itself as its root.
        ("0::/kubepods/pod7/c9", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "not what it should be"}, ALL),
        # Version 1, mounted by one name or by both.
        ("4:cpu,cpuacct:/docker/c9", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        (
            "4:cpu,cpuacct:/docker/c9",
            {
                "cpu,cpuacct/docker/c9/cpu.cfs_quota_us": "30000",
                "cpu,cpuacct/docker/c9/cpu.cfs_period_us": "100000",
            },
            0.3,
        ),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
        ("5:memory:/", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, ALL),
    ],
)
def test_a_control_groups_quota_counts_whichever_version(
    tmp_path: Path, group: str, files: dict[str, str], cores: float
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")

    assert cpu_cores(tmp_path) == min(ALL, cores)


@pytest.mark.parametrize(("cores", "workers"), [(0.25, 1), (0.5, 1), (1.0, 2), (1.5, 3), (64.0, 128)])
def test_there_are_two_workers_a_core_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, cores: float, workers: int
) -> None:
    monkeypatch.setattr("recommendation_service.core.machine.cpu_cores", lambda: cores)

    assert default_workers() == workers
