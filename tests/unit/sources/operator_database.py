"""The operator's tables with rows of a test's own, on SQLite or MariaDB, and the catalogs built from them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import BuiltCatalog, build_catalog
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo import schema
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.policies.policy import load_policy

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ZERO_DATE = "0000-00-00 00:00:00"
VIEW = "#video #view #AU"
POLICY = load_policy()

_WRITER_SESSION = "SET SESSION sql_mode = '', time_zone = '+00:00'"  # zero dates are stored, times are UTC


def ago(*, days: float = 0, minutes: float = 0, now: datetime = NOW) -> str:
    """A time before now as the tables hold it; negative amounts are in the future."""
    return (now - timedelta(days=days, minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S")


class OperatorDatabase:
    """Tables that a test fills. A row is eligible, and recent, unless the test says otherwise."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.writer = create_engine(url, poolclass=NullPool)
        else:
            self.writer = create_engine(url, pool_size=1, connect_args={"init_command": _WRITER_SESSION})
        schema.metadata.create_all(self.writer)
        with self.writer.begin() as connection:
            for table in schema.metadata.sorted_tables:
                connection.execute(table.delete())
        self._numbers = itertools.count(1)

    def add(self, table: str, **values: Any) -> int:
        """Insert one row, the rest of its columns as `_defaults` has them; returns its id."""
        row = self._defaults(table, values) | values
        with self.writer.begin() as connection:
            result = connection.execute(schema.metadata.tables[table].insert().values(row))
            assert result.inserted_primary_key is not None
            return int(result.inserted_primary_key[0])

    def change(self, table: str, row: int, **values: Any) -> None:
        rows = schema.metadata.tables[table]
        with self.writer.begin() as connection:
            connection.execute(rows.update().where(rows.c.id == row).values(values))

    def remove(self, table: str, row: int) -> None:
        rows = schema.metadata.tables[table]
        with self.writer.begin() as connection:
            connection.execute(rows.delete().where(rows.c.id == row))

    def execute(self, statement: str) -> None:
        with self.writer.begin() as connection:
            connection.execute(text(statement))

    @staticmethod
    def settings_of(url: URL, folder: Path, **overrides: Any) -> Settings:
        """Without a pool: nobody has to close a connection."""
        ours = {
            "database_url": url.render_as_string(hide_password=False),
            "data_dir": folder,
            "mysql_use_pooling": False,
        }
        return load_settings(**ours | overrides)

    @staticmethod
    def reader(settings: Settings) -> Source:
        return Source(make_engine(settings), settings)

    def settings(self, **overrides: Any) -> Settings:
        return self.settings_of(self.url, self.folder, **overrides)

    def source(self, **overrides: Any) -> Source:
        return self.reader(self.settings(**overrides))

    def build(self, now: datetime = NOW, **overrides: Any) -> View:
        return View(build_catalog(self.source(**overrides), self.settings(**overrides), POLICY, now))

    def close(self) -> None:
        self.writer.dispose()

    def _defaults(self, table: str, given: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        long_ago, recent, yesterday = ago(days=1000), ago(days=5), {"created_at": ago(days=1)}
        if table == "users":  # a creator, and not recent
            times = {"created_at": long_ago, "updated_at": long_ago}
            return {"name": f"Ana {number}", "city": "Cali", "country": "Colombia", **times}
        if table in {"resumes", "challenges"}:
            creator = given.get("user_id") or self.add("users")
            row = {"user_id": creator, "created_at": recent, "updated_at": recent}
            if table == "resumes":
                return row | {"video": f"v{number}.mp4", "status": "send"}
            return row | {"video": f"c{number}.mp4", "status": "published", "name": "Reto"}
        rows: dict[str, dict[str, Any]] = {
            "team_feedbacks": {"type": "ranking_resume", "value": 4, **yesterday},
            "matches": {"status": "accepted", **yesterday},
            "user_connections": {"status": "accepted", **yesterday},
            "likes": {"type": "save", **yesterday},
            "views": {"model_type": schema.RESUME_MODEL, **yesterday},
            "activity_log": {
                "log_name": "app",
                "description": VIEW,
                "subject_type": schema.RESUME_MODEL,
                "causer_type": schema.USER_MODEL,
                **yesterday,
            },
        }
        return rows.get(table, {})


class View:
    """A built catalog as people talk about it: ids, items as dictionaries, histories."""

    def __init__(self, built: BuiltCatalog) -> None:
        self.built = built
        self.arrays = built.arrays
        self.set_aside = built.report.set_aside
        self.warnings = built.report.warnings
        self.items: list[dict[str, Any]] = [json.loads(body) for body in built.item_bodies]

    @property
    def videos(self) -> list[int]:
        return [int(number) for number in self.arrays.item_id[: self.arrays.worded]]

    @property
    def challenges(self) -> list[int]:
        return [int(number) for number in self.arrays.item_id[self.arrays.worded :]]

    @property
    def users(self) -> list[int]:
        return [int(number) for number in self.arrays.user_id]

    def video(self, number: int) -> dict[str, Any]:
        return self.items[self.videos.index(number)]

    def challenge(self, number: int) -> dict[str, Any]:
        return self.items[self.arrays.worded + self.challenges.index(number)]

    def city(self, video: int) -> str:
        return str(self.built.names["cities"][self.arrays.city[self.videos.index(video)]])

    def tokens(self, video: int) -> list[str]:
        """The video's skills, knowledges, tools and languages, in their places."""
        names = self.built.names["tokens"]
        numbers = self.arrays.tokens[self.videos.index(video)]
        return [names[number][1] for number in numbers if number < len(names)]

    def feature(self, video: int, number: int) -> float:
        return float(self.arrays.features[self.videos.index(video), number])

    def history(self, user: int) -> list[tuple[str, int, float]]:
        """(type, id, weight) of what the user interacted with, latest first; nothing of an unknown user."""
        if user not in self.users:
            return []
        row = self.users.index(user)
        part = slice(*self.arrays.history_offsets[row : row + 2])
        entries = zip(self.arrays.history_items[part], self.arrays.history_weight[part], strict=True)
        return [(self.items[i]["type"], int(self.items[i]["id"]), float(weight)) for i, weight in entries]

    def profile(self, user: int) -> list[str]:
        row = self.users.index(user)
        part = slice(*self.arrays.profile_offsets[row : row + 2])
        names = self.built.names["tokens"]
        return [names[number][1] for number in self.arrays.profile_tokens[part]]

    def connections(self, user: int) -> int:
        return int(self.arrays.connections[self.users.index(user)]) if user in self.users else 0

    def network(self, user: int) -> list[int]:
        """Creators among the user's connections."""
        if user not in self.users:
            return []
        row = self.users.index(user)
        part = slice(*self.arrays.network_offsets[row : row + 2])
        return [int(self.arrays.creator_id[c]) for c in self.arrays.network_creators[part]]


def operator_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    """For a fixture with params=["sqlite", "mariadb"]: the tests of a file share one MariaDB database,
    emptied for each of them."""
    name = {"sqlite": "sqlite_url", "mariadb": "module_mariadb_url"}[request.param]
    database = OperatorDatabase(request.getfixturevalue(name), tmp_path)
    yield database
    database.close()


class Recorder:
    """The statements that an engine sends, with their parameters."""

    def __init__(self, engine: Engine) -> None:
        self.statements: list[str] = []
        self.parameters: list[Any] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.statements.append(statement)
        self.parameters.append(parameters)


def cases_that_hold(ids: dict[str, int], found: list[int]) -> list[str]:
    """Names of the cases whose row is among those found."""
    return [case for case, number in ids.items() if number in set(found)]


def flipped(content: bytes, position: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)
