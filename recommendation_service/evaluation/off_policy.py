"""`recs evaluate off-policy`: how well another policy would have done, from what was logged while one served."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recommendation_service.core.files import opener
from recommendation_service.dsjson.decision import Form
from recommendation_service.dsjson.reading import Costs

if TYPE_CHECKING:
    from recommendation_service.dsjson.log_file import DecisionLog
    from recommendation_service.dsjson.refusals import RefusedLine
    from recommendation_service.dsjson.weighing import Weighing

FAILED = 1
# Of a file, between two steps of its bar.
_STEP_BYTES = 1 << 20


def off_policy(
    log: Annotated[
        Path | None,
        typer.Option(
            help="A decision log of Vowpal Wabbit or Azure Personalizer (dsjson), a JSON object a line. Without it, "
            "what this service recorded."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What to weigh. Of this service's record: a version of `recs policy list`, or a policy file; default: "
            "the shadow. Of a log, and then it may be given again, even; index:K[,K...]: always action K (from 0 on), "
            "of each slot; mix:E: as the log, with a share E even; greedy[:E]: what the log liked best, with a share E "
            "even; learner: this service's learner, taught by the events before. Default: even, index:0 and learner."
        ),
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Feeds from this time on, UTC. Default: 30 days ago.")] = None,
    until: Annotated[
        datetime | None,
        typer.Option(help="Feeds before this time, UTC. Default: those that had time to be rewarded."),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Feeds of this endpoint only.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Of each feed the first so many slots. Default: all that feeds have.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="Weigh by the decisions in this folder. Default: this machine's, where the policy was no shadow."
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(help="What the log has; lines of another form are refused. Default: as its first line."),
    ] = None,
    costs: Annotated[
        Costs,
        typer.Option(
            help="Of a log of apprentice mode: label weighs how well the application was imitated, original what it "
            "brought. ask: refuse the lines where these differ."
        ),
    ] = Costs.ASK,
    refused: Annotated[
        Path | None, typer.Option(help="A file for every line that is not weighed: number, reason and detail as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """How well another policy would have done, from what was logged while one served.

    Of this service's own record, or of a decision log of Vowpal Wabbit or Azure Personalizer. docs/evidence.md says how
    to read a verdict, and docs/dsjson.md how to come here from Personalizer.

    Of such a log a line that cannot be used is refused by number and reason, and ends nothing. Exit status 1: nothing
    could be weighed.

    Examples:

    \b
    $ recs evaluate off-policy
    $ recs evaluate off-policy --policy 20261129T101500.000000Z-5d41402abc4b2a76 --endpoint total --json
    $ recs evaluate off-policy --policy bolder.toml --since 2026-11-01 --slots 6
    $ recs evaluate off-policy --log decisions.dsjson
    $ recs evaluate off-policy --log decisions.dsjson --policy even --policy index:2 --json
    $ recs evaluate off-policy --log slots.dsjson --policy index:0,1 --policy learner --refused refused.jsonl
    $ zcat july/*.gz | recs evaluate off-policy --log /dev/stdin --costs original
    """
    if log is not None:
        given = {"--since": since, "--until": until, "--endpoint": endpoint, "--slots": slots, "--decisions": decisions}
        _must_be_absent(given, "is of this service's own record, and --log names another")
        _weigh_log(log, policy, form, costs, refused, as_json=as_json)
        return
    _must_be_absent({"--form": form, "--refused": refused}, "is of a log, which --log names")
    if policy is not None and len(policy) > 1:
        raise typer.BadParameter("of this service's record one policy is weighed at a time", param_hint="--policy")
    from recommendation_service.evaluation.own_command import Asked, weigh_own

    weigh_own(Asked(policy[0] if policy else None, since, until, endpoint, slots, decisions), as_json=as_json)


def _must_be_absent(given: Mapping[str, object], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=name)


def _weigh_log(
    log: Path, policy: list[str] | None, form: Form | None, costs: Costs, refused: Path | None, *, as_json: bool
) -> None:
    from recommendation_service.dsjson import report
    from recommendation_service.dsjson.log_file import DecisionLog
    from recommendation_service.dsjson.policies import DEFAULT, UnknownPolicy, policy_named
    from recommendation_service.dsjson.weighing import Weighing

    names = list(dict.fromkeys(policy or DEFAULT))
    try:
        policies = [policy_named(name) for name in names]
    except UnknownPolicy as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from None
    read, weighing = DecisionLog(log, costs, form), Weighing(policies)
    console = Console(stderr=True)
    try:
        with (
            open(refused, "w", encoding="utf-8", opener=opener()) if refused else nullcontext() as file,
            _bar(log, console) as advance,
        ):
            _weigh(read, weighing, advance, _Told(console, file))
    except OSError as error:
        console.print(
            f"Error: {error.filename or log}: {error.strerror}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(FAILED) from None
    values = weighing.values()
    if as_json:
        typer.echo(json.dumps(report.as_json(read, values), ensure_ascii=False, allow_nan=False))
    else:
        report.print_report(read, values)
    if not read.events:
        raise typer.Exit(FAILED)


def _weigh(log: "DecisionLog", weighing: "Weighing", advance: Callable[[int], None], told: "_Told") -> None:
    for decision in log.decisions(advance, told.of):
        weighing.add(decision)
    told.finish()


class _Told:
    """Of lines that are not weighed, the first refused ones on standard error; all in a file where one was named."""

    def __init__(self, console: Console, file: TextIO | None) -> None:
        self._console = console
        self._file = file
        self._refused = 0

    def of(self, line: "RefusedLine") -> None:
        from recommendation_service.dsjson.refusals import LEFT_OUT
        from recommendation_service.dsjson.report import NAMED, line_as_json

        if self._file is not None:
            self._file.write(json.dumps(line_as_json(line), ensure_ascii=False) + "\n")
        if line.reason in LEFT_OUT:
            return
        self._refused += 1
        if self._refused <= NAMED:
            self._say(str(line))

    def finish(self) -> None:
        from recommendation_service.dsjson.report import NAMED

        if self._refused > NAMED and self._file is None:
            self._say(f"{self._refused - NAMED:,} further lines were refused; --refused FILE names them all.")

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(path: Path, console: Console) -> Iterator[Callable[[int], None]]:
    """Over the bytes of the file; of a pipe, whose end is not known, it says how many there were."""
    size = path.stat().st_size if path.is_file() else None
    with Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=size)
        behind = 0

        def advance(more: int) -> None:
            nonlocal behind
            behind += more
            if behind >= _STEP_BYTES:
                bars.advance(task, behind)
                behind = 0

        yield advance
        bars.advance(task, behind)
