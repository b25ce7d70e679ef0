"""What the doctor says of a server's own values, on both sides of each limit."""

from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from recommendation_service.core.config import Settings
from recommendation_service.doctor.examination import no_connection
from recommendation_service.doctor.findings import Finding, Severity, error, exit_status, info, ok, warning
from recommendation_service.doctor.server import (
    check_clock,
    check_max_connections,
    check_replica,
    check_sql_mode,
    check_version,
    check_wait_timeout,
    replica_not_seen,
)


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ("5.7.44-log", Severity.OK),
        ("5.6.51", Severity.ERROR),
        ("8.0.36-0ubuntu0.22.04.1", Severity.OK),
        ("8.4.3", Severity.OK),
        ("10.2.44-MariaDB", Severity.OK),
        ("10.1.48-MariaDB-0ubuntu0.18.04.1", Severity.ERROR),
        ("11.4.2-MariaDB-log", Severity.OK),
        ("unknown", Severity.ERROR),
    ],
)
def test_versions(version: str, severity: Severity) -> None:
    assert check_version(version).severity is severity


@pytest.mark.parametrize(("value", "severity"), [(199, Severity.WARNING), (200, Severity.OK), (1000, Severity.OK)])
def test_max_connections(value: int, severity: Severity) -> None:
    assert check_max_connections(value).severity is severity


@pytest.mark.parametrize(("value", "severity"), [(599, Severity.WARNING), (600, Severity.OK), (28800, Severity.INFO)])
def test_wait_timeout(value: int, severity: Severity) -> None:
    assert check_wait_timeout(value).severity is severity


@pytest.mark.parametrize(
    ("server", "severity", "words"),
    [
        (100.5, Severity.OK, ""),
        (102.9, Severity.OK, ""),  # the question took a second
        (103.1, Severity.WARNING, "2.1 s ahead of"),
        (90.0, Severity.WARNING, "10.0 s behind"),
    ],
)
def test_clocks(server: float, severity: Severity, words: str) -> None:
    said = check_clock(server, 100.0, 101.0)
    assert said.severity is severity
    assert words in said.sentence


@pytest.mark.parametrize(
    ("mode", "severity"),
    [
        ("STRICT_TRANS_TABLES,NO_ZERO_DATE", Severity.OK),
        ("TRADITIONAL", Severity.OK),
        ("", Severity.INFO),
        ("NO_ENGINE_SUBSTITUTION", Severity.INFO),
        ("PIPES_AS_CONCAT,ORACLE,STRICT_TRANS_TABLES", Severity.WARNING),
    ],
)
def test_sql_modes(mode: str, severity: Severity) -> None:
    assert check_sql_mode(mode).severity is severity


@pytest.mark.parametrize(
    ("status", "severity", "words"),
    [
        (None, Severity.OK, "no replica"),
        ({"Seconds_Behind_Master": 3}, Severity.OK, "3 s behind"),
        ({"Seconds_Behind_Source": 10}, Severity.OK, "10 s behind"),
        ({"Seconds_Behind_Source": 11}, Severity.WARNING, "11 s behind"),
        ({"Seconds_Behind_Master": None, "Last_SQL_Error": "Duplicate entry"}, Severity.ERROR, "Duplicate entry"),
        ({"Seconds_Behind_Source": None, "Last_IO_Error": "", "Last_SQL_Error": ""}, Severity.ERROR, "no reason"),
    ],
)
def test_replicas(status: dict[str, Any] | None, severity: Severity, words: str) -> None:
    said = check_replica(status, 10)
    assert said.severity is severity
    assert words in said.sentence


@pytest.mark.parametrize(
    ("version", "privilege"),
    [("8.0.36", "REPLICATION CLIENT"), ("10.4.1-MariaDB", "REPLICATION CLIENT"), ("10.11.2-MariaDB", "SLAVE MONITOR")],
)
def test_a_check_that_cannot_be_made_says_the_privilege_and_the_grant(version: str, privilege: str) -> None:
    said = replica_not_seen(version, "recs@10.0.0.%")
    assert said.severity is Severity.INFO
    assert f"lacks {privilege}" in said.sentence
    assert said.advice == f"GRANT {privilege} ON *.* TO 'recs'@'10.0.0.%';"


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([], 0),
        ([ok("a", ""), info("b", "")], 0),
        ([ok("a", ""), warning("b", "")], 1),
        ([warning("a", ""), error("b", "")], 2),
    ],
)
def test_the_exit_status_is_the_worst_severity(findings: list[Finding], status: int) -> None:
    assert exit_status(findings) == status


@pytest.mark.parametrize("code", [1040, 1044, 1045, 1049, 1129, 2003, 4242])
def test_a_failed_connection_says_what_to_check_and_no_password(code: int) -> None:
    settings = Settings(mysql_host="db", mysql_user="recs", mysql_password="hidden-password")  # type: ignore[arg-type]
    said = no_connection(settings, OperationalError("", {}, Exception(code, "refused.")))
    assert said.severity is Severity.ERROR
    assert said.sentence == "No connection to db:3306/interacpedia: refused."
    assert said.advice
    assert "{" not in said.advice
    assert "hidden-password" not in repr(said)
