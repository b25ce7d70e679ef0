"""The kinds of faults. Each is made on entering its block and is over on leaving it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.faults.scene import Scene


class Kind(NamedTuple):
    name: str
    made: Callable[[Scene, random.Random], contextlib.AbstractContextManager[None]]
    holds_seconds: tuple[float, float]  # drawn between the two
    needs_disk: bool = False


def _pick(pids: set[int], rng: random.Random) -> int:
    return rng.choice(sorted(pids))


def _killed(
    find: Callable[[Scene], set[int]],
) -> Callable[[Scene, random.Random], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def made(scene: Scene, rng: random.Random) -> Iterator[None]:
        scene.service.wait_until(lambda: bool(find(scene)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(_pick(find(scene), rng), signal.SIGKILL)
        yield

    return made


def _stopped(
    find: Callable[[Scene], set[int]],
) -> Callable[[Scene, random.Random], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def made(scene: Scene, rng: random.Random) -> Iterator[None]:
        scene.service.wait_until(lambda: bool(find(scene)))
        pid = _pick(find(scene), rng)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return made


def _workers(scene: Scene) -> set[int]:
    return scene.service.workers


def _flushers(scene: Scene) -> set[int]:
    return scene.flushers


def _refreshers(scene: Scene) -> set[int]:
    return scene.refreshers


@contextlib.contextmanager
def _redis_hangs(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.redis.pause()
    try:
        yield
    finally:
        scene.redis.resume()


@contextlib.contextmanager
def _redis_killed(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.redis.kill()
    try:
        yield
    finally:
        scene.redis.start()  # without persistence: empty


@contextlib.contextmanager
def _mariadb_hangs(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.mariadb.pause()
    try:
        yield
    finally:
        scene.mariadb.resume()


@contextlib.contextmanager
def _mariadb_killed(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.mariadb.kill()
    try:
        yield
    finally:
        scene.mariadb.start()


@contextlib.contextmanager
def _mariadb_stopped(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.mariadb.stop()
    try:
        yield
    finally:
        scene.mariadb.start()


@contextlib.contextmanager
def _mariadb_read_only(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.mariadb.execute("SET GLOBAL read_only = ON")
    try:
        yield
    finally:
        scene.mariadb.execute("SET GLOBAL read_only = OFF")


@contextlib.contextmanager
def _disk_full(scene: Scene, rng: random.Random) -> Iterator[None]:
    with scene.full_disk():
        yield


@contextlib.contextmanager
def _disk_full_for_a_new_worker(scene: Scene, rng: random.Random) -> Iterator[None]:
    """It begins with nothing of its own on the disk, and no room to make it."""
    with _disk_full(scene, rng), _killed(_workers)(scene, rng):
        yield


@contextlib.contextmanager
def _reload(scene: Scene, rng: random.Random) -> Iterator[None]:
    """All workers are replaced, and finish what they have."""
    before = scene.service.workers
    os.kill(scene.service.process.pid, signal.SIGHUP)
    yield
    scene.service.wait_until(lambda: not before & scene.service.workers)


@contextlib.contextmanager
def _service_killed(scene: Scene, rng: random.Random) -> Iterator[None]:
    scene.kill_service()
    try:
        yield
    finally:
        scene.start_service()
        scene.wait_until_ready()


@contextlib.contextmanager
def _second_reader_killed(scene: Scene, rng: random.Random) -> Iterator[None]:
    """A program that counts what is in the log, and keeps its mark with its counts."""
    scene.second_reader.kill()
    try:
        yield
    finally:
        scene.second_reader.start()


@contextlib.contextmanager
def _all_killed(scene: Scene, rng: random.Random) -> Iterator[None]:
    """And started again in any order."""
    for kill in rng.sample([scene.kill_service, scene.second_reader.kill, scene.redis.kill, scene.mariadb.kill], 4):
        kill()
    try:
        yield
    finally:
        starts = [scene.start_service, scene.second_reader.start, scene.redis.start, scene.mariadb.start]
        for start in rng.sample(starts, 4):
            start()
        scene.wait_until_ready()


KINDS = (
    Kind("worker killed", _killed(_workers), (0.5, 1.5)),
    Kind("flusher killed", _killed(_flushers), (0.5, 1.5)),
    Kind("refresher killed", _killed(_refreshers), (0.5, 1.0)),
    Kind("worker hangs", _stopped(_workers), (1.0, 4.0)),
    Kind("flusher hangs", _stopped(_flushers), (2.0, 4.0)),
    Kind("Redis hangs", _redis_hangs, (1.0, 4.0)),
    Kind("Redis killed, empty afterwards", _redis_killed, (0.2, 3.0)),
    Kind("MariaDB hangs", _mariadb_hangs, (2.0, 6.0)),
    Kind("MariaDB killed", _mariadb_killed, (0.2, 4.0)),
    Kind("MariaDB stopped", _mariadb_stopped, (0.2, 4.0)),
    Kind("MariaDB read-only", _mariadb_read_only, (2.0, 5.0)),
    Kind("disk full", _disk_full, (2.0, 5.0), needs_disk=True),
    Kind("disk full, worker killed", _disk_full_for_a_new_worker, (3.0, 5.0), needs_disk=True),
    Kind("reload (HUP)", _reload, (0.5, 1.5)),
    Kind("service killed", _service_killed, (0.2, 1.5)),
    Kind("everything killed", _all_killed, (0.2, 1.5)),
    Kind("second reader killed", _second_reader_killed, (0.1, 2.0)),
)


def drawn(seed: int, count: int, *, has_disk: bool) -> list[Kind]:
    """So many, the same for the same seed: each kind once before any comes again."""
    rng = random.Random(f"kinds {seed}")
    kinds: list[Kind] = []
    while len(kinds) < count:
        kinds += rng.sample(KINDS, len(KINDS))
    return [kind for kind in kinds[:count] if has_disk or not kind.needs_disk]
