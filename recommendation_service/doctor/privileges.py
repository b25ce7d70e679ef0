"""What the user may do, by `SHOW GRANTS`, which everyone may ask for oneself."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from recommendation_service.doctor.findings import Finding, error, info, ok

_GRANT = re.compile(r"^GRANT (?P<privileges>.+?) ON (?:TABLE )?(?P<scope>\S+\.\S+) TO ", re.I)
_ROLE = re.compile(r"^GRANT (?P<roles>[^.]+?) TO ", re.I)
# Of the privileges that a reader has no use for, those that change rows or tables.
WRITING = ("INSERT", "UPDATE", "DELETE", "DROP", "ALTER", "CREATE", "TRIGGER")


@dataclass(frozen=True, slots=True)
class Grants:
    """The user's grants, line by line as the server shows them."""

    lines: tuple[str, ...]

    def allows(self, privilege: str, database: str, table: str) -> bool | None:
        """Whether ``privilege`` is held on a whole table; None where a role, which is not looked into, may give it."""
        for line in self.lines:
            match = _GRANT.match(line)
            if match is None or not _covers(match["scope"], database, table):
                continue
            held = {part.strip().upper() for part in match["privileges"].split(",")}
            if privilege in held or held & {"ALL", "ALL PRIVILEGES"}:
                return True
        return None if self.has_roles else False

    @property
    def has_roles(self) -> bool:
        return any(_GRANT.match(line) is None and _ROLE.match(line) is not None for line in self.lines)


def _covers(scope: str, database: str, table: str) -> bool:
    granted_database, _, granted_table = scope.replace("`", "").replace('"', "").partition(".")
    if granted_table not in {"*", table}:
        return False
    # In a grant on a whole database, _ and % are wildcards unless escaped; in one on a table they are letters.
    if granted_database == "*":
        return True
    if granted_table == table:
        return granted_database == database
    pattern = "".join(
        re.escape(part[1])
        if part.startswith("\\") and len(part) == 2
        else {"_": ".", "%": ".*"}.get(part, re.escape(part))
        for part in re.findall(r"\\.|.", granted_database)
    )
    return re.fullmatch(pattern, database) is not None


def grant(privilege: str, scope: str, user: str) -> str:
    """The statement that gives it, for an administrator; ``user``: as CURRENT_USER() says, name@host."""
    name, _, host = user.rpartition("@")
    return f"GRANT {privilege} ON {scope} TO '{name}'@'{host}';"


def check_select(denied: Sequence[str], database: str, user: str) -> Finding:
    """``denied``: tables, or `table (column, …)` where only columns are withheld."""
    if not denied:
        return ok("privilege SELECT", f"{user} may read every table that the service reads.")
    tables = sorted({entry.split(" ")[0] for entry in denied})
    return error(
        "privilege SELECT",
        f"{user} lacks SELECT on {', '.join(denied)}: no catalog can be built.",
        "\n".join(grant("SELECT", f"`{database}`.`{table}`", user) for table in tables),
    )


def check_index(grants: Grants, tables: Sequence[str], database: str, user: str) -> Finding:
    """Of use only while phase 1's scripts run; the service itself needs SELECT."""
    name = "privilege INDEX"
    held = {table: grants.allows("INDEX", database, table) for table in tables}
    lacking = sorted(table for table, allowed in held.items() if allowed is False)
    unknown = sorted(table for table, allowed in held.items() if allowed is None)
    if lacking:
        where = "these tables" if len(lacking) == len(tables) else ", ".join(lacking)
        return info(
            name,
            f"{user} lacks INDEX on {where}: it can serve, but cannot run phase 1's scripts.",
            "Run them as a user who has it, or: " + grant("INDEX", f"`{database}`.*", user),
        )
    if unknown:
        return info(
            name, f"{user} has a role: whether it gives INDEX, which phase 1's scripts need, is not looked into."
        )
    return ok(name, f"{user} may create and drop indices, as phase 1's scripts do.")


def check_writing(
    grants: Grants, tables: Sequence[str], database: str, user: str, appended: Collection[str] = ()
) -> Finding:
    """The service reads; a user who may do more is a risk, not a fault. ``appended``: tables that events are
    appended to."""
    held = [
        privilege
        for privilege in WRITING
        if any(
            grants.allows(privilege, database, table) is True
            for table in tables
            if privilege != "INSERT" or table not in appended
        )
    ]
    if not held:
        return ok("privileges beyond reading", f"{user} cannot change your rows or tables.")
    only = f"SELECT and INSERT on {', '.join(sorted(appended))} only" if appended else "SELECT only"
    return info(
        "privileges beyond reading",
        f"{user} may also {', '.join(held)} here, which the service has no need of.",
        f"A user of its own, with {only}, cannot disturb your application.",
    )
