"""What recording and remembering cost a feed, and how many calls of /feedback the service takes."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.server import FEED_PATH, OFF, Load, Service, drive, running_service, users_with_history, write_script
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
        address = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "REDIS_PASSWORD": redis.password}
        calls = {
            "without Redis": _calls(database, folder / "alone", {}, seconds),
            "with Redis": _calls(database, folder / "beside", address, seconds),
        }
    every = [load for first, second, _ in (*pairs, *late) for load in (first, second)] + loads + list(calls.values())
    return FeedbackFigures(
        first=_share(pairs),
        late=_share(late[-COUNTED_LATE:]),
        flushing=Share(on_rate / alone, on_rate, alone, flushed / users),
        errors=sum(load.errors for load in every),
        calls=calls,
    )


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
