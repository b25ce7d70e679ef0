"""`recs evaluate …`: how well the service orders what people take, beside methods of the literature."""

import json
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recommendation_service.core.files import make_folder
from recommendation_service.demo.loading import DemoError
from recommendation_service.demo.wheel import wheel_folder
from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.export import export
from recommendation_service.evaluation.off_policy import off_policy
from recommendation_service.evaluation.progress import bar

if TYPE_CHECKING:
    from recommendation_service.core.config import Settings
    from recommendation_service.evaluation.interaction_log import InteractionLog
    from recommendation_service.policies.policy import Policy

app = typer.Typer(no_args_is_help=True, help="How well feeds are ordered.")
app.command("off-policy")(off_policy)
app.command()(export)

FAILED, WRONG_USE = 1, 2
# What the extra `evaluation` installs, by the names that are imported.
_NEEDED = ("altair", "implicit", "narwhals", "pyarrow", "scipy", "threadpoolctl", "vl_convert")


class DataSet(StrEnum):
    """A public log."""

    MOVIELENS = "movielens"


class Protocol(StrEnum):
    """What is asked for."""

    PREQUENTIAL = "prequential"
    LAST_ITEM = "last_item"


@app.callback()
def evaluate() -> None:
    """How well feeds are ordered."""


@app.command()
def replay(
    data: Annotated[
        DataSet | None, typer.Option(help="A public log, fetched once from pip's package index. Or give --events.")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            help="A log of yours, .csv, .parquet or .jsonl, with user_id, item_id and happened_at; event (view, "
            "rating, save, match) and value (a rating, 0 to 5) where you have them."
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="What its items are: item_id, and any of title, skills (lists, or text with | between), creator_id, "
            "created_at. Without it the service knows only how items are used."
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="A mapping, whose feeds are asked for. Default: that of MAPPING_FILE.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Its database. Default: that of the settings.")
    ] = None,
    feed: Annotated[str | None, typer.Option(help="Of a mapping: which feed. Default: its first.")] = None,
    begin: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Of a mapping: the share of its events that is known.")
    ] = 0.8,
    end: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="Of a mapping: up to which share what people took is looked for.")
    ] = 1.0,
    protocol: Annotated[
        list[Protocol] | None, typer.Option(help="Which protocol; may be given again. Default: both.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Which method; may be given again. Default: all.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="A policy file, or a version of `recs policy list`. Default: the policy that serves; of a mapping, "
            "the one that it begins with."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order within a second, and of all draws.")] = 0,
    chart: Annotated[Path | None, typer.Option(help="A folder for the chart, quality.png and quality.html.")] = None,
    cache_folder: Annotated[
        Path | None, typer.Option(help="Where the MovieLens wheel is kept. Default: ~/.cache/recs.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON and nothing else: an object a method and protocol; of a mapping one."),
    ] = False,
) -> None:
    """Replay a log: ask the service, and methods of the literature, what each user takes next, before they are told.

    The service answers through its own SQL, catalog and ranking. Hyperparameters of the others are chosen on a part
    before the test. docs/quality.md explains protocols and figures. All methods on MovieLens-100K take some minutes.

    Of a mapping: its tables are cut at the time when 80 % of the events had happened, and its feed is asked for each
    person who took something after that, beside popularity and item-kNN. It takes a minute or less.

    Examples:

    \b
    $ recs evaluate replay --data movielens
    $ recs evaluate replay --data movielens --protocol last_item --json
    $ recs evaluate replay --data movielens --method service --method ease --policy bolder.toml
    $ recs evaluate replay --events events.parquet --items items.csv --chart charts
    $ recs evaluate replay --mapping mapping.toml --database mysql://reader@db.internal/shop
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise _exit(
            f"Evaluations need {', '.join(missing)}, which the service does not: "
            "pip install '.[evaluation]' in the folder of the installation, or make setup.",
            FAILED,
        )
    if (data is not None and (events is not None or mapping is not None)) or (
        events is not None and mapping is not None
    ):
        raise typer.BadParameter("give either --data or --events, or --mapping", param_hint="--data")
    if items is not None and events is None:
        raise typer.BadParameter("describes the items of --events, which is missing", param_hint="--items")
    if data is None and events is None:
        if protocol or method:
            raise typer.BadParameter("holds for --data and --events alone", param_hint="--protocol, --method")
        if begin >= end:
            raise typer.BadParameter("must be less than --end", param_hint="--begin")
        settings = _settings(database)
        path = mapping or settings.mapping_file
        if path is None:
            raise typer.BadParameter(
                "give either --data or --events, or --mapping, or set MAPPING_FILE", param_hint="--data"
            )
        from recommendation_service.evaluation.mapped_command import replay_database

        replay_database(path, settings, policy, feed, (begin, end), seed, chart, as_json=as_json)
        return
    from recommendation_service.evaluation import methods

    strange = [name for name in method or () if name not in methods.NAMES]
    if strange:
        raise typer.BadParameter(
            f"{', '.join(strange)}: the methods are {', '.join(methods.NAMES)}", param_hint="--method"
        )
    _evaluate(
        lambda: _log(events, items, cache_folder or wheel_folder()),
        [each.value for each in protocol or Protocol],
        method or list(methods.NAMES),
        policy,
        seed,
        chart,
        as_json=as_json,
    )


def _settings(database: str | None) -> "Settings":
    from recommendation_service.core.config import load_settings

    return load_settings() if database is None else load_settings(database_url=database, mysql_host=None)


def _evaluate(
    read: Callable[[], "InteractionLog"],
    protocols: list[str],
    names: list[str],
    policy: str | None,
    seed: int,
    chart: Path | None,
    *,
    as_json: bool,
) -> None:
    from recommendation_service.evaluation.evaluation import MOST_ITEMS, Evaluation
    from recommendation_service.evaluation.report import print_summaries
    from recommendation_service.feed.loading import load_kernels

    console = Console(stderr=True)
    if chart is not None:
        make_folder(chart)  # an evaluation is too long to be lost for that
    load_kernels()
    try:
        log = read()
        if log.notice:
            console.print(log.notice, markup=False, highlight=False)
        evaluation = Evaluation(log, _policy(policy), protocols, names, seed)
        if evaluation.left_out:
            console.print(f"Left out, for more than {MOST_ITEMS:,} items: {', '.join(evaluation.left_out)}.")
        with bar(console) as advance:
            results = evaluation.run(advance)
    except (EvaluationError, DemoError) as error:
        raise _exit(str(error), FAILED) from None
    if as_json:
        typer.echo(json.dumps([summary.as_json() for _, found in results for summary in found], ensure_ascii=False))
    else:
        for plan, summaries in results:
            print_summaries(plan, summaries)
    if chart is not None:
        from recommendation_service.evaluation.chart import draw

        for path in draw(results, log.name, chart):
            console.print(f"Drawn: {path}", markup=False, highlight=False)


def _log(events: Path | None, items: Path | None, folder: Path) -> "InteractionLog":
    if events is not None:
        from recommendation_service.evaluation.files import log_of_files

        return log_of_files(events, items)
    from recommendation_service.evaluation.movielens import movielens

    return movielens(folder)


def _policy(named: str | None) -> "Policy":
    from recommendation_service.core.config import load_settings
    from recommendation_service.policies.choice import PolicyChoice
    from recommendation_service.policies.policy import load_policy
    from recommendation_service.serving.preview import policy_version

    settings = load_settings()
    if named is None:
        return PolicyChoice(settings).take_up().policy
    return load_policy(Path(named)) if Path(named).is_file() else policy_version(settings, named)


def _exit(sentence: str, status: int) -> typer.Exit:
    """Say what went wrong, in full and on stderr; the exit is for the caller to raise."""
    Console(stderr=True).print(f"Error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(status)
