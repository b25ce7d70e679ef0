"""`recs import …`: what another recommender exported."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from recommendation_service.importing.gorse import Tell

app = typer.Typer(no_args_is_help=True, help="What another recommender exported.")

FAILED = 1


@app.callback()
def importing() -> None:
    """What another recommender exported."""


@app.command()
def gorse(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY", exists=True, file_okay=False, help="With items, feedback and users, as .jsonl or .csv."
        ),
    ],
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where to write the tables. Default: gorse.sqlite, in this folder."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the mapping is written.")] = Path("gorse.toml"),
    replace: Annotated[bool, typer.Option("--replace", help="Import anew, over what was imported before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Write Gorse's users, items and feedback into a database, and a mapping of them that can be served at once.

    Takes what its dashboard exports: JSON lines from 0.5 on, CSV of 0.2 to 0.4. Bad lines are counted and named, and
    end nothing. Where the folder has Gorse's config.toml as well, that says which feedback counts, and how much.

    \b
    $ recs import gorse export/
    $ recs import gorse export/ --database mysql://writer:…@db.internal/shop --output shop.toml
    """
    from sqlalchemy import create_engine, make_url

    from recommendation_service.core.config import load_settings
    from recommendation_service.core.errors import SourceError
    from recommendation_service.core.files import write_whole
    from recommendation_service.importing.gorse import FeedbackTypes, import_gorse, mapping_text
    from recommendation_service.sources.mapping.mapping import load_mapping

    if output.exists() and not replace:
        raise SourceError(f"{output} is there: name another by --output, or write over it by --replace.")
    address = database or f"sqlite:///{Path('gorse.sqlite').absolute()}"
    url = load_settings(database_url=address, mysql_host=None, mysql_user=None).source_url
    types = FeedbackTypes.of_folder(folder)
    engine = create_engine(url)
    try:
        with _progress() as tell:
            found = import_gorse(folder, engine, replace=replace, tell=tell)
    finally:
        engine.dispose()
    write_whole(output, mapping_text(found, types))
    load_mapping(output)
    for line in found.named:
        typer.secho(line, fg=typer.colors.YELLOW, err=True)
    for file, count in found.bad.items():
        typer.secho(f"{file}: {count:,} bad line{'s' * (count > 1)}, left out", fg=typer.colors.YELLOW, err=True)
    if as_json:
        typer.echo(json.dumps(found.as_dict() | {"mapping": str(output)}, ensure_ascii=False))
        return
    for kind, count in found.rows.items():
        typer.echo(f"{count:>10,}  {kind}")
    for kind, count in found.feedback.most_common():
        typer.echo(f"{count:>10,}  … {kind}")
    for note in found.notes:
        typer.echo(f"            {note}")
    shown = make_url(address).render_as_string(hide_password=True)
    typer.echo(
        f"\nWritten: {output}. Next:\n"
        f"  export MAPPING_FILE={shlex.quote(str(output.absolute()))} DATABASE_URL={shlex.quote(shown)}\n"
        "  recs source check\n"
        "  recs serve"
    )


@contextmanager
def _progress() -> Iterator["Tell"]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=size)
            progress.update(tasks[name], completed=done)

        yield tell
