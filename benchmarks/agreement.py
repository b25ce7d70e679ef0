"""Whether test_load_performance.py, wrk and ab see the same rate of one service."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.server import (
    CONNECTIONS,
    FEED_PATH,
    OFF,
    ROOT,
    Service,
    drive,
    only_on,
    running_service,
    users_with_history,
    write_script,
)
from tests.servers import find_program

SERVICE_CORE, GENERATOR_CORE = 0, 1


def measure_agreement(database: URL, folder: Path, rounds: int, seconds: int) -> dict[str, float]:
    """By the other program: our rate divided by its rate, the median of rounds that alternate the two.

    One worker on one core, and whoever asks on another, as a load test should be run: on shared cores a rate says as
    much of the generator, and ours is in Python. ab speaks HTTP/1.0, so that the service closes after each answer:
    beside it, ours asks for that as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(database, folder, 1, settings=OFF, core=SERVICE_CORE) as service:
        script = write_script(folder, folder)
        users = folder / "users.txt"
        users.write_text("\n".join(map(str, users_with_history(folder))))
        drive(service, FEED_PATH, script, 2, GENERATOR_CORE)
        beside: dict[str, list[float]] = {"wrk": [], "ab": []}
        for _ in range(rounds):
            wrk = drive(service, FEED_PATH, script, seconds, GENERATOR_CORE).requests_per_second
            beside["wrk"].append(_ours(service, seconds, "--users", str(users)) / wrk)
            ab = _ab(service, folder, seconds)
            beside["ab"].append(_ours(service, seconds, "--no-keep-alive", "--users", "7") / ab)
    return {name: statistics.median(ratios) for name, ratios in beside.items()}


def _ours(service: Service, seconds: int, *options: str) -> float:
    done = subprocess.run(
        [
            *(*only_on(GENERATOR_CORE), sys.executable, "test_load_performance.py", service.address, "--json"),
            *("-c", str(CONNECTIONS), "-d", str(seconds), "--warm-up", "0.2", *options),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    return float(json.loads(done.stdout)["requests_per_second"])


def _ab(service: Service, folder: Path, seconds: int) -> float:
    payload = folder / "payload.json"
    payload.write_text('{"SELF_ID": 7, "N_VIDEOS": 24}')
    said = subprocess.run(
        [
            *[*only_on(GENERATOR_CORE), find_program("ab", "apache2-utils")],
            *("-q", "-l", "-t", str(seconds), "-n", "1000000"),
            *("-c", str(CONNECTIONS), "-p", str(payload), "-T", "application/json", f"{service.address}{FEED_PATH}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    match = re.search(r"Requests per second: +([\d.]+)", said)
    if match is None:
        raise RuntimeError(f"ab said:\n{said}")
    return float(match[1])
