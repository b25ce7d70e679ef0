"""Metrics of the service, in Prometheus's terms: docs/metrics.md has all of them.

Under Gunicorn each process counts in files of its own, and /metrics sums over all of them, dead ones included
(metrics_files.py); gunicorn.conf.py makes the folder. What belongs to all processes together, such as memory, is
read from the kernel when it is asked for (processes.py).
"""

import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recommendation_service.core.machine import cpu_cores
from recommendation_service.telemetry.database_metrics import FOLDER, Completed, WorkerNumbers
from recommendation_service.telemetry.metrics_files import READ_FOLDER, master_of, read_families
from recommendation_service.telemetry.processes import (
    Listeners,
    children,
    cpu_seconds,
    memory_bytes,
    role_of,
    service_processes,
)

# With a bucket's bound at each time that a target or an alert names (0.15, 0.5, 1 and 2 s), so that whether P95 is
# below it is exact and not interpolated.
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
# Around REDIS_TIMEOUT_MILLISECONDS.
REDIS_BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)
FEEDS = ("total", "discover", "flow")
ENDPOINTS = (*FEEDS, "reload", "other")
# A series that begins at 1 shows no increase: what alerts and panels ask for begins at 0.
EXPECTED_STATUSES = ("200", "429", "500", "503")
DOOR_REASONS = (
    "silent", "head_late", "body_late", "answer_unread", "head_large", "not_http", "address_full", "worker_full",
    "made_room",
)  # fmt: skip
EXPECTED_ERRORS = ("overloaded", "not_ready", "too_many_requests", "internal_error")


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """``histogram.observe`` of each, with one write a bucket. The library has no call for it."""
    histogram._sum.inc(sum(amounts))
    bounds, buckets = histogram._upper_bounds, dict[int, int]()
    for amount in amounts:
        bucket = bisect_left(bounds, amount)
        buckets[bucket] = buckets.get(bucket, 0) + 1
    for bucket, times in buckets.items():
        histogram._buckets[bucket].inc(times)


class CountedByTurn:
    """What may happen once a feed, counted at the end of each turn of the event loop: every write of a counter that
    processes share takes a microsecond."""

    def __init__(self, counter: Counter) -> None:
        """``counter``: of one label."""
        self._counter = counter
        self._turn: dict[str, int] = {}  # by label, since the turn began

    def add(self, label: str) -> None:
        """Called on the event loop."""
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._write)
        self._turn[label] = self._turn.get(label, 0) + 1

    def _write(self) -> None:
        turn, self._turn = self._turn, {}
        for label, times in turn.items():
            self._counter.labels(label).inc(times)


class Metrics:
    """All counters and timers of a process. Labels take few values, never an id."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("recs_requests", "Requests answered", ["endpoint", "status"], registry=self.registry)
        self.errors = Counter("recs_errors", "Answers that bear an error", ["endpoint", "code"], registry=self.registry)
        self.request_seconds = Histogram(
            "recs_request_seconds",
            "Time from a request's first byte to its answer",
            ["endpoint"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Summary(
            "recs_feed_stage_seconds",
            "Time in a stage of the feed pipeline, of one feed in 64",
            ["stage"],
            registry=self.registry,
        )
        self.stage_items = Summary(
            "recs_feed_stage_items",
            "Items that a stage of the feed pipeline handled, of one feed in 64",
            ["stage"],
            registry=self.registry,
        )
        self.pinned_slots = Counter(
            "recs_pinned_slots", "Items that feeds showed where editors pinned them", registry=self.registry
        )
        self.relaxed = Counter("recs_feed_relaxed", "Feeds in which a rule gave way", ["rule"], registry=self.registry)
        self.catalog_swaps = Counter(
            "recs_catalog_swaps", "Catalog versions taken up by a worker", registry=self.registry
        )
        self.catalog_refused = Counter(
            "recs_catalog_refused",
            "Catalog versions that a worker refused as damaged",
            registry=self.registry,
        )
        self.policy_swaps = Counter("recs_policy_swaps", "Policies taken up by a worker", registry=self.registry)
        self.policy_refused = Counter(
            "recs_policy_refused",
            "Policy versions that a worker could not serve, or record beside",
            registry=self.registry,
        )
        self.redis_operations = Counter(
            "recs_redis_operations",
            "Operations that a request or a task wanted of Redis",
            ["operation", "outcome"],
            registry=self.registry,
        )
        self.redis_seconds = Histogram(
            "recs_redis_seconds",
            "Time that the caller waited for an operation that was tried",
            ["operation"],
            buckets=REDIS_BUCKETS,
            registry=self.registry,
        )
        self.redis_damaged = Counter(
            "recs_redis_damaged",
            "Values in Redis that were none of the service's, and were replaced",
            ["kind"],
            registry=self.registry,
        )
        self.cache_lookups = Counter(
            "recs_cache_lookups", "Lookups in a level of the cache", ["level", "outcome"], registry=self.registry
        )
        self.cache_evictions = Counter(
            "recs_cache_evictions", "Entries that had to go for others in L1", registry=self.registry
        )
        self.cache_collapsed = Counter(
            "recs_cache_collapsed", "Reads that were spared by one under way", ["where"], registry=self.registry
        )
        self.cache_late = Counter(
            "recs_cache_late", "Requests that went on without waiting for a read's end", registry=self.registry
        )
        self.cache_reads = Counter(
            "recs_cache_reads", "Reads of the source behind the cache", ["outcome"], registry=self.registry
        )
        self.cache_read_seconds = Summary(
            "recs_cache_read_seconds", "Time of a read of the source behind the cache", registry=self.registry
        )
        self.cache_sizes = CacheSizes()
        self.registry.register(self.cache_sizes)
        self.events_accepted = Counter(
            "recs_events_accepted", "Feedback events acknowledged", ["event"], registry=self.registry
        )
        self.events_flagged = Counter(
            "recs_events_flagged", "Feedback events that were odd and accepted", ["flag"], registry=self.registry
        )
        self.events_refused = Counter(
            "recs_events_refused", "Feedback events refused for want of room or a failing disk", registry=self.registry
        )
        self.feeds_unrecorded = Counter(
            "recs_feeds_unrecorded", "Feeds that could not be recorded", registry=self.registry
        )
        self.decisions = Counter(
            "recs_decisions", "Feeds recorded with what else they could have held", ["why"], registry=self.registry
        )
        self.decisions_unrecorded = Counter(
            "recs_decisions_unrecorded", "Decisions that could not be recorded", ["reason"], registry=self.registry
        )
        self.feeds_repeated = Counter(
            "recs_feeds_repeated", "Feeds answered again to the same Idempotency-Key", registry=self.registry
        )
        self.feeds_ranked_again = Counter(
            "recs_feeds_ranked_again", "Feeds whose user was served something else meanwhile", registry=self.registry
        )
        self.memory_failures = Counter(
            "recs_memory_failures", "Failures of the memory of what users have seen", registry=self.registry
        )
        self.seen_evicted = Counter(
            "recs_seen_evicted",
            "Entries of the memory of what users have seen that gave way to others",
            ["state"],
            registry=self.registry,
        )
        self.seen_damaged = Counter(
            "recs_seen_damaged", "Memories of what users have seen that were found damaged", registry=self.registry
        )
        self.past_reads = Counter(
            "recs_past_reads", "Reads of what recs_events knows of a user", ["outcome"], registry=self.registry
        )
        self.cpu = CpuAccount(
            Counter(
                "recs_cpu_seconds",
                "Processor time of the service's processes, ended ones included",
                ["process"],
                registry=self.registry,
            )
        )
        self.connections_closed = Counter(
            "recs_connections_closed",
            "Connections of clients that were refused or closed at the door",
            ["reason"],
            registry=self.registry,
        )
        folder = os.environ.get(READ_FOLDER)
        self.folder = Path(folder) if folder else None
        self.database = WorkerNumbers(self.registry, self.folder.parent.parent / FOLDER if self.folder else None)
        self.master = master_of(self.folder) if self.folder else None
        self.processes = _ProcessCollector(self.master)
        self.registry.register(self.processes)
        for reason in ("disk", "size"):
            self.decisions_unrecorded.labels(reason)
        for state in ("served", "acted"):
            self.seen_evicted.labels(state)
        for endpoint in FEEDS:
            for status in EXPECTED_STATUSES:
                self.requests.labels(endpoint, status)
            for code in EXPECTED_ERRORS:
                self.errors.labels(endpoint, code)
        for reason in DOOR_REASONS:
            self.connections_closed.labels(reason)


class CacheSizes(Collector):
    """L1 of the worker that answers. No gauges in files: their place on the disk is not reserved."""

    def __init__(self) -> None:
        self.read: Callable[[], tuple[int, int]] | None = None  # bytes, entries

    def collect(self) -> Iterator[Metric]:
        size, entries = self.read() if self.read else (0, 0)
        yield GaugeMetricFamily("recs_cache_bytes", "Memory that L1 takes in the worker that answers", size)
        yield GaugeMetricFamily("recs_cache_entries", "Entries of L1 in the worker that answers", entries)


class CpuAccount:
    """Adds up what this worker has used of the processors, and the processes that it keeps alive.

    Each worker keeps its own account, several times a second, so that the sum over all has what ended workers
    used. Sums over the processes that /proc shows would fall whenever one of them ends.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._own_seconds = 0.0  # of this process, which began at 0 when it was forked
        self._kept: dict[int, tuple[str, float]] = {}  # process: its role, and what of it is added

    def add(self) -> None:
        """What was used since the last call."""
        seconds = time.process_time()
        self._counter.labels("worker").inc(seconds - self._own_seconds)
        self._own_seconds = seconds
        kept = {}
        for pid in children(os.getpid()):
            role, added = self._kept.get(pid) or (role_of(pid), 0.0)
            used = max(cpu_seconds(pid) or 0.0, added)
            self._counter.labels(role).inc(used - added)
            kept[pid] = role, used
        self._kept = kept


class CatalogFacts(Protocol):
    """What /metrics tells of the catalog that a worker serves from."""

    def facts(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        """(name, help, labels, value) of each gauge, and of each counter, whose name ends with _total."""


class _CatalogCollector(Collector):
    def __init__(self, source: CatalogFacts) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, help_text, labels, value in self._source.facts():
            if name not in families:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                families[name] = kind(name, help_text, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()


class _ProcessCollector(Collector):
    """Gauges of all the service's processes, whichever of them is asked."""

    def __init__(self, master: int | None) -> None:
        self._master = master
        self._listeners = Listeners()

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily("recs_memory_bytes", "Memory, shared pages by their share", labels=["process"])
        number = GaugeMetricFamily("recs_processes", "Processes that run", labels=["process"])
        sizes: dict[str, list[int]] = {}
        for pid, role in service_processes(self._master):
            if size := memory_bytes(pid):  # nothing: it ended just now
                sizes.setdefault(role, []).append(size)
        for role, all_sizes in sizes.items():
            memory.add_metric([role], sum(all_sizes))
            number.add_metric([role], len(all_sizes))
        yield memory
        yield number
        yield GaugeMetricFamily("recs_cpu_cores", "Cores that the service may use", cpu_cores())
        yield GaugeMetricFamily(
            "recs_http_connections", "Open connections of clients", float(self._listeners.connections())
        )


class _FilesCollector(Collector):
    """Counters of all processes; the master, which counts nothing itself, by the kernel's account of it."""

    def __init__(self, folder: Path, master: int | None) -> None:
        self._folder = folder
        self._master = master

    def collect(self) -> Iterator[Metric]:
        for family in read_families(self._folder):
            if family.name == "recs_cpu_seconds" and self._master:
                used = cpu_seconds(self._master)
                if used is not None:
                    family.add_sample("recs_cpu_seconds_total", {"process": "master"}, used)
            yield family


class _Forward(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()


def render_metrics(metrics: Metrics, catalog: CatalogFacts) -> bytes:
    """Prometheus text, summed over all workers where there are several. Takes milliseconds: not on an event loop."""
    registry = CollectorRegistry()
    if metrics.folder:
        registry.register(Completed(_FilesCollector(metrics.folder, metrics.master), metrics.database))
        registry.register(metrics.database)
        registry.register(metrics.processes)
        registry.register(metrics.cache_sizes)
    else:
        registry.register(Completed(_Forward(metrics.registry), metrics.database))
    registry.register(_CatalogCollector(catalog))
    return generate_latest(registry)
