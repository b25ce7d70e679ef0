"""A mapping's text, from what the tables of a database are for."""

import json
import re
from collections.abc import Callable, Iterable

from recommendation_service.onboarding.looking import Table
from recommendation_service.onboarding.references import Reference, singular
from recommendation_service.onboarding.roles import Between, Did, Roles, Said, title_of
from recommendation_service.onboarding.wording import (
    CAME,
    DID,
    categories_of,
    conditions,
    event_name,
    fields_of,
    groups_of,
    lists_of,
    numbers_of,
    says,
    scale_of,
    time_of,
    value_of,
)

Quote = Callable[[str], str]


class Writer:
    """``quote``: a name as the database wants it in SQL."""

    def __init__(
        self, tables: dict[str, Table], roles: Roles, refers: dict[str, list[Reference]], quote: Quote
    ) -> None:
        self._tables = tables
        self._roles = roles
        self._refers = refers
        self._quote = quote
        self._names = {item: event_name(item) for item in roles.items}
        self._shared = self._may_have_to_fit()
        self.untold: list[str] = []

    def text(self) -> str:
        """The whole file; ``untold`` then has what could not be told."""
        blocks = [*self._head(), self._users(), *map(self._items, self._roles.items)]
        blocks += [*self._vocabularies(), *self._numbers(), *self._events(), *map(self._link, self._roles.links)]
        blocks += map(self._filter, self._shared)
        return "\n".join(blocks)

    # Ids.

    def _form(self, table: str) -> str:
        found = self._tables[table]
        return "text" if found.columns[str(found.key)].kind == "text" else "integer"

    @property
    def _common(self) -> str:
        forms = {self._form(table) for table in (self._roles.users, *self._roles.items)}
        return forms.pop() if len(forms) == 1 else "integer"

    def _head(self) -> Iterable[str]:
        lines = ["# Written by `recs source init`, from what the tables look like: read it once."]
        if self._common == "text":
            lines.append('ids = "text"')
        yield "\n".join(lines) + "\n"
        creators = self._roles.creators
        if creators == self._roles.users:
            yield "[creators]\nare_users = true\n"
        elif creators is not None and self._form(creators) != self._common:
            yield f'[creators]\nids = "{self._form(creators)}"\n'

    def _own_form(self, table: str) -> list[str]:
        return [f'ids = "{self._form(table)}"'] if self._form(table) != self._common else []

    # Sections.

    def _users(self) -> str:
        table = self._tables[self._roles.users]
        time = time_of(table, CAME)
        taken = {str(table.key)}
        columns = [str(table.key), time, *lists_of(table), *categories_of(table, taken)]
        columns += [column for column in self._item_numbers() if column in numbers_of(table, taken)]
        columns += self._shared
        where = " AND ".join(
            condition.format(self._quote(column))
            for condition, column in conditions(table)
            if condition == "{} IS NULL"
        )
        return _section(
            "users",
            [*self._own_form(table.name), f"query = {_string(self._select(table, columns, where))}", *_id(table)],
            {"time": time},
        )

    def _items(self, name: str) -> str:
        table = self._tables[name]
        time, creator = time_of(table, CAME), self._roles.creator.get(name)
        fields = fields_of(table, {str(table.key), *(one.column for one in self._refers[name])})
        columns = [str(table.key), *fields, creator, time, *self._described_by(name)]
        columns += [column for column, types in self._shared.items() if self._names[name] in types]
        where = " AND ".join(condition.format(self._quote(column)) for condition, column in conditions(table))
        if time is None:
            self.untold.append(f"items.{self._names[name]}: when an item came; no column of {name} says it")
        lines = [*self._own_form(name), f"query = {_string(self._select(table, columns, where))}", *_id(table)]
        return _section(
            f"items.{self._names[name]}",
            lines,
            {"time": time, "creator": creator},
            [f"fields = {json.dumps(fields, ensure_ascii=False)}"] if fields else [],
        )

    def _described_by(self, item: str) -> list[str]:
        """Columns of an item's table that become terms."""
        table = self._tables[item]
        taken = {str(table.key), *(one.column for one in self._refers[item])}
        return [*lists_of(table), *categories_of(table, taken), *numbers_of(table, taken)]

    def _vocabularies(self) -> Iterable[str]:
        users = self._tables[self._roles.users]
        of_users: dict[str, str] = {
            said.name: f"users = {{ query = {_string(self._terms(said))} }}" for said in self._roles.terms[users.name]
        }
        of_users |= {name: f'users = {{ column = {_string(name)}, form = "json" }}' for name in lists_of(users)}
        of_users |= {name: f"users = {{ column = {_string(name)} }}" for name in self._shared_categories()}
        found: dict[str, list[str]] = {}
        for item in self._roles.items:
            table, own = self._tables[item], self._names[item]
            for said in self._roles.terms[item]:
                found.setdefault(said.name, []).append(f"items.{own} = {{ query = {_string(self._terms(said))} }}")
            for column in lists_of(table):
                line = f'items.{own} = {{ column = {_string(column)}, form = "json" }}'
                found.setdefault(singular(column), []).append(line)
            for column in categories_of(table, {str(table.key)}):
                found.setdefault(column, []).append(f"items.{own} = {{ column = {_string(column)} }}")
        for item in self._roles.items:
            title = title_of(self._tables[item])
            if title is not None and not any(
                f"items.{self._names[item]} " in line for lines in found.values() for line in lines
            ):
                line = f'items.{self._names[item]} = {{ column = {_string(title)}, form = "words" }}'
                found.setdefault("word", []).append(line)
        for name, lines in found.items():
            users_line = of_users.get(name) or of_users.get(f"{name}s")
            yield _section(
                f"vocabularies.{_name(name)}", [*dict.fromkeys(lines), *([users_line] if users_line else [])]
            )

    def _shared_categories(self) -> list[str]:
        """Columns of the users' table that have values of an item's column of that name."""
        users = self._tables[self._roles.users]
        return [
            name
            for name in categories_of(users, {str(users.key)})
            if any(
                name in categories_of(self._tables[item], {str(self._tables[item].key)})
                and users.columns[name].different & self._tables[item].columns[name].different
                for item in self._roles.items
            )
        ]

    def _may_have_to_fit(self) -> dict[str, list[str]]:
        """By the name of a column that people and items have, with few values and some in common, the item types."""
        users, found = self._tables[self._roles.users], dict[str, list[str]]()
        for item in self._roles.items:
            table = self._tables[item]
            for name in groups_of(users, {str(users.key)}):
                is_of_both = name in groups_of(table, {str(table.key)})
                if is_of_both and users.columns[name].different & table.columns[name].different:
                    found.setdefault(name, []).append(self._names[item])
        return found

    def _filter(self, column: str) -> str:
        """Not in force: only people know whether it has to fit, or is a taste."""
        types = self._shared[column]
        lines = [
            f"# If an item's {column} must be the person's, take the # away (other rules: `recs source schema`).",
            f"# [filters.{_name(column)}]",
            '# rule = "equal"',
            f"# column = {_string(column)}",
            f"# user = {_string(column)}  # without this line it holds only where a request asks for it",
            *([f"# types = {json.dumps(types)}"] if len(types) < len(self._roles.items) else []),
        ]
        return "\n".join(lines) + "\n"

    def _terms(self, said: Said) -> str:
        """Joined with the table of tags where there is one."""
        quote = self._quote
        if said.tags is None:
            return f"SELECT {quote(said.owner)} AS id, {quote(said.term)} AS term FROM {quote(said.table)}"
        return (
            f"SELECT j.{quote(said.owner)} AS id, t.{quote(said.term)} AS term FROM {quote(said.table)} j "
            f"JOIN {quote(said.tags)} t ON t.{quote(str(self._tables[said.tags].key))} = j.{quote(str(said.tag))}"
        )

    def _item_numbers(self) -> dict[str, list[str]]:
        """By column, the item types that have it."""
        found: dict[str, list[str]] = {}
        for item in self._roles.items:
            table = self._tables[item]
            for column in numbers_of(table, {str(table.key), *(one.column for one in self._refers[item])}):
                found.setdefault(column, []).append(self._names[item])
        return found

    def _numbers(self) -> Iterable[str]:
        users = self._tables[self._roles.users]
        of_users = numbers_of(users, {str(users.key)})
        for column, types in self._item_numbers().items():
            lines = [f"items.{name} = {_string(column)}" for name in types]
            lines += [f"users = {_string(column)}"] if column in of_users else []
            yield _section(f"numbers.{_name(column)}", lines)

    def _events(self) -> Iterable[str]:
        several = len(self._roles.items) > 1
        per_table = [one.table for one in self._roles.did]
        for one in self._roles.did:
            name = event_name(one.table)
            if per_table.count(one.table) > 1:
                name = f"{name}_{self._names[one.target]}"
            yield self._event(name, one, several=several)

    def _event(self, name: str, one: Did, *, several: bool) -> str:
        table, quote = self._tables[one.table], self._quote
        time, value = time_of(table, DID), value_of(table, {one.user, one.item})
        weight, means = says(name)
        marks: list[str] = []
        if one.header is None:
            scale = scale_of(table.columns[value]) if value else None
            said = quote(value) if value else ""
            where = f" WHERE {said} > 0" if value and scale is None and table.nulls(value) else ""
            if value and scale is not None:
                marks = [f"marks = [{scale[0]:g}, {scale[1]}]"]
            columns = [quote(one.user), quote(one.item), *([said] if value else []), *([quote(time)] if time else [])]
            query = f"SELECT {', '.join(columns)} FROM {quote(one.table)}{where}"
        else:
            header = self._tables[one.header[0]]
            time = time_of(header, DID)
            columns = [f"h.{quote(one.user)}", f"e.{quote(one.item)}", *([f"h.{quote(time)}"] if time else [])]
            value = None
            query = (
                f"SELECT {', '.join(columns)} FROM {quote(one.table)} e "
                f"JOIN {quote(header.name)} h ON h.{quote(str(header.key))} = e.{quote(one.header[1])}"
            )
        if time is None:
            self.untold.append(f"events.{name}: when it happened; no column of {one.table} says it")
        lines = [f"query = {_string(query)}"]
        lines += [f'type = "{self._names[one.target]}"'] if several else []
        lines += [f"user = {_string(one.user)}"] if one.user != "user_id" else []
        lines += [f"item = {_string(one.item)}"] if one.item != "item_id" else []
        numbers = [*marks, *([f"weight = {weight:g}"] if weight != 1 else [])]
        if means and means != name:
            numbers.append(f'means = "{means}"')
        return _section(f"events.{_name(name)}", lines, {"time": time, "value": value}, numbers)

    def _link(self, link: Between) -> str:
        quote, table = self._quote, self._tables[link.table]
        time = time_of(table, DID)
        columns = [link.user, link.other, *([time] if time else [])]
        where = " WHERE {} = 'accepted'".format(quote("status")) if _is_accepted(table) else ""
        query = f"SELECT {', '.join(map(quote, columns))} FROM {quote(link.table)}{where}"
        lines = [f"query = {_string(query)}", f"user = {_string(link.user)}", f"other = {_string(link.other)}"]
        if link.to_creators:
            lines.append('to = "creators"')
        elif re.search(r"friend|connection|contact|match", link.table, re.I):
            lines.append("mutual = true")
        return _section(f"links.{_name(event_name(link.table))}", lines, {"time": time})

    def _select(self, table: Table, columns: Iterable[str | None], where: str) -> str:
        names = dict.fromkeys(column for column in columns if column is not None)
        condition = f" WHERE {where}" if where else ""
        return f"SELECT {', '.join(map(self._quote, names))} FROM {self._quote(table.name)}{condition}"


def _is_accepted(table: Table) -> bool:
    status = table.columns.get("status")
    return status is not None and "accepted" in status.different


def _section(
    name: str, lines: Iterable[str], named: dict[str, str | None] | None = None, more: Iterable[str] = ()
) -> str:
    """``named``: columns by key; those that are None are left out."""
    of_columns = [f"{key} = {_string(column)}" for key, column in (named or {}).items() if column is not None]
    return "\n".join([f"[{name}]", *lines, *of_columns, *more]) + "\n"


def _id(table: Table) -> list[str]:
    return [f"id = {_string(str(table.key))}"] if table.key != "id" else []


def _string(value: str) -> str:
    """As TOML, whose basic texts are JSON's; a backslash and quotes within names too."""
    return json.dumps(value, ensure_ascii=False)


def _name(word: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]", "_", word)
    return cleaned if cleaned[:1].isalpha() else f"x{cleaned}"
