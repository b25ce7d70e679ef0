"""Where a feed's processor time goes: one row a part, by sampling the workers under load (sampled_app.py).

Samples say which share of a worker's time a part takes; what /proc counts for the workers makes microseconds a feed of
it. What is compiled is one call, so its stages are told by the service's own clock, which times one feed in 64. Needs
neither permissions nor other programs than wrk.
"""

import json
import linecache
import os
import re
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from sqlalchemy.engine import URL

from benchmarks.beside import EVERYTHING, FIRST_PAGES, Row, Told, checkout, make_demo, processor_seconds
from benchmarks.server import FEED_PATH, ROOT, Service, drive, running_service, users_with_history, write_script

WORKERS = 2
BEGIN, END = signal.SIGRTMIN, signal.SIGRTMIN + 1  # as sampled_app.py has them
WRITTEN_SECONDS = 30
OTHER = "other"
RANKING = "kernels"
# Of a stack the innermost frame that any of these is about decides: a pattern of file and function, and the part.
# Files of commits up to 5484959 stand beside today's.
PARTS = [
    (re.compile(pattern), part)
    for pattern, part in (
        (r"/(server|api)/worker\.py:(write|write_whole|_flush)$", "the kernel's TCP: sending"),
        (r"/feed/pipeline\.py:(rank|_run|_rank_by_stages)$", RANKING),
        (r"/feed/(pipeline|slate|stages)\.py:(_decided|weighed)$", "decisions and shadows"),
        (r"/(serving|log)/decisions\.py:", "decisions and shadows"),
        (r"/feed/pipeline\.py:render$", "joining the answer"),
        (r"/feed/", "around the kernels, in Python"),
        (r"/(log|serving|events)/(recording|records|event_log|segments|log)\.py:", "record"),
        (
            r"/(memory/|serving/(group_commit|seen_store|fleet_store|past)|events/(group_commit|user_memory|answers))",
            "memory",
        ),
        (r"/(msgspec|lmdb)/", "memory"),
        (r"/(server|uvicorn|uvicorn_worker|httptools)/", "HTTP"),
        (r"/api/(worker|stopping)\.py:", "HTTP"),
        (r"/(api|starlette|fastapi|pydantic|serving|prometheus_client|telemetry|core)/", "request: layers and fields"),
    )
]
# What the event loop does before it calls anybody counts for the first line of whom it calls.
LOOP = "event loop, and the kernel's TCP: receiving and waiting"
_LOOP_FRAMES = re.compile(r"/(asyncio|uvloop|gunicorn|uvicorn)/|uvicorn_worker")
_STAGE = re.compile(r'^recs_feed_stage_seconds_sum\{[^}]*stage="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)
Frame = tuple[str, str, int | None, int]  # file, function, line (None: of none), the function's first line


def measure_parts_here(folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    return _measure({"here": ROOT}, folder, rounds, seconds, told)


def measure_parts_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Raises CalledProcessError where there is no such commit."""
    told(f"setting up {commit}", 0.0)
    with checkout(commit, folder / "there") as there:
        return _measure({"there": there, "here": ROOT}, folder, rounds, seconds, told)


def _measure(trees: dict[str, Path], folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    database = make_demo(folder)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in trees}
    for number in range(rounds):
        for place, (side, tree) in enumerate(trees.items()):
            told(f"sampling, {side}", (number * len(trees) + place) / (rounds * len(trees)))
            found[side].append(_parts_of_a_run(tree, database, folder / f"{side}-{number}", seconds))
    every = [part for part in found["here"][0] if part != OTHER]
    every += sorted({part for runs in found.values() for run in runs for part in run} - {*every, OTHER})
    rows = []
    for part in [*every, OTHER]:
        there, here = (
            statistics.median([run.get(part, 0.0) for run in found[side]]) if side in found else 0.0
            for side in ("there", "here")
        )
        ratio = here / there if there else 0.0
        rows.append(Row(f"{part}, µs", there, here, ratio, (ratio, ratio)))
    return rows


def _parts_of_a_run(tree: Path, database: Path, folder: Path, seconds: int) -> dict[str, float]:
    """Microseconds of a worker's processor time a feed, by part: users on their first pages, everything on."""
    with _sampled_service(tree, database, folder) as (service, samples):
        script = write_script(folder, folder)
        warm = drive(service, FEED_PATH, script, 1)
        users = len(users_with_history(folder))
        most = max(1, int(users * FIRST_PAGES / max(1.0, warm.requests_per_second)))
        before, stages_before = processor_seconds(service), _stages(service)
        for worker in service.workers():
            os.kill(worker, BEGIN)
        load = drive(service, FEED_PATH, script, min(seconds, most))
        for worker in service.workers():
            os.kill(worker, END)
        user, system = (then - at_first for then, at_first in zip(processor_seconds(service), before, strict=True))
        stages = {name: took - stages_before.get(name, 0.0) for name, took in _stages(service).items()}
        shares = _shares(samples, service.workers())
    feeds = load.requests_per_second * min(seconds, most)
    whole = (user + system) / feeds * 1e6
    parts: dict[str, float] = {"all of it": whole, "of it in the system (TCP, files)": system / feeds * 1e6}
    timed = sum(stages.values()) or 1.0
    for part, share in sorted(shares.items(), key=lambda each: -each[1]):
        parts[part] = share * whole
        if part == RANKING:
            parts |= {f"{RANKING}, {stage}": share * whole * took / timed for stage, took in stages.items()}
    return parts


@contextmanager
def _sampled_service(tree: Path, database: Path, folder: Path) -> Iterator[tuple[Service, Path]]:
    """And where its workers write what they counted."""
    folder.mkdir()
    application = folder / "application"
    application.mkdir()
    shutil.copy(Path(__file__).with_name("sampled_app.py"), application)
    url = URL.create("sqlite", database=str(shutil.copy(database, folder / "demo.sqlite")))
    settings = {**EVERYTHING, "PYTHONPATH": str(application), "SAMPLES_FOLDER": str(folder)}
    with running_service(url, folder, WORKERS, settings=settings, tree=tree, application="sampled_app:app") as service:
        yield service, folder
    shutil.rmtree(folder)


def _stages(service: Service) -> dict[str, float]:
    """Seconds that each stage took of the feeds that were timed."""
    with urlopen(f"{service.address}/metrics", timeout=30) as answer:  # noqa: S310 - our own service
        return {name: float(took) for name, took in _STAGE.findall(answer.read().decode())}


def _shares(folder: Path, workers: list[int]) -> dict[str, float]:
    """Of all samples of the workers, by part."""
    counted: Counter[str] = Counter()
    for worker in workers:
        path, deadline = folder / f"{worker}.json", time.monotonic() + WRITTEN_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"worker {worker} has not written what it counted")
            time.sleep(0.05)
        for stack, times in json.loads(path.read_text()):
            counted[part_of([tuple(frame) for frame in stack])] += times
    return {part: times / max(1, counted.total()) for part, times in counted.items()}


def part_of(stack: list[Frame]) -> str:
    """``stack``: the innermost frame first."""
    file, _, line, first = stack[0]
    if _LOOP_FRAMES.search(file) or (line == first and all(_LOOP_FRAMES.search(frame[0]) for frame in stack[1:3])):
        return LOOP
    if "self._write(" in linecache.getline(file, line or 0):
        return PARTS[0][1]
    for file, function, _, _ in stack:
        for pattern, part in PARTS:
            if pattern.search(f"{file}:{function}"):
                return part
    return OTHER
