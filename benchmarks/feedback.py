"""What recording and remembering cost a feed, and how many calls of /feedback the service takes, also beside
another commit's."""

import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.beside import Figures, Row, Told, checkout, make_demo, processor_seconds, rows_of_pairs
from benchmarks.server import (
    FEED_PATH,
    OFF,
    OWN_APPLICATION,
    ROOT,
    Load,
    Service,
    drive,
    running_service,
    users_with_history,
    write_script,
)
from recommendation_service.telemetry.processes import cpu_seconds
from tests.servers import PrivateRedis

FEEDBACK_PATH = "/api/feedback"
EVENTS_A_CALL = 10
USERS = 20_000
# What one service writes to the database would have both build catalogs, at whatever moment of the other's run.
NO_BUILDS = {"CATALOG_REFRESH_SECONDS": "3600"}
# What is recorded goes into the database afterwards: that, too, would fall into the other's run.
UNFLUSHED = {**NO_BUILDS, "EVENT_FLUSHER": "false", "EVENT_LOG_MEGABYTES": "8192"}
FIRST_PAGES = 12  # of 24 items, that a user is shown while they are all remembered
FRESH_STARTS = 3
FIRST_SECONDS = 2
LATE_ROUNDS = 8
COUNTED_LATE = 3  # the last ones


@dataclass
class Share:
    """Rates with and without, in runs of which each was beside the other; medians."""

    share: float
    on: float  # feeds a second
    off: float
    pages: float  # that each user had been shown at the end


@dataclass
class FeedbackFigures:
    """Medians over rounds that alternate."""

    first: Share  # users on their first pages
    late: Share  # users who were shown most of what there is
    flushing: Share  # the first pages, beside a flusher, which rests for nine times as long as it works
    errors: int
    calls: dict[str, Load]  # of /feedback, by what is beside it


def measure_feedback(database: URL, folder: Path, seconds: int) -> FeedbackFigures:
    """Two services side by side, one at work at a time; then /feedback without and with Redis."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(database, _made(folder / "off"), 2, settings={**OFF, **NO_BUILDS}) as off:
        script = write_script(folder, folder / "off")
        users = len(users_with_history(folder / "off"))
        drive(off, FEED_PATH, script, 2)
        pairs: list[tuple[Load, Load, float]] = []
        late: list[tuple[Load, Load, float]] = []
        for start in range(FRESH_STARTS):
            with running_service(database, _made(folder / f"on-{start}"), 2, settings=UNFLUSHED) as on:
                pages = drive(on, FEED_PATH, script, 1).requests_per_second / users
                while True:
                    pair = _pair(on, off, script, FIRST_SECONDS)
                    pages += FIRST_SECONDS * pair[0].requests_per_second / users
                    if pages > FIRST_PAGES and pairs:
                        break
                    pairs.append((*pair, pages))
                if start == FRESH_STARTS - 1:
                    for _ in range(LATE_ROUNDS):
                        pair = _pair(on, off, script, seconds)
                        pages += seconds * pair[0].requests_per_second / users
                        late.append((*pair, pages))
        with running_service(
            database, _made(folder / "flushing"), 2, settings={**NO_BUILDS, "FLUSH_INTERVAL_SECONDS": "1"}
        ) as on:
            loads = [drive(on, FEED_PATH, script, FIRST_SECONDS) for _ in range(4)]
    alone = statistics.median(load.requests_per_second for _, load, _ in pairs)
    on_rate = statistics.median(load.requests_per_second for load in loads[1:])
    flushed = sum(load.requests_per_second for load in loads) * FIRST_SECONDS
    with PrivateRedis(folder / "redis") as redis:
        calls = {
            "without Redis": _calls(database, folder / "alone", {}, seconds),
            "with Redis": _calls(database, folder / "beside", _address(redis), seconds),
        }
    every = [load for first, second, _ in (*pairs, *late) for load in (first, second)] + loads + list(calls.values())
    return FeedbackFigures(
        first=_share(pairs),
        late=_share(late[-COUNTED_LATE:]),
        flushing=Share(on_rate / alone, on_rate, alone, flushed / users),
        errors=sum(load.errors for load in every),
        calls=calls,
    )


def measure_feedback_beside(commit: str, folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Calls of /feedback with ten events, with Redis: one each, as both are at work in turn, and one forgets nothing.
    Raises CalledProcessError where there is no such commit."""
    told(f"setting up {commit}", 0.0)
    database = make_demo(folder)
    pairs: list[tuple[Figures, Figures]] = []
    with checkout(commit, folder / "there") as there, ExitStack() as stack:
        sides = []
        for name, tree in (("there", there), ("here", ROOT)):
            data_dir = _made(folder / f"feedback-{name}")
            redis = stack.enter_context(PrivateRedis(data_dir / "redis"))
            url = URL.create("sqlite", database=str(shutil.copy(database, data_dir / "demo.sqlite")))
            settings = {**UNFLUSHED, **_address(redis)}
            starting = running_service(url, data_dir, 2, settings=settings, tree=tree, application=OWN_APPLICATION)
            sides.append((stack.enter_context(starting), redis))
        script = _write_script(folder)
        for service, _ in sides:
            drive(service, FEEDBACK_PATH, script, 1)
        for number in range(rounds):
            told("calls of /feedback, in turn", number / rounds)
            order = sides if number % 2 == 0 else sides[::-1]
            found = [_calls_beside(service, redis, script, seconds) for service, redis in order]
            pairs.append((found[0], found[1]) if number % 2 == 0 else (found[1], found[0]))
    return rows_of_pairs("/feedback with Redis, 10 events a call: ", pairs)


def _calls_beside(service: Service, redis: PrivateRedis, script: Path, seconds: int) -> Figures:
    before, of_redis = sum(processor_seconds(service)), cpu_seconds(redis.pid) or 0.0
    load = drive(service, FEEDBACK_PATH, script, seconds)
    workers, of_redis = sum(processor_seconds(service)) - before, (cpu_seconds(redis.pid) or 0.0) - of_redis
    calls = max(1.0, load.requests_per_second * seconds)
    return {
        "calls a second": load.requests_per_second,
        "P99, ms": load.p99_ms,
        "processor time of workers a call, µs": workers / calls * 1e6,
        "of Redis, µs": of_redis / calls * 1e6,
        "errors": float(load.errors),
    }


def _address(redis: PrivateRedis) -> dict[str, str]:
    return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "REDIS_PASSWORD": redis.password}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pair(on: Service, off: Service, script: Path, seconds: int) -> tuple[Load, Load]:
    return drive(on, FEED_PATH, script, seconds), drive(off, FEED_PATH, script, seconds)


def _share(pairs: Sequence[tuple[Load, Load, float]]) -> Share:
    return Share(
        share=statistics.median(on.requests_per_second / off.requests_per_second for on, off, _ in pairs),
        on=statistics.median(on.requests_per_second for on, _, _ in pairs),
        off=statistics.median(off.requests_per_second for _, off, _ in pairs),
        pages=max(pages for _, _, pages in pairs),
    )


def _calls(database: URL, folder: Path, settings: Mapping[str, str], seconds: int) -> Load:
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(database, folder, 2, settings=settings) as service:
        script = _write_script(folder)
        drive(service, FEEDBACK_PATH, script, 2)
        return drive(service, FEEDBACK_PATH, script, seconds)


def _write_script(folder: Path) -> Path:
    """A wrk script of calls with ten events each, of one user, every call and event another."""
    script = folder / "feedback.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        "math.randomseed(os.time())\n"
        "local run, at = math.random(1e9), 0\n"
        'local kinds = {"impression", "view", "like", "save", "skip"}\n'
        "request = function()\n"
        "  at = at + 1\n"
        "  local events = {}\n"
        f"  for i = 1, {EVENTS_A_CALL} do\n"
        '    events[i] = string.format(\'{"event":"%s","user_id":%d,"item_type":"resume","item_id":%d,'
        '"position":%d,"event_id":"%d-%d-%d"}\',\n'
        f"      kinds[i % 5 + 1], at % {USERS} + 1, math.random(2200), i, run, at, i)\n"
        "  end\n"
        "  return wrk.format(nil, nil, nil, '[' .. table.concat(events, ',') .. ']')\n"
        "end\n"
        "done = function(summary, latency, requests)\n"
        "  local e = summary.errors\n"
        "  io.write(string.format('RESULT %d %d %d %d %d\\n', summary.requests, summary.duration, summary.bytes,\n"
        "    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))\n"
        "end\n"
    )
    return script
