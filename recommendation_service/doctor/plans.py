"""How a database reads for a query, on MySQL, MariaDB, SQLite and PostgreSQL, whoever wrote it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.database import attempt
from recommendation_service.core.postgresql_address import POSTGRESQL
from recommendation_service.doctor.queries import EXPLAIN, PlanStep, read_plan
from recommendation_service.sources.mapping.names import tables_of

_INSUFFICIENT_PRIVILEGE = "42501"
_SQLITE = re.compile(r"(SCAN|SEARCH) (?:TABLE )?(\S+)(?: AS (\S+))?(?: USING (.*))?")


def plan_of(
    connection: Connection, sql: str, parameters: Mapping[str, Any], *, of_a_user: bool = False
) -> list[PlanStep]:
    """The tables in the order in which they are read, under their own names. Raises SQLAlchemyError.

    ``of_a_user``: what matters is whether there is an index. PostgreSQL reads small tables whole even so.
    """
    tables = tables_of(sql)
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text(f"EXPLAIN QUERY PLAN {sql}"), parameters).fetchall()
        return [step for row in rows if (step := _sqlite_step(str(row[-1]), tables, connection)) is not None]
    if connection.dialect.name == POSTGRESQL:
        connection.exec_driver_sql(f"SET LOCAL enable_seqscan = {'off' if of_a_user else 'on'}")
        (plan,) = connection.execute(text(f"EXPLAIN (FORMAT JSON) {sql}"), parameters).scalar_one()
        connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
        return list(_postgresql_steps(plan["Plan"], connection))
    explained = connection.execute(text(EXPLAIN + sql), parameters).mappings().all()
    return [replace(step, table=tables.get(step.table, step.table)) for step in read_plan(map(dict, explained), "")]


def hides_rows(connection: Connection, sql: str, parameters: Mapping[str, Any]) -> bool:
    """Whether PostgreSQL's row-level security leaves out rows of a query, which it does in silence: told otherwise, it
    refuses even to plan it."""
    if connection.dialect.name != POSTGRESQL:
        return False
    try:
        with attempt(connection):
            connection.exec_driver_sql("SET LOCAL row_security = off")
            connection.execute(text(f"EXPLAIN {sql}"), parameters).close()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        return True
    connection.exec_driver_sql("SET LOCAL row_security = on")
    return False


def _postgresql_steps(node: Mapping[str, Any], connection: Connection) -> Iterator[PlanStep]:
    """Of a table that is read whole, its rows; else how many of them are expected to be taken."""
    if table := node.get("Relation Name"):
        is_scan = node["Node Type"] == "Seq Scan"
        rows = _rows_of(table, connection) if is_scan else int(node["Plan Rows"])
        said = str(node.get("Index Cond") or node.get("Filter") or "")
        access = "ALL" if is_scan else node["Node Type"]
        yield PlanStep(table, access, ", ".join(_indices(node)) or None, None, rows, said)
    for part in node.get("Plans", ()):
        yield from _postgresql_steps(part, connection)


def _indices(node: Mapping[str, Any]) -> Iterator[str]:
    """By which a table is read: of a bitmap the nodes below have them."""
    if index := node.get("Index Name"):
        yield index
    for part in node.get("Plans", ()) if "Bitmap" in node["Node Type"] else ():
        yield from _indices(part)


def _rows_of(table: str, connection: Connection) -> int:
    """As PostgreSQL keeps it, and where it never looked, as counted up to a million."""
    quoted = connection.dialect.identifier_preparer.quote(table)
    kept = connection.execute(text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": quoted})
    rows = kept.scalar()
    if rows is None:  # of a schema that is not looked into
        return 0
    if rows < 0:
        rows = connection.execute(text(f"SELECT COUNT(*) FROM (SELECT 1 FROM {quoted} LIMIT 1000000) q")).scalar_one()
    return int(rows)


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
