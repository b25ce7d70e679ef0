"""Keeping one process of a kind alive on a machine, whichever worker does it."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from recommendation_service.processes.leases import Lease, open_lease
from recommendation_service.processes.registry import LeasedProcess

log = structlog.get_logger(__name__)

SUPERVISE_SECONDS = 1.0
STOP_SECONDS = 5.0


class ProcessSupervisor:
    """Runs in every worker: whichever holds the lock keeps the process alive.

    ``environment``: of the process, which is none of Gunicorn's and must not count in files that are kept for those.
    """

    def __init__(self, process: LeasedProcess, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = process
        self.folder = folder
        self._environment = environment
        self.problem = ""  # why no such process can run, for /ready

    @property
    def name(self) -> str:
        return self._process.name

    async def run(self) -> None:
        """Until cancelled; the process ends with the worker that started it, and another worker starts one."""
        while True:
            try:
                with open_lease(self._process, self.folder) as lease:
                    await self._wait_for(lease)
                    await self._keep_alive(lease)
            except OSError as error:
                reason = f"the folder {self.folder} of the {self.name} cannot be used: {error.strerror}"
                if reason != self.problem:
                    log.error(f"no {self.name}", reason=reason)
                self.problem = reason
            await asyncio.sleep(SUPERVISE_SECONDS)

    async def _wait_for(self, lease: Lease) -> None:
        """Wait for the lock, which whoever keeps the process alive holds; it is asked for again and again,
        since to wait for it would take a thread."""
        self.problem = ""
        while not lease.take():
            await asyncio.sleep(SUPERVISE_SECONDS)

    async def _keep_alive(self, lease: Lease) -> None:
        while True:
            # The child inherits the lock: should this worker be killed, no second process starts before
            # the first has seen its pipe close.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._process.module,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(lease.descriptor,),
                # A terminal's Ctrl-C is for this process, which then stops the child in order. (uvloop knows no
                # process_group.)
                start_new_session=True,
                env=self._environment,
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                with contextlib.suppress(asyncio.TimeoutError, ProcessLookupError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
                raise
            log.error(f"{self.name} ended, starting another", exit_code=code)
            await asyncio.sleep(SUPERVISE_SECONDS)
