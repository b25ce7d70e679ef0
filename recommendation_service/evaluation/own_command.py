"""`recs evaluate off-policy` of this service's own record: what is asked, read, weighed, kept and said."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import PolicyError, SourceError
from recommendation_service.estimates.estimate import CONFIDENCE, Estimates, estimate
from recommendation_service.evaluation.own_log import Evidence, by_decisions, by_shadow
from recommendation_service.evaluation.own_report import RewardsByRows, in_words, print_report
from recommendation_service.evaluation.own_report import as_json as in_json
from recommendation_service.evaluation.progress import bar
from recommendation_service.evaluation.recorded import Advance, Window, read_recorded
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.learning.gate import told
from recommendation_service.learning.ledger import FILE as LEDGER
from recommendation_service.learning.mapped import learning_of
from recommendation_service.learning.row_notes import told_by_rows
from recommendation_service.policies.changing import deed_of
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.evidence import BETTER, OPEN, REFUSED, WORSE, EvidenceFiles
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.policies.store import PolicyStore
from recommendation_service.sources.mapping.words import open_words

DAYS = 30
_DAY_MS = 86_400_000


class Asked(NamedTuple):
    """As the command's options; times are UTC without a zone."""

    policy: str | None
    since: datetime | None
    until: datetime | None
    endpoint: str | None
    slots: int | None
    decisions: Path | None


class _Named(NamedTuple):
    version: str
    policy: Policy | None  # None: it is not kept any more, and only what was recorded of it as a shadow tells
    why_not: str = ""


def weigh_own(asked: Asked, *, as_json: bool) -> None:
    """Raises SourceError, ConfigurationError, PolicyError."""
    settings = load_settings()
    choice = PolicyChoice(settings).take_up()
    named = _named(settings, choice, asked.policy)
    learning, words = learning_of(settings), open_words(settings)
    now_ms = time.time_ns() // 1_000_000
    until_ms = _milliseconds(asked.until) or now_ms - learning.settle_ms
    window = Window(_milliseconds(asked.since) or until_ms - DAYS * _DAY_MS, until_ms)
    engine = make_engine(settings)
    try:
        with bar(Console(stderr=True)) as advance:
            by_rows = told_by_rows(settings.learning_dir / LEDGER)
            rows = by_rows.told if by_rows is not None else []
            recorded = read_recorded(engine, window, learning, named.version, advance, settings, rows, words)
            counted = RewardsByRows.of(by_rows, recorded)
            evidence, unread = _evidence(settings, choice, named, recorded, asked, advance), recorded.unread
            del recorded  # of a million feeds as much again as the estimate needs
            advance("Estimating", 1.0)
            found = estimate(evidence.feeds, asked.slots, (learning.least, learning.most))
    finally:
        engine.dispose()
    _keep(settings, choice.policy.version, named.version, found, evidence.by)
    if as_json:
        typer.echo(json.dumps(in_json(named.version, evidence, found, unread, counted), allow_nan=False))
    else:
        print_report(named.version, evidence, found, unread, counted)


def _keep(settings: Settings, serves: str, version: str, found: Estimates, by: str) -> None:
    """Who promotes the version can say on what, and how often one looked."""
    deed = deed_of(f"{in_words(found)} By {by}.", None)
    verdict = found.verdict if found.verdict in (BETTER, WORSE, REFUSED) else OPEN
    look = told(found, found.feeds, (1 + CONFIDENCE) / 2, verdict, deed.why, serves, deed.moment, deed.who)
    try:
        EvidenceFiles(settings.policy_dir).add(version, look)
    except OSError as error:
        raise SourceError(f"The look at the evidence cannot be kept: {error.filename}: {error.strerror}.") from None


def _named(settings: Settings, choice: PolicyChoice, name: str | None) -> _Named:
    """A file, a version, or else the only shadow."""
    if name is None:
        if len(choice.shadows) != 1:
            shadows = ", ".join(shadow.version for shadow in choice.shadows) or "there is none"
            raise typer.BadParameter(
                f"say which policy to weigh; without it, it is the shadow, where there is one (now: {shadows})",
                param_hint="--policy",
            )
        return _Named(choice.shadows[0].version, choice.shadows[0])
    if Path(name).is_file():
        policy = load_policy(Path(name))
        return _Named(policy.version, policy)
    try:
        return _Named(name, PolicyStore(settings.policy_dir, settings.policy_keep).open(name))
    except PolicyError as error:
        return _Named(name, None, str(error))


def demand_feeds_of(recorded: Recorded, endpoint: str | None) -> None:
    """Raises SourceError where no feed of that name was read."""
    if endpoint is not None and endpoint not in recorded.names:
        shown = ", ".join(sorted(recorded.names)) or "none at all"
        raise SourceError(f"No feed of {endpoint!r} is in the database of these days; there is {shown}.")


def _evidence(
    settings: Settings, choice: PolicyChoice, named: _Named, recorded: Recorded, asked: Asked, advance: Advance
) -> Evidence:
    demand_feeds_of(recorded, asked.endpoint)
    found = by_shadow(recorded, asked.endpoint)
    if asked.decisions is None and found.feeds.feeds:
        return found
    if named.policy is None:
        raise SourceError(
            f"{named.version} was a shadow of no feed of these days, and decisions cannot be weighed: {named.why_not}."
        )
    folder = asked.decisions or settings.decisions_dir
    try:
        if asked.decisions is not None and not folder.is_dir():
            raise SourceError(f"{folder} is no folder.")
        evidence = by_decisions(recorded, folder, named.policy, _pools(choice), asked.endpoint, advance)
    except OSError as error:
        raise SourceError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from None
    if evidence.feeds.feeds == 0:
        left_out = "".join(f" {count:,} were {reason}." for reason, count in evidence.left_out.items())
        raise SourceError(
            f"Nothing weighs {named.version}: of {len(recorded.users):,} feeds it was a shadow of none, and no "
            f"decision in {folder} is of its pools.{left_out} `recs policy shadow {named.version}` records it with "
            "every feed from now on."
        )
    return evidence


def _pools(choice: PolicyChoice) -> Callable[[str], str | None]:
    """From which pools a policy version draws, as far as it is kept."""
    known: dict[str, str | None] = {choice.policy.version: choice.policy.pools_digest}
    known.setdefault(choice.shipped.version, choice.shipped.pools_digest)

    def pools_of(version: str) -> str | None:
        if version not in known:
            kept = choice.kept(version)
            known[version] = kept.pools_digest if kept is not None else None
        return known[version]

    return pools_of


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)
