"""What goes into the database and comes out of it, here beside another commit: flushes, and users outside the catalog.

In turn, in two databases of one private MariaDB. On a machine that others use too, times say little and processor time
more: of the flusher or the workers, and of the server.
"""

import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import msgspec
from sqlalchemy import NullPool, create_engine, inspect
from sqlalchemy.engine import URL

from benchmarks.beside import Figures, Row, Told, checkout, rows_of_pairs
from benchmarks.database import create_indices
from benchmarks.events import DEFAULTS, write_log
from benchmarks.server import (
    FEED_PATH,
    OWN_APPLICATION,
    ROOT,
    Service,
    drive,
    feed_script,
    running_service,
    write_script,
)
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.demo import load_invented
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.telemetry.processes import cpu_seconds
from tests.servers import PrivateMariaDB

FEEDS = 10_000
FLUSH_SECONDS = 300  # many times what a flush of so many feeds takes
STEADY_FEEDS_PER_SECOND = 1_000
# So many may wait for their answers at once before the rate falls: on a machine that others use, answers take long.
STEADY_CONNECTIONS = 256
# Each request has its moment, whatever the answers before took; what came too late is made up for.
STEADY = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, nanoseconds; } moment; int clock_gettime(int, moment *);")
local moment = ffi.new("moment")
local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) * 1000 + tonumber(moment.nanoseconds) / 1e6
end
local due
function delay()
  due = due and due + %f or now()
  return math.max(0, math.floor(due - now()))
end
"""
QUIET = {"CATALOG_REFRESH_SECONDS": "3600", "EVENT_LOG_MEGABYTES": "8192"}
UNFLUSHED = {**QUIET, "EVENT_FLUSHER": "false"}
FLUSHED = {**QUIET, "FLUSH_INTERVAL_SECONDS": "1"}


@dataclass
class Side:
    """One of the two commits, and its database."""

    name: str
    tree: Path
    url: URL
    folder: Path
    payloads: Sequence[bytes]  # records of its feeds, as it writes them
    outside: Sequence[int]  # users who are not in its catalog

    def service_folder(self, what: str) -> Path:
        folder = self.folder / f"{self.name}-{what}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def measure_flush_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Feeds from the log into both tables, when asked for. Raises CalledProcessError where there is no such commit, as
    the next do."""
    del seconds  # as long as it takes
    with _sides(commit, folder, told) as (server, sides):
        pairs = _pairs(sides, rounds, told, lambda side, _: _flush(side, server))
    return rows_of_pairs(f"{FEEDS:,} feeds, flush asked for: ", pairs)


def measure_served_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """The same while feeds are served, for long enough that rests find their share."""
    with _sides(commit, folder, told) as (server, sides):
        pairs = _pairs(sides, rounds, told, lambda side, _: _flush_served(side, server, seconds))
    return rows_of_pairs("flush while served by 32 connections: ", pairs)


def measure_outsiders_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Feeds of users who are not in the catalog, nearly each the first of its user."""
    with _sides(commit, folder, told) as (server, sides):
        pairs = _pairs(sides, rounds, told, lambda side, number: _serve_outsiders(side, server, number, seconds))
    return rows_of_pairs("users outside the catalog, each for the first time: ", pairs)


def measure_overdue(folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """How late the oldest event is at most while a steady rate of feeds is served and flushed: the worst."""
    told("filling a private MariaDB with the demo", 0.0)
    with PrivateMariaDB(folder / "overdue-mariadb", options=DEFAULTS) as server:
        side = _side(server, "here", ROOT, folder)
        found = []
        for number in range(rounds):
            told(f"{STEADY_FEEDS_PER_SECOND:,} feeds a second", number / rounds)
            found.append(_keep_up(side, seconds))
    rows = []
    for figure in found[0]:
        least = figure.startswith("feeds")
        here = (min if least else max)(figures[figure] for figures in found)
        rows.append(Row(f"{figure}, {'least' if least else 'most'} of {rounds}", 0, here, 0, (0, 0)))
    return rows


@contextmanager
def _sides(commit: str, folder: Path, told: Told) -> Iterator[tuple[PrivateMariaDB, list["Side"]]]:
    told(f"setting up {commit}", 0.0)
    with (
        checkout(commit, folder / "there") as there,
        PrivateMariaDB(folder / "beside-mariadb", options=DEFAULTS) as server,
    ):
        sides = []
        for name, tree in (("there", there), ("here", ROOT)):
            told(f"filling a private MariaDB with the demo, {name}", 0.0)
            sides.append(_side(server, name, tree, folder))
        yield server, sides


def _side(server: PrivateMariaDB, name: str, tree: Path, folder: Path) -> Side:
    """With the demo and phase 1's indices, records of some thousand feeds, and nothing flushed."""
    server.execute(f"CREATE DATABASE {name}")
    url = server.url(name)
    engine = create_engine(url, poolclass=NullPool)
    load_invented(engine, replace=True)
    create_indices(url)
    side = Side(name, tree, url, folder, [], [])
    data_dir = side.service_folder("log")
    with running_service(url, data_dir, 2, settings=UNFLUSHED, tree=tree, application=OWN_APPLICATION) as service:
        drive(service, FEED_PATH, write_script(data_dir, data_dir), 2)
    side.payloads = [p for path in sorted((data_dir / "events").glob(f"*{SUFFIX}")) for p in scan(path).payloads][:2000]
    store = CatalogStore(data_dir / "catalogs", 3)
    inside = set(store.open(str(store.current()), verify=False).arrays.user_id.tolist())
    with engine.connect() as connection:
        users = [int(user) for (user,) in connection.exec_driver_sql("SELECT id FROM users")]
    side.outside = [user for user in users if user not in inside]
    random.Random(1).shuffle(side.outside)
    engine.dispose()
    return side


def _pairs(
    sides: list[Side], rounds: int, told: Told, run: Callable[[Side, int], Figures]
) -> list[tuple[Figures, Figures]]:
    """They begin with either side in turn."""
    pairs = []
    for number in range(rounds):
        found = {}
        for place, side in enumerate(sides if number % 2 == 0 else sides[::-1]):
            told(f"run {number + 1} of {rounds}, {side.name}", (2 * number + place) / (2 * rounds))
            found[side.name] = run(side, number)
        pairs.append((found["there"], found["here"]))
    return pairs


def _flush(side: Side, server: PrivateMariaDB) -> Figures:
    """Each time other feeds: the recorded ones under new ids."""
    folder = side.service_folder("asked")
    write_log(folder / "events", (_another(side.payloads[number % len(side.payloads)]) for number in range(FEEDS)))
    before = cpu_seconds(server.pid) or 0.0
    done = subprocess.run(
        [_python(side), Path(__file__).with_name("flush_once.py"), side.url.render_as_string(False), folder],
        cwd=side.tree,
        env={**os.environ, "PYTHONPATH": str(side.tree)},
        check=True,
        capture_output=True,
        text=True,
        timeout=FLUSH_SECONDS,
    )
    took = json.loads(done.stdout.splitlines()[-1])
    if not took["whole"] or took["flushed"]["feed"] != FEEDS:
        raise RuntimeError(f"not all feeds were flushed: {took}")
    return {
        "feeds a second": FEEDS / took["seconds"],
        "processor time of the flusher a feed, µs": took["own_seconds"] / FEEDS * 1e6,
        "of the server, µs": ((cpu_seconds(server.pid) or 0.0) - before) / FEEDS * 1e6,
    }


def _another(payload: bytes) -> bytes:
    fields = msgspec.msgpack.decode(payload)
    fields[1], fields[2] = os.urandom(16), os.urandom(16)  # event_id, request_id
    return msgspec.msgpack.encode(fields)


def _python(side: Side) -> str:
    return str(side.tree / ".venv/bin/python")


def _flush_served(side: Side, server: PrivateMariaDB, seconds: int) -> Figures:
    folder = side.service_folder("served")
    if _events(side):  # what is there already, a flusher up to 5484959 reads before it begins
        server.execute(f"TRUNCATE TABLE {side.url.database}.recs_events")
    with running_service(side.url, folder, 2, settings=FLUSHED, tree=side.tree, application=OWN_APPLICATION) as service:
        server_seconds = cpu_seconds(server.pid) or 0.0
        load = drive(service, FEED_PATH, write_script(folder, folder), seconds)
        flushed = _events(side)
        own = _sample(service, 'recs_cpu_seconds_total{process="flusher"}')
        server_seconds = (cpu_seconds(server.pid) or 0.0) - server_seconds
    return {
        "feeds flushed a second": flushed / seconds,
        "feeds served a second": load.requests_per_second,
        "processor time of flusher and server a flushed feed, µs": (own + server_seconds) / max(1, flushed) * 1e6,
    }


def _events(side: Side) -> int:
    """How many are in the table; 0 as well where nothing has made it yet."""
    engine = create_engine(side.url, poolclass=NullPool)
    with engine.connect() as connection:
        is_there = inspect(connection).has_table("recs_events")
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM recs_events").scalar_one() if is_there else 0
    engine.dispose()
    return int(count)


def _sample(service: Service, name: str) -> float:
    """Of /metrics, all whose name begins so."""
    with urlopen(f"{service.address}/metrics", timeout=30) as answer:  # noqa: S310 - our own service
        found = re.findall(rf"^{re.escape(name)}\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


def _serve_outsiders(side: Side, server: PrivateMariaDB, number: int, seconds: int) -> Figures:
    folder = side.service_folder("outside")
    with running_service(
        side.url, folder, 2, settings=UNFLUSHED, tree=side.tree, application=OWN_APPLICATION
    ) as service:
        share = len(side.outside) // 8
        users = side.outside[number % 8 * share :][:share]
        script = feed_script(folder, users)
        drive(service, FEED_PATH, script, 1)  # the first thousand or so once more below, then others
        before, server_seconds = _reads(service), cpu_seconds(server.pid) or 0.0
        workers = sum(cpu_seconds(pid) or 0.0 for pid in service.workers())
        load = drive(service, FEED_PATH, feed_script(folder, users[::-1]), seconds)
        workers = sum(cpu_seconds(pid) or 0.0 for pid in service.workers()) - workers
        server_seconds = (cpu_seconds(server.pid) or 0.0) - server_seconds
        reads, without = (then - at_first for then, at_first in zip(_reads(service), before, strict=True))
    return {
        "requests a second": load.requests_per_second,
        "requests a second that were answered with their facts": max(0.0, load.requests_per_second - without / seconds),
        "users read a second": reads / seconds,
        "processor time of workers and server a user read, µs": (workers + server_seconds) / max(1.0, reads) * 1e6,
    }


def _reads(service: Service) -> tuple[float, float]:
    """Users that were read, and requests that went on without their user: whose read was late, failed or not begun."""
    refused = sum(_sample(service, f'recs_cache_reads_total{{outcome="{o}"}}') for o in ("busy", "skipped", "failed"))
    reads = _sample(service, "recs_cache_reads_total") - refused
    return reads, refused + _sample(service, "recs_cache_late_total")


def _keep_up(side: Side, seconds: int) -> Figures:
    """How late the oldest event is at most, at a steady rate."""
    folder = side.service_folder("steady")
    overdue, over = [0.0], threading.Event()
    with running_service(side.url, folder, 2, settings=FLUSHED, tree=side.tree, application=OWN_APPLICATION) as service:

        def watch() -> None:
            while not over.wait(1):
                overdue.append(_sample(service, "recs_events_overdue_seconds"))

        script = write_script(folder, folder)
        script.write_text(script.read_text() + STEADY % (1000 / STEADY_FEEDS_PER_SECOND))
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            load = drive(service, FEED_PATH, script, seconds, connections=STEADY_CONNECTIONS)
        finally:
            over.set()
            watching.join()
    return {
        "feeds a second": load.requests_per_second,
        "seconds that an event is overdue": max(overdue),
        "errors": float(load.errors),
    }
