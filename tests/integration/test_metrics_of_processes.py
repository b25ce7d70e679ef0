"""What processes count and use, read by another: folders of masters, processor time, memory, connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from recommendation_service.telemetry import metrics_files
from recommendation_service.telemetry.metrics_files import (
    claim,
    read_families,
)
from recommendation_service.telemetry.processes import Listeners, cpu_seconds, memory_bytes, service_processes
from tests.servers import LOOPBACK, wait_until
from tests.unit.telemetry.test_metrics import SOON_SECONDS, account, write


@contextmanager
def another_master(parent: Path) -> Iterator[Path]:
    """The folder that another process claimed, which lives until the block ends."""
    code = (
        "import sys; from pathlib import Path; from recommendation_service.telemetry.metrics_files import claim; "
        "print(claim(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdin
        yield Path(process.stdout.readline().strip())
        process.stdin.close()


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `claim` sets is undone."""
    for name in (metrics_files.READ_FOLDER, metrics_files.WRITE_FOLDER):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("no_folder")
def test_folders_of_ended_masters_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    with another_master(tmp_path) as ended:
        assert ended.is_dir()
    with another_master(tmp_path) as running:
        assert not ended.exists()
        mine = claim(tmp_path)
        assert running.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, running.name}
        assert metrics_files.master_of(mine) == os.getpid()


@pytest.mark.usefixtures("no_folder")
def test_a_container_that_starts_again_with_the_same_process_number_begins_at_nothing(tmp_path: Path) -> None:
    for name in (str(os.getpid()), f"{os.getpid()}-earlier"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, 7, "counter", "requests_total", 5.0)
    assert read_families(claim(tmp_path)) == []
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("no_folder")
def test_a_master_that_reads_its_settings_again_keeps_its_folder(tmp_path: Path) -> None:
    first = claim(tmp_path)
    assert claim(tmp_path) == first
    assert os.environ[metrics_files.READ_FOLDER] == os.environ[metrics_files.WRITE_FOLDER] == str(first)


def test_all_metrics_of_a_process_stay_within_the_room_reserved(tmp_path: Path) -> None:
    code = (
        "from prometheus_client.metrics import MetricWrapperBase\n"
        "from recommendation_service.telemetry.metrics import *\n"
        "metrics = Metrics()\n"
        "for endpoint in (*ENDPOINTS, 'feedback', 'explain', 'users'):\n"
        "    metrics.request_seconds.labels(endpoint).observe(1)\n"
        "    for status in (0, *range(200, 205), *range(400, 430), *range(500, 505)):\n"
        "        metrics.requests.labels(endpoint, str(status)).inc()\n"
        "    for code in range(20):\n"
        "        metrics.errors.labels(endpoint, f'some_kind_of_error_{code}').inc()\n"
        # Of all others more series than any has.
        "for metric in {*metrics.registry._names_to_collectors.values()} - {\n"
        "    metrics.requests, metrics.errors, metrics.request_seconds\n"
        "}:\n"
        "    if isinstance(metric, MetricWrapperBase):\n"
        "        for series in range(50 if metric._type == 'counter' else 10):\n"
        "            if metric._labelnames: metric.labels(*(f'a_value_{series}' for _ in metric._labelnames))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}, check=True
    )
    # A file begins with the number of bytes that are in use.
    used = {path.name.split("_")[0]: int.from_bytes(path.read_bytes()[:4], "little") for path in tmp_path.glob("*.db")}
    assert set(used) == set(metrics_files.KINDS)
    assert max(used.values()) < metrics_files.RESERVED_BYTES, used


@contextmanager
def child(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that says a line when it is ready, and ends when the block does."""
    command = [sys.executable, "-c", f"import os, sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"]
    command += arguments
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def test_the_refreshers_processor_time_goes_on_from_process_to_process() -> None:
    cpu, value = account()
    used = 0.0
    for _ in range(2):
        code = "while os.times().user < 0.1: sum(range(1000))"
        with child(code, "-m", "recommendation_service.catalog.refresher") as refresher:
            cpu.add()
            cpu.add()
            used += cpu_seconds(refresher.pid) or 0.0
            assert value("refresher") == pytest.approx(used, abs=0.02)
    cpu.add()  # ended
    assert value("refresher") == pytest.approx(used, abs=0.02)
    assert used >= 0.2


def test_processes_of_one_that_serves_alone_are_itself_and_its_children() -> None:
    with child("", "-m", "recommendation_service.catalog.refresher") as refresher, child("") as another:
        found = service_processes(None)
        assert (os.getpid(), "worker") in found
        assert (refresher.pid, "refresher") in found
        assert (another.pid, "other") in found
    assert not {refresher.pid, another.pid} & {process.pid for process in service_processes(None)}


def test_memory_that_processes_share_counts_once() -> None:
    """Three processes fork with 200 MB that none of them writes to."""
    code = (
        "ballast = bytearray(os.urandom(1 << 20) * 200)\n"
        "children = [os.fork()]\n"
        "children += [os.fork()] if children[-1] else []\n"
        "if 0 in children:\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "print(*children)"
    )
    command = [sys.executable, "-c", f"import os, sys\n{code}\nsys.stdout.flush()\nsys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        assert len(pids) == 3
        assert 200 << 20 < sum(memory_bytes(pid) for pid in pids) < 300 << 20
        process.stdin.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=["IPv4", "IPv6", "unix"])
def test_open_connections_are_those_to_our_listening_socket(tmp_path: Path, family: socket.AddressFamily) -> None:
    # In a process of its own: this one may listen elsewhere.
    address = (
        str(tmp_path / "socket") if family is socket.AF_UNIX else ("::" if family is socket.AF_INET6 else LOOPBACK, 0)
    )
    count = (
        "import socket, sys\n"
        "from recommendation_service.telemetry.processes import Listeners\n"
        f"listener = socket.socket({int(family)})\n"
        f"listener.bind({address!r})\n"
        "listener.listen()\n"
        f"print(listener.getsockname()[1] if {family is not socket.AF_UNIX} else 0, flush=True)\n"
        "listeners = Listeners()\n"
        "for line in sys.stdin: print(listeners.connections(), flush=True)\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", count], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        ExitStack() as clients,
    ):
        assert process.stdout
        assert process.stdin
        port = int(process.stdout.readline())

        def connections() -> int:
            assert process.stdin
            assert process.stdout
            process.stdin.write("count\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        assert connections() == 0
        for number in range(1, 4):
            client = clients.enter_context(
                socket.socket(socket.AF_UNIX if family is socket.AF_UNIX else socket.AF_INET)
            )
            # Where a machine has IPv6 switched off, its sockets take IPv4 all the same.
            client.connect(str(address) if family is socket.AF_UNIX else (LOOPBACK, port))
            last = number
            assert wait_until(lambda: connections() == last, SOON_SECONDS)  # noqa: B023 - it is called at once
        process.stdin.close()


def test_a_process_that_listens_nowhere_has_no_connections() -> None:
    with child(
        "from recommendation_service.telemetry.processes import Listeners\nassert Listeners().connections() == 0"
    ):
        pass
    assert isinstance(Listeners().connections(), int)
