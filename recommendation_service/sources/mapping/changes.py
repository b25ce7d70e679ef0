"""Whether a catalog would be another: a row of sums over each query, cheap beside reading it.

Of users, items and terms every value counts; of events and links their number and latest time, and where they bear no
time who did what to whom.
"""

from datetime import UTC, datetime, tzinfo

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.errors import SourceError
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.names import quoting, server_words
from recommendation_service.sources.mapping.results import parameters

# Of a value, 32 bits; where it is not MySQL's function, which SQLite gets from core/database.py. Of its very letters:
# by a collation that holds "A" and "a" for equal, their hash is one.
_HASHES = {"postgresql": '(CAST(hashtext(CAST({} AS text) COLLATE "C") AS bigint) + 2147483648)'}


def fingerprint(mapping: Mapping, connection: Connection, now: datetime | None = None, zone: tzinfo = UTC) -> str:
    """Differs whenever something changed that a catalog is made of. Raises SourceError."""
    now = now or datetime.now(UTC)
    return repr((mapping.digest, [_look(mapping, connection, section, now, zone) for section in mapping.statements]))


def _look(mapping: Mapping, connection: Connection, section: str, now: datetime, zone: tzinfo) -> tuple[str, ...]:
    """(section, rows, latest time, sums)."""
    statement = mapping.statements[section]
    given = parameters(statement, mapping.days_of(section), now, zone)
    look = mapping.look_at(section)
    try:
        quote = quoting(connection, statement.text, given)
        columns = look.columns
        if columns is None:
            empty = connection.execute(text(f"SELECT q.* FROM (\n{statement.text}\n) q LIMIT 0"), given)
            columns = tuple(str(name) for name in empty.keys())  # noqa: SIM118 - a result is no dict
        row = f"q.{quote(look.row)}"
        hashed = _HASHES.get(connection.dialect.name, "CRC32({})")
        sums = [
            _sum(hashed.format(f"q.{quote(column)}"), hashed.format(row), place) for place, column in enumerate(columns)
        ]
        looked = ["COUNT(*)", f"MAX(q.{quote(look.time)})" if look.time else "NULL", *sums]
        sql = f"SELECT {', '.join(looked)} FROM (\n{statement.text}\n) q"
        return section, *map(str, connection.execute(text(sql), given).one())
    except SQLAlchemyError as error:
        raise SourceError(f"{section}: {server_words(error)}") from error


def _sum(column: str, row: str, place: int) -> str:
    """Of hashes of a column's values, each with the row that it stands in: two that change places are a change. The
    remainders keep the sum of a thousand million rows within 63 bits."""
    return f"SUM((COALESCE({column}, 1) + {place}) % 1000003 * (COALESCE({row}, 1) % 8999 + 1))"
