"""All checks in order: the server, then the tables, then the queries, then Redis, then this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import address
from recommendation_service.core.postgresql_address import POSTGRESQL
from recommendation_service.doctor import postgresql
from recommendation_service.doctor.findings import Finding, error, exit_status, info, ok, warning
from recommendation_service.doctor.indices import Standing, State, standing
from recommendation_service.doctor.inspection import Inspection, Tables, error_code, error_words
from recommendation_service.doctor.machine import check_machine
from recommendation_service.doctor.mapped import examine_mapped
from recommendation_service.doctor.privileges import check_index, check_select, check_writing
from recommendation_service.doctor.queries import Examined, check_query, examine_query
from recommendation_service.doctor.redis_server import check_redis
from recommendation_service.doctor.schema import ExaminedSource, Schema
from recommendation_service.doctor.server import (
    check_clock,
    check_encryption,
    check_max_connections,
    check_replica,
    check_sql_mode,
    check_time_zone,
    check_version,
    check_wait_timeout,
    not_seen_from_here,
    replica_not_seen,
)
from recommendation_service.doctor.tables import check_character_sets, check_engines, check_tables
from recommendation_service.sources.mapping.source import MappedSource

_SESSION = """SELECT quote_ident(current_user), current_setting('TimeZone'),
  (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"""

# What the server's number means for the one who set it up.
_CONNECTING = {
    1040: "The server has no connection left: raise max_connections, or find who holds them (SHOW PROCESSLIST).",
    1044: "Give the user SELECT on the database: GRANT SELECT ON `{database}`.* TO '{user}'@'HOST';",
    1045: "Check MYSQL_USER and MYSQL_PASSWORD, and from which hosts the server lets that user in.",
    1049: "Check MYSQL_DB.",
    1129: "The server has blocked this host after failed connections: FLUSH HOSTS on the server, which MySQL 8.4 and "
    "newer call TRUNCATE TABLE performance_schema.host_cache.",
    1698: "That user is let in by the operating system's user (unix_socket or auth_socket): give the service one "
    "with a password.",
    2012: "Check MYSQL_HOST and MYSQL_PORT: something else than MySQL or MariaDB listens there.",
    2026: "docs/settings.md says what MYSQL_TLS and MYSQL_CA_FILE ask for.",
    2059: "Have the user identified by a password: ALTER USER '{user}'@'HOST' IDENTIFIED VIA mysql_native_password "
    "USING PASSWORD('…'); in MySQL IDENTIFIED WITH caching_sha2_password BY '…';",
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


def examine(
    settings: Settings, engine: Engine, source: ExaminedSource, progress: Callable[[str], None] = lambda _: None
) -> Examination:
    """Look at everything; what cannot be looked at says so. ``progress`` is told what is being done."""
    examination, schema = Examination(address(engine.url)), source.schema
    if engine.dialect.name == "sqlite":
        examination.findings.append(no_server(examination.database))
    else:
        progress("Looking at the server")
        standings = _examine_server(settings, engine, schema, examination)
        if standings is not None:
            for query in schema.queries:
                progress(f"Running {query}.sql")
                examined = examine_query(source, query)
                examination.queries.append(examined)
                examination.findings += _each(f"query {query}", partial(check_query, examined, standings, schema.scans))
    _examine_surroundings(settings, examination, progress)
    return examination


def examine_mapping(
    settings: Settings, engine: Engine, source: MappedSource, progress: Callable[[str], None] = lambda _: None
) -> Examination:
    """The same of a mapping: its server, and each of its queries."""
    examination = Examination(address(engine.url))
    findings, is_postgresql = examination.findings, engine.dialect.name == POSTGRESQL
    progress("Looking at the server")
    try:
        if engine.dialect.name == "sqlite":
            findings.append(info("database", f"The mapping reads the SQLite database {examination.database}."))
        else:
            with engine.connect() as connection:
                if is_postgresql:
                    _examine_postgresql(connection, source, settings, findings)
                else:
                    _examine_settings(Inspection(connection), settings, examination)
        if is_postgresql:
            findings += _each("standbys", lambda: postgresql.check_standbys(settings))
        progress("Running the queries")
        for examined, found in examine_mapped(source.mapping, engine, settings):
            examination.queries.append(examined)
            findings += found
    except SQLAlchemyError as failure:
        findings.append(
            postgresql.no_connection(examination.database, failure)
            if is_postgresql
            else no_connection(settings, failure)
        )
    _examine_surroundings(settings, examination, progress)
    return examination


def _examine_postgresql(
    connection: Connection, source: MappedSource, settings: Settings, findings: list[Finding]
) -> None:
    findings += postgresql.check_server(connection, settings)
    user, zone, server_zone = connection.execute(text(_SESSION)).one()
    looked = [postgresql.look_at_table(connection, name) for name in source.read_tables]
    tables = [table for table in looked if table is not None]
    findings += _each("tables", lambda: postgresql.check_tables(tables, user, zone, server_zone))
    findings += _each("own tables", lambda: postgresql.check_writing(connection, user))


def _examine_surroundings(settings: Settings, examination: Examination, progress: Callable[[str], None]) -> None:
    progress("Looking at Redis")
    examination.findings += _each("Redis", lambda: check_redis(settings))
    examination.findings += _each("machine", lambda: check_machine(settings.data_dir))


def _each(name: str, check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """A check's findings, or one that says that it failed: the others go on."""
    try:
        found = check()
    except SQLAlchemyError as failure:
        if getattr(failure, "connection_invalidated", False):
            raise  # there is nothing more to ask
        words = error_words(failure)
    except Exception as failure:  # noqa: BLE001 - whatever a server answers is no traceback
        words = f"{type(failure).__name__}: {failure}"
    else:
        return found if isinstance(found, list) else [found]
    return [warning(name, f"This could not be looked at: {words}.", "Look at it by hand; a report of this is welcome.")]


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


def _examine_server(
    settings: Settings, engine: Engine, schema: Schema, examination: Examination
) -> list[Standing] | None:
    """Everything but the queries; None where there is no connection to ask more of."""
    findings = examination.findings
    standings: list[Standing] = []
    try:
        with engine.connect() as connection:
            inspection = Inspection(connection)
            _examine_settings(inspection, settings, examination)
            tables = Tables()

            def look_at_tables() -> list[Finding]:
                nonlocal tables
                tables = inspection.tables(schema.tables)
                return _table_findings(inspection, tables, schema)

            def look_at_indices() -> Finding:
                found = inspection.indices(list(schema.tables))
                standings.extend(standing(index, found) for index in schema.indices)
                return check_indices(standings, tables, examination.missing)

            findings += _each("tables", look_at_tables)
            findings += _each("indices", look_at_indices)
            findings += _each("time zone", lambda: _time_zone(inspection, tables, schema, settings))
            findings.append(not_seen_from_here())
    except SQLAlchemyError as failure:
        findings.append(no_connection(settings, failure))
        return None
    return standings


def _examine_settings(inspection: Inspection, settings: Settings, examination: Examination) -> None:
    """Of MySQL and MariaDB, what holds whatever the tables are."""
    examination.findings.append(ok("connection", f"Connected to {examination.database} as {inspection.user}."))
    for name, check in {
        "encryption": lambda: check_encryption(inspection.tls_version(), settings.mysql_tls),
        "version": lambda: check_version(inspection.version),
        "max_connections": lambda: check_max_connections(inspection.max_connections),
        "wait_timeout": lambda: check_wait_timeout(inspection.wait_timeout),
        "sql_mode": lambda: check_sql_mode(inspection.sql_mode),
        "clock": lambda: check_clock(*inspection.clock()),
        "replication": lambda: _replication(inspection, settings),
    }.items():
        examination.findings += _each(name, check)


def _time_zone(inspection: Inspection, tables: Tables, schema: Schema, settings: Settings) -> Finding:
    seen = [table for table in tables.engines if "created_at" in schema.tables[table]]
    readable = [table for table in seen if not any(entry.split(" ")[0] == table for entry in tables.denied)]
    newest = {table: inspection.newest(table) for table in readable}
    return check_time_zone(newest, time.time(), settings.mysql_time_zone, inspection.server_zone())


def _replication(inspection: Inspection, settings: Settings) -> Finding:
    try:
        status = inspection.replica_status()
    except SQLAlchemyError as failure:
        if error_code(failure) is None:
            raise
        return replica_not_seen(inspection.version, inspection.user)
    return check_replica(status, settings.catalog_refresh_seconds)


def _table_findings(inspection: Inspection, tables: Tables, schema: Schema) -> list[Finding]:
    grants, there, needed = inspection.grants(), sorted(tables.engines), len(schema.tables)
    findings = check_tables(tables.missing_tables, tables.missing_columns, inspection.database, needed, tables.denied)
    findings.append(check_select(tables.denied, inspection.database, inspection.user))
    findings.append(check_index(grants, there, inspection.database, inspection.user))
    findings.append(check_writing(grants, there, inspection.database, inspection.user, schema.appended))
    findings.append(check_engines(tables.engines, needed, tables.denied))
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
        return info(
            name, f"{unseen} of {len(standings)} indices of phase 1 wait for tables that are not there, or not seen."
        )
    own = f", {len(served)} of them by yours" if served else ""
    return ok(name, f"All {len(standings)} indices of phase 1 are served{own}.")
