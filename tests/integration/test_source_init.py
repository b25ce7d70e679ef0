"""`recs source init`: mappings written for databases that nobody described, on SQLite, MariaDB and PostgreSQL."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.postgresql_address import postgresql_address
from recommendation_service.onboarding.looking import Column
from recommendation_service.onboarding.wording import scale_of
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import read
from tests.integration.test_source_check import BACKENDS, NAMES, check, fill

Init = Callable[..., Result]

# No foreign keys, orders with lines of their own, a reserved word, what is deleted, prices, and who said what.
SHOP = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, email VARCHAR(50), created_at VARCHAR(30));
CREATE TABLE categories (id INTEGER PRIMARY KEY, name VARCHAR(50));
CREATE TABLE products (id INTEGER PRIMARY KEY, title VARCHAR(50), price DECIMAL(8,2), category_id INTEGER,
  status VARCHAR(20), created_at VARCHAR(30), deleted_at VARCHAR(30));
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, total DECIMAL(8,2), created_at VARCHAR(30));
CREATE TABLE order_items (order_id INTEGER, product_id INTEGER, quantity INTEGER);
CREATE TABLE reviews (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, stars INTEGER,
  comment VARCHAR(90));
CREATE TABLE recs_events (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER);
CREATE TABLE migrations (id INTEGER PRIMARY KEY, migration VARCHAR(50));
"""


def rows_of_shop() -> list[str]:
    day = "'2026-11-{:02} 10:00:00'"
    statements = [f"INSERT INTO customers VALUES ({n}, 'c{n}@example.org', {day.format(n)})" for n in range(1, 21)]
    statements += [f"INSERT INTO categories VALUES ({n}, 'shelf {n}')" for n in range(1, 5)]
    for n in range(1, 25):
        state, gone = ("draft" if n % 8 == 0 else "published"), (day.format(3) if n == 5 else "NULL")
        values = f"{100 + n}, 'thing {n}', {n * 3.5}, {1 + n % 4}, '{state}', {day.format(n)}, {gone}"
        statements.append(f"INSERT INTO products VALUES ({values})")
    for n in range(1, 41):
        statements.append(f"INSERT INTO orders VALUES ({500 + n}, {1 + n % 20}, 9.5, {day.format(1 + n % 28)})")
        statements += [f"INSERT INTO order_items VALUES ({500 + n}, {101 + (n * step) % 24}, 1)" for step in (1, 5)]
        statements.append(f"INSERT INTO reviews VALUES ({n}, {1 + n % 20}, {101 + n % 24}, {1 + n % 5}, 'good {n}')")
    return [*statements, "INSERT INTO migrations VALUES (1, 'first')"]


# Keys that are UUIDs beside numbers, what is hidden and what is only featured, an enum, dates, messages, and a view.
MARKET = """
CREATE TABLE accounts (id BIGINT PRIMARY KEY, email VARCHAR(50), country CHAR(2), is_admin BOOLEAN, created_at {time},
  deleted_at {time});
CREATE TABLE sellers (id BIGINT PRIMARY KEY, account_id BIGINT REFERENCES accounts (id), shop_name VARCHAR(50));
CREATE TABLE listings (uuid {uuid} PRIMARY KEY, seller_id BIGINT REFERENCES sellers (id), title VARCHAR(50),
  price NUMERIC(12, 2), item_condition {condition}, country CHAR(2), tags {json}, is_hidden BOOLEAN NOT NULL,
  is_featured BOOLEAN NOT NULL, active BOOLEAN NOT NULL, available_from DATE);
CREATE TABLE purchases (id BIGINT PRIMARY KEY, buyer_id BIGINT REFERENCES accounts (id),
  listing_uuid {uuid} REFERENCES listings (uuid), purchased_at {time});
CREATE TABLE wishes (account_id BIGINT, listing_uuid {uuid}, added_on DATE, PRIMARY KEY (account_id, listing_uuid));
CREATE TABLE messages (id BIGINT PRIMARY KEY, from_account_id BIGINT, listing_uuid {uuid}, body VARCHAR(50));
CREATE TABLE sessions (token VARCHAR(40) PRIMARY KEY, account_id BIGINT);
CREATE VIEW listings_of_today AS SELECT * FROM listings WHERE available_from > '2026-11-23'
"""
TYPES = {
    "mariadb": {
        "time": "DATETIME",
        "uuid": "CHAR(36)",
        "json": "JSON",
        "condition": "ENUM('new', 'used', 'refurbished')",
    },
    "postgresql": {"time": "TIMESTAMPTZ", "uuid": "UUID", "json": "JSONB", "condition": "condition"},
}


def rows_of_market() -> list[str]:
    day, uuid = "'2026-11-{:02}'", "'00000000-0000-4000-8000-0000000000{:02}'"
    truth = ("FALSE", "TRUE")
    words = ("'new'", "'used'", "'refurbished'")
    statements = []
    for n in range(1, 25):
        gone = day.format(20) if n == 5 else "NULL"
        countries = ("'PE'", "'CO'", "'DE'")
        statements.append(
            f"INSERT INTO accounts VALUES ({10**12 + n}, 'a{n}@example.org', {countries[n % 3]}, {truth[n == 1]}, "
            f"{day.format(n)}, {gone})"
        )
        statements.append(f"INSERT INTO sellers VALUES ({n}, {10**12 + n}, 'Shop {n}')")
        statements.append(
            f"INSERT INTO listings VALUES ({uuid.format(n)}, {n}, 'thing {n}', {n * 3.5}, {words[n % 3]}, "
            f'{countries[n % 2]}, \'["red", "{n % 4}"]\', {truth[n % 8 == 0]}, {truth[n % 3 == 0]}, TRUE, '
            f"{day.format(n)})"
        )
        statements.append(f"INSERT INTO wishes VALUES ({10**12 + n}, {uuid.format(25 - n)}, {day.format(n)})")
        body = ("Hello", "Is it still there?")[n % 2]
        statements.append(f"INSERT INTO messages VALUES ({n}, {10**12 + n}, {uuid.format(n)}, '{body}')")
        statements.append(f"INSERT INTO sessions VALUES ('0123456789abcdef-{n:04}', {10**12 + n})")
    statements += [
        f"INSERT INTO purchases VALUES ({n}, {10**12 + 1 + n % 24}, {uuid.format(1 + n * 7 % 24)}, "
        f"{day.format(1 + n % 24)})"
        for n in range(1, 61)
    ]
    return statements


# Columns that say first in what role somebody or something is there; one of them is declared, the others are named.
CLUB = """
CREATE TABLE members (id INTEGER PRIMARY KEY, email VARCHAR(50), price_level INTEGER);
CREATE TABLE prices (id INTEGER PRIMARY KEY, name VARCHAR(50));
CREATE TABLE articles (id INTEGER PRIMARY KEY, title VARCHAR(50), approved_by_member_id INTEGER,
  author_member_id INTEGER, unit_price INTEGER, created_at VARCHAR(30));
CREATE TABLE readings (read_article_id INTEGER, by_member_id INTEGER, at VARCHAR(30));
CREATE TABLE gifts (id INTEGER PRIMARY KEY, to_member_id INTEGER REFERENCES members (id), sender_user_id INTEGER,
  replaced_article_id INTEGER, article_id INTEGER, given_at VARCHAR(30));
CREATE TABLE follows (followed_member_id INTEGER, follower_member_id INTEGER, created_at VARCHAR(30))
"""


def rows_of_club() -> list[str]:
    statements = ["INSERT INTO prices VALUES (1, 'low')", "INSERT INTO prices VALUES (2, 'high')"]
    statements += [f"INSERT INTO members VALUES ({n}, 'm{n}@example.org', {1 + n % 2})" for n in range(1, 21)]
    for n in range(1, 21):
        day = f"'2026-11-{n:02} 10:00:00'"
        statements += [
            f"INSERT INTO articles VALUES ({100 + n}, 'text {n}', {1 + n % 3}, {n}, {1 + n % 2}, {day})",
            f"INSERT INTO readings VALUES ({100 + n}, {1 + n * 3 % 20}, {day})",
            f"INSERT INTO gifts VALUES ({n}, {n}, {1 + n * 7 % 20}, {101 + n % 20}, {101 + n * 3 % 20}, {day})",
            f"INSERT INTO follows VALUES ({n}, {1 + n % 20}, {day})",
        ]
    return statements


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Init:
    """The command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))

    def run(url: URL, *options: str) -> Result:
        address = url.render_as_string(hide_password=False)
        return CliRunner().invoke(cli.app, ["source", "init", address, *options])

    return run


def shop(request: pytest.FixtureRequest, backend: str) -> URL:
    url: URL = request.getfixturevalue(f"{backend}_url")
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for statement in (*filter(str.strip, SHOP.split(";\n")), *rows_of_shop()):
            connection.exec_driver_sql(statement)
    return url


def written(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "mapping.toml").read_text("utf-8"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("example", NAMES)
def test_each_example_gets_a_mapping_that_works_and_is_short(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, example: str, backend: str
) -> None:
    url: URL = request.getfixturevalue(f"{backend}_url")
    fill(example, url)
    done = init(url)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "mapping.toml").read_text("utf-8")
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 60
    content = load_mapping(tmp_path / "mapping.toml").content
    found = {
        "items": list(content.items),
        "events": sorted(content.events),
        "links": sorted(content.links),
        "vocabularies": sorted(content.vocabularies),
        "creators": {name: items.creator for name, items in content.items.items()},
        "times": {name: items.time for name, items in content.items.items()},
        "timeless": [name for name, event in content.events.items() if event.time is None],
    }
    assert (
        found
        == {
            "jobs": {
                "items": ["job_ad"],
                "events": ["ad_view", "application"],
                "links": [],
                "vocabularies": ["city", "skill"],
                "creators": {"job_ad": "company_id"},
                "times": {"job_ad": "published_at"},
                "timeless": [],
            },
            "music": {
                "items": ["track"],
                "events": ["favourite", "play"],
                "links": ["follow", "friendship"],
                "vocabularies": ["genre"],
                "creators": {"track": "artist_uuid"},
                "times": {"track": "released_on"},
                "timeless": ["favourite"],
            },
            "blog": {
                "items": ["article", "product"],
                "events": ["article_read", "bookmark", "order_line"],
                "links": [],
                "vocabularies": ["language", "tag"],
                "creators": {"article": "author_id", "product": None},
                "times": {"article": "published_at", "product": "added_at"},
                "timeless": ["bookmark"],
            },
        }[example]
    )
    if example == "music":
        assert content.links["follow"].to == "creators"
        assert (content.ids, content.links["friendship"].mutual) == ("text", True)
    report = check(tmp_path / "mapping.toml", url)
    assert [one for one in report["findings"] if one["severity"] in {"warning", "error"}] == []
    assert ("when it happened" in done.output) == bool(found["timeless"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shop_without_foreign_keys_is_found_out_by_names_and_values(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url = shop(request, backend)
    done = init(url)
    assert done.exit_code == 0, done.output
    content = written(tmp_path)
    assert list(content["items"]) == ["product"]
    assert "status = 'published'" in content["items"]["product"]["query"]
    assert "deleted_at IS NULL" in content["items"]["product"]["query"]
    assert set(content["events"]) == {"order_item", "review"}
    assert content["events"]["order_item"]["time"] == "created_at"
    assert (content["events"]["review"]["value"], content["events"]["review"]["means"]) == ("stars", "rating")
    review = content["events"]["review"]
    assert (review["marks"], review["weight"]) == ([1, 5], 3)
    # A review of one star does not count for a product.
    with create_engine(
        postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool
    ).connect() as connection:
        events = read(load_mapping(tmp_path / "mapping.toml"), connection).events["review"]
        given = connection.exec_driver_sql("SELECT customer_id, product_id, stars FROM reviews").fetchall()
    counted = zip(events.users.tolist(), events.items.tolist(), events.weights.round(6).tolist(), strict=True)
    assert sorted(counted) == sorted((user, item, round(3 * stars / 5, 6)) for user, item, stars in given if stars > 3)
    assert "price" in content["numbers"]
    report = check(tmp_path / "mapping.toml", url)
    assert [one for one in report["findings"] if one["severity"] in {"warning", "error"}] == []
    assert {query["section"]: query["rows"] for query in report["queries"]} == {
        "users": 20,
        "items.product": 20,
        "vocabularies.category.items.product": 24,
        "events.order_item": 80,
        "events.review": 40,
    }
    assert "migrations" in done.output
    assert "recs_events" not in done.output


# A column that people and items have, of a name that tells nothing; and states of both that have nothing in common.
KITCHEN = """
CREATE TABLE members (id INTEGER PRIMARY KEY, email VARCHAR(50), diet VARCHAR(20), status VARCHAR(20));
CREATE TABLE recipes (id INTEGER PRIMARY KEY, title VARCHAR(50), diet VARCHAR(20), status VARCHAR(20));
CREATE TABLE cooked (member_id INTEGER, recipe_id INTEGER, cooked_at VARCHAR(30))
"""


def kitchen(request: pytest.FixtureRequest, backend: str) -> URL:
    url: URL = request.getfixturevalue(f"{backend}_url")
    diets = ("'vegan'", "'vegetarian'", "NULL")
    statements = KITCHEN.split(";\n")
    for n in range(1, 25):
        statements += [
            f"INSERT INTO members VALUES ({n}, 'm{n}@example.org', {diets[n % 3]}, '{('paying', 'guest')[n % 2]}')",
            f"INSERT INTO recipes VALUES ({100 + n}, 'dish {n}', {diets[n % 2]}, '{('draft', 'ready')[n % 2]}')",
            f"INSERT INTO cooked VALUES ({n}, {100 + n}, '{3026 if n > 20 else 2025}-11-{n:02} 10:00:00')",
        ]
    with create_engine(
        postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool
    ).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    return url


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_column_that_people_and_items_have_is_named_as_a_filter_to_choose(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url, file = kitchen(request, backend), tmp_path / "mapping.toml"
    done = init(url)
    assert done.exit_code == 0, done.output
    assert "filters" not in written(tmp_path)
    before, chosen = file.read_text("utf-8").split("# [filters.diet]\n")
    assert "filters.status" not in before + chosen
    file.write_text(before + "[filters.diet]\n" + re.sub(r"(?m)^# ", "", chosen), "utf-8")
    report = check(file, url, feeds=True)
    said = [one["sentence"] for one in report["findings"] if one["name"] == "filters.diet"]
    assert said == ["24 of 24 recipes have a value, and 16 of 24 users ask for one."]
    of_diets = {feed["user"]: {item["id"] % 2 for item in feed["items"]} for feed in report["feeds"]}
    # Who has no diet is shown all.
    assert all(diets == ({0} if user % 3 == 0 else {1}) for user, diets in of_diets.items() if user and user % 3 != 2)
    assert of_diets[None] == {0, 1}
    # What was set aside of the times is said as it is.
    [times] = [one["sentence"] for one in report["findings"] if "no time" in one["sentence"]]
    assert times == "4 of its 24 events have no time that can be used (in the future: 4), and count as the others."


def test_what_to_do_next_can_be_done(
    init: Init, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = kitchen(request, "sqlite")
    monkeypatch.setenv("MAPPING_FILE", "mapping.toml")  # as the README has it: before it is there
    done = init(url)
    assert done.exit_code == 0, done.output
    export, *commands = done.output.splitlines()[-3:]
    assert export == "export MAPPING_FILE=mapping.toml DATABASE_URL=…"
    assert commands == ["recs source check", "recs serve"]
    for arguments in (["source", "check"], ["source", "check", "mapping.toml"], ["catalog", "build"]):
        forgotten = CliRunner().invoke(cli.app, arguments)
        said = forgotten.output + str(forgotten.exception)
        assert forgotten.exit_code
        assert "DATABASE_URL" in said
        assert "demo load" not in said
        assert "interacpedia" not in said
    monkeypatch.setenv("DATABASE_URL", str(url))
    assert CliRunner().invoke(cli.app, ["source", "check", "--no-feeds"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "sample", "scale"),
    [
        ("stars", [1, 3, 5], (1, 5)),
        ("star_rating", [0.5, 4.5], (0.5, 5)),
        ("grade", [0, 7], (0, 10)),
        ("marks", [2, 3, 1], (1, 3)),
        ("score", [4, 10], (1, 10)),
        ("score", [4, 250], None),
        ("rating", [0.31, 4], None),
        ("rating", [0, 1], None),
        ("rating", [-1, 1], None),
        ("share_read", [1, 3], None),
        ("stars", [], None),
    ],
)
def test_a_scale_of_marks_is_told_by_name_and_values(
    name: str, sample: list[float], scale: tuple[float, int] | None
) -> None:
    assert scale_of(Column(name, "number", sample)) == scale


@pytest.mark.parametrize("backend", BACKENDS)
def test_people_and_items_are_seen_behind_the_role_that_a_column_names_first(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url: URL = request.getfixturevalue(f"{backend}_url")
    engine = create_engine(postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in (*CLUB.split(";\n"), *rows_of_club()):
            connection.exec_driver_sql(statement)
    done = init(url)
    assert done.exit_code == 0, done.output
    content = load_mapping(tmp_path / "mapping.toml").content
    assert {name: items.creator for name, items in content.items.items()} == {"article": "author_member_id"}
    people_and_items = {name: (event.user, event.item) for name, event in content.events.items()}
    assert people_and_items == {
        "reading": ("by_member_id", "read_article_id"),
        "gift": ("sender_user_id", "article_id"),
    }
    assert {name: (link.user, link.other) for name, link in content.links.items()} == {
        "follow": ("follower_member_id", "followed_member_id")
    }
    report = check(tmp_path / "mapping.toml", url)
    rows = {query["section"]: query["rows"] for query in report["queries"]}
    assert rows == {"users": 20, "items.article": 20, "events.reading": 20, "events.gift": 20, "links.follow": 20}
    assert [one for one in report["findings"] if one["severity"] in {"warning", "error"}] == []


# Who offers a thing bears no name of an author; what people and things have as a number is of one kind.
HOUSES = """
CREATE TABLE agents (id INTEGER PRIMARY KEY, name VARCHAR(50), agency VARCHAR(50));
CREATE TABLE clients (id INTEGER PRIMARY KEY, email VARCHAR(50), area_m2 INTEGER, birth_year INTEGER);
CREATE TABLE listings (id INTEGER PRIMARY KEY, agent_id INTEGER, headline VARCHAR(50), price DECIMAL(12,2),
  area_m2 INTEGER, listed_at VARCHAR(30));
CREATE TABLE favourites (client_id INTEGER, listing_id INTEGER, added_at VARCHAR(30))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_offers_items_and_which_numbers_people_have_of_them_is_found_out(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url: URL = request.getfixturevalue(f"{backend}_url")
    statements = HOUSES.split(";\n")
    statements += [f"INSERT INTO agents VALUES ({n}, 'agent {n}', 'agency {n % 2}')" for n in range(1, 5)]
    for n in range(1, 21):
        day = f"'2026-11-{n:02} 10:00:00'"
        statements += [
            f"INSERT INTO clients VALUES ({n}, 'c{n}@example.org', {20 + 10 * (n % 8)}, {1950 + n})",
            f"INSERT INTO listings VALUES ({50 + n}, {1 + n % 4}, 'house {n}', {n * 9.5}, {25 + 10 * (n % 9)}, {day})",
            f"INSERT INTO favourites VALUES ({n}, {50 + n}, {day})",
        ]
    engine = create_engine(postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    done = init(url)
    assert done.exit_code == 0, done.output
    content = load_mapping(tmp_path / "mapping.toml").content
    assert content.items["listing"].creator == "agent_id"
    assert {name: (number.items, number.users) for name, number in content.numbers.items()} == {
        "price": ({"listing": "price"}, None),
        "area_m2": ({"listing": "area_m2"}, "area_m2"),
    }
    # Nothing is read of people that nothing is done with.
    assert "birth_year" not in (tmp_path / "mapping.toml").read_text()
    report = check(tmp_path / "mapping.toml", url)
    assert [one for one in report["findings"] if one["severity"] in {"warning", "error"}] == []


# As many libraries of JavaScript name columns, with times in milliseconds.
CAMELS = """
CREATE TABLE {q}UserAccounts{q} ({q}userId{q} INTEGER PRIMARY KEY, {q}firstName{q} VARCHAR(50),
  {q}createdAt{q} BIGINT);
CREATE TABLE {q}Products{q} ({q}productId{q} INTEGER PRIMARY KEY, {q}productTitle{q} VARCHAR(50),
  {q}isActive{q} INTEGER, {q}deletedAt{q} BIGINT, {q}createdAt{q} BIGINT, {q}lastSeenAt{q} BIGINT);
CREATE TABLE {q}ProductViews{q} ({q}userId{q} INTEGER, {q}productId{q} INTEGER,
  {q}userRating{q} INTEGER, {q}ts{q} BIGINT)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_of_several_words_without_underscores_are_understood(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    """Else what is deleted or not active was shown, and nothing had a time."""
    url: URL = request.getfixturevalue(f"{backend}_url")
    statements = CAMELS.format(q="`" if backend == "mariadb" else '"').split(";\n")
    quoted = '"{}"' if backend != "mariadb" else "`{}`"
    for n in range(1, 21):
        ms = 1_790_000_000_000 + n * 86_400_000
        statements += [
            f"INSERT INTO {quoted.format('UserAccounts')} VALUES ({n}, 'name {n}', {ms})",
            f"INSERT INTO {quoted.format('Products')} VALUES "
            f"({50 + n}, 'thing {n}', {int(n % 4 > 0)}, {ms if n % 5 == 0 else 'NULL'}, {ms}, {ms})",
            f"INSERT INTO {quoted.format('ProductViews')} VALUES ({n}, {50 + n}, {1 + n % 5}, {ms})",
        ]
    engine = create_engine(postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    done = init(url)
    assert done.exit_code == 0, done.output
    content = load_mapping(tmp_path / "mapping.toml").content
    [(_, products)] = content.items.items()
    assert (products.time, products.fields) == ("createdAt", ("productTitle",))
    [(_, views)] = content.events.items()
    assert (views.user, views.item, views.time, views.value) == ("userId", "productId", "ts", "userRating")
    assert content.users.time == "createdAt"
    report = check(tmp_path / "mapping.toml", url)
    shown = sum(n % 4 > 0 and n % 5 > 0 for n in range(1, 21))
    assert {query["section"]: query["rows"] for query in report["queries"]}["items.product"] == shown


@pytest.mark.parametrize("backend", TYPES)
def test_a_market_of_uuids_flags_enums_and_dates_is_found_out(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url: URL = request.getfixturevalue(f"{backend}_url")
    made = ["CREATE TYPE condition AS ENUM ('new', 'used', 'refurbished')"] if backend == "postgresql" else []
    made += MARKET.format(**TYPES[backend]).split(";\n")
    with create_engine(postgresql_address(url) if backend == "postgresql" else url, poolclass=NullPool).begin() as to:
        for statement in (*made, *rows_of_market()):
            to.exec_driver_sql(statement)
    done = init(url)
    assert done.exit_code == 0, done.output
    content = written(tmp_path)
    assert list(content["items"]) == ["listing"]
    assert (content["items"]["listing"]["ids"], content["items"]["listing"]["creator"]) == ("text", "seller_id")
    assert {name: event.get("time") for name, event in content["events"].items()} == {
        "message": None,
        "purchase": "purchased_at",
        "wish": "added_on",
    }
    assert content["events"]["message"]["user"] == "from_account_id"
    assert content["vocabularies"] == {
        "item_condition": {"items": {"listing": {"column": "item_condition"}}},
        "country": {"items": {"listing": {"column": "country"}}, "users": {"column": "country"}},
        "tag": {"items": {"listing": {"column": "tags", "form": "json"}}},
    }
    report = check(tmp_path / "mapping.toml", url)
    rows = {query["section"]: query["rows"] for query in report["queries"]}
    assert rows == {"users": 23, "items.listing": 21, "events.message": 24, "events.purchase": 60, "events.wish": 24}


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([], "anything: the database has no tables"),
        (["CREATE TABLE things (id INTEGER PRIMARY KEY, title TEXT)"], "which table has the people"),
        (
            ["CREATE TABLE users (id INTEGER PRIMARY KEY)", "CREATE TABLE films (id INTEGER PRIMARY KEY, title TEXT)"],
            "which tables have what may be shown: say it by --items, one of films",
        ),
    ],
)
def test_what_cannot_be_told_is_said_and_nothing_is_written(
    init: Init, sqlite_url: URL, tmp_path: Path, statements: list[str], said: str
) -> None:
    with create_engine(sqlite_url, poolclass=NullPool).begin() as connection:
        for statement in statements or ["PRAGMA user_version = 1"]:
            connection.exec_driver_sql(statement)
    done = init(sqlite_url)
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "mapping.toml").exists()


def test_tables_may_be_named_and_are_asked_for_by_their_nearest_name(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = shop(request, "sqlite")
    done = init(url, "--users", "customers", "--items", "products", "--events", "reviews")
    assert done.exit_code == 0, done.output
    assert list(written(tmp_path)["events"]) == ["review"]
    wrong = init(url, "--items", "prodcts", "--replace")
    assert wrong.exit_code == 1
    assert "there is no table prodcts: did you mean products?" in str(wrong.exception or wrong.output)


def test_the_password_is_neither_written_nor_printed(
    init: Init, mariadb_url: URL, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shop(request, "mariadb")
    with create_engine(mariadb_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE USER IF NOT EXISTS 'looks'@'%%' IDENTIFIED BY 'hidden-word'")
        connection.exec_driver_sql(f"GRANT SELECT ON `{mariadb_url.database}`.* TO 'looks'@'%%'")
    done = init(mariadb_url.set(username="looks", password="hidden-word"))
    assert done.exit_code == 0, done.output
    text = (tmp_path / "mapping.toml").read_text("utf-8")
    for secret in ("hidden-word", "looks", str(mariadb_url.host)):
        assert secret not in text + done.output


def test_a_mapping_that_is_there_is_not_written_over(
    init: Init, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = shop(request, "sqlite")
    (tmp_path / "mapping.toml").write_text("mine")
    done = init(url)
    assert done.exit_code == 1
    assert "--replace" in done.output
    assert (tmp_path / "mapping.toml").read_text() == "mine"
    printed = init(url, "--output", "-")
    assert printed.exit_code == 0
    assert tomllib.loads(printed.stdout)["items"]
    assert init(url, "--replace").exit_code == 0
