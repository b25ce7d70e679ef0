"""Who came after the build, under a mapping: read from the team's own tables, as the next build will have it."""

from __future__ import annotations

import importlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from examples.world import run
from recommendation_service.catalog import mapped_users
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.filter_columns import Listed, value_number
from recommendation_service.catalog.mapped_users import MappedUserReader
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.sources.mapping.mapping import Mapping, load_mapping
from recommendation_service.sources.mapping.words import kinds_of_terms
from recommendation_service.sources.users import User, UserFacts, encode_facts
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.job_board import (
    MAPPING,
    SCHEMA,
    experience_of,
    handle_of,
    is_open,
    make_job_board,
    skill_of,
    slug_of,
)
from tests.unit.sources.operator_database import Recorder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BACKENDS = ("sqlite", "mariadb", "postgresql")
ADS, CANDIDATES = 120, 60
ADMIN = "admin-token-of-16"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


class Place:
    """A database, its mapping, and what is read of its users."""

    def __init__(self, url: URL, mapping_file: Path, folder: Path) -> None:
        self.address = url.render_as_string(hide_password=False)
        self.settings = Settings(data_dir=folder / "data", database_url=self.address, mapping_file=mapping_file)
        self.engine = make_engine(self.settings)
        self.now = datetime.now(UTC).timestamp()
        self.mapping: Mapping = load_mapping(mapping_file)
        self.store = CatalogStore(self.settings.catalog_dir, keep=2)

    def built(self) -> Catalog:
        moment = datetime.fromtimestamp(self.now, UTC)
        source, policy = open_source(self.settings, self.engine), PolicyChoice(self.settings).policy
        return self.store.open(self.store.publish(build_catalog(source, self.settings, policy, moment)))

    def reader(self) -> MappedUserReader:
        return MappedUserReader(self.mapping, self.engine.connect, self.settings, lambda: self.now)


def place(url: URL, mapping_file: Path, folder: Path) -> Iterator[Place]:
    found = Place(url, mapping_file, folder)
    yield found
    found.engine.dispose()


@pytest.fixture(params=[(name, backend) for name in ("jobs", "music", "blog") for backend in BACKENDS], ids="-".join)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    name, backend = request.param
    url: URL = request.getfixturevalue(f"{backend}_url")
    module = importlib.import_module(f"examples.{name}.__main__")
    address = url.render_as_string(hide_password=False)
    assert run(name, module.METADATA, module.make, [address, "--people", "40"]) == 0
    yield from place(url, EXAMPLES / name / "mapping.toml", tmp_path)


@pytest.fixture(params=BACKENDS)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The job board, empty."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    write(url, *filter(str.strip, SCHEMA.replace("TEXT", "VARCHAR(100)").split(";")))
    yield from place(url, mapping, tmp_path)


def write(url: URL | str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def users_of(catalog: Catalog) -> list[User]:
    numbers: list[User] = catalog.arrays.user_id.tolist()
    texts = catalog.user_texts
    return numbers if texts is None else [texts.at(row) for row in range(len(numbers))]


def in_catalog(catalog: Catalog, names: list[list[str]], row: int) -> dict[str, Any]:
    """What a catalog has of the user in a row."""
    arrays = catalog.arrays

    def own(column: str, offsets: str) -> list[int]:
        found = getattr(arrays, offsets)
        return list(getattr(arrays, column)[found[row] : found[row + 1]].tolist())

    return {
        "history": sorted(
            zip(own("history_items", "history_offsets"), own("history_when", "history_offsets"), strict=True)
        ),
        "network": sorted(arrays.creator_id[own("network_creators", "network_offsets")].tolist()),
        "connections": int(arrays.connections[row]),
        "terms": sorted(tuple(names[token]) for token in own("profile_tokens", "profile_offsets")),
        "filters": {column.name: filter_in_catalog(column.users, row) for column in catalog.filters},
    }


def filter_in_catalog(users: Any, row: int) -> Any:
    if users is None:
        return None
    if isinstance(users, Listed):
        return users.values[users.offsets[row] : users.offsets[row + 1]].tolist() or None
    return None if np.isnan(users[row]) else float(users[row])


def in_facts(catalog: Catalog, facts: UserFacts, mapping: Mapping) -> dict[str, Any]:
    """The same of what was read of one user."""
    items = [(catalog.row_of(key), when) for key, when in facts.history.tolist()]
    creators = set(catalog.arrays.creator_id.tolist())
    kinds = kinds_of_terms(mapping)
    filters: dict[str, Any] = dict.fromkeys(column.name for column in catalog.filters)
    for name, own in facts.filters:
        filters[name] = own if isinstance(own, float) else [value_number(text) for text in own]
    return {
        "history": sorted((item, when) for item, when in items if item >= 0),
        "network": sorted(set(facts.network.tolist()) & creators),
        "connections": facts.connections,
        "terms": sorted((kind, term) for kind, own in zip(kinds, facts.attributes, strict=True) for term in own),
        "filters": filters,
    }


def in_order(facts: UserFacts) -> UserFacts:
    """Terms of one weight come as the database gives them."""
    skills, knowledges, tools, languages = (tuple(sorted(own)) for own in facts.attributes)
    return facts._replace(attributes=(skills, knowledges, tools, languages))


def test_everybody_is_read_alone_as_the_catalog_has_them(example: Place) -> None:
    catalog = example.built()
    names = example.store.names(catalog.version)["tokens"]
    reader = example.reader()
    users = users_of(catalog)

    found = [facts for facts in map(reader.read, users) if facts is not None]

    assert len(found) == len(users) >= 40
    # Terms are taken of a profile where nothing that was acted on has any: all of it is read all the same.
    assert [in_facts(catalog, facts, example.mapping) for facts in found] == [
        in_catalog(catalog, names, row) for row in range(len(users))
    ]
    latest = [facts.history[:, 1].tolist() for facts in found]
    assert all(own == sorted(own, reverse=True) for own in latest)
    assert sum(len(own) for own in latest) > 100
    content = example.mapping.content
    if content.links:
        assert any(facts.connections for facts in found)
        assert any(len(facts.network) for facts in found)
    if content.numbers and any(number.users for number in content.numbers.values()):
        assert any("pay " in term for facts in found for own in facts.attributes for term in own)


def test_many_are_read_as_each_alone_in_as_many_statements_as_queries_name_a_user(example: Place) -> None:
    catalog = example.built()
    reader = example.reader()
    users = users_of(catalog)[:13]
    nobody: User = "nobody" if catalog.user_texts is not None else 10**15
    reader.read(users[0])  # PostgreSQL is asked once how columns are written
    recorder = Recorder(example.engine)

    together = reader.read_all([*users, nobody])

    content = example.mapping.content
    of_users = [one.users for one in content.vocabularies.values() if one.users is not None and one.users.query]
    events = [one for one in content.events.values() if one.query]
    asked = [statement for statement in recorder.statements if " IN (" in statement]
    assert len(asked) == 1 + len(of_users) + len(events) + len(content.links)
    assert together.pop(nobody) is None
    for user, facts in together.items():
        alone = reader.read(user)
        assert facts is not None
        assert alone is not None
        assert encode_facts(in_order(facts)) == encode_facts(in_order(alone))


def test_who_has_more_than_a_query_gives_is_read_alone_and_takes_nothing_from_the_others(
    board: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_users, "MOST_ROWS", 5)
    monkeypatch.setattr(mapped_users, "MOST_INTERACTIONS", 5)
    many = [f"('many', 'ad-{number}', '2026-01-{10 + number:02} 10:00:00')" for number in range(12)]
    write(
        board.address,
        "INSERT INTO candidates VALUES ('many', NULL, NULL), ('few', NULL, NULL)",
        f"INSERT INTO applications VALUES {', '.join(many)}, ('few', 'ad-3', '2025-12-20 10:00:00')",
    )
    board.now = datetime(2026, 2, 1, tzinfo=UTC).timestamp()

    found = board.reader().read_all(["many", "few", "nobody"])

    assert found["nobody"] is None
    many_facts, few_facts = found["many"], found["few"]
    assert many_facts is not None
    assert few_facts is not None
    days = [datetime.fromtimestamp(when, UTC).day for when in many_facts.history[:, 1].tolist()]
    assert days == [21, 20, 19, 18, 17]
    assert len(few_facts.history) == 1


def test_a_row_that_cannot_be_used_takes_nothing_from_its_user(board: Place) -> None:
    write(
        board.address,
        "INSERT INTO candidates VALUES ('new', 'no time', 3)",
        "INSERT INTO applications VALUES ('new', '', 'yesterday')",
    )

    facts = board.reader().read("new")

    assert facts is not None
    assert (len(facts.history), facts.filters) == (0, (("experience", 3.0),))


def test_an_id_that_the_database_cannot_compare_is_nobodys_and_the_others_are_read(
    postgresql_url: URL, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    uuids = SCHEMA.replace("handle TEXT", "handle UUID").replace("candidate TEXT", "candidate UUID")
    known = "8f14e45f-ceea-467f-a1d5-9d2f3b1c0a55"
    write(postgresql_url, *filter(str.strip, uuids.split(";")), f"INSERT INTO candidates VALUES ('{known}', NULL, 4)")
    for one in place(postgresql_url, mapping, tmp_path):
        found = one.reader().read_all(["no uuid", known, "\0", "x" * 200])

        assert {user for user, facts in found.items() if facts is not None} == {known}


def test_a_query_that_fails_and_a_database_that_is_gone_are_told_as_such(board: Place) -> None:
    reader = board.reader()
    write(board.address, "DROP TABLE applications")

    with pytest.raises(SourceError, match=r"events\.apply"):
        reader.read("new")

    write(board.address, "CREATE TABLE applications (candidate VARCHAR(100), ad VARCHAR(100), sent VARCHAR(100))")
    assert reader.read("new") is None


# Through the running service.


@pytest.fixture
def database(tmp_path: Path) -> Path:
    make_job_board(tmp_path, ads=ADS, candidates=CANDIDATES)
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def client(database: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    mapping = tmp_path / "mapping.toml"
    for one in place(URL.create("sqlite", database=str(database)), mapping, tmp_path):
        one.built()
    options = {"database_url": f"sqlite:///{database}", "mapping_file": mapping, "event_flusher": False}
    patient = {"user_read_timeout_milliseconds": 10_000, "seen_megabytes": 16, "admin_token": ADMIN}
    with served(make_app(tmp_path / "data", **options, **patient)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        yield client


def add(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def ids(client: httpx.Client, **body: Any) -> list[str]:
    answer = client.post("/api/feeds/home", json=body)
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["ids"]
    return found


def remembered(client: httpx.Client, user: str) -> dict[str, Any]:
    """One call a second is answered."""
    answers: list[httpx.Response] = []

    def is_told() -> bool:
        answers.append(client.get(f"/api/users/{user}", headers=AS_ADMIN))
        return answers[-1].status_code == 200

    assert wait_until(is_told, PATIENCE_SECONDS)
    body: dict[str, Any] = answers[-1].json()["body"]
    return body


def open_ads(skill: str) -> list[str]:
    return [slug_of(number) for number in range(ADS) if is_open(number) and skill_of(number) == skill]


def test_who_came_after_the_build_gets_what_fits_and_nothing_that_was_applied_for(
    client: httpx.Client, database: Path
) -> None:
    welding, names = open_ads("welding"), [f"new{number}@example" for number in range(4)]
    for name in names:
        add(
            database,
            f"INSERT INTO candidates VALUES ('{name}', '2026-01-01 10:00:00', NULL)",
            f"INSERT INTO candidate_skills VALUES ('{name}', 'Welding')",
            f"INSERT INTO applications VALUES ('{name}', '{welding[0]}', datetime('now', '-1 hour'))",
        )

    fits = Counter(one in welding for name in names for one in ids(client, user=name, size=8))
    strangers = Counter(one in welding for number in range(4) for one in ids(client, user=f"x{number}", size=8))
    everything = ids(client, user=names[0], size=80, session="all")

    assert fits[True] > fits[False]
    assert strangers[True] < strangers[False]
    assert welding[0] not in everything
    metrics = client.get("/metrics").text
    assert 'recs_cache_reads_total{outcome="found"} 4.0' in metrics


def test_their_own_row_keeps_items_away_from_feeds_and_lists_also_where_these_are_not_personal(
    client: httpx.Client, database: Path
) -> None:
    add(database, "INSERT INTO candidates VALUES ('young@example', NULL, 1)")
    answers = [
        client.post("/api/feeds/home", json={"user": "young@example", "size": 20}),
        client.post("/api/feeds/home", json={"user": "young@example", "size": 20, "personal": False, "session": "x"}),
        client.get("/api/popular", params={"user": "young@example", "size": 20}),
    ]

    for answer in answers:
        assert answer.status_code == 200, answer.text
        years = [item["years"] for item in answer.json()["items"]]
        assert years
        assert all(one is not None and one <= 1 for one in years)
    asked = client.post("/api/feeds/home", json={"user": "young@example", "size": 20, "filters": {"experience": 4}})
    assert max(item["years"] for item in asked.json()["items"]) == 4


def test_feeds_go_on_where_the_tables_cannot_be_read(client: httpx.Client, database: Path) -> None:
    add(database, "DROP TABLE applications")

    assert len(ids(client, user="new@example")) == 24
    assert 'recs_cache_reads_total{outcome="failed"} 1.0' in client.get("/metrics").text


def test_what_is_cached_of_them_is_told_in_the_teams_words_and_forgotten(client: httpx.Client, database: Path) -> None:
    assert experience_of(1) == 2
    applied = open_ads("sql")[0]
    add(
        database,
        "INSERT INTO candidates VALUES ('new@example', NULL, 2)",
        "INSERT INTO candidate_skills VALUES ('new@example', 'sql')",
        f"INSERT INTO applications VALUES ('new@example', '{applied}', datetime('now', '-1 hour'))",
    )
    ids(client, user="new@example")
    told = remembered(client, "new@example")["cached_facts"]

    assert [(entry["type"], entry["id"]) for entry in told["history"]] == [("job", applied)]
    assert told["filters"] == {"experience": 2.0}
    assert told["skill"] == ["sql"]
    assert not {"skills", "knowledges", "tools", "languages"} & set(told), "they are the first operator's"
    assert client.delete("/api/users/new@example", headers=AS_ADMIN).status_code == 200
    assert remembered(client, "new@example")["cached_facts"] is None


def test_a_recorded_feed_bears_the_users_own_id(client: httpx.Client, database: Path) -> None:
    answer = client.post("/api/feeds/home", json={"user": handle_of(3), "size": 5}).json()

    told = client.get(f"/api/explain/{answer['request_id']}", headers=AS_ADMIN).json()["body"]

    assert told["user_id"] == handle_of(3)
