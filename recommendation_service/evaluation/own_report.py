"""What a person reads of a policy that was weighed on this service's own record."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import typer

from recommendation_service.core.output import print_rows
from recommendation_service.estimates.estimate import Estimates
from recommendation_service.estimates.intervals import Estimate
from recommendation_service.evaluation.own_log import DECISIONS, Evidence
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.flush.rows import text_of
from recommendation_service.learning.row_notes import ToldByRows

VERDICTS = {
    "better": "Better than what was logged: the whole interval is above 0, by the guardrail too.",
    "worse": "Worse than what was logged: the whole interval is below 0.",
    "not told apart": "Not told apart from what was logged: the interval has 0 in it.",
}
_HOW = {
    "estimate": "products up to each slot",
    "guardrail": "the same, cut at 10",
    "doubly_robust": "products and a model",
    "whole_feed": "product of the whole feed",
    "single": "each slot's ratio alone (biased)",
}


class RewardsByRows(NamedTuple):
    """What the operator's tables told of feeds: the learner notes it for as long as it waits for them."""

    counted: int
    since: str | None  # of feeds from this time on, UTC; None: no learner noted any on this machine

    @classmethod
    def of(cls, told: ToldByRows | None, recorded: Recorded) -> Self:
        if told is None or told.since_ms is None:
            return cls(0, None)
        requests = np.frombuffer(b"".join(one.request for one in told.told), np.uint64).reshape(-1, 2)
        return cls(int(np.count_nonzero(recorded.place_of(requests) >= 0)), text_of(told.since_ms)[:16])

    def __str__(self) -> str:
        if self.since is None:
            return "Left out: what people did by your own tables; no learner has noted it on this machine."
        return (
            f"Read with them: {self.counted:,} rewards that rows of your tables told; each counts where no event tells "
            f"the same. The learner knows them of feeds since {self.since}; of earlier ones they are left out."
        )


def as_json(version: str, evidence: Evidence, found: Estimates, unread: int, by_rows: RewardsByRows) -> dict[str, Any]:
    return {
        "policy": version,
        "by": evidence.by,
        "left_out": evidence.left_out,
        "unread_rows": unread,
        "rewards_by_rows": by_rows._asdict(),
        **found.summary(),
    }


def in_words(found: Estimates) -> str:
    return found.refusal if found.refusal is not None else VERDICTS[found.verdict]


def print_report(version: str, evidence: Evidence, found: Estimates, unread: int, by_rows: RewardsByRows) -> None:
    of = "decisions" if evidence.by == DECISIONS else "feeds beside which it was a shadow"
    typer.echo(f"Policy {version}, weighed on {found.feeds:,} {of}, of {found.users:,} users.")
    if found.refusal is not None:
        typer.echo(f"Refused. {in_words(found)}")
    else:
        print_rows(
            ("reward of a feed", "value", "to what was logged", "95 % interval", "in per cent"),
            [("as logged", f"{found.logged:.4f}", "", "", ""), *_rows(found)],
            right={1, 2, 3, 4},
        )
        typer.echo(in_words(found))
    lower, upper = found.sequence
    if np.isfinite([lower, upper]).all():
        typer.echo(f"However often one looks, the difference is between {lower:+.4f} and {upper:+.4f} (95 %).")
    slots = zip(found.ess, found.largest_weights, found.support, strict=True)
    print_rows(
        ("slot", "effective sample", "largest weight", "share with support"),
        [
            (str(slot + 1), f"{ess:,.0f}", f"{largest:,.1f}", f"{support:.3f}")
            for slot, (ess, largest, support) in enumerate(slots)
        ],
        right={1, 2, 3},
    )
    for warning in found.warnings:
        typer.echo(f"Warning: {warning}")
    for reason, count in evidence.left_out.items():
        typer.echo(f"Left out: {count:,} {of if evidence.by == DECISIONS else 'feeds'} {reason}.")
    typer.echo(str(by_rows))
    if unread:
        typer.echo(f"Left out: {unread:,} rows of recs_events that cannot be read.")


def _rows(found: Estimates) -> Iterator[tuple[str, str, str, str, str]]:
    for name, how in _HOW.items():
        each: Estimate | None = getattr(found, name)
        if each is not None:
            share = f"{100 * each.difference / found.logged:+.1f}" if found.logged else ""
            interval = f"{each.lower:+.4f} to {each.upper:+.4f}"
            yield how, f"{each.value:.4f}", f"{each.difference:+.4f}", interval, share
