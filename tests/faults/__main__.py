"""`make faults`: a storm, its ledger, and exit status 1 where a promise was broken."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from recommendation_service.core.config import Settings
from tests.conftest import SETTING_PREFIXES
from tests.faults.scene import remove
from tests.faults.storm import Plan, Report, run


def main() -> int:
    arguments = _arguments()
    # The settings of the person or machine that runs it are none of the service's.
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().startswith(SETTING_PREFIXES):
            del os.environ[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing stays behind
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10_000)
    plan = Plan(seed, arguments.faults, arguments.events, arguments.workers)
    folder = Path(tempfile.mkdtemp(prefix="recs-faults-"))
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    report = run(plan, folder, console.print)
    if arguments.json:
        sys.stdout.write(json.dumps(report.as_dict(), indent=1) + "\n")
    else:
        _show(report, Console(highlight=False, width=150))
    console.print(f"{time.monotonic() - began:.0f} s in all")
    if report.broken:
        console.print(f"kept to look at: {folder}; again with: make faults ARGS='{_again(plan)}'")
        return 1
    remove(folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of faults and clients; else drawn, and printed")
    parser.add_argument("--faults", type=int, default=Plan.faults, help="how many (%(default)s)")
    parser.add_argument("--events", type=int, default=Plan.events, help="acknowledged at least (%(default)s)")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="of the service (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    return parser.parse_args()


def _again(plan: Plan) -> str:
    return f"--seed {plan.seed} --faults {plan.faults} --events {plan.events} --workers {plan.workers}"


def _show(report: Report, console: Console) -> None:
    faults = Table(box=box.SIMPLE_HEAD)
    for column in ("at", "fault", "held", "feeds", "feedback", "longest gap", "what clients met"):
        faults.add_column(column, justify="left" if column in {"fault", "what clients met"} else "right")
    for fault in report.struck:
        faults.add_row(
            f"{fault.at_seconds:.0f} s",
            fault.name,
            f"{fault.held_seconds:.1f} s",
            str(fault.answered_feeds),
            str(fault.answered_feedback),
            f"{fault.longest_gap_seconds:.1f} s",
            ", ".join(f"{count} {what}" for what, count in sorted(fault.errors.items())) or "nothing",
        )
    console.print(faults)
    ledger = Table(box=box.SIMPLE_HEAD, show_header=False)
    ledger.add_column(justify="left")
    ledger.add_column(justify="right")
    for what, figure in {"seed": report.plan.seed, "seconds": round(report.seconds), **report.figures}.items():
        ledger.add_row(what, f"{figure:,}")
    console.print(ledger)
    for what, count in sorted(report.errors_logged.items()):
        console.print(f"logged {count} times: {what}")
    for line in report.not_made:
        console.print(f"left out: {line}")
    for line in report.broken:
        console.print(f"BROKEN: {line}", style="bold red")
    console.print("Every promise was kept." if not report.broken else f"{len(report.broken)} promises were broken.")


if __name__ == "__main__":
    sys.exit(main())
