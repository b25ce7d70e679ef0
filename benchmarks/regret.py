"""The long simulation of the learner: regret beside its prior's, and coverage of its widths.

make regret                        20 runs of 100,000 feeds for each kind; minutes
make regret ARGS='--runs 3 --feeds 20000 --kind AU'

docs/learning.md has its last results; tests/unit/learning/test_simulation.py is the same in seconds.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

from recommendation_service.core.output import print_rows
from recommendation_service.learning.format import load_learning
from recommendation_service.policies.policy import load_policy
from tests.support.tastes import (
    DRIFT,
    HALF_LIFE,
    PRIOR_IS_RIGHT,
    Course,
    Floats,
    Pools,
    Tastes,
    coverage,
    real_pools,
    regrets,
)

KINDS = ("VMP", "AU", "NU", "FW")
TASTES = {"drift": Tastes(), "as the prior": PRIOR_IS_RIGHT}
FROM = 1_000  # of the first feeds nothing is promised
WHOLE = "whole feeds"  # a slot of the mixed feed, on average: the kinds in the shares that its pattern gives them


def main() -> None:
    """Entry of ``python -m benchmarks.regret``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--feeds", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    kinds = options.kind or KINDS
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor() as processes:
        pools = {kind: real_pools(Path(folder) / kind, kind) for kind in kinds}
        jobs = [(kind, name, run) for kind in kinds for name in TASTES for run in range(options.runs)]
        given = [(pools[kind], TASTES[name], run, Course(feeds=options.feeds)) for kind, name, run in jobs]
        done = processes.map(_run, given)
        found = list(track(done, "Simulating", total=len(jobs), transient=True))
        means = {
            (kind, name): np.mean(
                [run for job, run in zip(jobs, found, strict=True) if job[:2] == (kind, name)], axis=0
            )
            for kind in kinds
            for name in TASTES
        }
        if set(kinds) == set(KINDS):
            pattern = load_policy().file.feeds["total"]
            for name in TASTES:
                means[WHOLE, name] = np.mean([means[kind, name] for kind in pattern], axis=0)
        rows = [_row(kind, name, *both) for (kind, name), both in means.items()]
        widths = {kind: [coverage(pools[kind], drift, HALF_LIFE, runs=100) for drift in (DRIFT, 0.0)] for kind in kinds}
    if options.json:
        print(json.dumps({"regret": rows, "coverage": widths}))
        return
    print_rows(
        ("kind", "tastes", "prior's a feed", "learner's", "share at the end", f"largest from {FROM:,} on"),
        [(str(row["kind"]), str(row["tastes"]), *(f"{value:.4f}" for value in list(row.values())[2:])) for row in rows],
        right={2, 3, 4, 5},
    )
    print_rows(
        ("kind", "coverage with matching drift", "without"),
        [(kind, f"{with_drift:.3f}", f"{without:.3f}") for kind, (with_drift, without) in widths.items()],
        right={1, 2},
    )


def _row(kind: str, tastes: str, learned: Floats, prior: Floats) -> dict[str, str | float]:
    """Of cumulative regrets, means over the runs."""
    share = learned[FROM - 1 :] / prior[FROM - 1 :]
    return {
        "kind": kind,
        "tastes": tastes,
        "prior_regret": float(prior[-1] / len(prior)),
        "learner_regret": float(learned[-1] / len(prior)),
        "share_at_end": float(share[-1]),
        "largest_share": float(share.max()),
    }


def _run(given: tuple[Pools, Tastes, int, Course]) -> tuple[Floats, Floats]:
    pools, tastes, seed, course = given
    return regrets(pools, tastes, load_learning(), seed, course)


if __name__ == "__main__":
    main()
