"""Each source query: its plan, its time against its target, and what that says."""

import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from recommendation_service.core.errors import SourceError
from recommendation_service.doctor.findings import Finding, error, info, ok, warning
from recommendation_service.doctor.indices import Standing, State
from recommendation_service.doctor.schema import ExaminedSource, Scans

RUNS = 5
# A query that is slow is slow the second time too.
ENOUGH_SECONDS = 2.0
# Reading a smaller table whole costs less than a look at an index.
BIG_TABLE_ROWS = 10_000
# As a table: MySQL 9 draws a tree unless asked, and so does 8.0.32 or newer where `explain_format` is TREE.
EXPLAIN = "EXPLAIN FORMAT=TRADITIONAL "


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A row of EXPLAIN, with the table's own name instead of its alias."""

    table: str
    access: str  # EXPLAIN's `type`; ALL reads the whole table
    key: str | None
    possible_keys: str | None
    rows: int
    extra: str

    @property
    def is_scan(self) -> bool:
        return self.access == "ALL" and self.rows >= BIG_TABLE_ROWS

    @property
    def choices(self) -> str:
        """Indices that the server could have read instead; by its primary key every table can be read."""
        return ", ".join(key for key in (self.possible_keys or "").split(",") if key and key != "PRIMARY")

    @property
    def is_sort(self) -> bool:
        return "filesort" in self.extra and self.rows >= BIG_TABLE_ROWS


@dataclass(slots=True)
class Examined:
    """A query as it ran. ``milliseconds``: each run; empty where it failed."""

    query: str
    target: float | None = None  # milliseconds
    plan: list[PlanStep] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    rows: int = 0
    failure: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.milliseconds) if self.milliseconds else None


def examine_query(source: ExaminedSource, query: str) -> Examined:
    """Explain, then run some times. Each query has a connection of its own, since one that ends in a time limit
    takes its connection with it."""
    examined = Examined(query, source.schema.targets.get(query))
    try:
        with source.snapshot(datetime.now(UTC)) as snapshot:
            if query.startswith("user_"):
                somebody = snapshot.connection.execute(text(source.schema.somebody)).scalar() or 0
                snapshot.parameters["user_id"] = int(somebody)
            statement = text(EXPLAIN + snapshot.statement(query))
            parameters = {name: snapshot.parameters[name] for name in statement._bindparams}
            rows = snapshot.connection.execute(statement, parameters).mappings().all()
            examined.plan = read_plan([dict(row) for row in rows], snapshot.statement(query))
            started = time.perf_counter()
            while len(examined.milliseconds) < RUNS and time.perf_counter() - started < ENOUGH_SECONDS:
                examined.rows = len(snapshot.read(query))
                examined.milliseconds.append(snapshot.milliseconds[query])
    except SourceError as failure:
        examined.failure = str(failure).removeprefix(f"query {query}: ")
    except Exception as failure:  # noqa: BLE001 - of one query; the others are examined
        examined.failure = f"{type(failure).__name__}: {failure}"
    return examined


def read_plan(rows: Iterable[Mapping[str, Any]], statement: str) -> list[PlanStep]:
    """The steps that read a table, in the server's order."""
    names = tables_by_alias(statement)
    steps = []
    for row in rows:
        values = {str(name).lower(): value for name, value in row.items()}
        table = values.get("table")
        if table is None or str(table).startswith("<"):  # optimised away; a result that was made before
            continue
        steps.append(
            PlanStep(
                table=names.get(str(table), str(table)),
                access=str(values.get("type")).split("|")[0],
                key=values.get("key"),
                possible_keys=values.get("possible_keys"),
                rows=_rows(values.get("rows")),
                extra=str(values.get("extra") or ""),
            )
        )
    return steps


def _rows(value: Any) -> int:
    """MariaDB says `1 (50%)` where it filters rows by a second index, and `range|filter` of the type."""
    digits = re.match(r"\s*(\d+)", str(value))
    return int(digits[1]) if digits else 0


def tables_by_alias(statement: str) -> dict[str, str]:
    """Our own files write key words in capitals and names in small letters."""
    found = re.findall(r"\b(?:FROM|JOIN) ([a-z_]+)(?: (?:AS )?([a-z]+)\b)?", statement)
    return {alias or table: table for table, alias in found}


def check_query(examined: Examined, standings: Sequence[Standing], scans: Scans) -> Finding:
    """``standings``: phase 1's indices of this server, of which those that serve the query are named; ``scans``: what
    has to be read whole."""
    query, name = examined.query, f"query {examined.query}"
    if examined.median is None:
        return error(
            name, f"{query}.sql failed: {examined.failure}.", "Mend what the server names; see the findings above."
        )
    target = f", target < {examined.target:g} ms" if examined.target else ""
    runs = f"median of {len(examined.milliseconds)}" if len(examined.milliseconds) > 1 else "one run"
    sentence = f"{query}.sql takes {examined.median:,.1f} ms ({runs}, {examined.rows:,} rows{target})"
    faults, remarks = plan_faults(query, examined.plan, scans)
    is_late = examined.target is not None and examined.median >= examined.target
    missing = [s.index.name for s in standings if query in s.index.queries and s.state is State.ABSENT]
    advice = f"Add {', '.join(missing)} (see indices)." if missing else ""
    said = "; ".join([sentence, *faults, *remarks]) + "."
    if faults or is_late:
        if not advice:
            advice = "Run migrations/phase1_analyze_performance.sql, and see docs/database/phase1_indexes_technical.md."
        return warning(name, said, advice)
    return info(name, said) if remarks else ok(name, said)


def plan_faults(query: str, plan: Sequence[PlanStep], scans: Scans) -> tuple[list[str], list[str]]:
    """What is wrong with a plan, and what is only worth saying; each part of a sentence, once."""
    faults, remarks = [], []
    for step in plan:
        expected = scans.get((query, step.table))
        if step.is_scan and expected:
            remarks.append(f"full scan of {step.table} (about {step.rows:,} rows), as {expected}")
        elif step.is_scan and step.choices:
            remarks.append(
                f"full scan of {step.table} (about {step.rows:,} rows): the server holds that to be cheaper than "
                f"{step.choices}"
            )
        elif step.is_scan:
            faults.append(f"full scan of {step.table} (about {step.rows:,} rows)")
        if step.is_sort:
            faults.append(f"filesort of {step.table} (about {step.rows:,} rows)")
    return list(dict.fromkeys(faults)), list(dict.fromkeys(remarks))
