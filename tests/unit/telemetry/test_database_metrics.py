"""Numbers of connections: of a worker, and of the processes that leave theirs in a file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from recommendation_service.core.database_numbers import POOL_IN_USE, POOL_WAITS, READS, REPLICA_LAG_SECONDS
from recommendation_service.telemetry.database_metrics import Completed, ProcessNumbers, WorkerNumbers


class Registered(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        return iter(self._registry.collect())


def text_of(folder: Path | None, worker: WorkerNumbers | None = None, registry: CollectorRegistry | None = None) -> str:
    """What /metrics says, without the comments."""
    registry = registry or CollectorRegistry()
    worker = worker or WorkerNumbers(registry, folder)
    shown = CollectorRegistry()
    shown.register(Completed(Registered(registry), worker))
    return generate_latest(shown).decode()


def test_a_workers_counts_and_those_of_a_process_stand_in_one_family(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    worker = WorkerNumbers(registry, tmp_path)
    worker.add(POOL_WAITS, 2)
    worker.add(POOL_IN_USE, 1)
    refresher = ProcessNumbers(tmp_path, "refresher")
    refresher.add(POOL_WAITS, 3)
    refresher.add(READS, 1, "replica:3306")
    refresher.set(REPLICA_LAG_SECONDS, 1.5, "replica:3306")

    text = text_of(tmp_path, worker, registry)

    assert 'recs_database_pool_waits_total{process="worker"} 2.0\n' in text
    assert 'recs_database_pool_waits_total{process="refresher"} 3.0\n' in text
    assert 'recs_database_reads_total{process="refresher",server="replica:3306"} 1.0\n' in text
    assert 'recs_database_pool_in_use{process="worker"} 1.0\n' in text
    assert 'recs_replica_lag_seconds{process="refresher",replica="replica:3306"} 1.5\n' in text
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


def test_counts_of_a_process_go_on_after_its_restart_and_its_gauges_do_not(tmp_path: Path) -> None:
    ended = ProcessNumbers(tmp_path, "flusher")
    ended.add(POOL_WAITS, 5)
    ended.add(POOL_IN_USE, 1)  # killed while it had a connection

    ProcessNumbers(tmp_path, "flusher").add(POOL_WAITS, 1)

    text = text_of(tmp_path)
    assert 'recs_database_pool_waits_total{process="flusher"} 6.0\n' in text
    assert 'recs_database_pool_in_use{process="flusher"}' not in text


def test_gauges_of_a_process_that_is_gone_are_not_told(tmp_path: Path) -> None:
    ProcessNumbers(tmp_path, "refresher").add(POOL_IN_USE, 1)
    path = tmp_path / "refresher.json"
    assert 'recs_database_pool_in_use{process="refresher"} 1.0\n' in text_of(tmp_path)

    path.write_text(path.read_text().replace(str(os.getpid()), str(2**22 + 1)))  # beyond the largest number there is

    assert 'recs_database_pool_in_use{process="refresher"}' not in text_of(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "values": [["a"]]}', '{"pid": 1, "values": 3}']
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "refresher.json").write_text(content)

    assert 'process="refresher"' not in text_of(tmp_path)
    ProcessNumbers(tmp_path, "refresher").add(POOL_WAITS, 1)
    assert 'recs_database_pool_waits_total{process="refresher"} 1.0\n' in text_of(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "database").write_text("a file stands in the folder's place")

    ProcessNumbers(tmp_path / "database", "refresher").add(POOL_WAITS, 1)

    assert 'process="refresher"' not in text_of(tmp_path / "database")
