"""Checks of the database server, each of a few values that it says of itself."""

import re
from collections.abc import Mapping
from typing import Any

from recommendation_service.doctor.findings import Finding, error, info, ok, warning
from recommendation_service.doctor.privileges import grant

LEAST_MYSQL = (5, 7)
LEAST_MARIADB = (10, 2)
MAX_CONNECTIONS = 200
WAIT_TIMEOUT_SECONDS = 600
CLOCK_DIFFERENCE_SECONDS = 2.0


def is_mariadb(version: str) -> bool:
    return "mariadb" in version.lower()


def version_number(version: str) -> tuple[int, int]:
    """Major and minor; (0, 0) where the text has none."""
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_version(version: str) -> Finding:
    """``version``: as `SELECT VERSION()` says."""
    product, least = ("MariaDB", LEAST_MARIADB) if is_mariadb(version) else ("MySQL", LEAST_MYSQL)
    asked = f"{least[0]}.{least[1]} or newer is asked"
    if version_number(version) < least:
        return error("version", f"{product} {version}: {asked}.", "Upgrade the server before phase 1.")
    return ok("version", f"{product} {version}; {asked}.")


def check_max_connections(value: int) -> Finding:
    if value < MAX_CONNECTIONS:
        return warning(
            "max_connections",
            f"max_connections is {value}; the guide asks for {MAX_CONNECTIONS}, so that your application and this "
            'service together do not see "Too many connections".',
            f"SET GLOBAL max_connections = {MAX_CONNECTIONS};  -- and in the server's configuration",
        )
    return ok("max_connections", f"max_connections is {value}; {MAX_CONNECTIONS} is asked.")


def check_wait_timeout(value: int) -> Finding:
    asked = f"SET GLOBAL wait_timeout = {WAIT_TIMEOUT_SECONDS};  -- and in the server's configuration"
    if value < WAIT_TIMEOUT_SECONDS:
        return warning(
            "wait_timeout",
            f"wait_timeout is {value} s: the server closes idle connections before the pool renews them; "
            f"{WAIT_TIMEOUT_SECONDS} is asked.",
            asked,
        )
    if value > WAIT_TIMEOUT_SECONDS:
        return info(
            "wait_timeout",
            f"wait_timeout is {value} s: connections that a client left behind stay that long; "
            f"the guide asks for {WAIT_TIMEOUT_SECONDS}.",
            asked,
        )
    return ok("wait_timeout", f"wait_timeout is {value} s, as asked.")


def check_clock(server: float, here_before: float, here_after: float) -> Finding:
    """Seconds since the epoch: the server's, and this machine's around the question."""
    # The server answered somewhere between; only what exceeds that is a difference.
    difference = max(server - here_after, here_before - server, 0.0)
    direction = "ahead of" if server > here_after else "behind"
    if difference > CLOCK_DIFFERENCE_SECONDS:
        return warning(
            "clock",
            f"The server's clock is {difference:,.1f} s {direction} this machine's: windows end at the wrong moment, "
            "and new rows can seem to be of the future, which are left out.",
            "Run NTP on both machines.",
        )
    return ok("clock", f"The clocks of the server and this machine differ by less than {CLOCK_DIFFERENCE_SECONDS:g} s.")


def check_sql_mode(mode: str) -> Finding:
    modes = {part for part in mode.upper().split(",") if part}
    if "ORACLE" in modes or "MSSQL" in modes:
        return warning(
            "sql_mode",
            f"sql_mode is {mode}, a dialect that the queries are not written for.",
            "Set the dialect only in the sessions that need it.",
        )
    if not modes & {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "TRADITIONAL"}:
        return info(
            "sql_mode",
            f"sql_mode is {mode or 'empty'}, so not strict: texts are cut and dates zeroed without an error. "
            "The service reads such values as absent and counts them.",
        )
    return ok("sql_mode", f"sql_mode is strict ({mode}); the service works under any that speaks SQL as MySQL does.")


def check_replica(status: Mapping[str, Any] | None, limit_seconds: int) -> Finding:
    """``status``: a row of SHOW REPLICA STATUS, or None where the server replicates from nobody."""
    if status is None:
        return ok("replication", "The server is no replica: what is read is what was written.")
    values = {name.lower().replace("source", "master").replace("replica", "slave"): v for name, v in status.items()}
    lag = values.get("seconds_behind_master")
    if lag is None:
        said = values.get("last_sql_error") or values.get("last_io_error") or "it says no reason"
        return error(
            "replication",
            f"The server is a replica, and replication stands still ({said}): feeds show an old state.",
            "Repair replication, or name the primary in MYSQL_HOST.",
        )
    if int(lag) > limit_seconds:
        return warning(
            "replication",
            f"The server is a replica, {lag} s behind: a new video is in feeds that much later, "
            f"beyond CATALOG_REFRESH_SECONDS ({limit_seconds}).",
            "Give the replica more room, or name the primary in MYSQL_HOST.",
        )
    return ok("replication", f"The server is a replica, {lag} s behind.")


def replica_not_seen(version: str, user: str) -> Finding:
    """Where the user may not ask."""
    is_newer = is_mariadb(version) and version_number(version) >= (10, 5)
    privilege = "SLAVE MONITOR" if is_newer else "REPLICATION CLIENT"
    return info(
        "replication",
        f"Whether the server is a replica, and how far behind, cannot be seen: {user} lacks {privilege}.",
        grant(privilege, "*.*", user),
    )


def not_seen_from_here() -> Finding:
    """What the guide asks of the server and SQL does not tell."""
    return info(
        "not checked",
        "The age of the last backup and the disk of the database server cannot be seen from here.",
        "Before phase 1: a backup younger than 24 hours, and 30 % of the server's disk free.",
    )
