"""A server of PostgreSQL: what it says of itself, as far as every user may ask, and what that means for the service."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_unpooled_engine, words_of
from recommendation_service.core.replicas import ReplicaProblem, lag_seconds
from recommendation_service.doctor.findings import Finding, error, info, ok, warning
from recommendation_service.doctor.server import check_clock

LEAST_VERSION = 15
# What a build's transaction must have at least, between one query and the next and in all.
LEAST_IDLE_SECONDS, LEAST_TRANSACTION_SECONDS = 30, 600
OWN_TABLES = {"recs_events": ("SELECT", "INSERT", "DELETE"), "recs_schema": ("SELECT",)}

# What the words mean for the one who set it up: a client is told no code of a connection that failed.
_CONNECTING = (
    ("password authentication failed", "Check user and password of DATABASE_URL, or the line in ~/.pgpass."),
    ("no password supplied", "Give DATABASE_URL a password, or ~/.pgpass (mode 600) a line for this server."),
    ("no pg_hba.conf entry", "Let this host and user in: a line in the server's pg_hba.conf, and pg_reload_conf()."),
    ("too many", "Raise max_connections or the user's limit, or find who holds them: pg_stat_activity."),
    ("remaining connection slots", "Raise max_connections, or find who holds them: pg_stat_activity."),
    ("certificate", "sslrootcert in DATABASE_URL has to name the authority of the server's certificate, and the host"
     " has to be one that it bears."),
    ("SSL", "sslmode in DATABASE_URL says whether TLS is insisted on: docs/mapping.md#postgresql."),
    ("does not exist", "Check the database and the user that DATABASE_URL names."),
    ("refused", "Check host and port of DATABASE_URL, that the server runs, and that no firewall is between."),
)  # fmt: skip

_STANDING = """SELECT version() AS version, current_setting('server_version_num') AS number, current_user AS name,
  current_database() AS database, current_schema() AS schema, current_setting('server_encoding') AS encoding,
  current_setting('max_connections') AS most, current_setting('superuser_reserved_connections') AS reserved,
  (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL) AS taken,
  (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'recs') AS ours,
  (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_user,
  (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,
  pg_is_in_recovery() AS is_standby,
  current_setting('idle_in_transaction_session_timeout') AS idle,
  current_setting('transaction_timeout', true) AS transaction"""
# A query may name a schema, which is not known here.
_TABLE = """WITH found AS (SELECT COALESCE(to_regclass(:quoted), (SELECT oid FROM pg_class
    WHERE relname = :name AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY oid LIMIT 1)) AS id)
SELECT has_any_column_privilege(id, 'SELECT') AS is_read, relkind IN ('r', 'p') AND reltuples < 0 AS is_never_seen,
  EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = id AND atttypid = CAST('timestamp' AS regtype)
    AND attnum > 0 AND NOT attisdropped) AS is_zoneless
FROM found JOIN pg_class ON pg_class.oid = id"""


@dataclass
class PostgreSqlTable:
    name: str
    is_read: bool
    is_never_seen: bool  # by ANALYZE: the server plans by guesses
    is_zoneless: bool  # has times that say no zone


def no_connection(address: str, failure: SQLAlchemyError) -> Finding:
    words = words_of(failure)
    advice = next((advice for part, advice in _CONNECTING if part in words), "Check DATABASE_URL.")
    return error("connection", f"No connection to {address}: {words}.", advice)


def check_server(connection: Connection, settings: Settings) -> list[Finding]:
    """Settings of the server and of the user, and how it stands. Raises SQLAlchemyError."""
    seen = connection.execute(text(_STANDING)).one()
    before = time.time()
    clock = float(connection.execute(text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())
    return [
        ok("connection", f"Connected to {seen.database} as {seen.name}."),
        check_encryption(connection),
        check_version(seen.version, int(seen.number)),
        check_connections(seen, settings.mysql_pool_size),
        check_time_limits(str(seen.idle), seen.transaction),
        check_standing(is_standby=seen.is_standby),
        check_encoding(seen.encoding),
        check_schema(seen.schema),
        check_clock(clock, before, time.time()),
    ]


def check_encryption(connection: Connection) -> Finding:
    """Of this end: the server itself may only know of the pooler before it."""
    driver: Any = connection.connection.driver_connection
    mode = connection.engine.url.query.get("sslmode", "prefer")
    if not driver.pgconn.ssl_in_use:
        return info(
            "encryption",
            f"The connection is not encrypted (sslmode={mode}): right on one machine.",
            "Elsewhere set up the server's certificate, and ?sslmode=verify-full&sslrootcert=FILE in DATABASE_URL.",
        )
    if mode == "verify-full":
        return ok("encryption", "The connection is encrypted, and the server's certificate was checked.")
    return ok("encryption", f"The connection is encrypted (sslmode={mode}); verify-full checks the certificate, too.")


def check_version(version: str, number: int) -> Finding:
    """``number``: server_version_num, 150018 of 15.18."""
    shown = " ".join(version.split()[:2])
    asked = f"{LEAST_VERSION} or newer is asked"
    if number // 10_000 < LEAST_VERSION:
        return error("version", f"{shown}: {asked}.", "Upgrade the server.")
    return ok("version", f"{shown}; {asked}.")


def check_connections(seen: Any, wanted: int) -> Finding:
    """Whether the service's budget fits beside what everybody else has now."""
    name, free = "max_connections", int(seen.most) - int(seen.reserved) - (int(seen.taken) - int(seen.ours))
    limits = [("the server", free, f"raise max_connections ({seen.most})")]
    if (seen.of_user or -1) >= 0:
        limits.append(("the user", seen.of_user, f"ALTER ROLE {seen.name} CONNECTION LIMIT {wanted};"))
    if (seen.of_database or -1) >= 0:
        limits.append(("the database", seen.of_database, f"ALTER DATABASE {seen.database} CONNECTION LIMIT …;"))
    who, least, advice = min(limits, key=lambda limit: limit[1])
    if least < wanted:
        return warning(
            name,
            f"Of {who} {max(least, 0)} connections are left for the service, which takes up to {wanted} "
            "(MYSQL_POOL_SIZE).",
            f"Lower MYSQL_POOL_SIZE, or {advice}" if not advice.startswith("ALTER") else advice,
        )
    return ok(name, f"{least} connections are left for the service, which takes up to {wanted} (MYSQL_POOL_SIZE).")


def check_time_limits(idle: str, transaction: str | None) -> Finding:
    """``transaction``: None before PostgreSQL 17. A statement's limit the service sets by itself."""
    short = [
        f"{name} is {value}"
        for name, value, least in (
            ("idle_in_transaction_session_timeout", idle, LEAST_IDLE_SECONDS),
            ("transaction_timeout", transaction, LEAST_TRANSACTION_SECONDS),
        )
        if value is not None and 0 < _seconds(value) < least
    ]
    if short:
        return warning(
            "time limits",
            f"{' and '.join(short)}: a build is one transaction, and may be ended in it.",
            f"ALTER ROLE … SET idle_in_transaction_session_timeout = '{LEAST_IDLE_SECONDS}s'; likewise "
            f"transaction_timeout, '{LEAST_TRANSACTION_SECONDS}s'.",
        )
    return ok("time limits", "No limit of the server is shorter than a build's transaction may take.")


def check_standing(*, is_standby: bool) -> Finding:
    if is_standby:
        return error(
            "replication",
            "This is a standby, which takes no writes: events wait in the log.",
            "Name the primary in DATABASE_URL, and the standby in MYSQL_REPLICA_URLS; or both hosts with "
            "target_session_attrs=read-write.",
        )
    return ok("replication", "This is a primary.")


def check_encoding(encoding: str) -> Finding:
    if encoding != "UTF8":
        return warning(
            "encoding",
            f"The database's encoding is {encoding}: an event with a letter that it lacks becomes a dead letter.",
            "A database has its encoding from its beginning: dump it, and restore it into one of ENCODING 'UTF8'.",
        )
    return ok("encoding", "The database's encoding is UTF8.")


def check_schema(schema: str | None) -> Finding:
    if schema is None:
        return error(
            "search_path",
            "No schema of this user's search_path is there, so no table is found.",
            "ALTER ROLE … SET search_path = …; or name schemas in the mapping's queries.",
        )
    return ok("search_path", f"Tables are looked for, and made, in the schema {schema}.")


def look_at_table(connection: Connection, name: str) -> PostgreSqlTable | None:
    """None where there is none: it may be a query's own name for a part of it, and a query that misses it says so."""
    quoted = connection.dialect.identifier_preparer.quote(name)
    row = connection.execute(text(_TABLE), {"name": name, "quoted": quoted}).one_or_none()
    return PostgreSqlTable(name, row.is_read, row.is_never_seen, row.is_zoneless) if row is not None else None


def check_tables(tables: Sequence[PostgreSqlTable], user: str, zone: str, server_zone: str) -> list[Finding]:
    """``tables``: that the mapping's queries read. ``zone``: in which times that say none are read."""
    findings = []
    if denied := [table.name for table in tables if not table.is_read]:
        findings.append(
            error(
                "privileges",
                f"This user may not read {_listed(denied)}.",
                "\n".join(f"GRANT SELECT ON {name} TO {user};" for name in denied),
            )
        )
    if never := [table.name for table in tables if table.is_never_seen]:
        findings.append(
            warning(
                "statistics",
                f"Nobody ever looked at {_listed(never)}: the server plans queries by guesses.",
                "\n".join(f"ANALYZE {name};" for name in never),
            )
        )
    if server_zone.upper() not in {"UTC", "ETC/UTC", "GMT", zone.upper()} and any(t.is_zoneless for t in tables):
        shown = _listed([table.name for table in tables if table.is_zoneless])
        findings.append(
            info(
                "time zone",
                f"Times of {shown} say no zone, and are read in {zone} (MYSQL_TIME_ZONE); the server's own is "
                f"{server_zone}, in which it writes now().",
                f"If your application relies on that, set MYSQL_TIME_ZONE={server_zone}.",
            )
        )
    return findings or [ok("tables", f"The {len(tables)} tables that are read may be read, and were looked at.")]


def check_writing(connection: Connection, user: str) -> Finding:
    """Of the service's own tables, and what it takes to make them."""
    lacking, missing = [], []
    for table, privileges in OWN_TABLES.items():
        wanted = ", ".join(f"has_table_privilege(to_regclass('{table}'), '{name}')" for name in privileges)
        has = connection.execute(text(f"SELECT {wanted}")).one()
        if None in has:
            missing.append(table)
        elif not all(has):
            absent = ", ".join(name for name, given in zip(privileges, has, strict=True) if not given)
            lacking.append(f"GRANT {absent} ON {table} TO {user};")
    if lacking:
        return error("own tables", "This user may not write events: they wait in the log.", "\n".join(lacking))
    if not missing:
        return ok("own tables", f"{_listed(list(OWN_TABLES))} are there, and may be written to.")
    schema = connection.execute(text("SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')")).one()
    if schema[1]:
        return info("own tables", f"{_listed(missing)} will be made by the flusher, or by `recs migrate`.")
    return warning(
        "own tables",
        f"There is no {_listed(missing)}, and this user may not make it: events wait in the log.",
        f"Run `recs migrate` as another user, or GRANT CREATE ON SCHEMA {schema[0]} TO {user};",
    )


def check_standbys(settings: Settings) -> list[Finding]:
    """Those that MYSQL_REPLICA_URLS names."""
    return [_standby(settings, url, f"standby {url.host}:{url.port or 5432}") for url in settings.replica_urls]


def _standby(settings: Settings, url: Any, name: str) -> Finding:
    engine = make_unpooled_engine(settings, url, read_timeout_seconds=settings.mysql_connect_timeout_seconds)
    try:
        lag = lag_seconds(engine)
        feedback = _feedback(engine)
    except ReplicaProblem as problem:
        return warning(name, f"It is not read from: {problem}.", "Take it out of MYSQL_REPLICA_URLS, or set it up.")
    except SQLAlchemyError as failure:
        return warning(name, f"It is not read from: {words_of(failure)}.", "Check its address, and that it runs.")
    if lag is None or lag > settings.mysql_max_replica_lag_seconds:
        behind = "replication is stopped" if lag is None else f"it is {lag:,.0f} s behind"
        return warning(name, f"It is not read from: {behind}.", "Look at its log, and at pg_stat_wal_receiver.")
    if not feedback:
        return info(
            name,
            f"It is {lag:,.0f} s behind. hot_standby_feedback is off: a VACUUM on the primary may end a build there.",
            "hot_standby_feedback = on in its configuration.",
        )
    return ok(name, f"It is {lag:,.0f} s behind.")


def _feedback(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(text("SELECT current_setting('hot_standby_feedback') = 'on'")).scalar_one())


def _seconds(value: str) -> float:
    """Of a setting as SHOW writes it: 0, 90s, 5min, 500ms, 2h, 1d."""
    digits = value.rstrip("abcdefghijklmnopqrstuvwxyz")
    scale = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}.get(value[len(digits) :], 0.001)
    return float(digits) * scale


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
