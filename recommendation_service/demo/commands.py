"""`recs demo …`: fill a database to try the service on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.output import print_rows
from recommendation_service.demo.interacpedia import DEFAULT_SEED, load_invented
from recommendation_service.demo.loading import DemoError, LoadReport
from recommendation_service.demo.loading import Progress as ProgressCallback
from recommendation_service.demo.movielens import load_movielens
from recommendation_service.demo.schema import metadata
from recommendation_service.demo.sizes import sizes_at
from recommendation_service.demo.wheel import wheel_folder

if TYPE_CHECKING:
    from recommendation_service.demo.visits import Tally

app = typer.Typer(no_args_is_help=True, help="Data to try the service on.")

FAILED, WRONG_USE = 1, 2


class Source(StrEnum):
    """Where the data comes from."""

    INTERACPEDIA = "interacpedia"
    MOVIELENS = "movielens"


@app.callback()
def demo() -> None:
    """Data to try the service on."""


@app.command()
def load(
    address: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="SQLAlchemy address of the database. Default: the one of the settings."),
    ] = None,
    source: Annotated[
        Source, typer.Option("--from", help="An invented operator, or the real MovieLens-100K log.")
    ] = Source.INTERACPEDIA,
    scale: Annotated[
        float, typer.Option(help="Times the operator's sizes; interacpedia only.", show_default=True)
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(min=0, help="The same seed gives the same data; interacpedia only.")
    ] = DEFAULT_SEED,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what an earlier load made in that database first.")
    ] = False,
    cache_folder: Annotated[
        Path | None, typer.Option(help="Where the MovieLens wheel is kept. Default: ~/.cache/recs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary in JSON and nothing else.")] = False,
) -> None:
    """Write the operator's tables, filled, into a database.

    Tables that an earlier load made and that hold rows are left alone without --replace.
    Tables that it did not make are never touched, whatever the options.
    A MariaDB or MySQL database that does not exist is created.

    Examples:

    \b
    $ recs demo load
    $ recs demo load sqlite:///demo.db --scale 0.1
    $ recs demo load mysql+pymysql://root@127.0.0.1/interacpedia --replace
    $ recs demo load sqlite:///films.db --from movielens --json
    """
    try:
        sizes_at(scale)
        engine = _engine(address)
    except (DemoError, ConfigurationError) as error:
        raise _exit(error, WRONG_USE) from None
    console = Console(quiet=as_json)
    try:
        with progress_bars(console) as progress:
            if source is Source.MOVIELENS:
                folder = cache_folder or wheel_folder()
                report = load_movielens(
                    engine,
                    wheel_folder=folder,
                    replace=replace,
                    progress=progress,
                    announce=lambda notice: console.print(notice, markup=False, highlight=False),
                )
            else:
                report = load_invented(engine, scale=scale, seed=seed, replace=replace, progress=progress)
    except DemoError as error:
        raise _exit(error, FAILED) from None
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        _print_summary(report, engine.url)


@app.command()
def users(
    address: Annotated[
        str, typer.Argument(metavar="[URL]", help="Of the service; a path takes the place of API_PATH.")
    ] = "http://127.0.0.1:5005",
    people: Annotated[int, typer.Option("--users", min=1, max=100_000, help="How many people.")] = 200,
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Feeds a second, of all together.")] = 20.0,
    drift: Annotated[
        float, typer.Option(min=0.1, max=1e6, help="Minutes after which what they like is something unrelated.")
    ] = 30.0,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="How long. Default: until Ctrl-C.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed: the same people with the same tastes.")] = 1,
    not_local: Annotated[
        bool,
        typer.Option("--yes-not-local", help="The service may be on another machine: invented events count there."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a summary in JSON at the end and nothing else.")
    ] = False,
) -> None:
    """Simulated people with tastes that drift: they ask a service for feeds, look, and tell it what they did.

    Watch what it learns from them: `recs learn --status`, `recs policy list`. Where API_KEYS is set, the first of them
    is sent.

    \b
    $ recs demo users
    $ recs demo users --users 1000 --rate 40 --drift 10
    $ recs demo users http://127.0.0.1:8080/recs/api --minutes 5 --json
    """
    from recommendation_service.core.config import load_settings
    from recommendation_service.demo.visits import Api, Tally, visit

    settings, tally = load_settings(), Tally()
    key = next(iter(settings.api_keys), None)
    console = Console(stderr=True, quiet=as_json)
    told = ToldNowAndThen(console)
    try:
        api = Api(address, settings.api_path, key, anywhere=not_local)
    except DemoError as error:
        raise _exit(error, WRONG_USE) from None
    try:
        with told:
            visit(
                api,
                users=people,
                rate=rate,
                drift_seconds=60 * drift,
                seconds=None if minutes is None else 60 * minutes,
                seed=seed,
                tally=tally,
                tell=told,
            )
    except KeyboardInterrupt:
        pass
    except DemoError as error:
        raise _exit(error, FAILED) from None
    finally:
        api.close()
    typer.echo(json.dumps(tally.as_dict()) if as_json else f"{in_words(tally)}.")


class ToldNowAndThen:
    """How far the people are: one line that is written anew on a terminal, and elsewhere one in a while."""

    EVERY_SECONDS = 15.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("Asking for the first feed") if console.is_terminal else None
        self._next = self.EVERY_SECONDS

    def __enter__(self) -> None:
        if self._status is not None:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, tally: "Tally") -> None:
        if self._status is not None:
            self._status.update(in_words(tally))
        elif tally.seconds >= self._next:
            self._next = tally.seconds + self.EVERY_SECONDS
            self._console.print(in_words(tally), markup=False, highlight=False, soft_wrap=True)


def in_words(tally: "Tally") -> str:
    """'2:05  625 feeds, 9,120 events, a feed is worth 2.31 (in the first minute 1.87)'."""
    minutes, seconds = divmod(int(tally.seconds), 60)
    said = f"{minutes}:{seconds:02d}  {tally.feeds:,} feeds, {tally.events:,} events"
    if tally.reward_latest is not None:
        said += f", a feed is worth {tally.reward_latest:.2f}"
    if tally.reward_first is not None and tally.seconds > 60:
        said += f" (in the first minute {tally.reward_first:.2f})"
    return said + (f", {tally.refused} calls put off" if tally.refused else "")


def _exit(error: Exception, status: int) -> typer.Exit:
    """Say what went wrong, in full and on stderr; the exit is for the caller to raise."""
    Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(status)


def _engine(address: str | None) -> Engine:
    try:
        return create_engine(make_url(address) if address else _configured_url(), poolclass=NullPool)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise DemoError(
            f"There is no driver for that address ({error}). Write mysql+pymysql://… or sqlite:///…."
        ) from error
    except ArgumentError as error:
        example = "mysql+pymysql://user:password@host:3306/interacpedia or sqlite:///demo.db"
        raise DemoError(f"That is not a database address; one looks like {example}.") from error


def _configured_url() -> URL:
    # Imported here because `--help`, and a load into a named address, need no settings.
    from recommendation_service.core.config import load_settings

    url = load_settings().source_url
    if url.get_backend_name() == "sqlite" and url.database:
        # The embedded database lies in the service's own data folder, which a first start has yet to make.
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    return url


@contextmanager
def progress_bars(console: Console) -> Iterator[ProgressCallback]:
    """A bar for each table, in the order they are written."""
    bars = Progress(
        TextColumn("{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=console.quiet,
    )
    tasks: dict[str, TaskID] = {}

    def advance(table: str, done: int, expected: int) -> None:
        if table not in tasks:
            tasks[table] = bars.add_task(table, total=expected)
        bars.update(tasks[table], completed=done, total=max(done, expected))

    with bars:
        yield advance


def _print_summary(report: LoadReport, url: URL) -> None:
    rows = [(name, f"{report.counts[name]:,}") for name in metadata.tables]
    rows.append(("dirty rows and values among them", f"{sum(report.dirt.values()):,}"))
    shown = url.render_as_string(hide_password=True)
    print_rows(("table", "rows"), rows, title=f"{report.source} in {shown}, {report.seconds:.1f} s", right={1})
