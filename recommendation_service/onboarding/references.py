"""Which columns hold the keys of which tables: by foreign keys, by names, and by whether the values are there."""

import re
from dataclasses import dataclass

from sqlalchemy import bindparam, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, ProgrammingError

from recommendation_service.core.database import attempt
from recommendation_service.onboarding.looking import Column, Table, snake

MOST_VALUES = 50
ENOUGH = 0.8  # share of the values that must be there: rows of what was deleted may be left
CONCLUSIVE = 5  # different texts that are all keys of one table are no accident

_SUFFIX = re.compile(r"_?(id|uuid|guid|slug|key|ref|sku)$", re.I)
_IN_IE = re.compile(r"(^|_)(movie|cookie|calorie|smoothie|hoodie|selfie|brownie|rookie|zombie|genie)s$")
# What a person is called in a table about two of them, or about what they made.
PEOPLE = {
    *(
        "user",
        "member",
        "account",
        "person",
        "people",
        "customer",
        "reader",
        "listener",
        "candidate",
        "player",
        "student",
    ),
    *(
        "subscriber",
        "viewer",
        "client",
        "visitor",
        "profile",
        "buyer",
        "patient",
        "applicant",
        "shopper",
        "learner",
        "guest",
    ),
}
# Of two people, who did it, and whom it was done to.
FIRST = {"follower", "from", "one", "sender", "giver", "inviter"}
SECOND = {
    "friend",
    "followed",
    "following",
    "followee",
    "to",
    "other",
    "receiver",
    "recipient",
    "target",
    "invitee",
    "invited",
}
MAKER = {
    "author",
    "creator",
    "owner",
    "seller",
    "writer",
    "host",
    "teacher",
    "uploader",
    "maker",
    "posted_by",
    "created_by",
}


@dataclass(frozen=True, slots=True)
class Reference:
    column: str
    table: str


def singular(word: str) -> str:
    """Of an English plural, in small letters and with underscores."""
    word = snake(word)
    if word.endswith("people"):
        return word.removesuffix("people") + "person"
    if _IN_IE.search(word):
        return word[:-1]
    if word.endswith(("series", "species")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(ss|ch|sh|x|z)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "news")) else word


def stem(column: str) -> str:
    """What a column is of: user of user_id, userId, user."""
    return _SUFFIX.sub("", snake(column))


def parts(column: str) -> set[str]:
    """Words of its stem that stand together: sender, member and both of sender_member_id."""
    words = stem(column).split("_")
    return {"_".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)}


def _said_of(column: str) -> list[str]:
    """What a column may be of by its name, the whole name first. Before it may stand a role: from_account_id is of an
    account. Without a suffix that says that it is a key, only people are (sent_to_member): no unit_price is a price.
    """
    own = stem(column)
    words = own.split("_")
    shorter = ["_".join(words[place:]) for place in range(1, len(words))]
    is_key = own != snake(column)
    return [own, *(word for word in shorter if is_key or word in PEOPLE)]


def references(tables: dict[str, Table], people: str, connection: Connection) -> dict[str, list[Reference]]:
    """By table. ``people``: the table of users, for columns that name them by what they do."""
    return {name: _of(table, tables, people, connection) for name, table in tables.items()}


def _of(table: Table, tables: dict[str, Table], people: str, connection: Connection) -> list[Reference]:
    found = []
    for column in table.columns.values():
        if column.name in table.refers and table.refers[column.name] in tables:
            found.append(Reference(column.name, table.refers[column.name]))
        elif column.name != table.key and column.kind in {"integer", "text"} and column.sample:
            target = _guess(table, column, tables, people, connection)
            if target is not None:
                found.append(Reference(column.name, target))
    return found


def _guess(table: Table, column: Column, tables: dict[str, Table], people: str, connection: Connection) -> str | None:
    targets = [
        other
        for other in tables.values()
        if other.key is not None and other.rows and other.columns[other.key].kind == column.kind and other is not table
    ]
    said = _said_of(column.name)
    named: dict[str, Table] = {}
    for own in said:
        named |= {other.name: other for other in targets if singular(other.name) == own}
        named |= {other.name: other for other in targets if singular(other.name).endswith(f"_{own}")}
    if said[0] in FIRST | SECOND | MAKER or PEOPLE & set(said):
        named |= {other.name: other for other in targets if other.name == people}
    for other in named.values():
        if _share(column, other, connection) >= ENOUGH:
            return other.name
    if column.kind == "text" and column.length >= 8 and len(column.different) >= CONCLUSIVE:
        for other in targets:
            if _share(column, other, connection) == 1.0:
                return other.name
    return None


def _share(column: Column, other: Table, connection: Connection) -> float:
    """Of the column's different values, those that are keys of the other table."""
    values = list(dict.fromkeys(column.sample))[:MOST_VALUES]
    quote = connection.dialect.identifier_preparer.quote
    statement = text(f"SELECT COUNT(*) FROM {quote(other.name)} WHERE {quote(str(other.key))} IN :values")
    statement = statement.bindparams(bindparam("values", expanding=True))
    try:
        with attempt(connection):
            return int(connection.execute(statement, {"values": values}).scalar_one()) / len(values)
    except (DataError, ProgrammingError):  # to PostgreSQL these texts are no keys of that table, as they are no UUIDs
        return 0.0
