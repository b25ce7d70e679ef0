"""The service as an operator runs it: its own processes, folder and port.

    with Service.uvicorn(folder, {"DATABASE_URL": url}) as service:
        service.wait_until_ready()
        service.feed("total", N_VIDEOS=3)

Whatever a service started is found by its DATA_DIR, which no other process has, so that a test can say that
nothing is left, and nothing is left where a test fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx
import sqlalchemy

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.demo import load_invented
from tests.servers import LOOPBACK, NO_AUTHORITIES, free_port, wait_until
from tests.support.made_once import copy_of_made_once

REPOSITORY = Path(__file__).parents[2]
# A first start after an edit compiles the kernels: half a minute, and twice that beside other tests.
PATIENCE_SECONDS = 240.0
LEFT_SECONDS = 10.0
REFRESHER = "recommendation_service.catalog.refresher"
ADMIN_TOKEN = "an-administrators-token"

_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


class Service:
    """A running service. Standard output and error go to ``log_path``."""

    def __init__(self, folder: Path, command: Sequence[str], settings: Mapping[str, str], port: int) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "service.log"
        self.address = f"http://{LOOPBACK}:{port}"
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES)
        environment = {
            **os.environ,
            "DATA_DIR": str(self.data_dir),
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "SHED_LOAD_AFTER_SECONDS": "60",  # tests run beside it: a busy machine is no fault of the service
            **settings,
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=checkout(folder),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it
            )

    @classmethod
    def uvicorn(cls, folder: Path, settings: Mapping[str, str]) -> Self:
        port = free_port()
        arguments = ["api.server:app", "--host", LOOPBACK, "--port", str(port)]
        return cls(folder, [sys.executable, "-m", "uvicorn", *arguments], settings, port)

    @classmethod
    def gunicorn(
        cls, folder: Path, workers: int, settings: Mapping[str, str], configuration: str = "gunicorn.conf.py"
    ) -> Self:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-c", configuration, "api.server:app"]
        bound = {"GUNICORN_BIND": f"{LOOPBACK}:{port}", "GUNICORN_WORKERS": str(workers)}
        return cls(folder, command, {**bound, **settings}, port)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def pids(self) -> set[int]:
        """Of every process that runs with this service's DATA_DIR."""
        return pids_with_variable("DATA_DIR", str(self.data_dir))

    @property
    def refreshers(self) -> set[int]:
        return {pid for pid in self.pids if REFRESHER in command_of(pid)}

    @property
    def workers(self) -> set[int]:
        """Gunicorn's: what the master started."""
        return {pid for pid in self.pids - self.refreshers if parent_of(pid) == self.process.pid}

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def feed(self, endpoint: str = "total", **fields: Any) -> dict[str, Any]:
        """The body of a feed. Fails where the answer is not 200."""
        answer = self.client.post(f"/api/search/{endpoint}", json=fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()["body"]
        return body

    def reload(self) -> httpx.Response:
        return self.client.post("/api/search/reload", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})

    def catalog(self) -> str:
        """The version that is served from."""
        return str(self.get("/ready").json()["catalog"])

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name and those labels; 0 where there is none."""
        return sum_of_samples(self.get("/metrics").text, name, **labels)

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Fails with the service's log where the condition does not come true."""

        def tried() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return condition()
            return False

        if not wait_until(tried, timeout_seconds):
            raise AssertionError(f"waited in vain; the service says:\n{self.log[-8000:]}")

    def wait_until_alive(self) -> None:
        self.wait_until(lambda: self._must_run() and self.get("/health").status_code == 200)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self._must_run() and self.get("/ready").status_code == 200)

    def stop(self) -> int:
        """Ask it to stop, as systemd does, and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def leaves_nothing(self) -> bool:
        """Whether every process of it has ended: those that end with their parent do so a moment later."""
        return wait_until(lambda: not self.pids, LEFT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(10)
        for pid in self.pids:  # nothing, unless a test failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def _must_run(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log[-8000:]}"
        return True


def checkout(folder: Path) -> Path:
    """A folder with what is started from the repository's root, but without the `.env` of whoever works there."""
    root = folder / "checkout"
    root.mkdir(parents=True, exist_ok=True)
    for name in ("api", "gunicorn.conf.py"):
        link = root / name
        if not link.is_symlink():
            link.symlink_to(REPOSITORY / name)
    return root


def run(
    arguments: Sequence[str],
    folder: Path,
    settings: Mapping[str, str] | None = None,
    stdout: IO[str] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a checkout, with DATA_DIR in ``folder``."""
    environment = {**os.environ, "DATA_DIR": str(folder / "data"), **(settings or {})}
    return subprocess.run(
        arguments,
        cwd=checkout(folder),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def recs(
    *arguments: str,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
    stdout: IO[str] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """`recs` as a user runs it. ``through``: a command that runs it, as somebody else or with less."""
    command = [*through, str(Path(sys.executable).with_name("recs")), *arguments]
    return run(command, folder, settings or {}, stdout)


def load_demo(folder: Path, scale: float = 0.02) -> Path:
    """The embedded database where a service with this folder looks for it."""
    path = folder / "data" / "interacpedia.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)

    def make(path: Path) -> None:
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        try:
            load_invented(engine, scale=scale)
        finally:
            engine.dispose()

    copy_of_made_once(f"demo-{scale}.sqlite", make, path)
    return path


def damaged_copy(store: CatalogStore, version: str) -> str:
    """A later version whose columns have one wrong bit."""
    damaged = re.sub(r"\.\d{6}Z", ".999999Z", version)
    shutil.copytree(store.folder / version, store.folder / damaged)
    column = store.folder / damaged / "features.npy"
    content = bytearray(column.read_bytes())
    content[len(content) // 2] ^= 1
    column.write_bytes(content)
    return damaged


def sum_of_samples(text: str, name: str, **labels: str) -> float:
    """Of Prometheus text: the sum of the samples of that name that bear these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(value)
        for sample, given, value in _SAMPLE.findall(text)
        if sample == name and all(label in given.split(",") for label in wanted)
    )


def pids_with_variable(name: str, value: str) -> set[int]:
    wanted, found = f"{name}={value}".encode(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def command_of(pid: int) -> str:
    """With spaces between its words; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def parent_of(pid: int) -> int:
    """0 where it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
