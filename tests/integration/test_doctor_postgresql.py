"""`recs doctor` on PostgreSQL, in its own words, and what a user lacks; of a mapping anywhere, its queries."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from examples.world import run
from recommendation_service import cli
from recommendation_service.doctor.findings import Severity
from recommendation_service.doctor.postgresql import check_schema, check_standing, check_time_limits, check_version
from tests.postgresql import PrivatePostgreSQL

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def fill(url: URL) -> None:
    module = importlib.import_module("examples.jobs.__main__")
    address = url.render_as_string(hide_password=False)
    assert run("jobs", module.METADATA, module.make, [address, "--people", "40"]) == 0


@pytest.fixture(scope="module")
def jobs(postgresql: PrivatePostgreSQL) -> Iterator[URL]:
    postgresql.execute("CREATE DATABASE doctor_jobs")
    url = postgresql.url("doctor_jobs")
    fill(url)
    yield url
    postgresql.execute("DROP DATABASE doctor_jobs WITH (FORCE)")


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MAPPING_FILE", str(EXAMPLES / "jobs" / "mapping.toml"))
    return CliRunner()


def examined(doctor: CliRunner, url: URL, **settings: str) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    environment = {"DATABASE_URL": url.render_as_string(hide_password=False), **settings}
    done = doctor.invoke(cli.app, ["doctor", "--json"], env=environment)
    report = json.loads(done.stdout)
    assert done.exit_code == report["status"]
    return report, {one["name"]: one for one in report["findings"]}


def test_a_server_that_is_fine_is_said_to_be(doctor: CliRunner, jobs: URL, postgresql: PrivatePostgreSQL) -> None:
    postgresql.execute("VACUUM ANALYZE", database=str(jobs.database))
    report, findings = examined(doctor, jobs)
    fine = (
        "connection",
        "version",
        "max_connections",
        "time limits",
        "replication",
        "encoding",
        "search_path",
        "clock",
    )
    assert {name: findings[name]["severity"] for name in fine} == dict.fromkeys(fine, "ok")
    assert findings["version"]["sentence"].startswith("PostgreSQL 1")
    assert findings["tables"]["severity"] == "ok"
    assert "made by the flusher" in findings["own tables"]["sentence"]
    assert "sslmode=verify-full" in findings["encryption"]["advice"]
    assert {query["query"] for query in report["queries"]} >= {"users", "items.job", "events.apply"}
    assert all(query["plan"] and query["median_milliseconds"] > 0 for query in report["queries"])
    assert all(findings[f"query {query['query']}"]["severity"] == "info" for query in report["queries"])


def test_what_a_user_lacks_is_named_with_what_to_paste(
    doctor: CliRunner, jobs: URL, postgresql: PrivatePostgreSQL
) -> None:
    name = str(jobs.database)
    postgresql.execute(
        *("CREATE ROLE shy LOGIN PASSWORD 'shy' CONNECTION LIMIT 3", "GRANT SELECT ON candidates TO shy"), database=name
    )
    try:
        report, findings = examined(doctor, jobs.set(username="shy", password="shy"))
        assert report["status"] == 2
        assert "GRANT SELECT ON job_ads TO shy;" in findings["privileges"]["advice"].splitlines()
        assert "candidates" not in findings["privileges"]["sentence"]
        assert "GRANT CREATE ON SCHEMA public TO shy;" in findings["own tables"]["advice"]
        assert findings["max_connections"]["advice"] == "ALTER ROLE shy CONNECTION LIMIT 20;"
        assert "permission denied" in findings["query items.job"]["sentence"]
        assert findings["query users"]["severity"] == "info"
    finally:
        postgresql.execute("DROP OWNED BY shy", "DROP ROLE shy", database=name)


def test_what_the_server_never_looked_at_and_times_of_its_own_zone_are_told(
    doctor: CliRunner, jobs: URL, postgresql: PrivatePostgreSQL
) -> None:
    name = str(jobs.database)
    postgresql.execute(
        *("CREATE TABLE ad_views_again AS TABLE ad_views", "DROP TABLE ad_views"),
        *("ALTER TABLE ad_views_again RENAME TO ad_views", f"ALTER DATABASE {name} SET timezone = 'America/Bogota'"),
        database=name,
    )
    _, findings = examined(doctor, jobs)
    assert findings["statistics"]["advice"] == "ANALYZE ad_views;"
    assert findings["time zone"]["advice"].endswith("set MYSQL_TIME_ZONE=America/Bogota.")


@pytest.mark.parametrize(
    ("change", "said", "advice"),
    [
        ({"password": "wrong"}, "password authentication failed", "user and password of DATABASE_URL"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist', "the database and the user"),
        ({"port": 1}, "refused", "that the server runs"),
    ],
)
def test_why_there_is_no_connection_is_one_finding_without_a_password(
    doctor: CliRunner, jobs: URL, change: dict[str, Any], said: str, advice: str
) -> None:
    report, findings = examined(doctor, jobs.set(**change))
    assert report["status"] == 2
    assert said in findings["connection"]["sentence"]
    assert advice in findings["connection"]["advice"]
    assert str(jobs.password) not in json.dumps(report)


@pytest.mark.parametrize("backend", ["sqlite", "mariadb"])
def test_of_a_mapping_elsewhere_its_own_queries_are_examined(
    doctor: CliRunner, request: pytest.FixtureRequest, backend: str
) -> None:
    """And no table of the first operator's is missed."""
    url: URL = request.getfixturevalue(f"{backend}_url")
    fill(url)
    report, findings = examined(doctor, url)
    assert {query["query"] for query in report["queries"]} >= {"users", "items.job", "events.apply"}
    assert ("version" in findings) == (backend == "mariadb")
    assert [one["name"] for one in report["findings"] if one["severity"] == "error"] == []


def test_limits_of_time_that_would_end_a_build_are_told() -> None:
    assert check_time_limits("0", None).severity is Severity.OK
    assert check_time_limits("5min", "0").severity is Severity.OK
    found = check_time_limits("500ms", "5min")
    assert found.severity is Severity.WARNING
    assert found.sentence.startswith("idle_in_transaction_session_timeout is 500ms and transaction_timeout is 5min")


def test_an_old_server_a_standby_and_a_search_path_that_leads_nowhere_are_errors() -> None:
    assert check_version("PostgreSQL 14.2 on x86_64", 140_002).severity is Severity.ERROR
    assert check_standing(is_standby=True).severity is Severity.ERROR
    assert check_schema(None).severity is Severity.ERROR
