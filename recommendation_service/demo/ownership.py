"""Which tables are the demo's own, so that loading it can never touch an application's.

Each table that the demo makes bears a mark in its own definition (MySQL: its comment; SQLite: a comment in the text of
its CREATE), with a number that `recs_demo` in the same database has too. So a table that an application made later
under that name, a copy of a demo table elsewhere, or a `recs_demo` that came with a dump, are not taken for the demo's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, func, or_, select, text
from sqlalchemy.schema import CreateTable

from recommendation_service.demo.schema import MYSQL_FAMILY, activity_log, metadata

MARK = "made by recs demo load"
TABLE = "table"

made = Table(
    "recs_demo",
    MetaData(),
    Column("table_name", String(64), primary_key=True),
    Column("mark", String(64), nullable=False),
    Column("last_id", BigInteger),  # of the rows that the demo wrote; null while it writes them
    mysql_charset="utf8mb4",
    mariadb_charset="utf8mb4",
)

_KINDS_MYSQL = """
SELECT table_name, table_type, table_comment FROM information_schema.tables WHERE table_schema = DATABASE()
"""
_KINDS_SQLITE = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')"

# (what it is called, the table that it is on)
_TRIGGERS_MYSQL = """
SELECT trigger_name, event_object_table FROM information_schema.triggers WHERE event_object_schema = DATABASE()
"""
_TRIGGERS_SQLITE = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"

# (the table that refers, the table that is referred to)
_REFERENCES_MYSQL = """
SELECT CASE WHEN table_schema = DATABASE() THEN table_name ELSE CONCAT(table_schema, '.', table_name) END,
    referenced_table_name
FROM information_schema.key_column_usage WHERE referenced_table_schema = DATABASE()
"""
_REFERENCES_SQLITE = """
SELECT tables.name, keys."table" FROM sqlite_master AS tables, pragma_foreign_key_list(tables.name) AS keys
WHERE tables.type = 'table'
"""


@dataclass(frozen=True, slots=True)
class Existing:
    """Something in the database that bears the name of one of the demo's tables."""

    name: str
    kind: str  # TABLE, or what else: view, sequence
    own: bool
    last_id: int | None


def existing_tables(connection: Connection) -> list[Existing]:
    """What there is under the names of the demo's tables, in their order."""
    kinds = _KINDS_MYSQL if connection.dialect.name in MYSQL_FAMILY else _KINDS_SQLITE
    spelled = _spelling(connection)
    found = {spelled(name): (kind, definition) for name, kind, definition in _rows(connection, kinds)}
    records = _records(connection) if found.get(made.name, ("", ""))[0] in {TABLE, "BASE TABLE"} else {}
    existing = []
    for table in metadata.sorted_tables:
        if table.name in found:
            kind, definition = found[table.name]
            kind = TABLE if kind == "BASE TABLE" else kind.lower()
            mark, last_id = records.get(table.name, (None, None))
            own = kind == TABLE and mark is not None and mark in (definition or "")
            existing.append(Existing(table.name, kind, own, last_id))
    return existing


def create_marked(connection: Connection, tables: Sequence[Table]) -> None:
    """Make them, with the mark. The record comes first: a table without one would never be the demo's again."""
    mark = f"{MARK} {uuid4().hex[:16]}"
    made.create(connection, checkfirst=True)
    names = [table.name for table in tables]
    connection.execute(made.delete().where(made.c.table_name.in_(names)))
    for name in names:
        connection.execute(made.insert().values(table_name=name, mark=mark))
    connection.commit()
    for table in tables:
        statement = str(CreateTable(table).compile(connection)).rstrip()
        if connection.dialect.name in MYSQL_FAMILY:
            statement += f" COMMENT='{mark}'"
        else:
            statement = f"{statement.removesuffix(')')}/* {mark} */)"
        connection.exec_driver_sql(statement)
    connection.commit()


def drop_own(connection: Connection, existing: Sequence[Existing]) -> None:
    names = [each.name for each in existing if each.own]
    metadata.drop_all(connection, tables=[metadata.tables[name] for name in names], checkfirst=False)
    if names:
        connection.execute(made.delete().where(made.c.table_name.in_(names)))
    connection.commit()


def note_written(connection: Connection, table: Table) -> None:
    """From now on, rows with larger ids are somebody else's."""
    last = select(func.coalesce(func.max(table.c.id), 0)).scalar_subquery()
    connection.execute(made.update().where(made.c.table_name == table.name).values(last_id=last))


def foreign_parts(connection: Connection, existing: Sequence[Existing]) -> list[str]:
    """What others have added to the demo's tables, in words: it would be lost or broken if these were dropped."""
    mysql, spelled = connection.dialect.name in MYSQL_FAMILY, _spelling(connection)
    names = {each.name for each in existing if each.own}
    found = [
        f"{each.name} holds {count:,} row{'s' if count > 1 else ''} that the demo did not write"
        for each in existing
        if each.own and (count := _rows_of_others(connection, each))
    ]
    for trigger, on in _rows(connection, _TRIGGERS_MYSQL if mysql else _TRIGGERS_SQLITE):
        if spelled(on) in names:
            found.append(f"{on} has the trigger {trigger}")
    for referring, referred in _rows(connection, _REFERENCES_MYSQL if mysql else _REFERENCES_SQLITE):
        if spelled(referred) in names:
            found.append(f"{referring} has a foreign key to {referred}")
    return found


def _rows_of_others(connection: Connection, each: Existing) -> int:
    if each.last_id is None:  # the load was interrupted: all that is there is a part of it
        return 0
    table = metadata.tables[each.name]
    count = select(func.count()).select_from(table).where(table.c.id > each.last_id)
    if table is activity_log:  # the service's own rows: what feeds of the demo showed, and what people did with it
        count = count.where(or_(table.c.url.is_(None), table.c.url.not_like("/api/search/%")))
    return int(connection.execute(count).scalar_one())


def _records(connection: Connection) -> dict[str, tuple[str, int | None]]:
    return {
        name: (mark, last_id)
        for name, mark, last_id in connection.execute(select(made.c.table_name, made.c.mark, made.c.last_id))
        if mark.startswith(MARK)
    }


def _rows(connection: Connection, query: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in connection.execute(text(query))]


def _spelling(connection: Connection) -> Callable[[str], str]:
    """How names are compared: SQLite, and MySQL on some systems, take `Users` for `users`."""
    if (
        connection.dialect.name in MYSQL_FAMILY
        and not connection.execute(text("SELECT @@lower_case_table_names")).scalar()
    ):
        return str
    return str.lower
