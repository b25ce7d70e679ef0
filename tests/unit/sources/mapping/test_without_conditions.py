"""A query without its conditions: what its tables have, whether it may be shown or not."""

from __future__ import annotations

import sqlite3

import pytest

from recommendation_service.sources.mapping.statements import without_conditions

CASES = {
    "SELECT id FROM t": "SELECT id FROM t",
    "SELECT id FROM t WHERE a = 1": "SELECT id FROM t ",
    "select id from t\nwhere a = 1 and (b or c is null)\norder by id": "select id from t\norder by id",
    "SELECT id FROM t JOIN u USING (id) WHERE u.x GROUP BY id": "SELECT id FROM t JOIN u USING (id) GROUP BY id",
    "SELECT id FROM t WHERE a = 'ORDER BY' ORDER BY id": "SELECT id FROM t ORDER BY id",
    "SELECT id FROM t WHERE a IN (SELECT a FROM u WHERE b = 1 ORDER BY a) LIMIT 2": "SELECT id FROM t LIMIT 2",
    "SELECT id FROM t WHERE a UNION ALL SELECT id FROM u WHERE b": "SELECT id FROM t UNION ALL SELECT id FROM u ",
    "WITH x AS (SELECT 1 FROM t WHERE a) SELECT 2 FROM x WHERE b": (
        "WITH x AS (SELECT 1 FROM t WHERE a) SELECT 2 FROM x "
    ),
    'SELECT id, "where" FROM t /* WHERE */ WHERE a -- ORDER BY': 'SELECT id, "where" FROM t /* WHERE */ ',
    # Only the condition joins them.
    "SELECT t.id FROM t, u WHERE t.u = u.id": "SELECT t.id FROM t, u WHERE t.u = u.id",
    "SELECT id, EXTRACT(year FROM at), f(a, b) FROM t WHERE a": "SELECT id, EXTRACT(year FROM at), f(a, b) FROM t ",
    "SELECT wherever FROM fromage": "SELECT wherever FROM fromage",
}


@pytest.mark.parametrize(("sql", "expected"), CASES.items(), ids=range(len(CASES)))
def test_conditions_are_left_out_and_nothing_else(sql: str, expected: str) -> None:
    assert without_conditions(sql) == expected


def test_what_is_left_is_sql_that_gives_all_rows() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE t (id, a, b); INSERT INTO t VALUES (1, 1, 'x'), (2, 0, ' WHERE '), (3, NULL, 'y')"
    )
    sql = "SELECT id, a FROM t WHERE a = 1 AND b <> ' WHERE ' AND id IN (SELECT id FROM t WHERE a) ORDER BY id"
    assert [row[0] for row in connection.execute(sql)] == [1]
    assert [row[0] for row in connection.execute(without_conditions(sql))] == [1, 2, 3]
    connection.close()
