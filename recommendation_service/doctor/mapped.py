"""A mapping's queries: how the database reads for each, of everybody and of one user, and how long that takes."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import attempt, begin_reading
from recommendation_service.doctor.findings import Finding, error, info, warning
from recommendation_service.doctor.plans import hides_rows, plan_of
from recommendation_service.doctor.queries import Examined, PlanStep
from recommendation_service.sources.mapping import values
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import quoting, server_words
from recommendation_service.sources.mapping.reading import by_user
from recommendation_service.sources.mapping.results import OfUsers, of_users, parameters

# As of a user whom a feed asks for and who is not in the catalog.
MOST_OF_ONE_USER = 80


@dataclass
class SectionPlans:
    """``of_a_user``: of the same query for one user; None: it is not asked by user."""

    whole: list[PlanStep] = field(default_factory=list)
    of_a_user: list[PlanStep] | None = None
    findings: list[Finding] = field(default_factory=list)


def plans_of(
    mapping: Mapping, section: str, connection: Connection, now: datetime, zone: tzinfo, *, is_told: bool = False
) -> SectionPlans:
    """What cannot be asked is a finding; not where a problem of the query is told already."""
    found, statement = SectionPlans(), mapping.statements[section]
    given = parameters(statement, mapping.days_of(section), now, zone)
    try:
        with attempt(connection):
            found.whole = plan_of(connection, statement.text, given)
        if hides_rows(connection, statement.text, given):
            found.findings.append(
                warning(
                    section,
                    "Row-level security hides rows of it from this user, without an error.",
                    "Give the service a user with BYPASSRLS, or a policy that lets it read what feeds may show.",
                )
            )
        by = by_user(mapping, section)
        if by is None:
            return found
        with attempt(connection):
            user = _some_user(mapping, connection)
            quote = quoting(connection, statement.text, given)
            sql, asked = of_users(statement.text, by, OfUsers((user,), MOST_OF_ONE_USER), quote)
            found.of_a_user = plan_of(connection, sql, given | asked, of_a_user=True)
    except SQLAlchemyError as failure:
        if not is_told:
            found.findings.append(warning(section, f"How it is read could not be asked: {server_words(failure)}."))
        return found
    scans = [step for step in found.of_a_user if step.is_scan]
    if scans:
        tables = ", ".join(f"{step.table} (about {step.rows:,} rows)" for step in scans)
        found.findings.append(
            warning(
                section,
                f"Of one user it reads {tables} whole, at each feed of somebody who is not in the catalog.",
                f"Add an index on the column that is {by.columns[0]} in the query"
                f"{', and select it as it is' if len(scans) == 1 else ''}; a column that is computed has none.",
            )
        )
    return found


def examine_mapped(mapping: Mapping, engine: Engine, settings: Settings) -> Iterator[tuple[Examined, list[Finding]]]:
    """Each query, explained and run once, of one moment. Raises SQLAlchemyError where there is no connection."""
    now = datetime.now(UTC)
    with engine.connect() as connection:
        begin_reading(connection)
        for section, statement in mapping.statements.items():
            examined = Examined(section)
            plans = plans_of(mapping, section, connection, now, settings.database_zone)
            examined.plan = plans.whole
            given = parameters(statement, mapping.days_of(section), now, settings.database_zone)
            try:
                with attempt(connection):
                    started = time.perf_counter()
                    examined.rows = len(connection.execute(text(statement.text), given).fetchall())
                    examined.milliseconds.append((time.perf_counter() - started) * 1000)
            except SQLAlchemyError as failure:
                if getattr(failure, "connection_invalidated", False):
                    raise
                examined.failure = server_words(failure)
            yield examined, [_ran(examined), *plans.findings]


def _ran(examined: Examined) -> Finding:
    name = f"query {examined.query}"
    if examined.failure:
        return error(name, f"It failed: {examined.failure}.", "`recs source check` says by line what is wrong with it.")
    sentence = f"It takes {examined.milliseconds[0]:,.1f} ms and gives {examined.rows:,} rows."
    scans = list(dict.fromkeys(step.table for step in examined.plan if step.is_scan))
    if scans:  # a build reads all there is: no fault of a query without a condition
        sentence += f" It reads {', '.join(scans)} whole, as a build has to where no condition is indexed."
    return info(name, sentence)


def _some_user(mapping: Mapping, connection: Connection) -> int | str:
    """Any that is there; of a form that fits, where there is none."""
    content = mapping.content
    statement = mapping.statements["users"]
    given = parameters(statement, None, datetime.now(UTC), UTC)
    quote = quoting(connection, statement.text, given)
    sql = f"SELECT q.{quote(content.users.id)} FROM (\n{statement.text}\n) q LIMIT 1"
    [found] = values.ids([connection.execute(text(sql), given).scalar()], content.user_ids, Counter()).tolist()
    one: int | str = found or ("nobody" if content.user_ids == "text" else 1)
    return one
