"""What the tables of a database are for: people, items, what people do, who made an item, links, terms."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from recommendation_service.onboarding.looking import Column, Table, snake
from recommendation_service.onboarding.references import MAKER, PEOPLE, SECOND, Reference, parts, singular, stem

TITLES = ("title", "name", "headline", "label", "subject", "caption")
PERSONAL = {
    "email",
    "password",
    "nickname",
    "username",
    "first_name",
    "last_name",
    "full_name",
    "birth_year",
    "birthday",
}
TAGS = {"tag", "skill", "category", "genre", "topic", "keyword", "interest", "label", "language", "section", "style"}
MAKERS = MAKER | {
    *("artist", "company", "channel", "publisher", "brand", "organization", "organisation", "store", "shop"),
    *("agent", "agency", "vendor", "merchant", "dealer", "landlord", "employer", "studio", "director", "instructor"),
    *("coach", "chef", "photographer", "designer", "developer", "journalist", "blogger", "speaker", "organizer"),
}
MOST_ITEM_TYPES = 8
# What people write to each other is no term, however often they write the same.
_PROSE = re.compile(r"body|text|message|comment|note|content|description|summary|reason|token|(^|_)ip($|_)", re.I)


@dataclass(frozen=True, slots=True)
class Did:
    """A table of what people did to items. ``header``: the table with the user, and how it is reached."""

    table: str
    user: str
    item: str
    target: str
    header: tuple[str, str] | None = None  # (table, this table's column with its key)


@dataclass(frozen=True, slots=True)
class Between:
    """Who follows whom."""

    table: str
    user: str
    other: str
    to_creators: bool


@dataclass(frozen=True, slots=True)
class Said:
    """Terms: rows of ``table`` by ``owner``; ``term`` is its column, or that of ``tags`` by ``tag``."""

    name: str
    table: str
    owner: str
    term: str
    tags: str | None = None
    tag: str | None = None


@dataclass
class Roles:
    users: str
    items: list[str] = field(default_factory=list)
    creators: str | None = None
    creator: dict[str, str] = field(default_factory=dict)  # column, by item table
    did: list[Did] = field(default_factory=list)
    links: list[Between] = field(default_factory=list)
    terms: dict[str, list[Said]] = field(default_factory=dict)  # by item table, or the users'


def people_of(tables: dict[str, Table]) -> str | None:
    """The table of users, by its name and columns; None: none looks like one."""
    scores = {name: _person(table, tables) for name, table in tables.items() if table.key is not None}
    best = max(scores, key=lambda name: (scores[name], tables[name].rows), default=None)
    return best if best is not None and scores[best] >= 2 else None


def _person(table: Table, tables: dict[str, Table]) -> float:
    own = singular(table.name)
    score = 3.0 if own in PEOPLE else 1.5 if own.rsplit("_", 1)[-1] in PEOPLE else 0.0
    score += 2.0 * bool(PERSONAL & set(map(snake, table.columns)))
    named = sum(f"_{stem(column)}".endswith(f"_{own}") for other in tables.values() for column in other.columns)
    declared = sum(table.name in other.refers.values() for other in tables.values())
    return score + min(1.0, 0.25 * (named + declared)) if score else 0.0


def roles_of(
    tables: dict[str, Table],
    users: str,
    refers: dict[str, list[Reference]],
    chosen_items: list[str],
    chosen_events: list[str],
) -> Roles:
    """``chosen_*``: tables that somebody said are that; none: those that look like it."""
    roles = Roles(users)
    did = [one for name in tables for one in _did(tables[name], users, refers, name in chosen_events)]
    weights = Counter[str]()
    for one in did:
        weights[one.target] += tables[one.table].rows
    is_made = {one.table for item in weights for one in refers[item] if one.table in weights and one.table != item}
    roles.items = (
        chosen_items
        or [
            name
            for name, rows in weights.most_common()
            if rows and name not in is_made and singular(name).rsplit("_", 1)[-1] not in TAGS and tables[name].key
        ][:MOST_ITEM_TYPES]
    )
    roles.did = [one for one in did if one.target in roles.items and (not chosen_events or one.table in chosen_events)]
    _creators(roles, refers, is_made)
    _links(roles, tables, refers)
    for owner in (*roles.items, users):
        joined = [said for name in tables for said in _said(tables[name], owner, roles, tables, refers)]
        roles.terms[owner] = [*joined, *_own_tags(tables[owner], tables, refers)]
    return roles


def title_of(table: Table) -> str | None:
    by_name = {snake(name): name for name, column in table.columns.items() if column.kind == "text"}
    exact = next((by_name[title] for title in TITLES if title in by_name), None)
    return exact or next((by_name[name] for name in by_name for title in TITLES if name.endswith(f"_{title}")), None)


def _did(table: Table, users: str, refers: dict[str, list[Reference]], is_chosen: bool) -> list[Did]:
    if table.name == users or (title_of(table) is not None and not is_chosen):
        return []
    own = refers[table.name]
    by_user = sorted((one for one in own if one.table == users), key=lambda one: _is_second(one.column))
    others = _one_of_each(one for one in own if one.table != users)
    if by_user:
        return [Did(table.name, by_user[0].column, one.column, one.table) for one in others]
    through = [
        (one, header)
        for one in others
        for header in refers[one.table]
        if header.table == users and one.table != table.name
    ]
    return [
        Did(table.name, header.column, other.column, other.table, (one.table, one.column))
        for one, header in through[:1]
        for other in others
        if other is not one
    ]


def _one_of_each(references: Iterable[Reference]) -> list[Reference]:
    """Of each table the column that bears its name, else the first: a row is of one item, also where it names another
    that takes its place."""
    found: dict[str, Reference] = {}
    for one in references:
        if one.table not in found or (stem(one.column) == singular(one.table) != stem(found[one.table].column)):
            found[one.table] = one
    return list(found.values())


def _creators(roles: Roles, refers: dict[str, list[Reference]], is_made: set[str]) -> None:
    for item in roles.items:
        for one in sorted(refers[item], key=lambda one: not parts(one.column) & MAKER):
            names = {_word(one.table), stem(one.column), stem(one.column).rsplit("_", 1)[-1]}
            is_maker = bool(names & MAKERS) or one.table in is_made or (one.table == roles.users)
            is_maker &= not names & TAGS and one.table not in roles.items
            if is_maker and roles.creators in {None, one.table}:
                roles.creators = one.table
                roles.creator.setdefault(item, one.column)


def _links(roles: Roles, tables: dict[str, Table], refers: dict[str, list[Reference]]) -> None:
    for name, table in tables.items():
        to_users = [one for one in refers[name] if one.table == roles.users]
        to_makers = [one for one in refers[name] if one.table == roles.creators]
        if name in roles.items or name == roles.users or title_of(table) or not table.rows:
            continue
        if len(to_users) == 2 and len(refers[name]) == 2:
            first, second = sorted(to_users, key=lambda one: _is_second(one.column))
            roles.links.append(Between(name, first.column, second.column, to_creators=False))
        elif roles.creators != roles.users and len(to_users) == 1 and len(to_makers) == 1 and len(refers[name]) == 2:
            roles.links.append(Between(name, to_users[0].column, to_makers[0].column, to_creators=True))


def _is_second(column: str) -> bool:
    """Whether it is who is followed, of two columns of users."""
    return bool(parts(column) & SECOND)


def _said(
    table: Table, owner: str, roles: Roles, tables: dict[str, Table], refers: dict[str, list[Reference]]
) -> list[Said]:
    """Join tables of terms: with a table of tags, or with a column of texts that come again."""
    own = refers[table.name]
    to_owner = [one for one in own if one.table == owner]
    if len(to_owner) != 1 or table.name in {*roles.items, roles.users} or not table.rows:
        return []
    others = [one for one in own if one is not to_owner[0]]
    if len(others) == 1:
        tags = tables[others[0].table]
        title = title_of(tags)
        is_tags = tags.name not in {*roles.items, roles.users, roles.creators} and title is not None
        if is_tags and not (owner == roles.users and singular(tags.name).rsplit("_", 1)[-1] not in TAGS):
            return [Said(_word(tags.name), table.name, to_owner[0].column, str(title), tags.name, others[0].column)]
        return []
    texts = [column for column in table.columns.values() if _is_term(table, column, to_owner[0].column)]
    if others or len(texts) != 1 or table.rows < 2:
        return []
    return [Said(_word(texts[0].name), table.name, to_owner[0].column, texts[0].name)]


def _own_tags(table: Table, tables: dict[str, Table], refers: dict[str, list[Reference]]) -> list[Said]:
    """Of a table that names a tag of its own, as a category."""
    return [
        Said(_word(one.table), table.name, str(table.key), str(title_of(tables[one.table])), one.table, one.column)
        for one in refers[table.name]
        if _word(one.table) in TAGS and title_of(tables[one.table]) is not None
    ]


def _is_term(table: Table, column: Column, owner: str) -> bool:
    is_text = column.kind == "text" and column.name not in {owner, table.key} and not _PROSE.search(column.name)
    return is_text and 1 < len(column.different) < max(2, len(column.sample)) and column.length <= 60


def _word(name: str) -> str:
    return singular(name).rsplit("_", 1)[-1]
