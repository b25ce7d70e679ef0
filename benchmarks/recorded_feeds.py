"""`recs evaluate off-policy` over a million feeds of 24: how long it takes, and how much memory.

python -m benchmarks.recorded_feeds [--feeds 1000000] [--keep FOLDER]     minutes, and 5 GB

A service makes some feeds of real people with a shadow, and is told what they did; the flusher brings both into SQLite.
Then these rows are copied within the database, with other numbers of people and requests, and at other times.
"""

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recommendation_service.core.config import Settings
from recommendation_service.core.output import print_rows
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import PolicyStore
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, recs

PEOPLE, ROUNDS, SLOTS = 125, 8, 24
MADE = PEOPLE * ROUNDS
EVENTS = ("view", "save", "impression")  # of three items of each feed
EVERY_SECONDS = 0.2
READERS = 2  # processes, beside which there are others that read: the command and what multiprocessing keeps
OF_ONE_PERSON = 3  # copies
_NAMES = ("happened_at", "received_at")


def main() -> None:
    """Entry of ``python -m benchmarks.recorded_feeds``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorded_feeds", description=__doc__.splitlines()[0])
    parser.add_argument("--feeds", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make them there, or weigh what is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        version = folder / "version"
        if not version.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            made = make_feeds(folder)
            copy_feeds(folder / "data", options.feeds // MADE)
            version.write_text(made)
        _tell(weigh(folder, version.read_text()))


def make_feeds(folder: Path) -> str:
    """The shadow's version."""
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    store, deed = PolicyStore(folder / "data" / "policies", keep=10), Deed(datetime.now(UTC), "bench", "to see")
    shadow = store.publish(read_policy_file().replace(b"alpha = 1.", b"alpha = 1.1"), None, deed, aside=True)
    store.shadow([shadow], deed)
    draw = np.random.default_rng(1)
    with logs_left_alone(), served(make_app(folder / "data", event_flusher=False)) as client:
        for number in range(MADE):
            user = 11 + number % PEOPLE
            body = client.post("/api/search/total", json={"SELF_ID": user, "N_VIDEOS": SLOTS}).json()["body"]
            places = draw.choice(SLOTS, len(EVENTS), replace=False).tolist()
            events = [
                {
                    "event_id": f"{number:08x}-{name}",
                    "event": name,
                    "user_id": user,
                    "item_type": body["items"][place].get("type", "resume"),
                    "item_id": int(body["mix_ids"][place]),
                    "request_id": body["request_id"],
                    **({"watch_seconds": 20} if name == "view" else {}),
                }
                for name, place in zip(EVENTS, places, strict=True)
            ]
            client.post("/api/feedback", json=events).raise_for_status()
    recs("events", "flush", folder=folder).check_returncode()
    return shadow


def copy_feeds(data_dir: Path, times: int) -> None:
    """Of each row so many in all. What rows refer to one another by changes in the same way in both."""
    (file,) = data_dir.glob("*.sqlite")
    with closing(sqlite3.connect(file)) as database, database:
        run = database.execute
        run("PRAGMA journal_mode = OFF")
        run("PRAGMA synchronous = OFF")
        indices = run(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'recs_events' AND sql > ''"
        )
        made = indices.fetchall()
        for name, _ in made:
            run(f"DROP INDEX {name}")
        columns = [row[1] for row in run("PRAGMA table_info(recs_events)") if row[1] != "id"]
        changed = {
            "event_id": "substr(printf('%08x', copy) || event_id, 1, 128)",
            "request_id": "printf('%08x', copy * 2654435761 % 4294967296) || substr(request_id, 9)",
            "user_id": f"user_id + 1000000 * (copy / {OF_ONE_PERSON})",
            **{name: f"strftime('%Y-%m-%d %H:%M:%f', {name}, printf('-%d seconds', copy))" for name in _NAMES},
        }
        selected = ", ".join(changed.get(name, name) for name in columns)
        run("CREATE TEMP TABLE first AS SELECT * FROM recs_events ORDER BY id")
        for copy in range(1, times):
            statement = f"INSERT INTO recs_events ({', '.join(columns)}) SELECT {selected} FROM first"
            run(statement.replace("copy", str(copy)))
        for _, sql in made:
            run(sql)


class Weighed(NamedTuple):
    said: dict[str, Any]
    seconds: float
    processor: float  # seconds, of all processes
    memory: list[tuple[float, float, int]]  # every so often: MB, proportional and resident, and of how many processes


def weigh(folder: Path, version: str) -> Weighed:
    command = (sys.executable, "-m", "recommendation_service", "evaluate", "off-policy", "--json", "--policy", version)
    until = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    environment = os.environ | {"DATA_DIR": str(folder / "data")}
    begins, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = subprocess.Popen((*command, "--until", until), env=environment, stdout=subprocess.PIPE)
    seen: list[tuple[float, float, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            memory = [found for pid in _tree(running.pid) if (found := _memory(pid)) is not None]
            seen.append((sum(one[0] for one in memory), sum(one[1] for one in memory), len(memory)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = running.communicate()
    took = time.monotonic() - begins
    over.set()
    watcher.join()
    if running.returncode != 0:
        raise SystemExit(f"it ended with {running.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Weighed(json.loads(said), took, processor, seen)


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _memory(pid: int) -> tuple[float, float] | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = {line.split(":")[0]: float(line.split()[1]) * 1024 / 1e6 for line in lines[1:]}
    return found["Pss"], found["Rss"]


def _tell(weighed: Weighed) -> None:
    seen = weighed.memory
    at, peak = max(enumerate(seen), key=lambda one: one[1][0])
    row = {
        "feeds": f"{weighed.said['feeds']:,}",
        "people": f"{weighed.said['users']:,}",
        "seconds": f"{weighed.seconds:.1f}",
        "of processors": f"{weighed.processor:.1f}",
        "most MB, proportional": f"{peak[0]:,.0f}",
        "then processes": str(peak[2]),
        "and seconds": f"{at * EVERY_SECONDS:.0f}",
        "most while others read": f"{max((one[0] for one in seen if one[2] > READERS), default=0.0):,.0f}",
        "most MB, resident": f"{max(one[1] for one in seen):,.0f}",
    }
    print_rows(list(row), [list(row.values())], right=set(range(len(row))))


if __name__ == "__main__":
    main()
