"""`recs events readers …` and `recs events follow`: who reads the log, and an operator's own reading of it."""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.clock import Clock
from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows

if TYPE_CHECKING:
    from recommendation_service.catalog.dictionary import Dictionary
    from recommendation_service.log.lags import Lag
    from recommendation_service.log.reader import Batch

app = typer.Typer(no_args_is_help=True, help="Readers of the event log: how far each is, and striking one off.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
LOOK_SECONDS = 0.5


@app.command("list")
def list_readers(as_json: AsJson = False) -> None:
    """Who reads the log, how far behind each is, and what it was cut off from.

    \b
    $ recs events readers list
    $ recs events readers list --json | jq '.[] | select(.behind_seconds > 3600)'
    """
    from recommendation_service.log.lags import LogLags

    settings = load_settings()
    now = Clock(settings.data_dir, settings.clock_tolerance_seconds).now()
    found = lags_as_json(LogLags(settings.events_dir).read(), now)
    if as_json:
        typer.echo(json.dumps(found))
        return
    print_rows(("reader", ""), [(lag["reader"], said_of(lag)) for lag in found])


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Its name, as `recs events readers list` has it.")],
    as_json: AsJson = False,
) -> None:
    """Strike a reader off that is gone for good: nothing of the log is kept for it any more.

    What has its results stays as it is. A reader that comes back under the name begins with what the log has then.

    \b
    $ recs events readers remove experiment-7
    """
    from recommendation_service.log.marks import FLUSH, registered
    from recommendation_service.log.reader import LogReader

    folder = load_settings().events_dir
    names = registered(folder)
    if name == FLUSH:
        raise SourceError("The reader 'flush' brings events into the database, and cannot be struck off.")
    if name not in names:
        raise SourceError(f"{name!r} is no reader of {folder}: there are {', '.join(names)}.")
    LogReader(folder, name).strike_off()
    if as_json:
        typer.echo(json.dumps({"removed": name}))
    else:
        typer.echo(f"The reader {name!r} is struck off.")


def follow(
    name: Annotated[str, typer.Argument(help="Of the reader: lower-case letters, digits, '_' and '-'.")],
    once: Annotated[bool, typer.Option("--once", help="End where the log ends, instead of waiting for more.")] = False,
) -> None:
    """Events from the log as they come, as JSON lines with the fields of `recs events export`.

    Goes on where it was under this name, and registers the name at first: from then on the log keeps for it what it
    has not printed, up to READER_LOG_SHARE. What was printed is settled afterwards, so a kill may print some lines once
    more: each has its event_id. `recs events readers remove NAME` strikes the name off.

    \b
    $ recs events follow mine | jq -c 'select(.event == "hide")'
    $ recs events follow mine --once >> events.jsonl
    """
    from recommendation_service.catalog.dictionary import KeptDictionary
    from recommendation_service.log.marks import OWN
    from recommendation_service.log.reader import LogReader
    from recommendation_service.sources.mapping.words import open_words

    if name in OWN:
        raise SourceError(f"The reader {name!r} is the service's own: take another name.")
    settings = load_settings()
    dictionary = KeptDictionary(settings, open_words(settings))
    with LogReader(settings.events_dir, name) as reader, contextlib.suppress(KeyboardInterrupt):
        while True:
            batch = reader.read()
            _say_what_is_missing(batch)
            _print(batch, dictionary.now())
            reader.settle(batch.mark)
            if batch.has_more:
                continue
            if once:
                return
            time.sleep(LOOK_SECONDS)


def _print(batch: "Batch", ids: "Dictionary") -> None:
    """Returns once whoever reads has it, or the system has."""
    from recommendation_service.flush.export import event_of_record, write_json_lines

    events = []
    for stretch in batch.stretches:
        for record in stretch.records:
            try:
                events.append(event_of_record(record, ids))
            except (IndexError, ValueError) as error:
                typer.echo(f"A record in {stretch.segment} is left out: {error}.", err=True)
    write_json_lines(events, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    if ids.untold:
        typer.echo(untold_said(len(ids.untold)), err=True)
        ids.untold.clear()


def untold_said(count: int) -> str:
    return f"{count:,} ids are missing: they are text, and no catalog that is kept here has them any more."


def _say_what_is_missing(batch: "Batch") -> None:
    if batch.missed is not None:
        missed = batch.missed
        times = f", from {_moment(missed.from_ms)} to {_moment(missed.until_ms)}" if missed.from_ms else ""
        typer.echo(
            f"Cut off from at most {missed.records:,} records, {missed.bytes:,} bytes of {missed.segments:,} segments"
            f"{times}: they were not read in time (READER_LOG_SHARE).",
            err=True,
        )
    if batch.restarted:
        typer.echo(
            f"The position in {', '.join(batch.restarted)} was lost: some of what follows was printed before.",
            err=True,
        )
    undecodable = sum(len(stretch.undecodable) for stretch in batch.stretches)
    if undecodable:
        typer.echo(f"{undecodable:,} records are none of this release, and are left out.", err=True)


def lags_as_json(found: "Sequence[Lag]", now: float) -> list[dict[str, Any]]:
    """``now``: seconds since 1970."""
    return [
        {
            "reader": lag.reader,
            "read_by": lag.holder or None,
            "behind_segments": lag.segments,
            "behind_bytes": lag.bytes,
            "behind_seconds": 0.0 if lag.oldest_ms is None else max(0.0, round(now - lag.oldest_ms / 1000, 3)),
            "missed_segments": lag.missed.segments,
            "missed_bytes": lag.missed.bytes,
            "missed_records": lag.missed.records,
            "problem": lag.problem,
        }
        for lag in found
    ]


def said_of(lag: dict[str, Any]) -> str:
    """A line for people."""
    parts = ["at the end"]
    if lag["behind_bytes"]:
        parts = [f"{lag['behind_bytes']:,} bytes of {lag['behind_segments']:,} segments behind"]
        parts.append(f"the oldest for {lag['behind_seconds']:,.0f} s")
    if lag["missed_segments"]:
        parts.append(f"was cut off from {lag['missed_records']:,} records")
    if lag["read_by"]:
        parts.append(f"read by {lag['read_by']}")
    if lag["problem"]:
        parts.append(lag["problem"])
    return ", ".join(parts)


def _moment(milliseconds: int | None) -> str:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC).isoformat(timespec="seconds")
