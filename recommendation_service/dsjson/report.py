"""What was found on a log, for people and for programs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import typer

from recommendation_service.core.output import print_rows
from recommendation_service.dsjson.log_file import DecisionLog
from recommendation_service.dsjson.refusals import LEFT_OUT, RefusedLine
from recommendation_service.dsjson.weighing import PolicyValue

# Lines that are named where people look; all are counted, and a file or --json has more.
NAMED = 20


def as_json(log: DecisionLog, values: Sequence[PolicyValue]) -> dict[str, Any]:
    """NaN is null: nothing can be told."""
    refusals = log.refusals
    return {
        "log": str(log.path),
        "form": log.form,
        "events": log.events,
        "from": log.first.isoformat() if log.first else None,
        "until": log.last.isoformat() if log.last else None,
        "refused": {
            reason.name.lower(): refusals.counts[reason] for reason in refusals.counts if reason not in LEFT_OUT
        },
        "refused_lines": [line_as_json(line) for line in refusals.named],
        "left_out": {reason.name.lower(): refusals.counts[reason] for reason in refusals.counts if reason in LEFT_OUT},
        "warnings": list(remarks(log)),
        "policies": [_policy_as_json(value) for value in values],
    }


def line_as_json(line: RefusedLine) -> dict[str, Any]:
    return {"line": line.number, "reason": line.reason.name.lower(), "detail": line.detail}


def _policy_as_json(value: PolicyValue) -> dict[str, Any]:
    found: dict[str, Any] = {
        "policy": value.policy,
        "verdict": value.verdict,
        "refusal": value.refusal,
        "warnings": list(value.warnings),
        "logged": value.logged,
        "ips": value.ips,
        "snips": value.snips,
        "own_ratio": value.own_ratio,
        "difference": value.estimate.difference,
        "lower": value.estimate.lower,
        "upper": value.estimate.upper,
        "effective_sample_size": value.ess,
        "slots": [{name: _or_null(each) for name, each in asdict(slot).items()} for slot in value.slots],
    }
    return {name: _or_null(each) for name, each in found.items()}


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remarks(log: DecisionLog) -> Iterator[str]:
    """What makes figures doubtful though no line is refused."""
    repeated = log.repeated()
    if repeated:
        named = ", ".join(f"{line:,}" for line in repeated[:NAMED]) + (", ..." if len(repeated) > NAMED else "")
        yield (
            f"{len(repeated):,} events have the EventId of one before, and count once more (lines {named}): was the "
            "log joined from files that overlap?"
        )
    if log.disordered:
        yield (
            f"{log.disordered:,} events are older than one before them: `learner` learns in the order of the file, so "
            "sort it by Timestamp."
        )
    if log.untimed:
        yield f"{log.untimed:,} events have no Timestamp that can be read."


def print_report(log: DecisionLog, values: Sequence[PolicyValue]) -> None:
    """Of slots only where there is more than one."""
    span = f", {log.first:%Y-%m-%d %H:%M} to {log.last:%Y-%m-%d %H:%M} UTC" if log.first and log.last else ""
    typer.echo(f"{log.events:,} events of {log.path} ({log.form}){span}. Rewards are minus costs, an event.")
    _print_lines(log)
    rows = [
        (
            value.policy,
            _number(value.snips),
            _number(value.ips),
            _signed(value.estimate.difference),
            _interval(value),
            f"{value.ess:,.1f}",
            value.verdict,
        )
        for value in values
    ]
    logged = next((value.logged for value in values if value.slots), math.nan)
    headings = ("policy", "reward", "IPS", "to logged", "95 % interval", "effective sample", "verdict")
    print_rows(headings, [("as logged", _number(logged), "", "", "", "", ""), *rows], right={1, 2, 3, 5})
    _print_slots(values)
    for value in values:
        for sentence in (value.refusal, *value.warnings):
            if sentence is not None:
                typer.echo(f"{value.policy}: {sentence}")
    for sentence in remarks(log):
        typer.echo(sentence)


def _print_lines(log: DecisionLog) -> None:
    counts = log.refusals.counts
    if not counts:
        return
    rows = [
        ("left out" if reason in LEFT_OUT else "refused", f"{counts[reason]:,}", reason.value)
        for reason in sorted(counts, key=lambda reason: (reason in LEFT_OUT, -counts[reason]))
    ]
    print_rows(("lines", "how many", "why"), rows, right={1})


def _print_slots(values: Sequence[PolicyValue]) -> None:
    rows = [
        (
            value.policy,
            str(slot.slot),
            _number(slot.logged),
            _number(slot.snips),
            _number(slot.ips),
            _number(slot.own_ratio),
            f"{slot.ess:,.1f}",
            f"{slot.largest_weight:,.1f}",
        )
        for value in values
        for slot in value.slots
        if len(value.slots) > 1
    ]
    if rows:
        headings = ("policy", "slot", "logged", "reward", "IPS", "own ratio", "effective sample", "largest weight")
        print_rows(headings, rows, right=set(range(1, 8)))


def _number(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else "-"


def _signed(value: float) -> str:
    return f"{value:+.6f}" if math.isfinite(value) else "-"


def _interval(value: PolicyValue) -> str:
    lower, upper = value.estimate.lower, value.estimate.upper
    return f"{lower:+.6f} to {upper:+.6f}" if math.isfinite(lower) and math.isfinite(upper) else "-"
