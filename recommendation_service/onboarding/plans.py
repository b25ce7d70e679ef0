"""How a database reads for a query, on MySQL, MariaDB and SQLite, whoever wrote it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from recommendation_service.doctor.queries import EXPLAIN, PlanStep, read_plan
from recommendation_service.sources.mapping.names import tables_of

_SQLITE = re.compile(r"(SCAN|SEARCH) (?:TABLE )?(\S+)(?: AS (\S+))?(?: USING (.*))?")


def plan_of(connection: Connection, sql: str, parameters: Mapping[str, Any]) -> list[PlanStep]:
    """The tables in the order in which they are read, under their own names. Raises SQLAlchemyError."""
    tables = tables_of(sql)
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text(f"EXPLAIN QUERY PLAN {sql}"), parameters).fetchall()
        return [step for row in rows if (step := _sqlite_step(str(row[-1]), tables, connection)) is not None]
    explained = connection.execute(text(EXPLAIN + sql), parameters).mappings().all()
    return [replace(step, table=tables.get(step.table, step.table)) for step in read_plan(map(dict, explained), "")]


def _sqlite_step(detail: str, tables: Mapping[str, str], connection: Connection) -> PlanStep | None:
    found = _SQLITE.match(detail)
    name = found[2] if found else ""
    if found is None or name not in tables:  # a subquery, a constant
        return None
    table = tables[name]
    is_scan = found[1] == "SCAN" and not found[4]
    quoted = connection.dialect.identifier_preparer.quote(table)
    rows = connection.execute(text(f"SELECT COUNT(*) FROM {quoted}")).scalar() if is_scan else 0
    return PlanStep(table, "ALL" if is_scan else found[1], found[4], None, int(rows or 0), detail)
