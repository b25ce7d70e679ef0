"""`recs learn`: learning here, what was learned so far, and beginning anew."""

import json
import signal
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows

if TYPE_CHECKING:
    from recommendation_service.learning.status import LearnerStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
POLL_SECONDS = 0.1


def learn(
    once: Annotated[
        bool, typer.Option("--once", help="Learn what the log has, publish a version of it, and end.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what was learned so far.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Put aside what was learned, and begin with the prior.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="With --once: seconds to wait for a running learner.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Learn from what people do with their feeds, and publish policy versions of it; until Ctrl-C.

    No version is served until it is promoted (`recs policy promote`). With LEARNER set the service does this itself,
    and only one learner runs: --once then asks that one.

    \b
    $ recs learn --once
    $ recs learn --status --json | jq .totals.slots
    $ recs learn --anew
    """
    settings = load_settings()
    if sum((once, status, anew)) > 1:
        raise typer.BadParameter("--once, --status and --anew exclude each other", param_hint="recs learn")
    try:
        _carry_out(settings, once=once, status=status, anew=anew, timeout=timeout, as_json=as_json)
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(f"{error.filename or settings.learning_dir} cannot be used: {reason}.") from error


def _carry_out(settings: Settings, *, once: bool, status: bool, anew: bool, timeout: float, as_json: bool) -> None:
    if anew:
        _begin_anew(settings, as_json=as_json)
        return
    if not status and not _learn_here(settings, once=once):
        if not once:
            raise SourceError(f"A learner of {settings.learning_dir} runs already; --once asks it for a version.")
        _ask(settings, timeout)
    from recommendation_service.learning.status import LearnerStatus, read_status

    last = read_status(settings.learning_dir) or LearnerStatus()
    if as_json:
        typer.echo(json.dumps(asdict(last)))
    else:
        _print(last)
    if once and last.error:
        raise SourceError(last.error)


def _learn_here(settings: Settings, *, once: bool) -> bool:
    """False: a learner runs. Raises SourceError, OSError."""
    from recommendation_service.core.clock import Clock
    from recommendation_service.learning.format import load_learning
    from recommendation_service.learning.learner import Learner
    from recommendation_service.processes.leases import open_lease
    from recommendation_service.processes.registry import LEARNER

    file = load_learning(settings.learning_file)
    with open_lease(LEARNER, settings.learning_dir) as lease:
        if not lease.take():
            return False
        learner = Learner(settings, file, Clock(settings.data_dir, settings.clock_tolerance_seconds).now)
        try:
            if once:
                learner.learn_all()
                learner.tell()
            else:
                stop = threading.Event()
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, lambda *_: stop.set())
                learner.run(stop)
        finally:
            learner.close()
    return True


def _ask(settings: Settings, timeout: float) -> None:
    from recommendation_service.learning.status import read_status
    from recommendation_service.processes.registry import LEARNER
    from recommendation_service.processes.requests import answered, ask

    token = ask(LEARNER, settings.learning_dir)
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if answered(LEARNER, settings.learning_dir) >= token:
            return
        time.sleep(POLL_SECONDS)
    last = read_status(settings.learning_dir)
    raise SourceError((last.error if last else None) or f"The learner has not answered within {timeout:g} s.")


def _begin_anew(settings: Settings, *, as_json: bool) -> None:
    """What was learned is kept aside, as it is in no other place. Raises SourceError, OSError."""
    from recommendation_service.learning.ledger import put_aside
    from recommendation_service.log.marks import LEARN
    from recommendation_service.log.reader import LogReader

    # Whoever learns holds this name; a process whose file was refused does not, and takes up the new one by itself.
    with LogReader(settings.events_dir, LEARN):
        kept = put_aside(settings.learning_dir, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({"kept": str(kept) if kept else None}))
    elif kept is None:
        typer.echo("Nothing was learned yet.")
    else:
        typer.echo(f"What was learned is in {kept} now. Learning begins anew, with what the log still has.")


def _print(status: "LearnerStatus") -> None:
    totals = status.totals
    version = f"{totals.version}, of {_when(totals.version_ms)}" if totals.version else "none yet"
    rows: list[tuple[str, str]] = [
        ("shown items", ", ".join(f"{kind} {count:,}" for kind, count in totals.slots.items()) or "none yet"),
        ("events", ", ".join(_events(totals.events)) or "none yet"),
        ("taught nothing", ", ".join(f"{reason} {count:,}" for reason, count in totals.left.items()) or "none"),
        ("feeds waited for", f"{status.pending_feeds:,}"),
        ("tables not read", "; ".join(f"{table}: {problem}" for table, problem in status.unread.items()) or "none"),
        ("last version", version),
        ("problem", status.error or "none"),
    ]
    print_rows(("", ""), rows)


def _events(events: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"{event} {count:,} (by {source})" for event, sources in events.items() for source, count in sources.items()
    ]


def _when(moment_ms: int | None) -> Any:
    return datetime.fromtimestamp((moment_ms or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
