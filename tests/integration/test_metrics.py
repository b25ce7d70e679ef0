"""/metrics of a real Gunicorn whose workers come and go: nothing is lost, nothing piles up, nothing goes back."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from recommendation_service.log.marks import REBUILD
from recommendation_service.telemetry.metrics_files import DEAD_FILE
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, sum_of_samples
from tests.servers import NO_AUTHORITIES

# What a counter or a timer adds up; gauges have none of these endings.
_CUMULATIVE = re.compile(r"^(\w+_(?:total|count|sum|bucket)(?:\{[^}]*\})?) (\S+)$", re.M)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose service has built its catalog."""
    folder = tmp_path_factory.mktemp("demo")
    load_demo(folder)
    with Service.gunicorn(folder, 1, {}) as service:
        service.wait_until_ready()
    return folder


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Path:
    """The same catalog for a service of its own."""
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / "data" / name).symlink_to(demo / "data" / name)
    return tmp_path


MEMORY = Path("/dev/shm")  # noqa: S108 - where what finds no room on the disk is counted
WITHOUT_REFRESHER = {"CATALOG_REFRESHER": "false"}


def fresh_get(service: Service, path: str) -> httpx.Response:
    """Over a connection of its own, so that any worker may answer; once more where that one was about to end."""
    while True:
        with (
            suppress(httpx.TransportError),
            httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES) as client,
        ):
            return client.get(path)


def post_feeds(service: Service, number: int) -> int:
    """Send feeds one after the other over connections of their own; how many were answered with 200."""
    answered = 0
    for _ in range(number):
        with (
            suppress(httpx.TransportError),
            httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES) as client,
        ):
            answered += client.post("/api/search/total", json={"N_VIDEOS": 3}).status_code == 200
    return answered


def feeds_counted(service: Service) -> float:
    return sum_of_samples(fresh_get(service, "/metrics").text, "recs_requests_total", endpoint="total", status="200")


def metrics_files(service: Service) -> list[Path]:
    (folder,) = (service.data_dir / "metrics").iterdir()
    return sorted(folder.iterdir())


def pids_with_files(service: Service) -> set[int]:
    return {int(path.stem.rpartition("_")[2]) for path in metrics_files(service) if path.suffix == ".db"}


def went_back(before: str, after: str) -> list[str]:
    """Sums that are smaller, or gone, in the later of two answers.

    Not of the log's reader that fills a new memory of users: with its end what it was cut off from is nothing.
    """
    later = {name: float(value) for name, value in _CUMULATIVE.findall(after)}
    return [
        f"{name}: {value} -> {later.get(name)}"
        for name, value in _CUMULATIVE.findall(before)
        if f'reader="{REBUILD}"' not in name and later.get(name, -1.0) < float(value)
    ]


def test_no_sum_goes_back_and_no_file_stays_while_workers_are_recycled(folder: Path) -> None:
    settings = {**WITHOUT_REFRESHER, "GUNICORN_MAX_REQUESTS": "30"}
    with Service.gunicorn(folder, 2, settings) as service:
        service.wait_until_ready()
        texts = [fresh_get(service, "/metrics").text]
        recycled = threading.Event()

        def ask() -> tuple[int, int]:
            """How many feeds were asked for, and answered."""
            asked = answered = 0
            while not recycled.is_set():
                asked += 20
                answered += post_feeds(service, 20)
            return asked, answered

        def look() -> bool:
            texts.append(fresh_get(service, "/metrics").text)
            # Two at the start, and their successors.
            return len(texts) > 5 and service.log.count("Booting worker") > 4

        with ThreadPoolExecutor(3) as pool:
            loads = [pool.submit(ask) for _ in range(3)]
            try:
                service.wait_until(look)
            finally:
                recycled.set()
            asked, answered = (sum(counts) for counts in zip(*(load.result() for load in loads), strict=True))
        assert [worse for pair in itertools.pairwise(texts) for worse in went_back(*pair)] == []
        # Each answer that arrived; a worker that ends may close a connection under an answer that it has counted.
        assert 0.87 * asked < answered <= feeds_counted(service) <= asked
        # Whatever ended has been merged once its end was noticed: the master and two workers have files.
        service.wait_until(lambda: pids_with_files(service) <= {service.process.pid, *service.workers})
        assert len(metrics_files(service)) <= 3 * 3 + 2
        assert "Traceback" not in service.log


def test_a_killed_worker_keeps_its_counts_and_leaves_no_file(folder: Path) -> None:
    with Service.gunicorn(folder, 2, WITHOUT_REFRESHER) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == 2)
        assert post_feeds(service, 60) == 60
        before = fresh_get(service, "/metrics").text
        killed = service.workers
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        service.wait_until(lambda: not killed & service.workers and len(service.workers) == 2)
        service.wait_until(lambda: not killed & pids_with_files(service))
        after = fresh_get(service, "/metrics").text
        assert went_back(before, after) == []
        assert feeds_counted(service) == 60
        assert sum_of_samples(after, "recs_processes", process="worker") == 2
        assert DEAD_FILE in {path.name for path in metrics_files(service)}
        assert post_feeds(service, 5) == 5
        assert feeds_counted(service) == 65


def test_counts_outlive_a_reload_of_gunicorn(folder: Path) -> None:
    with Service.gunicorn(folder, 2, WITHOUT_REFRESHER) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == 2)
        assert post_feeds(service, 30) == 30
        before, old = fresh_get(service, "/metrics").text, service.workers
        service.process.send_signal(signal.SIGHUP)
        service.wait_until(lambda: not old & service.workers and len(service.workers) == 2)
        service.wait_until(lambda: not old & pids_with_files(service))
        assert went_back(before, fresh_get(service, "/metrics").text) == []
        assert feeds_counted(service) == 30


def test_a_worker_that_finds_no_room_for_metrics_serves_all_the_same(folder: Path) -> None:
    with Service.gunicorn(folder, 1, WITHOUT_REFRESHER) as service:
        service.wait_until_ready()
        (place,) = (service.data_dir / "metrics").iterdir()
        shutil.rmtree(place)
        place.touch()  # no file can be made in it, whoever asks
        old = service.workers
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        service.wait_until(lambda: not old & service.workers and len(service.workers) == 1)
        service.wait_until_ready()
        assert post_feeds(service, 5) == 5
        assert fresh_get(service, "/metrics").status_code == 200
        assert "no room for metrics" in service.log
        (pid,) = service.workers
        assert list(MEMORY.glob(f"recs-metrics-of-{service.process.pid}-{pid}-*")) != []
        assert service.stop() == 0
        assert list(MEMORY.glob(f"recs-metrics-of-{service.process.pid}-{pid}-*")) == []


def test_a_service_that_starts_without_room_for_metrics_serves_and_counts_all_the_same(folder: Path) -> None:
    (folder / "data" / "metrics").touch()  # no folder can be made there, whoever asks
    with Service.gunicorn(folder, 2, WITHOUT_REFRESHER) as service:
        service.wait_until_ready()
        assert any(path.name.startswith(f"{service.process.pid}-") for path in MEMORY.glob("recs-metrics-*/*"))
        assert post_feeds(service, 20) == 20
        assert feeds_counted(service) == 20
        assert "no room for metrics" in service.log
        assert service.stop() == 0
    assert not any(path.name.startswith(f"{service.process.pid}-") for path in MEMORY.glob("recs-metrics-*/*"))


# What belongs to all processes together.


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers, a refresher, and limits that are easily reached."""
    folder = tmp_path_factory.mktemp("busy")
    load_demo(folder)
    with Service.gunicorn(folder, 2, {}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == 2 and len(service.refreshers) == 1)
        yield service


def test_all_processes_are_counted_with_their_memory(busy: Service) -> None:
    text = fresh_get(busy, "/metrics").text
    for process, number in (("master", 1), ("worker", 2), ("refresher", 1)):
        assert sum_of_samples(text, "recs_processes", process=process) == number
        assert sum_of_samples(text, "recs_memory_bytes", process=process) > 1 << 20
    resident = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in busy.pids
    )
    assert sum_of_samples(text, "recs_memory_bytes") < resident, "what is shared counts once"


def test_processor_time_of_every_kind_of_process_adds_up(busy: Service) -> None:
    before = fresh_get(busy, "/metrics").text
    for process in ("master", "worker", "refresher"):
        assert sum_of_samples(before, "recs_cpu_seconds_total", process=process) > 0
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: post_feeds(busy, 50), range(4))) == 200

    def more() -> bool:
        return sum_of_samples(fresh_get(busy, "/metrics").text, "recs_cpu_seconds_total", process="worker") > (
            sum_of_samples(before, "recs_cpu_seconds_total", process="worker") + 0.05
        )

    busy.wait_until(more)
    assert 0 < sum_of_samples(before, "recs_cpu_cores") <= (os.cpu_count() or 1)


def test_open_connections_are_counted_whichever_worker_has_them(busy: Service) -> None:
    busy.client.close()  # one that other tests keep
    busy.client = httpx.Client(base_url=busy.address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES)
    busy.wait_until(lambda: sum_of_samples(fresh_get(busy, "/metrics").text, "recs_http_connections") == 1)
    with ExitStack() as clients:
        for _ in range(10):
            client = clients.enter_context(
                httpx.Client(base_url=busy.address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES)
            )
            assert client.get("/health").status_code == 200
        # The ten, and the one that asks.
        assert sum_of_samples(fresh_get(busy, "/metrics").text, "recs_http_connections") == 11
    busy.wait_until(lambda: sum_of_samples(fresh_get(busy, "/metrics").text, "recs_http_connections") == 1)


def test_what_is_refused_is_counted_by_endpoint_and_reason(folder: Path) -> None:
    # No event loop wakes in a microsecond, so every feed finds the worker behind.
    settings = {**WITHOUT_REFRESHER, "SHED_LOAD_AFTER_SECONDS": "0.000001", "RATE_LIMIT_PER_USER": "0.001"}
    with Service.gunicorn(folder, 2, settings) as service:
        service.wait_until_ready()

        def refused(endpoint: str, user: int) -> str:
            answer = service.client.post(f"/api/search/{endpoint}", json={"user_id": user})
            return "" if answer.status_code == 200 else str(answer.json()["error"]["code"])

        users = iter(range(1, 10_000))
        service.wait_until(lambda: refused("discover", next(users)) == "overloaded")
        assert refused("flow", 20_000) == "overloaded"
        assert refused("flow", 20_000) == "too_many_requests"
        assert service.client.post("/api/search/total", content=b"{").status_code == 400
        text = fresh_get(service, "/metrics").text
        for endpoint, code, status, count in (
            ("flow", "overloaded", "503", 1),
            ("flow", "too_many_requests", "429", 1),
            ("total", "not_json", "400", 1),
            ("discover", "overloaded", "503", 1),
            ("total", "overloaded", "503", 0),
        ):
            assert sum_of_samples(text, "recs_errors_total", endpoint=endpoint, code=code) == count
            assert sum_of_samples(text, "recs_requests_total", endpoint=endpoint, status=status) == count


def test_labels_take_few_values_whatever_clients_send(busy: Service) -> None:
    before = {name for name, _ in _CUMULATIVE.findall(fresh_get(busy, "/metrics").text)}
    for number in range(50):
        busy.client.get(f"/nowhere/{number}")
        busy.client.request(f"METHOD{number}", "/api/search/total")
        busy.client.post("/api/search/total", json={"user_id": number})
        busy.client.post("/api/search/total", json={f"field{number}": number})
    new = {name for name, _ in _CUMULATIVE.findall(fresh_get(busy, "/metrics").text)} - before
    assert len(new) < 20, new
    assert not re.search(r'version="|pid="', fresh_get(busy, "/metrics").text)
