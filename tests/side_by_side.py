"""Which tests run beside each other where workers share a run (``-n``), and in which order.

A file is one worker's, so that what its fixtures start is started once; so is a folder whose files share a server.
What needs to have the machine to itself runs when everything else is done.

Files come in the order of their names: the long ones, with services of their own, are before the many short ones of
`tests/unit`, with which workers end at about the same time.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Files, or tests of a file (`file::test`), and why nothing may run beside them.
ALONE = {
    "tests/end_to_end/test_load_test_agreement.py": "compares rates that two programs measure one after the other",
    "tests/end_to_end/test_outsiders.py": "half of the feeds are to take less than some milliseconds more",
    "tests/integration/test_redis_faults.py": "a request is to wait five milliseconds for Redis and no more",
}
# Their conftest.py starts what all of their files use.
ONE_WORKERS_FOLDERS = {"tests/integration/flush", "tests/integration/http"}

_ALONE = "alone: "


class SideBySide(LoadScopeScheduling):
    """Hands out files, and at the end, to the one worker that is left, what has to run alone.

    A worker runs a test when it knows the next one, or that there is none. So the others are told that there is none;
    when the last of them has ended, the one that is kept is given what waits.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file in ALONE or f"{file}::{test.partition('[')[0]}" in ALONE:
            return _ALONE + file
        folder = str(PurePosixPath(file).parent)
        return folder if folder in ONE_WORKERS_FOLDERS else file

    def _reschedule(self, node: WorkerController) -> None:
        if not self._has_to_wait():
            super()._reschedule(node)
        elif any(not other.shutting_down for other in self.nodes if other is not node):
            node.shutdown()  # once it is told, it ends what it has

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._has_to_wait():  # at the beginning, where nothing else was asked for
            super()._assign_work_unit(node)

    def _has_to_wait(self) -> bool:
        for scope in [scope for scope in self.workqueue if scope.startswith(_ALONE)]:
            self.workqueue.move_to_end(scope)
        return len(self.nodes) > 1 and next(iter(self.workqueue), "").startswith(_ALONE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SideBySide:
    config.option.loadscopereorder = False
    return SideBySide(config, log)  # type: ignore[arg-type]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: who waits for a service leaves them to the others. Each takes half a gigabyte, the
    servers of its tests as much, and beyond eight the longest file is what is waited for."""
    return min(len(os.sched_getaffinity(0)) + 1, 8)
