"""What `recs source check` finds: everything of a mapping run once, and nothing published."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import address, begin_reading
from recommendation_service.core.errors import CatalogError, ConfigurationError, PolicyError, SourceError
from recommendation_service.doctor.findings import Finding, Severity, error, info, ok, warning
from recommendation_service.doctor.mapped import plans_of
from recommendation_service.doctor.queries import PlanStep
from recommendation_service.onboarding.profile import ColumnProfile, profile
from recommendation_service.onboarding.sense import sense_of
from recommendation_service.onboarding.showing import ShownItem, shown_items
from recommendation_service.sources.mapping.log_table import log_problems
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import server_words
from recommendation_service.sources.mapping.problems import Problem
from recommendation_service.sources.mapping.reading import TablesError, read
from recommendation_service.sources.mapping.results import Result
from recommendation_service.sources.mapping.tables import Findings, Tables

if TYPE_CHECKING:
    from recommendation_service.onboarding.feeds import ShownFeed


@dataclass
class QueryReport:
    """``user_plan``: of the same query for one user; None: it is not asked by user."""

    section: str
    rows: int
    milliseconds: float
    columns: list[ColumnProfile]
    plan: list[PlanStep] = field(default_factory=list)
    user_plan: list[PlanStep] | None = None


@dataclass
class CheckReport:
    """What was found. ``problems``: of the mapping or its queries, each with its line."""

    mapping: str
    database: str
    problems: list[Problem] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    queries: list[QueryReport] = field(default_factory=list)
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    items: dict[str, list[ShownItem]] = field(default_factory=dict)
    feeds: list["ShownFeed"] = field(default_factory=list)

    @property
    def status(self) -> int:
        """0 where a catalog can be built of it, 1 where not or where something of it is wrong."""
        return int(bool(self.problems) or any(one.severity is Severity.ERROR for one in self.findings))


def check_mapping(
    mapping: Mapping,
    engine: Engine,
    settings: Settings,
    progress: Callable[[str], None] = lambda _: None,
    *,
    with_feeds: bool = False,
) -> CheckReport:
    """Run everything once. ``progress`` is told what is being done. Raises SourceError where there is no connection."""
    report = CheckReport(str(mapping.path), address(engine.url))
    now = datetime.now(UTC)

    def observe(result: Result, milliseconds: float) -> None:
        progress(f"Looking at what {result.section} gave: {result.rows:,} rows")
        report.queries.append(QueryReport(result.section, result.rows, milliseconds, profile(result)))

    progress("Running the queries")
    try:
        with engine.connect() as connection:
            begin_reading(connection)
            try:
                tables = read(mapping, connection, now, settings.database_zone, observe)
                findings = tables.findings
                report.findings += _results(tables, mapping)
                report.findings += _served(mapping, settings)
                report.items = shown_items(tables)
                if with_feeds and any(map(len, tables.items.values())):
                    progress("Making some feeds")
                    report.findings += _feeds(report, mapping, tables, settings, now)
            except TablesError as failure:
                findings = failure.findings
                report.problems += failure.found
            report.findings += _log(mapping, connection)
            _note(report, findings)
            told = {problem.section for problem in report.problems}
            for query in report.queries:
                progress(f"Asking how {query.section} is read")
                is_told = bool(told & {query.section, "users"})  # it is asked of one of the users
                plans = plans_of(mapping, query.section, connection, now, settings.database_zone, is_told=is_told)
                query.plan, query.user_plan = plans.whole, plans.of_a_user
                report.findings += plans.findings
    except SQLAlchemyError as failure:
        raise SourceError(f"{report.database}: {server_words(failure)}") from failure
    return report


def _log(mapping: Mapping, connection: Connection) -> Iterator[Finding]:
    if mapping.content.log is not None:
        for problem in log_problems(mapping.content.log, connection):
            yield error("log", f"Events could not be written: {problem}.")


def _feeds(
    report: CheckReport, mapping: Mapping, tables: Tables, settings: Settings, now: datetime
) -> Iterator[Finding]:
    from recommendation_service.onboarding.feeds import shown_feeds

    try:
        report.feeds = shown_feeds(mapping, tables, settings, now)
    except (ConfigurationError, SourceError, CatalogError) as failure:
        yield error("feeds", f"No feed can be made of it: {failure}.")
        return
    empty = [feed.feed for feed in report.feeds if not feed.items]
    if empty:
        yield error(
            f"feeds.{empty[0]}", "It has no item for somebody.", "Look at the kinds in its pattern, and at filters."
        )


def _served(mapping: Mapping, settings: Settings) -> Iterator[Finding]:
    """Where the policy that is served was not begun with by this file, as it is by now."""
    from recommendation_service.policies.choice import PolicyChoice
    from recommendation_service.policies.mapped import starting_policy

    if settings.mapping_file is None or settings.mapping_file.resolve() != mapping.path.resolve():
        return
    try:
        of_file, served = starting_policy(mapping), PolicyChoice(settings).take_up().policy
    except (ConfigurationError, PolicyError):  # of the file's kinds and feeds the feeds tell it, of the store its start
        return
    if of_file.file.model_dump(exclude={"version"}) != served.file.model_dump(exclude={"version"}):
        advice = "POLICY_FILE is set." if settings.policy_file is not None else "`recs policy publish` serves them."
        yield info("feeds", f"The policy {served.version} is served, and not the kinds and feeds of this file.", advice)


def _note(report: CheckReport, findings: Findings) -> None:
    report.problems += findings.faults
    report.set_aside = [
        {"section": section, "column": column, "reason": reason, "count": count}
        for (section, column, reason), count in sorted(findings.aside.items())
    ]


def _results(tables: Tables, mapping: Mapping) -> Iterator[Finding]:
    """What a catalog would be made of, and what of it makes no sense."""
    there = {name: len(items) for name, items in tables.items.items() if len(items)}
    if there:
        counts = ", ".join(f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in there.items())
        yield ok("items", f"There are {counts} to show to {len(tables.users):,} users.")
    else:
        yield error(
            "items",
            "There is no item to show: a catalog of it would be empty.",
            "Look at the WHERE of the items' queries, lives_days, and at what was set aside.",
        )
    for name in tables.items.keys() - there.keys() if there else ():
        yield warning(
            f"items.{name}", f"There is no {name} to show.", "Look at the WHERE of its query, and lives_days."
        )
    yield from sense_of(tables, mapping)
