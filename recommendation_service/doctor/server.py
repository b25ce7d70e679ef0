"""Checks of the database server, each of a few values that it says of itself."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from recommendation_service.core.local_time import zone_of
from recommendation_service.doctor.findings import Finding, error, info, ok, warning
from recommendation_service.doctor.privileges import grant

LEAST_MYSQL = (5, 7)
LEAST_MARIADB = (10, 2)
MAX_CONNECTIONS = 200
WAIT_TIMEOUT_SECONDS = 600
CLOCK_DIFFERENCE_SECONDS = 2.0
# Times that are further ahead are no matter of clocks, and those that are further than this none of zones.
SHIFT_SECONDS = 300.0
MOST_ZONE_SECONDS = 14.5 * 3600


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


def check_time_zone(newest: Mapping[str, Sequence[str]], now: float, zone: str, server_zone: str) -> Finding:
    """``newest``: of each table, when its last rows were created; ``now``: seconds since 1970."""
    name = "time zone"
    ahead: dict[str, float] = {}
    for table, times in newest.items():
        seconds = [second for text in times if (second := _second(text, zone)) is not None]
        # What is further ahead than any zone is a date in the future by itself.
        here = [second - now for second in seconds if second - now <= MOST_ZONE_SECONDS]
        if here:
            ahead[table] = max(here)
    by = f"by MYSQL_TIME_ZONE ({zone})"
    if not ahead:
        return ok(name, f"There are no rows yet whose times could look shifted {by}.")
    late = {table: seconds for table, seconds in ahead.items() if seconds > SHIFT_SECONDS}
    latest = max(ahead, key=lambda table: ahead[table])
    if late:
        return warning(
            name,
            f"The newest rows of {', '.join(sorted(late))} are up to {ahead[latest] / 3600:.1f} h in the future {by}: "
            "their times seem to be of a zone further east, and new ones are of the future until then.",
            f"Set MYSQL_TIME_ZONE to the zone of the application, which Laravel calls app.timezone, such as "
            f"{_offset(zone, ahead[latest])}; the server's own is {server_zone}.",
        )
    hours = -ahead[latest] / 3600
    shown = f"The newest row, of {latest}, is {max(hours, 0.0):.1f} h old {by}; the server's own zone is {server_zone}."
    if 0.75 <= hours <= MOST_ZONE_SECONDS / 3600:
        return info(name, f"{shown} If your application is in use now, its times are of a zone further west.")
    return ok(name, shown)


def _second(text: str, zone: str) -> float | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=zone_of(zone)).timestamp()
    except (ValueError, OverflowError):
        return None


def _offset(zone: str, ahead: float) -> str:
    """The zone that makes the newest row just past: in half hours."""
    here = datetime.now(zone_of(zone)).utcoffset()
    minutes = math.ceil((ahead + (here.total_seconds() if here else 0.0)) / 1800) * 30
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def check_encryption(tls_version: str, setting: str) -> Finding:
    """``tls_version``: empty where the connection is not encrypted."""
    name = "encryption"
    if not tls_version:
        return info(
            name,
            f"The connection is not encrypted (MYSQL_TLS={setting}): right over a socket or on one machine.",
            "Elsewhere set up the server's certificate, and MYSQL_TLS=verified.",
        )
    if setting == "verified":
        return ok(name, f"The connection is encrypted ({tls_version}), and the server's certificate was checked.")
    return ok(name, f"The connection is encrypted ({tls_version}); the certificate is checked with MYSQL_TLS=verified.")


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
