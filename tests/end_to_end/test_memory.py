"""The deployment guide's limit on memory: 8 workers with preload in less than 6 GB. `make bench` has the figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from recommendation_service.feed.compilation import compile_kernels
from recommendation_service.ranking.compiled import kernel_folder
from tests.end_to_end.service import Service, load_demo

WORKERS = 8
LIMIT_KILOBYTES = 6 << 20


def pss(pid: int) -> int:
    """Kilobytes, of which a page that n processes share counts 1/n in each."""
    return mapped(pid, "Pss")


def mapped(pid: int, kind: str) -> int:
    """Kilobytes of a process's memory, of the kernel's kind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{kind}:")]
    return int(kilobytes)


def test_eight_workers_with_preload_stay_below_the_guides_limit(tmp_path: Path) -> None:
    load_demo(tmp_path)
    with Service.gunicorn(tmp_path, WORKERS, {}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: service.log.count("Application startup complete") == WORKERS)
        assert "Iniciando Gunicorn con 8 workers" in service.log
        for user in range(200):
            service.feed(SELF_ID=user)
        workers, others = service.workers, service.pids - service.workers
        assert len(workers) == WORKERS
        assert len(others) >= 2, "master and refresher"
        assert sum(map(pss, workers | others)) < LIMIT_KILOBYTES
        # Preload is what keeps it small: most of what a worker sees it shares.
        assert sum(map(pss, workers)) < sum(map(resident, workers)) / 2
        assert service.stop() == 0


def resident(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


def test_a_start_that_compiles_takes_no_more_memory_than_the_next(tmp_path: Path) -> None:
    """The compiler's memory would stay with the master, and be counted in every worker, as long as they live."""
    compile_kernels()
    folder = tmp_path / "kernels"
    shutil.copytree(kernel_folder(), folder / kernel_folder().name)
    for code in list(folder.rglob("stages.rank-*")):  # the largest; without it the kernels count as not compiled
        code.unlink()
    masters = []
    for start in (1, 2):
        (tmp_path / f"{start}").mkdir()
        with Service.gunicorn(tmp_path / f"{start}", 1, {"NUMBA_CACHE_DIR": str(folder)}) as service:
            service.wait_until_alive()
            service.wait_until(lambda: bool(list(folder.rglob("stages.rank-*.nbc"))))
            masters.append(mapped(service.process.pid, "Anonymous"))
    assert masters[0] < 1.15 * masters[1]
