"""Whether events can be written into a table of the team's own is told by its columns, on each database."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from recommendation_service.sources.mapping.format import Log
from recommendation_service.sources.mapping.log_table import log_problems

NUMBERED = {
    "sqlite": "INTEGER PRIMARY KEY",
    "mariadb": "BIGINT PRIMARY KEY AUTO_INCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}


@pytest.mark.parametrize("database", NUMBERED)
def test_a_column_that_the_table_computes_is_neither_missed_nor_written(
    database: str, request: pytest.FixtureRequest
) -> None:
    url: URL = request.getfixturevalue(f"{database}_url")
    # MariaDB takes no NOT NULL beside a computed column.
    need = "" if database == "mariadb" else " NOT NULL"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE activity (number {NUMBERED[database]}, who VARCHAR(50) NOT NULL, what VARCHAR(50) NOT NULL, "
            f"shout VARCHAR(60) GENERATED ALWAYS AS (UPPER(who)) STORED{need})"
        )
        assert log_problems(Log(table="activity", events={"who": "{user}", "what": "{event}"}), connection) == []
        found = log_problems(Log(table="activity", events={"who": "{user}", "shout": "{event}"}), connection)
    engine.dispose()
    assert found == [
        "events names the column shout, which activity computes itself; leave it out",
        "events leaves out the column what of activity, which must have a value",
    ]
