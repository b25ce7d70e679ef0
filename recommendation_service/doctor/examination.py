"""All checks in order: the server, then the tables, then the queries, then Redis, then this machine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import address
from recommendation_service.doctor.findings import Finding, error, exit_status, info, ok, warning
from recommendation_service.doctor.indices import PHASE_1, Standing, State, standing
from recommendation_service.doctor.inspection import Inspection, Tables, error_code, error_words
from recommendation_service.doctor.machine import check_machine
from recommendation_service.doctor.privileges import check_index, check_select, check_writing
from recommendation_service.doctor.queries import Examined, check_query, examine_query, queries
from recommendation_service.doctor.redis_server import check_redis
from recommendation_service.doctor.server import (
    check_clock,
    check_max_connections,
    check_replica,
    check_sql_mode,
    check_version,
    check_wait_timeout,
    not_seen_from_here,
    replica_not_seen,
)
from recommendation_service.doctor.tables import REQUIRED, check_character_sets, check_engines, check_tables
from recommendation_service.sources.reader import Source

# What the server's number means for the one who set it up.
_CONNECTING = {
    1040: "The server has no connection left: raise max_connections, or find who holds them (SHOW PROCESSLIST).",
    1044: "Give the user SELECT on the database: GRANT SELECT ON `{database}`.* TO '{user}'@'HOST';",
    1045: "Check MYSQL_USER and MYSQL_PASSWORD, and from which hosts the server lets that user in.",
    1049: "Check MYSQL_DB.",
    1129: "The server has blocked this host after failed connections: FLUSH HOSTS on the server, which MySQL 8.4 and "
    "newer call TRUNCATE TABLE performance_schema.host_cache.",
    2003: "Check MYSQL_HOST and MYSQL_PORT, that the server runs, and that no firewall is between.",
}


@dataclass(slots=True)
class Examination:
    """What was found. ``queries``: as they ran; ``missing``: statements that make what is missing of phase 1."""

    database: str
    findings: list[Finding] = field(default_factory=list)
    queries: list[Examined] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        return exit_status(self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "database": self.database,
            "findings": [
                {"name": f.name, "severity": f.severity.value, "sentence": f.sentence, "advice": f.advice}
                for f in self.findings
            ],
            "queries": [
                {
                    "query": e.query,
                    "median_milliseconds": e.median,
                    "target_milliseconds": e.target,
                    "runs": len(e.milliseconds),
                    "rows": e.rows,
                    "plan": [
                        {"table": s.table, "type": s.access, "key": s.key, "rows": s.rows, "extra": s.extra}
                        for s in e.plan
                    ],
                }
                for e in self.queries
            ],
            "missing_indices": self.missing,
        }


def examine(settings: Settings, engine: Engine, progress: Callable[[str], None] = lambda _: None) -> Examination:
    """Look at everything; what cannot be looked at says so. ``progress`` is told what is being done."""
    examination = Examination(address(engine.url))
    if engine.dialect.name == "sqlite":
        examination.findings.append(no_server(examination.database))
    else:
        progress("Looking at the server")
        standings = _examine_server(settings, engine, examination)
        if standings is not None:
            source = Source(engine, settings)
            for query in queries():
                progress(f"Running {query}.sql")
                examined = examine_query(source, query)
                examination.queries.append(examined)
                examination.findings.append(check_query(examined, standings))
    progress("Looking at Redis")
    examination.findings += check_redis(settings)
    examination.findings += check_machine(settings.data_dir)
    return examination


def no_server(path: str) -> Finding:
    """SQLite is the embedded demo: there is nothing to tune in it, and nobody's data."""
    return warning(
        "database",
        f"The settings name no MySQL or MariaDB server, so the service reads the embedded SQLite database {path}, "
        "which needs no indices and is for trying out.",
        "Set MYSQL_HOST, MYSQL_USER, MYSQL_PASSWORD and MYSQL_DB to examine your server.",
    )


def no_connection(settings: Settings, failure: SQLAlchemyError) -> Finding:
    url, code = settings.source_url, error_code(failure)
    advice = _CONNECTING.get(code or 0, "Check the MYSQL_* settings: `recs config` shows them.")
    return error(
        "connection",
        f"No connection to {address(url)}: {error_words(failure)}.",
        advice.format(database=url.database, user=url.username),
    )


def _examine_server(settings: Settings, engine: Engine, examination: Examination) -> list[Standing] | None:
    """Everything but the queries; None where there is no connection to ask more of."""
    findings = examination.findings
    try:
        with engine.connect() as connection:
            inspection = Inspection(connection)
            findings.append(ok("connection", f"Connected to {examination.database} as {inspection.user}."))
            findings += [
                check_version(inspection.version),
                check_max_connections(inspection.max_connections),
                check_wait_timeout(inspection.wait_timeout),
                check_sql_mode(inspection.sql_mode),
                check_clock(*inspection.clock()),
                _replication(inspection, settings),
            ]
            tables = inspection.tables(REQUIRED)
            findings += _table_findings(inspection, tables)
            found = inspection.indices(list(REQUIRED))
            standings = [standing(index, found) for index in PHASE_1]
            findings.append(check_indices(standings, tables, examination.missing))
            findings.append(not_seen_from_here())
    except SQLAlchemyError as failure:
        findings.append(no_connection(settings, failure))
        return None
    return standings


def _replication(inspection: Inspection, settings: Settings) -> Finding:
    try:
        status = inspection.replica_status()
    except SQLAlchemyError as failure:
        if error_code(failure) is None:
            raise
        return replica_not_seen(inspection.version, inspection.user)
    return check_replica(status, settings.catalog_refresh_seconds)


def _table_findings(inspection: Inspection, tables: Tables) -> list[Finding]:
    grants, there = inspection.grants(), sorted(tables.engines)
    findings = check_tables(tables.missing_tables, tables.missing_columns, inspection.database)
    findings.append(check_select(tables.denied, inspection.database, inspection.user))
    findings.append(check_index(grants, there, inspection.database, inspection.user))
    findings.append(check_writing(grants, there, inspection.database, inspection.user))
    findings.append(check_engines(tables.engines))
    findings.append(
        check_character_sets(inspection.database_charset, inspection.connection_charset, tables.other_character_sets)
    )
    return findings


def check_indices(standings: list[Standing], tables: Tables, missing: list[str]) -> Finding:
    """Also appends to ``missing`` the statements for what is to be made."""
    name = "indices"
    absent = [s.index for s in standings if s.state is State.ABSENT and s.index.table in tables.engines]
    taken = [s for s in standings if s.state is State.OTHER_COLUMNS]
    served = [s for s in standings if s.state is State.SERVED]
    missing += [index.ddl(tables.engines[index.table]) for index in absent]
    if taken:
        blocked = ", ".join(f"{s.index.name} ({', '.join(s.by.columns)})" for s in taken if s.by)
        return warning(
            name,
            f"These names of phase 1's indices are taken by indices with other columns: {blocked}"
            + (f"; and missing: {', '.join(index.name for index in absent)}" if absent else "")
            + ".",
            "\n".join(["Rename or drop those, then run migrations/phase1_create_indexes.sql.", *missing]),
        )
    if absent:
        return warning(
            name,
            f"{len(absent)} of {len(standings)} indices of phase 1 are missing: "
            f"{', '.join(index.name for index in absent)}.",
            "\n".join(["Run migrations/phase1_create_indexes.sql, or paste:", *missing]),
        )
    unseen = len([s for s in standings if s.state is State.ABSENT])
    if unseen:
        return info(name, f"{unseen} of {len(standings)} indices of phase 1 wait for tables that are not there.")
    own = f", {len(served)} of them by yours" if served else ""
    return ok(name, f"All {len(standings)} indices of phase 1 are served{own}.")
