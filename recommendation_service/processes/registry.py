"""Processes of which one runs for each folder, whichever worker keeps it alive: what there is to know of each, once.

Supervision, locks, requests, metrics and the budget of connections go by this list. The names of files are in runbooks,
and on the disks of those who upgrade.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recommendation_service.core.config import Settings
from recommendation_service.core.database import PoolShare
from recommendation_service.core.machine import default_workers

WORKER = "worker"


@dataclass(frozen=True)
class LeasedProcess:
    """One kind of them. Whoever holds the lock of its folder may run it, or keep it alive."""

    name: str  # in logs, metrics, and the names of its files
    module: str  # run with ``python -m``; it has to call ``end_with_parent``
    folder: Callable[[Settings], Path]  # what it works on: one runs for each
    is_wanted: Callable[[Settings], bool]  # of this service's workers
    request_file: str  # a token, written by who asks it for something
    answer: str  # in its status, the token of the last request that it carried out
    most_connections: int = 0  # to one database server, that it has use for

    @property
    def lock_file(self) -> str:
        return f"{self.name}.lock"

    @property
    def status_file(self) -> str:
        """JSON: what it last said of itself."""
        return f"{self.name}.json"


REFRESHER = LeasedProcess(
    name="refresher",
    module="recommendation_service.catalog.refresher",
    folder=lambda settings: settings.catalog_dir,
    is_wanted=lambda settings: settings.catalog_refresher,
    request_file="reload.request",
    answer="reload_token",
    most_connections=2,  # its build, and its look at the server's figures
)
FLUSHER = LeasedProcess(
    name="flusher",
    module="recommendation_service.flush.process",
    folder=lambda settings: settings.events_dir,
    is_wanted=lambda settings: settings.event_flusher,
    request_file="flush.request",
    answer="flush_token",
    most_connections=4,  # its batches
)

LEARNER = LeasedProcess(
    name="learner",
    module="recommendation_service.learning.process",
    folder=lambda settings: settings.learning_dir,
    is_wanted=lambda settings: settings.learner != "off" and settings.record_events,
    request_file="learn.request",
    answer="learn_token",
    most_connections=1,  # its looks at what people did by the operator's tables
)

LEASED = (REFRESHER, FLUSHER, LEARNER)


def pool_share(settings: Settings, name: str) -> PoolShare:
    """Of MYSQL_POOL_SIZE, the part of one process to one server: WORKER's, or a leased process's by its name.

    One each; of what is left the leased processes get what they have use for, in their order, and the workers divide
    the rest. So all of them together stay within MYSQL_POOL_SIZE, unless that is less than there are processes.
    """
    workers = settings.gunicorn_workers or default_workers()
    connecting = [process for process in LEASED if process.most_connections]
    if not LEARNER.is_wanted(settings):  # as by default; the others may be started by a command, beside workers
        connecting = [process for process in connecting if process is not LEARNER]
    left = max(0, settings.mysql_pool_size - workers - len(connecting))
    shares = {}
    for process in connecting:
        more = min(left, process.most_connections - 1)
        shares[process.name] = 1 + more
        left -= more
    shares[WORKER] = 1 + left // workers
    return PoolShare(name, shares[name])
