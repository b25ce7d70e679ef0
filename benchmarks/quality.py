"""The table of docs/quality.md on mappings: the feeds that a mapping begins with, beside popularity.

make quality                       MovieLens-100K and the three examples, in some minutes
make quality ARGS='--data jobs --people 500'
make quality ARGS='--made-up'                 made-up logs of many shapes (made_up_logs.py) instead, in a minute or two
make quality ARGS='--unseen'                  made-up logs by which no weight was chosen (unseen_logs.py)
make quality ARGS='--begin 0.6 --end 0.8'     another part, for who changes the ranking: never the last fifth

tests/integration/test_mapped_quality.py is the same in seconds.
"""

import argparse
import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import made_up_logs, unseen_logs
from examples.world import run
from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.files import make_folder
from recommendation_service.evaluation.mapped_replay import (
    BEST_FIRST,
    GROUPS,
    MEASURES,
    SERVICE,
    Replayed,
    replay_mapping,
)
from recommendation_service.evaluation.mapped_report import HEADINGS, draw, verdict
from recommendation_service.policies.mapped import starting_policy
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.source import MappedSource

DATA = ("movielens", "jobs", "music", "blog")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LOGS = {
    name: partial(write, shape)
    for write, shapes in ((made_up_logs.write, made_up_logs.SHAPES), (unseen_logs.write, unseen_logs.WORLDS))
    for name, shape in shapes.items()
}
PEOPLE, NOW = 1_500, "2026-11-01T12:00:00+00:00"


def main() -> None:
    """Entry of ``python -m benchmarks.quality``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=(*DATA, *LOGS), action="append", metavar="NAME")
    parser.add_argument("--made-up", action="store_true", help="all made-up logs")
    parser.add_argument("--unseen", action="store_true", help="all made-up logs by which no weight was chosen")
    parser.add_argument("--seed", type=int, default=0, help="of made-up logs (0)")
    parser.add_argument("--people", type=int, default=PEOPLE, help="of the examples (1500)")
    parser.add_argument("--begin", type=float, default=0.8)
    parser.add_argument("--end", type=float, default=1.0)
    parser.add_argument("--chart", type=Path, help="a folder for the chart")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if options.chart is not None:
        make_folder(options.chart)
    made_up = (*made_up_logs.SHAPES,) * options.made_up + (*unseen_logs.WORLDS,) * options.unseen
    names = options.data or made_up or DATA
    found = [(name, replayed(name, options.people, options.begin, options.end, options.seed)) for name in names]
    if options.json:
        print(json.dumps({name: one.as_json() for name, one in found}))
    else:
        print_tables(found)
    if options.chart is not None:
        draw(found, options.chart)


def replayed(name: str, people: int, begin: float, end: float, seed: int = 0) -> Replayed:
    """On a database of its own, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        if name in LOGS:
            path, url = LOGS[name](Path(folder), seed)
        else:
            path, url = EXAMPLES / name / "mapping.toml", f"sqlite:///{folder}/{name}.sqlite"
            module = importlib.import_module(f"examples.{name}.__main__")
            with contextlib.redirect_stdout(io.StringIO()):
                if run(name, module.METADATA, module.make, [url, "--people", str(people), "--now", NOW]):
                    sys.exit(1)
        mapping, settings = load_mapping(path), load_settings(database_url=url, mysql_host=None)
        engine = make_engine(settings)
        try:
            source = MappedSource(mapping, engine, settings)
            return replay_mapping(
                source, settings, starting_policy(mapping), begin=begin, end=end, now=datetime.fromisoformat(NOW)
            )
        finally:
            engine.dispose()


def print_tables(found: list[tuple[str, Replayed]]) -> None:
    """In Markdown, as the page has them."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}, feeds of 24\n")
    columns = [(group, measure) for group in GROUPS[1:] for measure in MEASURES]
    print("| data | method |", " | ".join(f"{HEADINGS[measure]}, {group}" for group, measure in columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for name, one in found:
        for method in one.figures[GROUPS[0]]:
            cells = [
                f"{one.figures[group][method][measure].value:.3f}" if group in one.figures else "–"
                for group, measure in columns
            ]
            print(f"| {name} | `{method}` |", " | ".join(cells), "|")
    print("\n| data | people | measure | share of | share | interval of 95 % | at least | | draws cost |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in found:
        for ratio in one.ratios:
            of, estimate = ratio.of.replace("_", " "), ratio.estimate
            figures = one.figures[ratio.group]
            best = figures[BEST_FIRST][ratio.measure].value
            cost = 1 - figures[SERVICE][ratio.measure].value / best if best else 0.0
            print(
                f"| {name} | {one.people[ratio.group]:,} {ratio.group} | {HEADINGS[ratio.measure]} | {of} "
                f"| {estimate.value:.3f} | {estimate.low:.3f} to {estimate.high:.3f} | {ratio.least} "
                f"| {verdict(ratio)} | {cost:.3f} |"
            )


if __name__ == "__main__":
    main()
