"""`recs evaluate replay` of a mapping's database: reads it, replays, and prints."""

import json
from pathlib import Path

import typer
from rich.console import Console

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError, PolicyError, SourceError
from recommendation_service.core.files import make_folder
from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.mapped_replay import Replayed, replay_mapping
from recommendation_service.evaluation.mapped_report import draw, print_replayed
from recommendation_service.evaluation.progress import bar
from recommendation_service.policies.mapped import starting_policy
from recommendation_service.policies.policy import load_policy
from recommendation_service.serving.preview import policy_version
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.source import MappedSource


def replay_database(
    path: Path,
    settings: Settings,
    policy: str | None,
    feed: str | None,
    share: tuple[float, float],
    seed: int,
    chart: Path | None,
    *,
    as_json: bool,
) -> None:
    """``policy``: a file or a version; None: what the mapping begins with. ``share``: see `replay_mapping`."""
    console = Console(stderr=True)
    if chart is not None:
        make_folder(chart)
    try:
        found = _replayed(path, settings, policy, feed, share, seed, console)
    except (EvaluationError, SourceError, ConfigurationError, PolicyError) as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        print_replayed(found)
    if chart is not None:
        for written in draw([(path.stem, found)], chart):
            console.print(f"Drawn: {written}", markup=False, highlight=False)


def _replayed(
    path: Path,
    settings: Settings,
    policy: str | None,
    feed: str | None,
    share: tuple[float, float],
    seed: int,
    console: Console,
) -> Replayed:
    mapping = load_mapping(path)
    chosen = starting_policy(mapping)
    if policy is not None:
        chosen = load_policy(Path(policy)) if Path(policy).is_file() else policy_version(settings, policy)
    engine = make_engine(settings)
    try:
        with bar(console) as advance:
            return replay_mapping(
                MappedSource(mapping, engine, settings),
                settings,
                chosen,
                feed=feed,
                begin=share[0],
                end=share[1],
                seed=seed,
                advance=advance,
            )
    finally:
        engine.dispose()
