"""What a database calls its tables and columns, and what its errors mean for a query."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.database import attempt, words_of
from recommendation_service.core.postgresql_address import POSTGRESQL
from recommendation_service.sources.mapping.problems import Problem, did_you_mean, nearest
from recommendation_service.sources.mapping.statements import Statement, without_texts

MOST_COLUMNS = 20  # missing ones that are told of one query

_NO_COLUMN = re.compile(
    r"no such column: (?P<name>[^\s]+)|Unknown column '(?P<mysql>[^']+)' in"
    r"|column \"?(?P<postgresql>[^\s\"]+)\"? does not exist"
)
_NO_ALIAS = re.compile(r"missing FROM-clause entry for table \"(?P<postgresql>[^\"]+)\"")
_NO_TABLE = re.compile(
    r"no such table: (?P<name>[^\s]+)|Table '(?P<mysql>[^']+)' doesn't exist"
    r"|relation \"(?P<postgresql>[^\"]+)\" does not exist"
)
_AMBIGUOUS = re.compile(
    r"ambiguous column name: (?P<name>[^\s]+)|Column '(?P<mysql>[^']+)' in .*ambiguous"
    r"|column reference \"(?P<postgresql>[^\"]+)\" is ambiguous"
)
_NO_FUNCTION = re.compile(
    r"no such function: (?P<name>\w+)|function (?P<postgresql>[\w.]+)\(.*\) does not exist"
    r"|FUNCTION (?P<mysql>[^\s]+) does not exist",
    re.I,
)
_SYNTAX = re.compile(
    r"near \"(?P<name>[^\"]*)\": syntax error|near '(?P<mysql>.*)' at line (?P<line>\d+)"
    r"|syntax error at or near \"(?P<postgresql>[^\"]*)\"|^incomplete input|syntax error at end of input",
    re.S,
)
_DENIED = re.compile(
    r"command denied to user .* for (table|column) (?P<name>.+)|permission denied for \w+ (?P<postgresql>\w+)", re.I
)
_NO_TYPE = re.compile(r"could not determine data type of parameter")
_TWICE = re.compile(r"Duplicate column name '[^']*'")
_REFERENCE = r"[`\"]?(\w+)[`\"]?(?:\s*\.\s*[`\"]?(\w+)[`\"]?)?(?:\s+(?:AS\s+)?(\w+))?"
_TABLE = re.compile(_REFERENCE, re.I)
_TABLES = re.compile(rf"\b(?:FROM|JOIN)\s+({_REFERENCE}(?:\s*,\s*{_REFERENCE})*)", re.I)
_KEYWORDS = {
    *("WHERE", "ON", "JOIN", "LEFT", "RIGHT", "INNER", "OUTER", "CROSS", "NATURAL", "FULL", "GROUP", "ORDER", "LIMIT"),
    *(
        "UNION",
        "HAVING",
        "USING",
        "WINDOW",
        "FROM",
        "AS",
        "FORCE",
        "USE",
        "IGNORE",
        "EXCEPT",
        "INTERSECT",
        "STRAIGHT_JOIN",
    ),
}


class DatabaseNames:
    """Of one connection; looked up when they are asked for, which is when something is missing."""

    def __init__(self, connection: Connection) -> None:
        self._inspector = inspect(connection)
        self._columns: dict[str, list[str]] = {}

    @cached_property
    def tables(self) -> list[str]:
        try:
            return [*self._inspector.get_table_names(), *self._inspector.get_view_names()]
        except SQLAlchemyError:
            return []

    def columns(self, table: str) -> list[str]:
        """Nothing of a table that is not there."""
        if table not in self._columns:
            try:
                known = {name.casefold(): name for name in self.tables}
                found = self._inspector.get_columns(known.get(table.casefold(), table))
                self._columns[table] = [str(column["name"]) for column in found]
            except SQLAlchemyError:
                self._columns[table] = []
        return self._columns[table]


def quoting(connection: Connection, sql: str, given: Mapping[str, Any]) -> Callable[[str], str]:
    """Of a query's columns, in whatever letters a mapping names them, their names as SQL has them. PostgreSQL gives in
    small letters what stands without quotes, and finds between quotes only what is written so. Raises SQLAlchemyError.
    """
    quote = connection.dialect.identifier_preparer.quote
    if connection.dialect.name != POSTGRESQL:
        return quote
    empty = connection.execute(text(f"SELECT q.* FROM (\n{sql}\n) q LIMIT 0"), given)
    columns = [str(name) for name in empty.keys()]  # noqa: SIM118 - a result is no dict
    by_letters = {name.lower(): name for name in columns}
    return lambda name: quote(name if name in columns else by_letters.get(name.lower(), name))


def tables_of(sql: str) -> dict[str, str]:
    """Tables that a query reads, by alias and by name."""
    found: dict[str, str] = {}
    named = (match[1].split(",") for match in _TABLES.finditer(without_texts(sql)))
    for match in (_TABLE.search(reference) for references in named for reference in references):
        if match is None:
            continue
        table = match[2] or match[1]
        found[table] = table
        if match[3] and match[3].upper() not in _KEYWORDS:
            found[match[3]] = table
    return found


def explain(error: SQLAlchemyError, statement: Statement, names: DatabaseNames) -> Problem:
    """What the database said of a query, with the line and the nearest name."""
    words = server_words(error)
    for pattern, meaning in _MEANINGS:
        if found := pattern.search(words):
            return meaning(found, statement, names)
    return statement.problem(f"the database refused the query: {words}")


def _name(found: re.Match[str]) -> str:
    """Each database writes it in its own place."""
    return next(name for group, name in found.groupdict().items() if group != "line" and name is not None)


def _no_table(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:
    table = _name(found).rsplit(".", 1)[-1]
    instead = did_you_mean(table, names.tables, what="tables are")
    return statement.problem(f"there is no table {table}", instead, line=statement.line_of(table))


def _no_type(_found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    """Of PostgreSQL, which asks what a parameter is compared with."""
    names_given = sorted(statement.parameters)
    return statement.problem(
        f"nothing says of what type {' or '.join(f':{name}' for name in names_given)} is",
        "write " + " and ".join(f"CAST(:{name} AS timestamptz)" for name in names_given),
        line=statement.line_of(names_given[0]) if names_given else None,
    )


def _ambiguous(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    name = _name(found)
    instead = f"write which one's: TABLE.{name}"
    line = statement.line_of(name)
    return statement.problem(f"{name} is in several of its tables", instead, line=line, column=name)


def _no_function(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    name = _name(found).rsplit(".", 1)[-1]
    return statement.problem(f"this database has no function {name}", line=statement.line_of(name))


def _denied(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    said = f"the database's user may not read {_name(found)}"
    return statement.problem(said, "GRANT SELECT on it to that user")


def _syntax(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    near = _name(found) if found.lastgroup else ""
    if not near.strip():
        end = statement.line_at(len(statement.text))
        return statement.problem("the query ends where the database expects more of it", line=end)
    line = statement.line + int(found["line"]) - 1 if found["line"] else _line_near(near, statement)
    return statement.problem(f"the database cannot read the query near {near.strip()[:40]!r}", line=line)


def _twice(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:  # noqa: ARG001
    return statement.problem(found[0], "give each column of the result a name of its own, with AS")


def _missing_column(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:
    return _no_column(_name(found), statement, names)


def _missing_alias(found: re.Match[str], statement: Statement, names: DatabaseNames) -> Problem:
    """PostgreSQL tells of the table alone."""
    alias = _name(found)
    column = re.search(rf"(?<![\w.]){re.escape(alias)}\.\w+", without_texts(statement.text))
    return _no_column(column[0] if column else f"{alias}.*", statement, names)


def _no_column(name: str, statement: Statement, names: DatabaseNames) -> Problem:
    prefix, _, column = name.rpartition(".")
    tables = tables_of(statement.text)
    table = tables.get(prefix.rsplit(".", 1)[-1]) if prefix else None
    line = statement.line_of(name if not prefix else name.rsplit(".", 2)[-2] + "." + column)
    if prefix and table is None and prefix not in tables:
        aliases = [alias for alias in tables if alias != name]
        return statement.problem(
            f"{prefix} is none of its tables", did_you_mean(prefix, aliases), line=line, column=name
        )
    sought = [table] if table else [one for one in dict.fromkeys(tables.values()) if names.columns(one)]
    known = [found for one in sought for found in names.columns(one)]
    said = f"there is no column {name}" if prefix else f"there is no column {column}"
    if near := nearest(column, known):
        instead = f"did you mean {f'{prefix}.' if prefix else ''}{near}?"
    else:
        instead = did_you_mean(column, known, what=f"columns of {', '.join(sought)} are")
    return statement.problem(said, instead, line=line, column=column)


def _line_near(near: str, statement: Statement) -> int:
    return statement.line_of(near) if re.fullmatch(r"\w+", near) else statement.line


def every_problem(
    error: SQLAlchemyError, statement: Statement, connection: Connection, parameters: dict[str, object]
) -> list[Problem]:
    """The query's problem, and where that is a column that is not there, each other such column of it: a database tells
    only of the first. What is missing is taken for NULL, and the query is explained again, not run."""
    names = DatabaseNames(connection)
    problems = [explain(error, statement, names)]
    sql = statement.text
    while len(problems) < MOST_COLUMNS:
        missing = _NO_COLUMN.search(server_words(error))
        if missing is None:
            break
        name = _name(missing)
        replaced = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w(.])", "NULL", sql, count=0)
        if replaced == sql:
            break
        sql = replaced
        try:
            with attempt(connection):
                connection.execute(text(f"EXPLAIN {sql}"), parameters).close()
            break
        except SQLAlchemyError as another:
            error = another
            found = explain(error, replace(statement, text=sql), names)
            if found.column is None:  # of what was put in its place, perhaps
                break
            problems.append(found)
    return problems


def server_words(error: SQLAlchemyError) -> str:
    """Without the statement and its parameters."""
    original = getattr(error, "orig", None)
    if type(original).__module__.startswith("psycopg"):
        return words_of(error)
    arguments: Sequence[object] = getattr(original, "args", ()) if original is not None else ()
    return str(arguments[-1] if arguments else original or error).strip()


_MEANINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Statement, DatabaseNames], Problem]], ...] = (
    (_NO_COLUMN, _missing_column),
    (_NO_ALIAS, _missing_alias),
    (_NO_TABLE, _no_table),
    (_AMBIGUOUS, _ambiguous),
    (_NO_FUNCTION, _no_function),
    (_DENIED, _denied),
    (_NO_TYPE, _no_type),
    (_SYNTAX, _syntax),
    (_TWICE, _twice),
)
