"""The first start on a machine: alive at once, and saying what it is at; and how one that a person began ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from recommendation_service.feed.compilation import compile_kernels
from recommendation_service.ranking.compiled import kernel_folder
from tests.end_to_end.service import PATIENCE_SECONDS, REPOSITORY, Service, load_demo, pids_with_variable
from tests.servers import LOOPBACK, free_port, wait_until

RECS = str(Path(sys.executable).with_name("recs"))
# As the script that is installed does it.
START = "import sys; from recommendation_service.entry import main; sys.exit(main())"


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """NUMBA_CACHE_DIR of a machine that lacks one small kernel: all of them would take a minute to compile."""
    compile_kernels()
    folder = tmp_path / "kernels"
    shutil.copytree(kernel_folder(), folder / kernel_folder().name)
    for code in folder.rglob("places.find-*.nbc"):
        code.unlink()
    return folder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def with_recs(folder: Path, settings: dict[str, str], *more: str) -> Service:
    port = free_port()
    return Service(folder, [RECS, "serve", "--host", LOOPBACK, "--port", str(port), *more], settings, port)


@pytest.mark.parametrize("start", ["recs serve", "gunicorn", "gunicorn without preload"])
def test_while_the_ranking_is_compiled_the_service_is_alive_and_says_so(
    tmp_path: Path, kernels: Path, start: str
) -> None:
    load_demo(tmp_path)
    settings = {"NUMBA_CACHE_DIR": str(kernels), "GUNICORN_PRELOAD_APP": str(start == "gunicorn")}
    with held(kernels / kernel_folder().name / "compiling.lock"):
        service = with_recs(tmp_path, settings) if start == "recs serve" else Service.gunicorn(tmp_path, 2, settings)
        try:
            service.wait_until_alive()
            for answer in (service.get("/ready"), service.client.post("/api/search/total", json={})):
                assert answer.status_code == 503
                assert "is being compiled for this machine" in answer.json()["error"]["message"]
                assert int(answer.headers["Retry-After"]) >= 1
            assert "Serving on" not in service.log
        except BaseException:
            service.__exit__()
            raise
    with service:
        service.wait_until_ready()
        assert len(service.feed(N_VIDEOS=3)["items"]) == 3
        assert "Traceback" not in service.log
        if start == "recs serve":
            service.wait_until(lambda: "Serving on" in service.log)


def test_a_second_first_start_waits_for_the_demo_that_another_makes(tmp_path: Path) -> None:
    database = tmp_path / "data" / "interacpedia.sqlite"
    with held(database.with_name("interacpedia.sqlite.lock")):
        service = with_recs(tmp_path, {}, "--demo")
        try:
            service.wait_until_alive()
            service.wait_until(lambda: "Another process is making the demo's database" in service.log)
            assert "demo's database is being made" in service.get("/ready").json()["error"]["message"]
            load_demo(tmp_path)
        except BaseException:
            service.__exit__()
            raise
    with service:
        service.wait_until_ready()
        assert service.get("/ready").json()["counts"]["videos"] < 100  # the other's, which is small
        service.wait_until(lambda: "curl -s" in service.log)
        [user] = re.findall(r'"SELF_ID": (\d+)', service.log)
        assert int(user) > 0
        assert "Traceback" not in service.log
        assert "there is no database" not in service.log


class Terminal:
    """A program that a person started, and what it has shown."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        master, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            cwd=folder,
            env={**os.environ, "DATA_DIR": str(folder / "data"), "PYTHONPATH": str(REPOSITORY)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        os.set_blocking(master, False)
        self._master = master
        self._shown = b""

    @property
    def shown(self) -> str:
        with suppress(OSError):
            while part := os.read(self._master, 1 << 16):
                self._shown += part
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._shown.decode(errors="replace"))

    def interrupt(self) -> int:
        """Ctrl-C: to everything in the foreground. The exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("moment", ["loading", "serving"])
def test_ctrl_c_is_answered_with_one_line(tmp_path: Path, moment: str) -> None:
    load_demo(tmp_path)
    terminal = Terminal(tmp_path, "serve", "--host", LOOPBACK, "--port", str(free_port()))
    if moment == "loading":
        # It is at its imports when the handler is there, which can be seen from outside.
        assert wait_until(lambda: catches_interrupts(terminal.process.pid) and loads(terminal.process.pid), 60)
    else:
        assert wait_until(lambda: "Serving on" in terminal.shown, PATIENCE_SECONDS), terminal.shown
    before = terminal.shown

    assert terminal.interrupt() == 0

    said = terminal.shown.removeprefix(before).replace("^C", "").split()
    assert said == ["stopped"]
    assert wait_until(lambda: not pids_with_variable("DATA_DIR", str(tmp_path / "data")), 10)


def catches_interrupts(pid: int) -> bool:
    with suppress(OSError):
        [caught] = re.findall(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
        return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)
    return False


def loads(pid: int) -> bool:
    """NumPy, which is loaded after entry.py has set its handler."""
    with suppress(OSError):
        return "numpy" in Path(f"/proc/{pid}/maps").read_text()
    return False


def test_on_a_terminal_nothing_is_logged_but_what_a_person_must_know(tmp_path: Path) -> None:
    load_demo(tmp_path)
    terminal = Terminal(tmp_path, "serve", "--host", LOOPBACK, "--port", str(free_port()))
    assert wait_until(lambda: "curl -s" in terminal.shown, PATIENCE_SECONDS), terminal.shown
    terminal.interrupt()
    assert '"event"' not in terminal.shown
    assert "DataService" not in terminal.shown


def test_a_port_that_is_taken_is_said_with_its_holder_before_anything_else(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [RECS, "serve", "--host", LOOPBACK, "--port", str(port)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        [said] = [line for line in done.stderr.splitlines() if "DATA_DIR" not in line]
        assert f"port {port} is taken by" in said
        assert f"(process {os.getpid()})" in said
        assert "PORT=" in said

        environment = {**os.environ, "GUNICORN_BIND": f"{LOOPBACK}:{port}", "DATA_DIR": str(tmp_path / "data")}
        script = [str(REPOSITORY / "scripts" / "start_production.sh")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"port {port} is taken by" in done.stderr
        assert "GUNICORN_BIND" in done.stderr
        assert subprocess.run([*script, "--check"], env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machines_is_said_so(tmp_path: Path, host: str) -> None:
    command = [RECS, "serve", "--host", host, "--port", str(free_port())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{host} is no address of this machine" in done.stderr
    assert "Traceback" not in done.stderr
