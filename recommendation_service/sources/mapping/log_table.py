"""Whether the table of a mapping's ``[log]`` has the columns that are to be written."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoSuchTableError

from recommendation_service.sources.mapping.format import Log
from recommendation_service.sources.mapping.problems import did_you_mean


def log_problems(log: Log, connection: Connection) -> list[str]:
    """What the table's columns tell of why nothing could be written there. Raises DBAPIError."""
    looked = inspect(connection)
    try:
        found = {str(column["name"]): column for column in looked.get_columns(log.table)}
    except NoSuchTableError:
        known = looked.get_table_names()
        return [f"there is no table {log.table}; {did_you_mean(log.table, known, what='tables are')}"]
    problems = []
    for part, templates in (("events", log.events), ("feeds", log.feeds)):
        for column in templates or ():
            if column not in found:
                instead = did_you_mean(column, found, what="its columns are")
                problems.append(f"{part} names the column {column}, which {log.table} does not have; {instead}")
            elif _is_computed(found[column]):
                problems.append(f"{part} names the column {column}, which {log.table} computes itself; leave it out")
        for name, described in found.items() if templates else ():
            may_lack = (
                described["nullable"] or described.get("default") is not None or described.get("autoincrement") is True
            )
            may_lack = may_lack or _is_key(described) or _is_computed(described)
            if name not in (templates or ()) and not may_lack:
                problems.append(f"{part} leaves out the column {name} of {log.table}, which must have a value")
    return problems


def _is_computed(column: Mapping[str, Any]) -> bool:
    """GENERATED ALWAYS AS …: of other columns, or numbers that nobody else may give."""
    return bool(column.get("computed")) or bool((column.get("identity") or {}).get("always"))


def _is_key(column: Mapping[str, Any]) -> bool:
    """A key that numbers itself: SQLite says so by the primary key alone."""
    return bool(column.get("primary_key")) or bool(column.get("identity"))
