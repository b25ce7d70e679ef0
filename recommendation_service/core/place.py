"""Which database a DATA_DIR and a space in Redis belong to.

What a folder holds is of one database: its catalog, what its people have seen, their events. Pointed at another one,
the service would show people of the one videos of the other, and write their events there. So the folder says whose it
is (``place.json``), and whoever opens it compares.

A database is known by its name and by a row that the service puts into ``recs_schema``: a random text, which goes with
every dump, replica and failover, however the server is called. Where there is no such row (nothing was recorded yet,
or the user may only read), the name alone is compared. What cannot be asked cannot be disproved: with the database away
the folder's last catalog is served.
"""

import contextlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import words_of
from recommendation_service.core.database_errors import has_no_table
from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import locked, make_folder, write_whole
from recommendation_service.core.postgresql_address import POSTGRESQL, is_postgresql

log = structlog.get_logger(__name__)

FILE = "place.json"
LOCK = "place.lock"
SPACE_DIGITS = 12  # of the identity, in keys of Redis
EARLIER_SPACE = ""  # of releases whose keys named no database

SCHEMA_TABLE = """\
CREATE TABLE IF NOT EXISTS recs_schema (
  version INT NOT NULL PRIMARY KEY,
  what VARCHAR(255) NOT NULL,
  applied_at VARCHAR(19) NOT NULL
)"""
INNODB = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
_IDENTITY = re.compile(r"identity ([0-9a-f]{32})")


class WrongPlace(SourceError):
    """The folder belongs to another database than the settings name."""


@dataclass(frozen=True)
class Owner:
    database: str  # its name
    identity: str | None = None  # what its own row says; None: it had none yet
    spaces: tuple[str, ...] = ()  # of Redis, that events of this folder may still be in

    def __str__(self) -> str:
        return self.database + (f" ({self.identity[:SPACE_DIGITS]})" if self.identity else "")


def database_name(url: URL) -> str:
    """The same however the server is called; of SQLite the file's. PostgreSQL takes the user's name where none is
    given."""
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").name
    return url.database or (url.username if is_postgresql(url) else None) or ""


def owner_of(folder: Path) -> Owner | None:
    """Whose the folder is; None: nobody's yet. Makes nothing. Raises WrongPlace where that cannot be read."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        return Owner(str(content["database"]), content["identity"], tuple(content["spaces"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WrongPlace(f"Whose the folder {folder} is cannot be read: {error.strerror} ({path}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WrongPlace(f"{path} is damaged: `recs data adopt` says anew whose the folder is.") from error


def check(settings: Settings, engine: Engine | None = None) -> Owner:
    """Compare the folder with the database of the settings; where it is nobody's, or lacks the identity, note it.

    ``engine``: to ask the database; None: only names are compared, and nothing is noted. Raises WrongPlace.
    """
    owner = owner_of(settings.data_dir)
    check_only(settings, owner, known=False)  # by the names first, without a connection
    if engine is None:
        return owner or Owner(database_name(settings.source_url))
    known, identity = identity_of(engine)
    check_only(settings, owner, known, identity)
    if owner is not None and (identity is None or owner.identity == identity):
        return owner
    return _note(settings, Owner(database_name(settings.source_url), identity))


def check_only(settings: Settings, owner: Owner | None, known: bool, identity: str | None = None) -> None:
    """Compare, and note nothing. ``known``: whether the database was asked. Raises WrongPlace."""
    found = Owner(database_name(settings.source_url), identity)
    if owner is None:
        return
    differs = known and identity is not None and owner.identity is not None and owner.identity != identity
    if owner.database != found.database or differs:
        raise _wrong(settings.data_dir, owner, found)


def problem_of(settings: Settings) -> str | None:
    """What a look at the names says; None: nothing is wrong. Makes nothing."""
    try:
        check_only(settings, owner_of(settings.data_dir), known=False)
    except WrongPlace as error:
        return str(error)
    return None


def adopt(settings: Settings, engine: Engine) -> Owner:
    """Say that the folder is the settings' database's from now on. Raises OSError."""
    known, identity = identity_of(engine)
    spaces: tuple[str, ...] = ()
    with contextlib.suppress(WrongPlace):
        before = owner_of(settings.data_dir)
        spaces = (*before.spaces, space_of(settings, before)) if before is not None else ()
    owner = Owner(database_name(settings.source_url), identity if known else None)
    owner = replace(owner, spaces=tuple(space for space in dict.fromkeys(spaces) if space != space_of(settings, owner)))
    make_folder(settings.data_dir)
    with locked(settings.data_dir / LOCK):
        write_whole(settings.data_dir / FILE, json.dumps(asdict(owner)), synced=True)
    return owner


def space_of(settings: Settings, owner: Owner | None) -> str:
    """The part of every key in Redis that says whose it is."""
    if settings.redis_space is not None:
        return settings.redis_space
    owner = owner or Owner(database_name(settings.source_url))
    name = re.sub(r"[^0-9A-Za-z_.-]", "_", owner.database)
    return f"{name}-{owner.identity[:SPACE_DIGITS]}" if owner.identity else name


def identity_of(engine: Engine) -> tuple[bool, str | None]:
    """(whether the database could be asked, what its row says or None where it has none)."""
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT what FROM recs_schema WHERE version = 0")).scalar_one_or_none()
    except SQLAlchemyError as error:
        return has_no_table(error), None
    match = _IDENTITY.fullmatch(str(found))
    return True, match[1] if match else None


def identity_statement(dialect: str) -> str:
    """Puts the row there where there is none. The text is made here: a server's own would differ on its replicas."""
    return schema_row(dialect, 0, f"identity {secrets.token_hex(16)}")


def schema_row(dialect: str, version: int, what: str) -> str:
    """Puts a row into recs_schema where it has none of that version; needs no right to update."""
    insert, unless, now = {
        "sqlite": ("INSERT OR IGNORE", "", "datetime('now')"),
        POSTGRESQL: (
            "INSERT",
            "\n  ON CONFLICT (version) DO NOTHING",
            "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
        ),
    }.get(dialect, ("INSERT IGNORE", "", "CAST(UTC_TIMESTAMP() AS CHAR)"))
    return f"{insert} INTO recs_schema (version, what, applied_at)\n  VALUES ({version}, '{what}', {now}){unless}"


def schema_table(dialect: str) -> str:
    """Makes recs_schema."""
    return SCHEMA_TABLE + ("" if dialect in {"sqlite", POSTGRESQL} else INNODB)


def make_identity(engine: Engine) -> None:
    """Put the row there where it lacks and privileges allow."""
    known, identity = identity_of(engine)
    if not known or identity is not None:
        return
    dialect = engine.dialect.name
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(schema_table(dialect))
            connection.exec_driver_sql(identity_statement(dialect))
    except SQLAlchemyError as error:
        log.debug("the database is known by its name only", reason=words_of(error))


def _wrong(folder: Path, owner: Owner, found: Owner) -> WrongPlace:
    return WrongPlace(
        f"The folder {folder} (DATA_DIR) belongs to the database {owner}, and the settings name {found}: give this "
        "database a folder of its own, or set the database back. If it is the same one, renamed, moved or restored, "
        "run `recs data adopt`; `recs data empty` removes what the folder holds."
    )


def _note(settings: Settings, found: Owner) -> Owner:
    """Unless another process did; a disk that is full or may not be written to is no reason not to serve."""
    folder = settings.data_dir
    try:
        make_folder(folder)
        with locked(folder / LOCK):
            owner = owner_of(folder)
            if owner is None:
                is_used = any((folder / name).exists() for name in ("events", "catalogs", "seen"))
                owner = replace(found, spaces=(EARLIER_SPACE,) if is_used else ())
            elif owner.database == found.database and owner.identity is None:
                earlier = space_of(settings, owner)
                owner = replace(owner, identity=found.identity)
                if earlier != space_of(settings, owner):
                    owner = replace(owner, spaces=(*owner.spaces, earlier))
            elif owner != replace(found, spaces=owner.spaces):
                raise _wrong(folder, owner, found)
            write_whole(folder / FILE, json.dumps(asdict(owner)), synced=True)
    except OSError as error:
        log.warning("whose the folder is cannot be noted", folder=str(folder), reason=error.strerror)
        return found
    return owner
