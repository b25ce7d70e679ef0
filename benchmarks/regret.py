"""The long simulation of the learner: regret beside its prior's, and coverage of its widths.

make regret                        20 runs of 100,000 feeds for each kind; minutes
make regret ARGS='--runs 3 --feeds 20000 --kind AU'
make regret ARGS='--gate --feeds 400000'   what the gate serves, beside the prior; some ten seconds a run, and with
                                   --json a line as each is done

docs/learning.md has its last results; tests/unit/learning/test_simulation.py is the same in seconds.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

from recommendation_service.core.output import print_rows
from recommendation_service.learning.format import load_learning
from recommendation_service.policies.policy import load_policy
from tests.support.gated import Gated, gated_regrets
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
EARLY = 100_000
FROM = 1_000  # of the first feeds nothing is promised
WHOLE = "whole feeds"  # a slot of the mixed feed, on average: the kinds in the shares that its pattern gives them


def main() -> None:
    """Entry of ``python -m benchmarks.regret``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--feeds", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--gate", action="store_true", help="of what the gate serves, in drift")
    parser.add_argument("--processes", type=int, help="so many runs at once, and not one a processor")
    options = parser.parse_args()
    kinds = options.kind or KINDS
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.processes) as processes:
        pools = dict(zip(kinds, real_pools(Path(folder), kinds), strict=True))
        if options.gate:
            _tell_gated(pools, options.runs, options.feeds, processes, as_json=options.json)
            return
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


def _tell_gated(pools: dict[str, Pools], runs: int, feeds: int, processes: Executor, *, as_json: bool) -> None:
    jobs = [(kind, run) for run in range(runs) for kind in pools]
    done = processes.map(_run_gated, [(pools[kind], run, Course(feeds=feeds)) for kind, run in jobs])
    early = min(EARLY, feeds)
    found: dict[str, list[Gated]] = {kind: [] for kind in pools}
    shown = done if as_json else track(done, "Simulating", total=len(jobs), transient=True)
    for (kind, run), one in zip(jobs, shown, strict=True):
        found[kind].append(one)
        if as_json:
            print(json.dumps({"kind": kind, "run": run} | _gated_row([one], early)), flush=True)
    rows = [{"kind": kind} | _gated_row(some, early) for kind, some in found.items()]
    if as_json:
        print(json.dumps({"gated": rows}))
        return
    names = ("kind", "prior's a feed", f"share after {early:,}", f"after {feeds:,}", "least", "largest")
    deeds = ("promoted a run", "returned", "of all promoted, worse", "by 1 % of reward")
    print_rows(
        (*names, *deeds),
        [(str(row["kind"]), *(f"{value:.4g}" for value in list(row.values())[1:])) for row in rows],
        right=set(range(1, 10)),
    )


def _gated_row(runs: Sequence[Gated], early: int) -> dict[str, float]:
    """The shares are of sums over the runs; the least and the largest are one run's, at its end."""
    gated, prior = (np.array([getattr(one, name) for one in runs]) for name in ("gated", "prior"))
    ends = gated[:, -1] / prior[:, -1]
    gains = np.array([deed.gain for one in runs for deed in one.did if deed.what == "promoted"])
    return {
        "prior_regret": float(prior[:, -1].mean() / prior.shape[1]),
        "share_early": float(gated[:, early - 1].sum() / prior[:, early - 1].sum()),
        "share_at_end": float(gated[:, -1].sum() / prior[:, -1].sum()),
        "least": float(ends.min()),
        "largest": float(ends.max()),
        "promoted": len(gains) / len(runs),
        "returned": sum(deed.what == "returned" for one in runs for deed in one.did) / len(runs),
        "worse": int((gains < 0).sum()),
        "worse_by_a_hundredth": int((gains < -0.01).sum()),
    }


def _run_gated(given: tuple[Pools, int, Course]) -> Gated:
    pools, seed, course = given
    return gated_regrets(pools, TASTES["drift"], load_learning(), seed, course)


def _run(given: tuple[Pools, Tastes, int, Course]) -> tuple[Floats, Floats]:
    pools, tastes, seed, course = given
    return regrets(pools, tastes, load_learning(), seed, course)


if __name__ == "__main__":
    main()
