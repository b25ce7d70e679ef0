"""What the three examples share: people with tastes who choose among items, and the command that fills a database.

Everything is drawn from one seed; a run with the same seed, people and moment gives the same rows.
"""

import argparse
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import MetaData, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from recommendation_service.core.config import with_driver

Rows = dict[str, list[dict[str, Any]]]

DAY = 86400.0
FIRST = (
    "Ada Ana Bao Bea Caro Chidi Dana Emre Esi Fela Gil Hana Ines Iva Joel Kai Lena Lin Lucas Mara Mei Milan Nadia Noor "
    "Olga Omar Paz Pia Quinn Rafa Rosa Sami Sara Tadeo Tove Uma Vera Wen Yara Zoe"
).split()
LAST = (
    "Abel Acosta Banda Berg Castro Chen Costa Duarte Eriksen Falk Ferrer Gomez Haas Ibarra Jansen Kato Keller Lima "
    "Lopez Marin Mensah Moreno Novak Okafor Olsen Park Quispe Ramos Rojas Sato Silva Tanaka Torres Vargas Weber Yilmaz"
).split()


@dataclass(frozen=True)
class World:
    """A generator, the moment that is now, and how many people there are."""

    rng: np.random.Generator
    now: datetime
    people: int

    def name(self) -> str:
        return f"{self.rng.choice(FIRST)} {self.rng.choice(LAST)}"

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=self.rng.bytes(16), version=4))

    def ago(self, days: float) -> datetime:
        """In whole seconds."""
        return (self.now - timedelta(days=days)).replace(microsecond=0, tzinfo=None)

    def tastes(self, count: int, topics: int, sharpness: float = 0.25) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(count, topics), each row a share of 1; a small ``sharpness`` gives one or two topics nearly all."""
        return self.rng.dirichlet(np.full(topics, sharpness), count)

    def some(self, names: Sequence[str], weights: Any, most: int) -> list[str]:
        """One to ``most`` different ones, the heavier the likelier."""
        count = min(int(self.rng.integers(1, most + 1)), int(np.count_nonzero(weights)))
        return [str(name) for name in self.rng.choice(names, count, replace=False, p=weights / weights.sum())]

    def choices(
        self, tastes: Any, topics: Any, born_days_ago: Any, each: float, *, fading_days: float = 30.0, fits: Any = None
    ) -> list[tuple[int, int, float]]:
        """(person, item, days ago), the earliest first: what fits a taste, what many take, what is new then.

        ``tastes``: (people, t); ``topics``: (items, t); ``each``: how many a person chooses, in the middle; ``fits``:
        (people, items) whether the person can use it at all, as by its language.
        """
        items = len(topics)
        popularity = 1.0 / (1.0 + self.rng.permutation(items)) ** 0.8
        affinity = np.exp(6.0 * tastes @ topics.T / topics.max())
        found = []
        for person in range(len(tastes)):
            joined = self.rng.uniform(5, 150)
            many = min(int(self.rng.lognormal(np.log(each), 0.8)), items // 2)
            for when in np.sort(self.rng.uniform(0.02, joined, many))[::-1]:
                age = born_days_ago - when
                weights = np.where(age > 0, popularity * affinity[person] * (0.15 + np.exp(-age / fading_days)), 0.0)
                if fits is not None:
                    weights = weights * fits[person]
                if weights.sum() > 0:
                    item = int(self.rng.choice(items, p=weights / weights.sum()))
                    found.append((person, item, float(when)))
        return sorted(dict.fromkeys(found), key=lambda choice: -choice[2])


def run(name: str, metadata: MetaData, make: Callable[[World], Rows], arguments: Sequence[str] | None = None) -> int:
    """Fill a database with an example; tables that are there are left alone."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=f"Fill a database with {name}.")
    parser.add_argument("url", help="SQLAlchemy address of an empty database, such as sqlite:////tmp/try.sqlite")
    parser.add_argument("--people", type=int, default=300, help="how many (300)")
    parser.add_argument("--seed", type=int, default=7, help="the same one gives the same rows (7)")
    parser.add_argument("--now", help="the moment that is now, in ISO 8601; for tests")
    given = parser.parse_args(arguments)
    now = datetime.fromisoformat(given.now) if given.now else datetime.now(UTC)
    try:
        engine = create_engine(with_driver(make_url(given.url)), poolclass=NullPool)
        there = set(inspect(engine).get_table_names()) & set(metadata.tables)
        if there:
            sys.stderr.write(
                f"The database has tables of these names: {', '.join(sorted(there))}. Name an empty one.\n"
            )
            return 1
        rows = make(World(np.random.default_rng(given.seed), now, given.people))
        with engine.begin() as connection:
            metadata.create_all(connection)
            for table in metadata.sorted_tables:
                connection.execute(table.insert(), rows[table.name])
    except SQLAlchemyError as error:
        sys.stderr.write(
            f"The database cannot be filled: {str(getattr(error, 'orig', None) or error).splitlines()[0]}\n"
        )
        return 1
    sys.stdout.write("".join(f"{len(rows[table.name]):>8,}  {table.name}\n" for table in metadata.sorted_tables))
    return 0
