"""Reading of plans, and what is a fault in them."""

import re
from typing import Any

import pytest

from recommendation_service.doctor.findings import Severity
from recommendation_service.doctor.indices import FoundIndex, Standing, State, read_indices, standing
from recommendation_service.doctor.queries import (
    BIG_TABLE_ROWS,
    Examined,
    PlanStep,
    check_query,
    plan_faults,
    read_plan,
    tables_by_alias,
)
from recommendation_service.mappings.interacpedia.schema import (
    EXPECTED_SCANS,
    PHASE_1,
    REQUIRED,
    TARGETS_MILLISECONDS,
    queries,
)
from recommendation_service.mappings.interacpedia.statements import sql

ABSENT = [Standing(index, State.ABSENT) for index in PHASE_1]
PRESENT = [Standing(index, State.PRESENT) for index in PHASE_1]


def step(table: str = "views", access: str = "ALL", rows: int = BIG_TABLE_ROWS, **values: Any) -> PlanStep:
    return PlanStep(table, access, values.get("key"), values.get("possible_keys"), rows, values.get("extra", ""))


def ran(query: str, *plan: PlanStep, milliseconds: float = 1.0) -> Examined:
    return Examined(query, TARGETS_MILLISECONDS.get(query), list(plan), [milliseconds], rows=1)


@pytest.mark.parametrize("query", queries())
def test_aliases_lead_to_the_operators_tables(query: str) -> None:
    aliases = tables_by_alias(sql(query))
    assert set(aliases.values()) <= set(REQUIRED)
    assert aliases


@pytest.mark.parametrize("query", queries())
def test_hints_name_tables_of_their_query_and_no_index(query: str) -> None:
    hints = re.findall(r"/\*\+ (\w+)\(([\w, ]+)\) \*/", sql(query))
    assert len(hints) == sql(query).count("/*+")
    for _, names in hints:
        assert set(names.split(", ")) <= set(tables_by_alias(sql(query)))


def test_aliases_of_a_join() -> None:
    assert tables_by_alias("SELECT 1 FROM users u LEFT JOIN profiles p ON 1 WHERE (SELECT 2 FROM likes)") == {
        "u": "users",
        "p": "profiles",
        "likes": "likes",
    }


def test_a_plan_names_tables_and_leaves_out_what_reads_none() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "table": "u", "type": "ALL", "key": None, "possible_keys": None, "rows": 9, "Extra": "Using where"},
        {"id": 2, "table": None, "type": None, "key": None, "possible_keys": None, "rows": None, "Extra": "optimized"},
        {"id": 1, "table": "<derived2>", "type": "ALL", "key": None, "possible_keys": None, "rows": 9, "Extra": None},
    ]
    assert read_plan(rows, "SELECT 1 FROM users u") == [PlanStep("users", "ALL", None, None, 9, "Using where")]


@pytest.mark.parametrize(
    ("query", "planned", "faults", "remarks"),
    [
        ("engagement_views", step(), 1, 0),
        ("engagement_views", step(rows=BIG_TABLE_ROWS - 1), 0, 0),
        ("engagement_views", step(access="ref"), 0, 0),
        ("engagement_views", step(access="index", extra="Using index"), 0, 0),
        ("engagement_views", step(access="ref", extra="Using temporary; Using filesort"), 1, 0),
        ("engagement_views", step(access="ref", rows=10, extra="Using filesort"), 0, 0),
        ("interactions_views", step("activity_log", possible_keys="recs_activity_created"), 0, 1),
        ("interactions_views", step("activity_log", possible_keys="PRIMARY"), 1, 0),
        ("interactions_views", step("activity_log", possible_keys="PRIMARY,recs_activity_created"), 0, 1),
        ("changes", step("profiles"), 0, 1),
        ("users", step("profiles"), 1, 0),
    ],
)
def test_faults_of_a_plan(query: str, planned: PlanStep, faults: int, remarks: int) -> None:
    found = plan_faults(query, [planned, planned], EXPECTED_SCANS)
    assert (len(found[0]), len(found[1])) == (faults, remarks)


def test_a_query_is_fine_remarked_late_or_at_fault() -> None:
    fine = check_query(ran("users", step("users", "ref")), PRESENT, EXPECTED_SCANS)
    remarked = check_query(ran("changes", step("profiles")), PRESENT, EXPECTED_SCANS)
    late = check_query(ran("users", step("users", "ref"), milliseconds=100.0), PRESENT, EXPECTED_SCANS)
    scanned = check_query(ran("engagement_views", step()), ABSENT, EXPECTED_SCANS)
    assert [each.severity for each in (fine, remarked, late, scanned)] == [
        Severity.OK,
        Severity.INFO,
        Severity.WARNING,
        Severity.WARNING,
    ]
    assert scanned.advice == "Add recs_views_model (see indices)."
    assert "phase1_analyze_performance" in late.advice
    assert "target < 100 ms" in late.sentence


def test_a_query_without_a_target_is_never_late() -> None:
    found = ran("challenges", step("challenges", "ref"), milliseconds=60_000)
    assert check_query(found, PRESENT, EXPECTED_SCANS).severity is Severity.OK


def test_a_query_that_failed_is_an_error() -> None:
    said = check_query(Examined("users", failure="1142 SELECT command denied"), ABSENT, EXPECTED_SCANS)
    assert said.severity is Severity.ERROR
    assert "SELECT command denied" in said.sentence


# Indices.


def row(name: str, *columns: str | None, **values: Any) -> list[dict[str, Any]]:
    common = {"table_name": "users", "index_name": name, "index_comment": "", "index_type": "BTREE", "non_unique": 1}
    return [common | {"column_name": column, "sub_part": None} | values for column in columns]


def test_indices_are_read_from_mysql_5_7_mysql_8_and_mariadb() -> None:
    rows = [
        *row("plain", "created_at", "id"),
        *row("part", "name", sub_part=20),
        *row("expression", None),
        *row("invisible", "created_at", is_visible="NO"),
        *row("ignored", "created_at", ignored="YES"),
        *row("whole", "created_at", is_visible="YES", ignored="NO", non_unique=0),
        *row("words", "name", index_type="FULLTEXT"),
    ]
    found = {index.name: index for index in read_indices(rows)}

    assert found["plain"].columns == ("created_at", "id")
    assert found["part"].columns == ("name(20)",)
    assert found["expression"].columns == ("(expression)",)
    assert {name for name, index in found.items() if not index.is_used} == {"invisible", "ignored"}
    assert {name for name, index in found.items() if index.is_unique} == {"whole"}
    assert {name for name, index in found.items() if not index.is_plain} == {"words"}


def test_an_index_of_another_table_serves_nothing() -> None:
    index = PHASE_1[0]
    assert standing(index, [FoundIndex("likes", "mine", index.columns)]).state is State.ABSENT


def test_names_fit_every_server_and_occur_once() -> None:
    names = [index.name for index in PHASE_1]
    assert len(set(names)) == len(names)
    assert all(name.startswith("recs_") and len(name) <= 64 for name in names)


def test_a_filtered_row_of_mariadb_11_and_odd_plans_are_read() -> None:
    row = {"table": "a", "type": "range|filter", "key": "k|f", "possible_keys": "k,f", "rows": "1 (50%)", "Extra": None}

    steps = read_plan([row, {"EXPLAIN": "-> Table scan"}, {"table": "b", "type": "ALL", "rows": None}], "FROM users a")

    assert [(step.table, step.access, step.rows, step.extra) for step in steps] == [
        ("users", "range", 1, ""),
        ("b", "ALL", 0, ""),
    ]
