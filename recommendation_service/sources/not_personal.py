"""The users whose feeds are never personal: those in a table of the operator's, NOT_PERSONAL_TABLE. It fails closed.

Where the table cannot be read any more, whoever was last read of it stays listed: each build keeps them in DATA_DIR,
for itself and for whoever builds after a restart. Where it could never be read, nobody's feed is personal. To have
nobody listed, the table is emptied, not dropped.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import TableClause, column, func, select, table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.sources.kept import keep, read_kept
from recommendation_service.sources.lists import LineWarnings, Unreadable, numbered_lines

KEPT_NAME = "not_personal.kept"  # in DATA_DIR
LARGEST_ID = 2**63 - 1
_WHAT = "the table of who is not personal"
_USER = "user_id"

Int64 = npt.NDArray[np.int64]


class NotPersonal(msgspec.Struct, frozen=True):
    """As a build finds it."""

    users: Int64 | None = None  # ascending; None: no table is named, or it could never be read
    held: str | None = None  # why what was read last holds, or nobody's feed is personal
    warnings: tuple[str, ...] = ()

    @property
    def listed(self) -> Int64:
        return self.users if self.users is not None else np.zeros(0, np.int64)


def read_not_personal(connection: Connection, settings: Settings) -> NotPersonal:
    """The table, or what was last read of it; a good one is kept. Raises SourceError where it cannot be kept, or what
    was kept is damaged."""
    name, path = settings.not_personal_table, settings.data_dir / KEPT_NAME
    if name is None:
        return NotPersonal()
    kept = read_kept(path, _WHAT, lambda content: _parse(path, content))
    try:
        rows: Sequence[object] = connection.execute(select(column(_USER)).select_from(_table(name))).scalars().all()
    except SQLAlchemyError as error:
        return _lost(name, error, kept)
    numbers = [number for row in rows if (number := _number(row)) is not None]
    users = np.unique(np.array(numbers, np.int64))
    warnings = []
    if len(numbers) < len(rows):
        warnings.append(f"NOT_PERSONAL_TABLE {name}: {len(rows) - len(numbers)} rows have no number of a user")
    if kept is not None and len(kept) and not len(users):
        warnings.append(f"NOT_PERSONAL_TABLE {name}: nobody is in it any more; there were {len(kept)}")
    if kept is None or not np.array_equal(kept, users):
        keep(path, _WHAT, name, map(str, users.tolist()))
    return NotPersonal(users, None, tuple(warnings))


def not_personal_stamp(connection: Connection, settings: Settings) -> object:
    """Different whenever the list may be another; cheap beside reading it."""
    name = settings.not_personal_table
    if name is None:
        return None
    try:
        counted = select(func.count(), func.sum(func.crc32(column(_USER)))).select_from(_table(name))
        return name, tuple(connection.execute(counted).one())
    except SQLAlchemyError as error:
        return name, _reason(error)


def _lost(name: str, error: SQLAlchemyError, kept: Int64 | None) -> NotPersonal:
    if kept is None:
        reason = (
            f"NOT_PERSONAL_TABLE {name} cannot be read, and never was ({_reason(error)}): until it can, nobody's feed "
            "is personal, and nothing is learned"
        )
    else:
        reason = (
            f"NOT_PERSONAL_TABLE {name} cannot be read ({_reason(error)}): the {len(kept)} users who were last read of "
            "it stay listed"
        )
    return NotPersonal(kept, reason, (reason,))


def _table(name: str) -> TableClause:
    schema, _, local = name.rpartition(".")
    return table(local, column(_USER), schema=schema or None)


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 0 < value <= LARGEST_ID else None


def _parse(path: Path, content: bytes) -> Int64:
    warnings = LineWarnings(path)
    lines = [line for _, line in numbered_lines(content, warnings)]
    try:
        return np.array(lines, np.int64)
    except (ValueError, OverflowError):
        raise Unreadable(f"{path} is damaged") from None


def _reason(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return " ".join(str(part) for part in getattr(original, "args", ())) or type(error).__name__
