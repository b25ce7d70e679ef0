"""A first mapping of a database that nobody described: found out by looking, and tried before it is handed on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.database import address, begin_reading
from recommendation_service.core.errors import SourceError
from recommendation_service.onboarding.looking import Table, look
from recommendation_service.onboarding.references import references
from recommendation_service.onboarding.roles import people_of, roles_of, title_of
from recommendation_service.onboarding.writing import Writer
from recommendation_service.sources.mapping.names import server_words
from recommendation_service.sources.mapping.problems import did_you_mean


@dataclass(frozen=True)
class Chosen:
    """What somebody said of tables; empty: found out."""

    users: str | None = None
    items: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass
class Initial:
    """``text``: the mapping; None: something that it needs is not to be found. ``untold``: what could not be told."""

    text: str | None
    found: dict[str, str] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)


def first_mapping(engine: Engine, chosen: Chosen, progress: Callable[[str], None] = lambda _: None) -> Initial:
    """Raises SourceError where the database cannot be read, or has no table of a chosen name."""
    try:
        with engine.connect() as connection:
            begin_reading(connection)
            tables, unreadable = look(connection, progress)
            _known(chosen, tables)
            users = chosen.users or people_of(tables)
            if users is None or tables[users].key is None:
                return Initial(None, {}, [_no_users(tables)])
            progress("Finding out what refers to what")
            refers = references(tables, users, connection)
            roles = roles_of(tables, users, refers, list(chosen.items), list(chosen.events))
            untold = []
            if not roles.items:
                untold.append(_no_items(tables, users))
            if not roles.did:
                untold.append(_no_events(tables, users))
            if untold:
                return Initial(None, {"users": users}, untold)
            writer = Writer(tables, roles, refers, connection.dialect.identifier_preparer.quote)
            text = writer.text()
    except SQLAlchemyError as failure:
        raise SourceError(f"{address(engine.url)}: {server_words(failure)}") from failure
    named = {
        "users": users,
        "items": ", ".join(roles.items),
        "events": ", ".join(dict.fromkeys(one.table for one in roles.did)),
        "creators": roles.creators or "",
        "links": ", ".join(link.table for link in roles.links),
        "terms": ", ".join(dict.fromkeys(said.table for own in roles.terms.values() for said in own)),
    }
    used = {users, *roles.items, *(one.table for one in roles.did), *(link.table for link in roles.links)}
    used |= {roles.creators or "", *(one.header[0] for one in roles.did if one.header)}
    used |= {name for own in roles.terms.values() for said in own for name in (said.table, said.tags or "")}
    left = [name for name, table in tables.items() if name not in used and table.rows]
    if unreadable:
        writer.untold.append(f"what is in {', '.join(unreadable)}: this user may not read them")
    if left:
        writer.untold.append(f"what these tables are for: {', '.join(left)}")
    return Initial(text, {key: value for key, value in named.items() if value}, writer.untold)


def _known(chosen: Chosen, tables: dict[str, Table]) -> None:
    named = [*([chosen.users] if chosen.users else []), *chosen.items, *chosen.events]
    unknown = [name for name in named if name not in tables]
    if unknown:
        said = "; ".join(
            f"there is no table {name}: {did_you_mean(name, tables, what='tables are')}" for name in unknown
        )
        raise SourceError(said)


def _no_users(tables: dict[str, Table]) -> str:
    if not tables:
        return "anything: the database has no tables, or its user may see none"
    keyed = [name for name, table in tables.items() if table.key is not None]
    return f"which table has the people, a row each: say it by --users, one of {', '.join(keyed) or 'none with a key'}"


def _no_items(tables: dict[str, Table], users: str) -> str:
    titled = [name for name, table in tables.items() if table.key and name != users and title_of(table)]
    return f"which tables have what may be shown: say it by --items, one of {', '.join(titled) or 'none with a title'}"


def _no_events(tables: dict[str, Table], users: str) -> str:
    others = [name for name, table in tables.items() if name != users and table.rows]
    return f"which table says who did what, by user and item: say it by --events, one of {', '.join(others) or 'none'}"
