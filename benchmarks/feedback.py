"""What recording and remembering cost a feed, and how many calls of /feedback the service takes."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.server import FEED_PATH, OFF, Load, drive, running_service, write_script
from tests.servers import PrivateRedis

FEEDBACK_PATH = "/api/feedback"
EVENTS_A_CALL = 10
USERS = 20_000
# What one service writes to the database would have both build catalogs, at whatever moment of the other's run.
NO_BUILDS = {"CATALOG_REFRESH_SECONDS": "3600"}


@dataclass
class FeedbackFigures:
    """Medians over rounds that alternate."""

    on: float  # feeds a second with recording and memory
    off: float
    share: float
    errors: int
    calls: dict[str, Load]  # of /feedback, by what is beside it


def measure_feedback(database: URL, folder: Path, rounds: int, seconds: int) -> FeedbackFigures:
    """Two services side by side, one at work at a time; then /feedback without and with Redis."""
    with_all, without = folder / "on", folder / "off"
    for each in (with_all, without):
        each.mkdir(parents=True, exist_ok=True)
    with (
        running_service(database, with_all, 2, settings=NO_BUILDS) as on,
        running_service(database, without, 2, settings={**OFF, **NO_BUILDS}) as off,
    ):
        script = write_script(folder, with_all)
        for service in (on, off):
            drive(service, FEED_PATH, script, 2)
        pairs = [(drive(on, FEED_PATH, script, seconds), drive(off, FEED_PATH, script, seconds)) for _ in range(rounds)]
        calls = {"without Redis": _calls(database, folder / "alone", {}, seconds)}
    with PrivateRedis(folder / "redis") as redis:
        address = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "REDIS_PASSWORD": redis.password}
        calls["with Redis"] = _calls(database, folder / "beside", address, seconds)
    return FeedbackFigures(
        on=statistics.median(a.requests_per_second for a, _ in pairs),
        off=statistics.median(b.requests_per_second for _, b in pairs),
        share=statistics.median(a.requests_per_second / b.requests_per_second for a, b in pairs),
        errors=sum(a.errors + b.errors for a, b in pairs) + sum(load.errors for load in calls.values()),
        calls=calls,
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
