"""What the doctor says of this machine, on both sides of each limit."""

from pathlib import Path

import pytest

from recommendation_service.core.machine import cpu_cores
from recommendation_service.doctor import machine
from recommendation_service.doctor.findings import Severity
from recommendation_service.doctor.machine import (
    check_cores,
    check_disk,
    check_machine,
    check_memory,
    check_python,
    usable_memory,
)


def write(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


@pytest.mark.parametrize(
    ("version", "severity"),
    [((3, 10, 14), Severity.ERROR), ((3, 11, 0), Severity.OK), ((3, 14, 1), Severity.OK)],
)
def test_python(version: tuple[int, ...], severity: Severity) -> None:
    assert check_python(version).severity is severity


@pytest.mark.parametrize(("cores", "severity"), [(3.5, Severity.WARNING), (4, Severity.OK), (1, Severity.WARNING)])
def test_cores(cores: float, severity: Severity) -> None:
    assert check_cores(cores).severity is severity


@pytest.mark.parametrize(
    ("total", "severity"),
    [(None, Severity.WARNING), (4e9, Severity.WARNING), (7.6e9, Severity.OK), (16e9, Severity.OK)],
)
def test_memory(total: float | None, severity: Severity) -> None:
    assert check_memory(total).severity is severity


def test_memory_and_cores_are_those_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n")
    assert usable_memory(tmp_path) == 8_000_000 * 1024
    assert cpu_cores(tmp_path) >= 1
    assert usable_memory(tmp_path / "elsewhere") is None


def test_a_control_group_allows_less(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        8000000 kB\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "1000000\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert usable_memory(tmp_path) == 1_000_000
    assert cpu_cores(tmp_path) == 0.5


def test_a_control_group_without_limits_allows_all(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        8000000 kB\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert usable_memory(tmp_path) == 8_000_000 * 1024
    assert cpu_cores(tmp_path) >= 1


def test_the_disk_is_that_of_a_folder_that_need_not_be_there_yet(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "var" / "recs").name == "disk"
    assert not (tmp_path / "var").exists()


def test_a_data_dir_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "var", "")
    assert check_disk(tmp_path / "var").severity is Severity.ERROR


def test_too_little_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FREE_BYTES", float("inf"))
    assert check_disk(tmp_path).severity is Severity.WARNING


def test_all_of_it_is_checked(tmp_path: Path) -> None:
    assert [each.name for each in check_machine(tmp_path)] == ["Python", "cores", "memory", "disk"]
