"""`recs doctor` against real servers: what it finds, what it says to do, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo import load_invented
from recommendation_service.demo.schema import metadata
from recommendation_service.doctor.examination import Examination, examine
from recommendation_service.doctor.findings import Finding, Severity
from recommendation_service.doctor.inspection import Inspection
from recommendation_service.doctor.queries import plan_faults
from recommendation_service.mappings.interacpedia.schema import EXPECTED_SCANS, PHASE_1, queries
from recommendation_service.mappings.interacpedia.source import Source
from tests.integration.test_phase1 import (
    COMPLETE,
    CREATE,
    VALIDATE,
    database_user,
    execute,
    run_client,
    run_script,
)
from tests.servers import PrivateMariaDB, free_port


def examined(url: URL, folder: Path) -> Examination:
    settings = Settings(database_url=SecretStr(url.render_as_string(hide_password=False)), data_dir=folder)
    engine = make_engine(settings)
    try:
        return examine(settings, engine, Source(engine, settings))
    finally:
        engine.dispose()


def finding(examination: Examination, name: str) -> Finding:
    return next(each for each in examination.findings if each.name == name)


@pytest.fixture(scope="module")
def before_and_after(module_mariadb_url: URL, tmp_path_factory: pytest.TempPathFactory) -> tuple[Examination, ...]:
    """At the operator's sizes, without phase 1's indices and with them."""
    engine = create_engine(module_mariadb_url, poolclass=NullPool)
    load_invented(engine)
    engine.dispose()
    folder = tmp_path_factory.mktemp("data")
    before = examined(module_mariadb_url, folder)
    run_script(module_mariadb_url, CREATE)
    return before, examined(module_mariadb_url, folder)


@pytest.fixture
def tables(mariadb_url: URL) -> URL:
    """The operator's tables, empty."""
    engine = create_engine(mariadb_url, poolclass=NullPool)
    metadata.create_all(engine)
    engine.dispose()
    return mariadb_url


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CliRunner]:
    """`recs` in an empty folder; its own way of logging ends with the test."""
    monkeypatch.chdir(tmp_path)
    configured = structlog.get_config()
    yield CliRunner()
    structlog.configure(**configured)


def name_server(monkeypatch: pytest.MonkeyPatch, url: URL, **changes: str) -> None:
    values = {
        "MYSQL_HOST": str(url.host),
        "MYSQL_PORT": str(url.port),
        "MYSQL_USER": str(url.username),
        "MYSQL_PASSWORD": str(url.password),
        "MYSQL_DB": str(url.database),
    }
    for name, value in (values | changes).items():
        monkeypatch.setenv(name, value)


# At the operator's sizes.


def test_without_indices_the_doctor_names_each_that_is_missing(before_and_after: tuple[Examination, ...]) -> None:
    before, _ = before_and_after

    assert before.missing == [index.ddl() for index in PHASE_1]
    said = finding(before, "indices")
    assert said.severity is Severity.WARNING
    assert all(index.name in said.sentence and index.ddl() in said.advice for index in PHASE_1)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("users", "full scan of users"),
        ("users", "full scan of profiles"),
        ("engagement_views", "full scan of views"),
        ("engagement_views", "filesort of views"),
        ("engagement_exhibitions", "filesort of resumes_exhibited"),
        ("interactions_views", "full scan of activity_log"),
        ("changes", "full scan of users"),
    ],
)
def test_without_indices_full_scans_and_filesorts_of_big_tables_are_named(
    before_and_after: tuple[Examination, ...], query: str, fault: str
) -> None:
    said = finding(before_and_after[0], f"query {query}")

    assert fault in said.sentence
    assert said.severity is Severity.WARNING
    missing = [index.name for index in PHASE_1 if query in index.queries]
    assert all(name in said.advice for name in missing)


def test_with_indices_none_is_missing(before_and_after: tuple[Examination, ...]) -> None:
    _, after = before_and_after

    assert after.missing == []
    assert finding(after, "indices") == Finding(
        "indices", Severity.OK, f"All {len(PHASE_1)} indices of phase 1 are served."
    )


@pytest.mark.parametrize("index", PHASE_1, ids=lambda index: index.name)
def test_with_indices_the_plans_use_them(before_and_after: tuple[Examination, ...], index: Any) -> None:
    plans = {each.query: each.plan for each in before_and_after[1].queries}
    steps = [step for query in index.queries for step in plans[query] if step.table == index.table]

    last_entry = index.name in {"recs_users_updated", "recs_users_deleted"}  # MAX() is optimised away, without a step
    assert any(index.name in (step.key or "").split(",") for step in steps) or (last_entry and steps == [])


@pytest.mark.parametrize("query", queries())
def test_with_indices_no_plan_has_a_fault(before_and_after: tuple[Examination, ...], query: str) -> None:
    plan = next(each.plan for each in before_and_after[1].queries if each.query == query)

    assert plan_faults(query, plan, EXPECTED_SCANS)[0] == []


def test_with_indices_only_the_profiles_and_what_is_small_are_read_whole(
    before_and_after: tuple[Examination, ...],
) -> None:
    scans = {(each.query, step.table) for each in before_and_after[1].queries for step in each.plan if step.is_scan}

    assert scans == {("changes", "profiles")}


def test_the_window_of_the_log_is_found_in_the_index_alone(before_and_after: tuple[Examination, ...]) -> None:
    plan = next(each.plan for each in before_and_after[1].queries if each.query == "interactions_views")

    assert [(step.access, step.key) for step in plan] == [("range", "recs_activity_created"), ("eq_ref", "PRIMARY")]
    assert "Using index" in plan[0].extra


def test_every_query_is_timed_beside_its_target(before_and_after: tuple[Examination, ...]) -> None:
    for examination in before_and_after:
        assert [each.query for each in examination.queries] == list(queries())
        assert all(each.median is not None for each in examination.queries)
        targets = {each.query: each.target for each in examination.queries if each.target}
        assert targets == {"users": 100.0, "videos": 80.0, "engagement_views": 70.0}
        assert "target < 100 ms" in finding(examination, "query users").sentence


# Indices.


def test_the_statements_of_the_doctor_can_be_pasted_and_are_known_to_the_scripts(tables: URL, tmp_path: Path) -> None:
    done = run_client(tables, "\n".join(examined(tables, tmp_path).missing))

    assert (done.returncode, done.stderr) == (0, "")
    assert run_script(tables, VALIDATE)[-1] == COMPLETE
    assert examined(tables, tmp_path).missing == []


def test_an_index_of_the_operator_that_serves_is_not_asked_for_again(tables: URL, tmp_path: Path) -> None:
    execute(tables, "CREATE INDEX mine ON users (created_at, id)")

    examination = examined(tables, tmp_path)

    assert not any("recs_users_created" in statement for statement in examination.missing)
    run_script(tables, CREATE)
    assert "1 of them by yours" in finding(examined(tables, tmp_path), "indices").sentence


def test_a_name_that_is_taken_is_said(tables: URL, tmp_path: Path) -> None:
    execute(tables, "CREATE INDEX recs_users_created ON users (name)")

    said = finding(examined(tables, tmp_path), "indices")

    assert said.severity is Severity.WARNING
    assert "recs_users_created (name)" in said.sentence


# Privileges.


def test_a_user_with_select_only_can_serve_and_is_told_what_it_cannot_do(
    mariadb: PrivateMariaDB, tables: URL, tmp_path: Path
) -> None:
    with database_user(mariadb, tables, "SELECT ON {db}.*") as url:
        examination = examined(url, tmp_path)

    account = f"'{url.username}'@'127.0.0.1'"
    assert not [each for each in examination.findings if each.severity is Severity.ERROR]
    index = finding(examination, "privilege INDEX")
    assert index.severity is Severity.INFO
    assert f"GRANT INDEX ON `{url.database}`.* TO {account};" in index.advice
    replication = finding(examination, "replication")
    assert "cannot be seen" in replication.sentence
    assert replication.advice == f"GRANT SLAVE MONITOR ON *.* TO {account};"
    assert finding(examination, "privileges beyond reading").severity is Severity.OK


def test_with_select_and_index_phase_1_can_be_run(mariadb: PrivateMariaDB, tables: URL, tmp_path: Path) -> None:
    with database_user(mariadb, tables, "SELECT, INDEX ON {db}.*") as url:
        assert finding(examined(url, tmp_path), "privilege INDEX").severity is Severity.OK


def test_a_table_that_may_not_be_read_is_an_error_with_the_grant_that_mends_it(
    mariadb: PrivateMariaDB, tables: URL, tmp_path: Path
) -> None:
    others = [f"SELECT ON {{db}}.{table}" for table in metadata.tables if table != "views"]
    with database_user(mariadb, tables, *others) as url:
        examination = examined(url, tmp_path)
        said = finding(examination, "privilege SELECT")
        assert said.severity is Severity.ERROR
        assert "lacks SELECT on views" in said.sentence
        assert finding(examination, "query engagement_views").severity is Severity.ERROR

        assert run_client(tables, said.advice).returncode == 0
        assert finding(examined(url, tmp_path), "privilege SELECT").severity is Severity.OK


def test_columns_that_may_not_be_read_are_named(mariadb: PrivateMariaDB, tables: URL, tmp_path: Path) -> None:
    others = [f"SELECT ON {{db}}.{table}" for table in metadata.tables if table != "views"]
    with database_user(mariadb, tables, *others, "SELECT (id, model_id) ON {db}.views") as url:
        examination = examined(url, tmp_path)

    assert "views (model_type)" in finding(examination, "privilege SELECT").sentence
    assert finding(examination, "tables").severity is Severity.OK


def test_a_user_who_may_write_is_remarked(tables: URL, tmp_path: Path) -> None:
    said = finding(examined(tables, tmp_path), "privileges beyond reading")

    assert said.severity is Severity.INFO
    assert "DELETE" in said.sentence


# Tables.


def test_missing_tables_and_columns_are_errors_that_say_what_follows(tables: URL, tmp_path: Path) -> None:
    execute(tables, "DROP TABLE likes", "ALTER TABLE resumes DROP COLUMN video, DROP COLUMN status")

    examination = examined(tables, tmp_path)

    table, columns = finding(examination, "table likes"), finding(examination, "columns of resumes")
    assert table.severity is columns.severity is Severity.ERROR
    assert "no catalog can be built" in table.sentence
    assert "status and video" in columns.sentence
    assert finding(examination, "query videos").severity is Severity.ERROR
    assert finding(examination, "query interactions_saves").severity is Severity.ERROR
    assert finding(examination, "query users").severity is not Severity.ERROR
    assert not any(" ON likes " in statement for statement in examination.missing)
    assert examination.status == 2


def test_tables_of_another_engine_or_character_set_are_named(tables: URL, tmp_path: Path) -> None:
    execute(tables, "ALTER TABLE likes ENGINE=MyISAM", "ALTER TABLE users CONVERT TO CHARACTER SET latin1")

    examination = examined(tables, tmp_path)

    assert "likes is not InnoDB" in finding(examination, "storage engine").sentence
    assert "users.city (latin1)" in finding(examination, "character set").sentence
    for name in ("storage engine", "character set"):
        assert run_client(tables, finding(examination, name).advice).returncode == 0
    again = examined(tables, tmp_path)
    assert finding(again, "storage engine").severity is finding(again, "character set").severity is Severity.OK


# The command.


def test_the_command_prints_findings_and_statements_unwrapped(
    command: CliRunner, monkeypatch: pytest.MonkeyPatch, tables: URL
) -> None:
    name_server(monkeypatch, tables)

    done = command.invoke(cli.app, ["doctor"])

    assert done.exit_code == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert all(index.ddl() in lines for index in PHASE_1)
    assert "0 errors" in lines[-1]


def test_json_has_findings_queries_and_statements(
    command: CliRunner, monkeypatch: pytest.MonkeyPatch, tables: URL
) -> None:
    name_server(monkeypatch, tables)

    done = command.invoke(cli.app, ["doctor", "--json"])

    said = json.loads(done.stdout)
    assert done.exit_code == said["status"] == 1
    assert said["missing_indices"] == [index.ddl() for index in PHASE_1]
    assert [each["query"] for each in said["queries"]] == list(queries())
    assert {each["severity"] for each in said["findings"]} <= {"ok", "info", "warning", "error"}
    assert str(tables.password) not in done.stdout


def test_the_embedded_database_needs_no_doctor(command: CliRunner) -> None:
    done = command.invoke(cli.app, ["doctor", "--json"])

    said = json.loads(done.stdout)
    database = said["findings"][0]
    assert "embedded SQLite database" in database["sentence"]
    assert "MYSQL_HOST" in database["advice"]
    assert done.exit_code == 1
    assert {each["name"] for each in said["findings"]} == {"database", "Python", "cores", "memory", "disk"}


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"MYSQL_PASSWORD": "wrong-password"}, "MYSQL_PASSWORD"),
        ({"MYSQL_DB": "no_such_database"}, "MYSQL_DB"),
        ({"MYSQL_PORT": "closed"}, "MYSQL_PORT"),
    ],
    ids=["wrong password", "no such database", "no server"],
)
def test_a_server_that_cannot_be_used_is_one_error_with_what_to_check(
    command: CliRunner, monkeypatch: pytest.MonkeyPatch, mariadb_url: URL, changes: dict[str, str], advice: str
) -> None:
    changes = {name: str(free_port()) if value == "closed" else value for name, value in changes.items()}
    name_server(monkeypatch, mariadb_url, **changes)

    done = command.invoke(cli.app, ["doctor", "--json"])

    said = json.loads(done.stdout)
    assert done.exit_code == said["status"] == 2
    assert [each["name"] for each in said["findings"] if each["severity"] == "error"] == ["connection"]
    assert advice in said["findings"][0]["advice"]
    assert "wrong-password" not in done.stdout
    assert str(mariadb_url.password) not in done.stdout


def account(mariadb: PrivateMariaDB, name: str, identified: str, *grants: str) -> None:
    """A user who comes from where the tests do; dropped with the server."""
    who = f"'{name}'@'127.0.0.1'"
    mariadb.execute(
        f"DROP USER IF EXISTS {who}",
        f"CREATE USER {who} {identified}",
        *(f"GRANT {grant} TO {who}" for grant in grants),
    )


def test_a_user_who_may_see_two_tables_is_told_so_without_contradiction(
    mariadb: PrivateMariaDB, tables: URL, tmp_path: Path
) -> None:
    grants = [f"SELECT ON {tables.database}.{table}" for table in ("users", "resumes")]
    account(mariadb, "narrow", "IDENTIFIED BY 'secret'", *grants)

    examination = examined(tables.set(username="narrow", password="secret"), tmp_path)

    assert "lacks SELECT on" in finding(examination, "privilege SELECT").sentence
    assert finding(examination, "tables").severity is Severity.INFO
    assert finding(examination, "tables").sentence.startswith("2 of 11 tables are there")
    assert "The 2 of 11 tables" in finding(examination, "storage engine").sentence
    assert not [each for each in examination.findings if "All 11 tables" in each.sentence]
    assert not [each for each in examination.findings if "could not be looked at" in each.sentence]


def test_a_user_whom_the_driver_cannot_authenticate_is_told_what_to_do(
    mariadb: PrivateMariaDB, tables: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: CliRunner
) -> None:
    if not mariadb.has_plugin("ed25519"):
        pytest.skip("this MariaDB has no plugin auth_ed25519")
    account(mariadb, "modern", "IDENTIFIED VIA ed25519 USING PASSWORD('secret')", "SELECT ON *.*")
    name_server(monkeypatch, tables, MYSQL_USER="modern", MYSQL_PASSWORD="secret")

    done = command.invoke(cli.app, ["doctor", "--json"])

    said = next(each for each in json.loads(done.stdout)["findings"] if each["name"] == "connection")
    assert (done.exit_code, said["severity"]) == (2, "error")
    assert "PyNaCl" in said["sentence"]
    assert "ALTER USER 'modern'" in said["advice"]


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    tables: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> None:
        raise ValueError("what no server said before")

    for name in ("server_zone", "grants", "clock"):
        monkeypatch.setattr(Inspection, name, unexpected)
    monkeypatch.setattr("recommendation_service.doctor.queries.read_plan", unexpected)

    examination = examined(tables, tmp_path)

    for name in ("time zone", "tables", "clock"):
        assert "could not be looked at: ValueError: what no server" in finding(examination, name).sentence
    for name in ("version", "indices", "Python"):
        assert "could not" not in finding(examination, name).sentence
    assert "what no server said before" in finding(examination, "query users").sentence


@pytest.mark.parametrize(("hours", "severity", "offset"), [(2, Severity.WARNING, "+02:00"), (-5, Severity.INFO, "")])
def test_times_that_look_shifted_are_named_with_the_zone_that_mends_them(
    tables: URL, tmp_path: Path, hours: int, severity: Severity, offset: str
) -> None:
    engine = create_engine(tables, poolclass=NullPool, connect_args={"init_command": "SET time_zone = '+00:00'"})
    with engine.begin() as connection:
        for created in (f"UTC_TIMESTAMP() + INTERVAL {hours * 60 - 2} MINUTE", "'2036-01-01 00:00:00'"):
            connection.exec_driver_sql(f"INSERT INTO users (name, created_at) VALUES ('Ana', {created})")
    engine.dispose()

    said = finding(examined(tables, tmp_path), "time zone")
    url = SecretStr(tables.render_as_string(hide_password=False))
    settings = Settings(database_url=url, data_dir=tmp_path, mysql_time_zone=f"{hours:+03d}:00")
    mended_engine = make_engine(settings)
    mended = finding(examine(settings, mended_engine, Source(mended_engine, settings)), "time zone")
    mended_engine.dispose()

    assert said.severity is severity
    assert "users" in said.sentence
    assert "MYSQL_TIME_ZONE (UTC)" in said.sentence
    assert offset in said.advice
    assert mended.severity is Severity.OK


def test_help_has_examples_and_the_exit_statuses(command: CliRunner) -> None:
    shown = command.invoke(cli.app, ["doctor", "--help"]).stdout

    assert "recs doctor --json" in shown
    assert "Exit status" in shown
