"""What goes into the database and comes out of it, here beside another commit: flushes, and users outside the catalog.

In turn, in two databases of one private MariaDB. On a machine that others use too, times say little and processor time
more: of the flusher or the workers, and of the server.
"""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import msgspec
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from benchmarks.beside import Row, checkout
from benchmarks.database import create_indices
from benchmarks.events import DEFAULTS, write_log
from benchmarks.server import CONNECTIONS, FEED_PATH, ROOT, Service, drive, feed_script, running_service, write_script
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.demo import load_interacpedia
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.telemetry.processes import cpu_seconds
from tests.servers import PrivateMariaDB

FEEDS = 10_000
# Long enough for rests to have found their share.
SERVED_SECONDS = 40
STEADY_FEEDS_PER_SECOND = 1_000
QUIET = {"CATALOG_REFRESH_SECONDS": "3600", "EVENT_LOG_MEGABYTES": "8192"}
UNFLUSHED = {**QUIET, "EVENT_FLUSHER": "false"}
FLUSHED = {**QUIET, "FLUSH_INTERVAL_SECONDS": "1"}
Figures = dict[str, float]


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


def measure_database_beside(commit: str, folder: Path, rounds: int, seconds: int) -> list[Row]:
    """Raises CalledProcessError where there is no such commit."""
    with checkout(commit, folder / "there") as there:
        return measure_trees(there, folder, rounds, seconds)


def measure_trees(there: Path, folder: Path, rounds: int, seconds: int) -> list[Row]:
    """Medians of pairs, which begin with either side in turn. ``seconds``: of a run over users outside the catalog."""
    with PrivateMariaDB(folder / "beside-mariadb", options=DEFAULTS) as server:
        sides = [_side(server, name, tree, folder) for name, tree in (("there", there), ("here", ROOT))]
        asked = _pairs(sides, rounds, lambda side, _: _flush(side, server))
        served = _pairs(sides, min(rounds, 3), lambda side, _: _flush_served(side, server))
        outside = _pairs(sides, rounds, lambda side, number: _serve_outsiders(side, server, number, seconds))
        steady = _keep_up(sides[1])
    return [
        *_rows(f"{FEEDS:,} feeds, flush asked for: ", asked),
        *_rows("flush while served by 32 connections: ", served),
        *_rows("users outside the catalog, each for the first time: ", outside),
        Row(f"most overdue at {steady['feeds a second']:,.0f} feeds a second, s", 0, steady["overdue"], 0, (0, 0)),
    ]


def _side(server: PrivateMariaDB, name: str, tree: Path, folder: Path) -> Side:
    """With the demo and phase 1's indices, records of some thousand feeds, and nothing flushed."""
    server.execute(f"CREATE DATABASE {name}")
    url = server.url(name)
    engine = create_engine(url, poolclass=NullPool)
    load_interacpedia(engine, replace=True)
    create_indices(url)
    side = Side(name, tree, url, folder, [], [])
    data_dir = side.service_folder("log")
    with running_service(url, data_dir, 2, settings=UNFLUSHED, tree=tree) as service:
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


def _pairs(sides: list[Side], rounds: int, run: Callable[[Side, int], Figures]) -> list[tuple[Figures, Figures]]:
    pairs = []
    for number in range(rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        found = {side.name: run(side, number) for side in order}
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


def _flush_served(side: Side, server: PrivateMariaDB) -> Figures:
    folder = side.service_folder("served")
    # What is there already, a flusher up to 5484959 reads before it begins.
    server.execute(f"TRUNCATE TABLE {side.url.database}.recs_events")
    with running_service(side.url, folder, 2, settings=FLUSHED, tree=side.tree) as service:
        server_seconds = cpu_seconds(server.pid) or 0.0
        load = drive(service, FEED_PATH, write_script(folder, folder), SERVED_SECONDS)
        flushed = _events(side)
        own = _sample(service, 'recs_cpu_seconds_total{process="flusher"}')
        server_seconds = (cpu_seconds(server.pid) or 0.0) - server_seconds
    return {
        "feeds flushed a second": flushed / SERVED_SECONDS,
        "feeds served a second": load.requests_per_second,
        "processor time of flusher and server a flushed feed, µs": (own + server_seconds) / max(1, flushed) * 1e6,
    }


def _events(side: Side) -> int:
    engine = create_engine(side.url, poolclass=NullPool)
    with engine.connect() as connection:
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM recs_events").scalar_one()
    engine.dispose()
    return int(count)


def _sample(service: Service, name: str) -> float:
    """Of /metrics, all whose name begins so."""
    with urlopen(f"{service.address}/metrics", timeout=30) as answer:  # noqa: S310 - our own service
        found = re.findall(rf"^{re.escape(name)}\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


def _serve_outsiders(side: Side, server: PrivateMariaDB, number: int, seconds: int) -> Figures:
    folder = side.service_folder("outside")
    with running_service(side.url, folder, 2, settings=UNFLUSHED, tree=side.tree) as service:
        share = len(side.outside) // 8
        users = side.outside[number % 8 * share :][:share]
        script = feed_script(folder, users)
        drive(service, FEED_PATH, script, 1)  # the first thousand or so once more below, then others
        reads, server_seconds = _sample(service, "recs_cache_reads_total"), cpu_seconds(server.pid) or 0.0
        refused = _sample(service, 'recs_cache_reads_total{outcome="busy"}')
        workers = sum(cpu_seconds(pid) or 0.0 for pid in service.workers())
        load = drive(service, FEED_PATH, feed_script(folder, users[::-1]), seconds)
        workers = sum(cpu_seconds(pid) or 0.0 for pid in service.workers()) - workers
        server_seconds = (cpu_seconds(server.pid) or 0.0) - server_seconds
        refused = _sample(service, 'recs_cache_reads_total{outcome="busy"}') - refused
        reads = _sample(service, "recs_cache_reads_total") - reads - refused
    return {
        "requests a second": load.requests_per_second,
        "users read a second": reads / seconds,
        "processor time of workers and server a user read, µs": (workers + server_seconds) / max(1.0, reads) * 1e6,
    }


def _keep_up(side: Side) -> Figures:
    """How late the oldest event is at most, at a steady rate."""
    folder = side.service_folder("steady")
    overdue, over = [0.0], threading.Event()
    with running_service(side.url, folder, 2, settings=FLUSHED, tree=side.tree) as service:

        def watch() -> None:
            while not over.wait(1):
                overdue.append(_sample(service, "recs_events_overdue_seconds"))

        script = write_script(folder, folder)
        pause = 1000 * CONNECTIONS // STEADY_FEEDS_PER_SECOND
        script.write_text(script.read_text() + f"function delay() return {pause} end\n")
        watching = threading.Thread(target=watch)
        watching.start()
        load = drive(service, FEED_PATH, script, SERVED_SECONDS)
        over.set()
        watching.join()
    return {"overdue": max(overdue), "feeds a second": load.requests_per_second}


def _rows(what: str, pairs: list[tuple[Figures, Figures]]) -> list[Row]:
    rows = []
    for figure in pairs[0][0]:
        there, here = ([pair[side][figure] for pair in pairs] for side in (0, 1))
        ratios = [b / a for a, b in zip(there, here, strict=True) if a]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [*ratios, *ratios, *ratios]
        median = statistics.median
        rows.append(Row(what + figure, median(there), median(here), median(ratios), (quartiles[0], quartiles[2])))
    return rows
