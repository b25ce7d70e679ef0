"""What a server means by an error, by its number (MySQL, MariaDB) or SQLSTATE (PostgreSQL); SQLite has words only."""

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# What a server says that takes no writes any more, or is about to go: the old one of a failover. Its connections answer
# each ping, and new ones reach its successor.
READ_ONLY: frozenset[int | str] = frozenset(
    {
        1290,  # --read-only, --super-read-only; Aurora's reader
        1792,  # transactions are read-only
        1836,  # InnoDB is read-only
        3100,  # group replication refuses the commit
        "25006",  # a standby
    }
)
LEAVING: frozenset[int | str] = READ_ONLY | {
    1047,  # a node of Galera without its cluster
    1053,  # shutdown in progress
    3032,  # offline mode
    3168,  # the server is not available
}
# A standby takes in what its primary did at the cost of whoever reads: another try, elsewhere, goes through.
RECOVERY_CONFLICT = "40001"

# What the user may not do.
DENIED: frozenset[int | str] = frozenset({1044, 1045, 1142, 1143, 1227, 1370, "42501"})
_NO_TABLE = frozenset({1146, "42P01"})
_NO_COLUMN = frozenset({1054, "42703"})


def code_of(error: BaseException | None) -> int | str | None:
    """Of a driver's error; None: it has none, as where the connection was lost."""
    arguments = getattr(error, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    state = getattr(error, "sqlstate", None)
    return str(state) if state else None


def error_code(error: SQLAlchemyError) -> int | str | None:
    """The server's number or SQLSTATE; None: it has none, as where the connection was lost."""
    return code_of(getattr(error, "orig", None))


def has_no_table(error: SQLAlchemyError) -> bool:
    """Whether a table that was asked for is not there."""
    if not isinstance(error, DBAPIError):
        return False
    return error_code(error) in _NO_TABLE or "no such table" in str(error.orig)


def has_no_column(error: SQLAlchemyError) -> bool:
    return error_code(error) in _NO_COLUMN
