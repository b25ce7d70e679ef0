"""The long simulation of what is said of policies that were not served, on logs whose truth is known.

make evidence                      1,000 logs of 10,000 feeds of each kind and length; half an hour on two processors
make evidence ARGS='--runs 100 --slots 6'
make evidence ARGS=--gate          what the gate promotes of what is better, worse and as good; minutes
make evidence ARGS=--open-bandit   an even draw, on the Open Bandit logs instead
make evidence ARGS='--truth 1000000'   the true values, as tests/support/known_truth.py has them

docs/quality.md has its last results; tests/unit/estimates/test_known_truth.py is the same in seconds.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean

from rich.progress import track

from benchmarks.gate import rows as gate_rows
from benchmarks.open_bandit import print_open_bandit
from recommendation_service.core.output import print_rows
from recommendation_service.estimates.estimate import FEW
from tests.support.known_truth import REWARD_KINDS, TRUTHS, RewardKind, Seen, World, see, true_values

LENGTHS, GATE_LENGTHS = (6, 24), (1, 6)
Given = tuple[int, RewardKind, int, int]


def main() -> None:
    """Entry of ``python -m benchmarks.evidence``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--feeds", type=int, default=10_000)
    parser.add_argument("--slots", type=int, choices=(1, *LENGTHS), action="append")
    parser.add_argument("--truth", type=int, metavar="DRAWS", help="print the true values, from so many draws")
    parser.add_argument("--open-bandit", action="store_true", help="weigh an even draw on the Open Bandit logs instead")
    parser.add_argument("--gate", action="store_true", help="what the gate promotes, instead")
    parser.add_argument("--processes", type=int, help="so many runs at once, and not one a processor")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    lengths = options.slots or LENGTHS
    if options.truth:
        print(json.dumps({slots: true_values(World(slots), options.truth) for slots in lengths}))
        return
    if options.open_bandit:
        print_open_bandit()
        return
    if options.gate:
        with ProcessPoolExecutor(options.processes) as processes:
            _tell(gate_rows(options.runs, options.slots or GATE_LENGTHS, processes), as_json=options.json)
        return
    jobs: list[Given] = [
        (slots, kind, options.feeds, run) for slots in lengths for kind in REWARD_KINDS for run in range(options.runs)
    ]
    with ProcessPoolExecutor(options.processes) as processes:
        found = list(track(processes.map(_run, jobs, chunksize=5), "Simulating", total=len(jobs), transient=True))
    rows = []
    for slots in lengths:
        for kind in REWARD_KINDS:
            some = [seen for job, seen in zip(jobs, found, strict=True) if job[:2] == (slots, kind)]
            rows += [_row(slots, kind, target, [each[target] for each in some]) for target in some[0]]
    _tell(rows, as_json=options.json)


def _tell(rows: Sequence[dict[str, str | int | float | None]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    right = [place for place, value in enumerate(rows[0].values()) if not isinstance(value, str)]
    print_rows(list(rows[0]), [list(map(_shown, row.values())) for row in rows], right=right)


def _run(job: Given) -> dict[str, Seen]:
    slots, kind, feeds, run = job
    return see(World(slots), TRUTHS[slots], kind, feeds, seed=run)


def _row(slots: int, kind: str, target: str, seen: Sequence[Seen]) -> dict[str, str | int | float | None]:
    """Of the runs in which every slot's effective sample is large enough, what the estimates promise; of all, the
    rest."""
    told = [each for each in seen if not each.is_refused]
    supported = [each for each in seen if each.least_ess >= FEW]
    return {
        "slots": slots,
        "rewards": kind,
        "target": target,
        "truth": fmean(each.difference for each in seen),
        "least ess": fmean(each.least_ess for each in seen),
        "refused": fmean(each.is_refused for each in seen),
        "runs of 300": len(supported),
        "covered": _mean([each.is_covered for each in supported]),
        "error": _mean([abs(each.error) for each in told]),
        "guardrail above": _mean([each.guardrail_is_above for each in told]),
        "guardrail error": _mean([abs(each.guardrail_error) for each in told]),
        "sequence missed": fmean(each.sequence_is_missed for each in seen),
        "single covered": _mean([each.single_is_covered for each in told]),
        "single error": _mean([each.single_error for each in told]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _shown(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3f}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if not isinstance(value, str)
        else value
    )


if __name__ == "__main__":
    main()
