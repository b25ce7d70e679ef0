"""`recs evaluate export`: what this service decided, with what it brought, as a log that Vowpal Wabbit reads."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recommendation_service.core.errors import SourceError


def export(
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Feeds from this time on, UTC. Default: 30 days ago.")] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Feeds before this time, UTC. Default: those that had time to be rewarded.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Feeds of this endpoint only.")] = None,
    decisions: Annotated[Path | None, typer.Option(help="Folder of the decisions. Default: this machine's.")] = None,
) -> None:
    """Write this machine's decisions, with what each slot brought, as dsjson (CCB), which Vowpal Wabbit reads.

    What was shown and what it brought is read from the database, what else there was from the decisions' files.
    docs/dsjson.md says what the lines have. Some 100 kB a feed of 24.

    Examples:

    \b
    $ recs evaluate export --output ours.dsjson
    $ recs evaluate export --endpoint total --since 2026-11-01 | vw --dsjson -d /dev/stdin --ccb_explore_adf -l 0
    $ recs evaluate off-policy --log ours.dsjson --policy even
    """
    from recommendation_service.catalog.dictionary import open_dictionary
    from recommendation_service.core.config import load_settings
    from recommendation_service.core.database import make_engine
    from recommendation_service.evaluation.own_command import DAYS, demand_feeds_of
    from recommendation_service.evaluation.own_export import write_own
    from recommendation_service.evaluation.progress import bar
    from recommendation_service.evaluation.recorded import Window, read_recorded
    from recommendation_service.flush.export import written_aside
    from recommendation_service.flush.reader_commands import untold_said
    from recommendation_service.learning.mapped import learning_of
    from recommendation_service.sources.mapping.words import open_words

    settings = load_settings()
    learning, words = learning_of(settings), open_words(settings)
    ids = open_dictionary(settings, words)
    until_ms = _milliseconds(until) or time.time_ns() // 1_000_000 - learning.settle_ms
    window = Window(_milliseconds(since) or until_ms - DAYS * 86_400_000, until_ms)
    folder = decisions or settings.decisions_dir
    engine = make_engine(settings)
    try:
        with bar(Console(stderr=True)) as advance:
            recorded = read_recorded(engine, window, learning, None, advance, settings, words=words)
            demand_feeds_of(recorded, endpoint)
            if output is None:
                written = write_own(recorded, folder, endpoint, sys.stdout.buffer, ids)
                sys.stdout.buffer.flush()
            else:
                with written_aside(output) as file:
                    written = write_own(recorded, folder, endpoint, file, ids)
    except BrokenPipeError:  # whoever reads has had enough
        raise
    except OSError as error:
        raise SourceError(f"{error.filename or output}: {error.strerror or error}.") from error
    finally:
        engine.dispose()
    where = f" in {output}" if output is not None else ""
    typer.echo(f"{written.decisions:,} decisions{where}", err=True)
    for count, why in (
        (written.without_feed, "are of feeds that are not in the database, or not of these days"),
        (written.unread, "are of another release"),
    ):
        if count:
            typer.echo(f"{count:,} {why}", err=True)
    if ids.untold:
        typer.echo(untold_said(len(ids.untold)), err=True)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)
