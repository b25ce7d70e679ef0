"""`recs learn`: learning here, what was learned so far, and beginning anew."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows

if TYPE_CHECKING:
    from recommendation_service.core.blocking_redis import BlockingRedis
    from recommendation_service.learning.status import LearnerStatus

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
POLL_SECONDS = 0.1
TOLD_SHADOWS = 4


app = typer.Typer()


@app.callback(invoke_without_command=True)
def learn(
    context: typer.Context,
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
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    if sum((once, status, anew)) > 1:
        raise typer.BadParameter("--once, --status and --anew exclude each other", param_hint="recs learn")
    with _disk(settings):
        _carry_out(settings, once=once, status=status, anew=anew, timeout=timeout, as_json=as_json)


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
        _print(last, settings.policy_dir)
    if once and last.error:
        raise SourceError(last.error)


def _learn_here(settings: Settings, *, once: bool) -> bool:
    """False: a learner runs. Raises SourceError, OSError."""
    from recommendation_service.core.clock import Clock
    from recommendation_service.learning.learner import Learner
    from recommendation_service.learning.mapped import learning_of
    from recommendation_service.processes.leases import open_lease
    from recommendation_service.processes.registry import LEARNER

    file = learning_of(settings)
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
        if settings.has_redis:
            _strike_own(settings)
        kept = put_aside(settings.learning_dir, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({"kept": str(kept) if kept else None}))
    elif kept is None:
        typer.echo("Nothing was learned yet.")
    else:
        typer.echo(f"What was learned is in {kept} now. Learning begins anew, with what the log still has.")


def _strike_own(settings: Settings) -> None:
    """What the log still has would else count twice in the fleet: as what is learned anew, and as what was before.

    Done by the next learner, as Redis may be away.
    """
    from recommendation_service.core.files import make_folder, write_whole
    from recommendation_service.learning.fleet import TO_STRIKE
    from recommendation_service.learning.ledger import identity_in

    machine = identity_in(settings.learning_dir) or _machine_of(settings)
    if machine is not None:
        make_folder(settings.learning_dir)
        write_whole(settings.learning_dir / TO_STRIKE, f"{machine}\n", synced=True)


def _machine_of(settings: Settings) -> str | None:
    """As the learner last told."""
    from recommendation_service.learning.status import read_status

    last = read_status(settings.learning_dir)
    return last.fleet["machine"] if last is not None and last.fleet is not None else None


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written whole, or not at all.")],
    as_json: AsJson = False,
) -> None:
    """Write a backup of what was learned and of the policies, while all runs.

    \b
    $ recs learn backup /backup/learned-$(date +%F).tar.gz
    """
    from recommendation_service.learning.backup import back_up

    settings = load_settings()
    with _disk(settings):
        summary = back_up(settings, file, datetime.now(UTC))
    slots = "nothing learned" if summary.slots is None else f"what was learned of {summary.slots:,} shown items"
    _say(
        as_json, {"file": str(file), **vars(summary)}, f"{file}: {slots}, and {len(summary.versions)} policy versions."
    )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `recs learn backup` wrote it.")],
    check: Annotated[bool, typer.Option("--check", help="Only check it, and say what is in it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of what was learned, and add the policy versions that are not here.

    It is checked whole first, and refused while a learner runs. What was learned until now is kept under another name.
    What is served stays; where nothing ever was, what the backup had is. In a fleet, it takes the place of what Redis
    has of that machine.

    \b
    $ recs learn restore /backup/learned-2026-11-29.tar.gz --check
    $ recs learn restore /backup/learned-2026-11-29.tar.gz
    """
    from recommendation_service.core.blocking_redis import open_blocking_redis
    from recommendation_service.learning.backup import put_back
    from recommendation_service.learning.mapped import learning_of
    from recommendation_service.log.marks import LEARN
    from recommendation_service.log.reader import LogReader
    from recommendation_service.policies.fleet import FleetPolicies
    from recommendation_service.policies.journal import Deed

    settings = load_settings()
    learning = learning_of(settings)
    deed = Deed(datetime.now(UTC), "recs learn restore", file.name)
    with ExitStack() as stack:
        stack.enter_context(_disk(settings))
        if not check:
            stack.enter_context(LogReader(settings.events_dir, LEARN))  # whoever learns holds this name
        redis = None if check else open_blocking_redis(settings)
        if redis is not None:
            stack.callback(redis.close)
        fleet = FleetPolicies(redis, may_go_alone=True) if redis is not None else None
        found = put_back(settings, learning, file, fleet, deed, only_check=check)
    slots = "nothing learned" if found.slots is None else f"what was learned of {found.slots:,} shown items"
    told = f"{file}, made at {found.made_at}: {slots}, and {len(found.versions)} policy versions."
    if check:
        told += " All of it is whole, and can be put back."
    else:
        told += " It is in its place." + (f" What was there before is {found.kept}." if found.kept else "")
        if found.served is not None and not found.serves_it:
            told += f" What is served stays; in the backup it was {found.served}."
    _say(as_json, {"file": str(file), **vars(found)}, told)


@contextmanager
def _disk(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(f"{error.filename or settings.learning_dir} cannot be used: {reason}.") from error


@app.command()
def strike(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `recs learn --status` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Have what a machine has learned count no more in the fleet, as of one whose log was full of nonsense.

    A machine that is merely gone needs none: what it has learned stays, and fades as all does.

    \b
    $ recs learn strike 5d41402abc4b2a76
    """
    from recommendation_service.learning import fleet

    struck = _in_redis(lambda redis: fleet.strike(redis, machine, time.time()))
    if not struck:
        raise SourceError(f"The fleet has no machine {machine}: `recs learn --status` shows those that it has.")
    _say(as_json, {"struck": machine}, f"What {machine} has learned counts no more.")


@app.command("take-over")
def take_over(as_json: AsJson = False) -> None:
    """Put this machine's sums in the place of what the fleet has under its name, where they are refused.

    So after it was struck off, or an older learned.sqlite was put back. Not on a copy of another machine's folder.

    \b
    $ recs learn take-over
    """
    from recommendation_service.learning import fleet
    from recommendation_service.learning.ledger import identity_in

    settings = load_settings()
    machine = identity_in(settings.learning_dir)
    if machine is None:
        raise SourceError(f"Nothing was learned in {settings.learning_dir} yet.")
    _in_redis(lambda redis: fleet.strike(redis, machine, time.time(), in_any_case=True, until_written=True))
    _say(as_json, {"machine": machine}, f"What {machine} learns is put there within a minute.")


def _in_redis(work: "Callable[[BlockingRedis], T]") -> "T":
    from recommendation_service.core.blocking_redis import open_blocking_redis
    from recommendation_service.core.redis import RedisUnavailable

    redis = open_blocking_redis(load_settings())
    if redis is None:
        raise SourceError("There is no fleet: the settings name no Redis.")
    with redis:
        try:
            return work(redis)
        except RedisUnavailable as error:
            raise SourceError(f"Redis at {redis.address} does not answer: {error}.") from error


def _say(as_json: bool, found: dict[str, Any], told: str) -> None:
    typer.echo(json.dumps(found) if as_json else told)


def _print(status: "LearnerStatus", policies: Path) -> None:
    from recommendation_service.learning.apprentice import in_words
    from recommendation_service.policies.evidence import EvidenceFiles

    totals = status.totals
    version = f"{totals.version}, of {_when(totals.version_ms)}" if totals.version else "none yet"
    files = EvidenceFiles(policies)
    beside = [in_words(shadow, *counts, files.of(shadow)) for shadow, counts in reversed(totals.agreement.items())]
    rows: list[tuple[str, str]] = [
        ("shown items", ", ".join(f"{kind} {count:,}" for kind, count in totals.slots.items()) or "none yet"),
        ("events", ", ".join(_events(totals.events)) or "none yet"),
        ("taught nothing", ", ".join(f"{reason} {count:,}" for reason, count in totals.left.items()) or "none"),
        ("feeds waited for", f"{status.pending_feeds:,}"),
        ("tables not read", "; ".join(f"{table}: {problem}" for table, problem in status.unread.items()) or "none"),
        ("last version", version),
        ("beside what serves", "\n".join(beside[:TOLD_SHADOWS]) or "no shadow yet"),
        ("weighed", ", ".join(f"{did} {count:,}" for did, count in status.gate.items()) or "nothing yet"),
        ("trial", status.trial or "none"),
        ("problem", status.error or "none"),
    ]
    print_rows(("", ""), rows)
    if (fleet := status.fleet) is not None:
        _print_fleet(fleet)


def _print_fleet(fleet: dict[str, Any]) -> None:
    machines = [{"machine": fleet["machine"], "host": fleet["host"], "own": True}, *fleet["machines"]]
    rows = []
    for each in machines:
        marks = [
            "this one" if "own" in each else "",
            "publishes" if each["machine"] == fleet["publisher"] else "",
            "cut off" if "own" in each and fleet["cut_off"] else "",
            "struck off" if each.get("struck") else "",
            f"not merged: {each['refused']}" if each.get("refused") else "",
        ]
        slots, written = each.get("slots"), each.get("written_ms")
        told = ("" if slots is None else f"{slots:,}", "" if written is None else _when(written))
        rows.append((each["machine"], each.get("host", ""), *told, ", ".join(filter(None, marks))))
    print_rows(("machine", "host", "shown items", "as of", ""), rows, title="Fleet", whole={0})


def _events(events: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"{event} {count:,} (by {source})" for event, sources in events.items() for source, count in sources.items()
    ]


def _when(moment_ms: int | None) -> Any:
    return datetime.fromtimestamp((moment_ms or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
