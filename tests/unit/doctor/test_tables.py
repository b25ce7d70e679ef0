"""The list of required columns is what the source queries read: no less, and no more."""

import re
import sqlite3
import zlib

import pytest

from recommendation_service.doctor.findings import Severity
from recommendation_service.doctor.tables import check_character_sets, check_engines, check_tables
from recommendation_service.mappings.interacpedia.schema import REQUIRED, queries
from recommendation_service.mappings.interacpedia.statements import sql


def failing(columns: dict[str, tuple[str, ...]]) -> set[str]:
    """Queries that fail where there are only these columns."""
    connection = sqlite3.connect(":memory:")
    connection.create_function("CRC32", 1, lambda value: None if value is None else zlib.crc32(str(value).encode()))
    for table, names in columns.items():
        connection.execute(f"CREATE TABLE {table} ({', '.join(names)})")
    failed = set()
    for query in queries():
        names = re.findall(r":([a-z_]+)", sql(query))
        try:
            connection.execute(sql(query), dict.fromkeys(names, 1))
        except sqlite3.OperationalError:
            failed.add(query)
    connection.close()
    return failed


def test_the_required_columns_are_enough() -> None:
    assert failing(REQUIRED) == set()


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in REQUIRED.items() for c in columns])
def test_none_of_them_can_be_missing(table: str, column: str) -> None:
    rest = tuple(name for name in REQUIRED[table] if name != column) or ("other",)
    assert failing(REQUIRED | {table: rest})


def test_what_is_missing_is_an_error_that_says_what_follows() -> None:
    table, columns = check_tables(["likes"], {"views": ["model_id"]}, "interacpedia", len(REQUIRED))
    assert table.severity is columns.severity is Severity.ERROR
    assert "no table interacpedia.likes" in table.sentence
    assert "interacpedia.views has no model_id" in columns.sentence
    assert "no catalog can be built" in columns.sentence


def test_another_engine_is_a_warning_with_the_statement() -> None:
    said = check_engines({"likes": "MyISAM", "users": "InnoDB", "views": "Aria"}, len(REQUIRED))
    assert said.severity is Severity.WARNING
    assert said.sentence.startswith("likes and views are not InnoDB")
    assert said.advice == "ALTER TABLE likes ENGINE=InnoDB;\nALTER TABLE views ENGINE=InnoDB;"


@pytest.mark.parametrize(
    ("schema", "connection", "others", "severity", "words"),
    [
        ("utf8mb4", "utf8mb4", {}, Severity.OK, "are utf8mb4"),
        ("latin1", "utf8mb4", {}, Severity.WARNING, "new tables of the database would be latin1"),
        ("utf8mb4", "utf8mb3", {}, Severity.WARNING, "connection speaks utf8mb3"),
        ("utf8mb4", "utf8mb4", {"users.name": "latin1"}, Severity.WARNING, "users.name (latin1)"),
        ("utf8mb4", "utf8mb4", {f"users.c{n}": "latin1" for n in range(12)}, Severity.WARNING, "and 4 more"),
    ],
)
def test_character_sets(schema: str, connection: str, others: dict[str, str], severity: Severity, words: str) -> None:
    said = check_character_sets(schema, connection, others)
    assert said.severity is severity
    assert words in said.sentence
