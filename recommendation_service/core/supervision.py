"""Keeping one process of a kind alive on a machine, whichever worker does it: the refresher, the flusher."""

import asyncio
import contextlib
import fcntl
import os
import sys
import threading
from pathlib import Path
from typing import IO

import structlog

from recommendation_service.core.files import open_lock
from recommendation_service.core.metrics_files import WRITE_FOLDER

log = structlog.get_logger(__name__)

SUPERVISE_SECONDS = 1.0
STOP_SECONDS = 5.0


class ProcessSupervisor:
    """Runs in every worker: whichever holds the lock keeps the process alive.

    ``folder`` is what the process works on: one runs for each. ``module`` is run with ``python -m`` and has to call
    ``end_with_parent``; ``name`` stands in logs and in the lock's file.
    """

    def __init__(self, name: str, module: str, folder: Path) -> None:
        self._name = name
        self._module = module
        self._folder = folder
        self.problem = ""  # why no such process can run, for /ready
        self.pid: int | None = None  # the process that this one keeps alive, for /metrics

    async def run(self) -> None:
        """Until cancelled; the process ends with the worker that started it, and another worker starts one."""
        while True:
            try:
                with open(open_lock(lock_path(self._folder, self._name)), "rb") as lock:
                    await self._wait_for(lock)
                    await self._keep_alive(lock)
            except OSError as error:
                reason = f"the folder {self._folder} of the {self._name} cannot be used: {error.strerror}"
                if reason != self.problem:
                    log.error(f"no {self._name}", reason=reason)
                self.problem = reason
            await asyncio.sleep(SUPERVISE_SECONDS)

    async def _wait_for(self, lock: IO[bytes]) -> None:
        """Wait for the lock, which whoever keeps the process alive holds; it is asked for again and again,
        since to wait for it would take a thread."""
        while True:
            self.problem = ""
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(SUPERVISE_SECONDS)
            else:
                return

    async def _keep_alive(self, lock: IO[bytes]) -> None:
        while True:
            # The child inherits the lock: should this worker be killed, no second process starts before
            # the first has seen its pipe close.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(lock.fileno(),),
                # A terminal's Ctrl-C is for this process, which then stops the child in order. (uvloop knows no
                # process_group.)
                start_new_session=True,
                # It is no worker of Gunicorn's, and must not count in files that are kept for those.
                env={name: value for name, value in os.environ.items() if name != WRITE_FOLDER},
            )
            self.pid = process.pid
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                with contextlib.suppress(asyncio.TimeoutError, ProcessLookupError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
                raise
            log.error(f"{self._name} ended, starting another", exit_code=code)
            await asyncio.sleep(SUPERVISE_SECONDS)


def lock_path(folder: Path, name: str) -> Path:
    """The file whose lock says that such a process runs, or is about to."""
    return folder / f"{name}.lock"


def end_with_parent() -> None:
    """End this process, whatever it is doing, when the worker that started it is gone: its pipe then closes."""

    def wait() -> None:
        # Not through sys.stdin, whose lock this thread would hold when the process ends by itself: Python aborts then.
        while os.read(0, 1 << 10):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
