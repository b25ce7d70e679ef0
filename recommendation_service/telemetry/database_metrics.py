"""What the service's processes count of their database connections, for /metrics: docs/metrics.md has all of them.

Pools count as they work, into ``Numbers``. A worker counts in Prometheus's counters, which are summed over workers.
Leased processes have no /metrics: each writes its numbers to a file of DATA_DIR/database, and whichever worker is asked
adds them, with the process's name as a label. Their counts begin where the last such process left off, since a counter
that goes back is a restart to Prometheus.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recommendation_service.core.config import Settings
from recommendation_service.core.database_numbers import (
    POOL_IN_USE,
    POOL_SIZE,
    POOL_TIMEOUTS,
    POOL_WAIT_SECONDS,
    POOL_WAITS,
    READS,
    REPLICA_FALLBACKS,
    REPLICA_LAG_SECONDS,
    REPLICA_USABLE,
)
from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.processes.registry import WORKER, LeasedProcess

log = structlog.get_logger(__name__)

FOLDER = "database"  # of DATA_DIR

# name: help, labels beside `process`
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    POOL_WAITS: ("Times that a connection was waited for, as all of the pool were in use", ()),
    POOL_WAIT_SECONDS: ("Time of these waits", ()),
    POOL_TIMEOUTS: ("Waits that ended without a connection", ()),
    READS: ("Connections given out for reading", ("server",)),
    REPLICA_FALLBACKS: ("Reads that went to the primary, as no replica could be used", ()),
}
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    POOL_SIZE: ("Connections that a process's pools may have", ()),
    POOL_IN_USE: ("Of these, those in use", ()),
    REPLICA_USABLE: ("1 where the process reads from the replica", ("replica",)),
    REPLICA_LAG_SECONDS: ("How far the replica is behind; NaN while unknown", ("replica",)),
}


class _Table:
    """(name, label): value."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[tuple[str, str], float] = {}

    def change(self, name: str, label: str, amount: float = 0.0, value: float | None = None) -> None:
        key = (name, label)
        self.values[key] = (self.values.get(key, 0.0) if value is None else value) + amount


class ProcessNumbers:
    """Of a process that has no /metrics: kept in ``folder``/NAME.json, written at every change."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self._table = _Table()
        for counted, label, value in _read(self._path)[1]:
            if counted in COUNTERS:
                self._table.values[counted, label] = value

    def add(self, name: str, amount: float, label: str = "") -> None:
        with self._table.lock:
            self._table.change(name, label, amount=amount)
            self._write()

    def set(self, name: str, value: float, label: str = "") -> None:
        with self._table.lock:
            self._table.change(name, label, value=value)
            self._write()

    def _write(self) -> None:
        content = {"pid": os.getpid(), "values": [[*key, value] for key, value in self._table.values.items()]}
        try:
            make_folder(self._path.parent)
            write_whole(self._path, json.dumps(content))
        except OSError as error:  # a full disk, for one: the next change makes good
            log.debug("numbers of the database's connections cannot be written", reason=str(error))


def process_numbers(settings: Settings, process: LeasedProcess) -> ProcessNumbers:
    return ProcessNumbers(settings.data_dir / FOLDER, process.name)


class WorkerNumbers(Collector):
    """Of a worker, and with them those of the processes that have no /metrics.

    ``folder``: DATA_DIR/database. Gauges are of the worker that answers: those in prometheus-client's files have
    no place on the disk that is reserved, so that a full one would end the worker.
    """

    def __init__(self, registry: CollectorRegistry, folder: Path | None) -> None:
        self.folder = folder
        self._gauges = _Table()
        self._counters = {
            name: Counter(name, help_text, ["process", *labels], registry=registry)
            for name, (help_text, labels) in COUNTERS.items()
        }
        for name, (_, labels) in COUNTERS.items():
            if not labels:
                self._counters[name].labels(WORKER)  # a series that begins at 1 shows no increase
        self._counters[READS].labels(WORKER, "primary")
        registry.register(self)

    def add(self, name: str, amount: float, label: str = "") -> None:
        if name in COUNTERS:
            self._counters[name].labels(WORKER, *_labels(name, label)).inc(amount)
            return
        with self._gauges.lock:
            self._gauges.change(name, label, amount=amount)

    def set(self, name: str, value: float, label: str = "") -> None:
        with self._gauges.lock:
            self._gauges.change(name, label, value=value)

    def collect(self) -> Iterator[Metric]:
        """The gauges; the counters are in the registry, or in files, and are completed by ``with_processes``."""
        with self._gauges.lock:
            found = [(WORKER, *key, value) for key, value in self._gauges.values.items()]
        found += [number for number in self._of_processes() if number[1] in GAUGES]
        for name, (help_text, labels) in GAUGES.items():
            family = GaugeMetricFamily(name, help_text, labels=["process", *labels])
            for process, counted, label, value in found:
                if counted == name:
                    family.add_metric([process, *_labels(name, label)], value)
            yield family

    def with_processes(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """The same families, the counters with those of the processes that have no /metrics."""
        numbers = list(self._of_processes())
        for family in families:
            for process, name, label, value in numbers:
                if family.name == name and name in COUNTERS:
                    more = dict(zip(COUNTERS[name][1], _labels(name, label), strict=True))
                    family.add_sample(f"{name}_total", {"process": process, **more}, value)
            yield family

    def _of_processes(self) -> Iterator[tuple[str, str, str, float]]:
        """(process, name, label, value); the gauges only of processes that are there."""
        for path in sorted(self.folder.glob("*.json")) if self.folder else []:
            pid, numbers = _read(path)
            alive = os.path.exists(f"/proc/{pid}")
            yield from ((path.stem, *number) for number in numbers if alive or number[0] in COUNTERS)


class Completed(Collector):
    """``counters`` with the numbers of the processes that have no /metrics."""

    def __init__(self, counters: Collector, numbers: WorkerNumbers) -> None:
        self._counters = counters
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        return self._numbers.with_processes(self._counters.collect())


def _labels(name: str, label: str) -> list[str]:
    return [label] if (COUNTERS.get(name) or GAUGES[name])[1] else []


def _read(path: Path) -> tuple[int, list[tuple[str, str, float]]]:
    """The process's number, and (name, label, value)s; nothing where there is no such file, or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        numbers = [(str(name), str(label), float(value)) for name, label, value in content["values"]]
        return int(content["pid"]), [number for number in numbers if number[0] in COUNTERS or number[0] in GAUGES]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, []
