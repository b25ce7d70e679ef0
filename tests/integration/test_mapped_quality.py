"""A mapping's feeds beside popularity: the tables are cut by time, and what people took after it is looked for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from benchmarks.quality import replayed as of_example
from recommendation_service import cli
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.mapped_part import cut
from recommendation_service.evaluation.mapped_replay import (
    EVERYBODY,
    POPULARITY,
    SERVICE,
    WITH_PAST,
    WITHOUT_PAST,
    Replayed,
    replay_mapping,
)
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.policies.mapped import starting_policy
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.source import MappedSource

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MAPPING = """[users]
query = "SELECT id FROM people"
[items.song]
query = "SELECT id, made FROM songs WHERE ends IS NULL OR ends > :now"
time = "made"
[events.play]
query = "SELECT person AS user_id, song AS item_id, at FROM plays"
time = "at"
[events.like]
query = "SELECT person AS user_id, song AS item_id FROM likes"
"""
HIT, SECOND, ENDED, LATER, UNKNOWN = 1, 2, 3, 4, 99  # songs


def at(days: float) -> str:
    return (NOW + timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Eight plays before the cut, nine days ago, and four after it: by two who played before, and one who did not."""
    mapping, database = tmp_path / "mapping.toml", tmp_path / "songs.sqlite"
    mapping.write_text(MAPPING)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(
            "CREATE TABLE people (id INTEGER); CREATE TABLE songs (id INTEGER, made TEXT, ends TEXT);"
            "CREATE TABLE plays (person INTEGER, song INTEGER, at TEXT);"
            "CREATE TABLE likes (person INTEGER, song INTEGER);"
        )
        connection.executemany("INSERT INTO people VALUES (?)", [(person,) for person in range(1, 8)])
        songs = [(HIT, at(-40), None), (SECOND, at(-40), None), (ENDED, at(-40), at(-5)), (LATER, at(-8), None)]
        connection.executemany("INSERT INTO songs VALUES (?, ?, ?)", songs)
        plays = [(person, HIT, at(-30 + person)) for person in range(1, 5)]
        plays += [(5, SECOND, at(-20)), (6, SECOND, at(-20)), (6, ENDED, at(-19)), (6, UNKNOWN, at(-18))]
        plays += [(5, HIT, at(-9)), (7, SECOND, at(-1)), (7, LATER, at(-1)), (1, HIT, at(-1))]
        connection.executemany("INSERT INTO plays VALUES (?, ?, ?)", plays)
        connection.executemany("INSERT INTO likes VALUES (?, ?)", [(1, HIT), (5, HIT), (7, SECOND)])
    return load_settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{database}", mapping_file=mapping)


def source_of(settings: Settings) -> MappedSource:
    assert settings.mapping_file is not None
    return MappedSource(load_mapping(settings.mapping_file), make_engine(settings), settings)


def replayed(settings: Settings) -> Replayed:
    source = source_of(settings)
    return replay_mapping(source, settings, starting_policy(source.mapping), begin=0.67, now=NOW)


def test_the_tables_are_those_of_the_cut(settings: Settings) -> None:
    part = cut(source_of(settings), 0.67, 1.0, NOW)

    assert part.moment == NOW - timedelta(days=9)
    assert sorted(part.tables.items["song"].ids.tolist()) == [HIT, SECOND, ENDED]  # what ended since was there
    assert part.tables.events["play"].times.max() < part.moment.timestamp()
    # Of what has no time it is known that it was there where the person had taken the item.
    likes = part.tables.events["like"]
    assert list(zip(likes.users.tolist(), likes.items.tolist(), strict=True)) == [(1, HIT)]
    assert len(part.after.when) == 4


def test_figures_are_of_what_each_person_takes_anew(settings: Settings) -> None:
    found = replayed(settings)

    assert found.counts["of_unknown_items"] == 1  # the later song
    assert found.counts["taken_again"] == 1
    assert found.people == {"everybody": 2, "with a past": 1, "without a past": 1}
    # Person 5 had the second song, and takes the hit, which is first of what is left; person 7 takes the second one.
    figures = found.figures[EVERYBODY][POPULARITY]
    assert figures["hit_24"].value == 1.0
    assert figures["ndcg_10"].value == pytest.approx((1.0 + 1 / np.log2(3)) / 2)
    assert found.figures[EVERYBODY][SERVICE]["hit_24"].value == 1.0
    assert {(ratio.group, ratio.of) for ratio in found.ratios} == {
        ("with a past", "popularity"),
        ("without a past", "popularity"),
        ("with a past", "item_knn"),
    }


def test_a_part_without_anything_to_ask_for_is_told(settings: Settings) -> None:
    source = source_of(settings)
    policy = starting_policy(source.mapping)
    with pytest.raises(EvaluationError, match="nothing happened between it and the end"):
        replay_mapping(source, settings, policy, begin=0.67, end=0.7, now=NOW)
    with pytest.raises(EvaluationError, match="there is no feed nothing; the feeds are home"):
        replay_mapping(source, settings, policy, feed="nothing")


def test_the_command_prints_a_table_or_json(settings: Settings) -> None:
    arguments = ["evaluate", "replay", "--mapping", str(settings.mapping_file)]
    assert settings.database_url is not None
    arguments += ["--database", settings.database_url.get_secret_value(), "--begin", "0.67"]
    told = CliRunner().invoke(cli.app, arguments)
    assert told.exit_code == 0, told.output
    assert "the better popularity's" in told.stdout
    written = CliRunner().invoke(cli.app, [*arguments, "--json"])
    content = json.loads(written.stdout)
    assert content["figures"]["everybody"]["popularity"]["hit_24"]["value"] == 1.0


@pytest.mark.parametrize("example", ["jobs", "music", "blog"])
def test_an_examples_feeds_are_no_worse_than_popularity_for_people_with_a_past(example: str) -> None:
    """By the starting policy as it comes, on a small database of the example; docs/quality.md has larger ones."""
    found = of_example(example, 300, 0.8, 1.0)

    for ratio in found.ratios:
        if ratio.group == WITH_PAST:
            assert ratio.estimate.value >= ratio.least, ratio
    assert found.report["measured"]["people_with_past"] > 100


def test_what_was_measured_is_kept_for_longer_than_lists_and_told(settings: Settings, tmp_path: Path) -> None:
    source = source_of(settings)
    policy, kept = starting_policy(source.mapping), KeptLists(refresh_seconds=60)
    first, second = (
        build_catalog(source, settings, policy, NOW + timedelta(seconds=seconds), kept) for seconds in (0, 90)
    )

    assert first.report.measured is second.report.measured
    assert second.report.collaborative.computed_seconds_ago == 0.0
    assert first.report.as_json()["measured"]["creators"] > 1.0
    store = CatalogStore(tmp_path / "catalogs", 1)
    pipeline = FeedPipeline(Generation(store.open(store.publish(first)), policy))
    assert pipeline.catalog.measured is not None
    assert pipeline.catalog.measured["creator_window"] == 1
    assert policy.arrays.creator_window == 4
    assert pipeline._frame.policy.creator_window == 1


def test_a_copy_of_a_database_that_nobody_writes_any_more_gives_what_was_liked_on_its_last_day(
    settings: Settings,
) -> None:
    """Events without `days` count for ever, and no weight of a half-life becomes 0."""
    source, policy = source_of(settings), starting_policy(source_of(settings).mapping)

    old = build_catalog(source, settings, policy, NOW + timedelta(days=3650))

    assert old.report.counts["interactions"] == 15  # plays and likes
    popularity = old.arrays.features[:, FEATURE_NAMES.index("popularity")]
    assert int(np.argmax(popularity)) == old.arrays.item_id.tolist().index(HIT)
    assert popularity[old.arrays.item_id.tolist().index(SECOND)] > 0


def test_a_window_that_a_feed_asks_for_stays(settings: Settings) -> None:
    assert settings.mapping_file is not None
    with settings.mapping_file.open("a") as file:
        file.write('[feeds.front]\npattern = ["for_you"]\nlimits = { creator_window = 9 }\n')
    policy = starting_policy(source_of(settings).mapping)

    built = build_catalog(source_of(settings), settings, policy, NOW)

    assert built.report.measured is not None
    assert built.report.measured.creator_window is None
    assert policy.arrays.creator_window == 9


def test_a_vocabularys_weight_is_what_its_shared_terms_count(settings: Settings) -> None:
    assert settings.mapping_file is not None
    plain = settings.mapping_file.read_text()
    terms = 'items.song = { query = "SELECT id, id AS term FROM songs" }\n'

    def arrays(first: float, second: float) -> PolicyArrays:
        said = f"[vocabularies.one]\n{terms}weight = {first}\n[vocabularies.two]\n{terms}weight = {second}\n"
        assert settings.mapping_file is not None
        settings.mapping_file.write_text(plain + said)
        return starting_policy(source_of(settings).mapping).arrays

    even, uneven = arrays(1, 1), arrays(2, 0.5)

    assert (uneven.match_weight[:2] / even.match_weight[:2]).tolist() == [2.0, 0.5]
    kind = int(np.flatnonzero(even.weight_similarity)[0])
    assert uneven.weight_similarity[kind] == 2 * even.weight_similarity[kind]


def test_people_without_a_past_get_what_most_like_now(tmp_path: Path) -> None:
    """A board whose ads live for weeks and whose people come once: by the better of two popularities."""
    draw, mapping, database = np.random.default_rng(9), tmp_path / "mapping.toml", tmp_path / "ads.sqlite"
    mapping.write_text(MAPPING.split("[events.like]", maxsplit=1)[0])
    born, liked = draw.uniform(0, 120, 400), 1.0 / (1.0 + draw.permutation(400)) ** 0.9
    plays = []
    for person, day in enumerate(draw.uniform(0, 100, 1500).tolist(), 1):
        for later in range(int(draw.integers(1, 4))):
            ago = day - later / 100
            chances = np.where(born > ago, liked * np.exp(-(born - ago) / 12), 0.0)
            plays.append((person, int(draw.choice(400, p=chances / chances.sum())) + 1, at(-ago - 0.1)))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(
            "CREATE TABLE people (id INTEGER); CREATE TABLE songs (id INTEGER, made TEXT, ends TEXT);"
            "CREATE TABLE plays (person INTEGER, song INTEGER, at TEXT)"
        )
        connection.executemany("INSERT INTO people VALUES (?)", [(person + 1,) for person in range(1500)])
        songs = [(song + 1, at(-days - 0.2)) for song, days in enumerate(born.tolist())]
        connection.executemany("INSERT INTO songs VALUES (?, ?, NULL)", songs)
        connection.executemany("INSERT INTO plays VALUES (?, ?, ?)", plays)
    settings = load_settings(data_dir=tmp_path, database_url=f"sqlite:///{database}", mapping_file=mapping)
    source = source_of(settings)

    found = replay_mapping(source, settings, starting_policy(source.mapping), now=NOW)

    assert found.people[WITHOUT_PAST] > 200
    assert found.report["measured"]["half_life_days"] <= 14.0
    for ratio in found.ratios:
        if ratio.group == WITHOUT_PAST:
            assert ratio.estimate.value >= ratio.least, ratio
