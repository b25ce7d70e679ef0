"""Memory of the service: 8 workers with preload, and what many requests add to it."""

import json
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict
from sqlalchemy.engine import URL

from benchmarks.server import FEED_PATH, Service, drive, running_service, write_script

WORKERS = 8
ROUND_SECONDS = 5
WARM_UP_ROUND_SECONDS = 1  # short: wrk's connections, made anew each round, fall on workers as it happens
WINDOWS = 4
# Of each worker: until then caches fill, buffers grow to their size, the allocator finds what it needs, and pages that
# the master and its workers shared are written to for the first time. That is no leak, and it ends. Of each, since of
# all requests together some worker may have had hardly any.
WARM_UP_REQUESTS = 10_000
MOST_ROUNDS = 600


@dataclass
class MemoryFigures:
    """In MB, proportional: a page that n processes share counts 1/n in each."""

    all_mb: float  # master, workers, refresher and flusher, at the end
    by_role: dict[str, float]  # the same, by what they are
    warm_up_requests: int  # of all workers together
    own_mb: list[float]  # anonymous memory of master and workers after the warm-up, and after each window
    requests: int  # in all windows
    errors: int

    @property
    def growth(self) -> float:
        """Of the own memory over all windows, as a share."""
        return self.own_mb[-1] / self.own_mb[0] - 1

    @property
    def late_growth(self) -> float:
        """The same over the second half of them, which a leak would make as large as the first."""
        return self.own_mb[-1] / self.own_mb[WINDOWS // 2] - 1


def measure_memory(database: URL, folder: Path, requests: int, warm_up: int = WARM_UP_REQUESTS) -> MemoryFigures:
    """What so many requests of rotating users add, once each worker has answered ``warm_up``.

    A leak would be in the anonymous memory of master and workers, and add as much in the last window as in the first.
    Not counted as one: what is mapped of files (the catalog, the memory of what users have seen) and the flusher's
    store of events that wait for the database; all of them have bounds of their own, and grow up to these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(database, folder, WORKERS) as service:
        script = write_script(folder, folder)
        warmed, errors = _warm_up(service, script, folder, warm_up)
        own, count = [_own_mb(service)], 0
        for window in range(WINDOWS):
            while count < requests * (window + 1) / WINDOWS:
                load = drive(service, FEED_PATH, script, ROUND_SECONDS)
                count += round(load.requests_per_second * ROUND_SECONDS)
                errors += load.errors
            own.append(_own_mb(service))
        by_role = _by_role(service)
        return MemoryFigures(sum(by_role.values()), by_role, warmed, own, count, errors)


def _warm_up(service: Service, script: Path, folder: Path, requests: int) -> tuple[int, int]:
    """Until each worker has answered so many: how many all have, and how many failed."""
    errors = 0
    for _ in range(MOST_ROUNDS):
        errors += drive(service, FEED_PATH, script, WARM_UP_ROUND_SECONDS).errors
        answered = [_answered(folder, pid) for pid in service.workers()]
        if min(answered) >= requests:
            return sum(answered), errors
    raise RuntimeError(f"of {WORKERS} workers, one answered {min(answered)} of {sum(answered)} requests")


def _answered(folder: Path, pid: int) -> int:
    """Requests that a worker has answered, as it counts them itself."""
    [file] = (folder / "metrics").glob(f"*/counter_{pid}.db")
    values = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
    return int(sum(value for key, value, *_ in values if json.loads(key)[1] == "recs_requests_total"))


def _own_mb(service: Service) -> float:
    return sum(_megabytes(pid, "Pss_Anon") for pid in (service.process.pid, *service.workers()))


def _by_role(service: Service) -> dict[str, float]:
    master, workers = service.process.pid, service.workers()
    found = {
        "master": _megabytes(master, "Pss"),
        f"{len(workers)} workers": sum(_megabytes(pid, "Pss") for pid in workers),
    }
    for worker in workers:
        for pid in _children(worker):
            [module] = [word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if "." in word][-1:]
            found[module.rpartition(".")[2]] = _megabytes(pid, "Pss")
    return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _megabytes(pid: int, kind: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{kind}:")]
    return int(kilobytes) / 1024
