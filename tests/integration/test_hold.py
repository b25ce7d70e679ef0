"""A catalog that would lose most of its items at once is held back; what was withdrawn leaves all the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.hold import Holder, read_held
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from tests.support.slates import request_for
from tests.unit.sources.operator_database import NOW, POLICY, OperatorDatabase, ago

VIDEOS, CHALLENGES = 40, 30


class Operator:
    """Its tables, and the catalogs that are published from them."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.database = OperatorDatabase(url, folder)
        self.blacklist = folder / "blacklist.txt"
        self.blacklist.write_text("")
        self.up = 0.0
        self.store = CatalogStore(folder / "catalogs", keep=3)
        self.clock = Clock(folder, 300, boot=lambda: self.up)
        creators = [self.database.add("users") for _ in range(5)]
        for number in range(VIDEOS):
            self.database.add(
                "resumes", user_id=creators[number % 5], video=f"v{number}.mp4", created_at=ago(days=number)
            )
        for number in range(CHALLENGES):
            self.database.add("challenges", user_id=creators[number % 5], video=f"c{number}.mp4")

    @property
    def settings(self) -> Settings:
        return self.database.settings(blacklist_file=self.blacklist, catalog_hold_seconds=3600)

    def publish(self, days_ahead: float = 0, *, force: bool = False) -> tuple[list[int], int]:
        """Builds so many days later, and gives the videos that are served then, and how many challenges."""
        source = self.database.source()
        built = build_catalog(source, self.settings, POLICY, NOW + timedelta(days=days_ahead))
        holder = Holder(self.settings, source, self.store, self.clock)
        version = holder.publish(built, POLICY, force=force)
        assert self.store.verify(version) == []
        assert self.store.current() == version
        catalog = self.store.open(version)
        pipeline = FeedPipeline(Generation(catalog, POLICY))
        for endpoint in ("total", "discover", "flow"):
            assert pipeline.feed(request_for(1, endpoint, 100)), "it can be served"
        videos = catalog.arrays.item_id[: catalog.arrays.worded].tolist()
        assert catalog.counts["videos"] == len(videos)
        return videos, catalog.counts["challenges"]

    def run(self, *statements: str) -> None:
        with self.database.writer.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    @property
    def reason(self) -> str | None:
        held = read_held(self.store.folder)
        return held.reason if held is not None else None


@pytest.fixture(params=["sqlite", "mariadb"])
def operator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Operator]:
    made = Operator(request.getfixturevalue(f"{request.param}_url"), tmp_path)
    yield made
    made.database.writer.dispose()


ALL = list(range(1, VIDEOS + 1))


@pytest.mark.parametrize("days", [400, -60, -450], ids=lambda days: f"clock {days:+} days")
def test_a_clock_that_is_wrong_empties_no_catalog_and_what_is_withdrawn_leaves_at_once(
    operator: Operator, days: float
) -> None:
    assert operator.publish() == (ALL, CHALLENGES)
    assert operator.publish(days) == (ALL, CHALLENGES)
    assert "days" not in str(operator.reason)
    assert "WINDOW_DAYS" in str(operator.reason)
    operator.run("UPDATE resumes SET deleted_at = '2026-11-24 11:00:00' WHERE id = 1")
    operator.run("UPDATE resumes SET status = 'draft' WHERE id = 2", "DELETE FROM resumes WHERE id = 3")
    operator.blacklist.write_text("v3.mp4\n")
    assert operator.publish(days) == (ALL[4:], CHALLENGES)
    assert operator.publish(days) == (ALL[4:], CHALLENGES), "the one of before is compared with"
    assert operator.publish() == (ALL[4:], CHALLENGES)
    assert operator.reason is None


def test_a_table_that_was_emptied_is_held_back_and_published_after_a_time(operator: Operator) -> None:
    operator.publish()
    operator.run("DELETE FROM resumes")
    operator.blacklist.write_text("v9.mp4\n")
    assert operator.publish()[0] == [video for video in ALL if video != 10], "blacklisted, though its row is gone"
    assert "no longer in the tables" in str(operator.reason)
    operator.up += 3600
    videos, _ = operator.publish()
    assert (videos, operator.reason) == ([], None)


def test_an_administrator_may_publish_it_at_once(operator: Operator) -> None:
    operator.publish()
    operator.run("DELETE FROM resumes")
    operator.publish()
    assert operator.reason is not None
    assert operator.publish(force=True)[0] == []
    assert operator.reason is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE resumes SET deleted_at = '2026-11-24 11:00:00'",
        "UPDATE resumes SET status = 'draft'",
        "UPDATE users SET deleted_at = '2026-11-24 11:00:00'",
    ],
)
def test_what_is_withdrawn_leaves_at_once_however_much_it_is(operator: Operator, statement: str) -> None:
    operator.publish()
    operator.run(statement)
    assert operator.publish()[0] == []
    assert operator.reason is None


def test_what_is_blacklisted_leaves_at_once_however_much_it_is(operator: Operator) -> None:
    operator.publish()
    operator.blacklist.write_text("".join(f"v{number}.mp4\n" for number in range(VIDEOS)))
    assert operator.publish() == ([], CHALLENGES)


def test_a_catalog_of_nothing_takes_no_place_of_one_of_something_after_a_time_or_by_force_either(
    operator: Operator,
) -> None:
    operator.publish()
    operator.run("DELETE FROM users")
    operator.blacklist.write_text("v9.mp4\n")
    kept = [video for video in ALL if video != 10], CHALLENGES
    assert operator.publish() == kept, "blacklisted, though its creator is gone"
    operator.up += 3600
    assert operator.publish() == kept
    assert operator.publish(force=True) == kept
    assert "no longer in the tables" in str(operator.reason)


def test_the_few_items_of_a_small_catalog_do_not_all_go_at_once(operator: Operator) -> None:
    operator.run("DELETE FROM challenges", "DELETE FROM resumes WHERE id > 3")
    operator.publish()
    operator.run("DELETE FROM resumes")
    assert operator.publish() == (ALL[:3], 0)


def test_a_first_catalog_of_nothing_is_an_error_with_the_reason(operator: Operator) -> None:
    with pytest.raises(CatalogError, match=r"nothing to show.*within VIDEOS_WINDOW_DAYS"):
        operator.publish(400)
    assert operator.store.versions() == []


def test_a_few_rows_may_be_deleted(operator: Operator) -> None:
    operator.publish()
    operator.run("DELETE FROM resumes WHERE id <= 15")
    assert operator.publish() == (ALL[15:], CHALLENGES)


def test_a_boot_of_the_machine_begins_the_time_anew(operator: Operator) -> None:
    operator.publish()
    operator.run("DELETE FROM resumes")
    operator.publish()
    operator.up += 3600
    operator.clock.boot_id = "another boot"
    assert operator.publish()[0] == ALL


def test_the_time_begins_when_it_is_held_back_first(operator: Operator) -> None:
    operator.publish()
    operator.run("DELETE FROM resumes")
    operator.publish()
    operator.up += 3599
    assert operator.publish()[0] == ALL
    held = read_held(operator.store.folder)
    assert held is not None
    assert held.since == 0.0
