"""Made-up logs of many shapes, by which what a build measures is tried (`make quality ARGS=--made-up`).

A log is drawn day by day: people come, and choose among what is there by how good it is, how new it is, and what they
like. All have the same tables and nearly the same mapping, and differ in what `Shape` says.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TABLES = """
CREATE TABLE people (id INTEGER PRIMARY KEY);
CREATE TABLE things (id INTEGER PRIMARY KEY, made TEXT, maker INTEGER, sort TEXT);
CREATE TABLE thing_terms (id INTEGER, term TEXT);
CREATE TABLE person_terms (id INTEGER, term TEXT);
CREATE TABLE did (person INTEGER, thing INTEGER, at TEXT, what TEXT);
"""
_TERMS_OF = "SELECT w.id, w.term FROM thing_terms w JOIN things t ON t.id = w.id WHERE t.sort = '{}'"
_EVENTS_OF = (
    "SELECT d.person AS user_id, d.thing AS item_id, d.at, t.sort FROM did d JOIN things t ON t.id = d.thing "
    "WHERE d.what = '{}'"
)


@dataclass(frozen=True)
class Shape:
    """``people``, ``things``, ``days``: how many. ``each``: what a person takes, in the middle of those who come again;
    ``once``: the share that comes for one thing alone. ``steep``: a thing's rank to the minus so much is its chance.
    ``life``: days after which a thing's chance is 1/e, but for the share ``evergreen``; ``old``: the share of things
    that were there before the first day. ``taste``: how much more, in logarithms, a person takes of the own group;
    ``first``: the same of somebody's first thing; ``first_steep``: as ``steep`` of that. ``terms``, ``profiles``: the
    share of things', and people's, terms that tell their group; None: there are none. ``chain``: how often what is
    taken next is one of five that follow what was taken last."""

    people: int = 2500
    things: int = 800
    days: int = 120
    each: float = 8.0
    once: float = 0.3
    steep: float = 0.9
    life: float = 1e9
    evergreen: float = 0.0
    old: float = 0.5
    taste: float = 2.0
    first: float = 2.0
    first_steep: float | None = None
    groups: int = 8
    terms: float | None = 0.8
    profiles: float | None = None
    chain: float = 0.0
    season: float = 0.0  # how much, in logarithms, a group's day of the week, and week of the quarter, counts
    rises: float = 0.0  # how far a thing's chance wanders in a month, in logarithms
    gap: float = 9.0  # days between two of one person's
    dates_only: bool = False
    untimed: float = 0.0  # the share of what is done that has no time, as a like
    sold: float = 0.0  # the share of what is done that is a sale, which weighs more
    goods: float = 0.0  # the share of things that are goods of a shop, another item type
    bought: float = 0.1  # as likely as the other type's
    makers: int = 100


SHAPES = {
    "tail": Shape(things=3000, steep=1.2, taste=1.5, people=3000),
    "flat": Shape(things=600, steep=0.3, taste=1.0),
    "fleeting": Shape(things=2500, life=2.0, old=0.0, days=60, gap=3.0, steep=0.7),
    "magazine": Shape(things=1500, life=3.0, evergreen=0.08, old=0.3, once=0.7, each=4.0, people=4000, taste=1.2),
    "magazine-and-shop": Shape(things=1500, life=5.0, evergreen=0.1, once=0.5, each=6.0, goods=0.3, bought=0.15),
    "seasons": Shape(things=500, season=1.5, days=360, gap=25.0),
    "rising": Shape(things=800, rises=1.5, days=240, gap=15.0),
    "few": Shape(things=14, each=4.0, taste=1.0, groups=3),
    "few-events": Shape(people=150, things=120, each=4.0),
    "once": Shape(once=0.9, each=5.0, people=6000, things=600),
    "dates": Shape(dates_only=True, rises=0.8, days=200),
    "untimed": Shape(untimed=0.5, life=40.0),
    "sales": Shape(sold=0.2, each=14.0, life=60.0),
    "sessions": Shape(chain=0.6, gap=0.02, once=0.2, each=6.0, people=4000, steep=0.7),
    "board": Shape(things=1200, life=14.0, old=0.1, once=0.6, each=4.0, profiles=0.9, groups=20, first=3.0, taste=3.0),
    "board-of-strangers": Shape(things=1200, life=14.0, old=0.1, once=0.6, each=4.0, profiles=0.05, terms=0.1),
    "listeners": Shape(people=500, things=2500, each=60.0, once=0.05, gap=1.5, taste=3.0, groups=25, days=200),
    "first-hits": Shape(first=0.3, first_steep=1.5, steep=0.6, taste=3.0, rises=0.8, each=12.0),
    "first-news": Shape(first=0.3, life=15.0, evergreen=0.6, old=0.5, taste=3.0, steep=0.6, each=14.0, groups=12),
}


def write(shape: Shape, folder: Path, seed: int = 0) -> tuple[Path, str]:
    """The mapping's file and the database's address."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, shape.groups, shape.things)
    of_person = rng.integers(0, shape.groups, shape.people)
    born = np.where(
        rng.random(shape.things) < shape.old,
        -rng.uniform(1, 300, shape.things),
        rng.uniform(0, shape.days, shape.things),
    )
    sort = np.where(rng.random(shape.things) < shape.goods, "good", "page")
    rows = _taken(shape, rng, group, of_person, born, sort)
    return store(shape, folder, rng, Stored(group, of_person, born.tolist(), sort.tolist(), rows))


class Stored(NamedTuple):
    """``topics``, ``of_people``: (M,) and (P,) what things are about, and people like; ``born``: (M,) days from the
    beginning, None where it is not told; ``sorts``: (M,) item types; ``rows``: of the table ``did``."""

    topics: Any
    of_people: Any
    born: Sequence[float | None]
    sorts: Sequence[str]
    rows: list[tuple[int, int, str | None, str]]


def store(shape: Shape, folder: Path, rng: np.random.Generator, drawn: Stored) -> tuple[Path, str]:
    """The mapping's file and the database's address; ``shape``: what its tables look like."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "world.sqlite"
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(TABLES)
        connection.executemany("INSERT INTO people VALUES (?)", [(one + 1,) for one in range(shape.people)])
        connection.executemany(
            "INSERT INTO things VALUES (?, ?, ?, ?)",
            [
                (
                    one + 1,
                    None if day is None else moment_of(shape, day - 0.001),
                    int(rng.integers(1, shape.makers + 1)),
                    of,
                )
                for one, (day, of) in enumerate(zip(drawn.born, drawn.sorts, strict=True))
            ],
        )
        for table, topics, share in (
            ("thing_terms", drawn.topics, shape.terms),
            ("person_terms", drawn.of_people, shape.profiles),
        ):
            if share is not None:
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", _terms(rng, topics, share, shape.groups))
        connection.executemany("INSERT INTO did VALUES (?, ?, ?, ?)", drawn.rows)
    mapping = folder / "mapping.toml"
    mapping.write_text(_mapping(shape))
    return mapping, f"sqlite:///{database}"


def moment_of(shape: Shape, day: float) -> str:
    """As the tables have it, of so many days from the beginning."""
    return f"{NOW - timedelta(days=shape.days - day):{'%Y-%m-%d' if shape.dates_only else '%Y-%m-%d %H:%M:%S'}}"


def _terms(rng: np.random.Generator, groups: Any, share: float, many: int) -> list[tuple[int, str]]:
    found = []
    for one, own in enumerate(groups.tolist()):
        told = own if rng.random() < share else int(rng.integers(many))
        found += [(one + 1, f"topic {told}"), (one + 1, f"word {int(rng.integers(60))}")]
    return found


def _taken(shape: Shape, rng: np.random.Generator, group: Any, of_person: Any, born: Any, sort: Any) -> list[Any]:
    rank = rng.permutation(shape.things)
    base = -shape.steep * np.log1p(rank) + np.where(sort == "good", np.log(shape.bought), 0.0)
    first = base if shape.first_steep is None else base + (shape.steep - shape.first_steep) * np.log1p(rank)
    fades = rng.random(shape.things) >= shape.evergreen
    following = rng.integers(0, shape.things, (shape.things, 5))
    phase, wander = rng.uniform(0, 1, shape.groups), np.zeros(shape.things)
    wishes = _wishes(shape, rng)
    had: dict[int, list[int]] = {}
    rows, place = [], 0
    for day in range(shape.days):
        wander = wander * 0.985 + rng.normal(0, shape.rises * np.sqrt(1 - 0.985**2), shape.things)
        age = day + 0.5 - born
        turn = np.sin(2 * np.pi * (day / 7 + phase[group])) + np.sin(2 * np.pi * (day / 90 + phase[group]))
        now = wander + shape.season * turn - np.where(fades, np.maximum(age, 0) / shape.life, 0.0)
        chances = {}
        while place < len(wishes) and wishes[place][0] < day + 1:
            when, person = wishes[place]
            place += 1
            mine = had.setdefault(person, [])
            key = (int(of_person[person]), not mine)
            if key not in chances:
                own = np.where(group == key[0], shape.first if key[1] else shape.taste, 0.0)
                weights = np.where(age > 0.5, np.exp((first if key[1] else base) + now + own), 0.0)
                chances[key] = np.cumsum(weights)
            sums = chances[key]
            for _ in range(8):
                thing = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
                if mine and rng.random() < shape.chain:
                    thing = int(following[mine[-1], rng.integers(5)])
                if thing < shape.things and thing not in mine and born[thing] < when:
                    mine.append(thing)
                    chance = rng.random()
                    what = "like" if chance < shape.untimed else "sale" if chance > 1 - shape.sold else "view"
                    at = None if what == "like" else moment_of(shape, when)
                    rows.append((person + 1, thing + 1, at, what))
                    break
    return rows


def _wishes(shape: Shape, rng: np.random.Generator) -> list[tuple[float, int]]:
    found = []
    for person, joined in enumerate(rng.uniform(-0.3 * shape.days, shape.days, shape.people).tolist()):
        many = 1 if rng.random() < shape.once else 1 + int(rng.lognormal(np.log(shape.each), 0.7))
        times = joined + np.concatenate([[0.0], np.cumsum(rng.exponential(shape.gap, many - 1))])
        found += [(float(when), person) for when in times if 0 <= when < shape.days]
    return sorted(found)


def _mapping(shape: Shape) -> str:
    sorts = ("page", "good") if shape.goods else ("page",)
    parts = ['[users]\nquery = "SELECT id FROM people"\n']
    parts += [
        f"[items.{sort}]\nquery = \"SELECT id, made, maker FROM things WHERE sort = '{sort}'\"\n"
        'time = "made"\ncreator = "maker"\n'
        for sort in sorts
    ]
    terms = "\n".join(f'items.{sort} = {{ query = "{_TERMS_OF.format(sort)}" }}' for sort in sorts)
    of_people = 'users = { query = "SELECT id, term FROM person_terms" }\n' if shape.profiles is not None else ""
    parts += [f"[vocabularies.topic]\n{terms}\n{of_people}"]
    for what, more in (("view", 'time = "at"\n'), ("sale", 'time = "at"\nweight = 4\n'), ("like", "")):
        if what == "view" or (what == "like" and shape.untimed) or (what == "sale" and shape.sold):
            parts += [f'[events.{what}]\ntype_column = "sort"\n{more}query = "{_EVENTS_OF.format(what)}"\n']
    return "\n".join(parts)
