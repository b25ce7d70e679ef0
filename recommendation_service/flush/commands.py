"""`recs events …` and `recs migrate`: the log's way into the database, looked at and helped along by hand."""

import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows

if TYPE_CHECKING:
    from recommendation_service.flush.dead_letters import DeadLetter
    from recommendation_service.flush.flusher_status import FlusherStatus
    from recommendation_service.model.words import Words

app = typer.Typer(
    no_args_is_help=True, help="Events: what feeds showed, what people did, and its way into the database."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
WAIT_POLL_SECONDS = 0.05


class What(StrEnum):
    EVENTS = "events"
    DECISIONS = "decisions"


class Format(StrEnum):
    JSONL = "jsonl"
    PARQUET = "parquet"


@app.command()
def status(as_json: AsJson = False) -> None:
    """What waits on this machine for the database, and how flushing goes.

    \b
    $ recs events status
    $ recs events status --json | jq '.waiting_records, .error'
    """
    from recommendation_service.core.files import folder_problem
    from recommendation_service.core.place import problem_of
    from recommendation_service.flush.dead_letters import DeadLetters
    from recommendation_service.flush.flusher_status import FlusherStatus, read_status
    from recommendation_service.flush.reader_commands import lags_as_json, said_of
    from recommendation_service.log.event_log import folder_bytes
    from recommendation_service.log.lags import LogLags
    from recommendation_service.processes.leases import is_taken
    from recommendation_service.processes.registry import FLUSHER

    settings = load_settings()
    folder, now = settings.events_dir, Clock(settings.data_dir, settings.clock_tolerance_seconds).now()
    last = read_status(folder)
    found = asdict(last or FlusherStatus())
    problem = folder_problem(folder) or problem_of(settings)
    try:
        found |= {
            "flusher_runs": is_taken(FLUSHER, folder),
            "log_bytes": folder_bytes(folder) if folder.is_dir() else 0,
            "dead_letters_kept": len(DeadLetters(folder).all()),
            "readers": lags_as_json(LogLags(folder).read(), now),
        }
    except OSError as error:
        problem = problem or f"{error.filename or folder} cannot be read: {error.strerror}."
    found |= {"folder_problem": problem}
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows: list[tuple[str, str]] = []
    if problem is not None:
        rows.append(("folder", problem))
    if "flusher_runs" in found:
        rows.append(("flusher", "runs" if found["flusher_runs"] else "does not run on this machine"))
    if last is not None:
        waited = f", the oldest for {max(0.0, now - last.oldest_ms / 1000):,.0f} s" if last.oldest_ms else ""
        rows.append(("waiting", f"{last.waiting_records:,} records, {last.waiting_bytes:,} bytes{waited}"))
        if last.due_ms is not None:
            runs = bool(found.get("flusher_runs"))
            rows.append(("next flush", _next_flush(last, last.due_ms / 1000 - now, settings, flusher_runs=runs)))
        if last.unreadable_segments:
            rows.append(("unreadable", f"{last.unreadable_segments:,} segments, which the flusher's user may not read"))
        rows.append(("last problem", last.error or "none"))
        for event, count in sorted(last.flushed.items()):
            rows.append((f"flushed: {event}", f"{count:,}"))
        rows.append(("duplicates", f"{last.duplicates:,}"))
    if "dead_letters_kept" in found:
        rows.append(("log on disk", f"{found['log_bytes']:,} bytes"))
        rows.append(("dead letters", f"{found['dead_letters_kept']:,}"))
        rows += [(f"reader {lag['reader']}", said_of(lag)) for lag in found["readers"]]
    print_rows(("", ""), rows)


def _next_flush(last: "FlusherStatus", seconds: float, settings: Settings, *, flusher_runs: bool) -> str:
    """When what waits will be in the database."""
    if not flusher_runs:
        return "when a flusher runs again; `recs events flush` does it now"
    when = f"in {seconds:,.0f} s" if seconds >= 1 else "now"
    if last.error is not None:
        return f"tried again {when}"
    threshold = settings.flush_threshold_activities
    if last.most_of_a_user >= threshold or seconds < 1:
        return when
    return f"{when}, or as soon as one user has {threshold:,} events that wait (now {last.most_of_a_user:,})"


@app.command()
def flush(
    as_json: AsJson = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the running flusher.")] = 60.0,
) -> None:
    """Bring all events of this machine into the database now, and wait for it.

    Asks the flusher where one runs; otherwise does it here. Exit status 1 where something is left.

    \b
    $ recs events flush
    """
    settings = load_settings()
    if not _flush_here(settings):
        _ask_for_flush(settings.events_dir, timeout)
    from recommendation_service.flush.flusher_status import FlusherStatus, read_status

    last = read_status(settings.events_dir) or FlusherStatus()
    if as_json:
        typer.echo(json.dumps(asdict(last)))
    else:
        typer.echo("All events are in the database.")


def _flush_here(settings: Settings) -> bool:
    """False: a flusher runs. Raises SourceError where something is left."""
    from recommendation_service.flush.flusher import Flusher
    from recommendation_service.flush.tables import make_writing_engine
    from recommendation_service.processes.leases import open_lease
    from recommendation_service.processes.registry import FLUSHER

    with open_lease(FLUSHER, settings.events_dir) as lease:
        if not lease.take():
            return False
        engine = make_writing_engine(settings)
        flusher = Flusher(settings, engine)
        whole = flusher.flush_all()
        flusher.tell()
        flusher.close()
        engine.dispose()
        if not whole:
            raise SourceError(flusher.status.error or "Not all events could be flushed.")
    return True


def _ask_for_flush(folder: Path, timeout: float) -> None:
    from recommendation_service.flush.flusher_status import read_status
    from recommendation_service.processes.registry import FLUSHER
    from recommendation_service.processes.requests import answered, ask

    token = ask(FLUSHER, folder)
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if answered(FLUSHER, folder) >= token:
            return
        time.sleep(WAIT_POLL_SECONDS)
    last = read_status(folder)
    raise SourceError((last.error if last else None) or f"The flusher has not answered within {timeout:g} s.")


@app.command()
def dead(
    replay: Annotated[bool, typer.Option("--replay", help="Put them through again; what succeeds is removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Records that the database refused for ever, or that could not be read: list them, or try them again.

    Exit status 1 where a replay leaves some.

    \b
    $ recs events dead
    $ recs events dead --json | jq -r '.[].reason' | sort | uniq -c
    $ recs events dead --replay
    """
    from recommendation_service.flush.dead_letters import DeadLetters
    from recommendation_service.sources.mapping.words import open_words

    settings = load_settings()
    if replay:
        _replay(settings, as_json=as_json)
        return
    letters = DeadLetters(settings.events_dir).all()
    if as_json:
        words = open_words(settings)
        typer.echo(json.dumps([asdict(letter) | _own_user(letter, words) for letter in letters]))
        return
    if not letters:
        typer.echo("There are no dead letters.")
        return
    rows = [(each.died_at, each.event or "unreadable", each.event_id or "", each.reason) for each in letters]
    print_rows(("died at", "event", "event_id", "reason"), rows, whole={0, 1, 2})


def _own_user(letter: "DeadLetter", words: "Words") -> dict[str, Any]:
    """As the operator has it, where that is text; the file has the number, by which a user is forgotten."""
    record = letter.record() if words.users_are_text and letter.user_id else None
    return {} if record is None else {"user_id": record.user_text}


def _replay(settings: Settings, *, as_json: bool) -> None:
    from recommendation_service.core.place import check
    from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
    from recommendation_service.flush.destination import Destination
    from recommendation_service.flush.tables import make_writing_engine
    from recommendation_service.log.records import encode

    dead_letters = DeadLetters(settings.events_dir)
    letters = dead_letters.all()
    records = [record for letter in letters if (record := letter.record()) is not None]
    engine = make_writing_engine(settings)
    check(settings, engine)
    # None is of a forgotten user: those are gone.
    outcome = Destination(settings, engine).writer().write(records)
    if outcome.left:
        # Nothing was removed: those that went through are found to be there at the next replay.
        raise SourceError(outcome.problem)
    kept: list[DeadLetter] = [letter for letter in letters if letter.record() is None]
    kept += [dead_letter(encode(record), reason, record) for record, reason in outcome.refused]
    dead_letters.replace(letters, kept)
    result = {"replayed": outcome.inserted.total(), "already_there": outcome.duplicates, "dead": len(kept)}
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"{result['replayed']:,} went through, {result['already_there']:,} were there already, "
            f"{result['dead']:,} stay dead."
        )
    if kept:
        raise typer.Exit(1)


@app.command()
def export(
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output (JSON lines).")] = None,
    form: Annotated[Format, typer.Option("--format", help="jsonl or parquet.")] = Format.JSONL,
    since: Annotated[datetime | None, typer.Option(help="From this time on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, UTC.")] = None,
    event: Annotated[str | None, typer.Option(help="Only this event: feed, impression, view, …")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user, by id.")] = None,
    what: Annotated[What, typer.Option(help="events, from the database; or decisions, of this machine.")] = What.EVENTS,
    as_json: Annotated[bool, typer.Option("--json", help="Say on standard error how many, as JSON.")] = False,
) -> None:
    """Events from the database: as JSON lines or Parquet, feeds with their slots. Or this machine's decisions.

    \b
    $ recs events export --since 2026-11-01 > events.jsonl
    $ recs events export --event feed --format parquet --output feeds.parquet
    $ recs events export --user 4711 | jq .
    $ recs events export --what decisions --since 2026-11-01 > decisions.jsonl
    """
    from recommendation_service.catalog.dictionary import open_dictionary
    from recommendation_service.core.database import make_engine
    from recommendation_service.flush.decision_export import export_decisions
    from recommendation_service.flush.export import (
        Selection,
        read_events,
        write_json_lines,
        write_parquet,
        written_aside,
    )
    from recommendation_service.flush.reader_commands import untold_said
    from recommendation_service.flush.rows import FEED
    from recommendation_service.sources.mapping.words import open_words

    settings = load_settings()
    words = open_words(settings)
    if event is not None and event not in {FEED, *words.events}:
        raise typer.BadParameter(f"{event!r} is none of {', '.join((FEED, *words.events))}", param_hint="--event")
    if form is Format.PARQUET and output is None:
        raise typer.BadParameter("Parquet needs a file", param_hint="--output")
    if what is What.DECISIONS and (event is not None or form is Format.PARQUET):
        raise typer.BadParameter("Decisions are no events and have no table: JSON lines only", param_hint="--what")
    try:
        number = None if user is None else words.user_number(user)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--user") from None
    ids = open_dictionary(settings, words)
    engine = make_engine(settings)
    try:
        if what is What.DECISIONS:
            events = export_decisions(settings.decisions_dir, _utc(since), _utc(until), number, ids)
        else:
            events = read_events(engine, Selection(_utc(since), _utc(until), event, number), ids)
        if output is None:
            count = write_json_lines(events, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            try:
                with written_aside(output) as file:
                    is_parquet = form is Format.PARQUET
                    count = write_parquet(events, file, words) if is_parquet else write_json_lines(events, file)
            except OSError as error:
                raise SourceError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        engine.dispose()
    if as_json:
        untold = {"ids_missing": len(ids.untold)} if words.users_are_text or words.text_types else {}
        typer.echo(json.dumps({what.value: count} | untold), err=True)
        return
    if output is not None:
        typer.echo(f"{count:,} {what.value} in {output}", err=True)
    if ids.untold:
        typer.echo(untold_said(len(ids.untold)), err=True)


def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL that would run, and run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the service's own tables (recs_…) in the operator's database, or bring them up to date.

    Needs CREATE there; running it again changes nothing. migrations/recs_events.sql is the same for the plain client.

    \b
    $ recs migrate --dry-run
    $ MYSQL_USER=admin MYSQL_PASSWORD=… recs migrate
    """
    from recommendation_service.flush.migrations import migrate as carry_out
    from recommendation_service.flush.migrations import pending_migrations, statements
    from recommendation_service.flush.tables import make_writing_engine

    engine = make_writing_engine(load_settings())
    try:
        pending = pending_migrations(engine)
        sql = statements(pending, engine.dialect.name)
        if not dry_run:
            carry_out(engine)
    finally:
        engine.dispose()
    if as_json:
        found: dict[str, Any] = {
            "migrations": [{"version": migration.version, "what": migration.what} for migration in pending],
            "done": not dry_run,
            "statements": sql,
        }
        typer.echo(json.dumps(found))
    elif dry_run:
        typer.echo("".join(f"{statement};\n" for statement in sql) or "-- Nothing to do.\n", nl=False)
    else:
        for migration in pending:
            typer.echo(f"Carried out {migration.version}: {migration.what}")
        if not pending:
            typer.echo("Nothing to do: the tables are up to date.")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
