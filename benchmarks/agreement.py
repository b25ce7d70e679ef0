"""Whether test_load_performance.py, wrk and ab see the same rate of one service."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.server import CONNECTIONS, FEED_PATH, OFF, ROOT, Service, drive, running_service, write_script
from tests.servers import find_program


def measure_agreement(database: URL, folder: Path, rounds: int, seconds: int) -> dict[str, float]:
    """By the other program: our rate divided by its rate, the median of rounds that alternate the two.

    ab speaks HTTP/1.0, so that the service closes after each answer: beside it, ours asks for that as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with running_service(database, folder, 2, settings=OFF) as service:
        script = write_script(folder, folder)
        drive(service, FEED_PATH, script, 2)
        beside: dict[str, list[float]] = {"wrk": [], "ab": []}
        for _ in range(rounds):
            wrk = drive(service, FEED_PATH, script, seconds).requests_per_second
            beside["wrk"].append(_ours(service, seconds) / wrk)
            ab = _ab(service, folder, seconds)
            beside["ab"].append(_ours(service, seconds, "--no-keep-alive", "--users", "7") / ab)
    return {name: statistics.median(ratios) for name, ratios in beside.items()}


def _ours(service: Service, seconds: int, *options: str) -> float:
    done = subprocess.run(
        [
            *(sys.executable, "test_load_performance.py", service.address, "--json"),
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
            *(find_program("ab", "apache2-utils"), "-q", "-l", "-t", str(seconds), "-n", "1000000"),
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
