"""Counts in files: summed over processes, dead ones kept to the last digit; and what /proc tells of processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from recommendation_service.core.machine import cpu_cores
from recommendation_service.telemetry import metrics_files
from recommendation_service.telemetry.metrics import (
    LATENCY_BUCKETS,
    CountedByTurn,
    CpuAccount,
    Metrics,
    observe_all,
    render_metrics,
)
from recommendation_service.telemetry.metrics_files import (
    DEAD_FILE,
    exact_sum,
    merge_dead,
    read_families,
    reserve,
)
from recommendation_service.telemetry.processes import cpu_seconds, memory_bytes

SOON_SECONDS = 20.0
# Above Linux's largest process number (2^22), so that nobody ever has them.
NOBODY = 10_000_000
BOUNDS = ("0.15", "0.5", "2.0", "+Inf")


class NoCatalog:
    def facts(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        return []


@given(st.lists(st.sampled_from((*LATENCY_BUCKETS, 0.0, 0.0007, 11.0)) | st.floats(0, 20), min_size=1))
def test_many_observations_at_once_are_those_of_each(amounts: list[float]) -> None:
    once, each = Metrics().request_seconds.labels("total"), Metrics().request_seconds.labels("total")
    observe_all(once, amounts)
    for amount in amounts:
        each.observe(amount)
    ours, theirs = (
        {(name, *labels.items()): value for name, labels, value, *_ in one._samples()} for one in (once, each)
    )
    assert ours == pytest.approx(theirs)
    assert ours["_count",] == len(amounts)


def test_what_is_counted_by_the_turn_is_all_there_when_the_turn_has_ended() -> None:
    metrics = Metrics()
    counted = CountedByTurn(metrics.relaxed)

    def values() -> tuple[float | None, ...]:
        get = metrics.registry.get_sample_value
        return tuple(get("recs_feed_relaxed_total", {"rule": rule}) for rule in ("slot_kind", "seen"))

    async def run() -> None:
        for rule in ("slot_kind", "seen", "slot_kind"):
            counted.add(rule)
        assert values() == (None, None)
        await asyncio.sleep(0)
        assert values() == (2, 1)
        counted.add("seen")
        await asyncio.sleep(0)
        assert values() == (2, 2)

    asyncio.run(run())


def write(folder: Path, pid: int, kind: str, name: str, value: float, **labels: str) -> None:
    """A value in a process's file, as prometheus-client writes it."""
    family = name.removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
    file = MmapedDict(str(folder / f"{kind}_{pid}.db"))  # type: ignore[no-untyped-call]
    key = mmap_key(family, name, list(labels), list(labels.values()), "help")
    file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def some_process(folder: Path, pid: int, rng: random.Random) -> None:
    """Files of a process that counted this and that."""
    for status in ("200", "429", "503"):
        if rng.random() < 0.8:
            write(
                folder, pid, "counter", "requests_total", float(rng.randrange(10**6)), endpoint="total", status=status
            )
    for endpoint in ("total", "flow"):
        for bound in BOUNDS:
            write(folder, pid, "histogram", "seconds_bucket", float(rng.randrange(1000)), endpoint=endpoint, le=bound)
        write(folder, pid, "histogram", "seconds_sum", rng.expovariate(1e-3), endpoint=endpoint)
    write(folder, pid, "summary", "stage_count", float(rng.randrange(1000)), stage="scores")
    write(folder, pid, "summary", "stage_sum", rng.random() / 3, stage="scores")


def samples(families: Iterable[Metric]) -> dict[tuple[str, str, frozenset[tuple[str, str]]], float]:
    """(kind, name, labels): value."""
    return {
        (family.type, sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def read(folder: Path) -> dict[tuple[str, str, frozenset[tuple[str, str]]], float]:
    return samples(read_families(folder))


def value_of(folder: Path, name: str, **labels: str) -> float:
    return sum(v for (_, n, have), v in read(folder).items() if n == name and set(labels.items()) <= have)


def database_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.db")}


# Sums over processes.


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_prometheus_client(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for process in range(5):
        some_process(tmp_path, NOBODY + process, rng)
    theirs = samples(MultiProcessCollector(None, str(tmp_path)).collect())  # type: ignore[no-untyped-call]
    assert read(tmp_path) == pytest.approx(theirs, rel=1e-12)
    assert len(theirs) > 10


@pytest.mark.parametrize("seed", range(5))
def test_no_sum_changes_by_a_digit_in_whatever_order_processes_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    alive = set(range(NOBODY, NOBODY + 8))
    for pid in alive:
        some_process(tmp_path, pid, rng)
    monkeypatch.setattr(metrics_files, "is_alive", alive.__contains__)
    before = read(tmp_path)
    for pid in rng.sample(sorted(alive), len(alive)):
        alive.remove(pid)
        merge_dead(tmp_path)
        assert read(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [DEAD_FILE]


@given(st.lists(st.floats(1e-9, 1e12)), st.randoms(use_true_random=False))
def test_a_sum_in_parts_is_exact_whatever_the_order(values: list[float], rng: random.Random) -> None:
    parts: list[float] = []
    for value in values:
        parts = exact_sum([*parts, value])
    exact = sum(map(Fraction, rng.sample(values, len(values))))
    assert sum(map(Fraction, json.loads(json.dumps(parts)))) == exact
    assert len(parts) <= 4  # 130 bits, 53 in each, and some that round the other way


def test_the_dead_files_do_not_grow_with_the_number_of_the_dead(tmp_path: Path) -> None:
    sizes = []
    for process in range(200):
        some_process(tmp_path, NOBODY + process, random.Random(process))
        merge_dead(tmp_path)
        sizes.append((tmp_path / DEAD_FILE).stat().st_size)
        assert database_files(tmp_path) == set()
    assert sizes[-1] < 1.5 * sizes[10]


def test_a_process_that_lives_keeps_its_files(tmp_path: Path) -> None:
    write(tmp_path, os.getpid(), "counter", "requests_total", 3.0)
    write(tmp_path, NOBODY, "counter", "requests_total", 4.0)
    merge_dead(tmp_path)
    assert database_files(tmp_path) == {f"counter_{os.getpid()}.db"}
    write(tmp_path, os.getpid(), "counter", "requests_total", 5.0)
    assert value_of(tmp_path, "requests_total") == 9.0


def test_gauges_of_the_dead_vanish_and_others_are_summed(tmp_path: Path) -> None:
    write(tmp_path, os.getpid(), "gauge_livesum", "connections", 3.0)
    write(tmp_path, NOBODY, "gauge_livesum", "connections", 4.0)
    assert value_of(tmp_path, "connections") == 3.0  # before the master has noticed
    merge_dead(tmp_path)
    assert value_of(tmp_path, "connections") == 3.0
    assert database_files(tmp_path) == {f"gauge_livesum_{os.getpid()}.db"}


def test_a_file_that_was_just_made_counts_nothing(tmp_path: Path) -> None:
    reserve(tmp_path, NOBODY)
    (tmp_path / f"counter_{NOBODY + 1}.db").touch()
    assert read(tmp_path) == {}
    merge_dead(tmp_path)
    assert read(tmp_path) == {}


def test_a_folder_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    assert read_families(tmp_path / "gone") == []


# Crashes and readers in between.


class Crash(Exception):
    """The master's end."""


@pytest.mark.parametrize("at", ["replace", "unlink"])
@pytest.mark.parametrize("calls_before", [0, 1, 2])
def test_a_crash_at_any_point_counts_nobody_twice_and_loses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, calls_before: int
) -> None:
    for process in range(3):
        some_process(tmp_path, NOBODY + process, random.Random(process))
    before = read(tmp_path)
    owner: object = os if at == "replace" else Path
    original: Callable[..., None] = getattr(owner, at)
    calls = 0

    def crash_later(*arguments: object, **named: object) -> None:
        nonlocal calls
        calls += 1
        if calls > calls_before:
            raise Crash
        original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, at, crash_later)
        with suppress(Crash):
            merge_dead(tmp_path)
        assert read(tmp_path) == before
    assert read(tmp_path) == before
    merge_dead(tmp_path)
    assert read(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [DEAD_FILE]


def test_a_later_process_of_the_same_number_counts(tmp_path: Path) -> None:
    for count in (1.0, 2.0, 4.0):
        write(tmp_path, NOBODY, "counter", "requests_total", count)
        merge_dead(tmp_path)
    write(tmp_path, NOBODY, "counter", "requests_total", 8.0)
    assert value_of(tmp_path, "requests_total") == 15.0


def test_a_full_disk_loses_nothing_and_the_next_merge_makes_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, NOBODY, "counter", "requests_total", 5.0)
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr(metrics_files, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            merge_dead(tmp_path)
    assert value_of(tmp_path, "requests_total") == 5.0
    merge_dead(tmp_path)
    assert database_files(tmp_path) == set()
    assert value_of(tmp_path, "requests_total") == 5.0


def test_whoever_reads_while_processes_are_merged_sees_the_same_sum_every_time(tmp_path: Path) -> None:
    reading, ended = threading.Event(), threading.Event()
    seen: list[float] = []

    def reader() -> None:
        while not ended.is_set():
            seen.append(value_of(tmp_path, "requests_total", status="200"))
            reading.set()

    thread = threading.Thread(target=reader)
    for process in range(60):
        write(tmp_path, NOBODY + process, "counter", "requests_total", 1.0, status="200")
    try:
        thread.start()
        for process in range(60):
            # One dies at a time.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(metrics_files, "is_alive", (NOBODY + process).__lt__)
                merge_dead(tmp_path)
            reading.clear()
            assert reading.wait(SOON_SECONDS)
    finally:
        ended.set()
        thread.join()
    assert len(seen) >= 60
    assert set(seen) == {60.0}


def test_room_is_reserved_on_the_disk(tmp_path: Path) -> None:
    reserve(tmp_path, 7)
    assert database_files(tmp_path) == {"counter_7.db", "histogram_7.db", "summary_7.db"}
    for path in tmp_path.glob("*.db"):
        assert path.stat().st_blocks * 512 >= metrics_files.RESERVED_BYTES


# One process.


def test_every_series_of_one_process_is_there_from_the_start() -> None:
    text = render_metrics(Metrics(), NoCatalog()).decode()
    for line in (
        'recs_requests_total{endpoint="flow",status="503"} 0.0',
        'recs_errors_total{code="overloaded",endpoint="total"} 0.0',
        'recs_errors_total{code="too_many_requests",endpoint="discover"} 0.0',
        'recs_processes{process="worker"} 1.0',
    ):
        assert line in text


def test_a_bucket_ends_at_each_time_that_a_target_or_an_alert_names() -> None:
    assert {0.15, 0.5, 1.0, 2.0} <= set(LATENCY_BUCKETS)
    assert list(LATENCY_BUCKETS) == sorted(LATENCY_BUCKETS)


# Processor time.


def burn(seconds: float) -> None:
    until = os.times().user + seconds
    while os.times().user < until:
        sum(range(1000))


def account() -> tuple[CpuAccount, Callable[[str], float]]:
    registry = CollectorRegistry()
    counter = Counter("recs_cpu_seconds", "help", ["process"], registry=registry)
    return CpuAccount(
        counter
    ), lambda role: registry.get_sample_value("recs_cpu_seconds_total", {"process": role}) or 0.0


def test_a_workers_processor_time_is_added_up_once() -> None:
    cpu, value = account()
    for _ in range(3):
        burn(0.02)
        cpu.add()
    assert value("worker") == pytest.approx(sum(os.times()[:2]), abs=0.2)
    assert value("refresher") == 0.0


def test_the_cores_that_may_be_used_are_at_most_the_machines() -> None:
    assert 0 < cpu_cores() <= (os.cpu_count() or 1)


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert memory_bytes(NOBODY) == 0
    assert cpu_seconds(NOBODY) is None
