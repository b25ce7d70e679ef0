"""Under a mapping, too, a catalog that would lose most of its items at once is held back; what was withdrawn leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.filter_columns import value_number
from recommendation_service.catalog.hold import Holder, read_held
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import SourceError
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ADS, NOTES = 40, 30

SCHEMA = """
CREATE TABLE people (id INT);
CREATE TABLE companies (id INT, name VARCHAR(50));
CREATE TABLE ads (slug VARCHAR(50), title VARCHAR(50), town VARCHAR(20), company INT, posted VARCHAR(20),
  closes VARCHAR(20), state VARCHAR(10));
CREATE TABLE notes (id INT, headline VARCHAR(50), written VARCHAR(20));
CREATE TABLE sent (person INT, ad VARCHAR(50), at VARCHAR(20));
INSERT INTO people VALUES (1), (2);
INSERT INTO companies VALUES (1, 'One (where)'), (2, 'Two')
"""

MAPPING = """
[users]
query = "SELECT id FROM people"

[items.ad]
ids = "text"
query = \"\"\"
SELECT a.slug, a.title, a.town, a.posted, c.name AS firm  -- 'from' and where
FROM ads a JOIN companies c ON c.id = a.company AND c.name <> ' where '
WHERE a.state = 'open' AND (a.closes IS NULL OR a.closes >= :now)
ORDER BY a.slug
\"\"\"
id = "slug"
time = "posted"
fields = ["title", "firm"]

[items.note]
query = "SELECT id, headline, written FROM notes"
time = "written"
lives_days = 100

[events.apply]
query = "SELECT person AS user_id, ad AS item_id, at FROM sent"
type = "ad"
time = "at"

[filters.town]
rule = "equal"
column = "town"
types = ["ad"]
"""

ALL = [f"ad-{number:02}-ñ" for number in range(ADS)]


class Team:
    """Its tables, and the catalogs that are published from them."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.url = url
        self.mapping = folder / "mapping.toml"
        self.mapping.write_text(MAPPING)
        address = url.render_as_string(hide_password=False)
        self.settings = Settings(
            data_dir=folder / "data", database_url=address, mapping_file=self.mapping, catalog_hold_seconds=3600
        )
        self.up = 0.0
        self.store = CatalogStore(self.settings.catalog_dir, keep=3)
        self.clock = Clock(folder, 300, boot=lambda: self.up)
        ads = [
            f"('{slug}', 'Ad', '{('Lima', 'Cusco')[number % 2]}', {1 + number % 2}, '2026-11-0{1 + number % 9}', "
            f"{'NULL' if number % 4 else repr('2027-01-15 00:00:00')}, 'open')"
            for number, slug in enumerate(ALL)
        ]
        notes = [f"({number}, 'Note', '2026-11-{1 + number % 20:02}')" for number in range(1, NOTES + 1)]
        self.run(
            *SCHEMA.split(";\n"),
            f"INSERT INTO ads VALUES {', '.join(ads)}",
            f"INSERT INTO notes VALUES {', '.join(notes)}",
            "INSERT INTO sent VALUES (1, 'ad-05-ñ', '2026-11-20'), (1, 'ad-06-ñ', '2026-11-21'), (2, 'ad-05-ñ', NULL)",
        )

    def run(self, *statements: str) -> None:
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("%", "%%"))
        engine.dispose()

    def publish(self, days_ahead: float = 0, *, force: bool = False) -> tuple[list[str], int]:
        """Builds so many days later, and gives the ads that are served then, and how many notes."""
        engine, policy = make_engine(self.settings), PolicyChoice(self.settings).policy
        try:
            source = open_source(self.settings, engine)
            built = build_catalog(source, self.settings, policy, NOW + timedelta(days=days_ahead))
            version = Holder(self.settings, source, self.store, self.clock).publish(built, policy, force=force)
        finally:
            engine.dispose()
        assert self.store.verify(version) == []
        assert self.store.current() == version
        return self.served(self.store.open(version))

    def served(self, catalog: Catalog) -> tuple[list[str], int]:
        """As feeds have them, by their filters, too."""
        pipeline = FeedPipeline(Generation(catalog, PolicyChoice(self.settings).policy))
        start, end = catalog.rows_of_type["ad"]
        ads = sorted(str(catalog.id_of(row)) for row in range(start, end))
        for user in (0, 1):
            slate = pipeline.rank(FeedRequest("home", user, 100, "ab" * 16, by_name=True))
            shown = {catalog.id_of(row) for row in slate.items.tolist()}
            assert shown <= {*ads, *range(100)}
            assert pipeline.render(slate)
        asked = (("town", (value_number("Cusco"),)),)
        slate = pipeline.rank(FeedRequest("home", 0, 100, "cd" * 16, filters=asked, by_name=True))
        shown = {catalog.id_of(row) for row in slate.items.tolist() if start <= row < end}
        assert shown == {slug for slug in ads if ALL.index(slug) % 2}
        counts = catalog.counts
        assert (counts["items.ad"], counts["items"]) == (len(ads), len(catalog.arrays.item_id))
        return ads, counts["items.note"]

    @property
    def reason(self) -> str:
        held = read_held(self.store.folder)
        return held.reason if held is not None else ""


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Team:
    return Team(request.getfixturevalue(f"{request.param}_url"), tmp_path)


@pytest.fixture
def small(sqlite_url: URL, tmp_path: Path) -> Team:
    return Team(sqlite_url, tmp_path)


def test_a_clock_that_is_wrong_empties_no_catalog_and_what_is_withdrawn_leaves_at_once(team: Team) -> None:
    assert team.publish() == (ALL, NOTES)
    open_ended = [slug for number, slug in enumerate(ALL) if number % 4]
    assert team.publish(400) == (open_ended, NOTES), "fewer of the ads than are held back"
    assert team.reason == (
        "it would have 0 items.note and not 30: 30 are over by the clock alone (lives_days, :since or :now)"
    )
    team.run("UPDATE ads SET state = 'closed' WHERE slug = 'ad-01-ñ'", "DELETE FROM ads WHERE slug = 'ad-00-ñ'")
    team.run("DELETE FROM notes WHERE id = 3")
    assert team.publish(400) == (open_ended[1:], NOTES - 1)
    assert team.publish() == (ALL[2:], NOTES - 1)
    assert team.reason == ""


@pytest.mark.parametrize("table", ["ads", "companies"])
def test_a_table_that_was_emptied_is_held_back_and_published_after_a_time(team: Team, table: str) -> None:
    team.publish()
    team.run(f"DELETE FROM {table}", "INSERT INTO notes VALUES (99, 'Later', '2026-11-24')")
    assert team.publish() == (ALL, NOTES)
    assert team.reason == ("it would have 0 items.ad and not 40: 40 are no longer in the tables that its query reads")
    team.up += 3599
    assert team.publish() == (ALL, NOTES)
    team.up += 1
    assert team.publish() == ([], NOTES + 1)
    assert team.reason == ""


def test_what_is_withdrawn_leaves_at_once_however_much_it_is(team: Team) -> None:
    team.publish()
    team.run("UPDATE ads SET state = 'closed' WHERE slug <> 'ad-07-ñ'")
    assert team.publish() == (["ad-07-ñ"], NOTES)
    assert team.reason == ""


def test_a_catalog_of_nothing_is_an_error_and_takes_no_place_of_one_of_something(small: Team) -> None:
    small.publish()
    current = small.store.current()
    small.run("DELETE FROM ads", "DELETE FROM notes")
    for force in (False, True):
        with pytest.raises(SourceError, match=r"there is nothing to show: items\.ad gave no rows"):
            small.publish(force=force)
    assert small.store.current() == current


def test_an_administrator_may_publish_it_at_once_and_a_boot_begins_the_time_anew(small: Team) -> None:
    small.publish()
    small.run("DELETE FROM ads")
    small.publish()
    small.up += 3600
    small.clock.boot_id = "another boot"
    assert small.publish() == (ALL, NOTES)
    assert small.publish(force=True) == ([], NOTES)


def test_another_mapping_means_other_items(small: Team) -> None:
    small.publish()
    small.mapping.write_text(MAPPING.replace("a.state = 'open'", "a.state = 'open' AND a.company = 1"))
    assert small.publish() == (ALL[::2], NOTES)
    assert small.reason == ""


def test_the_running_service_says_why_it_holds_back_and_takes_what_is_deleted_out(small: Team, tmp_path: Path) -> None:
    small.publish()
    small.run("DELETE FROM ads WHERE slug <> 'ad-00-ñ'", "DELETE FROM notes WHERE id <= 2")
    assert small.publish() == (ALL, NOTES - 2)
    options = {"database_url": str(small.url), "mapping_file": small.mapping, "seen_megabytes": 16}
    with served(make_app(tmp_path / "data", **options, event_flusher=False)) as client:

        def ready() -> httpx.Response:
            return client.get("/ready")

        assert wait_until(lambda: ready().status_code == 200, PATIENCE_SECONDS), ready().text
        assert "no longer in the tables" in str(ready().json()["problems"])
        assert "recs_catalog_held 1.0" in client.get("/metrics").text
        ids = client.post("/api/feeds/home", json={"size": 100}).json()["ids"]
    assert {1, 2}.isdisjoint(ids)
    assert "ad-39-ñ" in ids
