"""The scripts of phase 1 repeat what is written once elsewhere: the list of indices, and the source queries."""

import re
from pathlib import Path

import pytest

from recommendation_service.doctor.indices import MARK
from recommendation_service.doctor.queries import EXPLAIN
from recommendation_service.mappings.interacpedia.schema import PHASE_1, REQUIRED, TARGETS_MILLISECONDS, queries
from recommendation_service.mappings.interacpedia.statements import FOLDER, sql

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"
CREATE, ROLLBACK, VALIDATE = "phase1_create_indexes", "phase1_rollback", "phase1_validate"
ANALYZE = "phase1_analyze_performance"
WITH_INDICES = (CREATE, ROLLBACK, VALIDATE)


def script(name: str) -> str:
    return (MIGRATIONS / f"{name}.sql").read_text("utf-8")


def listed(name: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Table, name and columns of each index of a script."""
    found = re.findall(r"^SET @table = '(\w+)', @index = '(\w+)', @columns = '([\w,]+)';$", script(name), re.M)
    return [(table, index, tuple(columns.split(","))) for table, index, columns in found]


@pytest.mark.parametrize("name", WITH_INDICES)
def test_a_script_has_exactly_the_indices_of_the_list(name: str) -> None:
    wanted = [(index.table, index.name, index.columns) for index in PHASE_1]
    assert listed(name) == (wanted[::-1] if name == ROLLBACK else wanted)
    assert f"SET @mark = '{MARK}'" in script(name)


@pytest.mark.parametrize("name", WITH_INDICES)
def test_what_a_script_does_with_each_index_is_the_same(name: str) -> None:
    executed = re.findall(r"^EXECUTE look;.*$", script(name), re.M)
    assert len(executed) == len(PHASE_1)
    assert len(set(executed)) == 1


def test_the_scripts_look_at_an_index_in_the_same_way() -> None:
    looks = {script(name).split("-- How an index stands", 1)[1].split("PREPARE look", 1)[0] for name in WITH_INDICES}
    assert len(looks) == 1


def test_each_index_bears_its_queries_and_its_reason_as_a_comment() -> None:
    text = re.sub(r"\n-- ", " ", script(CREATE))
    for index in PHASE_1:
        assert f"{', '.join(f'{query}.sql' for query in index.queries)}: {index.reason}." in text


def test_an_index_is_made_beside_readers_and_writers() -> None:
    assert '" ALGORITHM=INPLACE LOCK=NONE"' in script(CREATE)
    assert "lock_wait_timeout = 10" in script(CREATE)
    assert "lock_wait_timeout = 10" in script(ROLLBACK)


@pytest.mark.parametrize("name", [*WITH_INDICES, ANALYZE])
def test_no_script_needs_more_than_select_and_index(name: str) -> None:
    lines = [line for line in script(name).splitlines() if not line.startswith("--")]
    words = set(re.findall(r"[A-Z]+(?: [A-Z]+)?", "\n".join(lines)))
    for forbidden in ("CREATE TABLE", "CREATE TEMPORARY", "CREATE PROCEDURE", "CREATE FUNCTION", "ALTER TABLE"):
        assert forbidden not in words
    for forbidden in ("DELETE", "UPDATE", "INSERT", "TRUNCATE", "ANALYZE", "DELIMITER", "CALL", "GRANT"):
        assert not re.search(rf"^\s*{forbidden}\b", "\n".join(lines), re.M)
    assert "SET GLOBAL" not in words


def test_the_analysis_explains_the_source_queries_as_they_are() -> None:
    assert EXPLAIN == "EXPLAIN FORMAT=TRADITIONAL "  # MySQL 9's own form has no `type` and no `key`
    found = re.findall(
        rf"^SELECT '(\w+)\.sql' AS query, '([\w ]+)' AS target;\n{EXPLAIN.strip()}\n(.*?);$",
        script(ANALYZE),
        re.M | re.S,
    )

    assert [name for name, _, _ in found] == list(queries())
    for name, target, statement in found:
        own = "\n".join(line for line in sql(name).splitlines() if not line.startswith("--")).strip()
        assert statement == re.sub(r":([a-z_]+)", r"@\1", own)
        assert target == (f"{TARGETS_MILLISECONDS[name]:g} ms" if name in TARGETS_MILLISECONDS else "none")


def test_the_analysis_sets_every_parameter_of_the_queries() -> None:
    wanted = {name for query in queries() for name in re.findall(r":([a-z_]+)", sql(query))}
    assert {name for name in wanted if not re.search(rf"@{name} =", script(ANALYZE))} == set()


def test_the_analysis_shows_the_size_of_every_table() -> None:
    sizes = script(ANALYZE).split("AND t.table_name IN (", 1)[1].split(")", 1)[0]
    assert set(re.findall(r"'(\w+)'", sizes)) == set(REQUIRED)


def test_every_query_is_examined_and_every_index_serves_one_that_is_there() -> None:
    names = {path.stem for path in FOLDER.glob("*.sql")}
    assert sorted(queries()) == sorted(name for name in names if not name.startswith("rows_") and name != "item")
    for index in PHASE_1:
        assert index.queries
        assert all(re.search(rf"\b{index.table}\b", sql(query)) for query in index.queries)
